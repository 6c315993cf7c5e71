#include <catch2/catch_test_macros.hpp>

#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <chrono>
#include <cstdint>
#include <string>

import shoal.base;
import shoal.sim;
import shoal.wire;
import shoal.world;

#include "simulation/swarm.hpp"

using namespace shoal;
using namespace shoal::simulation;
using namespace std::chrono_literals;

TEST_CASE("A real tracker and four real peers with a file each have everything, in virtual time and with real bytes") {
  Swarm swarm({}, 4);
  for (std::uint64_t i = 0; i < 4; ++i) {
    PeerPlan plan;
    plan.host.up = plan.host.down = 12.5e6;
    plan.files.emplace_back("file-" + std::to_string(i), swarm.simulation().content(100 + i, 2 * kMiB + 12345));
    swarm.add(plan);
  }
  swarm.start_all();
  const Figures figures = swarm.finish({60s});
  INFO(to_string(figures));
  for (const auto& problem : figures.problems) UNSCOPED_INFO(problem);
  CHECK(figures.ending == sim::Ending::reached);
  CHECK(figures.problems.empty());
}
