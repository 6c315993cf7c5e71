#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "memory_link.hpp"

import shoal.base;
import shoal.bundle;
import shoal.sim;
import shoal.wire;
import shoal.world;

using namespace shoal;
using namespace shoal::test;
using namespace std::chrono_literals;

namespace {

constexpr std::uint32_t kPieces = 4;  // a chunk
constexpr std::uint32_t kPiece = 1024;

/// Two bundles over connections in memory. The near one sends, the far one receives and keeps what came.
struct Both {
  explicit Both(World& w)
      : world(w), tasks([this](const std::string&, const Error& error) { failure = error; }), connections{MemoryConnection(w.executor())} {
    near = std::make_shared<Bundle>(connections[0].near);
    far = std::make_shared<Bundle>(connections[0].far);
  }

  void begin(int further) {
    near->begin(world, tasks, 15s);
    far->begin(world, tasks, 15s);
    for (int i = 0; i < further; ++i) add();
  }
  void add() {
    connections.emplace_back(world.executor());
    const auto number = static_cast<std::uint32_t>(connections.size() - 1);
    REQUIRE(add_near(number));
    REQUIRE(add_far(number));
  }
  bool add_near(std::uint32_t number) { return near->add(number, connections[number].near, nullptr).has_value(); }
  bool add_far(std::uint32_t number) { return far->add(number, connections[number].far, nullptr).has_value(); }
  void receive() { tasks.spawn(world.executor(), "receiving", receive_all_of(*this)); }
  void send(std::uint32_t first, std::uint32_t last) { tasks.spawn(world.executor(), "sending", send_chunks_of(*this, first, last)); }
  void send(Message message) { tasks.spawn(world.executor(), "saying", say(*this, std::move(message))); }

  static Task<> receive_all_of(Both& both) {
    for (;;) {
      auto incoming = co_await both.far->receive(15s);
      if (!incoming) {
        both.end = incoming.error();
        co_return;
      }
      if (auto* message = std::get_if<Message>(&*incoming)) {
        both.messages.push_back(std::move(*message));
        continue;
      }
      const auto header = std::get<ChunkHeader>(*incoming);
      std::vector<std::byte> bytes(header.length);
      co_await step(both.far->receive_payload(std::span(bytes).first(1)));
      co_await step(both.far->receive_payload(std::span(bytes).subspan(1)));
      both.take(header, bytes);
    }
  }
  static Task<> send_chunks_of(Both& both, std::uint32_t first, std::uint32_t last) {
    for (std::uint32_t chunk = first; chunk < last; ++chunk)
      for (std::uint32_t piece = 0; piece < kPieces; ++piece) {
        co_await step(both.near->send_chunk({7, chunk, piece * kPiece, kPiece}, both.source, offset_of(chunk) + piece * kPiece));
        ++both.pieces_sent;
      }
  }
  static Task<> say(Both& both, Message message) {
    std::vector<Message> messages;
    messages.push_back(std::move(message));
    co_await step(both.near->send(std::move(messages)));
  }
  static std::uint64_t offset_of(std::uint32_t chunk) { return std::uint64_t{chunk} * kPieces * kPiece; }

  void take(const ChunkHeader& header, std::span<const std::byte> bytes) {
    std::uint32_t& filled = got[header.chunk];
    if (header.offset != filled) is_out_of_order = true;
    filled = header.offset + header.length;
    for (std::size_t i = 0; i < bytes.size(); ++i)
      if (bytes[i] != PatternSource::at(offset_of(header.chunk) + header.offset + i)) is_wrong = true;
  }
  bool has(std::uint32_t chunk) const {
    const auto found = got.find(chunk);
    return found != got.end() && found->second == kPieces * kPiece;
  }
  bool has_all(std::uint32_t first, std::uint32_t last) const {
    for (std::uint32_t chunk = first; chunk < last; ++chunk)
      if (!has(chunk)) return false;
    return true;
  }
  bool is_sound() const { return !is_out_of_order && !is_wrong; }

  World& world;
  std::optional<Error> failure;
  TaskGroup tasks;
  std::vector<MemoryConnection> connections;
  std::shared_ptr<Bundle> near;
  std::shared_ptr<Bundle> far;
  std::shared_ptr<PatternSource> source = std::make_shared<PatternSource>();

