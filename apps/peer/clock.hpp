/// The commands about time. Include this last: it imports modules.
#pragma once

#include <boost/asio/awaitable.hpp>

#include "peer/options.hpp"

import shoal.base;
import shoal.net;
import shoal.report;
import shoal.world;

namespace shoal::apps {

Task<ExitCode> run_clock_command(const PeerCommand& command, const ClockAction& action, NetWorld& world, Report& report, Signal& stop);
ExitCode run_timeline_command(const TimelineAction& action, Report& report, bool is_json);

}  // namespace shoal::apps
