// What the simulated TCP does, against what is known of the real one.
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_floating_point.hpp>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

import shoal.base;
import shoal.digest;
import shoal.manifest;
import shoal.sim;
import shoal.wire;
import shoal.world;

using namespace shoal;
using namespace std::chrono_literals;
using Catch::Matchers::WithinRel;
using sim::CongestionControl;
using sim::CongestionWindow;
using sim::kInitialWindow;
using sim::kSegment;

namespace {

// ---- the window by itself -----------------------------------------------------------------------------

/// A sender that always has more to say, a window a round trip.
struct Sender {
  Sender(CongestionControl control, Nanoseconds rtt) : window(control, rtt), round_trip(rtt) {}

  /// Sends all that it may, and hears after a round trip that it came; of which something was lost, if `is_lossy`.
  void round(bool is_lossy = false) {
    const Nanoseconds sent_at = now;
    const std::uint64_t bytes = window.allowed(sent_at);
    window.on_sent(sent_at, bytes);
    now += round_trip;
    window.on_acked(now, sent_at, bytes);
    if (is_lossy) window.on_lost(now, sent_at);
  }

  CongestionWindow window;
  Nanoseconds round_trip;
  Nanoseconds now{0};
};

}  // namespace

TEST_CASE("A window begins with ten segments, and doubles each round trip") {
  const auto control = GENERATE(CongestionControl::reno, CongestionControl::cubic, CongestionControl::bbr);
  Sender sender(control, 100ms);
  for (unsigned round = 0; round < 8; ++round) {
    CHECK(sender.window.size() == kInitialWindow << round);
    sender.round();
  }
}

TEST_CASE("What is under way is not allowed again until it is acknowledged") {
  CongestionWindow window(CongestionControl::cubic, 100ms);
  window.on_sent(0ms, 4 * kSegment);
  CHECK(window.in_flight() == 4 * kSegment);
  CHECK(window.allowed(0ms) == 6 * kSegment);
  window.on_sent(1ms, 6 * kSegment);
  CHECK(window.allowed(1ms) == 0);
  window.on_acked(100ms, 0ms, 4 * kSegment);
  CHECK(window.in_flight() == 6 * kSegment);
  CHECK(window.allowed(100ms) == 8 * kSegment);  // the four that left, and four more
}

TEST_CASE("A window that nobody fills does not grow") {
  const auto control = GENERATE(CongestionControl::reno, CongestionControl::cubic, CongestionControl::bbr);
  CongestionWindow window(control, 100ms);
  for (int round = 0; round < 50; ++round) {
    window.on_sent(round * 100ms, kSegment);
    window.on_acked((round + 1) * 100ms, round * 100ms, kSegment);
  }
  CHECK(window.size() == kInitialWindow);
}

TEST_CASE("After a loss Reno has half of its window, and one segment more each round trip") {
  Sender sender(CongestionControl::reno, 100ms);
  for (int round = 0; round < 5; ++round) sender.round();
  const std::uint64_t before = sender.window.size();
  sender.round(true);
  const std::uint64_t after = sender.window.size();
  CHECK(after == before);  // it had doubled once more
  for (int round = 0; round < 10; ++round) sender.round();
  CHECK_THAT(static_cast<double>(sender.window.size() - after), WithinRel(10.0 * kSegment, 0.01));
}

TEST_CASE("Losses of one round trip count once") {
  CongestionWindow window(CongestionControl::reno, 100ms);
  window.on_sent(0ms, 5 * kSegment);
  window.on_sent(1ms, 5 * kSegment);
  window.on_lost(100ms, 0ms);
  const std::uint64_t after = window.size();
  CHECK(after == kInitialWindow / 2);
  window.on_lost(101ms, 1ms);
  CHECK(window.size() == after);
  window.on_lost(250ms, 150ms);
  CHECK(window.size() < after);
}

TEST_CASE("After a loss CUBIC has 0.7 of its window, and is back where it was after the time that its RFC says") {
  Sender sender(CongestionControl::cubic, 50ms);
  for (int round = 0; round < 6; ++round) sender.round();
  sender.round(true);
  const double highest = static_cast<double>(sender.window.size()) / 0.7 / kSegment;
  const Nanoseconds lost_at = sender.now;
  while (static_cast<double>(sender.window.size()) < 0.99 * highest * kSegment && sender.now < lost_at + 60s) sender.round();
  const double expected = std::cbrt(highest * 0.3 / 0.4) - std::cbrt(highest * 0.01 / 0.4);  // when 1 % is left
  CHECK_THAT(Seconds(sender.now - lost_at).count(), WithinRel(expected, 0.1));
}