  std::map<std::uint32_t, std::uint32_t> got;  ///< Bytes, by chunk.
  std::vector<Message> messages;
  std::optional<Error> end;
  std::uint32_t pieces_sent = 0;
  bool is_out_of_order = false;
  bool is_wrong = false;
};

/// Waits until it is so; false where it is not within a second (of the simulation).
Task<bool> comes_true(World& world, std::function<bool()> is_true, Nanoseconds within = 1s) {
  const Instant end = world.now() + within;
  while (!is_true() && world.now() < end) co_await world.sleep(1ms);
  co_return is_true();
}

using Story = std::function<Task<>(Both& both)>;

Task<> tell_story(World& world, Story story, bool& is_told) {
  {
    Both both(world);
    co_await story(both);
    both.near->close();
    both.far->close();
    both.tasks.cancel();
    co_await both.tasks.join();
  }
  is_told = true;
}

/// Runs it in virtual time.
void run(const Story& story) {
  sim::Simulation simulation({.seed = GENERATE(1U, 2U, 3U)});
  const sim::HostId host = simulation.add_host({});
  bool is_told = false;
  simulation.start(host, [&](World& world, Storage&, Signal&) { return tell_story(world, story, is_told); });
  simulation.run([&] { return is_told; }, {1000s});
  CHECK(simulation.failures().empty());
  CHECK(is_told);
}

Reject reject(std::uint32_t chunk) { return Reject{{{7, chunk}}}; }

// ---- the stories --------------------------------------------------------------------------------------

Task<> before_it_is_begun(Both& both) {
  both.receive();
  co_await Both::send_chunks_of(both, 0, 5);
  co_await Both::say(both, Ping{3});
  CHECK(co_await comes_true(both.world, [&] { return both.has_all(0, 5) && both.messages.size() == 1; }));
  CHECK(both.is_sound());
  CHECK(both.connections[0].forth->said.size() == 1);
  CHECK(both.near->connections() == 1);
}

Task<> over_three(Both& both) {
  both.begin(2);
  both.receive();
  both.send(0, 100);
  CHECK(co_await comes_true(both.world, [&] { return both.has_all(0, 100); }));
  CHECK(both.is_sound());
  for (const auto& connection : both.connections) CHECK(connection.forth->chunks >= 10 * kPieces);
  CHECK(both.near->bytes_moved() == 100 * kPieces * kPiece);
  CHECK(both.far->bytes_moved() == 100 * kPieces * kPiece);
}

Task<> with_one_stalled(Both& both) {
  both.begin(2);
  both.receive();
  both.connections[2].forth->stall(true);
  both.send(0, 100);
  const auto are_most_here = [&] { return std::ranges::count_if(both.got, [&](const auto& each) { return both.has(each.first); }) >= 95; };
  CHECK(co_await comes_true(both.world, are_most_here));
  CHECK_FALSE(both.has_all(0, 100));
  both.send(Ping{3});
  CHECK(co_await comes_true(both.world, [&] { return both.messages.size() == 1; }));
  both.connections[2].forth->stall(false);
  CHECK(co_await comes_true(both.world, [&] { return both.has_all(0, 100); }));
  CHECK(both.is_sound());
}

Task<> with_one_cut(Both& both) {
  both.begin(2);
  both.receive();
  both.connections[1].forth->stall(true);
  both.send(0, 50);
  co_await comes_true(both.world, [&] { return both.got.size() > 20; });
  both.connections[1].cut();
  CHECK(co_await comes_true(both.world, [&] { return both.has_all(0, 50); }));
  CHECK(both.is_sound());
  CHECK(both.near->connections() == 2);
  CHECK(both.far->connections() == 2);
  both.add();
  both.send(50, 80);
  CHECK(co_await comes_true(both.world, [&] { return both.has_all(50, 80); }));
  CHECK(both.connections[3].forth->chunks > 0);
}

Task<> with_all_further_ones_cut(Both& both) {
  both.begin(3);
  both.receive();
  for (std::size_t i : {1U, 2U, 3U}) both.connections[i].forth->stall(true);
  both.send(0, 40);
  co_await comes_true(both.world, [&] { return both.pieces_sent == 40 * kPieces; });
  for (std::size_t i : {1U, 2U, 3U}) {
    both.connections[i].cut();
    co_await both.world.sleep(1ms);
  }
  CHECK(co_await comes_true(both.world, [&] { return both.has_all(0, 40); }));
  CHECK(both.is_sound());
  CHECK(both.near->connections() == 1);
}

/// The connection dies while the chunk that it carries is only half placed.
Task<> cut_within_a_chunk(Both& both) {
  both.begin(1);
  both.receive();
  both.connections[1].forth->stall(true);
  for (std::uint32_t piece = 0; piece < kPieces; ++piece) {
    if (piece == 2) both.connections[1].cut();
    co_await step(both.near->send_chunk({7, 0, piece * kPiece, kPiece}, both.source, piece * kPiece));
    if (piece != 2) co_await both.world.sleep(1ms);
  }
  CHECK(co_await comes_true(both.world, [&] { return both.has(0); }));
  CHECK(both.is_sound());
}

bool carries(const MemoryConnection& connection, std::uint32_t chunk) {
  return std::ranges::any_of(connection.forth->items, [chunk](const MemoryPipe::Item& item) {
    const auto* header = std::get_if<ChunkHeader>(&item.what);
    return header && header->chunk == chunk;
  });
}

/// One piece of a chunk, which is written when this is over.
Task<> send_piece(Both& both, std::uint32_t chunk, std::uint32_t offset, std::uint32_t length) {
  co_await step(both.near->send_chunk({7, chunk, offset, length}, both.source, offset));
  co_await both.world.sleep(1ms);
}

std::vector<std::uint32_t> offsets_of(const MemoryConnection& connection, std::uint32_t chunk) {
  std::vector<std::uint32_t> offsets;
  for (const MemoryPipe::Item& item : connection.forth->items)
    if (const auto* header = std::get_if<ChunkHeader>(&item.what); header && header->chunk == chunk) offsets.push_back(header->offset);
  return offsets;
}

void add_near_only(Both& both) {
  both.connections.emplace_back(both.world.executor());
  both.connections.back().forth->room = 1'000'000;
  REQUIRE(both.add_near(static_cast<std::uint32_t>(both.connections.size() - 1)));
}

Task<> begun_before_there_are_more(Both& both) {
  both.receive();
  const auto send_next = [&](std::uint32_t piece) { return send_piece(both, 0, piece * kPiece, kPiece); };
  co_await send_next(0);
  both.near->begin(both.world, both.tasks, 15s);
  for (int i = 0; i < 2; ++i) add_near_only(both);
  for (std::uint32_t piece = 1; piece < kPieces; ++piece) co_await send_next(piece);
  CHECK(co_await comes_true(both.world, [&] { return both.has(0); }));
  CHECK(both.connections[0].forth->chunks == kPieces);
}

std::uint32_t carrier_of(const Both& both, std::uint32_t chunk) {
  const auto found = std::ranges::find_if(both.connections, [chunk](const auto& each) { return carries(each, chunk); });
  return static_cast<std::uint32_t>(found - both.connections.begin());
}

/// The far side is no bundle: it takes nothing, and says which connections are over. So each of three is lost in its turn, and what was
/// placed again is placed again.
Task<> lost_again_and_again(Both& both) {
  constexpr std::uint32_t kChunk = 50;
  both.near->begin(both.world, both.tasks, 15s);
  for (auto& connection : both.connections) connection.forth->room = 1'000'000;
  co_await send_piece(both, 99, 0, 64 * kPiece);  // the first is never the least loaded
  for (int i = 0; i < 3; ++i) add_near_only(both);
  const auto lose = [&](std::uint32_t number) -> Task<> {
    co_await step(send(*both.connections[0].far, Arrived{number, 0, true}));
    co_await both.world.sleep(1ms);
    both.connections[number].forth->items.clear();
  };
  for (std::uint32_t chunk = 1; chunk <= 3; ++chunk) co_await send_piece(both, chunk, 0, 100);  // one on each
  for (std::uint32_t piece = 0; piece < 2; ++piece) co_await send_piece(both, kChunk, piece * kPiece, kPiece);
  add_near_only(both);
  co_await lose(carrier_of(both, kChunk));
  const std::uint32_t second = carrier_of(both, kChunk);
  for (std::uint32_t other = 1; other <= 4; ++other)
    if (other != second && !both.connections[other].forth->items.empty()) co_await lose(other);
  co_await send_piece(both, kChunk, 2 * kPiece, kPiece);
  for (int i = 0; i < 2; ++i) add_near_only(both);
  co_await lose(carrier_of(both, kChunk));
  CHECK(offsets_of(both.connections[carrier_of(both, kChunk)], kChunk) == std::vector<std::uint32_t>{0, kPiece, 2 * kPiece});
}

Task<> closed_down(Both& both) {
  both.begin(3);
  both.receive();
  both.send(0, 60);
  co_await comes_true(both.world, [&] { return both.got.size() > 10; });
  both.near->remove_one();
  both.far->remove_one();
  both.near->remove_one();
  CHECK(co_await comes_true(both.world, [&] { return both.has_all(0, 60); }));
  CHECK(both.is_sound());
  both.near->remove_one();
  both.near->remove_one();
  co_await both.world.sleep(1ms);
  CHECK(both.near->connections() == 1);
  CHECK_FALSE(both.end);
}

/// Those that were closed are remembered for a while, however many they were.
Task<> with_some_closed(Both& both) {
  CHECK(both.near->carriers() == 1);
  both.begin(3);
  CHECK(both.near->carriers() == 4);
  for (int i = 0; i < 3; ++i) both.near->remove_one();
  CHECK(both.near->connections() == 1);
  CHECK(both.near->carriers() == 4);
  co_await both.world.sleep(1s);
  for (int i = 0; i < 20; ++i) {
    both.add();
    both.near->remove_one();
    co_await both.world.sleep(1ms);
  }
  CHECK(both.near->carriers() == kMostConnections);
  co_await both.world.sleep(Bundle::kRemembered + 1s);
  CHECK(both.near->carriers() == 1);
}

Task<> with_the_first_cut(Both& both) {
  both.begin(2);
  both.receive();
  both.connections[0].cut();
  CHECK(co_await comes_true(both.world, [&] { return both.end.has_value(); }));
  CHECK((both.connections[1].near->is_closed() && both.connections[2].far->is_closed()));
  CHECK_FALSE((co_await both.near->send_chunk({7, 0, 0, kPiece}, both.source, 0)).has_value());
}

Task<> closed(Both& both) {
  both.begin(2);
  both.receive();
  both.far->close();
  CHECK(co_await comes_true(both.world, [&] {
    return std::ranges::all_of(both.connections, [](const auto& each) { return each.far->is_closed() && each.near->is_closed(); });
  }));
  CHECK(both.end->code == make_error_code(Errc::closed));
}

using Order = std::array<std::uint32_t, 3>;

std::vector<Order> orders() {
  Order order{1, 2, 3};
  std::vector<Order> all;
  do all.push_back(order);
  while (std::ranges::next_permutation(order).found);
  return all;
}

void begin_with_three_to_come(Both& both) {
  both.begin(0);
  both.receive();
  for (int i = 0; i < 3; ++i) both.connections.emplace_back(both.world.executor());
}

/// Each side learns in an order of its own that they were greeted, while chunks are sent.
Task<> with_three_at_once(Both& both, Order near_order, Order far_order) {
  begin_with_three_to_come(both);
  both.send(0, 60);
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(both.add_far(far_order[i]));
    co_await both.world.sleep(1ms);
    CHECK(both.add_near(near_order[i]));
  }
  CHECK(co_await comes_true(both.world, [&] { return both.has_all(0, 60); }));
  CHECK(both.is_sound());
  CHECK(both.near->connections() == 4);
  CHECK(both.far->connections() == 4);
}

