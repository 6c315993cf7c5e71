#include <fmt/core.h>
#include <unistd.h>

#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "common/process.hpp"
#include "peer/clock.hpp"
#include "peer/overlay.hpp"
#include "peer/run.hpp"

import shoal.base;
import shoal.digest;
import shoal.manifest;
import shoal.net;
import shoal.peer;
import shoal.report;
import shoal.schedule;
import shoal.shell;
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
  Lines* lines = nullptr;            ///< Of a shell.
  Interrupts* interrupts = nullptr;  ///< Likewise.
};

/// An eighth of the memory: no link that is slower than that needs it, and nothing is kept for what is asked for.
std::uint64_t in_flight_by_memory() {
  const long pages = ::sysconf(_SC_PHYS_PAGES);
  const long page = ::sysconf(_SC_PAGESIZE);
  const std::uint64_t memory = pages > 0 && page > 0 ? static_cast<std::uint64_t>(pages) * static_cast<std::uint64_t>(page) : 0;
  return std::clamp(memory / 8, 64 * kMiB, 1024 * kMiB);
}

PeerOptions options_of(const PeerCommand& command, Appetite appetite, std::uint32_t expect = 0) {
  PeerOptions options;
  options.tracker = command.tracker;
  options.listen = command.listen;
  options.id = command.id;
  options.expect = expect;
  options.appetite = appetite;
  options.wait = command.wait;
  options.upload_limit = command.limit_rate;
  options.most_in_flight = command.in_flight > 0 ? command.in_flight : in_flight_by_memory();
  options.include = command.include;
  options.exclude = command.exclude;
  options.md5_later = command.md5_later;
  options.other_latency = command.latency_default;
  options.emulates_latency = command.emulate_latency;
  return options;
}

/// With the latencies of --latency. Fails with the file and the line.
Result<PeerOptions> options_with_latencies(const PeerCommand& command, Appetite appetite) {
  PeerOptions options = options_of(command, appetite);
  if (command.latency.empty()) {
    if (command.emulate_latency) return fail(Errc::usage, "nothing to emulate", "give --emulate-latency a --latency FILE");
    return options;
  }
  std::ifstream file(command.latency);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file.is_open() || file.bad())
    return fail(Errc::usage, fmt::format("cannot read the latencies in {}", command.latency), "choose another file with --latency");
  auto table = LatencyTable::parse(text);
  if (!table) return fail(table.error().code, fmt::format("{}: {}", command.latency, table.error().what), table.error().advice);
  options.latencies = std::make_shared<const LatencyTable>(std::move(*table));
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

/// What a swarm or get came to, in the closing event and a line.
ExitCode conclude(Report& report, const Result<PeerOutcome>& outcome) {
  if (!outcome) return answer(report, Failure(outcome.error()));
  Fields fields{{"files", outcome->files_fetched}, {"bytes", outcome->bytes_fetched}, {"wasted", outcome->bytes_wasted}};
  if (outcome->swarm_time) fields.emplace_back("seconds", Seconds(*outcome->swarm_time).count());
  if (outcome->percent_of_bound > 0) fields.emplace_back("percent_of_bound", outcome->percent_of_bound);
  if (outcome->swarm_time) report.note(fmt::format("total swarm time: {:.3f} s", Seconds(*outcome->swarm_time).count()));
  report.result(outcome->exit, std::move(fields));
  return outcome->exit;
}

/// The same, of a folder that nothing more is done with.
ExitCode conclude(Report& report, Storage& storage, const Result<PeerOutcome>& outcome) {
  storage.finish();
  return conclude(report, outcome);
}

/// Of a peer that is a node of the overlay, unless it was told not to be.
std::optional<OverlayOptions> node_options(const Run& run) {
  if (run.command.overlay.is_left_out) return std::nullopt;
  return overlay_options(run.command, run.report);
}

// ---- actions ------------------------------------------------------------------------------------------

Task<ExitCode> act(Run run, const SwarmAction& action) {
  auto opened = open_store(store_options(run, action.folder, false));
  if (!opened) co_return conclude(run.report, Failure(opened.error()));
  const RunState storage(run.world, std::move(*opened));
  PeerOptions options = options_of(run.command, Appetite::everything, action.expect);
  if (action.expect == 0) options.overlay = node_options(run);
  const auto outcome = co_await run_member(run.world, run.report, *storage, std::move(options), run.stop);
  if (outcome && outcome->exit == ExitCode::done) (*storage).remove_stale_partials();
  co_return conclude(run.report, *storage, outcome);
}

