/// What both commands share: their common options, and how a command line becomes a struct.
/// Include this last: it imports modules.
#pragma once

#include <tl/expected.hpp>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "common/spec.hpp"

import shoal.base;
import shoal.report;

namespace shoal::apps {

struct CommonOptions {
  bool quiet = false;
  bool verbose = false;
  bool json = false;
  bool no_color = false;
  std::string log;
};

/// The options of every command of ours.
OptionGroup common_group(CommonOptions& common);
/// What Report needs to know of them. `program` stands in front of failures.
ReportOptions report_options(const CommonOptions& common, std::string program);

/// Why the program ends instead of running a command: it said its help, or the command line cannot be meant.
struct Stop {
  ExitCode exit = ExitCode::done;
  std::string out;  ///< For stdout, with its line ends.
  std::string err;  ///< For stderr: one line, with its end.
};

template <class T>
using Parsed = tl::expected<T, Stop>;

/// Where options come from besides their defaults.
struct Inputs {
  std::vector<std::string> arguments;                                      ///< Without the program's name.
  std::function<std::optional<std::string>(const std::string&)> variable;  ///< The environment.
};

Inputs inputs_of(int argc, char** argv);

/// Sets what the command line says, else the environment, else the configuration.
Parsed<void> parse(const Program& program, const Inputs& inputs);

/// Refuses an endpoint that others can reach, unless plain text was allowed. `option` is how the user names it.
Parsed<void> require_loopback(const Program& program, const std::string& option, const Endpoint& endpoint, bool is_insecure_allowed);
/// A usage error of `program`, in one line.
tl::unexpected<Stop> usage_error(const Program& program, std::string what, std::string advice = {});

/// `$VARIABLE/shoal/name`, or `~/home_folder/shoal/name`; none where the environment has neither.
std::optional<std::string> xdg_path(const Inputs& inputs, const std::string& variable, const std::string& home_folder,
                                    const std::string& name);

std::string help_text(const Program& program, const Command* command);
/// `SHOAL_LIMIT_RATE`
std::string variable_name(const std::string& option);

/// Says why, and returns the exit code: not 0 where that cannot be said.
int say(const std::string& program, const Stop& stop);
/// Runs `main`; an exception that nobody caught is one line and exit code 1.
int guarded(const std::string& program, const std::function<int()>& main);

}  // namespace shoal::apps