/// The far side lets go of the one that it could not add.
Task<> with_one_only_near(Both& both, std::uint32_t missing) {
  begin_with_three_to_come(both);
  for (const std::uint32_t number : {3U, 1U, 2U}) {
    CHECK(both.add_near(number));
    if (number != missing) CHECK(both.add_far(number));
  }
  both.send(0, 60);
  co_await both.world.sleep(10ms);
  CHECK_FALSE(both.has_all(0, 60));
  both.connections[missing].far->close();
  CHECK(co_await comes_true(both.world, [&] { return both.has_all(0, 60); }));
  CHECK(both.is_sound());
  CHECK(both.near->connections() == 3);
  CHECK_FALSE(both.add_far(missing));
}

/// The same, seen from the side that has it not.
Task<> with_one_only_far(Both& both, std::uint32_t missing) {
  begin_with_three_to_come(both);
  for (const std::uint32_t number : {3U, 1U, 2U}) {
    CHECK(both.add_far(number));
    if (number != missing) CHECK(both.add_near(number));
  }
  both.connections[missing].near->close();
  CHECK(co_await comes_true(both.world, [&] { return both.far->connections() == 3; }));
  CHECK_FALSE(both.add_near(missing));
  both.send(0, 60);
  CHECK(co_await comes_true(both.world, [&] { return both.has_all(0, 60); }));
  CHECK(both.is_sound());
}

