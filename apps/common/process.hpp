/// What both commands do to their process. Include this after the headers of libraries: it imports modules.
#pragma once

#include <string>

import shoal.base;
import shoal.net;
import shoal.world;

namespace shoal::apps {

/// As many descriptors as the system lets a process have.
void raise_descriptor_limit();

/// The first interrupt notifies `stop`; the second ends the process at once.
void stop_on_interrupt(NetWorld& world, Signal& stop);

/// One line on stderr for a failure before there is a Report.
ExitCode say_failure(const std::string& program, const Error& error);

}  // namespace shoal::apps
