// Clock peers and their tracker, as they ship, in virtual time.
#include <fmt/core.h>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <variant>
#include <vector>

import shoal.base;
import shoal.clock;
import shoal.peer;
import shoal.report;
import shoal.sim;
import shoal.tracker;
import shoal.wire;
import shoal.world;

#include "support/memory_records.hpp"
#include "support/silent_report.hpp"

using namespace shoal;
using namespace std::chrono_literals;

namespace {

constexpr std::uint16_t kPort = 5555;
constexpr const char* kServerTable = "serverTimeData.txt";

/// A tracker and processes of clock peers, each on a machine of its own.
struct Lab {
  explicit Lab(std::uint64_t seed = 1) : simulation({.seed = seed}), tracker(simulation.add_host({})) {}
  ~Lab() { is_ending = true; }

  struct Process {
    sim::HostId host;
    ClockOptions options;
    std::optional<Result<ClockResult>> result;
    test::MemoryRecords records;
    const ClockOutcome& only() const { return (*result)->peers.front(); }
    ExitCode exit() const { return *result ? (**result).exit : exit_code_of(result->error()); }
  };

  void start_tracker() {
    simulation.start(tracker, [this](World& world, Storage&, Signal& stop) { return run_tracker_of(*this, world, stop); });
  }
  /// Now, or later with start().
  Process& add(Nanoseconds duration, std::uint32_t count = 1, const sim::HostOptions& host = {}) {
    processes.push_back(std::make_unique<Process>());
    Process& process = *processes.back();
    process.host = simulation.add_host(host);
    process.options.tracker = {simulation.address_of(tracker), kPort};
    process.options.listen = {simulation.address_of(process.host), 0};
    process.options.count = count;
    process.options.duration = duration;
    return process;
  }
  void start(Process& process) {
    simulation.start(process.host,
                     [this, &process](World& world, Storage&, Signal& stop) { return run_peers_of(*this, process, world, stop); });
  }
  Process& add_and_start(Nanoseconds duration, std::uint32_t count = 1, const sim::HostOptions& host = {}) {
    Process& process = add(duration, count, host);
    start(process);
    return process;
  }
  void pass(Nanoseconds time) {
    simulation.run([] { return false; }, {time});
  }
  /// Until all peers have ended, but for those that were killed.
  bool ends_within(Nanoseconds time) {
    const auto all_ended = [this] {
      return std::ranges::all_of(processes, [this](const auto& each) { return each->result || !simulation.is_running(each->host); });
    };
    return simulation.run(all_ended, {time}) == sim::Ending::reached;
  }

  static Task<> run_tracker_of(Lab& lab, World& world, Signal& stop) {
    const test::SilentReport silence;
    TrackerOptions options;
    options.listen = {"0.0.0.0", kPort};
    options.records = lab.server;
    unwrap(co_await run_tracker(world, *silence.report, options, stop));
  }
  static Task<> run_peers_of(Lab& lab, Process& process, World& world, Signal& stop) {
    const test::SilentReport silence;
    auto result = co_await run_clock(world, *silence.report, process.records, process.options, stop);
    if (!lab.is_ending) process.result.emplace(std::move(result));
  }

  bool is_ending = false;
  std::shared_ptr<test::MemoryRecords> server = std::make_shared<test::MemoryRecords>();
  std::vector<std::unique_ptr<Process>> processes;
  sim::Simulation simulation;
  sim::HostId tracker;
};

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

/// What is wrong with the form of a table; nothing where it is right.
std::string fault_of(const std::string& text, const std::string& duration) {
  const auto lines = lines_of(text);
  if (lines.size() < 4 || lines[0] != "Timestamp Data" || lines[1] != "| # | Sender's IP | Receiver's IP | Date | Time |" ||
      lines[2] != "|---|---|---|---|---|")
    return "no head";
  if (lines.back() != "End of Timestamp Data (after " + duration + ")") return "the last line is " + lines.back();
  for (std::size_t i = 3; i + 1 < lines.size(); ++i)
    if (!lines[i].starts_with(fmt::format("| {} | ", i - 2)) || !lines[i].ends_with(" |")) return "row " + lines[i];
  return {};
}

std::size_t rows_of(const std::string& text) { return lines_of(text).size() - 4; }

std::string own_table(const Lab::Process& process, const std::string& id) { return process.records.text(TimeTable::file_of(id)); }

/// Tables that did not reach a peer as they are.
std::vector<std::string> missing_tables(const Lab& lab) {
  std::vector<std::string> missing;
  for (const auto& to : lab.processes)
    for (const auto& from : lab.processes) {
      if (!to->result || !from->result || !*to->result || !*from->result) continue;
      for (const auto& receiver : (**to->result).peers)
        for (const auto& sender : (**from->result).peers) {
          if (receiver.id == sender.id) continue;
          const std::string copy = to->records.text(TimeTable::received_file(receiver.id, sender.id));
          if (copy.empty() || copy != own_table(*from, sender.id)) missing.push_back(sender.id + " at " + receiver.id);
        }
    }
  return missing;
}

}  // namespace

