#include <rapidcheck.h>

#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

import shoal.base;
import shoal.clock;

using namespace shoal;
using namespace std::chrono_literals;

namespace {

// RC_ASSERT takes an expression apart: && and || in it need parentheses of their own to stop early.

/// Two clocks whose difference wanders as far as the tolerance allows, and jumps. Times are those of the local clock, in nanoseconds.
class Clocks {
 public:
  explicit Clocks(std::int64_t offset) : offset_(offset) {}

  std::int64_t local() const { return local_; }
  std::int64_t remote() const { return local_ - offset_; }
  std::int64_t offset() const { return offset_; }

  /// Goes on by `time`; `drift` is a share of the tolerance, -1000 to 1000 thousandths.
  void pass(std::int64_t time, int drift) {
    local_ += time;
    offset_ += static_cast<std::int64_t>(static_cast<double>(time) * kFrequencyTolerance * drift / 1000);
  }
  void jump(std::int64_t by) { offset_ += by; }

 private:
  std::int64_t local_ = 1'000'000'000'000;
  std::int64_t offset_;
};

int pick_drift() { return *rc::gen::inRange(-1000, 1001); }

/// An exchange over links with any delays.
Exchange exchange(Clocks& clocks, std::int64_t longest) {
  Exchange times;
  const int drift = pick_drift();
  times.t1 = clocks.local();
  clocks.pass(*rc::gen::inRange<std::int64_t>(0, longest), drift);
  times.t2 = clocks.remote();
  clocks.pass(*rc::gen::inRange<std::int64_t>(0, 100'000), drift);
  times.t3 = clocks.remote();
  clocks.pass(*rc::gen::inRange<std::int64_t>(0, longest), drift);
  times.t4 = clocks.local();
  return times;
}

bool is_within_bound(const ClockEstimator& estimator, const Clocks& clocks) {
  const auto estimate = estimator.at(clocks.local());
  return estimate && std::abs(estimate->offset_ns - clocks.offset()) <= estimate->bound.count();
}

}  // namespace

TEST_CASE("The true offset lies within the bound, whatever clocks and links do") {
  REQUIRE(rc::check("wandering clocks, jumps of any size, asymmetric links", [] {
    Clocks clocks(*rc::gen::element<std::int64_t>(0, 5, -3'600'000'000'000, 1'700'000'000'000'000'000));
    ClockEstimator estimator;
    const std::int64_t longest = *rc::gen::element<std::int64_t>(2, 1000, 100'000, 50'000'000);
    const int exchanges = *rc::gen::inRange(1, 120);
    for (int i = 0; i < exchanges; ++i) {
      if (*rc::gen::inRange(0, 8) == 0) clocks.jump(*rc::gen::inRange<std::int64_t>(-4 * longest, 4 * longest));
      const Exchange times = exchange(clocks, longest);
      // One in which the drift makes up for more than the delay makes no sense, and is not taken.
      if (estimator.add(times) == ClockEstimator::Added::refused) {
        RC_ASSERT(times.t4 - times.t1 < times.t3 - times.t2);
        continue;
      }
      RC_ASSERT(is_within_bound(estimator, clocks));
      clocks.pass(*rc::gen::inRange<std::int64_t>(0, 2'000'000'000), pick_drift());
      RC_ASSERT(is_within_bound(estimator, clocks));
    }
  }));
}

TEST_CASE("The bound is at least half of the newest delay, and less than all of it when nothing jumps or drifts") {
  REQUIRE(rc::check("steady clocks", [] {
    Clocks clocks(12'345);
    ClockEstimator estimator;
    for (int i = 0; i < 40; ++i) {
      const std::int64_t forth = *rc::gen::inRange<std::int64_t>(1000, 1'000'000);
      const std::int64_t back = *rc::gen::inRange<std::int64_t>(1000, 1'000'000);
      const std::int64_t t1 = clocks.local();
      const std::int64_t t2 = t1 + forth - clocks.offset();
      clocks.pass(forth + back, 0);
      RC_ASSERT(estimator.add({t1, t2, t2, clocks.local()}) == ClockEstimator::Added::taken);
      const auto estimate = estimator.at(clocks.local());
      const double delay = static_cast<double>(forth + back);
      RC_ASSERT(static_cast<double>(estimate->bound.count()) >= delay / 2);
      RC_ASSERT(static_cast<double>(estimate->bound.count()) <= delay * 1.01 + 10);
      clocks.pass(10'000'000, 0);
    }
  }));
}

TEST_CASE("An estimator takes any numbers without harm") {
  REQUIRE(rc::check("any times", [] {
    ClockEstimator estimator;
    const auto times = *rc::gen::container<std::vector<std::int64_t>>(rc::gen::oneOf(
        rc::gen::arbitrary<std::int64_t>(), rc::gen::element<std::int64_t>(INT64_MIN, INT64_MAX, 0, std::int64_t{1} << 61, 1000)));
    for (std::size_t i = 0; i + 3 < times.size(); i += 4) {
      estimator.add({times[i], times[i + 1], times[i + 2], times[i + 3]});
      if (const auto estimate = estimator.at(times[i + 3])) RC_ASSERT(estimate->bound > 0ns);
    }
  }));
}

TEST_CASE("Each tick of a schedule is sent once, in order and not early, or counted as missed") {
  REQUIRE(rc::check("any moments", [] {
    const Nanoseconds interval = *rc::gen::element<Nanoseconds>(Nanoseconds(1ms), Nanoseconds(10ms), Nanoseconds(1s));
    const auto ticks = *rc::gen::inRange<std::int64_t>(1, 200);
    TickSchedule schedule(Instant(5s), interval, interval * ticks);
    Instant now(5s);
    std::uint64_t sent = 0;
    std::uint64_t next = 0;
    while (schedule.next()) {
      now += Nanoseconds(*rc::gen::inRange<std::int64_t>(0, 2 * interval.count()));
      if (*rc::gen::inRange(0, 10) == 0) now += 5 * interval + 300ms;
      while (const auto due = schedule.take(now)) {
        RC_ASSERT(due->at == Instant(5s) + interval * static_cast<std::int64_t>(due->number));
        RC_ASSERT(due->at <= now);
        RC_ASSERT(now - due->at < std::max(interval, TickSchedule::kMostLate));
        RC_ASSERT(due->number == next + due->missed);
        next = due->number + 1;
        ++sent;
      }
    }
    RC_ASSERT(sent + schedule.missed() == static_cast<std::uint64_t>(ticks));
  }));
}

TEST_CASE("A spread is what its values are, also where they are large and differ by little") {
  REQUIRE(rc::check("any base", [] {
    const std::int64_t base = *rc::gen::element<std::int64_t>(0, 1'700'000'000'000'000'000, -3'600'000'000'000);
    const auto values = *rc::gen::nonEmpty(rc::gen::container<std::vector<std::int64_t>>(rc::gen::inRange<std::int64_t>(-1000, 1000)));
    Spread spread;
    double sum = 0;
    for (const auto value : values) {
      spread.add(base + value);
      sum += static_cast<double>(value - values.front());
    }
    const double mean = sum / static_cast<double>(values.size());
    double squares = 0;
    for (const auto value : values) squares += std::pow(static_cast<double>(value - values.front()) - mean, 2);
    const double deviation = values.size() < 2 ? 0 : std::sqrt(squares / static_cast<double>(values.size() - 1));
    RC_ASSERT(std::abs(spread.deviation() - deviation) < 1e-6 * (1 + deviation));
    RC_ASSERT(spread.last() == base + values.back());
  }));
}

TEST_CASE("A quantile is not below the value at its rank, and at most an eighth above it") {
  REQUIRE(rc::check("any durations", [] {
    auto values = *rc::gen::nonEmpty(rc::gen::container<std::vector<std::int64_t>>(rc::gen::inRange<std::int64_t>(0, 10'000'000'000)));
    Histogram histogram;
    for (const auto value : values) histogram.add(Nanoseconds(value));
    std::ranges::sort(values);
    const double share = *rc::gen::inRange(1, 101) / 100.0;
    const auto rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(values.size()))) - 1;
    const std::int64_t quantile = histogram.quantile(share).count();
    RC_ASSERT(quantile >= values[rank]);
    RC_ASSERT(static_cast<double>(quantile) <= static_cast<double>(values[rank]) * 1.126 + 1000);
  }));
}
