module;

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

module shoal.clock;

import shoal.base;

namespace shoal {
namespace {

constexpr std::int64_t kLatest = std::int64_t{1} << 61;  // no difference of two times up to it overflows

/// What the clocks may have drifted apart in so much time.
double wander(std::int64_t time) { return kFrequencyTolerance * std::abs(static_cast<double>(time)); }

Nanoseconds rounded_up(double nanoseconds) { return Nanoseconds(static_cast<std::int64_t>(std::ceil(nanoseconds))); }

}  // namespace

double ClockEstimator::Sample::width_at(std::int64_t now_ns) const { return half + wander(now_ns - time); }

void ClockEstimator::restart() {
  count_ = next_ = 0;
  history_.clear();
  stretch_ = kFirstStretch;
  drift_ = skew_ = 0;
}

ClockEstimator::Added ClockEstimator::add(const Exchange& exchange) {
  // What comes from outside may be any number: no difference is formed before it is known to be a small one.
  for (const std::int64_t time : {exchange.t1, exchange.t2, exchange.t3, exchange.t4})
    if (time <= -kLatest || time >= kLatest) return Added::refused;
  const std::int64_t delay = (exchange.t4 - exchange.t1) - (exchange.t3 - exchange.t2);
  if (exchange.t4 < exchange.t1 || exchange.t3 < exchange.t2 || delay < 0) return Added::refused;
  const std::int64_t low = exchange.t1 - exchange.t2;
  if (!is_set()) base_ = low;
  Sample sample;
  sample.time = exchange.t4;
  sample.offset = static_cast<double>(low - base_) + static_cast<double>(delay) / 2;
  sample.half = static_cast<double>(delay) / 2 + wander(exchange.t4 - exchange.t1);
  Added added = Added::taken;
  if (is_set()) {
    const Sample& best = best_at(sample.time);
    const double apart = std::abs(sample.offset - best.offset);
    if (apart > sample.half + best.width_at(sample.time)) {
      ++jumps_;
      restart();
      base_ = low;
      sample.offset = static_cast<double>(delay) / 2;
      added = Added::jump;
    }
  }
  window_[next_] = newest_ = sample;
  next_ = (next_ + 1) % kWindow;
  count_ = std::min(count_ + 1, kWindow);
  remember(sample);
  return added;
}

/// The exchange whose own bound is the least now.
const ClockEstimator::Sample& ClockEstimator::best_at(std::int64_t now_ns) const {
  const auto end = window_.begin() + static_cast<std::ptrdiff_t>(count_);
  return *std::min_element(window_.begin(), end,
                           [now_ns](const Sample& a, const Sample& b) { return a.width_at(now_ns) < b.width_at(now_ns); });
}

std::optional<ClockEstimate> ClockEstimator::at(std::int64_t now_ns) const {
  if (!is_set()) return std::nullopt;
  now_ns = std::clamp(now_ns, -kLatest, kLatest);
  const Sample& best = best_at(now_ns);
  const double width = newest_.width_at(now_ns);
  const double carried = best.offset + drift_ * static_cast<double>(now_ns - best.time);
  const double offset = std::clamp(carried, newest_.offset - width, newest_.offset + width);
  ClockEstimate estimate;
  estimate.offset_ns = base_ + std::llround(offset);
  estimate.bound = rounded_up(std::abs(offset - newest_.offset) + width + 1);  // 1 for the rounding
  estimate.delay = Nanoseconds(std::llround(2 * best.half));
  estimate.jitter = Nanoseconds(std::llround(jitter_against(best)));
  estimate.drift_ppm = drift_ * 1e6;
  estimate.skew_ppm = skew_ * 1e6;
  return estimate;
}

double ClockEstimator::jitter_against(const Sample& best) const {
  if (count_ < 2) return 0;
  double squares = 0;
  for (std::size_t i = 0; i < count_; ++i) squares += (window_[i].offset - best.offset) * (window_[i].offset - best.offset);
  return std::sqrt(squares / static_cast<double>(count_ - 1));
}

/// Keeps the best exchange of each stretch of time. When there are many, pairs become one, and stretches twice as long.
void ClockEstimator::remember(const Sample& sample) {
  if (!history_.empty() && sample.time - stretch_begin_ < stretch_) {
    if (sample.half < history_.back().half) history_.back() = sample;
    return;
  }
  if (!history_.empty()) fit();
  if (history_.size() == kStretches) {
    for (std::size_t i = 0; i < kStretches / 2; ++i)
      history_[i] = history_[2 * i].half <= history_[2 * i + 1].half ? history_[2 * i] : history_[2 * i + 1];
    history_.resize(kStretches / 2);
    stretch_ *= 2;
  }
  history_.push_back(sample);
  stretch_begin_ = sample.time;
}

/// The drift, by weighted regression: what a delay is longer than the least, its offset may be off by, half of it.
void ClockEstimator::fit() {
  if (history_.size() < 4) return;
  const double least = std::ranges::min_element(history_, {}, &Sample::half)->half;
  double weights = 0;
  double mean_time = 0;
  double mean_offset = 0;
  const std::int64_t origin = history_.front().time;
  const auto weight_of = [least](const Sample& sample) {
    const double error = sample.half - least + 1000;  // a microsecond, for what no delay shows
    return 1 / (error * error);
  };
  for (const Sample& sample : history_) {
    const double weight = weight_of(sample);
    weights += weight;
    mean_time += weight * static_cast<double>(sample.time - origin);
    mean_offset += weight * sample.offset;
  }
  mean_time /= weights;
  mean_offset /= weights;
  double times = 0;
  double products = 0;
  for (const Sample& sample : history_) {
    const double time = static_cast<double>(sample.time - origin) - mean_time;
    times += weight_of(sample) * time * time;
    products += weight_of(sample) * time * (sample.offset - mean_offset);
  }
  if (times <= 0) return;
  const double slope = products / times;
  double residuals = 0;
  for (const Sample& sample : history_) {
    const double residual = sample.offset - mean_offset - slope * (static_cast<double>(sample.time - origin) - mean_time);
    residuals += weight_of(sample) * residual * residual;
  }
  // Where the points fit better than their weights promise, the weights say how good it is.
  const double scale = std::max(1.0, residuals / static_cast<double>(history_.size() - 2));
  skew_ = 2 * std::sqrt(scale / times);
  drift_ = skew_ < kFrequencyTolerance ? std::clamp(slope, -kFrequencyTolerance, kFrequencyTolerance) : 0;
}

}  // namespace shoal
