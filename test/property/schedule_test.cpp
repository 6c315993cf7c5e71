#include <rapidcheck.h>
#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

import shoal.base;
import shoal.schedule;

using namespace shoal;

namespace {

/// All that a picker knows, kept in the plainest way.
struct NaivePicker {
  std::set<std::uint32_t> wanted, have;
  std::map<std::uint32_t, int> in_flight;
  std::map<std::uint32_t, std::set<std::uint32_t>> theirs;  ///< By source.

  bool is_missing(std::uint32_t slot) const { return wanted.contains(slot) && !have.contains(slot); }
  bool is_needed(std::uint32_t slot) const {
    const auto copies = in_flight.find(slot);
    return is_missing(slot) && (copies == in_flight.end() || copies->second == 0);
  }

  std::size_t bucket(std::uint32_t slot) const {
    const auto holders = std::ranges::count_if(theirs, [&](const auto& each) { return each.second.contains(slot); });
    const std::array last{1, 2, 3, 4, 6, 10, 20};
    return static_cast<std::size_t>(std::ranges::count_if(last, [&](int most) { return holders > most; }));
  }

  /// Every slot that `source` may be asked for, the lowest first.
  std::vector<std::uint32_t> rarest(std::uint32_t source) const {
    std::vector<std::uint32_t> slots;
    for (const std::uint32_t slot : theirs.at(source)) {
      if (!is_needed(slot)) continue;
      if (!slots.empty() && bucket(slot) > bucket(slots.front())) continue;
      if (!slots.empty() && bucket(slot) < bucket(slots.front())) slots.clear();
      slots.push_back(slot);
    }
    return slots;
  }

  bool is_interesting(std::uint32_t source) const {
    return std::ranges::any_of(theirs.at(source), [&](std::uint32_t slot) { return is_missing(slot); });
  }
  std::size_t missing() const {
    return static_cast<std::size_t>(std::ranges::count_if(wanted, [&](std::uint32_t slot) { return is_missing(slot); }));
  }
};

std::uint32_t below(std::size_t end) { return *rc::gen::inRange<std::uint32_t>(0, static_cast<std::uint32_t>(end)); }

std::uint32_t some_source(const NaivePicker& naive) { return std::next(naive.theirs.begin(), below(naive.theirs.size()))->first; }

void change_own(Picker& picker, NaivePicker& naive, std::uint32_t slot) {
  switch (below(6)) {
    case 0:
      picker.want(Slot(slot));
      naive.wanted.insert(slot);
      break;
    case 1:
      picker.unwant(Slot(slot));
      naive.wanted.erase(slot);
      break;
    case 2:
      picker.set_have(Slot(slot));
      naive.have.insert(slot);
      break;
    case 3:
      picker.clear_have(Slot(slot));
      naive.have.erase(slot);
      break;
    case 4:
      picker.begin(Slot(slot));
      ++naive.in_flight[slot];
      break;
    default:
      picker.end(Slot(slot));
      naive.in_flight[slot] = std::max(0, naive.in_flight[slot] - 1);
      break;
  }
}

void change_source(Picker& picker, NaivePicker& naive, std::uint32_t slot) {
  const std::uint32_t kind = below(10);
  if (kind == 0 || naive.theirs.empty()) {
    naive.theirs[picker.add_source().value] = {};
    return;
  }
  const std::uint32_t source = some_source(naive);
  if (kind == 1) {
    picker.remove_source(Source(source));
    naive.theirs.erase(source);
  } else if (kind == 2) {
    picker.source_lost(Source(source), Slot(slot));
    naive.theirs[source].erase(slot);
  } else {
    RC_ASSERT(picker.source_has(Source(source), Slot(slot)) == naive.theirs[source].insert(slot).second);
  }
}

void do_something(Picker& picker, NaivePicker& naive) {
  const std::uint32_t kind = below(20);
  if (kind == 0 || picker.slots() == 0) {
    picker.add_file(below(150));
    return;
  }
  const std::uint32_t slot = below(picker.slots());
  if (kind == 1 && !naive.theirs.empty()) {
    picker.begin_elsewhere(Source(some_source(naive)), [] { return std::uint64_t{below(1000)}; });
  } else if (kind < 9) {
    change_own(picker, naive, slot);
  } else {
    change_source(picker, naive, slot);
  }
}

/// A picker and its model after a random history.
std::pair<Picker, NaivePicker> random_history() {
  std::pair<Picker, NaivePicker> both;
  // Some histories have many sources, so that slots travel through all planes.
  const std::uint32_t sources = below(2) == 0 ? 2 : 25;
  for (std::uint32_t source = 0; source < sources; ++source) both.second.theirs[both.first.add_source().value] = {};
  both.first.add_file(below(9) + 1);
  const std::uint32_t steps = below(400);
  for (std::uint32_t step = 0; step < steps; ++step) do_something(both.first, both.second);
  return both;
}

Random seeded(std::uint64_t seed) {
  return [words = std::mt19937_64(seed)]() mutable { return words(); };
}

/// The queue in the plainest way: all requests in the order in which they came.
struct NaiveQueue {
  struct Request {
    std::uint32_t to;
    std::uint32_t slot;
  };
  std::vector<Request> requests;
  std::map<std::uint32_t, int> sent;
  std::map<std::uint32_t, int> given;  // to each neighbour