Task<ExitCode> act(Run run, const ShareAction& action) {
  auto opened = open_store(store_options(run, action.folder, false));
  if (!opened) co_return conclude(run.report, Failure(opened.error()));
  const RunState storage(run.world, std::move(*opened));
  auto options = options_with_latencies(run.command, Appetite::nothing);
  if (!options) co_return conclude(run.report, Failure(options.error()));
  options->watches = !action.no_watch;
  options->overlay = node_options(run);
  co_return conclude(run.report, *storage, co_await run_member(run.world, run.report, *storage, std::move(*options), run.stop));
}

Task<ExitCode> act(Run run, const GetAction& action) {
  auto options = options_with_latencies(run.command, Appetite::everything);
  if (!options) co_return conclude(run.report, Failure(options.error()));
  options->from_one = action.from_one;
  options->overlay = overlay_options(run.command, run.report);
  auto opened = open_store(store_options(run, action.out, true));
  if (!opened) co_return conclude(run.report, Failure(opened.error()));
  const RunState storage(run.world, std::move(*opened));
  const auto outcome = co_await run_get(run.world, run.report, *storage, std::move(*options), action.wanted, run.stop);
  if (outcome && outcome->exit == ExitCode::done)
    run.report.note(fmt::format("{} files, {} fetched", outcome->files_fetched, format_bytes(outcome->bytes_fetched)));
  co_return conclude(run.report, *storage, outcome);
}

Task<ExitCode> act(Run run, const FindAction& action) {
  auto options = options_with_latencies(run.command, Appetite::nothing);
  if (!options) co_return answer(run.report, Failure(options.error()));
  options->overlay = overlay_options(run.command, run.report);
  co_return co_await run_find_command(action, run.world, run.report, std::move(*options));
}

Task<ExitCode> act(Run run, const TopologyAction& action) {
  PeerOptions options = options_of(run.command, Appetite::nothing);
  options.overlay = overlay_options(run.command, run.report);
  co_return co_await run_topology_command(action, run.world, run.report, std::move(options));
}

Task<ExitCode> act(Run run, const ListAction&) {
  const auto findings = co_await find_files(run.world, options_of(run.command, Appetite::nothing), "");
  if (!findings) co_return answer(run.report, Failure(findings.error()));
  print_findings(run.report, *findings);
  co_return answer(run.report, {}, {{"files", std::uint64_t{findings->size()}}});
}

Task<ExitCode> act(Run run, const LoadAction& action) {
  const auto load = co_await ask_load(run.world, options_of(run.command, Appetite::nothing), action.peer);
  if (!load) co_return answer(run.report, Failure(load.error()));
  print_load(run.report, action.peer, *load);
  co_return answer(run.report, {}, {{"load", std::uint64_t{*load}}});
}

Task<ExitCode> act(Run run, const ShellAction& action) {
  auto options = options_with_latencies(run.command, Appetite::nothing);
  if (!options) co_return conclude(run.report, Failure(options.error()));
  auto opened = open_store(store_options(run, action.folder, false));
  if (!opened) co_return conclude(run.report, Failure(opened.error()));
  const RunState storage(run.world, std::move(*opened));
  options->watches = !action.no_watch;
  options->overlay = node_options(run);
  options->announces_again = !action.no_reannounce;
  const auto drive = [&](PeerControl& control) { return run_shell(run.report, control, *run.lines, *run.interrupts); };
  co_return conclude(run.report, *storage, co_await run_catalogue(run.world, run.report, *storage, std::move(*options), drive, run.stop));
}

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
  const Fields fields{{"files", std::uint64_t{verified.files.size()}}, {"corrupted", corrupted}};
  if (corrupted > 0)
    return answer(report,
                  fail(Errc::wrong_digest, fmt::format("{} of {} files are not what was recorded", corrupted, verified.files.size()),
                       "fetch them again"),
                  fields);
  const ExitCode exit = verified.problems.empty() ? ExitCode::done : ExitCode::partial;
  report.result(exit, fields);
  return exit;
}

Task<> raise_flag(Signal& stop, std::shared_ptr<std::atomic<bool>> flag) {
  co_await stop.wait();
  *flag = true;
}