// ---- a run --------------------------------------------------------------------------------------------

TEST_CASE("Four clock peers tick for their time, and everyone has everyone's table") {
  Lab lab(GENERATE(Catch::Generators::range<std::uint64_t>(1, 6)));
  lab.start_tracker();
  for (int i = 0; i < 4; ++i) lab.add_and_start(5s, 1, {.jitter = 2ms, .drift_ppm = 50.0 * i - 100, .wall_offset = i * 3s, .lies = {}});
  REQUIRE(lab.ends_within(30s));
  std::size_t rows = 0;
  for (const auto& process : lab.processes) {
    CHECK(process->exit() == ExitCode::done);
    const ClockSummary& summary = process->only().summary;
    CHECK((summary.sent == 500 && summary.answered == 500 && summary.missed == 0 && summary.gaps == 0));
    CHECK(std::abs(summary.interval_mean - 10e6) < 1e3);
    CHECK(fault_of(own_table(*process, process->only().id), "5 seconds") == "");
    CHECK(rows_of(own_table(*process, process->only().id)) == 1000);
    rows += 1000;
  }
  CHECK(missing_tables(lab).empty());
  lab.pass(1s);
  CHECK(fault_of(lab.server->text(kServerTable), "5 seconds") == "");
  CHECK(rows_of(lab.server->text(kServerTable)) == rows);
}

TEST_CASE("Peers of one process get the numbers from 0 on, and a file each") {
  Lab lab;
  lab.start_tracker();
  auto& process = lab.add_and_start(1s, 20);
  REQUIRE(lab.ends_within(30s));
  std::vector<std::string> ids;
  for (const auto& peer : (**process.result).peers) ids.push_back(peer.id);
  std::ranges::sort(ids, {}, [](const std::string& id) { return std::stoi(id); });
  for (std::size_t i = 0; i < 20; ++i) CHECK(ids[i] == std::to_string(i));
  CHECK(missing_tables(lab).empty());
}

TEST_CASE("The summary's offset is that of the wall clocks, positive where the local one is fast, and its bound is true") {
  Lab lab;
  lab.start_tracker();
  auto& fast = lab.add_and_start(3s, 1, {.wall_offset = 2s, .lies = {}});
  auto& slow = lab.add_and_start(3s, 1, {.jitter = 5ms, .wall_offset = -1h, .lies = {}});
  REQUIRE(lab.ends_within(30s));
  const auto is_true = [](const ClockSummary& summary, Nanoseconds offset) {
    return std::abs(summary.offset_last - static_cast<double>(offset.count())) <= summary.bound;
  };
  CHECK(is_true(fast.only().summary, 2s));
  CHECK(is_true(slow.only().summary, -1h));
}

TEST_CASE("A peer that starts while others are under way disturbs nobody, and has all tables at the end") {
  Lab lab;
  lab.start_tracker();
  for (int i = 0; i < 3; ++i) lab.add_and_start(4s);
  lab.pass(2s);
  auto& late = lab.add_and_start(4s);
  REQUIRE(lab.ends_within(30s));
  CHECK(late.only().id == "3");
  for (const auto& process : lab.processes) {
    CHECK(process->exit() == ExitCode::done);
    CHECK(process->only().summary.sent == 400);
  }
  CHECK(missing_tables(lab).empty());
}

TEST_CASE("A new run needs no new tracker, and begins a table of its own") {
  Lab lab;
  lab.start_tracker();
  lab.add_and_start(1s, 2);
  REQUIRE(lab.ends_within(30s));
  lab.pass(1s);
  const std::string first = lab.server->text(kServerTable);
  auto& second = lab.add_and_start(1s);
  REQUIRE(lab.ends_within(30s));
  lab.pass(1s);
  CHECK(second.only().id == "0");
  CHECK(rows_of(lab.server->text(kServerTable)) == 200);
  CHECK(lab.server->text("serverTimeData.previous.txt") == first);
}

