module;

#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

module shoal.clock;

import shoal.base;

namespace shoal {

// ---- Spread -------------------------------------------------------------------------------------------

void Spread::add(std::int64_t value) {
  if (count_ == 0) {
    base_ = value;
    largest_ = value;
  }
  last_ = value;
  if (std::abs(value) > std::abs(largest_)) largest_ = value;
  ++count_;
  const auto relative = static_cast<double>(value - base_);
  const double before = relative - mean_;
  mean_ += before / static_cast<double>(count_);
  squares_ += before * (relative - mean_);
}

double Spread::deviation() const { return count_ < 2 ? 0 : std::sqrt(squares_ / static_cast<double>(count_ - 1)); }

double Spread::rms() const {
  if (count_ == 0) return 0;
  return std::sqrt(mean() * mean() + squares_ / static_cast<double>(count_));
}

// ---- Histogram ----------------------------------------------------------------------------------------

/// Steps are linear up to 8 µs, then eight to each doubling.
std::size_t Histogram::step_of(Nanoseconds value) {
  const auto us = static_cast<std::uint64_t>(std::max<std::int64_t>(value.count(), 0)) / 1000;
  if (us < 8) return static_cast<std::size_t>(us);
  const auto exponent = static_cast<std::size_t>(std::bit_width(us)) - 4;
  return std::min(8 * (exponent + 1) + (static_cast<std::size_t>(us >> exponent) - 8), kSteps - 1);
}

Nanoseconds Histogram::end_of(std::size_t step) {
  if (step < 8) return Nanoseconds((static_cast<std::int64_t>(step) + 1) * 1000);
  const std::size_t exponent = step / 8 - 1;
  return Nanoseconds((static_cast<std::int64_t>(step % 8 + 9) << exponent) * 1000);
}

void Histogram::add(Nanoseconds value) {
  ++counts_[step_of(value)];
  ++count_;
  most_ = std::max(most_, value);
}

void Histogram::add(const Histogram& other) {
  for (std::size_t i = 0; i < kSteps; ++i) counts_[i] += other.counts_[i];
  count_ += other.count_;
  most_ = std::max(most_, other.most_);
}

Nanoseconds Histogram::quantile(double share) const {
  if (count_ == 0) return Nanoseconds::zero();
  const auto wanted = static_cast<std::uint64_t>(std::ceil(share * static_cast<double>(count_)));
  std::uint64_t seen = 0;
  for (std::size_t step = 0; step < kSteps; ++step) {
    seen += counts_[step];
    if (seen >= wanted && seen > 0) return std::min(end_of(step), most_);
  }
  return most_;
}

// ---- ClockRecord --------------------------------------------------------------------------------------

void ClockRecord::on_sent(std::uint64_t number, Instant due, Instant sent) {
  if (sent_ > 0) {
    if (number == last_number_ + 1) {
      intervals_.add((sent - last_sent_).count());
    } else {
      ++gaps_;
      longest_gap_ = std::max(longest_gap_, sent - last_sent_);
    }
  } else if (number > 0) {
    ++gaps_;
  }
  last_number_ = number;
  last_sent_ = sent;
  lateness_.add(sent - due);
  ++sent_;
}

void ClockRecord::on_answer(const Exchange& exchange, const ClockEstimate& estimate, std::int64_t date_offset_ns) {
  ++answered_;
  last_estimate_ = estimate;
  offsets_.add(estimate.offset_ns + date_offset_ns);
  const std::int64_t delay = (exchange.t4 - exchange.t1) - (exchange.t3 - exchange.t2);
  delays_.add(delay);
  delay_steps_.add(Nanoseconds(delay));
}

ClockSummary ClockRecord::finish(std::uint64_t missed, std::uint32_t jumps) const {
  ClockSummary summary;
  summary.sent = sent_;
  summary.answered = answered_;
  summary.missed = missed;
  summary.gaps = gaps_;
  summary.longest_gap = longest_gap_;
  summary.jumps = jumps;
  summary.offset_last = static_cast<double>(offsets_.last());
  summary.offset_rms = offsets_.rms();
  summary.offset_max = static_cast<double>(offsets_.largest());
  summary.offset_deviation = offsets_.deviation();
  summary.delay_mean = delays_.mean();
  summary.delay_deviation = delays_.deviation();
  summary.interval_mean = intervals_.mean();
  summary.interval_deviation = intervals_.deviation();
  summary.lateness_p50 = lateness_.quantile(0.5);
  summary.lateness_p99 = lateness_.quantile(0.99);
  summary.delay_p99 = delay_steps_.quantile(0.99);
  summary.jitter = static_cast<double>(last_estimate_.jitter.count());
  summary.drift_ppm = last_estimate_.drift_ppm;
  summary.skew_ppm = last_estimate_.skew_ppm;
  summary.bound = static_cast<double>(last_estimate_.bound.count());
  return summary;
}

// ---- for a person -------------------------------------------------------------------------------------

namespace {

/// `12.3 us`, `-4.56 ms`, `1.2 s`.
std::string duration_text(double nanoseconds) {
  const double size = std::abs(nanoseconds);
  if (size < 1e6) return fmt::format("{:.1f} us", nanoseconds / 1e3);
  if (size < 1e9) return fmt::format("{:.3f} ms", nanoseconds / 1e6);
  return fmt::format("{:.6f} s", nanoseconds / 1e9);
}

std::string duration_text(Nanoseconds duration) { return duration_text(static_cast<double>(duration.count())); }

}  // namespace

std::vector<std::string> describe(const ClockSummary& s) {
  std::vector<std::string> lines;
  lines.push_back(fmt::format("  ticks     {} sent, {} answered, {} missed, {} gaps{}", s.sent, s.answered, s.missed, s.gaps,
                              s.longest_gap > Nanoseconds::zero() ? ", the longest " + duration_text(s.longest_gap) : std::string()));
  if (s.answered == 0) return lines;
  lines.push_back(fmt::format("  offset    last {}, RMS {}, max {}, stddev {} (positive: this clock is fast)", duration_text(s.offset_last),
                              duration_text(s.offset_rms), duration_text(s.offset_max), duration_text(s.offset_deviation)));
  lines.push_back(fmt::format("  delay     {} +/- {}, jitter {}", duration_text(s.delay_mean), duration_text(s.delay_deviation),
                              duration_text(s.jitter)));
  lines.push_back(fmt::format("  drift     {:+.3f} +/- {:.3f} ppm{}", s.drift_ppm, s.skew_ppm, s.skew_ppm > 0 ? "" : " (not known yet)"));
  lines.push_back(fmt::format("  bound     {} of error in the offset{}", duration_text(s.bound),
                              s.jumps > 0 ? fmt::format("; a clock jumped {} times", s.jumps) : std::string()));
  lines.push_back(fmt::format("  interval  {} +/- {}, late by {} (p50), {} (p99)", duration_text(s.interval_mean),
                              duration_text(s.interval_deviation), duration_text(s.lateness_p50), duration_text(s.lateness_p99)));
  return lines;
}

}  // namespace shoal
