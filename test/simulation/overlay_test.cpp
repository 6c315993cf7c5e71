// Nodes of the overlay and their tracker, as they ship, in virtual time.
#include <fmt/core.h>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

import shoal.base;
import shoal.manifest;
import shoal.peer;
import shoal.report;
import shoal.sim;
import shoal.tracker;
import shoal.wire;
import shoal.world;

#include "support/silent_report.hpp"

using namespace shoal;
using namespace std::chrono_literals;

namespace {

constexpr std::uint16_t kTrackerPort = 5555;
constexpr std::uint16_t kNodePort = 4000;

/// What one search, or one look at the tree, came to.
struct Answer {
  std::optional<Result<OverlaySearch>> search;
  std::optional<Result<Topology>> topology;
  std::vector<Hit> hits;
};

/// A tracker, and peers that are nodes.
class Lab {
 public:
  explicit Lab(std::uint64_t seed, std::size_t links = 2)
      : max_links(links), simulation({.seed = seed}), tracker(simulation.add_host({})) {}

  std::size_t add(std::optional<std::size_t> join = std::nullopt) {
    nodes.emplace_back();
    Node& node = nodes.back();
    node.join = join;
    sim::HostOptions options;
    options.latency = 200us + std::chrono::microseconds(simulation.random() % 3000);
    node.host = simulation.add_host(options);
    return nodes.size() - 1;
  }
  void put(std::size_t node, const std::string& name) {
    files[name] = simulation.content(1 + files.size(), kChunkSize + 17);
    simulation.put(nodes[node].host, name, files[name]);
  }
  void start_tracker() {
    simulation.start(tracker, [this](World& world, Storage&, Signal& stop) { return serve(*this, world, stop); });
  }
  void start(std::size_t node) {
    simulation.start(nodes[node].host,
                     [this, node](World& world, Storage& storage, Signal& stop) { return be_node(*this, node, world, storage, stop); });
  }
  void start_all() {
    start_tracker();
    for (std::size_t node = 0; node < nodes.size(); ++node) start(node);
  }
  void pass(Nanoseconds time) {
    simulation.run([] { return false; }, {time});
  }
  std::shared_ptr<Answer> search(std::size_t node, std::string pattern) {
    return tell(node, [pattern](PeerControl& control, Answer& answer) -> Task<> {
      answer.search = co_await control.search(pattern, [&answer](const Hit& hit) { answer.hits.push_back(hit); });
    });
  }
  std::shared_ptr<Answer> look(std::size_t node) {
    return tell(node, [](PeerControl& control, Answer& answer) -> Task<> { answer.topology = co_await control.topology(); });
  }
  bool is_up(std::size_t node) const { return simulation.is_running(nodes[node].host); }
  std::size_t up() const {
    std::size_t count = 0;
    for (std::size_t node = 0; node < nodes.size(); ++node) count += is_up(node) ? 1 : 0;
    return count;
  }

  using Command = std::function<Task<>(PeerControl&, Answer&)>;
  struct Node {
    sim::HostId host;
    std::optional<std::size_t> join;
    std::vector<std::pair<Command, std::shared_ptr<Answer>>> commands;
  };
  const std::size_t max_links;
  std::vector<Node> nodes;
  std::map<std::string, sim::ContentPtr> files;

 private:
  std::shared_ptr<Answer> tell(std::size_t node, Command command) {
    auto answer = std::make_shared<Answer>();
    nodes[node].commands.emplace_back(std::move(command), answer);
    return answer;
  }
  static Task<> serve(Lab& lab, World& world, Signal& stop) {
    const test::SilentReport silent;
    TrackerOptions options;
    options.listen = {"0.0.0.0", kTrackerPort};
    static_cast<void>(lab);
    unwrap(co_await run_tracker(world, *silent.report, options, stop));
  }
  static Task<> be_node(Lab& lab, std::size_t self, World& world, Storage& storage, Signal& stop) {
    const test::SilentReport silent;
    PeerOptions options;
    options.tracker = {lab.simulation.address_of(lab.tracker), kTrackerPort};
    options.listen = {"0.0.0.0", kNodePort};
    options.id = fmt::format("p{}", self);
    options.appetite = Appetite::nothing;
    options.overlay.emplace();
    options.overlay->max_links = lab.max_links;
    if (const auto join = lab.nodes[self].join)
      options.overlay->join = Endpoint{lab.simulation.address_of(lab.nodes[*join].host), kNodePort};
    const auto drive = [&](PeerControl& control) { return do_commands(lab, self, world, control); };
    static_cast<void>(co_await run_catalogue(world, *silent.report, storage, options, drive, stop));
  }
  static Task<ExitCode> do_commands(Lab& lab, std::size_t self, World& world, PeerControl& control) {
    for (;;) {
      co_await world.sleep(20ms);
      auto& commands = lab.nodes[self].commands;
      if (commands.empty()) continue;
      auto [command, answer] = std::move(commands.front());
      commands.erase(commands.begin());
      co_await command(control, *answer);
    }
  }

