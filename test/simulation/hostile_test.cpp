// Peers that answer nothing, or nonsense: whoever has to do with them gets on as if they were not there.
#include <catch2/catch_test_macros.hpp>

#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

import shoal.base;
import shoal.sim;
import shoal.wire;
import shoal.world;

#include "simulation/scenarios.hpp"

using namespace shoal;
using namespace shoal::simulation;
using namespace std::chrono_literals;

namespace {

sim::Options options_of(std::uint64_t seed) {
  sim::Options options;
  options.seed = seed;
  options.bytes = sim::Bytes::marks;
  options.messages = sim::Messages::values;
  return options;
}

sim::HostOptions host_at(double rate, Nanoseconds latency = 100us) {
  sim::HostOptions host;
  host.up = host.down = rate;
  host.latency = latency;
  return host;
}

PeerPlan source_at(const sim::HostOptions& host, std::string name, const sim::ContentPtr& content) {
  PeerPlan source{host, {{std::move(name), content}}};
  source.is_fetching = false;
  return source;
}

/// Fetches from a source with a round trip of 100 ms, while `near`, where there is such a one, has all of it, too.
Figures beside_who_is_near(std::uint64_t seed, const std::optional<sim::HostOptions>& near) {
  Swarm swarm(options_of(seed), 0);
  const auto content = swarm.simulation().content(1, 32 * kMiB);
  swarm.add(source_at(host_at(4e6, 50ms), "file", content));
  swarm.add({host_at(4e6), {}});
  if (near) swarm.add(source_at(*near, "copy", content));
  swarm.start_all();
  return swarm.finish({1min});
}

/// Passes over that part of what it is asked for.
sim::HostOptions silent(double part) {
  sim::HostOptions host = host_at(4e6);
  host.lies.silence = part;
  return host;
}

void check_whole(const Figures& figures) {
  CAPTURE(to_string(figures));
  for (const auto& problem : figures.problems) UNSCOPED_INFO(problem);
  CHECK(figures.ending == sim::Ending::reached);
  CHECK(figures.problems.empty());
}

}  // namespace

TEST_CASE("Who is near, has everything and answers nothing keeps nobody from what is far") {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    CAPTURE(seed);
    const Figures beside = beside_who_is_near(seed, silent(1));
    check_whole(beside);
    CHECK(beside.taken < beside_who_is_near(seed, std::nullopt).taken + 1s);
  }
}

TEST_CASE("Who is near and passes over some of what it is asked for delays nobody for long") {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    CAPTURE(seed);
    const Figures beside = beside_who_is_near(seed, silent(0.02));
    check_whole(beside);
    CHECK(beside.taken < beside_who_is_near(seed, std::nullopt).taken + 3s);
  }
}
