module;

#include <fmt/core.h>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/post.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

module shoal.peer;

import :node;
import shoal.base;
import shoal.digest;
import shoal.manifest;
import shoal.report;
import shoal.schedule;
import shoal.wire;
import shoal.world;

namespace asio = boost::asio;
using namespace std::chrono_literals;

namespace shoal {

namespace {

/// Tasks that a run cannot go on without.
const std::set<std::string> kVital{"accepting",           "confirming",           "connecting", "md5",    "publishing",
                                   "storing small files", "taking in the folder", "ticking",    "tracker"};

}  // namespace

Node::Node(World& w, Report& r, Storage& s, PeerOptions o)
    : world(w),
      report(r),
      storage(s),
      options(std::move(o)),
      strand(make_strand(w)),
      instance(w.random() | 1),
      tasks([this](const std::string& name, const Error& error) {
        report.debug_now_and_then(fmt::format("a task ended: {}", error.code.message()), fmt::format("{}: {}", name, error.message()));
        if (kVital.contains(name)) asio::post(strand, [this, error] { finish(*this, Failure(error)); });
      }) {}

void finish(Node& node, Result<ExitCode> outcome) {
  if (node.outcome) return;
  node.outcome = std::move(outcome);
  node.finished.notify();
}

// ---- the clock's work ---------------------------------------------------------------------------------

namespace {

/// How far the swarm clock may be off; below 0 while it is not known.
double bound_seconds(const Node& node) {
  const auto bound = node.clock.bound_at(node.world.now());
  return bound ? Seconds(*bound).count() : -1.0;
}

constexpr Nanoseconds kBusyTick = 10ms;
constexpr Nanoseconds kIdleTick = 50ms;
constexpr int kSlowEvery = 20;  // ticks between the slower chores

bool is_busy(const Node& node) {
  if (node.queue.waiting() > 0 || node.open_contents > 0 || !node.fresh_haves.empty()) return true;
  return std::ranges::any_of(node.remotes,
                             [](const auto& remote) { return !remote.second->outstanding.empty() || remote.second->is_sending; });
}

void do_slow_chores(Node& node) {
  if (node.open_contents > 0)
    for (const auto& content : node.contents)
      if (content->stage == Stage::opening && !content->hashes) ask_for_hashes(node, *content);
  give_up_lost(node);
  look_after_chosen(node);
  check_done(node);
  refill_all(node);
  if (node.world.now() - node.last_report >= 1s && !node.counts_changed.empty()) report_progress(node);
}

}  // namespace

void tick(Node& node) {
  flush_haves(node);
  resume_postponed(node);
  expire_requests(node);
  duplicate_slow(node);
  follow_waiting(node);
  serve_next(node);
}

Task<> keep_ticking(Node& node) {
  for (int count = 1;; ++count) {
    tick(node);
    const bool busy = is_busy(node);
    if (!busy || count % kSlowEvery == 0) do_slow_chores(node);
    draw_progress(node);
    co_await node.world.sleep(busy ? kBusyTick : kIdleTick);
  }
}

void draw_progress(Node& node) {
  if (node.bytes_wanted == 0 || node.unfinished == 0 || !node.report.wants_progress()) return;
  std::vector<ProgressLine> lines;
  const auto sources_of = [&](const Content& content) {
    return static_cast<std::uint32_t>(std::ranges::count_if(node.remotes, [&](const auto& remote) {
      const auto in_content = remote.second->outstanding.lower_bound(content.first);
      return in_content != remote.second->outstanding.end() && in_content->first.value < content.first.value + content.chunks;
    }));
  };
  for (const ContentIndex index : node.fetching) {
    const Content& content = *find_content(node, index);
    const std::uint64_t done = std::min(content.size, std::uint64_t{content.have} * kChunkSize);
    lines.push_back({content.targets.front().entry->name, done, content.size, 0, sources_of(content)});
  }
  const auto active = std::ranges::count_if(node.remotes, [](const auto& remote) { return !remote.second->outstanding.empty(); });
  node.report.progress(lines,
                       {"total", node.bytes_have, node.bytes_wanted, node.down.rate(node.world.now()), static_cast<std::uint32_t>(active)});
}

// ---- the run ------------------------------------------------------------------------------------------

namespace {

/// Whether the run is to stop. Any thread; shared, so that whoever sets it never outlives it.
using StopFlag = std::shared_ptr<std::atomic<bool>>;

Task<> watch_for_stop(Node& node, Signal& stop, StopFlag is_stopped) {
  co_await stop.wait();
  *is_stopped = true;
  co_await run_on(node.strand, [&] { finish(node, ExitCode::interrupted); });
}

Task<Result<ScanReport>> scan_folder(Node& node, StopFlag is_stopped) {
  ScanOptions options;
  options.include = node.options.include;
  options.exclude = node.options.exclude;
  options.should_stop = [is_stopped] { return is_stopped->load(); };
  options.progress = [&node](const ScanProgress& progress) {
    if (node.report.wants_progress()) node.report.progress({}, {"digesting", progress.bytes_done, progress.bytes_total, 0, 0});
  };
  auto scanned = co_await offload(node.world, [&] { return node.storage.scan(options); });
  node.report.end_progress();
  co_return scanned;
}

void tell_of_scan(Node& node, ScanReport& scanned) {
  std::uint64_t bytes = 0;
  for (const auto& file : scanned.files) bytes += file.entry.size;
  const std::uint64_t problems = scanned.problems.size();
  leave_out_own(node, std::exchange(scanned.problems, {}));
  if (!scanned.symlinks.empty())
    node.report.note(fmt::format("skipped {} symbolic link{} ({}{})", scanned.symlinks.size(), scanned.symlinks.size() == 1 ? "" : "s",
                                 scanned.symlinks.front(), scanned.symlinks.size() > 1 ? ", ..." : ""));
  node.report.note(fmt::format("{}: offers {} files, {}; {} digested anew", node.options.id, scanned.files.size(), format_bytes(bytes),
                               format_bytes(scanned.bytes_hashed)));
  node.report.event("scanned", {{"files", std::uint64_t{scanned.files.size()}},
                                {"bytes", bytes},
                                {"digested", scanned.bytes_hashed},
                                {"symlinks", std::uint64_t{scanned.symlinks.size()}},
                                {"problems", problems}});
}

Result<std::shared_ptr<Listener>> listen(Node& node) {
  auto listening = node.world.listen(node.options.listen);
  if (!listening) return Failure(std::move(listening).error());
  node.listening = (*listening)->local();
  return std::shared_ptr<Listener>(std::move(*listening));
}

/// Says goodbye, and gives it a moment to get through: hardly one where the swarm is over, and all others leave as well.
Task<> say_goodbye(Node& node, ExitCode exit) {
  const bool is_over = co_await in_node(node, [&] {
    const Leave leave{static_cast<std::uint8_t>(exit)};
    for (const auto& [source, remote] : node.remotes) tell(*remote, leave);
    tell_tracker(node, leave);
    return node.swarm_time.has_value();
  });
  co_await node.world.sleep(is_over ? 5ms : 50ms);
}

/// Ends all tasks; after this nothing refers to the node any more.
Task<> wind_up(Node& node, std::shared_ptr<Listener> listener) {
  co_await run_on(node.strand, [&] {
    node.watch.reset();
    listener->close();
    for (const auto& [source, remote] : node.remotes)
      asio::post(remote->session->link->executor(), [session = remote->session] { session->link->close(); });
  });
  node.tasks.cancel();
  co_await node.tasks.join();
  co_await run_on(node.strand, [] {});  // what tasks posted last comes before this
}

PeerOutcome tally(const Node& node, ExitCode exit) {
  return {exit, node.files_published, node.bytes_fetched, node.bytes_wasted, node.swarm_time, node.percent_of_bound};
}

/// Runs what is common to all kinds of run, until something finishes the node.
Task<Result<PeerOutcome>> run_node(Node& node, std::shared_ptr<Listener> listener, Task<> tracker_side) {
  node.report.set_clock([&node] { return Seconds(node.clock.at(node.world.now())).count(); }, [&node] { return bound_seconds(node); });
  node.tasks.spawn(node.strand, "accepting", accept_peers(node, listener));
  node.tasks.spawn(node.strand, "connecting", keep_connected(node));
  node.tasks.spawn(node.strand, "publishing", publish_contents(node));
  node.tasks.spawn(node.strand, "ticking", keep_ticking(node));
  node.tasks.spawn(make_strand(node.world), "tracker", std::move(tracker_side));
  co_await node.finished.wait();
  const auto outcome = co_await in_node(node, [&] { return *node.outcome; });
  if (node.overlay) co_await node.overlay->leave();
  co_await say_goodbye(node, outcome ? *outcome : exit_code_of(outcome.error()));
  co_await wind_up(node, listener);
  node.report.end_progress();
  node.report.set_clock([end = Seconds(node.clock.at(node.world.now())).count()] { return end; },
                        [bound = bound_seconds(node)] { return bound; });
  if (!outcome) co_return Failure(outcome.error());
  co_return tally(node, *outcome);
}

}  // namespace

Task<Result<PeerOutcome>> run_member(World& world, Report& report, Storage& storage, PeerOptions options, Signal& stop) {
  return run_sharing(world, report, storage, std::move(options), [](Node&) {}, stop);
}

Task<Result<PeerOutcome>> run_sharing(World& world, Report& report, Storage& storage, PeerOptions options, std::function<void(Node&)> begin,
                                      Signal& stop) {
  const RunState kept(world, std::make_unique<Node>(world, report, storage, std::move(options)));
  Node& node = *kept;
  const auto is_stopped = std::make_shared<std::atomic<bool>>(false);
  auto listener = listen(node);  // a scan may take long: a port that is taken is said before
  if (!listener) co_return Failure(listener.error());
  node.tasks.spawn(make_strand(world), "stop", watch_for_stop(node, stop, is_stopped));
  auto scanned = co_await scan_folder(node, is_stopped);
  if (!scanned) {
    co_await wind_up(node, *listener);
    co_return Failure(scanned.error());
  }
  co_await run_on(node.strand, [&] {
    tell_of_scan(node, *scanned);
    node.is_taking_in = true;
    if (node.options.watches) start_watching(node);
  });
  node.tasks.spawn(make_strand(world), "taking in the folder", take_in(node, std::exchange(scanned->files, {}), std::move(begin)));
  start_overlay(node);
  co_return co_await run_node(node, *listener, follow_tracker(node));
}

Task<Result<PeerOutcome>> run_get(World& world, Report& report, Storage& storage, PeerOptions options, std::vector<std::string> patterns,
                                  Signal& stop) {
  for (const std::string& pattern : patterns)
    if (auto checked = check_pattern(pattern); !checked) co_return Failure(std::move(checked).error());
  const RunState kept(world, std::make_unique<Node>(world, report, storage, std::move(options)));
  Node& node = *kept;
  node.ends_when_done = true;
  const auto is_stopped = std::make_shared<std::atomic<bool>>(false);
  auto listener = listen(node);
  if (!listener) co_return Failure(listener.error());
  node.tasks.spawn(make_strand(world), "stop", watch_for_stop(node, stop, is_stopped));
  co_return co_await run_node(node, *listener, follow_findings(node, std::move(patterns)));
}

}  // namespace shoal