 public:
  sim::Simulation simulation;  ///< Goes before what its processes use.
  sim::HostId tracker;
};

/// Why that is not one tree of so many nodes; empty where it is.
std::string problem_of(const Topology& topology, std::size_t nodes, std::size_t max_links) {
  if (topology.nodes.size() != nodes) return fmt::format("{} of {} nodes", topology.nodes.size(), nodes);
  std::map<std::uint64_t, const OverlayNode*> known;
  std::size_t ends = 0;
  for (const OverlayNode& node : topology.nodes) {
    known[node.key.nonce] = &node;
    ends += node.links.size();
    if (node.links.size() > max_links) return fmt::format("s{} has {} links", node.key.number, node.links.size());
  }
  if (ends != 2 * (nodes - 1)) return fmt::format("{} nodes have {} ends of links", nodes, ends);
  std::set<std::uint64_t> reached;
  std::vector<std::uint64_t> waiting{topology.nodes.front().key.nonce};
  while (!waiting.empty()) {
    const std::uint64_t nonce = waiting.back();
    waiting.pop_back();
    if (!known.contains(nonce) || !reached.insert(nonce).second) continue;
    for (const NodeKey& link : known.at(nonce)->links) waiting.push_back(link.nonce);
  }
  return reached.size() == nodes ? std::string() : fmt::format("{} of {} nodes are reached", reached.size(), nodes);
}

/// How the tree looks from a node that is up.
std::string problem_seen(Lab& lab, Nanoseconds patience = 15s) {
  std::size_t node = 0;
  while (!lab.is_up(node)) ++node;
  const auto answer = lab.look(node);
  lab.simulation.run([&] { return answer->topology.has_value(); }, {patience});
  if (!answer->topology) return "no answer";
  if (!*answer->topology) return (*answer->topology).error().message();
  if ((*answer->topology)->missing > 0) return "incomplete";
  return problem_of(**answer->topology, lab.up(), lab.max_links);
}

/// Seconds until it is one tree; nothing where it does not become one.
std::optional<double> until_one(Lab& lab, Nanoseconds most) {
  const Nanoseconds begun = lab.simulation.now();
  while (lab.simulation.now() - begun < most) {
    if (problem_seen(lab).empty()) return Seconds(lab.simulation.now() - begun).count();
    lab.pass(200ms);
  }
  return std::nullopt;
}

void check_search(Lab& lab, std::size_t from, const std::string& name, std::size_t hits) {
  const auto answer = lab.search(from, name);
  lab.simulation.run([&] { return answer->search.has_value(); }, {40s});
  REQUIRE(answer->search);
  REQUIRE(*answer->search);
  CHECK((*answer->search)->asked == lab.up());
  CHECK((*answer->search)->missing == 0);
  CHECK(answer->hits.size() == hits);
}

}  // namespace