TEST_CASE("Without an exchange peers end when their time is up, and leave no others' tables") {
  Lab lab;
  lab.start_tracker();
  auto& process = lab.add(1s, 3);
  process.options.is_exchanging = false;
  lab.start(process);
  REQUIRE(lab.ends_within(3s));
  CHECK(process.records.names() == std::vector<std::string>{"client_0_TimeData.txt", "client_1_TimeData.txt", "client_2_TimeData.txt"});
}

// ---- what goes wrong ----------------------------------------------------------------------------------

TEST_CASE("A tracker that goes away and comes back leaves a gap that the numbers show; table and numbering go on") {
  Lab lab(GENERATE(1, 2, 3));
  lab.start_tracker();
  auto& process = lab.add_and_start(10s);
  lab.pass(3s);
  lab.simulation.kill(lab.tracker, sim::Death::killed);
  lab.pass(2s);
  lab.start_tracker();
  REQUIRE(lab.ends_within(60s));
  const ClockSummary& summary = process.only().summary;
  CHECK(process.exit() == ExitCode::done);
  CHECK((summary.gaps == 1 && summary.longest_gap >= 1900ms && summary.longest_gap < 4s));
  CHECK((summary.missed >= 190 && summary.sent + summary.missed == 1000));
  CHECK(std::abs(summary.interval_mean - 10e6) < 1e4);
  const std::string table = own_table(process, process.only().id);
  CHECK(fault_of(table, "10 seconds") == "");
  CHECK(rows_of(table) == summary.sent + summary.answered);
}

TEST_CASE("A wall clock that is set back an hour shows in the rows, and in no interval and no statistics") {
  Lab lab;
  lab.start_tracker();
  auto& process = lab.add_and_start(4s);
  lab.pass(2s);
  lab.simulation.jump_wall_clock(process.host, -1h);
  REQUIRE(lab.ends_within(30s));
  const ClockSummary& summary = process.only().summary;
  CHECK((summary.sent == 400 && summary.missed == 0 && summary.jumps == 0));
  CHECK(std::abs(summary.interval_mean - 10e6) < 1e3);
  CHECK(summary.offset_deviation < 1e6);
  std::vector<std::string> hours;
  for (const auto& line : lines_of(own_table(process, "0")))
    if (line.starts_with("| ") && line.ends_with(" |") && line[2] != '#') hours.push_back(line.substr(line.size() - 17, 2));
  CHECK(hours.front() != hours.at(hours.size() - 2));  // the last row is the tracker's
}

TEST_CASE("A peer that dies while tables are exchanged is given up; the others have each other's, and say that it is partial") {
  Lab lab(GENERATE(1, 2, 3));
  lab.start_tracker();
  for (int i = 0; i < 4; ++i) lab.add_and_start(2s, 1, {.up = 200e3, .lies = {}});
  lab.add_and_start(10s);
  lab.pass(GENERATE(as<Nanoseconds>{}, 1s, 2150ms));
  lab.simulation.kill(lab.processes.back()->host, GENERATE(sim::Death::killed, sim::Death::power));
  REQUIRE(lab.ends_within(5min));
  lab.processes.pop_back();  // what the dead one left is nobody's
  for (int i = 0; i < 4; ++i) CHECK(lab.processes[static_cast<std::size_t>(i)]->exit() == ExitCode::partial);
  CHECK(missing_tables(lab).empty());
}

TEST_CASE("When the tracker dies after the list was handed out, all tables arrive all the same") {
  Lab lab(GENERATE(1, 2, 3));
  lab.start_tracker();
  for (int i = 0; i < 20; ++i) lab.add_and_start(1s, 1, {.up = 200e3, .lies = {}});
  lab.pass(1500ms);
  CHECK_FALSE(lab.processes.front()->result.has_value());
  lab.simulation.kill(lab.tracker, sim::Death::killed);
  REQUIRE(lab.ends_within(2min));
  for (const auto& process : lab.processes) CHECK(process->exit() == ExitCode::done);
  CHECK(missing_tables(lab).empty());
}

