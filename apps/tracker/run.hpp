/// Runs the tracker. Include this last: it imports modules.
#pragma once

#include "tracker/options.hpp"

import shoal.base;

namespace shoal::apps {

/// Serves until it is told to stop, or a closed swarm is complete.
ExitCode run_tracker(const TrackerCommand& command);

}  // namespace shoal::apps
