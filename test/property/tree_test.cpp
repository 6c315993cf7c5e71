#include <fmt/core.h>

#include <catch2/catch_test_macros.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "tree_network.hpp"

import shoal.base;
import shoal.tree;
import shoal.wire;

using namespace shoal;
using namespace std::chrono_literals;
using shoal::test::TreeNetwork;

namespace {

/// A number of seeds that the environment may raise.
std::uint64_t seeds(std::uint64_t usual) {
  const char* const more = std::getenv("SHOAL_TREE_SEEDS");
  return more ? std::strtoull(more, nullptr, 10) : usual;
}

/// What happens to a network: drawn from its seed.
void disturb(TreeNetwork& network) {
  const std::size_t node = network.random() % network.size();
  const bool is_up = network.is_up(node);
  switch (network.random() % 10) {
    case 0:
    case 1:
      if (is_up) network.leave(node);
      break;
    case 2:
    case 3:
      if (is_up) network.crash(node, network.random() % 2 == 0);
      break;
    case 4: network.add(); break;
    case 5: network.add(is_up ? std::optional(node) : std::nullopt); break;
    case 6: network.part(node, 1); break;
    case 7: network.heal(); break;
    case 8: network.set_tracker(network.random() % 3 != 0); break;
    default: break;
  }
  network.run(Nanoseconds(network.random() % 1'500'000'000));
}

/// In the end everything is healed: one tree, which searches go through.
void check_end(TreeNetwork& network) {
  network.heal();
  network.set_tracker(true);
  if (network.up() == 0) network.add();
  REQUIRE(network.run_until_one(60s));
  std::size_t first = 0;
  while (!network.is_up(first)) ++first;
  network.run(5s);
  REQUIRE(network.run_until_one(10s));
  const auto found = network.search(first, "nothing");
  for (int tenths = 0; tenths < 120 && !found->last; ++tenths) network.run(100ms);
  REQUIRE(found->last);
  CHECK(found->last->nodes == network.up());
  CHECK(found->last->missing == 0);
}

}  // namespace

TEST_CASE("Whatever happens, there is no circle, it is one tree in the end, and no node ever had more links than it may") {
  for (std::uint64_t seed = 1; seed <= seeds(150); ++seed) {
    const std::size_t max_links = 2 + seed % 3;
    TreeNetwork network(seed, max_links);
    INFO("seed " << seed);
    for (int i = 0; i < 8; ++i) network.add();
    if (seed % 2 == 0) network.lost_in_a_thousand = 50;
    for (int step = 0; step < 25; ++step) {
      disturb(network);
      REQUIRE_FALSE(network.has_circle());
    }
    network.lost_in_a_thousand = 0;
    CAPTURE(network.problem());
    check_end(network);
    CHECK(network.most_links <= max_links);
  }
}

TEST_CASE("Trees that come together while messages are slow and nodes go, several at once, never form a circle") {
  for (std::uint64_t seed = 1; seed <= seeds(60); ++seed) {
    TreeNetwork network(5486 + seed, 2 + seed % 2);
    INFO("seed " << seed);
    for (int i = 0; i < 30; ++i) network.add();
    REQUIRE(network.run_until_one(30s));
    network.run(3s);
    network.longest_delay = 400ms;
    if (seed % 3 != 0) network.set_tracker(false);
    for (int burst = 0; burst < 6; ++burst) {
      for (int i = 0; i < 4; ++i) {
        const std::size_t node = network.random() % network.size();
        if (!network.is_up(node)) continue;
        if (network.random() % 2 == 0)
          network.leave(node);
        else
          network.crash(node);
      }
      for (int i = 0; i < 60; ++i) {
        network.run(50ms);
        REQUIRE_FALSE(network.has_circle());
      }
    }
    network.longest_delay = 5ms;
    check_end(network);
  }
}

TEST_CASE("A search always ends, whatever happens to the tree meanwhile") {
  for (std::uint64_t seed = 1; seed <= seeds(40); ++seed) {
    TreeNetwork network(1000 + seed, 2 + seed % 3);
    INFO("seed " << seed);
    for (int i = 0; i < 20; ++i) network.add();
    REQUIRE(network.run_until_one(30s));
    std::vector<std::shared_ptr<TreeNetwork::Found>> all;
    std::vector<std::size_t> askers;
    for (int step = 0; step < 20; ++step) {
      const std::size_t asker = network.random() % network.size();
      if (network.is_up(asker)) {
        all.push_back(network.search(asker, "nothing", 5s));
        askers.push_back(asker);
      }
      disturb(network);
    }
    network.run(6s);
    for (std::size_t i = 0; i < all.size(); ++i)
      if (network.is_up(askers[i])) CHECK(all[i]->last);
  }
}

namespace {

void lose_a_third_of_a_thousand(std::size_t max_links) {
  TreeNetwork network(77 + max_links, max_links);
  for (int i = 0; i < 1000; ++i) network.add();
  INFO(network.problem());
  const auto joined = network.run_until_one(60s);
  REQUIRE(joined);
  network.run(3s);
  const auto before = network.searches_sent;
  const auto answers = network.last_answers;
  const auto found = network.search(network.random() % 1000, "nothing", 30s);
  for (int tenths = 0; tenths < 200 && !found->last; ++tenths) network.run(100ms);
  REQUIRE(found->last);
  CAPTURE(found->last->missing);
  CHECK(found->last->nodes == 1000);
  CHECK(network.searches_sent - before == 999);
  CHECK(network.last_answers - answers == 999);
  for (int i = 0; i < 300; ++i) {
    const std::size_t node = network.random() % 1000;
    if (!network.is_up(node)) continue;
    if (network.random() % 2 == 0)
      network.leave(node);
    else
      network.crash(node, network.random() % 4 == 0);
    if (network.random() % 3 == 0) network.run(Nanoseconds(network.random() % 50'000'000));
  }
  const auto mended = network.run_until_one(60s);
  CAPTURE(network.problem(), network.up());
  UNSCOPED_INFO(fmt::format("{} links: joined in {}, mended in {}", max_links, format_duration(*joined),
                            mended ? format_duration(*mended) : "never"));
  REQUIRE(mended);
  check_end(network);
  CHECK(network.most_links <= max_links);
}

}  // namespace

TEST_CASE("A thousand nodes in a line come at once, a third of them goes, and it is one tree again") { lose_a_third_of_a_thousand(2); }

TEST_CASE("A thousand nodes with three links come at once, a third of them goes, and it is one tree again") {
  lose_a_third_of_a_thousand(3);
}

TEST_CASE("Two halves of a network that are parted become one tree again") {
  TreeNetwork network(5, 3);
  for (int i = 0; i < 200; ++i) network.add();
  REQUIRE(network.run_until_one(30s));
  for (std::size_t i = 0; i < 200; ++i)
    if (i % 2 == 1) network.part(i, 1);
  network.run(20s);
  CHECK(network.problem().empty());
  // Those without the tracker find each other by what they heard of before.
  for (int tens = 0; tens < 30 && !network.problem(1).empty(); ++tens) network.run(10s);
  CHECK(network.problem(1).empty());
  network.heal();
  check_end(network);
  CHECK(network.most_links <= 3);
}

TEST_CASE("Ten thousand nodes with four links: it is hardly deeper than it has to be") {
  TreeNetwork network(9, 4);
  for (int i = 0; i < 10'000; ++i) {
    network.add();
    if (i % 50 == 0) network.run(20ms);
  }
  REQUIRE(network.run_until_one(60s));
  std::size_t nodes = 1;
  std::size_t least = 0;
  for (std::size_t layer = 4; nodes < 10'000; layer *= 3, ++least) nodes += layer;
  CAPTURE(least, network.eccentricity(0));
  CHECK(2 * network.eccentricity(0) <= 3 * least);
  UNSCOPED_INFO(fmt::format("depth {} of at least {}", network.eccentricity(0), least));
}
