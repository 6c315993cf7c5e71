#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <tl/expected.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <variant>
#include <vector>

import shoal.base;
import shoal.digest;
import shoal.manifest;
import shoal.sim;
import shoal.wire;
import shoal.world;

using namespace shoal;
using namespace std::chrono_literals;
namespace asio = boost::asio;

namespace {

constexpr std::uint16_t kPort = 7;

/// Two hosts, and what their processes share. The first listens, the second connects.
struct Pair {
  explicit Pair(sim::HostOptions first = {}, sim::HostOptions second = {}, const sim::Options& options = {})
      : simulation(options), server(simulation.add_host(first)), client(simulation.add_host(second)) {}

  sim::Simulation simulation;
  sim::HostId server;
  sim::HostId client;
  std::optional<Error> failure;  ///< Of whichever step failed last.
  Nanoseconds done_at{0};
  std::vector<Nanoseconds> times;
  int done = 0;

  sim::Ending run(Nanoseconds time = 60s) {
    return simulation.run([] { return false; }, {time});
  }
  double seconds() const { return Seconds(done_at).count(); }
};

using Talk = std::function<Task<>(Pair& pair, World& world, Storage& storage, std::shared_ptr<Link> link)>;

Task<> accept_links(Pair& pair, World& world, Storage& storage, int links, Talk talk) {
  std::optional<Error> failure;
  TaskGroup tasks([&failure](const std::string&, const Error& error) { failure = error; });
  const std::shared_ptr<Listener> listener = unwrap(world.listen({"0.0.0.0", kPort}));
  for (int i = 0; i < links; ++i) {
    const Executor strand = make_strand(world);
    std::shared_ptr<Link> link = co_await step(listener->accept(strand));
    tasks.spawn(strand, "serving", talk(pair, world, storage, std::move(link)));
  }
  co_await tasks.join();
  if (failure) throw StepFailed(*failure);
}

Task<> connect_and(Pair& pair, World& world, Storage& storage, Talk talk) {
  auto link = co_await world.connect({pair.simulation.address_of(pair.server), kPort}, make_strand(world), 5s);
  if (!link) {
    pair.failure = link.error();
    pair.done_at = pair.simulation.now();
    co_return;
  }
  co_await talk(pair, world, storage, std::shared_ptr<Link>(std::move(*link)));
}

void start_server(Pair& pair, const Talk& talk) {
  pair.simulation.start(pair.server,
                        [&pair, talk](World& world, Storage& storage, Signal&) { return accept_links(pair, world, storage, 1, talk); });
}

void start_client(Pair& pair, const Talk& talk) {
  pair.simulation.start(pair.client,
                        [&pair, talk](World& world, Storage& storage, Signal&) { return connect_and(pair, world, storage, talk); });
}

// ---- what processes say to each other -----------------------------------------------------------------

void note_end(Pair& pair) {
  ++pair.done;
  pair.done_at = pair.simulation.now();
}

Task<> greet(Pair&, World&, Storage&, std::shared_ptr<Link> link) {
  Hello hello;
  hello.id = "client";
  co_await step(send(*link, hello));
  co_await step(receive<Welcome>(*link, 10s));
  link->established();
}

Task<> be_greeted(Pair&, World&, Storage&, std::shared_ptr<Link> link) {
  co_await step(receive<Hello>(*link, 10s));
  co_await step(send(*link, Welcome{1, 0, "server", 1}));
  link->established();
}

Task<> ping(Pair& pair, World& world, Storage& storage, std::shared_ptr<Link> link) {
  co_await greet(pair, world, storage, link);
  const Instant begun = world.now();
  co_await step(send(*link, Ping{1}));
  co_await step(receive<Pong>(*link, 10s));
  note_end(pair);
  pair.done_at = world.now() - begun;
}

Task<> answer(Pair& pair, World& world, Storage& storage, std::shared_ptr<Link> link) {
  co_await be_greeted(pair, world, storage, link);
  co_await step(receive<Ping>(*link, 10s));
  co_await step(send(*link, Pong{1, 2, 3}));
  auto end = co_await link->receive(60s);
  if (!end) pair.failure = end.error();
}

/// Sends the file of its folder, by chunks, and counts in `done` how many it got rid of.
Task<> send_chunks(Pair& pair, Storage& storage, std::shared_ptr<Link> link) {
  const auto scanned = unwrap(storage.scan({}));
  const auto& entry = scanned.files.front().entry;
  const auto source = unwrap(storage.open(entry));
  for (std::uint32_t chunk = 0; chunk < chunk_count(entry.size); ++chunk) {
    const ChunkHeader header{0, chunk, 0, chunk_length(entry.size, ChunkIndex(chunk))};
    if (auto sent = co_await link->send_chunk(header, source, std::uint64_t{chunk} * kChunkSize); !sent) {
      pair.failure = sent.error();
      pair.done_at = pair.simulation.now();
      co_return;
    }
    ++pair.done;
  }
  co_await link->receive(60s);
}

Task<> send_file(Pair& pair, World& world, Storage& storage, std::shared_ptr<Link> link) {
  co_await greet(pair, world, storage, link);
  co_await send_chunks(pair, storage, link);
}

Task<> serve_file(Pair& pair, World& world, Storage& storage, std::shared_ptr<Link> link) {
  co_await be_greeted(pair, world, storage, link);
  co_await send_chunks(pair, storage, link);
}

/// Receives three MiB in chunks, checks them against the content of seed 1, and says when it has them.
Task<> receive_chunks(Pair& pair, std::shared_ptr<Link> link) {
  const auto content = pair.simulation.content(1, 3 * kMiB);
  std::vector<std::byte> bytes(kChunkSize);
  for (std::uint32_t chunk = 0; chunk < 12; ++chunk) {
    auto incoming = co_await link->receive(10s);
    if (!incoming) {
      pair.failure = incoming.error();
      pair.done_at = pair.simulation.now();
      co_return;
    }
    co_await step(link->receive_payload(bytes));
    if (chunk_hash(bytes, content->size) != (*content->chunks)[chunk])
      throw StepFailed(Error{make_error_code(Errc::wrong_digest), "a chunk", {}});
  }
  pair.done_at = pair.simulation.now();
  pair.times.push_back(pair.done_at);
}

Task<> receive_file(Pair& pair, World& world, Storage& storage, std::shared_ptr<Link> link) {
  co_await be_greeted(pair, world, storage, link);
  co_await receive_chunks(pair, link);
}

Task<> fetch_file(Pair& pair, World& world, Storage& storage, std::shared_ptr<Link> link) {
  co_await greet(pair, world, storage, link);
  co_await receive_chunks(pair, link);
}

Task<> be_greeted_and_wait(Pair& pair, World& world, Storage& storage, std::shared_ptr<Link> link) {
  co_await be_greeted(pair, world, storage, link);
  co_await world.sleep(20s);
}

Task<> wait_for_anything(Pair& pair, World& world, Storage& storage, std::shared_ptr<Link> link) {
  co_await greet(pair, world, storage, link);
  auto incoming = co_await link->receive(15s);
  if (!incoming) pair.failure = incoming.error();
  pair.done_at = pair.simulation.now();
}

sim::HostOptions with_rates(double up, double down, Nanoseconds latency = 1ms) {
  sim::HostOptions options;
  options.up = up;
  options.down = down;
  options.latency = latency;
  return options;
}

// ---- order --------------------------------------------------------------------------------------------

Task<> sleep_and_note(World& world, std::string& order, char name) {
  co_await world.sleep(1s);
  order += name;
}

Task<> sleep_together(World& world, std::string& order) {
  TaskGroup tasks([](const std::string&, const Error&) {});
  for (char name = 'a'; name <= 'e'; ++name) tasks.spawn(make_strand(world), "sleeper", sleep_and_note(world, order, name));
  co_await tasks.join();
}

std::string order_of(std::uint64_t seed) {
  sim::Options options;
  options.seed = seed;
  sim::Simulation simulation(options);
  const auto host = simulation.add_host({});
  std::string order;
  simulation.start(host, [&order](World& world, Storage&, Signal&) { return sleep_together(world, order); });
  simulation.run([&] { return !simulation.is_running(host); });
  return order;
}

Task<> post_in_order(World& world, std::vector<int>& order) {
  const Executor strand = make_strand(world);
  for (int i = 0; i < 100; ++i) asio::post(strand, [&order, i] { order.push_back(i); });
  co_await run_on(strand, [] {});
}

Task<> note_stop(Signal& stop, bool& was_ended) {
  co_await stop.wait();
  was_ended = true;
}

Task<> wait_for(Signal& signal) { co_await signal.wait(); }

/// For longer than any test looks, but not for ever: a simulation ends with its processes.
Task<> keep_busy(World& world) {
  for (int i = 0; i < 60'000; ++i) co_await world.sleep(1ms);
}

Task<> work_and_note(World& world, std::vector<Nanoseconds>& times, Instant begun) {
  co_await offload(world, [] { return 0; });
  times.push_back(world.now() - begun);
}

Task<> look_at_clocks(World& world, Nanoseconds& passed, std::int64_t& wall) {
  const Instant begun = world.now();
  const std::int64_t wall_before = world.wall_clock_ns();
  co_await run_on(world.workers(), [] {});
  passed = world.now() - begun;
  wall = world.wall_clock_ns() - wall_before;
}

}  // namespace

TEST_CASE("Timers that are due together run in an order that the seed decides") {
  std::set<std::string> orders;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) orders.insert(order_of(seed));
  CHECK(orders.size() > 10);
  CHECK(order_of(7) == order_of(7));
}