TEST_CASE("BBR's window is twice what the link holds, whatever is lost") {
  // A link of 10 MB/s and 100 ms: it holds 1 MB, and takes longer where more is under way.
  constexpr double kRate = 10e6;
  CongestionWindow window(CongestionControl::bbr, 100ms);
  std::deque<std::pair<Nanoseconds, Nanoseconds>> on_the_way;  // when each burst of ten segments was sent, and when it is acknowledged
  Nanoseconds now{0};
  Nanoseconds free_at{0};
  while (now < 20s) {
    for (; window.allowed(now) >= kInitialWindow; window.on_sent(now, kInitialWindow)) {
      free_at = std::max(free_at, now) + Nanoseconds(static_cast<std::int64_t>(kInitialWindow / kRate * 1e9));
      on_the_way.emplace_back(now, free_at + 100ms);
    }
    const auto [sent_at, acked_at] = on_the_way.front();
    on_the_way.pop_front();
    now = acked_at;
    window.on_acked(now, sent_at, kInitialWindow);
    window.on_lost(now, sent_at);
  }
  CHECK_THAT(static_cast<double>(window.size()), WithinRel(2 * kRate * 0.1, 0.1));
}

TEST_CASE("After a pause the window is halved for each timeout, and is not less than at first; BBR keeps it") {
  Sender sender(CongestionControl::reno, 100ms);
  for (int round = 0; round < 6; ++round) sender.round();
  const std::uint64_t before = sender.window.size();
  const auto after = [&](Nanoseconds pause) {
    CongestionWindow window = sender.window;
    window.on_sent(sender.now + pause, kSegment);
    return window.size();
  };
  CHECK(after(100ms) == before);  // with the round trip that it waited: 200 ms
  CHECK(after(250ms) == before / 2);
  CHECK(after(550ms) == before / 4);
  CHECK(after(1h) == kInitialWindow);

  Sender steady(CongestionControl::bbr, 100ms);
  for (int round = 0; round < 6; ++round) steady.round();
  const std::uint64_t kept = steady.window.size();
  steady.window.on_sent(steady.now + 1h, kSegment);
  CHECK(steady.window.size() == kept);
}

// ---- the window in the network ------------------------------------------------------------------------