TEST_CASE("Five real nodes: one tree, a file at one end is found at the other, with and without the tracker") {
  Lab lab(1);
  for (int i = 0; i < 5; ++i) lab.add();
  lab.put(4, "at the end");
  lab.start_tracker();
  for (std::size_t i = 0; i < 5; ++i) {
    lab.start(i);
    lab.pass(500ms);
  }
  lab.pass(2s);
  CHECK(problem_seen(lab) == "");
  check_search(lab, 3, "at the end", 1);
  check_search(lab, 3, "nowhere", 0);
  lab.simulation.kill(lab.tracker, sim::Death::killed);
  lab.pass(2s);
  check_search(lab, 3, "at the end", 1);
  CHECK(problem_seen(lab) == "");
  const std::size_t sixth = lab.add(2);
  lab.start(sixth);
  CHECK(until_one(lab, 5s));
  check_search(lab, 3, "at the end", 1);
  lab.start_tracker();  // which learns of them again
  lab.pass(3s);
  CHECK(problem_seen(lab) == "");
}

TEST_CASE("A real node that dies, however it does, leaves one tree within five seconds") {
  for (const auto death : {sim::Death::killed, sim::Death::power})
    for (const std::size_t victim : {0U, 1U, 2U}) {
      Lab lab(2 + victim);
      for (int i = 0; i < 6; ++i) lab.add();
      lab.put(5, "file");
      lab.start_tracker();
      for (std::size_t i = 0; i < 6; ++i) {
        lab.start(i);
        lab.pass(500ms);
      }
      lab.pass(2s);
      lab.simulation.kill(lab.nodes[victim].host, death);
      const auto taken = until_one(lab, 20s);
      CAPTURE(victim, death == sim::Death::power);
      REQUIRE(taken);
      CHECK(*taken <= 5);
      lab.pass(2s);  // until the new root knows that there is no older tree than its own
      check_search(lab, 4, "file", 1);
    }
}

TEST_CASE("Real nodes that come, go and are parted are one tree in the end") {
  const auto seed = GENERATE(range(std::uint64_t{1}, std::uint64_t{1} + 10 / SHOAL_SLOWNESS));
  CAPTURE(seed);
  Lab lab(seed, 2 + seed % 3);
  for (int i = 0; i < 12; ++i) lab.add();
  lab.start_all();
  lab.pass(3s);
  for (int step = 0; step < 25; ++step) {
    const std::size_t node = lab.simulation.random() % lab.nodes.size();
    const sim::HostId host = lab.nodes[node].host;
    switch (lab.simulation.random() % 7) {
      case 0:
      case 1:
        if (lab.is_up(node)) lab.simulation.kill(host, lab.simulation.random() % 2 == 0 ? sim::Death::killed : sim::Death::power);
        break;
      case 2:
      case 3:
        if (!lab.is_up(node)) lab.start(node);
        break;
      case 4: lab.simulation.partition(std::array{host}); break;
      case 5:
        if (lab.simulation.is_running(lab.tracker))
          lab.simulation.kill(lab.tracker, sim::Death::killed);
        else
          lab.start_tracker();
        break;
      default: lab.simulation.heal(); break;
    }
    lab.pass(std::chrono::milliseconds(lab.simulation.random() % 2000));
  }
  lab.simulation.heal();
  if (!lab.simulation.is_running(lab.tracker)) lab.start_tracker();
  for (std::size_t i = 0; i < lab.nodes.size(); ++i)
    if (!lab.is_up(i)) lab.start(i);
  REQUIRE(until_one(lab, 60s));
  lab.pass(5s);
  CHECK(problem_seen(lab) == "");
  check_search(lab, 0, "nothing", 0);
  CHECK(lab.simulation.failures().empty());
}

TEST_CASE("Hundreds of real nodes come at once, a third of them dies, and searches reach all that are left") {
  constexpr std::size_t kNodes = SHOAL_SLOWNESS > 1 ? 60 : 300;
  Lab lab(9, 4);
  for (std::size_t i = 0; i < kNodes; ++i) lab.add();
  lab.put(kNodes - 1, "file");
  lab.start_all();
  lab.pass(10s);
  REQUIRE(until_one(lab, 60s));
  check_search(lab, 17, "file", 1);
  for (std::size_t i = 0; i < kNodes / 3; ++i)
    lab.simulation.kill(lab.nodes[3 * i + 1].host, i % 4 == 0 ? sim::Death::power : sim::Death::killed);
  REQUIRE(until_one(lab, 120s));
  lab.pass(5s);
  check_search(lab, 17 * 3, "file", lab.is_up(kNodes - 1) ? 1 : 0);
  check_search(lab, 0, "nothing", 0);
}