TEST_CASE("What is posted to one strand runs in the order in which it was posted") {
  sim::Simulation simulation({});
  const auto host = simulation.add_host({});
  std::vector<int> order;
  simulation.start(host, [&order](World& world, Storage&, Signal&) { return post_in_order(world, order); });
  simulation.run([&] { return !simulation.is_running(host); });
  REQUIRE(order.size() == 100);
  CHECK(std::vector(order.begin(), order.end()) == [] {
    std::vector<int> sorted;
    for (int i = 0; i < 100; ++i) sorted.push_back(i);
    return sorted;
  }());
}

TEST_CASE("A goal that nothing can reach any more is a deadlock") {
  sim::Simulation simulation({});
  const auto host = simulation.add_host({});
  Signal never;
  simulation.start(host, [&never](World&, Storage&, Signal&) { return wait_for(never); });
  CHECK(simulation.run([&] { return !simulation.is_running(host); }) == sim::Ending::deadlock);
  never.notify();
  CHECK(simulation.run([&] { return !simulation.is_running(host); }) == sim::Ending::reached);
}

TEST_CASE("A run is bounded in virtual time and in steps") {
  sim::Simulation simulation({});
  const auto host = simulation.add_host({});
  simulation.start(host, [](World& world, Storage&, Signal&) { return keep_busy(world); });
  CHECK(simulation.run([] { return false; }, {1s}) == sim::Ending::too_long);
  CHECK(simulation.now() <= 1s);
  CHECK(simulation.run([] { return false; }, {1h, 100}) == sim::Ending::too_many);
}

