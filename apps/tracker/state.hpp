/// The tracker's memory in SQLite. Include this last: it imports modules.
#pragma once

#include <tl/expected.hpp>

#include <memory>
#include <string>

import shoal.base;
import shoal.tracker;

namespace shoal::apps {

/// Opens `file`, or makes it with the folders above it. Fails where it is no state of ours, of another version, or used by another tracker.
Result<std::shared_ptr<TrackerState>> open_state(const std::string& file);

}  // namespace shoal::apps