TEST_CASE("Without a tracker a clock that is to be in sync ends with the exit code of the network, one with a tracker well") {
  Lab lab;
  auto& alone = lab.add(2s);
  alone.options.wait_sync = 1ms;
  lab.start(alone);
  REQUIRE(lab.ends_within(30s));
  CHECK(alone.exit() == ExitCode::network);
  lab.start_tracker();
  auto& good = lab.add(2s);
  good.options.wait_sync = 1ms;
  lab.start(good);
  auto& impossible = lab.add(2s);
  impossible.options.wait_sync = 1ns;
  lab.start(impossible);
  REQUIRE(lab.ends_within(30s));
  CHECK(good.exit() == ExitCode::done);
  CHECK(impossible.exit() == ExitCode::network);
  CHECK(good.records.names().empty());
  CHECK_FALSE(lab.server->has(kServerTable));
}

TEST_CASE("A full disk ends a table with whole rows, and the run goes on") {
  Lab lab;
  lab.start_tracker();
  auto& process = lab.add_and_start(2s);
  lab.pass(1s);
  lab.server->fill();
  process.records.fill();
  REQUIRE(lab.ends_within(30s));
  CHECK(process.only().summary.answered == 200);
  CHECK(process.exit() == ExitCode::disk_full);
  CHECK(own_table(process, "0").ends_with(" |\n"));
  CHECK(lab.server->text(kServerTable).ends_with(" |\n"));
}

// ---- datagrams ----------------------------------------------------------------------------------------

namespace {

/// Whether every tick has its rows, once, at both ends.
bool is_whole(const Lab& lab, const Lab::Process& process) {
  const ClockSummary& summary = process.only().summary;
  return rows_of(own_table(process, process.only().id)) == summary.sent + summary.answered &&
         rows_of(lab.server->text(kServerTable)) >= 2 * summary.answered && rows_of(lab.server->text(kServerTable)) <= 2 * summary.sent;
}

}  // namespace

TEST_CASE("Ticks go as datagrams where these get through") {
  Lab lab;
  lab.start_tracker();
  auto& process = lab.add_and_start(5s);
  REQUIRE(lab.ends_within(30s));
  lab.pass(1s);
  CHECK(process.only().summary.answered == 500);
  CHECK(is_whole(lab, process));
  CHECK(lab.simulation.traffic().datagrams > 990);
  CHECK(lab.simulation.traffic().messages < 50);
}

TEST_CASE("Where no datagram gets through, one way or the other, ticks go by the connection, and none is lost") {
  Lab lab;
  lab.start_tracker();
  const bool is_there_blocked = GENERATE(true, false);
  if (!is_there_blocked) lab.simulation.lose_datagrams(lab.tracker, 1);
  auto& process = lab.add_and_start(5s, 1, {.datagram_loss = is_there_blocked ? 1.0 : 0.0, .lies = {}});
  REQUIRE(lab.ends_within(30s));
  lab.pass(1s);
  const ClockSummary& summary = process.only().summary;
  CHECK((summary.sent == 500 && summary.answered == 500 && summary.missed == 0));
  CHECK(rows_of(lab.server->text(kServerTable)) == 1000);
  CHECK(is_whole(lab, process));
  CHECK(lab.simulation.traffic().messages > 990);
}

TEST_CASE("Datagrams that are lost are ticks without an answer, and everything else goes on") {
  Lab lab(GENERATE(1, 2, 3));
  lab.start_tracker();
  auto& process = lab.add_and_start(10s, 1, {.datagram_loss = 0.05, .lies = {}});
  REQUIRE(lab.ends_within(30s));
  lab.pass(1s);
  const ClockSummary& summary = process.only().summary;
  CHECK((summary.sent == 1000 && summary.missed == 0));
  CHECK((summary.answered > 900 && summary.answered < 990));
  CHECK(rows_of(lab.server->text(kServerTable)) == 2 * summary.answered);
  CHECK(is_whole(lab, process));
}

TEST_CASE("When datagrams stop getting through, ticks go by the connection within a second or so, and as datagrams when they do again") {
  Lab lab;
  lab.start_tracker();
  auto& process = lab.add_and_start(12s);
  lab.pass(3s);
  lab.simulation.lose_datagrams(process.host, 1);
  lab.pass(4s);
  const auto before = lab.simulation.traffic();
  lab.simulation.lose_datagrams(process.host, 0);
  lab.pass(2s);
  CHECK(lab.simulation.traffic().datagrams - before.datagrams > 150);
  REQUIRE(lab.ends_within(30s));
  lab.pass(1s);
  const ClockSummary& summary = process.only().summary;
  CHECK((summary.sent == 1200 && summary.missed == 0));
  CHECK((summary.answered >= 1080 && summary.answered < 1110));
  CHECK(is_whole(lab, process));
}

