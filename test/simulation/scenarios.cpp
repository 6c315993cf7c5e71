#include <fmt/core.h>

#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

import shoal.base;
import shoal.sim;
import shoal.world;

#include "simulation/scenarios.hpp"

using namespace std::chrono_literals;

namespace shoal::simulation {
namespace {

sim::HostOptions host_of(const Scale& scale, double factor = 1.0) {
  sim::HostOptions host;
  host.up = host.down = scale.rate * factor;
  host.latency = scale.latency;
  host.jitter = scale.latency / 4;
  host.tcp = scale.tcp;
  return host;
}

/// The first peer is the source, the others want its file.
void add_source(Swarm& swarm, const Scale& scale, double factor = 1.0) {
  PeerPlan source{host_of(scale, factor), {}};
  source.files.emplace_back("file", swarm.simulation().content(1, scale.bytes));
  swarm.add(std::move(source));
}

void add_fetchers(Swarm& swarm, const Scale& scale) {
  for (std::size_t i = 0; i < scale.peers; ++i) swarm.add({host_of(scale), {}});
}

/// About when half of the work is done, at best.
Nanoseconds half_way(const Swarm& swarm) { return std::chrono::duration_cast<Nanoseconds>(swarm.bound() / 2); }

/// Runs until a moment, or to the end where that comes first.
void run_until(Swarm& swarm, Nanoseconds moment) {
  const Nanoseconds left = moment - swarm.simulation().now();
  if (left > Nanoseconds::zero()) swarm.simulation().run([&] { return swarm.is_done(); }, {left});
}

/// A peer of the swarm but the source, drawn by the seed.
std::size_t any_fetcher(Swarm& swarm) { return 1 + swarm.simulation().random() % (swarm.size() - 1); }

Figures one_source_at(const Scale& scale, double source_factor) {
  Swarm swarm(scale.options, static_cast<std::uint32_t>(scale.peers + 1));
  add_source(swarm, scale, source_factor);
  add_fetchers(swarm, scale);
  swarm.start_all();
  return swarm.finish(scale.limits);
}

}  // namespace

Figures classic(const Scale& scale) {
  Swarm swarm(scale.options, static_cast<std::uint32_t>(scale.peers));
  for (std::size_t i = 0; i < scale.peers; ++i) {
    PeerPlan plan{host_of(scale), {}};
    plan.files.emplace_back(fmt::format("file-{}", i), swarm.simulation().content(1 + i, scale.bytes));
    swarm.add(std::move(plan));
  }
  swarm.start_all();
  return swarm.finish(scale.limits);
}

Figures one_source(const Scale& scale) { return one_source_at(scale, 1.0); }

Figures slow_source(const Scale& scale) { return one_source_at(scale, 0.1); }

Figures staggered(const Scale& scale) {
  Swarm swarm(scale.options, 0);
  add_source(swarm, scale);
  add_fetchers(swarm, scale);
  swarm.start_tracker();
  const Nanoseconds apart = 2 * half_way(swarm) / 4;
  for (std::size_t i = 0; i < swarm.size(); ++i) {
    swarm.start(i);
    swarm.simulation().run([] { return false; }, {apart});
  }
  return swarm.finish(scale.limits);
}

Figures flash_crowd(const Scale& scale) {
  Swarm swarm(scale.options, 0);
  add_source(swarm, scale);
  add_fetchers(swarm, scale);
  swarm.start_tracker();
  swarm.start(0);
  run_until(swarm, 5s);
  for (std::size_t i = 1; i < swarm.size(); ++i)
    swarm.simulation().after(Nanoseconds(swarm.simulation().random() % 1'000'000'000), [&swarm, i] { swarm.start(i); });
  return swarm.finish(scale.limits);
}

Figures mixed_rates(const Scale& scale) {
  Swarm swarm(scale.options, static_cast<std::uint32_t>(scale.peers + 1));
  add_source(swarm, scale);
  for (std::size_t i = 0; i < scale.peers; ++i) swarm.add({host_of(scale, i % 10 == 0 ? 10.0 : i % 10 == 1 ? 0.1 : 1.0), {}});
  swarm.start_all();
  return swarm.finish(scale.limits);
}

Figures churn(const Scale& scale) {
  Swarm swarm(scale.options, 0);
  add_source(swarm, scale);
  add_fetchers(swarm, scale);
  swarm.start_all();
  const Nanoseconds apart = std::max<Nanoseconds>(half_way(swarm) / 4, 100ms);
  for (std::size_t round = 0; round < 8 && !swarm.is_done(); ++round) {
    run_until(swarm, swarm.simulation().now() + apart);
    const std::size_t victim = any_fetcher(swarm);
    swarm.kill(victim, swarm.simulation().random() % 2 == 0 ? sim::Death::killed : sim::Death::power);
    swarm.simulation().after(2 * apart, [&swarm, victim] {
      if (!swarm.simulation().is_running(swarm.host_of(victim))) swarm.start(victim);
    });
  }
  run_until(swarm, swarm.simulation().now() + 3 * apart);
  swarm.make_whole();
  return swarm.finish(scale.limits);
}

Figures tracker_restart(const Scale& scale) {
  Swarm swarm(scale.options, static_cast<std::uint32_t>(scale.peers + 1));
  add_source(swarm, scale);
  add_fetchers(swarm, scale);
  swarm.start_all();
  run_until(swarm, half_way(swarm));
  swarm.simulation().kill(swarm.tracker(), sim::Death::power);
  run_until(swarm, swarm.simulation().now() + std::max<Nanoseconds>(half_way(swarm) / 2, 1s));
  swarm.make_whole();
  return swarm.finish(scale.limits);
}

Figures partition_and_heal(const Scale& scale) {
  Swarm swarm(scale.options, static_cast<std::uint32_t>(scale.peers + 1));
  add_source(swarm, scale);
  add_fetchers(swarm, scale);
  swarm.start_all();
  run_until(swarm, half_way(swarm));
  std::vector<sim::HostId> far;
  for (std::size_t i = 1 + scale.peers / 2; i < swarm.size(); ++i) far.push_back(swarm.host_of(i));
  swarm.simulation().partition(far);
  run_until(swarm, swarm.simulation().now() + 20s);  // longer than a silent connection is kept
  swarm.make_whole();
  return swarm.finish(scale.limits);
}

Figures liars(const Scale& scale, unsigned percent) {
  Swarm swarm(scale.options, 0);
  add_source(swarm, scale);
  for (std::size_t i = 0; i < scale.peers; ++i) {
    sim::HostOptions host = host_of(scale);
    const bool is_liar = (i + 1) * percent / 100 > i * percent / 100;
    if (is_liar) host.lies = {.chunks = 0.5, .hashes = 0.5, .haves = 0.5};
    const std::size_t peer = swarm.add({host, {}});
    if (is_liar) swarm.excuse(peer);
  }
  swarm.start_all();
  return swarm.finish(scale.limits);
}

namespace {

Scale with_tcp(Scale scale) {
  if (scale.tcp.control == sim::CongestionControl::none) scale.tcp.control = sim::CongestionControl::cubic;
  return scale;
}

}  // namespace

Figures far(const Scale& scale, Nanoseconds round_trip) {
  Scale distant = with_tcp(scale);
  distant.latency = round_trip / 4;
  return one_source(distant);
}

Figures lossy(const Scale& scale) {
  Scale losing = with_tcp(scale);
  if (losing.tcp.loss <= 0) losing.tcp.loss = 0.001;
  return far(losing, 20ms);
}

Figures mixed_far(const Scale& scale) {
  const Scale plan = with_tcp(scale);
  Swarm swarm(plan.options, static_cast<std::uint32_t>(plan.peers + 1));
  swarm.link_sites(sim::SiteId(0), sim::SiteId(1), {.latency = 50ms, .rate = plan.rate / 2});
  add_source(swarm, plan);
  for (std::size_t i = 0; i < plan.peers; ++i) {
    sim::HostOptions host = host_of(plan);
    host.site = sim::SiteId(i % 2 == 0 ? 1 : 0);
    swarm.add({host, {}});
  }
  swarm.start_all();
  return swarm.finish(plan.limits);
}

const std::vector<Scenario>& scenarios() {
  static const std::vector<Scenario> all{
      {"classic", classic},
      {"one-source", one_source},
      {"slow-source", slow_source},
      {"staggered", staggered},
      {"flash-crowd", flash_crowd},
      {"mixed-rates", mixed_rates},
      {"churn", churn},
      {"tracker-restart", tracker_restart},
      {"partition", partition_and_heal},
      {"liars-0", [](const Scale& scale) { return liars(scale, 0); }},
      {"liars-1", [](const Scale& scale) { return liars(scale, 1); }},
      {"liars-10", [](const Scale& scale) { return liars(scale, 10); }},
      {"far-40", [](const Scale& scale) { return far(scale, 40ms); }},
      {"far-200", [](const Scale& scale) { return far(scale, 200ms); }},
      {"far-600", [](const Scale& scale) { return far(scale, 600ms); }},
      {"lossy", lossy},
      {"mixed-far", mixed_far},
      {"mixed", mixed},
      {"liars-50", [](const Scale& scale) { return liars(scale, 50); }},
  };
  return all;
}

}  // namespace shoal::simulation
