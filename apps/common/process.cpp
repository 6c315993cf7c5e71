#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <csignal>
#include <cstdio>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>

#include "common/process.hpp"

namespace shoal::apps {
namespace {

/// A clean stop takes no longer: what is not done by then ends as by kill -9, which everything on disk survives.
constexpr std::chrono::milliseconds kStopPatience(1700);

}  // namespace

void prepare_streams() {
  // An open takes the lowest number that is free. What cannot be written is noticed: an output is opened for reading only.
  int opened = 0;
  do opened = ::open("/dev/null", O_RDONLY);
  while (opened >= 0 && opened <= STDERR_FILENO);
  if (opened > STDERR_FILENO) ::close(opened);
  std::signal(SIGPIPE, SIG_IGN);
}

void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
#ifdef __APPLE__
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_cur, OPEN_MAX);  // it refuses more, whatever it says is the most
#endif
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

void exit_interrupted() { ::_exit(static_cast<int>(ExitCode::interrupted)); }

namespace {

/// Not to be waited for, as nothing else is by then.
void end_late() {
  std::this_thread::sleep_for(kStopPatience);
  constexpr std::string_view kWhy = "stopped without waiting longer for the disk, or for whoever reads the output\n";
  pollfd errors{STDERR_FILENO, POLLOUT, 0};
  if (::poll(&errors, 1, 0) == 1 && (errors.revents & POLLOUT) != 0) [[maybe_unused]]
    const auto written = ::write(STDERR_FILENO, kWhy.data(), kWhy.size());
  exit_interrupted();
}

}  // namespace

void exit_soon() {
  try {
    std::thread(end_late).detach();
  } catch (const std::system_error&) {  // no thread is to be had: a second interrupt ends it
  }
}

void stop_on_interrupt(NetWorld& world, Signal& stop) {
  world.on_interrupt([&stop](int count, int) {
    if (count > 1) exit_interrupted();
    exit_soon();
    stop.notify();
  });
}

void finish_on_interrupt(NetWorld& world, Signal& stop) {
  world.on_interrupt([&stop](int count, int) {
    if (count > 1) exit_interrupted();
    stop.notify();
  });
}

ExitCode say_failure(const std::string& program, const Error& error) {
  std::fprintf(stderr, "%s: %s\n", program.c_str(), error.message().c_str());
  const ExitCode exit = exit_code_of(error);
  return exit == ExitCode::unknown ? ExitCode::usage : exit;
}

}  // namespace shoal::apps