/// `last` is about what is stuck on a stalled connection.
Task<> with_what_must_wait(Both& both, Message last) {
  both.begin(1);
  both.receive();
  both.connections[1].forth->stall(true);
  both.send(0, 1);
  co_await comes_true(both.world, [&] { return both.pieces_sent == kPieces; });
  both.send(reject(9));  // nothing of it is under way
  co_await both.world.sleep(1ms);
  both.send(Ping{3});
  CHECK(co_await comes_true(both.world, [&] { return both.messages.size() == 2; }));
  both.send(std::move(last));
  co_await both.world.sleep(1ms);
  both.send(Pong{1, 2, 3});
  co_await both.world.sleep(100ms);
  CHECK(both.messages.size() == 2);
  both.connections[1].forth->stall(false);
  CHECK(co_await comes_true(both.world, [&] { return both.messages.size() == 4; }));
  CHECK(both.has(0));
  CHECK(std::holds_alternative<Pong>(both.messages.back()));
}

/// Two chunks are stuck, each on a connection of its own, and a reject waits for each.
Task<> with_two_that_must_wait(Both& both) {
  both.begin(2);
  both.receive();
  for (const std::size_t i : {1U, 2U}) both.connections[i].forth->stall(true);
  for (const std::uint32_t chunk : {0U, 1U}) {
    both.send(chunk, chunk + 1);
    co_await comes_true(both.world, [&] { return both.pieces_sent == (chunk + 1) * kPieces; });
    both.send(reject(chunk));
    co_await both.world.sleep(1ms);
    both.send(Ping{chunk});
    co_await both.world.sleep(1ms);
  }
  CHECK(both.messages.empty());
  const std::size_t earlier = carries(both.connections[1], 0) ? 1 : 2;
  both.connections[earlier].forth->stall(false);
  CHECK(co_await comes_true(both.world, [&] { return both.messages.size() == 2; }));
  CHECK(both.has(0));
  co_await both.world.sleep(100ms);
  CHECK(both.messages.size() == 2);
  if (const auto* ping = both.messages.empty() ? nullptr : std::get_if<Ping>(&both.messages.back())) CHECK(ping->t1 == 0);
  both.connections[3 - earlier].forth->stall(false);
  CHECK(co_await comes_true(both.world, [&] { return both.messages.size() == 4; }));
  CHECK(both.has(1));
}

