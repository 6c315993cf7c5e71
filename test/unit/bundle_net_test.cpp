#include <catch2/catch_test_macros.hpp>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/basic_socket_acceptor.hpp>
#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/socket_base.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/system/error_code.hpp>
#include <tl/expected.hpp>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "memory_link.hpp"

import shoal.base;
import shoal.bundle;
import shoal.net;
import shoal.wire;
import shoal.world;

using namespace shoal;
using namespace shoal::test;
using namespace std::chrono_literals;

namespace asio = boost::asio;

namespace {

constexpr std::uint32_t kPiece = 16 * 1024;
constexpr std::uint32_t kBatches = 400;  // of two pieces

/// The pattern in a file, as real links want to send it.
class FileSource final : public ChunkSource {
 public:
  FileSource() : file_(std::tmpfile(), &std::fclose) {
    std::vector<std::byte> bytes(2 * kBatches * std::size_t{kPiece});
    REQUIRE(pattern_.read(0, bytes));
    REQUIRE(std::fwrite(bytes.data(), 1, bytes.size(), file_.get()) == bytes.size());
    REQUIRE(std::fflush(file_.get()) == 0);
  }
  std::uint64_t size() const override { return pattern_.size(); }
  Result<> read(std::uint64_t offset, std::span<std::byte> out) const override { return pattern_.read(offset, out); }
  Result<> check() const override { return {}; }
  int descriptor() const override { return ::fileno(file_.get()); }

 private:
  PatternSource pattern_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
};

struct Ends {
  std::shared_ptr<Link> near;
  std::shared_ptr<Link> far;
};

/// A connection whose ends have strands of their own, unless it is given one for the near end.
Task<Ends> connect_ends(World& world, Listener& listener, std::optional<Executor> near_strand) {
  Ends ends;
  ends.near = co_await step(world.connect(listener.local(), near_strand ? *near_strand : make_strand(world), 10s));
  ends.far = co_await step(listener.accept(make_strand(world)));
  ends.near->established();
  ends.far->established();
  co_return ends;
}

using Socket = asio::basic_stream_socket<asio::ip::tcp, Executor>;
using SocketPtr = std::shared_ptr<Socket>;
constexpr asio::as_tuple_t<asio::use_awaitable_t<Executor>> kAsTuple{};

Task<> hand_on(SocketPtr from, SocketPtr to) {
  std::array<std::byte, 4096> bytes{};
  for (;;) {
    const auto [error, n] = co_await from->async_read_some(asio::buffer(bytes), kAsTuple);
    if (error) co_return;
    const auto [not_written, written] = co_await asio::async_write(*to, asio::buffer(bytes.data(), n), kAsTuple);
    if (not_written) co_return;
  }
}

/// In the middle of a connection, which it can reset for both sides; what it has in hand is lost then. On a strand of its own.
struct Relay {
  SocketPtr near;
  SocketPtr far;