  bool contains(std::uint32_t to, std::uint32_t slot) const {
    return std::ranges::any_of(requests, [&](const Request& each) { return each.to == to && each.slot == slot; });
  }
  bool erase(std::uint32_t to, std::uint32_t slot) {
    return std::erase_if(requests, [&](const Request& each) { return each.to == to && each.slot == slot; }) > 0;
  }

  template <class IsReady, class Availability>
  std::optional<Request> next(const IsReady& is_ready, const Availability& availability) {
    auto best = requests.end();
    const auto rank = [&](const Request& each) {
      const std::uint32_t holders = std::min(availability(Slot(each.slot)), 2u);
      return std::tuple(sent[each.slot] > 0, holders, holders == 0 ? given[each.to] : 0);
    };
    for (auto each = requests.begin(); each != requests.end(); ++each)
      if (is_ready(Source(each->to)) && (best == requests.end() || rank(*each) < rank(*best))) best = each;
    if (best == requests.end()) return std::nullopt;
    const Request request = *best;
    requests.erase(best);
    ++sent[request.slot];
    ++given[request.to];
    return request;
  }
};

}  // namespace

TEST_CASE("whatever happens, the picker's counts and planes follow from its sets") {
  REQUIRE(rc::check("consistent", [] {
    const auto [picker, naive] = random_history();
    RC_ASSERT(picker.is_consistent());
  }));
}

TEST_CASE("whatever happens, a pick is needed, had by the source and of the rarest bucket") {
  REQUIRE(rc::check("pick", [](std::uint64_t seed) {
    const auto [picker, naive] = random_history();
    for (const auto& [source, theirs] : naive.theirs) {
      const auto rarest = naive.rarest(source);
      const auto picked = picker.pick(Source(source), seeded(seed), false);
      RC_ASSERT(picked.has_value() == !rarest.empty());
      if (picked) RC_ASSERT(std::ranges::count(rarest, picked->value) == 1);
    }
  }));
}

TEST_CASE("whatever happens, a pick in order is the lowest of the rarest bucket") {
  REQUIRE(rc::check("in order", [] {
    const auto [picker, naive] = random_history();
    for (const auto& [source, theirs] : naive.theirs) {
      const auto rarest = naive.rarest(source);
      const auto picked = picker.pick(Source(source), seeded(0), true);
      RC_ASSERT(picked.has_value() == !rarest.empty());
      if (picked) RC_ASSERT(picked->value == rarest.front());
    }
  }));
}

TEST_CASE("whatever happens, what is missing and who is interesting follows from the sets") {
  REQUIRE(rc::check("missing", [] {
    const auto [picker, naive] = random_history();
    RC_ASSERT(picker.missing() == naive.missing());
    for (const auto& [source, theirs] : naive.theirs) RC_ASSERT(picker.is_interesting(Source(source)) == naive.is_interesting(source));
  }));
}

TEST_CASE("of equally rare chunks the lower are the likelier, whatever lies between them") {
  Picker picker;
  picker.add_file(20000);
  const Source source = picker.add_source();
  // Neighbours, words and blocks apart: a search for the next one from a random place would favour those after a gap.
  const std::vector<std::uint32_t> slots{0, 1, 2, 63, 64, 700, 4095, 4096, 9000, 19999};
  for (const std::uint32_t slot : slots) {
    picker.want(Slot(slot));
    picker.source_has(source, Slot(slot));
  }
  for (std::uint32_t slot = 10000; slot < 10020; ++slot) picker.want(Slot(slot));  // so many that those are drawn among all
  std::map<std::uint32_t, double> hits;
  const Random random = seeded(42);
  for (int draw = 0; draw < 10000; ++draw) ++hits[picker.pick(source, random, false).value().value];
  double chi_square = 0;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    // The square of an even draw: below a share s of the choices with the probability of the root of s.
    const auto below = static_cast<double>(i);
    const double expected = 10000 * (std::sqrt((below + 1) / 10) - std::sqrt(below / 10));
    chi_square += (hits[slots[i]] - expected) * (hits[slots[i]] - expected) / expected;
  }
  CHECK(chi_square < 27.9);  // 9 degrees of freedom: exceeded once in a thousand fair draws
}

