#include <boost/asio/awaitable.hpp>

#include "peer/clock.hpp"

namespace shoal::apps {

ExitCode run_timeline_command(const TimelineAction&, Report&, bool) { return ExitCode::unknown; }

}  // namespace shoal::apps