/// How much of what is small is read of a connection while nobody takes it.
Task<> with_small_ones_and_nobody_who_reads(Both& both) {
  constexpr std::size_t kMany = 20'000;
  both.far->begin(both.world, both.tasks, 15s);
  both.connections.emplace_back(both.world.executor());
  CHECK(both.add_far(1));
  for (auto& connection : both.connections) connection.forth->room = 2 * kMany;
  co_await step(send(*both.connections[1].near, Placed{0}));
  for (std::uint32_t i = 0; i < kMany; ++i) {
    co_await step(both.connections[1].near->send_chunk({7, i, 0, 1}, both.source, 0));
    co_await step(send(*both.connections[0].near, Ping{i}));
  }
  co_await both.world.sleep(1s);
  for (const auto& connection : both.connections) CHECK(kMany - connection.forth->items.size() <= Bundle::kMostUndelivered / 64);
}

Task<> send_large(Both& both) {
  for (std::uint32_t chunk = 0; chunk < 100; ++chunk)
    co_await step(both.near->send_chunk({7, chunk, 0, kChunkSize}, both.source, std::uint64_t{chunk} * kChunkSize));
}

Task<> with_nobody_who_reads(Both& both) {
  both.begin(2);
  for (auto& connection : both.connections) connection.forth->room = 1'000'000;
  both.tasks.spawn(both.world.executor(), "sending", send_large(both));
  co_await both.world.sleep(1s);
  std::uint64_t read = 0;
  for (const auto& connection : both.connections)
    read += connection.forth->chunks - static_cast<std::size_t>(std::ranges::count_if(connection.forth->items, [](const auto& item) {
              return std::holds_alternative<ChunkHeader>(item.what);
            }));
  CHECK(read >= 3);
  CHECK(read * kChunkSize <= 3 * (Bundle::kMostUndelivered + kChunkSize));
}

/// Takes its frames for ever, and confirms none.
Task<> with_one_that_swallows(Both& both) {
  both.begin(2);
  both.receive();
  both.connections[1].forth->stall(true);
  both.connections[1].forth->room = 1'000'000;
  both.send(0, 30);
  co_await both.world.sleep(20s);
  CHECK_FALSE(both.has_all(0, 30));
  CHECK(co_await comes_true(both.world, [&] { return both.has_all(0, 30); }, 30s));
  CHECK(both.is_sound());
  CHECK(both.near->connections() == 2);
}

/// The near side has something to say for itself while its session's send is not over.
Task<> begun_within_a_send(Both& both) {
  both.receive();
  MemoryPipe& forth = *both.connections[0].forth;
  forth.room = 1;
  forth.stall(true);
  both.send(0, 10);
  co_await both.world.sleep(10ms);
  both.near->begin(both.world, both.tasks, 15s);
  co_await step(send(*both.connections[0].far, Placed{0}));
  co_await step(both.connections[0].far->send_chunk({7, 0, 0, kPiece}, both.source, 0));
  co_await both.world.sleep(10ms);
  CHECK(forth.chunks == 2);  // one is in the pipe, one waits for room
  CHECK(forth.said.empty());
  forth.stall(false);
  CHECK(co_await comes_true(both.world, [&] { return both.has_all(0, 10); }));
  CHECK(both.is_sound());
  CHECK(std::ranges::any_of(forth.said, [](const Message& message) { return std::holds_alternative<Arrived>(message); }));
}

Task<> with_idle_ones(Both& both) {
  both.begin(2);
  both.receive();
  both.send(0, 10);
  co_await both.world.sleep(50s);
  CHECK(both.near->connections() == 3);
  co_await both.world.sleep(20s);
  CHECK(both.near->connections() == 1);
  both.send(10, 20);
  CHECK(co_await comes_true(both.world, [&] { return both.has_all(0, 20); }));
}

bool link_is_over(const Both& both, std::uint32_t number) { return both.connections[number].far->is_closed(); }

/// The far side takes what comes, and says nothing of it, nor that a connection is over.
Task<> with_one_that_never_gives_back(Both& both) {
  both.near->begin(both.world, both.tasks, 15s);
  const auto place = std::make_shared<int>(0);
  for (std::uint32_t number = 1; number <= 2; ++number) {
    both.connections.emplace_back(both.world.executor());
    CHECK(both.near->add(number, both.connections[number].near, place).has_value());
  }
  both.connections[1].cut();
  CHECK(co_await comes_true(both.world, [&] { return place.use_count() == 2; }));
  both.near->remove_one();
  CHECK(co_await comes_true(both.world, [&] { return place.use_count() == 1; }));
  CHECK(both.near->connections() == 1);
}

