/// The commands that ask the overlay, and what others need for it. Include this last: it imports modules.
#pragma once

#include <boost/asio/awaitable.hpp>

#include "peer/options.hpp"

import shoal.base;
import shoal.peer;
import shoal.report;
import shoal.world;

namespace shoal::apps {

/// With the nodes that earlier runs heard of; what this one hears of is kept.
OverlayOptions overlay_options(const PeerCommand& command, Report& report);

Task<ExitCode> run_find_command(const FindAction& action, World& world, Report& report, PeerOptions options);
Task<ExitCode> run_topology_command(const TopologyAction& action, World& world, Report& report, PeerOptions options);

}  // namespace shoal::apps
