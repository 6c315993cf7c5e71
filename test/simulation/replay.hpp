/// How a seed of mixed faults that failed is told of, and run again. Import shoal.sim and include simulation/swarm.hpp before it, or let
/// simulation/scenarios.hpp do so after it.
#pragma once

#include <cstdint>
#include <string>

#include "simulation/swarm.hpp"

namespace shoal::simulation {

/// A line for each problem; empty where there is none.
std::string failure_of(const Figures& figures);
/// The same, from a process of its own, as there are bugs that end it.
std::string failure_elsewhere(std::uint64_t seed);
/// The command that runs just that seed in this program, and shows what happens in it.
std::string replay_command(std::uint64_t seed);

}  // namespace shoal::simulation