TEST_CASE("Work takes the time of its host's workers") {
  sim::Simulation simulation({});
  sim::HostOptions slow;
  slow.work = 3ms;
  const auto host = simulation.add_host(slow);
  std::vector<Nanoseconds> times;
  simulation.start(host, [&times](World& world, Storage&, Signal&) { return work_and_note(world, times, world.now()); });
  simulation.run([&] { return !simulation.is_running(host); });
  REQUIRE(times.size() == 1);
  CHECK(times.front() == 3ms);
}

TEST_CASE("A host's clock drifts by its rate, and its wall clock jumps when told to") {
  sim::Simulation simulation({});
  sim::HostOptions fast;
  fast.drift_ppm = 100;
  fast.work = 1000s;
  const auto host = simulation.add_host(fast);
  Nanoseconds passed{0};
  std::int64_t wall = 0;
  simulation.start(host, [&](World& world, Storage&, Signal&) { return look_at_clocks(world, passed, wall); });
  simulation.after(10s, [&] { simulation.jump_wall_clock(host, -30s); });
  simulation.run([&] { return !simulation.is_running(host); });
  CHECK(passed > 1000s + 99ms);
  CHECK(passed < 1000s + 101ms);
  CHECK(wall == Nanoseconds(970s).count());
}

// ---- links --------------------------------------------------------------------------------------------

TEST_CASE("A message takes the latency of both hosts, each way") {
  Pair pair(with_rates(0, 0, 3ms), with_rates(0, 0, 4ms));
  start_server(pair, answer);
  start_client(pair, ping);
  pair.run();
  REQUIRE(pair.done == 1);
  CHECK(pair.done_at == 14ms);
}

TEST_CASE("Who closes in good order is heard to") {
  Pair pair;
  start_server(pair, answer);
  start_client(pair, ping);
  pair.run();
  REQUIRE(pair.failure);
  CHECK(pair.failure->code == make_error_code(Errc::closed));
}

TEST_CASE("A file crosses a link at the rate of the slower end, byte for byte") {
  const bool is_up_slow = GENERATE(true, false);
  Pair pair(with_rates(0, is_up_slow ? 0 : 1.0 * kMiB), with_rates(is_up_slow ? 1.0 * kMiB : 0, 0));
  pair.simulation.put(pair.client, "file", pair.simulation.content(1, 3 * kMiB));
  start_server(pair, receive_file);
  start_client(pair, send_file);
  pair.run();
  CHECK(pair.simulation.failures().empty());
  CHECK(pair.seconds() > 3.0);
  CHECK(pair.seconds() < 3.1);
}