/// A frame on each of two connections every now and then, for two minutes.
Task<> with_one_that_trickles(Both& both) {
  both.far->begin(both.world, both.tasks, 15s);
  both.receive();
  for (std::uint32_t number = 1; number <= 2; ++number) {
    both.connections.emplace_back(both.world.executor());
    CHECK(both.add_far(number));
  }
  for (std::uint64_t i = 0; i < 12; ++i) {
    for (const std::uint32_t number : {1U, 2U}) {
      Link& link = *both.connections[number].near;
      if (link_is_over(both, number)) continue;
      co_await step(send(link, Placed{2 * i + number - 1}));
      co_await step(link.send_chunk({7, 0, 0, number == 1 ? 1024U : 16 * 1024U}, both.source, 0));
    }
    co_await both.world.sleep(10s);
  }
  CHECK(link_is_over(both, 1));
  CHECK_FALSE(link_is_over(both, 2));
}

Task<> with_a_file_that_changed(Both& both) {
  both.begin(1);
  both.receive();
  both.source->is_changed = true;
  const auto one = co_await both.near->send_chunk({7, 0, 0, kPiece}, both.source, 0);
  CHECK((!one && one.error().code == make_error_code(Errc::changed)));
  const auto good = std::make_shared<PatternSource>();
  std::vector<OutgoingChunk> chunks{{{7, 1, 0, kPiece}, good, Both::offset_of(1)}, {{7, 2, 0, kPiece}, both.source, 0}};
  const auto several = co_await both.near->send_chunks(std::move(chunks));
  CHECK((several && *several == 1));
  CHECK(co_await comes_true(both.world, [&] { return both.got.contains(1); }));
  CHECK(both.got.size() == 1);
  CHECK(both.is_sound());
}

Task<> with_too_many(Both& both) {
  const auto link = [&] { return MemoryConnection(both.world.executor()).near; };
  CHECK_FALSE(both.near->add(1, link(), nullptr).has_value());  // not begun
  both.begin(3);
  CHECK_FALSE(both.near->add(3, link(), nullptr).has_value());  // a number that there was
  CHECK_FALSE(both.near->add(0, link(), nullptr).has_value());  // the first one's
  for (std::uint32_t number = 4; number < kMostConnections; ++number) CHECK(both.near->add(number, link(), nullptr).has_value());
  CHECK_FALSE(both.near->add(100, link(), nullptr).has_value());
  co_return;
}

/// The other side is no bundle, and says what it likes.
Task<> told_nonsense(Both& both, std::function<Task<>(Link& first, Link& further)> nonsense) {
  both.far->begin(both.world, both.tasks, 15s);
  both.connections.emplace_back(both.world.executor());
  CHECK(both.far->add(1, both.connections[1].far, nullptr).has_value());
  both.receive();
  co_await nonsense(*both.connections[0].near, *both.connections[1].near);
  CHECK(co_await comes_true(both.world, [&] { return both.end.has_value(); }));
  CHECK(co_await comes_true(both.world, [&] { return both.connections[0].far->is_closed() && both.connections[1].far->is_closed(); }));
}

Task<> say_chunk(Link& link, std::optional<std::uint64_t> number, std::uint32_t chunk) {
  if (number) co_await step(send(link, Placed{*number}));
  co_await step(link.send_chunk({7, chunk, 0, kPiece}, std::make_shared<PatternSource>(), 0));
}

Task<> say_twice(Link& first, Link& further) {
  co_await say_chunk(first, 0, 1);
  co_await say_chunk(further, 0, 1);
}
Task<> say_far_ahead(Link&, Link& further) { co_await say_chunk(further, Arrivals::kMostAhead, 1); }
Task<> say_without_a_number(Link&, Link& further) { co_await say_chunk(further, std::nullopt, 1); }
Task<> say_what_belongs_to_the_first(Link&, Link& further) { co_await step(send(further, Ping{1})); }
Task<> say_more_than_is_kept(Link& first, Link&) {
  co_await step(send(first, After{1}));
  const Request request{std::vector<ChunkRef>(4096)};
  for (std::size_t bytes = 0; bytes <= Bundle::kMostHeld; bytes += encoded_size(request))
    if (!co_await send(first, request)) co_return;
}

/// The connections of which was said that they are over, without a frame.
std::vector<std::uint32_t> given_back_in(const std::vector<Message>& said) {
  std::vector<std::uint32_t> all;
  for (const Message& message : said)
    if (const auto* arrived = std::get_if<Arrived>(&message); arrived && arrived->is_over && arrived->frames == 0)
      all.push_back(arrived->connection);
  return all;
}

Task<> say_after_what_cannot_be(Link& first, Link&) { co_await step(send(first, After{Arrivals::kMostAhead + 1})); }
Task<> say_after_all(Link& first, Link&) { co_await step(send(first, After{~std::uint64_t{0}})); }
Task<> say_many_small_ones(Link& first, Link&) {
  co_await step(send(first, After{1}));
  std::size_t said = 0;
  while (co_await send(first, Ping{1})) ++said;
  CHECK(said <= Bundle::kMostHeld / 64);
}