namespace {

constexpr std::uint16_t kPort = 7;

/// A file that goes from one host to the other over one connection.
struct Move {
  sim::HostOptions from;
  sim::HostOptions to;
  std::uint64_t bytes = 10 * kMiB;
  std::uint64_t seed = 1;
  int times = 1;                    ///< That it is sent, one after the other,
  Nanoseconds pause{0};             ///< so much after the end of the last.
  std::vector<Nanoseconds> took{};  ///< From each beginning to the last byte.
  std::function<void(sim::Simulation&)> faults{};
  std::vector<sim::SiteLink> between{};  ///< What lies between them, if anything does.
  std::uint64_t steps = 0;
};

Task<> receive_all(World& world, Move& move, Instant& begun) {
  const auto listener = unwrap(world.listen({"0.0.0.0", kPort}));
  const std::shared_ptr<Link> link = co_await step(listener->accept(make_strand(world)));
  std::vector<std::byte> bytes(kChunkSize);
  for (int time = 0; time < move.times; ++time) {
    for (std::uint64_t chunk = 0; chunk < chunk_count(move.bytes); ++chunk) {
      const auto incoming = co_await step(link->receive(300s));
      static_cast<void>(incoming);
      co_await step(link->receive_payload(std::span(bytes).first(chunk_length(move.bytes, ChunkIndex(static_cast<std::uint32_t>(chunk))))));
    }
    move.took.push_back(world.now() - begun);
    co_await step(send(*link, Ping{1}));
  }
}

Task<> send_all(World& world, Storage& storage, std::string address, Move& move, Instant& begun, World*& receiver) {
  const std::shared_ptr<Link> link = co_await step(world.connect({std::move(address), kPort}, make_strand(world), 5s));
  const auto scanned = unwrap(storage.scan({}));
  const auto& entry = scanned.files.front().entry;
  const auto source = unwrap(storage.open(entry));
  for (int time = 0; time < move.times; ++time) {
    if (time > 0) co_await world.sleep(move.pause);
    begun = receiver->now();
    for (std::uint32_t chunk = 0; chunk < chunk_count(entry.size); ++chunk) {
      const ChunkHeader header{0, chunk, 0, chunk_length(entry.size, ChunkIndex(chunk))};
      co_await step(link->send_chunk(header, source, std::uint64_t{chunk} * kChunkSize));
    }
    co_await step(receive<Ping>(*link, 300s));
  }
}

/// Says how long each time took, in seconds; nothing where it did not get through.
std::vector<double> run(Move& move) {
  sim::Options options;
  options.seed = move.seed;
  options.bytes = sim::Bytes::marks;
  options.messages = sim::Messages::values;
  sim::Simulation simulation(options);
  if (!move.between.empty()) {
    move.to.site = sim::SiteId(1);
    simulation.link_sites(move.from.site, move.to.site, move.between.front());
  }
  const auto from = simulation.add_host(move.from);
  const auto to = simulation.add_host(move.to);
  simulation.put(from, "file", simulation.content(1, move.bytes));
  Instant begun;
  World* receiver = nullptr;
  simulation.start(to, [&](World& world, Storage&, Signal&) {
    receiver = &world;
    return receive_all(world, move, begun);
  });
  simulation.start(from, [&](World& world, Storage& storage, Signal&) {
    return send_all(world, storage, simulation.address_of(to), move, begun, receiver);
  });
  if (move.faults) move.faults(simulation);
  simulation.run([&] { return simulation.processes() == 0; }, {1h});
  CHECK(simulation.failures().empty());
  move.steps = simulation.steps();
  std::vector<double> seconds;
  for (const Nanoseconds took : move.took) seconds.push_back(Seconds(took).count());
  return seconds;
}

/// One host of a pair that is a round trip apart.
sim::HostOptions host_at(Nanoseconds round_trip, CongestionControl control, double rate = 0) {
  sim::HostOptions host;
  host.up = host.down = rate;
  host.latency = round_trip / 4;
  host.tcp.control = control;
  return host;
}

/// So many that what a connection begins with does not count beside what it comes to.
std::uint64_t bytes_for(double loss) { return static_cast<std::uint64_t>(300 / loss) * kSegment; }

double rate_of(Move move) { return static_cast<double>(move.bytes) / run(move).at(0); }

}  // namespace

TEST_CASE("From slow start, 10 MiB take nine round trips and a half over a link that is never full") {
  // After n round trips 10 · 1448 · (2^n − 1) bytes were sent. At n = 9 these are 7.4 MB, but no more than 4 MiB are under way: 10 MiB
  // leave in the tenth, and come half a round trip later.
  const auto control = GENERATE(CongestionControl::reno, CongestionControl::cubic, CongestionControl::bbr);
  Move move{host_at(100ms, control), host_at(100ms, control)};
  CHECK_THAT(run(move).at(0), WithinRel(0.95, 0.06));
}

TEST_CASE("Without a congestion control a rate is there at once") {
  Move move{host_at(100ms, CongestionControl::none, 100e6), host_at(100ms, CongestionControl::none, 100e6)};
  CHECK_THAT(run(move).at(0), WithinRel(0.05 + 10.0 * kMiB / 100e6, 0.05));
}

TEST_CASE("A socket has 4 MiB under way: 168 Mbit a second over a round trip of 200 ms, 56 over 600") {
  const auto round_trip = GENERATE(200ms, 600ms);
  Move move{host_at(round_trip, CongestionControl::cubic), host_at(round_trip, CongestionControl::cubic), 800 * kMiB};
  CHECK_THAT(rate_of(move), WithinRel(4.0 * kMiB / Seconds(round_trip).count(), 0.06));
  move.to.tcp.receive_buffer = kMiB;
  CHECK_THAT(rate_of(move), WithinRel(1.0 * kMiB / Seconds(round_trip).count(), 0.06));
}

TEST_CASE("Under random loss Reno has 1.22 segments a round trip, divided by the root of the loss") {
  // Mathis, Semke, Mahdavi, Ott 1997.
  const double loss = GENERATE(0.0002, 0.001, 0.01);
  Move move{host_at(100ms, CongestionControl::reno), host_at(100ms, CongestionControl::reno)};
  move.bytes = bytes_for(loss);
  move.from.tcp.loss = loss;
  CHECK_THAT(rate_of(move), WithinRel(kSegment / 0.1 * std::sqrt(1.5 / loss), 0.25));
}