TEST_CASE("Connections share an uplink, and a downlink, fairly") {
  const bool is_up_shared = GENERATE(true, false);
  Pair pair(is_up_shared ? with_rates(3.0 * kMiB, 0) : with_rates(0, 3.0 * kMiB), {});
  const auto other = pair.simulation.add_host({});
  for (const auto host : {pair.server, pair.client, other}) pair.simulation.put(host, "file", pair.simulation.content(1, 3 * kMiB));
  const Talk at_server = is_up_shared ? serve_file : receive_file;
  const Talk at_clients = is_up_shared ? fetch_file : send_file;
  pair.simulation.start(pair.server,
                        [&](World& world, Storage& storage, Signal&) { return accept_links(pair, world, storage, 2, at_server); });
  for (const auto host : {pair.client, other})
    pair.simulation.start(host, [&](World& world, Storage& storage, Signal&) { return connect_and(pair, world, storage, at_clients); });
  pair.run();
  REQUIRE(pair.times.size() == 2);
  CHECK(pair.times[0] > 1800ms);  // alone it would have taken one second; who comes first is ahead by a window
  CHECK(pair.times[1] < 2100ms);
}

TEST_CASE("Who does not read makes the sender wait") {
  sim::Options options;
  options.window = 512 * 1024;
  Pair pair({}, {}, options);
  pair.simulation.put(pair.client, "file", pair.simulation.content(1, 3 * kMiB));
  start_server(pair, be_greeted_and_wait);
  start_client(pair, send_file);
  pair.run(10s);
  // Two chunks in the receiver's buffer, one and a piece of another in the sender's.
  CHECK(pair.done >= 2);
  CHECK(pair.done <= 4);
}

TEST_CASE("A sender whose bytes nobody takes gives up after half a minute") {
  Pair pair(with_rates(1.0 * kMiB, 0), with_rates(1.0 * kMiB, 0));
  pair.simulation.put(pair.client, "file", pair.simulation.content(1, 3 * kMiB));
  start_server(pair, receive_file);
  start_client(pair, send_file);
  pair.simulation.after(1s, [&pair] { pair.simulation.partition(std::span(&pair.server, 1)); });
  pair.run();
  REQUIRE(pair.failure);
  CHECK(pair.failure->code == make_error_code(Errc::timed_out));
}

TEST_CASE("A partition holds bytes back until it is healed, and they come whole") {
  Pair pair(with_rates(1.0 * kMiB, 0), with_rates(1.0 * kMiB, 0));
  pair.simulation.put(pair.client, "file", pair.simulation.content(1, 3 * kMiB));
  start_server(pair, receive_file);
  start_client(pair, send_file);
  pair.simulation.after(1s, [&pair] { pair.simulation.partition(std::span(&pair.server, 1)); });
  pair.simulation.after(6s, [&pair] { pair.simulation.heal(); });
  pair.run();
  CHECK(pair.simulation.failures().empty());
  CHECK_FALSE(pair.failure);
  CHECK(pair.seconds() > 7.9);
  CHECK(pair.seconds() < 8.2);
}

TEST_CASE("A connection attempt across a partition times out, and one to a host where nobody listens is refused") {
  Pair pair;
  pair.simulation.partition(std::span(&pair.server, 1));
  start_server(pair, answer);
  start_client(pair, ping);
  pair.run(10s);
  REQUIRE(pair.failure);
  CHECK(pair.failure->code == make_error_code(Errc::timed_out));
  CHECK(pair.done_at == 5s);
  Pair alone;
  start_client(alone, ping);
  alone.run(10s);
  REQUIRE(alone.failure);
  CHECK(alone.failure->code == std::errc::connection_refused);
}

