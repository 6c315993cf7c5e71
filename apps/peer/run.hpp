/// Runs one command of a peer. Include this last: it imports modules.
#pragma once

#include "peer/options.hpp"

import shoal.base;

namespace shoal::apps {

/// Runs the command to its end, and says how it ended.
ExitCode run_peer(const PeerCommand& command);

}  // namespace shoal::apps
