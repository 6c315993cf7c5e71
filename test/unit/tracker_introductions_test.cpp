#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <vector>

import shoal.base;
import shoal.schedule;
import shoal.tracker;

using namespace shoal;

namespace {

/// Who was introduced to whom, as the pairs say.
struct Acquaintances {
  void add(const std::vector<Introductions::Pair>& pairs) {
    for (const auto& [a, b] : pairs) {
      CHECK(a != b);
      CHECK(of[a].insert(b).second);
      CHECK(of[b].insert(a).second);
    }
  }
  std::size_t fewest() const {
    return std::ranges::min_element(of, {}, [](const auto& each) { return each.second.size(); })->second.size();
  }
  std::size_t most() const {
    return std::ranges::max_element(of, {}, [](const auto& each) { return each.second.size(); })->second.size();
  }

  std::map<PeerId, std::set<PeerId>> of;
};

std::vector<PeerId> peers(std::uint32_t count) {
  std::vector<PeerId> all;
  for (std::uint32_t i = 0; i < count; ++i) all.emplace_back(i);
  return all;
}

/// Peers that came one after the other.
struct Crowd {
  explicit Crowd(std::uint32_t count) {
    for (const PeerId peer : peers(count)) known.add(introductions.arrive(peer));
  }
  Introductions introductions;
  Acquaintances known;
};

}  // namespace

TEST_CASE("Whoever comes to a small swarm is introduced to everyone") {
  const std::uint32_t count = GENERATE(2U, 3U, 7U, 11U);
  const Crowd crowd(count);
  CHECK(crowd.known.fewest() == count - 1);
}

TEST_CASE("A small swarm that begins at once all know each other") {
  Introductions introductions;
  Acquaintances known;
  known.add(introductions.begin(peers(11)));
  CHECK(known.fewest() == 10);
}

TEST_CASE("In a large swarm that begins at once everyone is introduced to as many, and few") {
  const std::uint32_t count = GENERATE(12U, 16U, 100U, 1000U);
  Introductions introductions;
  Acquaintances known;
  known.add(introductions.begin(peers(count)));
  CHECK(known.of.size() == count);
  CHECK(known.fewest() == usual_degree(count));
  CHECK(known.most() == usual_degree(count));
}

TEST_CASE("In a large swarm that grows everyone has three quarters of the usual number at least, and none has all") {
  const std::uint32_t count = GENERATE(12U, 60U, 1000U);
  const Crowd crowd(count);
  CHECK(crowd.known.of.size() == count);
  CHECK(crowd.known.fewest() >= usual_degree(count) * 3 / 4);
  CHECK(crowd.known.most() <= 3 * usual_degree(count));
}

TEST_CASE("In a large swarm that grew everyone has the usual number once it is evened out, and those that had it few more") {
  const std::uint32_t count = GENERATE(12U, 60U, 100U, 1000U);
  Crowd crowd(count);
  const std::size_t most = crowd.known.most();
  crowd.known.add(crowd.introductions.even_out());
  CHECK(crowd.known.fewest() >= usual_degree(count));
  CHECK(crowd.known.most() <= std::max(most, usual_degree(count) + 2));
}

TEST_CASE("What is even stays as it is") {
  Crowd crowd(100);
  crowd.introductions.even_out();
  CHECK(crowd.introductions.even_out().empty());
}

TEST_CASE("Those that are left with fewer than the usual number are introduced to others") {
  Crowd crowd(200);
  for (std::uint32_t i = 0; i < 60; ++i) crowd.known.add(crowd.introductions.depart(PeerId(i)));
  crowd.known.add(crowd.introductions.even_out());
  for (std::uint32_t i = 60; i < 200; ++i) {
    CAPTURE(i);
    CHECK(crowd.introductions.others_here(PeerId(i)) >= usual_degree(140));
  }
}

TEST_CASE("To be introduced works both ways, and is counted for both") {
  Introductions introductions;
  introductions.arrive(PeerId(0));
  introductions.arrive(PeerId(1));
  CHECK(introductions.others_here(PeerId(0)) == 1);
  CHECK(introductions.others_here(PeerId(1)) == 1);
}

TEST_CASE("Whoever returns meets those that it knew, and is introduced to nobody twice") {
  Crowd crowd(50);
  const std::size_t before = crowd.introductions.others_here(PeerId(7));
  crowd.known.add(crowd.introductions.depart(PeerId(7)));
  crowd.known.add(crowd.introductions.arrive(PeerId(7)));
  CHECK(crowd.introductions.others_here(PeerId(7)) >= before);
}

TEST_CASE("Whoever is here already arrives to no avail") {
  Crowd crowd(50);
  CHECK(crowd.introductions.arrive(PeerId(7)).empty());
}

TEST_CASE("Whoever is left with too few is introduced to others") {
  Crowd crowd(200);
  for (std::uint32_t i = 0; i < 150; ++i) crowd.known.add(crowd.introductions.depart(PeerId(i)));
  for (std::uint32_t i = 150; i < 200; ++i) {
    CAPTURE(i);
    CHECK(crowd.introductions.others_here(PeerId(i)) >= usual_degree(50) * 3 / 4);
  }
}

TEST_CASE("Whoever asks for more gets as many, or all there are") {
  Crowd crowd(100);
  crowd.known.add(crowd.introductions.widen(PeerId(3), 40));
  CHECK(crowd.introductions.others_here(PeerId(3)) >= 40);
  crowd.known.add(crowd.introductions.widen(PeerId(3), 5000));
  CHECK(crowd.introductions.others_here(PeerId(3)) == 99);
}

TEST_CASE("Whoever has more than it asks for gets none") {
  Crowd crowd(100);
  CHECK(crowd.introductions.widen(PeerId(3), 2).empty());
}

TEST_CASE("Whoever is gone is introduced to nobody") {
  Crowd crowd(100);
  crowd.introductions.depart(PeerId(3));
  CHECK(crowd.introductions.widen(PeerId(3), 90).empty());
}

TEST_CASE("In a swarm that grew everyone is within reach of everyone") {
  const Crowd crowd(500);
  std::set<PeerId> reached{PeerId(0)};
  std::vector<PeerId> next{PeerId(0)};
  while (!next.empty()) {
    const PeerId peer = next.back();
    next.pop_back();
    for (const PeerId other : crowd.known.of.at(peer))
      if (reached.insert(other).second) next.push_back(other);
  }
  CHECK(reached.size() == 500);
}