namespace {

/// Takes datagrams for as long as the process runs, and sends each back.
Task<> echo_datagrams(World& world) {
  const auto socket = unwrap(world.open_datagrams({"0.0.0.0", kPort}, make_strand(world)));
  std::vector<Datagram> some;
  for (;;) {
    co_await step(socket->receive(some));
    socket->send(some);
  }
}

/// Sends one every millisecond, and counts what comes back.
Task<> count_echoes(Pair& pair, World& world) {
  const std::shared_ptr<DatagramSocket> socket =
      unwrap(world.connect_datagrams({pair.simulation.address_of(pair.server), kPort}, make_strand(world)));
  const Instant begun = world.now();
  asio::co_spawn(
      world.executor(),
      [](World& at, std::shared_ptr<DatagramSocket> through) -> Task<> {
        for (std::uint64_t number = 0; number < 100; ++number) {
          const Datagram ping{{}, Ping{static_cast<std::int64_t>(number)}};
          through->send(std::span(&ping, 1));
          co_await at.sleep(1ms);
        }
        co_await at.sleep(100ms);
        through->close();
      }(world, socket),
      asio::detached);
  std::vector<Datagram> some;
  while (co_await socket->receive(some)) {
    if (pair.times.empty()) pair.times.push_back(world.now() - begun);
    pair.done += static_cast<int>(some.size());
  }
}

int echoes(Pair& pair) {
  pair.simulation.start(pair.server, [](World& world, Storage&, Signal&) { return echo_datagrams(world); });
  pair.simulation.start(pair.client, [&pair](World& world, Storage&, Signal&) { return count_echoes(pair, world); });
  pair.run(1s);
  return pair.done;
}

}  // namespace

TEST_CASE("A datagram takes the latency of both hosts, each way") {
  Pair pair({.latency = 1ms, .lies = {}}, {.latency = 2ms, .lies = {}});
  CHECK(echoes(pair) == 100);
  CHECK(pair.times.front() == 6ms);
}

TEST_CASE("Datagrams are lost as often as their sender's host says, across a partition always, and to nobody") {
  Pair all_lost({}, {.datagram_loss = 1, .lies = {}});
  CHECK(echoes(all_lost) == 0);
  Pair half_lost({}, {.datagram_loss = 0.5, .lies = {}});
  const int came = echoes(half_lost);
  CHECK((came > 25 && came < 75));
  Pair apart;
  apart.simulation.partition(std::span(&apart.server, 1));
  CHECK(echoes(apart) == 0);
  Pair nobody;
  nobody.simulation.start(nobody.client, [&nobody](World& world, Storage&, Signal&) { return count_echoes(nobody, world); });
  nobody.run(1s);
  CHECK(nobody.done == 0);
}

TEST_CASE("The end of a process is heard of at once, that of a machine by its silence") {
  const auto death = GENERATE(sim::Death::killed, sim::Death::power);
  Pair pair;
  start_server(pair, be_greeted_and_wait);
  start_client(pair, wait_for_anything);
  pair.simulation.after(1s, [&pair, death] { pair.simulation.kill(pair.server, death); });
  pair.run();
  REQUIRE(pair.failure);
  CHECK(pair.failure->code == make_error_code(death == sim::Death::killed ? Errc::closed : Errc::timed_out));
  CHECK((pair.seconds() < 2) == (death == sim::Death::killed));
}

TEST_CASE("A machine that is back resets connections that it does not know") {
  Pair pair;
  pair.simulation.put(pair.client, "file", pair.simulation.content(1, 3 * kMiB));
  start_server(pair, be_greeted_and_wait);
  start_client(pair, send_file);
  pair.simulation.after(1s, [&pair] { pair.simulation.kill(pair.server, sim::Death::power); });
  pair.simulation.after(5s, [&pair] { start_server(pair, answer); });
  pair.run(10s);
  REQUIRE(pair.failure);
  CHECK(pair.failure->code == std::errc::connection_reset);
}

TEST_CASE("A connection that is cut is reset at both ends") {
  Pair pair;
  start_server(pair, be_greeted_and_wait);
  start_client(pair, wait_for_anything);
  pair.simulation.after(1s, [&pair] { CHECK(pair.simulation.cut_connection(pair.client)); });
  pair.run(10s);
  REQUIRE(pair.failure);
  CHECK(pair.failure->code == std::errc::connection_reset);
}

// ---- processes that do not run, or read slowly --------------------------------------------------------

namespace {

Task<> note_seconds(Pair& pair, World& world) {
  for (int i = 0; i < 10; ++i) {
    co_await world.sleep(1s);
    pair.times.push_back(pair.simulation.now());
  }
}

}  // namespace

TEST_CASE("A stopped process does nothing until it goes on") {
  Pair pair;
  pair.simulation.start(pair.client, [&pair](World& world, Storage&, Signal&) { return note_seconds(pair, world); });
  pair.simulation.after(2500ms, [&pair] { pair.simulation.pause(pair.client); });
  pair.simulation.after(6500ms, [&pair] { pair.simulation.resume(pair.client); });
  pair.run();
  CHECK(pair.times == std::vector<Nanoseconds>{1s, 2s, 6500ms, 7500ms, 8500ms, 9500ms, 10500ms, 11500ms, 12500ms, 13500ms});
}

