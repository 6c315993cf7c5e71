/// Runs one command of a peer. Include this last: it imports modules.
#pragma once

#include "peer/options.hpp"

import shoal.base;
import shoal.report;

namespace shoal::apps {

/// Runs the command to its end, and says how it ended.
ExitCode run_peer(const PeerCommand& command);
/// Says how a command ended: its failure if it failed, and its closing event.
ExitCode answer(Report& report, const Result<>& result, Fields fields = {});

}  // namespace shoal::apps
