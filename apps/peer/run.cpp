#include <fmt/format.h>

#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "common/process.hpp"
#include "peer/clock.hpp"
#include "peer/run.hpp"

import shoal.base;
import shoal.digest;
import shoal.manifest;
import shoal.net;
import shoal.peer;
import shoal.report;
import shoal.store;
import shoal.wire;
import shoal.world;

namespace shoal::apps {
namespace {

/// What every action needs.
struct Run {
  const PeerCommand& command;
  NetWorld& world;
  Report& report;
  Signal& stop;
};

PeerOptions options_of(const PeerCommand& command, Appetite appetite, std::uint32_t expect = 0) {
  PeerOptions options;
  options.tracker = command.tracker;
  options.listen = command.listen;
  options.id = command.id;
  options.expect = expect;
  options.appetite = appetite;
  options.wait = command.wait;
  options.upload_limit = command.limit_rate;
  options.include = command.include;
  options.exclude = command.exclude;
  return options;
}

StoreOptions store_options(const Run& run, const std::string& folder, bool create) {
  StoreOptions options;
  options.folder = folder;
  options.cache_file = run.command.cache == ":memory:" ? std::string() : run.command.cache;
  options.create_folder = create;
  options.warn = [&report = run.report](const Error& error) { report.warn(error.message()); };
  return options;
}

ExitCode failed(Report& report, const Error& error) {
  report.error(error);
  return exit_code_of(error);
}

/// What a swarm or get came to, in the closing event and a line.
ExitCode conclude(Report& report, const Result<PeerOutcome>& outcome) {
  if (!outcome) {
    const ExitCode exit = failed(report, outcome.error());
    report.result(exit);
    return exit;
  }
  Fields fields{{"files", outcome->files_fetched}, {"bytes", outcome->bytes_fetched}, {"wasted", outcome->bytes_wasted}};
  if (outcome->swarm_time) fields.emplace_back("seconds", Seconds(*outcome->swarm_time).count());
  if (outcome->percent_of_bound > 0) fields.emplace_back("percent_of_bound", outcome->percent_of_bound);
  if (outcome->swarm_time) report.note(fmt::format("total swarm time: {:.3f} s", Seconds(*outcome->swarm_time).count()));
  report.result(outcome->exit, std::move(fields));
  return outcome->exit;
}

// ---- actions ------------------------------------------------------------------------------------------

Task<ExitCode> act(Run run, const SwarmAction& action) {
  auto storage = open_store(store_options(run, action.folder, false));
  if (!storage) co_return conclude(run.report, Failure(storage.error()));
  const auto outcome =
      co_await run_member(run.world, run.report, **storage, options_of(run.command, Appetite::everything, action.expect), run.stop);
  if (outcome && outcome->exit == ExitCode::done) (*storage)->remove_stale_partials();
  co_return conclude(run.report, outcome);
}

Task<ExitCode> act(Run run, const ShareAction& action) {
  auto storage = open_store(store_options(run, action.folder, false));
  if (!storage) co_return conclude(run.report, Failure(storage.error()));
  co_return conclude(run.report,
                     co_await run_member(run.world, run.report, **storage, options_of(run.command, Appetite::nothing), run.stop));
}

Task<ExitCode> act(Run run, const GetAction& action) {
  auto storage = open_store(store_options(run, action.out, true));
  if (!storage) co_return conclude(run.report, Failure(storage.error()));
  const auto outcome =
      co_await run_get(run.world, run.report, **storage, options_of(run.command, Appetite::everything), action.wanted, run.stop);
  if (outcome && outcome->exit == ExitCode::done)
    run.report.note(fmt::format("{} files, {} fetched", outcome->files_fetched, format_bytes(outcome->bytes_fetched)));
  co_return conclude(run.report, outcome);
}

std::string holders_text(const std::vector<RosterEntry>& holders) {
  std::string text;
  for (const auto& holder : holders)
    text += fmt::format("{}{} ({})", text.empty() ? "" : ", ", holder.id, to_string({holder.host, holder.port}));
  return text.empty() ? "nobody has all of it" : text;
}

void print_finding(Report& report, const Finding& finding) {
  const FileEntry& entry = finding.entry;
  report.event("found", {{"name", entry.name},
                         {"kind", std::string(entry.kind == EntryKind::folder ? "folder" : "file")},
                         {"bytes", entry.size},
                         {"md5", to_hex(entry.md5)},
                         {"root", to_hex(entry.root)},
                         {"holders", holders_text(finding.holders)}});
  if (entry.kind == EntryKind::folder) return report.print(fmt::format("{:>10}  {:32}  {}/", "-", "", printable(entry.name)));
  report.print(
      fmt::format("{:>10}  {}  {}  {}", format_bytes(entry.size), to_hex(entry.md5), printable(entry.name), holders_text(finding.holders)));
}

/// Ends with the result, or as soon as the user stops it.
Task<ExitCode> list(Run run, std::string pattern, bool needs_any) {
  const auto findings = co_await find_files(run.world, options_of(run.command, Appetite::nothing), pattern);
  if (!findings) {
    const ExitCode exit = failed(run.report, findings.error());
    run.report.result(exit);
    co_return exit;
  }
  for (const Finding& finding : *findings) print_finding(run.report, finding);
  ExitCode exit = ExitCode::done;
  if (needs_any && findings->empty())
    exit = failed(run.report,
                  Error{make_error_code(Errc::not_found), fmt::format("nobody offers '{}'", pattern), "shoal-peer ls shows what there is"});
  run.report.result(exit, {{"files", std::uint64_t{findings->size()}}});
  co_return exit;
}

Task<ExitCode> act(Run run, const FindAction& action) { return list(run, action.pattern, true); }
Task<ExitCode> act(Run run, const ListAction&) { return list(run, "", false); }

// ---- verify -------------------------------------------------------------------------------------------

std::string_view text_of(Verdict verdict) {
  switch (verdict) {
    case Verdict::ok: return "ok";
    case Verdict::corrupted: return "CORRUPTED";
    case Verdict::changed: return "changed since it was recorded";
    case Verdict::unknown: return "not recorded before";
  }
  return "?";
}

ExitCode print_verified(Report& report, const VerifyReport& verified) {
  std::uint64_t corrupted = 0;
  for (const auto& file : verified.files) {
    corrupted += file.verdict == Verdict::corrupted ? 1 : 0;
    report.event("verified",
                 {{"name", file.name}, {"bytes", file.size}, {"md5", to_hex(file.md5)}, {"verdict", std::string(text_of(file.verdict))}});
    report.print(fmt::format("{}  {}: {}", to_hex(file.md5), printable(file.name), text_of(file.verdict)));
  }
  for (const auto& problem : verified.problems) report.warn(problem.message());
  ExitCode exit = verified.problems.empty() ? ExitCode::done : ExitCode::partial;
  if (corrupted > 0)
    exit = failed(report,
                  Error{make_error_code(Errc::wrong_digest),
                        fmt::format("{} of {} files are not what was recorded", corrupted, verified.files.size()), "fetch them again"});
  report.result(exit, {{"files", std::uint64_t{verified.files.size()}}, {"corrupted", corrupted}});
  return exit;
}

Task<> raise_flag(Signal& stop, std::atomic<bool>& flag) {
  co_await stop.wait();
  flag = true;
}

Task<ExitCode> act(Run run, const VerifyAction& action) {
  std::atomic<bool> is_stopped = false;
  TaskGroup tasks([](const std::string&, const Error&) {});
  tasks.spawn(make_strand(run.world), "stop", raise_flag(run.stop, is_stopped));
  ScanOptions options;
  options.include = run.command.include;
  options.exclude = run.command.exclude;
  options.should_stop = [&] { return is_stopped.load(); };
  options.progress = [&](const ScanProgress& progress) {
    run.report.progress({}, {"verifying", progress.bytes_done, progress.bytes_total, 0, 0});
  };
  const auto verified = co_await offload(run.world, [&] { return verify(store_options(run, action.folder, false), options); });
  run.report.end_progress();
  tasks.cancel();
  co_await tasks.join();
  if (verified) co_return print_verified(run.report, *verified);
  const ExitCode exit = failed(run.report, verified.error());
  run.report.result(exit);
  co_return exit;
}

Task<ExitCode> act(Run run, const ClockAction& action) { return run_clock_command(run.command, action, run.world, run.report, run.stop); }

Task<ExitCode> act(Run run, const TimelineAction& action) { co_return run_timeline_command(action, run.report, run.command.common.json); }

Task<> perform(Run run, ExitCode& exit) {
  exit = co_await std::visit([&](const auto& action) { return act(run, action); }, run.command.action);
}

}  // namespace

ExitCode run_peer(const PeerCommand& command) {
  raise_descriptor_limit();
  auto report = Report::open(report_options(command.common, "shoal-peer"));
  if (!report) return say_failure("shoal-peer", report.error());
  NetOptions options;
  options.upload_limit = command.limit_rate;
  options.congestion = command.congestion == "system" ? std::string() : command.congestion;
  const auto world = make_net_world(options);
  Signal stop;
  const bool is_query = std::holds_alternative<FindAction>(command.action) || std::holds_alternative<ListAction>(command.action);
  if (!is_query) stop_on_interrupt(*world, stop);  // a query has nothing to finish: the system ends it
  ExitCode exit = ExitCode::unknown;
  world->run(perform({command, *world, **report, stop}, exit));
  (*report)->flush();
  return exit;
}

}  // namespace shoal::apps
