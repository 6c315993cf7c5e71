#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <algorithm>
#include <cstddef>
#include <queue>
#include <set>
#include <vector>

import shoal.schedule;

using namespace shoal;

namespace {

/// Who is connected with whom, when each member connects to those its steps lead to.
std::vector<std::set<std::size_t>> ring_of(std::size_t members, std::size_t degree) {
  std::vector<std::set<std::size_t>> neighbours(members);
  for (std::size_t i = 0; i < members; ++i)
    for (const std::size_t step : ring_steps(members, degree)) {
      neighbours[i].insert((i + step) % members);
      neighbours[(i + step) % members].insert(i);
    }
  return neighbours;
}

/// How many steps the farthest member is away from the first; more than there are members where it is out of reach.
std::size_t farthest(const std::vector<std::set<std::size_t>>& neighbours) {
  std::vector<std::size_t> distance(neighbours.size(), neighbours.size() + 1);
  std::queue<std::size_t> next({0});
  distance[0] = 0;
  for (; !next.empty(); next.pop())
    for (const std::size_t other : neighbours[next.front()]) {
      if (distance[other] <= neighbours.size()) continue;
      distance[other] = distance[next.front()] + 1;
      next.push(other);
    }
  return *std::ranges::max_element(distance);
}

}  // namespace

TEST_CASE("In a small swarm everyone knows everyone, and in a large one a few more with each doubling") {
  CHECK(usual_degree(0) == 0);
  CHECK(usual_degree(1) == 0);
  CHECK(usual_degree(2) == 1);
  CHECK(usual_degree(9) == 8);
  CHECK(usual_degree(10) == 9);
  CHECK(usual_degree(16) == 10);
  CHECK(usual_degree(100) == 16);
  CHECK(usual_degree(1000) == 22);
  CHECK(usual_degree(10'000) == 30);
}

TEST_CASE("On the ring each member has as many neighbours as every other, none of them twice and never itself") {
  const std::size_t members = GENERATE(2, 3, 4, 5, 10, 16, 17, 99, 100, 1000);
  const std::size_t degree = usual_degree(members);
  const auto neighbours = ring_of(members, degree);
  CAPTURE(members, degree);
  for (std::size_t i = 0; i < members; ++i) {
    CHECK_FALSE(neighbours[i].contains(i));
    CHECK(neighbours[i].size() == neighbours[0].size());
  }
  // An even degree is met; of an odd one, or one of everybody, one may be missing or too many.
  CHECK(neighbours[0].size() + 1 >= std::min(degree, members - 1));
  CHECK(neighbours[0].size() <= degree + 1);
}

TEST_CASE("On the ring few steps lead from anyone to anyone") {
  CHECK(farthest(ring_of(16, usual_degree(16))) <= 2);
  CHECK(farthest(ring_of(100, usual_degree(100))) <= 4);
  CHECK(farthest(ring_of(1000, usual_degree(1000))) <= 6);
  CHECK(farthest(ring_of(10'000, usual_degree(10'000))) <= 8);
}