  void reset() const {
    for (const SocketPtr& socket : {near, far}) {
      boost::system::error_code ignored;
      socket->set_option(asio::socket_base::linger(true, 0), ignored);
      socket->close(ignored);
    }
  }
};

Task<Relay> connect_by_relay(World& world, Listener& listener, TaskGroup& tasks, Ends& ends) {
  const Executor strand = make_strand(world);
  asio::basic_socket_acceptor<asio::ip::tcp, Executor> acceptor(strand, {asio::ip::make_address("127.0.0.1"), 0});
  Relay relay;
  ends.near = co_await step(world.connect({"127.0.0.1", acceptor.local_endpoint().port()}, make_strand(world), 10s));
  relay.near = std::make_shared<Socket>(acceptor.accept());
  relay.far = std::make_shared<Socket>(strand);
  relay.far->connect({asio::ip::make_address("127.0.0.1"), listener.local().port});
  ends.far = co_await step(listener.accept(make_strand(world)));
  ends.near->established();
  ends.far->established();
  tasks.spawn(strand, "there", hand_on(relay.near, relay.far));
  tasks.spawn(strand, "back", hand_on(relay.far, relay.near));
  co_return relay;
}

/// Whether all that is sent comes, right; each in its turn closes a connection meanwhile.
Task<> receive_all_of(std::shared_ptr<Bundle> bundle, std::uint32_t& right) {
  std::vector<std::byte> bytes(kPiece);
  while (right < 2 * kBatches) {
    const Incoming incoming = co_await step(bundle->receive(10s));
    const auto* header = std::get_if<ChunkHeader>(&incoming);
    if (!header) continue;
    co_await step(bundle->receive_payload(std::span(bytes).first(header->length)));
    const std::uint64_t offset = std::uint64_t{header->chunk} * kPiece;
    if (bytes.front() != PatternSource::at(offset) || bytes.back() != PatternSource::at(offset + kPiece - 1)) co_return;
    ++right;
    if (right == kBatches) bundle->remove_one();
  }
  bundle->close();
}

/// Two are reset on the way, at once.
Task<> send_all_over(std::shared_ptr<Bundle> bundle, std::vector<Relay> relays) {
  const auto source = std::make_shared<FileSource>();
  for (std::uint32_t batch = 0; batch < kBatches; ++batch) {
    std::vector<OutgoingChunk> chunks;
    for (std::uint32_t chunk = 2 * batch; chunk < 2 * batch + 2; ++chunk)
      chunks.push_back({{1, chunk, 0, kPiece}, source, std::uint64_t{chunk} * kPiece});
    if (!co_await bundle->send_chunks(std::move(chunks))) co_return;
    if (batch % 10 == 0 && !co_await send(*bundle, Ping{batch})) co_return;
    if (batch == kBatches / 4) bundle->remove_one();
    if (batch != kBatches / 2) continue;
    for (const Relay& relay : relays) co_await run_on(relay.near->get_executor(), [&] { relay.reset(); });
  }
}

Task<> over_real_connections(World& world, std::uint32_t& right) {
  const Executor strand = co_await boost::asio::this_coro::executor;
  const auto listener = unwrap(world.listen({"127.0.0.1", 0}));
  TaskGroup tasks([](const std::string&, const Error&) {});
  const Ends first = co_await connect_ends(world, *listener, strand);
  const auto near = std::make_shared<Bundle>(first.near);
  const auto far = std::make_shared<Bundle>(first.far);
  near->begin(world, tasks, 10s);
  co_await run_on(far->executor(), [&] { far->begin(world, tasks, 10s); });
  std::vector<Relay> relays;
  for (std::uint32_t number = 1; number <= 6; ++number) {
    const bool is_relayed = number <= 2;
    Ends more;
    if (is_relayed)
      relays.push_back(co_await connect_by_relay(world, *listener, tasks, more));
    else
      more = co_await connect_ends(world, *listener, std::nullopt);
    unwrap(near->add(number, more.near, nullptr));
    unwrap(co_await call_on(far->executor(), [&] { return far->add(number, more.far, nullptr); }));
  }
  tasks.spawn(far->executor(), "receiving", receive_all_of(far, right));
  tasks.spawn(strand, "sending", send_all_over(near, std::move(relays)));
  const Instant end = world.now() + 30s;
  while (tasks.running() > 0 && world.now() < end) {
    co_await world.sleep(1ms);
    if (co_await call_on(far->executor(), [&] { return right == 2 * kBatches; })) tasks.cancel();
  }
  near->close();
  co_await run_on(far->executor(), [&] { far->close(); });
  tasks.cancel();
  co_await tasks.join();
}

}  // namespace

TEST_CASE("Over real connections, on several threads, all comes once and right though some are closed and others reset on the way") {
  NetOptions options;
  options.io_threads = 4;
  for (int round = 0; round < 5; ++round) {
    const auto world = make_net_world(options);
    std::uint32_t right = 0;
    world->run(over_real_connections(*world, right));
    CHECK(right == 2 * kBatches);
  }
}
