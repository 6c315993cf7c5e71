#include <catch2/catch_test_macros.hpp>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/this_coro.hpp>
#include <tl/expected.hpp>

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <variant>
#include <vector>

import shoal.base;
import shoal.net;
import shoal.wire;
import shoal.world;

using namespace shoal;
using namespace std::chrono_literals;
namespace asio = boost::asio;

namespace {

constexpr Nanoseconds kPatience = 20s;  ///< Far more than anything here takes.

std::unique_ptr<NetWorld> make_world(std::uint64_t upload_limit = 0) {
  NetOptions options;
  options.io_threads = 2;
  options.worker_threads = 1;
  options.upload_limit = upload_limit;
  return make_net_world(options);
}

/// Undoes what std::mt19937_64 does to a word of its state before it gives it out.
std::uint64_t untempered(std::uint64_t word) {
  word ^= word >> 43;
  word ^= word << 37 & 0xFFF7EEE000000000U;
  std::uint64_t state = word;
  for (int i = 0; i < 4; ++i) state = word ^ (state << 17 & 0x71D67FFFEDA60000U);
  word = state;
  for (int i = 0; i < 3; ++i) state = word ^ (state >> 29 & 0x5555555555555555U);
  return state;
}

struct Pair {
  std::unique_ptr<Link> near;
  std::unique_ptr<Link> far;
};

/// Both ends of a connection. `near` is of the calling strand; `far` of the same, as one coroutine drives both.
Task<Pair> make_pair(World& world, std::string host = "127.0.0.1") {
  const Executor strand = co_await asio::this_coro::executor;
  const auto listener = unwrap(world.listen({host, 0}));
  Pair pair;
  pair.near = co_await step(world.connect(listener->local(), strand, kPatience));
  pair.far = co_await step(listener->accept(strand));
  pair.near->established();
  pair.far->established();
  co_return pair;
}

/// A plain socket at the other end of a link, for what no link would do.
class RawClient {
 public:
  explicit RawClient(const Endpoint& to) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(to.port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) std::abort();
  }
  ~RawClient() { close(); }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  void send(std::span<const std::byte> data) {
    if (::send(socket_, data.data(), data.size(), 0) != static_cast<ssize_t>(data.size())) std::abort();
  }
  void close() {
    if (socket_ >= 0) ::close(socket_);
    socket_ = -1;
  }
  void reset() {
    const linger at_once{1, 0};
    ::setsockopt(socket_, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close();
  }

 private:
  int socket_;
};

/// A file that is removed at once, with bytes that tell where they are.
class ServedFile final : public ChunkSource {
 public:
  explicit ServedFile(std::uint64_t size) : size_(size) {
    std::string path = "/tmp/shoal-net-test-XXXXXX";
    fd_ = ::mkstemp(path.data());
    if (fd_ < 0) std::abort();
    ::unlink(path.c_str());
    const auto bytes = content(0, size);
    if (::pwrite(fd_, bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) std::abort();
  }
  ~ServedFile() override { ::close(fd_); }
  ServedFile(const ServedFile&) = delete;
  ServedFile& operator=(const ServedFile&) = delete;

  static std::vector<std::byte> content(std::uint64_t from, std::uint64_t length) {
    std::vector<std::byte> bytes(length);
    for (std::uint64_t i = 0; i < length; ++i) bytes[i] = static_cast<std::byte>((from + i) * 2654435761U >> 13);
    return bytes;
  }
  void shrink(std::uint64_t size) const {
    if (::ftruncate(fd_, static_cast<off_t>(size)) != 0) std::abort();
  }
  void tell_that_it_changed() { is_changed_ = true; }

  std::uint64_t size() const override { return size_; }
  Result<> read(std::uint64_t offset, std::span<std::byte> out) const override {
    const auto n = ::pread(fd_, out.data(), out.size(), static_cast<off_t>(offset));
    if (n != static_cast<ssize_t>(out.size())) return fail(Errc::changed, "the file is too short");
    return {};
  }
  Result<> check() const override {
    if (is_changed_) return fail(Errc::changed, "the file is another");
    return {};
  }
  int descriptor() const override { return fd_; }

 private:
  int fd_ = -1;
  std::uint64_t size_;
  bool is_changed_ = false;
};

template <class T>
bool has_failed_with(const Result<T>& result, Errc code) {
  return !result && result.error().code == make_error_code(code);
}

/// Starts `task` beside the calling coroutine, on its strand; what it comes to is waited for with `co_await result()`.
template <class T>
class Beside {
 public:
  Beside(const Executor& strand, Task<T> task) { asio::co_spawn(strand, run(state_, std::move(task)), asio::detached); }
  Task<T> result() {
    while (!state_->value) co_await state_->done.wait();
    co_return std::move(*state_->value);
  }

