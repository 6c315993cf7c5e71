/// What tests of whole swarms check. Import shoal.sim, shoal.wire and shoal.report before it.
#pragma once

#include <catch2/catch_test_macros.hpp>

#include "simulation/swarm.hpp"

namespace shoal::simulation {

/// Everybody got everything, and nothing was wrong.
inline void check_whole(const Figures& figures) {
  CAPTURE(to_string(figures));
  for (const auto& problem : figures.problems) UNSCOPED_INFO(problem);
  CHECK(figures.ending == sim::Ending::reached);
  CHECK(figures.problems.empty());
}

}  // namespace shoal::simulation
