#include <fmt/core.h>

#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

import shoal.base;
import shoal.sim;
import shoal.world;

#include "simulation/scenarios.hpp"

using namespace std::chrono_literals;

namespace shoal::simulation {
namespace {

/// What the seed says.
class Draws {
 public:
  explicit Draws(sim::Simulation& simulation) : simulation_(simulation) {}
  std::uint64_t below(std::uint64_t bound) { return simulation_.random() % bound; }
  bool one_in(std::uint64_t times) { return below(times) == 0; }
  std::uint64_t between(std::uint64_t least, std::uint64_t most) { return least + below(most - least + 1); }
  Nanoseconds time(Nanoseconds least, Nanoseconds most) {
    return Nanoseconds(between(static_cast<std::uint64_t>(least.count()), static_cast<std::uint64_t>(most.count())));
  }
  Nanoseconds either_way(Nanoseconds most) { return time(0s, 2 * most) - most; }

 private:
  sim::Simulation& simulation_;
};

// ---- the swarm ----------------------------------------------------------------------------------------

sim::HostOptions any_host(Draws& draws) {
  sim::HostOptions host;
  host.up = static_cast<double>(draws.between(500'000, 8'000'000));
  host.down = static_cast<double>(draws.between(500'000, 8'000'000));
  host.latency = draws.time(100us, draws.one_in(4) ? 60ms : 5ms);
  host.jitter = draws.one_in(2) ? host.latency / 2 : 0ns;
  host.work = draws.one_in(2) ? draws.time(10us, 3ms) : 0ns;
  host.drift_ppm = static_cast<double>(draws.below(600)) - 300.0;
  host.wall_offset = draws.either_way(24h);
  return host;
}

sim::Lies any_lies(Draws& draws) {
  const auto often = [&draws] { return draws.one_in(2) ? 0.5 : 0.0; };
  return {.chunks = often(), .hashes = often(), .haves = often(), .silence = often()};
}

std::uint64_t any_size(Draws& draws, std::uint64_t most) {
  switch (draws.below(3)) {
    case 0: return draws.between(1, kChunkSize);
    case 1: return draws.between(kChunkSize + 1, 3 * kChunkSize);
    default: return draws.between(most / 2, most);
  }
}

/// Honest peers come first, the first of them with the largest file; liars have none.
void add_peers(Swarm& swarm, Draws& draws, const Scale& scale) {
  const std::size_t liars = scale.peers >= 3 && draws.one_in(3) ? draws.between(1, scale.peers / 3) : 0;
  std::vector<PeerPlan> plans(scale.peers);
  for (PeerPlan& plan : plans) plan.host = any_host(draws);
  const std::size_t files = draws.between(1, 4);
  for (std::size_t i = 0; i < files; ++i) {
    const std::uint64_t size = i == 0 ? draws.between(scale.bytes / 2, scale.bytes) : any_size(draws, scale.bytes);
    const bool is_copy = i > 0 && draws.one_in(5);
    const auto content = is_copy ? plans.front().files.front().second : swarm.simulation().content(i + 1, size);
    plans[i == 0 ? 0 : draws.below(scale.peers - liars)].files.emplace_back(fmt::format("file-{}", i), content);
  }
  for (std::size_t i = 0; i < scale.peers; ++i) {
    const bool is_liar = i >= scale.peers - liars;
    if (is_liar) plans[i].host.lies = any_lies(draws);
    const std::size_t peer = swarm.add(std::move(plans[i]));
    if (is_liar) swarm.excuse(peer);
  }
}

// ---- what happens to it -------------------------------------------------------------------------------

enum class Fault : std::uint8_t {
  killed,
  power,
  tracker,
  partition,
  mute,
  cut,
  stopped,
  slow_reader,
  slow_link,
  clock,
  slow_disk,
  full_disk,
  broken_disk,
};
constexpr std::array kAllFaults{Fault::killed,    Fault::power,     Fault::tracker,     Fault::partition, Fault::mute,
                                Fault::cut,       Fault::stopped,   Fault::slow_reader, Fault::slow_link, Fault::clock,
                                Fault::slow_disk, Fault::full_disk, Fault::broken_disk};
/// Those after which all processes are still there: what a closed swarm has to outlive without anyone's help.
constexpr std::array kGentleFaults{Fault::partition,   Fault::mute,  Fault::cut,      Fault::stopped,
                                   Fault::slow_reader, Fault::clock, Fault::slow_disk};

/// Draws faults, has them happen, and undoes them.
class Trouble : public std::enable_shared_from_this<Trouble> {
 public:
  Trouble(Swarm& swarm, Draws& draws, bool is_gentle)
      : swarm_(swarm), simulation_(swarm.simulation()), draws_(draws), is_gentle_(is_gentle) {}

  /// Something, at some moment before `horizon`.
  void plan(Nanoseconds horizon) {
    simulation_.after(draws_.time(0s, horizon), [self = shared_from_this()] {
      if (!self->is_over_) self->happen();
    });
  }

  /// Undoes what is not undone yet.
  void end() {
    is_over_ = true;
    for (std::size_t undone = 0; undone < undo_.size(); ++undone) undo(undone);
    swarm_.make_whole();
  }

 private:
  void happen();
  void happen_to(std::size_t peer, Fault fault);
  void happen_to_tracker();
  void split();
  void lasting(Nanoseconds time, std::function<void()> end);
  void undo(std::size_t number) {
    if (auto action = std::exchange(undo_[number], nullptr)) action();
  }
  Nanoseconds any_time() {
    const bool is_long = !is_gentle_ && draws_.one_in(6);  // longer than silence is put up with
    return is_long ? draws_.time(15s, 40s) : draws_.time(50ms, 4s);
  }
  void note(std::size_t peer, std::string_view what) { swarm_.note(fmt::format("{} {}", swarm_.id_of(peer), what)); }
  void start_again(std::size_t peer) {
    if (simulation_.is_running(swarm_.host_of(peer))) return;
    note(peer, "is started again");
    swarm_.start(peer);
  }
  void restart(std::size_t peer);

  Swarm& swarm_;
  sim::Simulation& simulation_;
  Draws& draws_;
  bool is_gentle_;
  bool is_over_ = false;
  std::vector<std::function<void()>> undo_;
};

void Trouble::lasting(Nanoseconds time, std::function<void()> end) {
  const std::size_t number = undo_.size();
  undo_.push_back(std::move(end));
  simulation_.after(time, [self = shared_from_this(), number] { self->undo(number); });
}

/// What its user does, who read that files failed.
void Trouble::restart(std::size_t peer) {
  if (simulation_.is_running(swarm_.host_of(peer))) simulation_.kill(swarm_.host_of(peer), sim::Death::killed);
  start_again(peer);
}

void Trouble::split() {
  std::vector<sim::HostId> far;
  for (std::size_t i = 0; i < swarm_.size(); ++i)
    if (draws_.one_in(2)) far.push_back(swarm_.host_of(i));
  simulation_.partition(far);
  swarm_.note(fmt::format("{} peers are cut off from the others", far.size()));
  lasting(any_time(), [this] {
    swarm_.note("the network is whole");
    simulation_.heal();
  });
}

void Trouble::happen_to_tracker() {
  const sim::HostId host = swarm_.tracker();
  if (!simulation_.is_running(host)) return;
  if (draws_.one_in(3)) {
    swarm_.note("the tracker is stopped");
    simulation_.pause(host);
    return lasting(any_time(), [this, host] {
      swarm_.note("the tracker goes on");
      simulation_.resume(host);
    });
  }
  swarm_.note("the tracker dies");
  simulation_.kill(host, draws_.one_in(2) ? sim::Death::killed : sim::Death::power);
  lasting(any_time(), [this, host] {
    if (simulation_.is_running(host)) return;
    swarm_.note("the tracker is started again");
    swarm_.start_tracker();
  });
}

void Trouble::happen_to(std::size_t peer, Fault fault) {
  const sim::HostId host = swarm_.host_of(peer);
  const sim::HostOptions& plan = swarm_.plan_of(peer);
  const auto slowness = static_cast<double>(draws_.between(2, 20));
  switch (fault) {
    case Fault::killed:
    case Fault::power:
      note(peer, fault == Fault::power ? "loses power" : "is killed");
      simulation_.kill(host, fault == Fault::power ? sim::Death::power : sim::Death::killed);
      return lasting(any_time(), [this, peer] { start_again(peer); });
    case Fault::mute:
      note(peer, "is not heard any more");
      simulation_.mute(host);
      return lasting(any_time(), [this] { simulation_.heal(); });
    case Fault::cut:
      note(peer, "loses connections");
      for (std::uint64_t cuts = draws_.between(1, 3); cuts > 0; --cuts) simulation_.cut_connection(host);
      return;
    case Fault::stopped:
      note(peer, "is stopped");
      simulation_.pause(host);
      return lasting(any_time(), [this, peer, host] {
        note(peer, "goes on");
        simulation_.resume(host);
      });
    case Fault::slow_reader:
      note(peer, "reads slowly");
      simulation_.set_reads(host, static_cast<double>(draws_.between(20'000, 400'000)));
      return lasting(any_time(), [this, host] { simulation_.set_reads(host, 0); });
    case Fault::slow_link:
      note(peer, "has a slow link");
      simulation_.set_rates(host, plan.up / slowness, plan.down / slowness);
      return lasting(any_time(), [this, host, &plan] { simulation_.set_rates(host, plan.up, plan.down); });
    case Fault::clock: note(peer, "has another time"); return simulation_.jump_wall_clock(host, draws_.either_way(1h));
    case Fault::slow_disk:
      note(peer, "has a slow disk");
      simulation_.set_disk_rate(host, static_cast<double>(draws_.between(100'000, 2'000'000)));
      return lasting(any_time(), [this, host] { simulation_.set_disk_rate(host, 0); });
    case Fault::full_disk:
      note(peer, "has a full disk");
      simulation_.set_disk_bytes(host, 0);
      return lasting(any_time(), [this, peer, host] {
        simulation_.set_disk_bytes(host, std::numeric_limits<std::uint64_t>::max());
        start_again(peer);
      });
    case Fault::broken_disk:
      note(peer, "has a broken disk");
      simulation_.break_disk(host, true);
      return lasting(any_time(), [this, peer, host] {
        simulation_.break_disk(host, false);
        swarm_.has_all(peer) ? start_again(peer) : restart(peer);
      });
    case Fault::tracker:
    case Fault::partition: return;
  }
}

void Trouble::happen() {
  const Fault fault = is_gentle_ ? kGentleFaults[draws_.below(kGentleFaults.size())] : kAllFaults[draws_.below(kAllFaults.size())];
  if (fault == Fault::tracker) return happen_to_tracker();
  if (fault == Fault::partition) return split();
  const std::size_t peer = draws_.below(swarm_.size());
  if (simulation_.is_running(swarm_.host_of(peer))) happen_to(peer, fault);
}

}  // namespace

Scale mixed_scale(std::uint64_t seed) {
  Scale scale;
  scale.options.seed = seed;
  const bool is_real = seed % 4 == 0;
  scale.options.bytes = is_real ? sim::Bytes::real : sim::Bytes::marks;
  scale.options.messages = seed % 2 == 0 ? sim::Messages::encoded : sim::Messages::values;
  scale.peers = 4 + seed % 5;
  scale.bytes = is_real ? kMiB : 4 * kMiB;
  scale.limits.time = 5min;
  return scale;
}

Figures mixed(const Scale& scale) {
  const bool is_closed = scale.options.seed % 6 == 0;
  Swarm swarm(scale.options, is_closed ? static_cast<std::uint32_t>(scale.peers) : 0);
  sim::Simulation& simulation = swarm.simulation();
  Draws draws(simulation);
  add_peers(swarm, draws, scale);
  const auto trouble = std::make_shared<Trouble>(swarm, draws, is_closed);
  const Nanoseconds horizon = draws.time(1s, 6s);
  swarm.start_tracker();
  for (std::size_t i = 0; i < swarm.size(); ++i)
    simulation.after(draws.time(0s, draws.one_in(3) ? horizon : 100ms), [&swarm, i] { swarm.start(i); });
  for (std::uint64_t faults = draws.between(2, 10); faults > 0; --faults) trouble->plan(horizon);
  simulation.run([&] { return swarm.is_done() && simulation.now() >= horizon; }, {horizon + draws.time(1s, 45s)});
  swarm.note("everything is healed");
  trouble->end();
  // Who was stopped when its disk was full learns of that only now, and ends: whoever runs it starts it again.
  simulation.run([&] { return swarm.is_done(); }, {1s});
  swarm.make_whole();
  return swarm.finish(scale.limits);
}

}  // namespace shoal::simulation