/// Answers about what there is not do no harm. Of each connection that is not there it is said that nothing came.
Task<> told_of_nothing(Both& both) {
  both.far->begin(both.world, both.tasks, 15s);
  both.receive();
  Link& first = *both.connections[0].near;
  for (const std::uint32_t number : {0U, 77U, 5U, 76U}) co_await step(send(first, Arrived{number, 1000, true}));
  co_await step(send(first, Arrived{50, 1000, false}));
  co_await step(send(first, Ping{3}));
  CHECK(co_await comes_true(both.world, [&] { return both.messages.size() == 1; }));
  CHECK_FALSE(both.end);
  CHECK(given_back_in(both.connections[0].back->said) == std::vector<std::uint32_t>{77, 5, 76});
  for (const std::uint32_t number : {77U, 5U, 76U}) CHECK_FALSE(both.far->can_add(number));
  CHECK(both.far->can_add(50));
}

/// The far side cannot write, and is asked about more and more connections that there are not.
Task<> told_of_nothing_while_stuck(Both& both, std::uint32_t numbers) {
  both.far->begin(both.world, both.tasks, 15s);
  both.receive();
  MemoryPipe& back = *both.connections[0].back;
  back.room = 0;
  Link& first = *both.connections[0].near;
  for (int round = 0; round < 100; ++round)
    for (std::uint32_t number = 1; number <= numbers; ++number)
      if (!co_await send(first, Arrived{number, 0, true})) co_return;
  co_await both.world.sleep(10ms);
  CHECK_FALSE(both.end);
  back.room = 1000;
  back.writable.notify();
  CHECK(co_await comes_true(both.world, [&] { return given_back_in(back.said).size() >= numbers; }));
  CHECK(given_back_in(back.said).size() <= 2 * numbers);
}

Task<> say_of_many_that_are_not(Link& first, Link&) {
  for (std::uint32_t number = 2; number < 1000; ++number)
    if (!co_await send(first, Arrived{number, 0, true})) co_return;
}

}  // namespace

TEST_CASE("Numbers of frames come in any order, each once, and not too far ahead") {
  Arrivals arrivals;
  CHECK(arrivals.take(1));
  CHECK_FALSE(arrivals.take(1));
  CHECK(arrivals.lowest_missing() == 0);
  CHECK(arrivals.take(0));
  CHECK(arrivals.has_all_below(2));
  CHECK_FALSE(arrivals.has_all_below(3));
  CHECK_FALSE(arrivals.take(0));
  CHECK(arrivals.take(1 + Arrivals::kMostAhead));
  CHECK_FALSE(arrivals.take(2 + Arrivals::kMostAhead));
}

