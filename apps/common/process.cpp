#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <string>

#include "common/process.hpp"

namespace shoal::apps {

void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

void stop_on_interrupt(NetWorld& world, Signal& stop) {
  world.on_interrupt([&stop](int count, int) {
    if (count > 1) ::_exit(static_cast<int>(ExitCode::interrupted));
    stop.notify();
  });
}

ExitCode say_failure(const std::string& program, const Error& error) {
  std::fprintf(stderr, "%s: %s\n", program.c_str(), error.message().c_str());
  const ExitCode exit = exit_code_of(error);
  return exit == ExitCode::unknown ? ExitCode::usage : exit;
}

}  // namespace shoal::apps