TEST_CASE("A datagram that comes with jitter comes once, and the offset is within its bound") {
  Lab lab(GENERATE(1, 2, 3));
  lab.start_tracker();
  auto& process = lab.add_and_start(5s, 1, {.jitter = 25ms, .wall_offset = 2s, .lies = {}});  // they overtake each other
  REQUIRE(lab.ends_within(30s));
  lab.pass(1s);
  const ClockSummary& summary = process.only().summary;
  CHECK(summary.answered == 500);
  CHECK(std::abs(summary.offset_last - 2e9) <= summary.bound);
  CHECK(is_whole(lab, process));
}

// ---- the bound ----------------------------------------------------------------------------------------

namespace {

/// Two machines whose clocks a test can look at together.
struct TwoClocks {
  World* server = nullptr;
  World* client = nullptr;
  int checked = 0;
  int untrue = 0;
  std::uint32_t jumps = 0;
  bool is_over = false;
};

Task<> answer_pings(TwoClocks& clocks, World& world) {
  const auto listener = unwrap(world.listen({"0.0.0.0", kPort}));
  const std::shared_ptr<Link> link = co_await step(listener->accept(make_strand(world)));
  clocks.server = &world;
  link->established();
  for (;;) {
    const Ping ping = co_await step(receive<Ping>(*link, 1h));
    const std::int64_t received = world.now().time_since_epoch().count();
    co_await world.sleep(Nanoseconds(world.random() % 200'000));
    co_await step(send(*link, Pong{ping.t1, received, world.now().time_since_epoch().count()}));
  }
}

void check_bound(TwoClocks& clocks, const ClockEstimator& estimator) {
  if (!clocks.server) return;  // nobody to be asked
  const std::int64_t now = clocks.client->now().time_since_epoch().count();
  const std::int64_t truth = now - clocks.server->now().time_since_epoch().count();
  const auto estimate = *estimator.at(now);
  ++clocks.checked;
  if (std::abs(estimate.offset_ns - truth) > estimate.bound.count()) ++clocks.untrue;
}

/// Asks for the time again and again, over connections that break when the other machine's process is replaced.
Task<> ask_for_time(TwoClocks& clocks, World& world, std::string host) {
  ClockEstimator estimator;
  clocks.client = &world;
  while (!clocks.is_over) {
    const auto connected = co_await world.connect({host, kPort}, make_strand(world), 1s);
    if (!connected) {
      co_await world.sleep(20ms);
      continue;
    }
    Link& link = **connected;
    link.established();
    while (!clocks.is_over) {
      if (!co_await send(link, Ping{world.now().time_since_epoch().count()})) break;
      const auto pong = co_await receive<Pong>(link, 1s);
      if (!pong) break;
      estimator.add({pong->t1, pong->t2, pong->t3, world.now().time_since_epoch().count()});
      clocks.jumps = estimator.jumps();
      check_bound(clocks, estimator);
      co_await world.sleep(Nanoseconds(world.random() % 50'000'000));
      check_bound(clocks, estimator);
    }
  }
}

}  // namespace

TEST_CASE("In a world of skewed and drifting clocks and of links with jitter, the true offset is within the bound, also after jumps") {
  const auto seed = GENERATE(Catch::Generators::range<std::uint64_t>(1, 21));
  TwoClocks clocks;
  sim::Simulation simulation({.seed = seed});
  const double drift = static_cast<double>(seed) * 24 - 240;
  const auto server = simulation.add_host({.up = seed % 3 ? 0 : 50e3, .latency = 50us, .jitter = 3ms, .drift_ppm = -drift, .lies = {}});
  const auto client =
      simulation.add_host({.latency = seed % 2 ? 10ms : 100us, .jitter = Nanoseconds(seed * 500'000), .drift_ppm = drift, .lies = {}});
  const auto start_server = [&] { simulation.start(server, [&](World& world, Storage&, Signal&) { return answer_pings(clocks, world); }); };
  start_server();
  simulation.start(client, [&](World& world, Storage&, Signal&) { return ask_for_time(clocks, world, simulation.address_of(server)); });
  for (int i = 0; i < 4; ++i) {
    simulation.run([] { return false; }, {5s});
    simulation.kill(server, sim::Death::killed);
    clocks.server = nullptr;
    start_server();  // a process has a clock of its own: this is a jump
  }
  CHECK(clocks.checked > 200);
  CHECK(clocks.untrue == 0);
  CHECK(clocks.jumps >= 3);
  clocks.is_over = true;
}
