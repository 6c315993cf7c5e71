#include <catch2/catch_test_macros.hpp>

#include <fmt/core.h>
#include <sys/wait.h>
#include <unistd.h>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <array>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

import shoal.base;
import shoal.sim;
import shoal.world;

#include "simulation/replay.hpp"
#include "simulation/scenarios.hpp"

namespace shoal::simulation {
namespace {

/// What the seed's process does: it says what failed, and ends without anything that the test would do at its end.
[[noreturn]] void run_apart(std::uint64_t seed, int out) {
  for (const int signal : {SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV}) std::signal(signal, SIG_DFL);
  const std::string failure = failure_of(mixed(mixed_scale(seed)));
  const bool is_told = write(out, failure.data(), failure.size()) == static_cast<ssize_t>(failure.size());
  _exit(is_told ? 0 : 1);
}

std::string read_all(int in) {
  std::string text;
  std::array<char, 4096> part{};
  for (ssize_t count = 0; (count = read(in, part.data(), part.size())) > 0;) text.append(part.data(), static_cast<std::size_t>(count));
  return text;
}

}  // namespace

std::string failure_of(const Figures& figures) {
  std::string text;
  for (const auto& problem : figures.problems) text += problem + "\n";
  return text;
}

std::string failure_elsewhere(std::uint64_t seed) {
  std::array<int, 2> ends{};
  if (pipe(ends.data()) != 0) return "no pipe\n";
  const pid_t child = fork();
  if (child == 0) run_apart(seed, ends[1]);
  close(ends[1]);
  std::string failure = read_all(ends[0]);
  close(ends[0]);
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) return "no process\n";
  if (WIFSIGNALED(status)) failure += fmt::format("ended by signal {}\n", WTERMSIG(status));
  if (WIFEXITED(status) && WEXITSTATUS(status) != 0) failure += fmt::format("ended with {}\n", WEXITSTATUS(status));
  return failure;
}

std::string replay_command(std::uint64_t seed) {
  return fmt::format("SHOAL_SIM_SEED={} SHOAL_SIM_LOG=/dev/stderr {} '[replay]'", seed, SHOAL_TEST_PROGRAM);
}

}  // namespace shoal::simulation

TEST_CASE("The seed of mixed faults that SHOAL_SIM_SEED names", "[.replay]") {
  const char* const seed = std::getenv("SHOAL_SIM_SEED");
  REQUIRE(seed);
  const auto figures = shoal::simulation::mixed(shoal::simulation::mixed_scale(std::strtoull(seed, nullptr, 10)));
  WARN(to_string(figures));
  CHECK(shoal::simulation::failure_of(figures).empty());
  for (const auto& problem : figures.problems) FAIL_CHECK(problem);
}

TEST_CASE("The seeds of mixed faults from SHOAL_SIM_SEED to SHOAL_SIM_LAST", "[.seeds]") {
  const char* const first = std::getenv("SHOAL_SIM_SEED");
  const char* const last = std::getenv("SHOAL_SIM_LAST");
  REQUIRE((first && last));
  for (std::uint64_t seed = std::strtoull(first, nullptr, 10); seed <= std::strtoull(last, nullptr, 10); ++seed) {
    const std::string failure = shoal::simulation::failure_elsewhere(seed);
    if (!failure.empty()) FAIL_CHECK(failure << "again: " << shoal::simulation::replay_command(seed));
  }
}
