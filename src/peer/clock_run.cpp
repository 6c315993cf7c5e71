module;

#include <fmt/core.h>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/this_coro.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

module shoal.peer;

import :clock;
import shoal.base;
import shoal.clock;
import shoal.report;
import shoal.wire;
import shoal.world;

namespace asio = boost::asio;
using namespace std::chrono_literals;

namespace shoal {
namespace {

constexpr std::size_t kCrew = 250;
constexpr std::uint64_t kConnectionsAtOnce = 256;
constexpr std::uint64_t kTableBytes = 64 * kMiB;

}  // namespace

std::size_t clock_crews(std::size_t peers) { return std::max<std::size_t>((peers + kCrew - 1) / kCrew, 1); }

ClockPeerState::ClockPeerState(ClockRun& r, std::size_t i, Executor s)
    : run(r), index(i), strand(std::move(s)), instance(r.world.random() | 1) {
  if (r.options.id.empty()) return;
  id = r.options.count == 1 ? r.options.id : fmt::format("{}-{}", r.options.id, i);
}

ClockRun::ClockRun(World& w, Report& r, RecordFolder& f, ClockOptions o)
    : world(w),
      report(r),
      records(f),
      options(std::move(o)),
      begin(w.now()),
      zero_date(w.wall_clock_ns() - begin.time_since_epoch().count()),
      connections(kConnectionsAtOnce),
      buffers(kTableBytes),
      tasks([this](const std::string& name, const Error& error) {
        report.debug_now_and_then(fmt::format("a task ended: {}", error.code.message()), fmt::format("{}: {}", name, error.message()));
      }) {
  const std::size_t count = std::max<std::size_t>(options.count, 1);
  for (std::size_t i = 0; i < clock_crews(count); ++i) crews.push_back(std::make_unique<Crew>(Crew{make_strand(world), {}}));
  for (std::size_t i = 0; i < count; ++i) {
    Crew& crew = *crews[i % crews.size()];
    peers.push_back(std::make_unique<ClockPeerState>(*this, i, crew.strand));
    crew.peers.push_back(peers.back().get());
  }
  unfinished = count;
}

Nanoseconds ClockRun::phase(std::size_t index) const {
  return options.interval * static_cast<std::int64_t>(index) / static_cast<std::int64_t>(peers.size());
}

Instant ClockRun::first_tick(std::size_t index, Instant now) const {
  const Instant first = begin + phase(index);
  if (now <= first) return first;
  const auto rounds = (now - first + options.interval - Nanoseconds(1)) / options.interval;
  return first + options.interval * rounds;
}

void ClockRun::give_up(Error error) {
  const std::lock_guard lock(mutex);
  if (!failure) failure = std::move(error);
  finished.notify();
}

namespace {

/// One peer, from its first tick to its last table.
Task<> run_peer(ClockPeerState& peer) {
  ClockRun& run = peer.run;
  if (run.options.is_exchanging) {
    auto listening = run.world.listen(run.options.listen);
    if (!listening) co_return run.give_up(std::move(listening).error());
    peer.listener = std::move(*listening);
    run.tasks.spawn(peer.strand, "accepting tables", accept_tables(peer));
  }
  run.tasks.spawn(peer.strand, "tracker", follow_clock_tracker(peer));
  co_await peer.ticked.wait();
  if (!run.options.wait_sync) co_await peer.written.wait();
  if (peer.listener && peer.file && !peer.has_table_failed) co_await exchange_tables(peer);
  peer.is_over = true;
  if (peer.link) {
    say(peer, Leave{});
    peer.link->close();
  }
  if (peer.listener) peer.listener->close();
  if (--run.unfinished == 0) run.finished.notify();
}

Task<> wait_for_stop(ClockRun& run, Signal& stop, std::shared_ptr<bool> is_stopped) {
  co_await stop.wait();
  *is_stopped = true;
  run.finished.notify();
}

/// Says goodbye for those that had no time to. On the crew's strand.
void part(Crew& crew) {
  for (ClockPeerState* peer : crew.peers) {
    peer->is_over = true;
    if (!peer->link) continue;
    say(*peer, Leave{static_cast<std::uint8_t>(ExitCode::interrupted)});
    peer->link->close();
  }
}

/// What is left of the tables of a run that was stopped. On a worker, when nothing else runs.
void write_rest(ClockRun& run) {
  for (const auto& peer : run.peers) {
    if (!peer->file || peer->has_table_failed || peer->table.pending() == 0) continue;
    const std::string rows = peer->table.take();
    if (auto written = peer->file->append(std::as_bytes(std::span(rows))); !written && !run.is_disk_failure_told.exchange(true))
      run.report.lose(written.error(), fmt::format("peer {}: its table ends here: {}", peer->id, written.error().message()));
  }
}

ClockResult result_of(ClockRun& run, bool is_stopped) {
  ClockResult result;
  Histogram lateness;
  Histogram delays;
  bool is_in_sync = true;
  std::uint64_t failed = 0;
  for (const auto& peer : run.peers) {
    ClockOutcome outcome;
    outcome.id = peer->id;
    const auto missed = peer->schedule ? peer->schedule->missed() : 0;
    outcome.summary = peer->record.finish(missed, peer->estimator.jumps());
    outcome.tables_sent = peer->tables_sent;
    outcome.tables_received = peer->came_from.size();
    outcome.failed = peer->failed;
    failed += peer->failed;
    is_in_sync &= peer->is_in_sync;
    lateness.add(peer->record.lateness());
    delays.add(peer->record.delays());
    result.peers.push_back(std::move(outcome));
  }
  result.lateness_p50 = lateness.quantile(0.5);
  result.lateness_p99 = lateness.quantile(0.99);
  result.delay_p50 = delays.quantile(0.5);
  result.delay_p99 = delays.quantile(0.99);
  if (is_stopped)
    result.exit = ExitCode::interrupted;
  else if (run.options.wait_sync)
    result.exit = is_in_sync ? ExitCode::done : ExitCode::network;
  else if (run.failure)
    result.exit = exit_code_of(*run.failure);
  else if (failed > 0)
    result.exit = ExitCode::partial;
  return result;
}

double seconds_of(const ClockRun& run) { return Seconds(run.clock.at(run.world.now())).count(); }

double bound_of(const ClockRun& run) {
  const auto bound = run.clock.bound_at(run.world.now());
  return bound ? Seconds(*bound).count() : -1.0;
}

}  // namespace

Task<Result<ClockResult>> run_clock(World& world, Report& report, RecordFolder& records, ClockOptions options, Signal& stop) {
  if (options.wait_sync) options.is_exchanging = false;
  const auto run = std::make_unique<ClockRun>(world, report, records, std::move(options));
  report.set_clock([&run = *run] { return seconds_of(run); }, [&run = *run] { return bound_of(run); });
  const auto is_stopped = std::make_shared<bool>(false);  // whoever sets it may be the last to know of it
  const Executor strand = co_await asio::this_coro::executor;
  run->tasks.spawn(strand, "stop", wait_for_stop(*run, stop, is_stopped));
  for (const auto& crew : run->crews) {
    run->tasks.spawn(crew->strand, "ticking", keep_ticking(*run, *crew));
    run->tasks.spawn(crew->strand, "a crew", keep_crew(*run, *crew));
    for (ClockPeerState* peer : crew->peers) run->tasks.spawn(peer->strand, "clock peer", run_peer(*peer));
  }
  co_await run->finished.wait();
  const bool has_failed = run->unfinished > 0 && !*is_stopped;
  if (*is_stopped || has_failed)
    for (const auto& crew : run->crews) co_await run_on(crew->strand, [&] { part(*crew); });
  run->tasks.cancel();
  co_await run->tasks.join();
  co_await run_on(world.workers(), [&] { write_rest(*run); });
  report.set_clock([end = seconds_of(*run)] { return end; }, [bound = bound_of(*run)] { return bound; });
  if (has_failed && run->failure) co_return Failure(*run->failure);
  co_return result_of(*run, *is_stopped);
}

}  // namespace shoal