TEST_CASE("whatever happens, the upload queue serves what a plain search would") {
  REQUIRE(rc::check("upload queue", [] {
    UploadQueue queue;
    NaiveQueue naive;
    std::map<std::uint32_t, std::uint32_t> availability;
    const auto availability_of = [&](Slot slot) { return availability[slot.value]; };
    const std::uint32_t steps = below(300);
    for (std::uint32_t step = 0; step < steps; ++step) {
      const std::uint32_t to = below(5);
      const std::uint32_t slot = below(30);
      switch (below(10)) {
        case 0: RC_ASSERT(queue.cancel(Source(to), Slot(slot)) == naive.erase(to, slot)); break;
        case 1: ++availability[slot]; break;
        case 2:
          queue.unsend(Slot(slot));
          naive.sent[slot] = std::max(0, naive.sent[slot] - 1);
          break;
        case 3: {
          if (below(5) != 0) break;
          queue.remove(Source(to));
          std::erase_if(naive.requests, [&](const auto& each) { return each.to == to; });
          naive.given.erase(to);
          for (auto& [each, count] : availability) count -= std::min(count, below(2));
          break;
        }
        case 4:
        case 5:
        case 6: {
          const auto is_ready = [&](Source each) { return each.value != to; };
          const auto served = queue.next(is_ready, availability_of);
          const auto expected = naive.next(is_ready, availability_of);
          RC_ASSERT(served.has_value() == expected.has_value());
          if (served) RC_ASSERT(std::pair(served->to.value, served->slot.value) == std::pair(expected->to, expected->slot));
          break;
        }
        default:
          RC_ASSERT(queue.add(Source(to), Slot(slot)));
          if (!naive.contains(to, slot)) naive.requests.push_back({to, slot});
      }
      RC_ASSERT(queue.waiting() == naive.requests.size());
    }
  }));
}

// ---- the choice of a source ---------------------------------------------------------------------------

namespace {

std::vector<Candidate> any_candidates(bool has_rates) {
  std::vector<Candidate> candidates;
  for (int count = *rc::gen::inRange(0, 8); count > 0; --count) {
    Candidate candidate;
    candidate.name = std::string(1, static_cast<char>('a' + count));
    if (*rc::gen::inRange(0, 5) > 0) candidate.latency = std::chrono::milliseconds(*rc::gen::inRange(0, 200));
    candidate.load = *rc::gen::inRange(0U, 20U);
    if (has_rates && *rc::gen::arbitrary<bool>()) candidate.rate = *rc::gen::inRange(1, 1000) * 1e5;
    candidates.push_back(candidate);
  }
  return candidates;
}

}  // namespace

TEST_CASE("A ranking has every candidate once, by score where no rate was measured, by rate where all were") {
  REQUIRE(rc::check("rank", [] {
    const bool has_rates = *rc::gen::arbitrary<bool>();
    const auto candidates = any_candidates(has_rates);
    const auto bytes = *rc::gen::inRange<std::uint64_t>(1, 1'000'000'000);
    const auto order = rank(candidates, bytes);
    RC_ASSERT(std::set<std::size_t>(order.begin(), order.end()).size() == candidates.size());
    RC_ASSERT(order.size() == candidates.size());
    for (std::size_t i = 1; i < order.size(); ++i) {
      const Candidate& better = candidates[order[i - 1]];
      const Candidate& worse = candidates[order[i]];
      if (!has_rates) RC_ASSERT(score_of(better) <= score_of(worse));
      if (better.rate > 0 && worse.rate > 0) RC_ASSERT(better.rate >= worse.rate);
      if (better.rate == 0 && worse.rate == 0) RC_ASSERT(score_of(better) <= score_of(worse));
    }
  }));
}

TEST_CASE("Who gets nearer and less busy is never ranked lower for it") {
  REQUIRE(rc::check("rank", [] {
    auto candidates = any_candidates(true);
    RC_PRE(!candidates.empty());
    const auto bytes = *rc::gen::inRange<std::uint64_t>(1, 1'000'000'000);
    const auto chosen = *rc::gen::inRange<std::size_t>(0, candidates.size());
    const auto place_of = [&] {
      const auto order = rank(candidates, bytes);
      return std::distance(order.begin(), std::ranges::find(order, chosen));
    };
    Candidate& one = candidates[chosen];
    one.rate = 0;  // to change a measured one would change the mean that others are judged by
    const auto before = place_of();
    if (one.latency) one.latency = *one.latency / 2;
    one.load /= 2;
    RC_ASSERT(place_of() <= before);
  }));
}