TEST_CASE("Numbers of connections come in any order, each once, and not far below the highest") {
  UsedNumbers used;
  CHECK(used.contains(0));
  for (const std::uint32_t number : {3U, 1U, 2U}) {
    CHECK_FALSE(used.contains(number));
    used.insert(number);
    CHECK(used.contains(number));
  }
  used.insert(60);
  CHECK(used.contains(2));
  CHECK_FALSE(used.contains(4));
  used.insert(4);
  used.insert(3 + UsedNumbers::kMostBehind);
  CHECK(used.contains(3));
  CHECK(used.contains(4));
  CHECK_FALSE(used.contains(5));
  used.insert(0xffff'ffff);
  CHECK(used.contains(61));
  CHECK_FALSE(used.contains(0xffff'ffff - 1));
}

TEST_CASE("No more is placed while the oldest frame that is not confirmed is far behind") {
  Departures departures;
  for (std::uint64_t i = 0; i < Departures::kMostUnderWay; ++i) {
    CHECK_FALSE(departures.is_full());
    departures.place({1, 2});
  }
  CHECK(departures.is_full());
  departures.confirm(5);
  CHECK(departures.is_full());
  departures.confirm(0);
  CHECK_FALSE(departures.is_full());
}

TEST_CASE("What takes back a chunk or a content waits while a frame of it is not confirmed") {
  Departures departures;
  departures.place({1, 5});
  departures.place({1, 5});
  departures.place({3, 0});
  CHECK(departures.must_wait(Reject{{{9, 9}, {1, 5}}}));
  CHECK_FALSE(departures.must_wait(Reject{{{1, 4}, {1, 6}, {2, 5}}}));
  CHECK(departures.must_wait(Gone{{2, 3}}));
  CHECK_FALSE(departures.must_wait(Gone{{0, 2, 4}}));
  CHECK_FALSE(departures.must_wait(Ping{1}));
  departures.confirm(0);
  departures.confirm(0);
  CHECK(departures.must_wait(Reject{{{1, 5}}}));
  departures.confirm(1);
  CHECK_FALSE(departures.must_wait(Reject{{{1, 5}}}));
  CHECK(departures.must_wait(Leave{0}));
  departures.confirm(2);
  CHECK_FALSE(departures.must_wait(Leave{0}));
}

TEST_CASE("Before it is begun a bundle is its first link") { run(before_it_is_begun); }
TEST_CASE("Chunks go by all connections of a bundle, and each chunk's pieces come in order") { run(over_three); }
TEST_CASE("A connection that stalls holds up only what it carries") { run(with_one_stalled); }
TEST_CASE("What did not come by a connection that was lost comes by the others, once") { run(with_one_cut); }
TEST_CASE("Where all further connections are lost, the first carries all") { run(with_all_further_ones_cut); }
TEST_CASE("A chunk whose connection is lost between two pieces comes whole and in order") { run(cut_within_a_chunk); }
TEST_CASE("A chunk that was begun before there were further connections goes on where it was begun") { run(begun_before_there_are_more); }
TEST_CASE("The pieces of a chunk stay on one connection, however often that is lost") { run(lost_again_and_again); }
TEST_CASE("Connections are closed while chunks are under way, and nothing is lost; the first stays") { run(closed_down); }
TEST_CASE("Connections that were closed count for some minutes among those that chunks may still come by") { run(with_some_closed); }
TEST_CASE("With the first connection all end") { run(with_the_first_cut); }
TEST_CASE("Connections that are opened at once may come in any order, on both sides") {
  const auto near_order = GENERATE(from_range(orders()));
  const auto far_order = GENERATE(from_range(orders()));
  run([&](Both& both) { return with_three_at_once(both, near_order, far_order); });
}
TEST_CASE("What was placed on a connection that only one side added comes by the others") {
  const auto missing = GENERATE(1U, 2U, 3U);
  run([&](Both& both) { return with_one_only_near(both, missing); });
  run([&](Both& both) { return with_one_only_far(both, missing); });
}
TEST_CASE("To close a bundle closes all its connections") { run(closed); }
TEST_CASE("A message that takes back what is under way does not overtake it, and others do not overtake that") {
  const Message last = GENERATE(values<Message>({Message(reject(0)), Message(Gone{{7}}), Message(Leave{0})}));
  run([&](Both& both) { return with_what_must_wait(both, last); });
}
TEST_CASE("A message waits for what it was said to come after, and not for what those behind it wait for") { run(with_two_that_must_wait); }
TEST_CASE("Where nobody takes what came, little is read") { run(with_nobody_who_reads); }
TEST_CASE("Where nobody takes what came, few small frames and messages are read") { run(with_small_ones_and_nobody_who_reads); }
TEST_CASE("A connection that confirms nothing for half a minute is closed, and what it has goes by the others") {
  run(with_one_that_swallows);
}
TEST_CASE("A connection that carries nothing for a minute is closed, whoever opened it") { run(with_idle_ones); }
TEST_CASE("A connection that carries next to nothing for a minute is closed") { run(with_one_that_trickles); }
TEST_CASE("The place of a connection that is over is free, whether the other side gives it back or not") {
  run(with_one_that_never_gives_back);
}
TEST_CASE("Nobody gets a place where it has as many as are left for all others") {
  std::optional<Places> places(10);
  const int owners[5] = {};
  std::vector<std::shared_ptr<void>> taken;
  const auto take_all = [&](const int* owner) {
    std::size_t count = 0;
    while (auto place = places->take(owner)) {
      taken.push_back(std::move(place));
      ++count;
    }
    return count;
  };
  CHECK(take_all(&owners[0]) == 5);
  CHECK(take_all(&owners[1]) == 3);
  CHECK(take_all(&owners[2]) == 1);
  CHECK(take_all(&owners[0]) == 0);
  CHECK(take_all(&owners[3]) == 1);
  CHECK(take_all(&owners[4]) == 0);
  taken.erase(taken.begin(), taken.begin() + 2);
  CHECK(take_all(&owners[4]) == 1);
  places.reset();
  taken.clear();
}
TEST_CASE("A send that was begun before the bundle was ends before the next") { run(begun_within_a_send); }
TEST_CASE("A file that changed is not sent, and the bundle goes on") { run(with_a_file_that_changed); }
TEST_CASE("A bundle takes so many connections, each with a number of its own, and none before it is begun") { run(with_too_many); }
TEST_CASE("Nonsense on any connection ends the bundle") {
  using Nonsense = Task<> (*)(Link&, Link&);
  const auto nonsense = GENERATE(values<Nonsense>({say_twice, say_far_ahead, say_without_a_number, say_what_belongs_to_the_first,
                                                   say_more_than_is_kept, say_after_what_cannot_be, say_after_all, say_many_small_ones}));
  run([&](Both& both) { return told_nonsense(both, nonsense); });
}
TEST_CASE("What is said of connections and frames that there are not changes nothing, and is answered") { run(told_of_nothing); }
TEST_CASE("However often the end of a connection is told that there is not, one answer waits") {
  run([](Both& both) { return told_of_nothing_while_stuck(both, 30); });
}
TEST_CASE("Where many answers about connections wait that there are not, the bundle ends") {
  run([](Both& both) {
    both.connections[0].back->room = 0;
    return told_nonsense(both, say_of_many_that_are_not);
  });
}
