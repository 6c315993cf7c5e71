// A question to the tracker whose holders answer late, and that is cancelled meanwhile.
#include <catch2/catch_test_macros.hpp>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/cancellation_type.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/system/system_error.hpp>
#include <tl/expected.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

import shoal.base;
import shoal.digest;
import shoal.manifest;
import shoal.peer;
import shoal.wire;
import shoal.world;

using namespace shoal;
namespace asio = boost::asio;

namespace {

/// Says what it was given to say, one message after the other.
class ScriptedLink final : public Link {
 public:
  ScriptedLink(Executor executor, std::deque<Incoming> script) : executor_(std::move(executor)), script_(std::move(script)) {}

  Task<Result<Incoming>> receive(Nanoseconds) override {
    if (script_.empty()) co_return fail(Errc::closed, "nothing more to say");
    Incoming next = std::move(script_.front());
    script_.pop_front();
    co_return next;
  }
  Task<Result<>> receive_payload(std::span<std::byte>) override { co_return fail(Errc::closed, "no payload"); }
  Task<Result<>> send(std::vector<Message>) override { co_return Result<>{}; }
  Result<bool> send_now(std::span<const Message>) override { return true; }
  Task<Result<>> send_chunk(ChunkHeader, std::shared_ptr<const ChunkSource>, std::uint64_t) override { co_return Result<>{}; }
  void established() override {}
  void close() override {}
  Endpoint remote() const override { return {}; }
  Endpoint local() const override { return {}; }
  Executor executor() const override { return executor_; }

 private:
  Executor executor_;
  std::deque<Incoming> script_;
};

/// A tracker that knows holders, none of which answers; whoever waits for one ends late when it is cancelled.
class LateWorld final : public World {
 public:
  explicit LateWorld(std::deque<Incoming> script) : script_(std::move(script)) {}

  Executor executor() override { return io_.get_executor(); }
  bool is_sequential() const override { return true; }
  Executor workers() override { return io_.get_executor(); }
  Instant now() const override { return Instant{}; }
  std::int64_t wall_clock_ns() const override { return 0; }
  std::uint64_t random() override { return 4; }
  Task<> sleep(Nanoseconds) override {
    co_await run_on(executor(), [] {});
  }
  Result<std::unique_ptr<Listener>> listen(const Endpoint&) override { return fail(Errc::unsupported, "no listening here"); }
  Task<Result<std::unique_ptr<Link>>> connect(Endpoint to, Executor strand, Nanoseconds) override {
    if (to == PeerOptions{}.tracker) co_return std::make_unique<ScriptedLink>(strand, script_);
    ++asked;
    Signal never;
    try {
      co_await never.wait();
    } catch (const boost::system::system_error&) {
    }
    co_await asio::this_coro::throw_if_cancelled(false);
    for (int step = 0; step < 5; ++step) co_await run_on(executor(), [] {});
    ++ended;
    co_return fail(Errc::timed_out, "nobody there");
  }

  void advance() {
    io_.restart();
    io_.poll();
  }

  int asked = 0;
  int ended = 0;

 private:
  std::deque<Incoming> script_;
  asio::io_context io_;
};

std::deque<Incoming> known_holders(std::uint32_t count) {
  FileEntry entry;
  entry.name = "x";
  entry.size = 1000;
  entry.root.bytes.fill(1);
  Located located;
  located.query = 1;
  located.entries.push_back({entry, {}});
  for (std::uint32_t i = 0; i < count; ++i)
    located.entries.front().holders.push_back(
        {PeerId(i), "holder" + std::to_string(i), "127.0.0.1", static_cast<std::uint16_t>(1000 + i), 0});
  return {Message(Welcome{}), Message(located)};
}

}  // namespace

TEST_CASE("A question that is cancelled while its holders are measured ends after the last of those who ask them") {
  LateWorld world(known_holders(50));
  asio::cancellation_signal cancel;
  int ended_at_the_end = -1;
  asio::co_spawn(world.executor(), locate_files(world, {}, "x"),
                 asio::bind_cancellation_slot(cancel.slot(),
                                              [&](std::exception_ptr, const Result<LocateAnswer>&) { ended_at_the_end = world.ended; }));
  world.advance();
  REQUIRE(world.asked == 50);
  cancel.emit(asio::cancellation_type::terminal);
  world.advance();
  CHECK(ended_at_the_end == 50);
}
