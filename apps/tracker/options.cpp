#include "tracker/options.hpp"

#include <fmt/core.h>
#include <tl/expected.hpp>

#include <string>
#include <utility>

import shoal.base;

namespace shoal::apps {
namespace {

Setter state_into(TrackerCommand& command) {
  return [&command](const std::string& text) -> Result<void> {
    command.is_state_chosen = true;
    return into(command.state)(text);
  };
}

OptionGroup swarm_group(TrackerCommand& command) {
  return {"Swarm",
          {{.name = "expect",
            .value = "N",
            .help = "a closed swarm: hold the roster until N peers are here; when all have everything, print the total swarm time and exit",
            .standard = "0: open",
            .set = into(command.expect)},
           {.name = "grace",
            .value = "DURATION",
            .help = "how long a peer of a closed swarm may be gone before it counts as failed",
            .standard = format_duration(command.grace),
            .set = into(command.grace)},
           {.name = "state",
            .value = "FILE",
            .help = "what an open tracker knows of its peers' files, over its own end; ':memory:' for none",
            .standard = "~/.local/state/shoal/tracker.db",
            .set = state_into(command)},
           {.name = "out",
            .letter = 'o',
            .value = "DIR",
            .help = "write the records of the run into DIR; without it only the table of timestamps is written, to 'out'",
            .set = into(command.out)}}};
}

OptionGroup network_group(TrackerCommand& command) {
  return {"Network",
          {{.name = "listen",
            .value = "HOST:PORT",
            .help = "where peers find the tracker; port 5555 where it is left out",
            .standard = to_string(command.listen),
            .set = into(command.listen, 5555)},
           {.name = "congestion",
            .value = "NAME",
            .help = "TCP congestion control where the system has a choice: 'auto' is bbr over long ways and cubic else, 'system' its own",
            .standard = command.congestion,
            .set = into(command.congestion)},
           {.name = "insecure", .help = "allow plain text on an address that is not loopback", .set = into(command.insecure)}}};
}

}  // namespace

Program tracker_program(TrackerCommand& command) {
  Program program{.name = "shoal-tracker",
                  .table = "tracker",
                  .summary = "introduces peers to each other and keeps their common clock; holds no files",
                  .commands = {},
                  .groups = {}};
  program.commands.push_back({.name = {},
                              .operand = {},
                              .summary = program.summary,
                              .example = "shoal-tracker --expect 4 --log tracker.ndjson",
                              .choose = {},
                              .set_operand = {},
                              .groups = {swarm_group(command), network_group(command)}});
  program.groups = {common_group(command.common)};
  return program;
}

Parsed<TrackerCommand> parse_tracker(const Inputs& inputs) {
  TrackerCommand command;
  const Program program = tracker_program(command);
  command.state = xdg_path(inputs, "XDG_STATE_HOME", ".local/state", "tracker.db").value_or(":memory:");
  if (auto done = parse(program, inputs); !done) return tl::unexpected(done.error());
  if (auto safe = require_loopback(program, "--listen", command.listen, command.insecure); !safe) return tl::unexpected(safe.error());
  return command;
}

}  // namespace shoal::apps
