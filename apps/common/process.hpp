/// What both commands do to their process. Include this after the headers of libraries: it imports modules.
#pragma once

#include <string>

import shoal.base;
import shoal.net;
import shoal.world;

namespace shoal::apps {

/// Gives a stream that was closed before us an end where nothing can be read or written, so that no file or connection takes its number.
/// And a reader of ours that goes away is a failed write from here on, not our death.
void prepare_streams();

/// As many descriptors as the system lets a process have.
void raise_descriptor_limit();

/// Ends the process at once, with the exit code of what was interrupted.
[[noreturn]] void exit_interrupted();

/// Ends the process so within 2 s, where it has not ended by itself.
void exit_soon();

/// The first interrupt notifies `stop`, and the process ends within 2 s; the second ends it at once. `stop` must outlive the world.
void stop_on_interrupt(NetWorld& world, Signal& stop);

/// The same for what has something to write at the end that exists nowhere else: it may take its time.
void finish_on_interrupt(NetWorld& world, Signal& stop);

/// One line on stderr for what keeps a Report from being opened: a file or folder that the command line names, so that it is a
/// mistake of usage, unless the error has a code of its own (a full disk).
ExitCode say_failure(const std::string& program, const Error& error);

}  // namespace shoal::apps