TEST_CASE("The system of a stopped process takes in what its window holds, and no more") {
  Pair pair;
  pair.simulation.put(pair.client, "file", pair.simulation.content(1, 3 * kMiB));
  start_server(pair, receive_file);
  start_client(pair, send_file);
  pair.simulation.after(1ms, [&pair] { pair.simulation.pause(pair.server); });
  pair.run(5s);
  CHECK(pair.done >= 2);
  CHECK(pair.done <= 5);
  pair.simulation.resume(pair.server);
  pair.run(5s);
  CHECK(pair.done == 12);
  CHECK(pair.times.size() == 1);
}

TEST_CASE("Who was stopped for too long finds its connections silent when it goes on, not before") {
  Pair pair;
  start_server(pair, be_greeted_and_wait);
  start_client(pair, wait_for_anything);
  pair.simulation.after(1s, [&pair] { pair.simulation.pause(pair.client); });
  pair.simulation.after(18s, [&pair] { pair.simulation.resume(pair.client); });
  pair.run();
  REQUIRE(pair.failure);
  CHECK(pair.failure->code == make_error_code(Errc::timed_out));
  CHECK(pair.done_at == 18s);
}

TEST_CASE("A stopped process can be killed") {
  Pair pair;
  start_server(pair, be_greeted_and_wait);
  pair.simulation.pause(pair.server);
  pair.run(1s);
  pair.simulation.kill(pair.server, sim::Death::killed);
  pair.run(1s);
  CHECK(pair.simulation.processes() == 0);
}

TEST_CASE("A slow reader holds its sender up") {
  sim::HostOptions slow;
  slow.reads = kMiB;
  Pair pair(slow);
  pair.simulation.put(pair.client, "file", pair.simulation.content(1, 3 * kMiB));
  start_server(pair, receive_file);
  start_client(pair, send_file);
  pair.run(1s);
  CHECK(pair.done >= 5);
  CHECK(pair.done <= 9);
  pair.run(5s);
  CHECK(pair.seconds() > 2.9);
  CHECK(pair.seconds() < 3.5);
}

TEST_CASE("What a mute host says waits until it is healed, and what others say goes on only as far as no answer is needed") {
  const bool is_sender = GENERATE(true, false);
  Pair pair(with_rates(kMiB, kMiB), with_rates(kMiB, kMiB));
  pair.simulation.put(pair.client, "file", pair.simulation.content(1, 3 * kMiB));
  start_server(pair, receive_file);
  start_client(pair, send_file);
  pair.simulation.after(1s, [&pair, is_sender] { pair.simulation.mute(is_sender ? pair.client : pair.server); });
  pair.run(5s);
  CHECK(pair.done <= (is_sender ? 6 : 8));
  CHECK(pair.done >= (is_sender ? 4 : 6));
  CHECK(pair.times.empty());
  pair.simulation.heal();
  pair.run(5s);
  CHECK(pair.done == 12);
  CHECK(pair.times.size() == 1);
}

namespace {

Task<> ask_for_chunks(Pair& pair, World& world, Storage& storage, std::shared_ptr<Link> link) {
  co_await greet(pair, world, storage, link);
  co_await step(send(*link, Request{{{0, 1}, {0, 2}}}));
  co_await link->receive(10s);
}

Task<> count_requests(Pair& pair, World& world, Storage& storage, std::shared_ptr<Link> link) {
  co_await be_greeted(pair, world, storage, link);
  const Request request = co_await step(receive<Request>(*link, 10s));
  pair.done = static_cast<int>(request.chunks.size());
  pair.done_at = pair.simulation.now();
}

}  // namespace

TEST_CASE("A silent liar does not hear of what it is asked for") {
  const double silence = GENERATE(0.0, 1.0);
  sim::HostOptions liar;
  liar.lies.silence = silence;
  Pair pair(liar);
  start_server(pair, count_requests);
  start_client(pair, ask_for_chunks);
  pair.run(5s);
  CHECK(pair.done_at > 0s);
  CHECK(pair.done == (silence > 0 ? 0 : 2));
}

// ---- contents and disks -------------------------------------------------------------------------------

TEST_CASE("A content's digests are those of its bytes") {
  sim::Simulation simulation({});
  const auto content = simulation.content(3, kChunkSize + 1000);
  CHECK(content->chunks->size() == 2);
  CHECK(content->root == merkle_root(*content->chunks));
  CHECK(simulation.content(3, kChunkSize + 1000) == content);
  CHECK(simulation.content(4, kChunkSize + 1000)->root != content->root);
}

