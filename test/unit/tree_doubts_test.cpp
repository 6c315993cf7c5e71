// Whom a node better leaves alone for a while.
#include <catch2/catch_test_macros.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>

import shoal.base;
import shoal.tree;

using namespace shoal;
using namespace std::chrono_literals;

namespace {

constexpr Instant kStart{1h};

Endpoint at(std::size_t port) { return {"10.0.0.1", static_cast<std::uint16_t>(port)}; }

/// How long it is held after the last of so many times, each when the one before was over.
Nanoseconds held_after(int times, Vain why) {
  Doubts doubts;
  Instant now = kStart;
  for (int i = 1;; ++i) {
    doubts.add(at(1), why, now);
    Nanoseconds held = 0s;
    while (doubts.holds(at(1), now + held)) held += 500ms;
    if (i == times) return held;
    now += held;
  }
}

}  // namespace

TEST_CASE("Nobody is doubted without a reason, and each only by its own address") {
  Doubts doubts;
  CHECK_FALSE(doubts.holds(at(1), kStart));
  doubts.add(at(1), Vain::useless, kStart);
  CHECK(doubts.holds(at(1), kStart));
  CHECK_FALSE(doubts.holds(at(2), kStart));
}

TEST_CASE("Each time in vain it is left alone for twice as long, up to a limit") {
  CHECK(held_after(1, Vain::useless) == 1s);
  CHECK(held_after(2, Vain::useless) == 2s);
  CHECK(held_after(5, Vain::useless) == 16s);
  CHECK(held_after(20, Vain::useless) == 64s);
  CHECK(held_after(1, Vain::silent) == 5s);
  CHECK(held_after(20, Vain::silent) == 60s);
  CHECK(held_after(20, Vain::unreachable) == 4s);
}

TEST_CASE("A shorter reason does not shorten a longer one") {
  Doubts doubts;
  doubts.add(at(1), Vain::silent, kStart);
  doubts.add(at(1), Vain::unreachable, kStart + 1s);
  CHECK(doubts.holds(at(1), kStart + 4900ms));
}

TEST_CASE("What is long over is forgotten") {
  Doubts doubts;
  for (int i = 0; i < 5; ++i) doubts.add(at(1), Vain::useless, kStart);
  const Instant later = kStart + 16s + Doubts::kForgotten + 1s;
  doubts.add(at(1), Vain::useless, later);
  CHECK_FALSE(doubts.holds(at(1), later + 1s));
}

TEST_CASE("Of more addresses than are kept the longest doubts stay") {
  Doubts doubts;
  doubts.add(at(1), Vain::silent, kStart);
  for (std::size_t port = 2; port < 5000; ++port) doubts.add(at(port), Vain::unreachable, kStart);
  CHECK(doubts.size() == Doubts::kMost);
  CHECK(doubts.holds(at(1), kStart + 4s));
}
