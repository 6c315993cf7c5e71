/// Swarms that are worth looking at, each a short function: for the tests, and for perf/simulate.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "simulation/swarm.hpp"

namespace shoal::simulation {

/// What every scenario can be told.
struct Scale {
  sim::Options options;
  std::size_t peers = 4;  ///< That fetch; a source comes on top where the scenario has one.
  std::uint64_t bytes = 2 * kMiB;
  double rate = 12.5e6;  ///< Bytes a second, each way.
  Nanoseconds latency{250'000};
  sim::Tcp tcp{};  ///< Of every peer; by default none.
  sim::Limits limits;
};

/// Each of n has a file that all others fetch.
Figures classic(const Scale& scale);
Figures one_source(const Scale& scale);
/// The peers come one by one, so far apart that some are done before others come.
Figures staggered(const Scale& scale);
/// One source serves for a while; then all others come within a second.
Figures flash_crowd(const Scale& scale);
/// A tenth of the peers has ten times the rate, and a tenth has a tenth of it.
Figures mixed_rates(const Scale& scale);
/// The source's uplink has a tenth of the others' rate.
Figures slow_source(const Scale& scale);
/// Peers are killed and lose power, one after the other, and come back.
Figures churn(const Scale& scale);
/// The tracker dies in the middle, and comes back.
Figures tracker_restart(const Scale& scale);
/// Half of the peers are cut off from the other half for a while.
Figures partition_and_heal(const Scale& scale);
/// So many of a hundred peers lie in all that they can lie in. The honest ones must finish.
Figures liars(const Scale& scale, unsigned percent);

/// One source, and so long a round trip between any two, over TCP: CUBIC where the scale says nothing else.
Figures far(const Scale& scale, Nanoseconds round_trip);
/// One source; a round trip of 20 ms and one segment in a thousand lost, where the scale does not say how many.
Figures lossy(const Scale& scale);
/// Every other peer is at a site of its own, a round trip of 100 ms from the source's, and what goes there shares half of a host's rate.
Figures mixed_far(const Scale& scale);

/// A small swarm to which faults of all kinds happen, drawn from the seed, and which is healed in the end. One seed is one run:
/// `mixed_scale` says all that it stands for.
Figures mixed(const Scale& scale);
Scale mixed_scale(std::uint64_t seed);

struct Scenario {
  std::string name;
  std::function<Figures(const Scale&)> run;
};
const std::vector<Scenario>& scenarios();

}  // namespace shoal::simulation
