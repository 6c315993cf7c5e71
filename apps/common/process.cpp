#include <poll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <string>
#include <string_view>
#include <thread>

#include "common/process.hpp"

namespace shoal::apps {
namespace {

/// A clean stop takes no longer: what is not done by then ends as by kill -9, which everything on disk survives.
constexpr std::chrono::milliseconds kStopPatience(1800);

}  // namespace

void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

void exit_interrupted() { ::_exit(static_cast<int>(ExitCode::interrupted)); }

void exit_soon() {
  std::thread([] {
    std::this_thread::sleep_for(kStopPatience);
    constexpr std::string_view kWhy = "stopped without waiting longer for the disk or the terminal; run it again to go on\n";
    pollfd errors{STDERR_FILENO, POLLOUT, 0};
    if (::poll(&errors, 1, 0) == 1 && (errors.revents & POLLOUT) != 0) [[maybe_unused]]
      const auto written = ::write(STDERR_FILENO, kWhy.data(), kWhy.size());
    exit_interrupted();
  }).detach();
}

void stop_on_interrupt(NetWorld& world, Signal& stop) {
  world.on_interrupt([&stop](int count, int) {
    if (count > 1) exit_interrupted();
    exit_soon();
    stop.notify();
  });
}

ExitCode say_failure(const std::string& program, const Error& error) {
  std::fprintf(stderr, "%s: %s\n", program.c_str(), error.message().c_str());
  const ExitCode exit = exit_code_of(error);
  return exit == ExitCode::unknown ? ExitCode::usage : exit;
}

}  // namespace shoal::apps