 private:
  struct State {
    std::optional<T> value;
    Signal done;
  };
  static Task<> run(std::shared_ptr<State> state, Task<T> task) {
    state->value = co_await std::move(task);
    state->done.notify();
  }
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

}  // namespace

// ---- messages -----------------------------------------------------------------------------------------

namespace {

/// Messages of all sizes up to the limit, and the largest that fits.
std::vector<Message> messages_of_all_sizes() {
  const std::size_t empty = encoded_size(Find{});
  std::vector<Message> messages;
  for (std::size_t size = 0; size + empty < kControlLimit; size = size * 3 / 2 + 7) messages.emplace_back(Find{0, std::string(size, 'x')});
  messages.emplace_back(Find{0, std::string(kControlLimit - empty, 'x')});
  for (std::size_t i = 0; i < messages.size(); ++i) std::get<Find>(messages[i]).query = static_cast<std::uint32_t>(i);
  return messages;
}

Task<> exchange_messages(World& world, std::string host, int rounds, int& arrived) {
  const Executor strand = co_await asio::this_coro::executor;
  Pair pair = co_await make_pair(world, host);
  const auto messages = messages_of_all_sizes();
  for (int round = 0; round < rounds; ++round) {
    Beside<Result<>> sending(strand, pair.near->send(messages));
    for (std::size_t i = 0; i < messages.size(); ++i) {
      const auto found = co_await step(receive<Find>(*pair.far, kPatience));
      const auto& wanted = std::get<Find>(messages[i]);
      if (found.query == wanted.query && found.pattern == wanted.pattern) ++arrived;
    }
    unwrap(co_await sending.result());
  }
}

}  // namespace

TEST_CASE("Messages of all sizes arrive whole and in order") {
  const auto world = make_world();
  int arrived = 0;
  world->run(exchange_messages(*world, "127.0.0.1", 5, arrived));
  CHECK(arrived == 5 * static_cast<int>(messages_of_all_sizes().size()));
}

TEST_CASE("Messages arrive over IPv6") {
  const auto world = make_world();
  if (!world->listen({"::1", 0})) SKIP("this machine has no IPv6");
  int arrived = 0;
  world->run(exchange_messages(*world, "::1", 1, arrived));
  CHECK(arrived == static_cast<int>(messages_of_all_sizes().size()));
}

namespace {

Task<> send_too_large(World& world, std::error_code& sent, bool& lives) {
  Pair pair = co_await make_pair(world);
  const auto result = co_await send(*pair.near, Find{1, std::string(kControlLimit, 'x')});
  sent = result ? std::error_code{} : result.error().code;
  unwrap(co_await send(*pair.near, Find{2, {}}));
  lives = (co_await step(receive<Find>(*pair.far, kPatience))).query == 2;
}

Task<> look_at_remote(World& world, bool& is_right) {
  const Executor strand = co_await asio::this_coro::executor;
  const auto listener = unwrap(world.listen({"127.0.0.1", 0}));
  const auto near = co_await step(world.connect(listener->local(), strand, kPatience));
  const auto far = co_await step(listener->accept(strand));
  // Where the system tells how far it is at all.
  const bool is_near = near->round_trip().value_or(1us) < 5ms && far->round_trip().value_or(1us) < 5ms;
  is_right = is_near && near->remote() == listener->local() && far->remote().host == "127.0.0.1" && near->executor() == strand;
}

}  // namespace

TEST_CASE("A message over the limit is refused by its sender, and the connection lives on") {
  const auto world = make_world();
  std::error_code sent;
  bool lives = false;
  world->run(send_too_large(*world, sent, lives));
  CHECK(sent == make_error_code(Errc::too_large));
  CHECK(lives);
}

TEST_CASE("A link knows who is at its other end, and how far that is") {
  const auto world = make_world();
  bool is_right = false;
  world->run(look_at_remote(*world, is_right));
  CHECK(is_right);
}

TEST_CASE("A congestion control that the system does not have is a mistake of usage, in words") {
  for (const char* name : {"auto", "system", "reno"}) CHECK(check_congestion(name));
#ifdef __linux__
  for (const char* name : {"nonsense", "", "a name that is far longer than the name of a congestion control can be"}) {
    const auto checked = check_congestion(name);
    if (checked) SKIP("these are the portable twins, which have nothing to choose");
    CHECK(exit_code_of(checked.error()) == ExitCode::usage);
    CHECK(checked.error().message().find("is no congestion control that this system lets us use") != std::string::npos);
  }
#endif
}

TEST_CASE("Data moves under any congestion control that may be chosen") {
  for (const char* name : {"auto", "system", "reno"}) {
    NetOptions options;
    options.congestion = name;
    const auto world = make_net_world(options);
    int arrived = 0;
    world->run(exchange_messages(*world, "127.0.0.1", 1, arrived));
    CHECK(arrived == static_cast<int>(messages_of_all_sizes().size()));
  }
}

TEST_CASE("No random word can be told from those before it") {
  // As it could be where they are those of a Mersenne Twister: its state is 312 words, of which each is one output, undone.
  constexpr std::size_t kState = std::mt19937_64::state_size;
  const auto world = make_world();
  std::vector<std::uint64_t> words(kState);
  for (auto& word : words) word = untempered(world->random());
  const std::uint64_t upper = words[0] & ~std::uint64_t{0x7FFFFFFF};
  const std::uint64_t mixed = upper | (words[1] & 0x7FFFFFFFU);
  const std::uint64_t foretold = words[kState / 2] ^ (mixed >> 1) ^ ((mixed & 1) != 0 ? 0xB5026F5AA96619E9U : 0);
  CHECK(untempered(world->random()) != foretold);
  CHECK(check_randomness());
}

// ---- chunks -------------------------------------------------------------------------------------------

namespace {

Task<Result<>> send_pieces(Link& link, std::shared_ptr<const ChunkSource> source, std::uint64_t file_offset, std::uint32_t length,
                           std::uint32_t piece) {
  for (std::uint32_t offset = 0; offset < length; offset += piece) {
    ChunkHeader header{3, 1, offset};
    header.length = std::min(piece, length - offset);
    if (auto sent = co_await link.send_chunk(header, source, file_offset + offset); !sent) co_return sent;
  }
  co_return co_await send(link, Find{99, {}});
}

/// The next chunk's data, taken in parts of `part` bytes; its place is told by `header`.
Task<std::vector<std::byte>> receive_chunk(Link& link, std::size_t part, ChunkHeader& header) {
  const auto incoming = co_await step(link.receive(kPatience));
  header = std::get<ChunkHeader>(incoming);
  std::vector<std::byte> data(header.length);
  for (std::size_t done = 0; done < data.size(); done += part)
    unwrap(co_await link.receive_payload(std::span(data).subspan(done, std::min(part, data.size() - done))));
  co_return data;
}

struct ChunkCase {
  std::uint32_t piece;
  std::size_t part;
  std::vector<std::byte> received{};
  bool goes_on = false;
};

constexpr std::uint64_t kFileOffset = 1000;

Task<> transfer_chunk(World& world, ChunkCase& test) {
  const Executor strand = co_await asio::this_coro::executor;
  Pair pair = co_await make_pair(world);
  const auto file = std::make_shared<ServedFile>(kFileOffset + kChunkSize);
  Beside<Result<>> sending(strand, send_pieces(*pair.near, file, kFileOffset, kChunkSize, test.piece));
  while (test.received.size() < kChunkSize) {
    ChunkHeader header;
    const auto data = co_await receive_chunk(*pair.far, test.part, header);
    if (header.handle != 3 || header.chunk != 1 || header.offset != test.received.size()) co_return;
    test.received.insert(test.received.end(), data.begin(), data.end());
  }
  test.goes_on = (co_await step(receive<Find>(*pair.far, kPatience))).query == 99;
  unwrap(co_await sending.result());
}

}  // namespace

TEST_CASE("A chunk arrives whole, in any number of pieces and taken in any parts") {
  for (const auto& [piece, part] :
       std::array<std::pair<std::uint32_t, std::size_t>, 4>{{{kChunkSize, kChunkSize}, {kChunkSize, 1000}, {16384, 16384}, {9999, 777}}}) {
    INFO(piece << " " << part);
    const auto world = make_world();
    ChunkCase test{piece, part};
    world->run(transfer_chunk(*world, test));
    CHECK(test.received == ServedFile::content(kFileOffset, kChunkSize));
    CHECK(test.goes_on);
  }
}

namespace {

struct ChangeCase {
  bool is_noticed_before = false;
  std::error_code sent{};
  std::size_t bytes = 0;
  bool lives = false;
};

Task<> send_changed(World& world, ChangeCase& test) {
  const Executor strand = co_await asio::this_coro::executor;
  Pair pair = co_await make_pair(world);
  const auto file = std::make_shared<ServedFile>(kChunkSize);
  if (test.is_noticed_before) file->tell_that_it_changed();
  file->shrink(100'000);
  ChunkHeader header{3, 1, 0};
  header.length = kChunkSize;
  Beside<Result<>> sending(strand, pair.near->send_chunk(header, file, 0));
  if (!test.is_noticed_before) {
    ChunkHeader got;
    test.bytes = (co_await receive_chunk(*pair.far, kChunkSize, got)).size();
  }
  const auto sent = co_await sending.result();
  test.sent = sent ? std::error_code{} : sent.error().code;
  unwrap(co_await send(*pair.near, Find{5, {}}));
  test.lives = (co_await step(receive<Find>(*pair.far, kPatience))).query == 5;
}

}  // namespace

namespace {

struct TogetherCase {
  std::size_t changed = 100;  ///< Which file is another one by now.
  std::size_t sent = 0;
  std::vector<std::uint32_t> received{};  ///< The chunks that came whole and right.
  bool lives = false;
};

Task<Result<std::size_t>> send_files(Link& link, TogetherCase& test) {
  std::vector<OutgoingChunk> chunks;
  for (std::uint32_t i = 0; i < 20; ++i) {
    const auto file = std::make_shared<ServedFile>(1 + i * 3000);
    if (i == test.changed) file->tell_that_it_changed();
    ChunkHeader header{3, i, 0};
    header.length = 1 + i * 2000;
    chunks.push_back({header, file, i * 1000});
  }
  const auto sent = co_await link.send_chunks(std::move(chunks));
  if (sent) unwrap(co_await send(link, Find{7, {}}));
  co_return sent;
}

Task<> send_together(World& world, TogetherCase& test) {
  const Executor strand = co_await asio::this_coro::executor;
  Pair pair = co_await make_pair(world);
  Beside<Result<std::size_t>> sending(strand, send_files(*pair.near, test));
  for (std::uint32_t i = 0; i < std::min<std::size_t>(20, test.changed); ++i) {
    ChunkHeader header;
    const auto data = co_await receive_chunk(*pair.far, kChunkSize, header);
    if (data == ServedFile::content(std::uint64_t{i} * 1000, 1 + i * 2000)) test.received.push_back(header.chunk);
  }
  test.lives = (co_await step(receive<Find>(*pair.far, kPatience))).query == 7;
  test.sent = unwrap(co_await sending.result());
}

}  // namespace

TEST_CASE("Chunks that are sent together arrive one by one, in order") {
  const auto world = make_world();
  TogetherCase test;
  world->run(send_together(*world, test));
  CHECK((test.sent == 20 && test.received.size() == 20 && std::ranges::is_sorted(test.received) && test.lives));
}

TEST_CASE("Of chunks that are sent together, those before one whose file changed arrive, and the connection lives on") {
  for (const std::size_t changed : {0U, 7U, 19U}) {
    const auto world = make_world();
    TogetherCase test{changed};
    world->run(send_together(*world, test));
    CHECK((test.sent == changed && test.received.size() == changed && test.lives));
  }
}

TEST_CASE("A file that changed is not sent, and the connection lives on") {
  const auto world = make_world();
  ChangeCase test{true};
  world->run(send_changed(*world, test));
  CHECK(test.sent == make_error_code(Errc::changed));
  CHECK(test.lives);
}

TEST_CASE("A file that shrinks while it is sent is noticed, its frame is filled up, and the connection lives on") {
  const auto world = make_world();
  ChangeCase test;
  world->run(send_changed(*world, test));
  CHECK(test.sent == make_error_code(Errc::changed));
  CHECK(test.bytes == kChunkSize);
  CHECK(test.lives);
}

namespace {

Task<Result<std::size_t>> receive_chunks(Link& link, std::size_t bytes) {
  std::size_t received = 0;
  while (received < bytes) {
    ChunkHeader header;
    received += (co_await receive_chunk(link, kChunkSize, header)).size();
  }
  co_return received;
}

Task<> send_paced(World& world, Nanoseconds& took) {
  const Executor strand = co_await asio::this_coro::executor;
  Pair pair = co_await make_pair(world);
  const auto file = std::make_shared<ServedFile>(kChunkSize);
  Beside<Result<std::size_t>> receiving(strand, receive_chunks(*pair.far, kChunkSize));
  const Instant start = world.now();
  unwrap(co_await send_pieces(*pair.near, file, 0, kChunkSize, kChunkSize / 8));
  unwrap(co_await receiving.result());
  took = world.now() - start;
}

}  // namespace

TEST_CASE("File data is not sent faster than the upload limit") {
  const auto world = make_world(kChunkSize * 4);
  Nanoseconds took{};
  world->run(send_paced(*world, took));
  // The first piece of eight goes at once; the rest of a chunk takes 7/8 of a quarter of a second.
  CHECK(took >= 210ms);
}

// ---- ends ---------------------------------------------------------------------------------------------

namespace {

/// What receiving ends by, when a plain socket at the other end does as `other` says first.
Task<> receive_from(World& world, std::function<void(Link&, RawClient&)> other, Nanoseconds idle, std::optional<Error>& failure) {
  const Executor strand = co_await asio::this_coro::executor;
  const auto listener = unwrap(world.listen({"127.0.0.1", 0}));
  RawClient client(listener->local());
  const auto link = co_await step(listener->accept(strand));
  other(*link, client);
  const auto received = co_await link->receive(idle);
  if (!received) failure = received.error();
}

/// Asks a plain socket that says nothing; `patience` is far less than what a send may take.
Task<> ask_silence(World& world, Nanoseconds patience, std::optional<Error>& failure) {
  const Executor strand = co_await asio::this_coro::executor;
  const auto listener = unwrap(world.listen({"127.0.0.1", 0}));
  const RawClient client(listener->local());
  const auto link = co_await step(listener->accept(strand));
  co_await step(send(*link, Ping{1}));
  const auto received = co_await link->receive(patience);
  if (!received) failure = received.error();
}

std::optional<Error> failure_of(std::function<void(Link&, RawClient&)> other, Nanoseconds idle = kPatience) {
  const auto world = make_world();
  std::optional<Error> failure;
  world->run(receive_from(*world, std::move(other), idle, failure));
  return failure;
}

/// The head of a frame whose length says `length`.
std::vector<std::byte> frame_head(std::uint32_t length, MessageType type) {
  std::vector<std::byte> head;
  for (int shift = 0; shift < 32; shift += 8) head.push_back(static_cast<std::byte>(length >> shift));
  for (int shift = 0; shift < 16; shift += 8) head.push_back(static_cast<std::byte>(static_cast<unsigned>(type) >> shift));
  return head;
}

}  // namespace

TEST_CASE("The end of a connection is told as closed") {
  const auto failure = failure_of([](Link&, RawClient& client) { client.close(); });
  REQUIRE(failure);
  CHECK(failure->code == make_error_code(Errc::closed));
}

TEST_CASE("A connection that is reset is told as reset") {
  const auto failure = failure_of([](Link&, RawClient& client) { client.reset(); });
  REQUIRE(failure);
  CHECK(failure->code == std::errc::connection_reset);
  CHECK(exit_code_of(*failure) == ExitCode::network);
}

TEST_CASE("Who says nothing for too long has timed out") {
  const auto failure = failure_of([](Link&, RawClient&) {}, 20ms);
  REQUIRE(failure);
  CHECK(failure->code == make_error_code(Errc::timed_out));
}

TEST_CASE("Who does not answer has timed out when the one who asked says, however long a send may take") {
  const auto world = make_world();
  std::optional<Error> failure;
  const Instant asked = world->now();
  world->run(ask_silence(*world, 20ms, failure));
  REQUIRE(failure);
  CHECK(failure->code == make_error_code(Errc::timed_out));
  CHECK(world->now() - asked < kPatience);
}

TEST_CASE("Half a message for too long has timed out") {
  const auto failure = failure_of([](Link&, RawClient& client) { client.send(frame_head(20, MessageType::hello)); }, 20ms);
  REQUIRE(failure);
  CHECK(failure->code == make_error_code(Errc::timed_out));
}

TEST_CASE("A frame that is longer than a frame may be is not read") {
  const auto failure = failure_of([](Link& link, RawClient& client) {
    link.established();
    client.send(frame_head(1U << 30, MessageType::offer));
  });
  REQUIRE(failure);
  CHECK(failure->code == make_error_code(Errc::too_large));
}

TEST_CASE("Before the hello was answered a frame may only be short") {
  const auto failure = failure_of([](Link&, RawClient& client) { client.send(frame_head(kGreetingLimit, MessageType::hello)); });
  REQUIRE(failure);
  CHECK(failure->code == make_error_code(Errc::too_large));
}

TEST_CASE("A link that is closed from here fails as closed") {
  const auto failure = failure_of([](Link& link, RawClient&) { link.close(); });
  REQUIRE(failure);
  CHECK(failure->code == make_error_code(Errc::closed));
}

namespace {

Task<> close_while_receiving(World& world, bool& is_closed) {
  const Executor strand = co_await asio::this_coro::executor;
  Pair pair = co_await make_pair(world);
  Beside<Result<Incoming>> receiving(strand, pair.near->receive(kPatience));
  co_await run_on(strand, [] {});  // it waits by now
  pair.near->close();
  pair.near->close();
  is_closed = has_failed_with(co_await receiving.result(), Errc::closed);
}

Task<> close_while_accepting(World& world, bool& is_closed) {
  const Executor strand = co_await asio::this_coro::executor;
  const auto listener = unwrap(world.listen({"127.0.0.1", 0}));
  Beside<Result<std::unique_ptr<Link>>> accepting(strand, listener->accept(strand));
  co_await run_on(strand, [] {});
  listener->close();
  is_closed = has_failed_with(co_await accepting.result(), Errc::closed);
}

Task<Result<>> send_for_ever(Link& link, int& messages) {
  for (;; ++messages) {
    auto sent = co_await send(link, Find{0, std::string(60'000, 'x')});
    if (!sent) co_return sent;
  }
}

Task<> close_while_sending(World& world, bool& is_closed) {
  const Executor strand = co_await asio::this_coro::executor;
  Pair pair = co_await make_pair(world);
  int messages = 0;
  Beside<Result<>> sending(strand, send_for_ever(*pair.near, messages));
  // Nobody reads: when nothing has been sent for a hundred turns, the connection is full.
  for (int quiet = 0; quiet < 100; ++quiet) {
    const int before = messages;
    co_await run_on(strand, [] {});
    if (messages > before) quiet = 0;
  }
  pair.near->close();
  is_closed = has_failed_with(co_await sending.result(), Errc::closed);
}

}  // namespace

TEST_CASE("Closing a link ends who waits to receive") {
  const auto world = make_world();
  bool is_closed = false;
  world->run(close_while_receiving(*world, is_closed));
  CHECK(is_closed);
}

TEST_CASE("Closing a link ends who waits to send") {
  const auto world = make_world();
  bool is_closed = false;
  world->run(close_while_sending(*world, is_closed));
  CHECK(is_closed);
}

TEST_CASE("Closing a listener ends who waits for a connection") {
  const auto world = make_world();
  bool is_closed = false;
  world->run(close_while_accepting(*world, is_closed));
  CHECK(is_closed);
}

// ---- no connection ------------------------------------------------------------------------------------

namespace {

Task<> connect_to(World& world, Endpoint to, std::optional<Error>& failure) {
  const Executor strand = co_await asio::this_coro::executor;
  const auto link = co_await world.connect(to, strand, kPatience);
  if (!link) failure = link.error();
}

}  // namespace

TEST_CASE("A connection that is refused is a failure of the network, and says to where") {
  const auto world = make_world();
  const Endpoint nobody = (*world->listen({"127.0.0.1", 0}))->local();  // and closed again
  std::optional<Error> failure;
  world->run(connect_to(*world, nobody, failure));
  REQUIRE(failure);
  CHECK(failure->code == std::errc::connection_refused);
  CHECK(exit_code_of(*failure) == ExitCode::network);
  CHECK(failure->what.find(to_string(nobody)) != std::string::npos);
}

TEST_CASE("A host that is none is a failure of the network") {
  const auto world = make_world();
  std::optional<Error> failure;
  world->run(connect_to(*world, {"no such host", 5555}, failure));
  REQUIRE(failure);
  CHECK(exit_code_of(*failure) == ExitCode::network);
}

TEST_CASE("An address that is in use cannot be listened on, and the advice is another") {
  const auto world = make_world();
  const auto first = world->listen({"127.0.0.1", 0});
  REQUIRE(first);
  const auto second = world->listen((*first)->local());
  REQUIRE_FALSE(second);
  CHECK(second.error().code == std::errc::address_in_use);
  CHECK_FALSE(second.error().advice.empty());
}

// ---- the world ----------------------------------------------------------------------------------------

namespace {

Task<> throw_at_once() {
  throw std::runtime_error("so");
  co_return;
}

Task<> cancel_sleep(World& world, bool& is_over) {
  TaskGroup group([](const std::string&, const Error&) {});
  group.spawn(make_strand(world), "sleeper", world.sleep(1h));
  group.cancel();
  co_await group.join();
  is_over = true;
}

}  // namespace

TEST_CASE("What the main coroutine throws comes out of run") {
  const auto world = make_world();
  CHECK_THROWS_AS(world->run(throw_at_once()), std::runtime_error);
}

TEST_CASE("Sleep can be cancelled") {
  const auto world = make_world();
  bool is_over = false;
  world->run(cancel_sleep(*world, is_over));
  CHECK(is_over);
}

TEST_CASE("Random words differ") {
  const auto world = make_world();
  CHECK(world->random() != world->random());
}

// ---- datagrams ----------------------------------------------------------------------------------------

namespace {

/// What came, until it is so much.
Task<> collect(World& world, DatagramSocket& socket, std::vector<Datagram>& all, std::size_t wanted) {
  std::vector<Datagram> some;
  while (all.size() < wanted) {
    if (!co_await socket.receive(some)) co_return;
    for (Datagram& datagram : some) all.push_back(std::move(datagram));
    co_await world.sleep(0ns);
  }
}

std::vector<Datagram> ticks_to(const DatagramAddress& to, std::uint64_t count) {
  std::vector<Datagram> ticks;
  for (std::uint64_t number = 0; number < count; ++number) ticks.push_back({to, Tick{number, 1, 2, 3}});
  return ticks;
}

bool are_ticks(std::span<const Datagram> datagrams, std::uint64_t count) {
  if (datagrams.size() != count) return false;
  for (std::uint64_t number = 0; number < count; ++number) {
    const auto* tick = std::get_if<Tick>(&datagrams[number].message);
    if (!tick || tick->number != number || tick->token != 3) return false;
  }
  return true;
}

/// There, and back to where they came from.
Task<> exchange_datagrams(World& world, std::string host, std::vector<Datagram>& there, std::vector<Datagram>& back) {
  const Executor strand = co_await asio::this_coro::executor;
  const auto server = unwrap(world.open_datagrams({host, 0}, strand));
  const auto client = unwrap(world.connect_datagrams(server->local(), strand));
  const auto ticks = ticks_to({}, 150);
  client->send(ticks);
  co_await collect(world, *server, there, ticks.size());
  server->send(there);
  co_await collect(world, *client, back, ticks.size());
}

Task<> hear_strangers(World& world, std::vector<Datagram>& heard) {
  const Executor strand = co_await asio::this_coro::executor;
  const auto server = unwrap(world.open_datagrams({"127.0.0.1", 0}, strand));
  const auto client = unwrap(world.connect_datagrams(server->local(), strand));
  const auto stranger = unwrap(world.connect_datagrams(client->local(), strand));
  stranger->send(ticks_to({}, 5));  // the client is connected with the server alone
  client->send(ticks_to({}, 1));
  std::vector<Datagram> asked;
  co_await collect(world, *server, asked, 1);
  server->send(asked);
  co_await collect(world, *client, heard, 1);
}

/// One socket that is no shoal sends rubbish, then a friend sends a tick.
Task<> hear_rubbish(World& world, std::vector<Datagram>& heard) {
  const Executor strand = co_await asio::this_coro::executor;
  const auto server = unwrap(world.open_datagrams({"127.0.0.1", 0}, strand));
  const int raw = ::socket(AF_INET, SOCK_DGRAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(server->local().port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const std::string rubbish(2000, 'x');
  for (const std::size_t size : {0U, 1U, 6U, 60U, 256U, 257U, 2000U})
    if (::sendto(raw, rubbish.data(), size, 0, reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0) std::abort();
  ::close(raw);
  const auto client = unwrap(world.connect_datagrams(server->local(), strand));
  client->send(ticks_to({}, 1));
  co_await collect(world, *server, heard, 1);
}

/// Nobody listens where it sends to, which is told it; then somebody does.
Task<> send_into_the_void(World& world, std::vector<Datagram>& heard) {
  const Executor strand = co_await asio::this_coro::executor;
  Endpoint nowhere;
  {
    const auto gone = unwrap(world.open_datagrams({"127.0.0.1", 0}, strand));
    nowhere = gone->local();
  }
  const auto client = unwrap(world.connect_datagrams(nowhere, strand));
  for (int i = 0; i < 3; ++i) client->send(ticks_to({}, 1));
  const auto server = unwrap(world.open_datagrams(nowhere, strand));
  client->send(ticks_to({}, 1));  // says what became of those before
  client->send(ticks_to({}, 1));
  co_await collect(world, *server, heard, 1);
  std::vector<Datagram> back;
  server->send(heard);
  co_await collect(world, *client, back, 1);
  heard = std::move(back);
}

Task<> close_while_waiting(World& world, std::optional<Error>& failure) {
  const Executor strand = co_await asio::this_coro::executor;
  const std::shared_ptr<DatagramSocket> socket = unwrap(world.open_datagrams({"127.0.0.1", 0}, strand));
  Beside<Result<>> receiving(strand, [](std::shared_ptr<DatagramSocket> at) -> Task<Result<>> {
    std::vector<Datagram> none;
    co_return co_await at->receive(none);
  }(socket));
  co_await world.sleep(5ms);
  socket->close();
  const auto received = co_await receiving.result();
  if (!received) failure = received.error();
}

}  // namespace

TEST_CASE("Datagrams go there and back, each to whom it is for") {
  for (const std::string host : {"127.0.0.1", "::1"}) {
    const auto world = make_world();
    std::vector<Datagram> there;
    std::vector<Datagram> back;
    try {
      world->run(exchange_datagrams(*world, host, there, back));
    } catch (const StepFailed&) {
      if (host == "::1") continue;  // there is no IPv6 here
      throw;
    }
    CHECK(are_ticks(there, 150));
    CHECK(are_ticks(back, 150));
  }
}

TEST_CASE("A socket that is connected hears nobody else") {
  const auto world = make_world();
  std::vector<Datagram> heard;
  world->run(hear_strangers(*world, heard));
  CHECK(are_ticks(heard, 1));
}

TEST_CASE("Datagrams that are no messages are skipped") {
  const auto world = make_world();
  std::vector<Datagram> heard;
  world->run(hear_rubbish(*world, heard));
  CHECK(are_ticks(heard, 1));
}

TEST_CASE("Who sends to where nobody is may go on when somebody is") {
  const auto world = make_world();
  std::vector<Datagram> heard;
  world->run(send_into_the_void(*world, heard));
  CHECK(are_ticks(heard, 1));
}

TEST_CASE("To wait for datagrams ends when the socket is closed") {
  const auto world = make_world();
  std::optional<Error> failure;
  world->run(close_while_waiting(*world, failure));
  REQUIRE(failure);
  CHECK(failure->code == make_error_code(Errc::closed));
}
