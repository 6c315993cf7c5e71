#include <catch2/catch_approx.hpp>
#include <catch2/catch_test_macros.hpp>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

import shoal.base;
import shoal.clock;

using namespace shoal;
using namespace std::chrono_literals;

namespace {

constexpr std::int64_t kMs = 1'000'000;

/// An exchange that begins at `t1`, with a local clock that is ahead by `offset`.
Exchange exchange(std::int64_t t1, std::int64_t offset, std::int64_t forth, std::int64_t back) {
  const std::int64_t t2 = t1 + forth - offset;
  return {t1, t2, t2, t1 + forth + back};
}

Instant at(Nanoseconds time) { return Instant(time); }

}  // namespace

// ---- the estimator ------------------------------------------------------------------------------------

TEST_CASE("Before the first exchange there is no estimate") { CHECK_FALSE(ClockEstimator().at(0).has_value()); }

TEST_CASE("The offset is positive when the local clock is fast") {
  ClockEstimator estimator;
  estimator.add(exchange(0, 7 * kMs, 100'000, 100'000));
  CHECK(estimator.at(200'000)->offset_ns == 7 * kMs);
  CHECK(static_cast<double>(estimator.at(200'000)->delay.count()) == Catch::Approx(200'000).epsilon(0.01));
}

TEST_CASE("An exchange with a low delay counts for more than later ones with high delays") {
  ClockEstimator estimator;
  estimator.add(exchange(0, 0, 20'000, 20'000));
  estimator.add(exchange(10 * kMs, 0, 20'000, 3 * kMs));
  CHECK(std::abs(estimator.at(14 * kMs)->offset_ns) < 20'000);
}

TEST_CASE("The bound grows with the age of the newest exchange") {
  ClockEstimator estimator;
  estimator.add(exchange(0, 0, 10'000, 10'000));
  const auto now = estimator.at(20'000)->bound;
  const auto grown = estimator.at(20'000 + 1000 * kMs)->bound - now;
  CHECK(static_cast<double>(grown.count()) == Catch::Approx(500'000).margin(2));
}

TEST_CASE("A jump of a clock is noticed by the next exchange, and what was before is forgotten") {
  ClockEstimator estimator;
  for (int i = 0; i < 10; ++i) estimator.add(exchange(i * 10 * kMs, 0, 50'000, 50'000));
  CHECK(estimator.add(exchange(100 * kMs, 3 * kMs, 50'000, 50'000)) == ClockEstimator::Added::jump);
  CHECK(estimator.at(101 * kMs)->offset_ns == 3 * kMs);
  CHECK(estimator.jumps() == 1);
}

TEST_CASE("Times that make no sense are refused") {
  ClockEstimator estimator;
  CHECK(estimator.add({100, 50, 50, 90}) == ClockEstimator::Added::refused);   // received before it was sent
  CHECK(estimator.add({100, 50, 40, 200}) == ClockEstimator::Added::refused);  // answered before it was received
  CHECK(estimator.add({100, 0, 500, 200}) == ClockEstimator::Added::refused);  // held for longer than it took
  CHECK_FALSE(estimator.is_set());
}

TEST_CASE("The drift of a clock is found, with a skew that covers its error") {
  ClockEstimator estimator;
  std::uint64_t noise = 1;
  for (std::int64_t i = 0; i < 3000; ++i) {
    noise = noise * 6364136223846793005u + 1442695040888963407u;
    const std::int64_t t1 = i * 10 * kMs;
    const auto forth = static_cast<std::int64_t>(30'000 + (noise >> 40) % 20'000);
    const auto back = static_cast<std::int64_t>(30'000 + (noise >> 20) % 20'000);
    estimator.add(exchange(t1, t1 / 20'000, forth, back));  // 50 ppm
  }
  const auto estimate = *estimator.at(30'000 * kMs);
  CHECK(estimate.drift_ppm == Catch::Approx(50).margin(1));
  CHECK(std::abs(estimate.drift_ppm - 50) <= 2 * estimate.skew_ppm);
  CHECK(std::abs(estimate.offset_ns - 30'000 * kMs / 20'000) < 20'000);
}

// ---- ticks --------------------------------------------------------------------------------------------

TEST_CASE("A number is taken once, in whichever order numbers come, and one that is too old never") {
  NumberWindow window;
  for (const std::uint64_t number : {10U, 12U, 11U, 74U, 13U}) CHECK(window.take(number));
  for (const std::uint64_t number : {10U, 11U, 12U, 13U, 74U}) CHECK_FALSE(window.take(number));
  CHECK(window.take(14));         // 60 before the newest
  CHECK_FALSE(window.take(10));   // 64 before it
  CHECK(window.take(1'000'000));  // all others are out of the window
  CHECK_FALSE(window.take(74));
  CHECK(window.take(1'000'000 - 63));
  CHECK_FALSE(window.take(1'000'000 - 64));
}

TEST_CASE("The first number may be any, also 0") {
  for (const std::uint64_t first : {std::uint64_t{0}, std::uint64_t{5}, ~std::uint64_t{0}}) {
    NumberWindow window;
    CHECK(window.take(first));
    CHECK_FALSE(window.take(first));
  }
}

TEST_CASE("Five minutes of ten milliseconds are 30,000 ticks") { CHECK(TickSchedule(at(0s), 10ms, 5min).ticks() == 30'000); }

TEST_CASE("A late tick shifts none") {
  TickSchedule schedule(at(0s), 10ms, 1s);
  CHECK(schedule.take(at(0s))->at == at(0s));
  CHECK(schedule.take(at(19ms))->at == at(10ms));
  CHECK(schedule.next() == at(20ms));
}

TEST_CASE("After a long stop the ticks in between are missed, and there is no burst") {
  TickSchedule schedule(at(0s), 10ms, 10s);
  CHECK(schedule.take(at(0s))->number == 0);
  const auto due = schedule.take(at(2005ms));
  CHECK((due->number == 200 && due->missed == 199));
  CHECK_FALSE(schedule.take(at(2005ms)).has_value());
  CHECK(schedule.missed() == 199);
}

TEST_CASE("A schedule that is closed counts what it did not come to") {
  TickSchedule schedule(at(0s), 10ms, 1s);
  schedule.take(at(0s));
  schedule.close();
  CHECK(schedule.missed() == 99);
  CHECK_FALSE(schedule.next().has_value());
}

// ---- the summary --------------------------------------------------------------------------------------

TEST_CASE("A gap is counted with its length, and is no interval") {
  ClockRecord record;
  for (std::int64_t i = 0; i < 100; ++i)
    if (i < 40 || i >= 60) record.on_sent(static_cast<std::uint64_t>(i), at(i * 10ms), at(i * 10ms + 50us));
  const ClockSummary summary = record.finish(20, 0);
  CHECK(summary.gaps == 1);
  CHECK(summary.longest_gap == 210ms);
  CHECK(summary.missed == 20);
  CHECK(summary.interval_mean == Catch::Approx(10e6));
  CHECK(summary.interval_deviation == Catch::Approx(0).margin(1));
  CHECK(summary.lateness_p99 <= 56us);
}

TEST_CASE("Offsets of dates are told with their sign") {
  ClockRecord record;
  ClockEstimate estimate;
  estimate.offset_ns = 1000;
  record.on_answer({0, 0, 0, 10}, estimate, -4000);
  const ClockSummary summary = record.finish(0, 0);
  CHECK(summary.offset_last == -3000);
  CHECK(summary.offset_rms == Catch::Approx(3000));
}

// ---- tables -------------------------------------------------------------------------------------------

TEST_CASE("A table has the form that was agreed on") {
  TimeTable table;
  const Endpoint peer{"127.0.0.1", 40312};
  const Endpoint tracker{"127.0.0.1", 5555};
  table.add(TimeTable::between(peer, tracker), 1'795'258'700'123'456);
  table.add(TimeTable::between(tracker, peer), 1'795'258'700'999'999);
  table.close(5min);
  CHECK(table.take() ==
        "Timestamp Data\n"
        "| # | Sender's IP | Receiver's IP | Date | Time |\n"
        "|---|---|---|---|---|\n"
        "| 1 | 127.0.0.1:40312 | 127.0.0.1:5555 | 2026-11-21 | 10:58:20.123456 |\n"
        "| 2 | 127.0.0.1:5555 | 127.0.0.1:40312 | 2026-11-21 | 10:58:20.999999 |\n"
        "End of Timestamp Data (after 5 minutes)\n");
}

TEST_CASE("Numbers go on when rows were taken") {
  TimeTable table;
  table.add(" | a | b | ", 0);
  table.take();
  table.add(" | a | b | ", 1);
  CHECK(table.take() == "| 2 | a | b | 1970-01-01 | 00:00:00.000001 |\n");
  CHECK(table.rows() == 2);
}

TEST_CASE("An address of IPv6 stands in brackets") {
  CHECK(TimeTable::between({"::1", 7}, {"fe80::2", 5555}) == " | [::1]:7 | [fe80::2]:5555 | ");
}

TEST_CASE("Dates are right at the ends of days, months and what can be written") {
  DateText dates;
  CHECK(dates.of(0) == "1970-01-01 | 00:00:00.000000");
  CHECK(dates.of(951'827'696'000'001) == "2000-02-29 | 12:34:56.000001");
  CHECK(dates.of(951'868'799'999'999) == "2000-02-29 | 23:59:59.999999");
  CHECK(dates.of(951'868'800'000'000) == "2000-03-01 | 00:00:00.000000");
  CHECK(dates.of(-5) == "1970-01-01 | 00:00:00.000000");
  CHECK(dates.of(INT64_MAX) == "9999-12-31 | 23:59:59.999999");
}

TEST_CASE("A duration is said in the largest unit of which it is a whole number") {
  CHECK(duration_in_words(5min) == "5 minutes");
  CHECK(duration_in_words(1min) == "1 minute");
  CHECK(duration_in_words(90s) == "90 seconds");
  CHECK(duration_in_words(1s) == "1 second");
  CHECK(duration_in_words(2h) == "2 hours");
  CHECK(duration_in_words(1500ms) == "1500 milliseconds");
}
