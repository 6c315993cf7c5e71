#include <sys/resource.h>

#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <utility>

#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include "common/process.hpp"
#include "tracker/run.hpp"
#include "tracker/state.hpp"

import shoal.base;
import shoal.net;
import shoal.report;
import shoal.store;
import shoal.tracker;
import shoal.world;

namespace shoal::apps {
namespace {

/// The report of this run; with --out, its event log goes there.
Result<std::unique_ptr<Report>> open_report(const TrackerCommand& command, Signal& stop) {
  ReportOptions options = report_options(command.common, "shoal-tracker");
  options.on_reader_gone = [&stop] { stop.notify(); };
  if (!command.out.empty()) {
    std::error_code error;
    std::filesystem::create_directories(command.out, error);
    if (error) return fail(error, "cannot make the folder " + command.out, "choose another with --out");
    if (options.log_file.empty()) options.log_file = (std::filesystem::path(command.out) / "events.ndjson").string();
  }
  return Report::open(std::move(options));
}

Task<> serve(NetWorld& world, Report& report, TrackerOptions options, Signal& stop, ExitCode& exit) {
  const auto outcome = co_await run_tracker(world, report, std::move(options), stop);
  if (!outcome) report.error(outcome.error());
  exit = outcome ? *outcome : exit_code_of(outcome.error());
}

/// What outlives an open tracker. The one that nobody chose may fail: then the tracker does without.
Result<std::shared_ptr<TrackerState>> choose_state(const TrackerCommand& command, Report& report) {
  if (command.expect != 0 || command.state == ":memory:") return nullptr;
  auto state = open_state(command.state);
  if (state || command.is_state_chosen) return state;
  report.warn(state.error().message());
  return nullptr;
}

}  // namespace

ExitCode run_tracker(const TrackerCommand& command) {
  if (const auto known = check_congestion(command.congestion); !known) return say_failure("shoal-tracker", known.error());
  if (const auto random = check_randomness(); !random) return say_failure("shoal-tracker", random.error());
  raise_descriptor_limit();
  Signal stop;
  auto report = open_report(command, stop);
  if (!report) return say_failure("shoal-tracker", report.error());
  auto state = choose_state(command, **report);
  if (!state) {
    (*report)->error(state.error());
    (*report)->result(exit_code_of(state.error()));
    return exit_code_of(state.error());
  }
  const auto world = make_net_world({.congestion = command.congestion, .ends_with_process = true});
  stop_on_interrupt(*world, stop);
  ExitCode exit = ExitCode::unknown;
  const bool has_out = !command.out.empty();
  TrackerOptions options{command.listen, command.expect, command.grace, open_records(has_out ? command.out : "out"), *state, has_out};
  world->run(serve(*world, **report, std::move(options), stop, exit));
  (*report)->result(exit);
  (*report)->flush();
  return (*report)->exit_with(exit);
}

}  // namespace shoal::apps
