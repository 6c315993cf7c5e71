#include <fmt/core.h>

#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "peer/clock.hpp"
#include "peer/run.hpp"

import shoal.base;
import shoal.clock;
import shoal.net;
import shoal.peer;
import shoal.report;
import shoal.store;
import shoal.world;

namespace shoal::apps {
namespace {

constexpr std::size_t kMostLines = 8;  // peers that are described one by one

std::int64_t whole(double nanoseconds) { return static_cast<std::int64_t>(nanoseconds); }

Fields fields_of(const ClockOutcome& peer) {
  const ClockSummary& s = peer.summary;
  return {{"peer", peer.id},
          {"sent", s.sent},
          {"answered", s.answered},
          {"missed", s.missed},
          {"gaps", s.gaps},
          {"longest_gap_ns", std::int64_t{s.longest_gap.count()}},
          {"jumps", std::uint64_t{s.jumps}},
          {"offset_last_ns", whole(s.offset_last)},
          {"offset_rms_ns", whole(s.offset_rms)},
          {"offset_max_ns", whole(s.offset_max)},
          {"offset_stddev_ns", whole(s.offset_deviation)},
          {"delay_ns", whole(s.delay_mean)},
          {"delay_stddev_ns", whole(s.delay_deviation)},
          {"jitter_ns", whole(s.jitter)},
          {"drift_ppm", s.drift_ppm},
          {"skew_ppm", s.skew_ppm},
          {"bound_ns", whole(s.bound)},
          {"interval_ns", whole(s.interval_mean)},
          {"interval_stddev_ns", whole(s.interval_deviation)},
          {"lateness_p50_ns", std::int64_t{s.lateness_p50.count()}},
          {"lateness_p99_ns", std::int64_t{s.lateness_p99.count()}},
          {"delay_p99_ns", std::int64_t{s.delay_p99.count()}},
          {"tables_sent", peer.tables_sent},
          {"tables_received", peer.tables_received},
          {"failed", peer.failed}};
}

void describe_peer(Report& report, const ClockOutcome& peer) {
  report.print(fmt::format("peer {}:", peer.id));
  for (const std::string& line : describe(peer.summary)) report.print(line);
  if (peer.tables_sent + peer.tables_received > 0)
    report.print(fmt::format("  tables    {} sent, {} received", peer.tables_sent, peer.tables_received));
}

struct Totals {
  std::uint64_t sent = 0;
  std::uint64_t answered = 0;
  std::uint64_t missed = 0;
  std::uint64_t tables_sent = 0;
  std::uint64_t tables_received = 0;
  std::uint64_t failed = 0;
};

Totals totals_of(const ClockResult& result) {
  Totals totals;
  for (const ClockOutcome& peer : result.peers) {
    totals.sent += peer.summary.sent;
    totals.answered += peer.summary.answered;
    totals.missed += peer.summary.missed;
    totals.tables_sent += peer.tables_sent;
    totals.tables_received += peer.tables_received;
    totals.failed += peer.failed;
  }
  return totals;
}

std::string milliseconds(Nanoseconds time) { return fmt::format("{:.3f} ms", std::chrono::duration<double, std::milli>(time).count()); }

ExitCode conclude(Report& report, const ClockResult& result) {
  for (const ClockOutcome& peer : result.peers) {
    report.event("clock", fields_of(peer));
    if (result.peers.size() <= kMostLines) describe_peer(report, peer);
  }
  const Totals totals = totals_of(result);
  if (result.peers.size() > 1)
    report.print(
        fmt::format("{} peers: {} ticks sent, {} answered, {} missed; late by {} (p50), {} (p99); answer after {} (p50), {} (p99); {} "
                    "tables sent, {} received",
                    result.peers.size(), totals.sent, totals.answered, totals.missed, milliseconds(result.lateness_p50),
                    milliseconds(result.lateness_p99), milliseconds(result.delay_p50), milliseconds(result.delay_p99), totals.tables_sent,
                    totals.tables_received));
  report.result(result.exit, {{"peers", std::uint64_t{result.peers.size()}},
                              {"sent", totals.sent},
                              {"answered", totals.answered},
                              {"missed", totals.missed},
                              {"lateness_p50_ns", std::int64_t{result.lateness_p50.count()}},
                              {"lateness_p99_ns", std::int64_t{result.lateness_p99.count()}},
                              {"delay_p50_ns", std::int64_t{result.delay_p50.count()}},
                              {"delay_p99_ns", std::int64_t{result.delay_p99.count()}},
                              {"tables_sent", totals.tables_sent},
                              {"tables_received", totals.tables_received},
                              {"failed", totals.failed}});
  return result.exit;
}

}  // namespace

Task<ExitCode> run_clock_command(const PeerCommand& command, const ClockAction& action, NetWorld& world, Report& report, Signal& stop) {
  ClockOptions options;
  options.tracker = command.tracker;
  options.listen = {command.listen.host, static_cast<std::uint16_t>(action.count == 1 ? command.listen.port : 0)};
  options.id = command.id;
  options.count = action.count;
  options.interval = action.interval;
  options.duration = action.duration;
  options.is_exchanging = !action.no_exchange;
  options.wait_sync = action.wait_sync;
  options.wait = command.wait;
  const auto records = action.wait_sync ? open_records(action.out) : make_records(action.out);
  if (!records) co_return answer(report, Failure(records.error()));
  const auto result = co_await run_clock(world, report, **records, std::move(options), stop);
  if (!result) co_return answer(report, Failure(result.error()));
  co_return conclude(report, *result);
}

}  // namespace shoal::apps