TEST_CASE("Under random loss CUBIC has what its RFC says, and BBR nearly all of the link") {
  // RFC 9438, 5: 1.054 / RTT^(1/4) / p^(3/4) segments a round trip, where that is more than Reno has.
  Move move{host_at(200ms, CongestionControl::cubic), host_at(200ms, CongestionControl::cubic), bytes_for(1e-3)};
  move.from.tcp.loss = 1e-3;
  const double segments = 1.054 * std::pow(0.2, 0.75) / std::pow(1e-3, 0.75);
  CHECK_THAT(rate_of(move), WithinRel(kSegment / 0.2 * segments, 0.3));

  Move steady{host_at(40ms, CongestionControl::bbr, 12.5e6), host_at(40ms, CongestionControl::bbr, 12.5e6), 100 * kMiB};
  steady.from.tcp.loss = 0.01;
  CHECK(rate_of(steady) > 0.9 * 12.5e6);
  steady.from.tcp.control = CongestionControl::cubic;
  CHECK(rate_of(steady) < 0.3 * 12.5e6);
}

TEST_CASE("A loss holds up what comes after it by a round trip") {
  // A burst at a time: of a hundred messages of a chunk each, those that lose a segment come a round trip late, and no other.
  Move move{host_at(100ms, CongestionControl::bbr), host_at(100ms, CongestionControl::bbr), 100 * kSegment};
  move.times = 50;
  move.from.tcp.loss = 0.002;
  const auto took = run(move);
  REQUIRE(took.size() == 50);
  const auto late = std::ranges::count_if(took, [](double seconds) { return seconds > 0.149 + 0.1; });
  CHECK(late > 1);
  CHECK(late < 40);
}

TEST_CASE("After a pause of a minute a connection starts again as it did at first") {
  Move move{host_at(100ms, CongestionControl::cubic), host_at(100ms, CongestionControl::cubic), 4 * kMiB};
  move.times = 3;
  move.pause = 60s;
  const auto took = run(move);
  REQUIRE(took.size() == 3);
  CHECK_THAT(took[2], WithinRel(took[0], 0.02));
  move.took.clear();
  move.pause = 0s;
  CHECK(run(move).at(2) < took[0] / 2);
}

TEST_CASE("A partition takes acknowledgements, and what follows it is whole") {
  const auto control = GENERATE(CongestionControl::reno, CongestionControl::cubic, CongestionControl::bbr);
  Move move{host_at(100ms, control, 4e6), host_at(100ms, control, 4e6)};
  move.from.tcp.loss = 0.001;
  move.faults = [](sim::Simulation& simulation) {
    simulation.after(1s, [&simulation] { simulation.mute(sim::HostId(1)); });
    simulation.after(6s, [&simulation] { simulation.heal(); });
  };
  const auto took = run(move);
  REQUIRE(took.size() == 1);
  CHECK(took[0] > 6);
  CHECK(took[0] < 25);
}

TEST_CASE("Two sites are as far apart as their link says, and share its rate") {
  Move move{host_at(2ms, CongestionControl::none), host_at(2ms, CongestionControl::none)};
  move.between.push_back({.latency = 100ms, .rate = 1.0 * kMiB});
  CHECK_THAT(run(move).at(0), WithinRel(10.1, 0.02));
}

TEST_CASE("A queue between sites that is full makes senders back off, and the link stays busy") {
  const auto control = GENERATE(CongestionControl::reno, CongestionControl::cubic);
  Move move{host_at(2ms, control), host_at(2ms, control), 100 * kMiB};
  move.between.push_back({.latency = 20ms, .rate = 10e6, .queue = 512 * 1024});
  CHECK(rate_of(move) > 0.85 * 10e6);
  CHECK(rate_of(move) < 10e6);
}

TEST_CASE("A large file costs a few steps a burst, not some for each packet") {
  Move move{host_at(100ms, CongestionControl::cubic, 100e6), host_at(100ms, CongestionControl::cubic, 100e6), 100 * kMiB};
  run(move);
  CHECK(move.steps < 10 * (100 * kMiB / (64 * 1024)));
  CHECK(move.steps > 100 * kMiB / (64 * 1024));
}
