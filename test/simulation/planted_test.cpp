#include <catch2/catch_test_macros.hpp>

#include <fmt/core.h>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <chrono>
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

using namespace shoal::simulation;

namespace {

/// Runs the same seeds in the program without the bug.
int failure_of_sound_code(std::uint64_t seeds) {
  return std::system(fmt::format("SHOAL_SIM_SEED=1 SHOAL_SIM_LAST={} {} '[seeds]'", seeds, SHOAL_SOUND_PROGRAM).c_str());
}

}  // namespace

// This program has a bug that was put in on purpose: see test/simulation/CMakeLists.txt.
TEST_CASE("A bug that is put in on purpose is found within 1,000 seeds, and its seed shows it again") {
  std::uint64_t seed = 0;
  std::string failure;
  while (failure.empty() && seed < 1000) failure = failure_elsewhere(++seed);
  CAPTURE(seed, failure);
  REQUIRE_FALSE(failure.empty());
  CHECK(failure_elsewhere(seed) == failure);
  CHECK(failure_of_sound_code(seed) == 0);
  WARN("seed " << seed << ": " << failure << "again: " << replay_command(seed));
}
