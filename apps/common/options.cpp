#include "common/options.hpp"

#include <fmt/core.h>
#include <tl/expected.hpp>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

import shoal.base;
import shoal.report;

namespace shoal::apps {

OptionGroup common_group(CommonOptions& common) {
  return {"Output",
          {{.name = "quiet", .letter = 'q', .help = "say only what is wrong and what was asked for", .set = into(common.quiet)},
           {.name = "verbose", .letter = 'v', .help = "say more of what happens", .set = into(common.verbose)},
           {.name = "json", .help = "write NDJSON to stdout, a line an event, instead of text", .set = into(common.json)},
           {.name = "no-color", .help = "no colour; so does NO_COLOR in the environment", .set = into(common.no_color)},
           {.name = "log", .value = "FILE", .help = "append every event to FILE, as NDJSON", .set = into(common.log)}}};
}

ReportOptions report_options(const CommonOptions& common, std::string program) {
  ReportOptions options;
  options.verbosity = common.quiet ? Verbosity::quiet : common.verbose ? Verbosity::verbose : Verbosity::normal;
  options.json = common.json;
  options.colour = common.no_color ? Colour::never : Colour::automatic;
  options.log_file = common.log;
  options.program = std::move(program);
  return options;
}

Inputs inputs_of(int argc, char** argv) {
  Inputs inputs;
  if (argc > 1) inputs.arguments.assign(argv + 1, argv + argc);
  inputs.variable = [](const std::string& name) -> std::optional<std::string> {
    const char* const value = std::getenv(name.c_str());
    return value == nullptr ? std::nullopt : std::optional<std::string>(value);
  };
  return inputs;
}

tl::unexpected<Stop> usage_error(const Program& program, std::string what, std::string advice) {
  const Error error{{}, std::move(what), std::move(advice)};
  return tl::unexpected(Stop{ExitCode::usage, {}, fmt::format("{}: {}\n", program.name, printable(error.message()))});
}

Parsed<void> require_loopback(const Program& program, const std::string& option, const Endpoint& endpoint, bool is_insecure_allowed) {
  if (is_insecure_allowed || is_loopback(endpoint.host)) return {};
  return usage_error(program, fmt::format("{} {} leaves this machine, and the traffic is plain text", option, to_string(endpoint)),
                     "add --insecure where everyone on the network is trusted");
}

std::optional<std::string> xdg_path(const Inputs& inputs, const std::string& variable, const std::string& home_folder,
                                    const std::string& name) {
  // The XDG specification has relative paths ignored.
  if (const auto base = inputs.variable(variable); base && base->starts_with('/')) return fmt::format("{}/shoal/{}", *base, name);
  if (const auto home = inputs.variable("HOME"); home && !home->empty()) return fmt::format("{}/{}/shoal/{}", *home, home_folder, name);
  return std::nullopt;
}

int say(const std::string& program, const Stop& stop) {
  std::fputs(stop.err.c_str(), stderr);
  if (write_whole(stdout, stop.out)) return static_cast<int>(stop.exit);
  const Error error{std::error_code(errno, std::generic_category()), "cannot write to stdout", {}};
  if (errno != EPIPE) std::fputs(fmt::format("{}: {}\n", program, error.message()).c_str(), stderr);
  if (stop.exit != ExitCode::done) return static_cast<int>(stop.exit);
  return static_cast<int>(exit_code_of(error) == ExitCode::disk_full ? ExitCode::disk_full : ExitCode::unknown);
}

int guarded(const std::string& program, const std::function<int()>& main) {
  try {
    return main();
  } catch (const std::exception& problem) {
    const Error error{{}, fmt::format("stopped by what nobody expected: {}", problem.what()), "please report it"};
    return say(program, {ExitCode::unknown, {}, fmt::format("{}: {}\n", program, printable(error.message()))});
  }
}

}  // namespace shoal::apps
