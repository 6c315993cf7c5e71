#include <fmt/core.h>

#include <catch2/catch_test_macros.hpp>
#include <tl/expected.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "tree_network.hpp"

import shoal.base;
import shoal.tree;
import shoal.wire;

using namespace shoal;
using namespace std::chrono_literals;
using shoal::test::TreeNetwork;

namespace {

void add_one_by_one(TreeNetwork& network, std::size_t nodes) {
  for (std::size_t i = 0; i < nodes; ++i) {
    network.add();
    network.run(300ms);
  }
}

std::vector<OverlayNode> seen_by(const Census& census) {
  std::vector<OverlayNode> nodes;
  for (const auto& seen : census.nodes()) nodes.push_back(seen.node);
  return nodes;
}

}  // namespace

// ---- joining ------------------------------------------------------------------------------------------

TEST_CASE("Five nodes that come one by one form a line around the first") {
  TreeNetwork network(1);
  add_one_by_one(network, 5);
  network.run(2s);
  CHECK(network.problem().empty());
  CHECK(topology_text(seen_by(network.census)) == "s1:  s2 s3\ns2:  s1 s4\ns3:  s1 s5\ns4:  s2\ns5:  s3\n");
}

TEST_CASE("Nodes that come at once form one tree") {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    TreeNetwork network(seed, 2 + seed % 3);
    for (int i = 0; i < 60; ++i) network.add();
    INFO(seed << ": " << network.problem());
    const auto taken = network.run_until_one(30s);
    REQUIRE(taken);
    CHECK(network.most_links <= 2 + seed % 3);
  }
}

TEST_CASE("A node that knows another needs no tracker, and gets a number") {
  TreeNetwork network(3);
  add_one_by_one(network, 5);
  network.run(2s);
  network.set_tracker(false);
  const auto sixth = network.add(4);
  REQUIRE(network.run_until_one(5s));
  CHECK(network.tree(sixth).key().number == 6);
  const auto seventh = network.add(0);
  REQUIRE(network.run_until_one(5s));
  CHECK(network.tree(seventh).key().number == 7);
}

TEST_CASE("Whoever begins at the end of a long line is referred on to where there is room, and no node twice") {
  TreeNetwork network(4);
  add_one_by_one(network, 40);
  network.run(3s);
  network.set_tracker(false);
  const auto before = network.dials;
  network.add(0);  // the middle
  REQUIRE(network.run_until_one(5s));
  CHECK(network.dials - before <= 25);
}

// ---- leaving and losing -------------------------------------------------------------------------------

TEST_CASE("Who leaves hands its neighbours over to each other") {
  for (const std::size_t leaver : {0U, 1U, 2U, 3U, 4U}) {
    TreeNetwork network(5);
    add_one_by_one(network, 7);
    network.run(2s);
    network.leave(leaver);
    INFO(leaver << ": " << network.problem());
    const auto taken = network.run_until_one(5s);
    REQUIRE(taken);
    CHECK(*taken <= 1s);
  }
}

TEST_CASE("Who crashes is noticed, and the tree is one again") {
  for (const bool is_silent : {false, true})
    for (const bool has_tracker : {true, false})
      for (const std::size_t crashed : {0U, 1U, 2U, 3U, 4U}) {
        TreeNetwork network(6);
        add_one_by_one(network, 7);
        network.run(3s);
        network.set_tracker(has_tracker);
        network.crash(crashed, is_silent);
        INFO(crashed << (is_silent ? " silent" : "") << (has_tracker ? "" : " no tracker") << ": " << network.problem());
        const auto taken = network.run_until_one(20s);
        REQUIRE(taken);
        INFO(Seconds(*taken).count());
        CHECK(*taken <= 5s);
      }
}

// ---- searches -----------------------------------------------------------------------------------------

TEST_CASE("A search asks each node once, and says how many it asked") {
  TreeNetwork network(8);
  add_one_by_one(network, 5);
  network.run(3s);
  network.has_file = [](std::size_t host, const std::string& name) { return host == 4 && name == "at the end"; };
  const auto nowhere = network.search(3, "missing");
  network.run(1s);
  REQUIRE(nowhere->last);
  CHECK(nowhere->last->nodes == 5);
  CHECK(nowhere->last->missing == 0);
  CHECK(nowhere->hits.empty());
  CHECK(network.searches_sent == 4);
  CHECK(network.last_answers == 4);
  const auto found = network.search(3, "at the end");
  network.run(1s);
  REQUIRE(found->hits.size() == 1);
  CHECK(found->hits.front().hops == 4);
  CHECK(found->last->nodes == 5);
}