Task<ExitCode> act(Run run, const VerifyAction& action) {
  const auto is_stopped = std::make_shared<std::atomic<bool>>(false);
  TaskGroup tasks([](const std::string&, const Error&) {});
  tasks.spawn(make_strand(run.world), "stop", raise_flag(run.stop, is_stopped));
  ScanOptions options;
  options.include = run.command.include;
  options.exclude = run.command.exclude;
  options.should_stop = [is_stopped] { return is_stopped->load(); };
  options.progress = [&](const ScanProgress& progress) {
    run.report.progress({}, {"verifying", progress.bytes_done, progress.bytes_total, 0, 0});
  };
  const auto verified = co_await offload(run.world, [&] { return verify(store_options(run, action.folder, false), options); });
  run.report.end_progress();
  tasks.cancel();
  co_await tasks.join();
  if (!verified) co_return answer(run.report, Failure(verified.error()));
  co_return print_verified(run.report, *verified);
}

Task<ExitCode> act(Run run, const ClockAction& action) { return run_clock_command(run.command, action, run.world, run.report, run.stop); }

Task<ExitCode> act(Run run, const TimelineAction& action) { co_return run_timeline_command(action, run.report, run.command.common.json); }

Task<> perform(Run run, ExitCode& exit) {
  exit = co_await std::visit([&](const auto& action) { return act(run, action); }, run.command.action);
}

/// It has nothing to finish: the system ends it.
bool is_query(const PeerCommand& command) {
  const auto& action = command.action;
  return std::holds_alternative<FindAction>(action) || std::holds_alternative<ListAction>(action) ||
         std::holds_alternative<LoadAction>(action) || std::holds_alternative<TopologyAction>(action);
}

void handle_interrupts(NetWorld& world, Interrupts& interrupts) {
  world.on_interrupt([&interrupts, patience = 3](int, int signal) mutable {
    const bool was_stopping = interrupts.is_stopping();
    interrupts.on_signal(signal == SIGTERM);
    if (!was_stopping && interrupts.is_stopping()) exit_soon();
    if (interrupts.is_stopping() && patience-- == 0) exit_interrupted();
  });
}

/// For one crew of clock peers as many as for anything; for several one each, where there are so many processors.
unsigned threads_for(const ClockAction& clock) {
  const std::size_t crews = clock_crews(clock.count);
  const std::size_t processors = std::max(1U, std::thread::hardware_concurrency());
  return crews > 1 ? static_cast<unsigned>(std::min(crews, processors)) : 0;
}

}  // namespace

ExitCode answer(Report& report, const Result<>& result, Fields fields) {
  if (!result) report.error(result.error());
  const ExitCode exit = result ? ExitCode::done : exit_code_of(result.error());
  report.result(exit, std::move(fields));
  return exit;
}

ExitCode run_peer(const PeerCommand& command) {
  if (const auto known = check_congestion(command.congestion); !known) return say_failure("shoal-peer", known.error());
  if (const auto random = check_randomness(); !random) return say_failure("shoal-peer", random.error());
  raise_descriptor_limit();
  const auto* const shell = std::get_if<ShellAction>(&command.action);
  const auto lines = shell ? open_lines(shell->history) : nullptr;
  Signal stop;
  ReportOptions reporting = report_options(command.common, "shoal-peer");
  reporting.on_reader_gone = [&stop] { stop.notify(); };
  if (lines) reporting.write = [&lines](std::FILE* stream, std::string_view text) { return lines->write(stream, text); };
  auto report = Report::open(std::move(reporting));
  if (!report) return say_failure("shoal-peer", report.error());
  choose_kernels_by([file = command.kernels] { return kept_kernel_times(file); });
  NetOptions options;
  options.ends_with_process = true;
  options.upload_limit = command.limit_rate;
  options.congestion = command.congestion;
  const auto* const clock = std::get_if<ClockAction>(&command.action);
  if (clock) options.io_threads = threads_for(*clock);
  std::optional<Interrupts> interrupts;
  if (lines) interrupts.emplace(*lines, [&stop] { stop.notify(); });
  const auto world = make_net_world(options);  // ends before what its interrupts are told to
  if (lines)
    handle_interrupts(*world, *interrupts);
  else if (clock)
    finish_on_interrupt(*world, stop);
  else if (!is_query(command))
    stop_on_interrupt(*world, stop);
  ExitCode exit = ExitCode::unknown;
  world->run(perform({command, *world, **report, stop, lines.get(), interrupts ? &*interrupts : nullptr}, exit));
  (*report)->flush();
  return (*report)->exit_with(exit);
}

}  // namespace shoal::apps