namespace {

/// Fetches a file into the folder, chunk by chunk, as far as `chunks`; then waits for its end.
Task<> write_some(Pair& pair, Storage& storage, World& world, FileEntry entry, std::uint32_t chunks) {
  const auto file = unwrap(storage.open_partial(entry));
  const auto from = unwrap(storage.open(unwrap(storage.digest("file")).entry));
  std::vector<std::byte> bytes(kChunkSize);
  for (std::uint32_t chunk = 0; chunk < chunks; ++chunk) {
    unwrap(from->read(std::uint64_t{chunk} * kChunkSize, bytes));
    unwrap(file->write(std::uint64_t{chunk} * kChunkSize, bytes));
    ++pair.done;
  }
  co_await world.sleep(1min);
}

Task<> count_right(Pair& pair, Storage& storage, World& world, FileEntry entry, sim::ContentPtr content) {
  const auto file = unwrap(storage.open_partial(entry));
  pair.done = 0;
  std::vector<std::byte> bytes(kChunkSize);
  for (const ByteRange range : file->written())
    for (std::uint64_t at = range.begin; at < range.end; at += kChunkSize) {
      unwrap(file->read(at, bytes));
      if (world.digester().chunk_hash(bytes, content->size) == (*content->chunks)[at / kChunkSize]) ++pair.done;
    }
  co_return;
}

int right_after(sim::Death death, sim::Bytes bytes) {
  sim::Options options;
  options.bytes = bytes;
  Pair pair({}, {}, options);
  const auto content = pair.simulation.content(1, 100 * std::uint64_t{kChunkSize});
  FileEntry entry = pair.simulation.put(pair.client, "file", content);
  entry.name = "copy";
  pair.simulation.start(pair.client, [&](World& world, Storage& storage, Signal&) { return write_some(pair, storage, world, entry, 60); });
  pair.run(1s);
  REQUIRE(pair.done == 60);
  pair.simulation.kill(pair.client, death);
  pair.simulation.start(pair.client,
                        [&](World& world, Storage& storage, Signal&) { return count_right(pair, storage, world, entry, content); });
  pair.run(1s);
  return pair.done;
}

}  // namespace

TEST_CASE("What a killed process had written is there when it starts again; a loss of power takes some of it") {
  const auto bytes = GENERATE(sim::Bytes::real, sim::Bytes::marks);
  CHECK(right_after(sim::Death::killed, bytes) == 60);
  const int left = right_after(sim::Death::power, bytes);
  CHECK(left > 5);
  CHECK(left < 55);
}

TEST_CASE("A full disk says so") {
  sim::HostOptions small;
  small.disk_bytes = 100 * std::uint64_t{kChunkSize} + 10 * kChunkSize;
  Pair pair({}, small);
  const auto content = pair.simulation.content(1, 100 * std::uint64_t{kChunkSize});
  FileEntry entry = pair.simulation.put(pair.client, "file", content);
  entry.name = "copy";
  pair.simulation.start(pair.client, [&](World& world, Storage& storage, Signal&) { return write_some(pair, storage, world, entry, 60); });
  pair.run(1s);
  CHECK(pair.done == 10);
  REQUIRE(pair.simulation.failures().size() == 1);
  CHECK(pair.simulation.failures().front().find("space") != std::string::npos);
}

namespace {

Task<> copy_to(Pair& pair, Storage& storage, std::string name) {
  const StoredFile from = unwrap(storage.digest("other"));
  FileEntry to = from.entry;
  to.name = std::move(name);
  pair.done = storage.exists("readme") ? 1 : 0;
  unwrap(storage.copy(from, to));
  co_return;
}

}  // namespace

TEST_CASE("A disk that folds names keeps one file of those that are one, and says how it folds") {
  const bool folds = GENERATE(false, true);
  sim::HostOptions host;
  host.disk_folding.letter_case = folds;
  Pair pair({}, host);
  const auto old = pair.simulation.content(1, 1000);
  const auto fresh = pair.simulation.content(2, 2000);
  pair.simulation.put(pair.client, "README", old);
  pair.simulation.put(pair.client, "other", fresh);
  NameFolding told;
  pair.simulation.start(pair.client, [&](World&, Storage& storage, Signal&) {
    told = storage.folding();
    return copy_to(pair, storage, "readme");
  });
  pair.run(1s);
  CHECK(told == host.disk_folding);
  CHECK((pair.done == 1) == folds);
  CHECK(pair.simulation.has(pair.client, "readme", *fresh));
  CHECK(pair.simulation.has(pair.client, "README", *old) != folds);
}

