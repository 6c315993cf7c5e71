/// What the command line of shoal-tracker says. Include this last: it imports modules.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "common/options.hpp"

import shoal.base;

namespace shoal::apps {

struct TrackerCommand {
  Endpoint listen{"127.0.0.1", 5555};
  std::uint32_t expect = 0;                      ///< Peers of a closed swarm; 0 for an open one.
  std::string state;                             ///< What outlives the tracker; `:memory:` for nothing.
  bool is_state_chosen = false;                  ///< By the user.
  std::string out;                               ///< Folder for the run's records; none when empty.
  Nanoseconds grace = std::chrono::seconds(30);  ///< A peer of a closed swarm that is gone this long has failed.
  std::string congestion = "auto";               ///< TCP congestion control: see NetOptions.
  bool insecure = false;
  CommonOptions common;
};

/// The options, with their setters bound to `command`.
Program tracker_program(TrackerCommand& command);
Parsed<TrackerCommand> parse_tracker(const Inputs& inputs);

}  // namespace shoal::apps