TEST_CASE("What still runs when a simulation ends is ended with it") {
  bool was_ended = false;
  {
    sim::Simulation simulation({});
    const auto host = simulation.add_host({});
    simulation.start(host, [&was_ended](World&, Storage&, Signal& stop) { return note_stop(stop, was_ended); });
    simulation.run([] { return false; }, {1s});
    CHECK(simulation.processes() == 1);
  }
  CHECK(was_ended);
}

namespace {

Task<> sleep_a_second(World& world) { co_await world.sleep(1s); }

/// Cancels sleepers at the moment at which they are due.
Task<> cancel_when_due(World& world) {
  TaskGroup tasks([](const std::string&, const Error&) {});
  for (int i = 0; i < 100; ++i) tasks.spawn(make_strand(world), "sleeper", sleep_a_second(world));
  co_await run_on(make_strand(world), [] {});
  co_await world.sleep(1s);
  tasks.cancel();
  co_await tasks.join();
}

}  // namespace

namespace {

/// Writes chunks of a file one after the other, each on a worker; counts them, and what failed.
Task<> write_on_workers(Pair& pair, Storage& storage, World& world, FileEntry entry, std::uint32_t chunks) {
  const auto file = unwrap(storage.open_partial(entry));
  const std::vector<std::byte> bytes(kChunkSize);
  for (std::uint32_t chunk = 0; chunk < chunks; ++chunk) {
    const auto written = co_await offload(world, [&] { return file->write(std::uint64_t{chunk} * kChunkSize, bytes); });
    if (!written) {
      pair.failure = written.error();
      co_await world.sleep(1s);
      continue;
    }
    ++pair.done;
    pair.times.push_back(pair.simulation.now());
  }
}

void start_writing(Pair& pair, std::uint32_t chunks) {
  FileEntry entry = pair.simulation.put(pair.client, "file", pair.simulation.content(1, 100 * std::uint64_t{kChunkSize}));
  entry.name = "copy";
  pair.simulation.start(pair.client, [&pair, entry, chunks](World& world, Storage& storage, Signal&) {
    return write_on_workers(pair, storage, world, entry, chunks);
  });
}

Task<> try_everything(Pair& pair, Storage& storage, World& world, std::vector<std::error_code>& errors) {
  const FileEntry entry;
  errors = {storage.scan({}).error().code, storage.digest("file").error().code, storage.open(entry).error().code,
            storage.open_partial(entry).error().code, storage.make_empty(entry).error().code};
  co_await world.sleep(1s);
  if (storage.scan({})) ++pair.done;
}

}  // namespace

TEST_CASE("On a slow disk, workers wait for what was written before") {
  sim::HostOptions slow;
  slow.disk_rate = kChunkSize;
  Pair pair({}, slow);
  start_writing(pair, 10);
  pair.run();
  REQUIRE(pair.times.size() == 10);
  CHECK(pair.times.front() == 0s);
  CHECK(pair.times.back() == 9s);
}

TEST_CASE("A disk that becomes full takes bytes again when it is freed") {
  Pair pair;
  start_writing(pair, 10);
  pair.simulation.set_disk_bytes(pair.client, 104 * std::uint64_t{kChunkSize});
  pair.simulation.after(2500ms, [&pair] { pair.simulation.set_disk_bytes(pair.client, 200 * std::uint64_t{kChunkSize}); });
  pair.run();
  REQUIRE(pair.failure);
  CHECK(pair.failure->code == std::errc::no_space_on_device);
  CHECK(pair.done == 7);  // one fails a second
}

TEST_CASE("A broken disk neither reads nor writes until it is mended") {
  Pair pair;
  start_writing(pair, 10);
  std::vector<std::error_code> errors;
  pair.simulation.break_disk(pair.server, true);
  pair.simulation.start(pair.server, [&](World& world, Storage& storage, Signal&) { return try_everything(pair, storage, world, errors); });
  pair.simulation.after(500ms, [&pair] { pair.simulation.break_disk(pair.server, false); });
  pair.run();
  CHECK(errors == std::vector<std::error_code>(5, std::make_error_code(std::errc::io_error)));
  CHECK(pair.done == 11);
}

TEST_CASE("Who is cancelled at the moment at which its sleep ends is gone in good order") {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    sim::Options options;
    options.seed = seed;
    sim::Simulation simulation(options);
    const auto host = simulation.add_host({});
    simulation.start(host, [](World& world, Storage&, Signal&) { return cancel_when_due(world); });
    CHECK(simulation.run([&] { return simulation.processes() == 0; }) == sim::Ending::reached);
  }
}
