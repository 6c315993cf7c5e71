module;

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

module shoal.sim;

import :congestion;
import shoal.base;

namespace shoal::sim {
namespace {

constexpr Nanoseconds kLeastTimeout = std::chrono::milliseconds(200);  // beyond a round trip, as Linux has it
constexpr double kLeastWindow = 2.0 * kSegment;
constexpr double kRenoBeta = 0.5;
constexpr double kCubicBeta = 0.7;
constexpr double kCubicScale = 0.4;  // segments a second cubed
constexpr double kFriendlyGain = 3 * (1 - kCubicBeta) / (1 + kCubicBeta);
constexpr double kGrowth = 1.25;  // of the rate in a round, without which the link is full
constexpr unsigned kRoundsUntilFull = 3;

double in_segments(double bytes) { return bytes / kSegment; }

}  // namespace

CongestionWindow::CongestionWindow(CongestionControl control, Nanoseconds round_trip)
    : control_(control), smoothed_(round_trip), least_(round_trip) {}

std::uint64_t CongestionWindow::allowed(Nanoseconds now) const {
  const auto most = static_cast<std::uint64_t>(rested(now));
  return most - std::min(most, in_flight_);
}

void CongestionWindow::on_sent(Nanoseconds now, std::uint64_t bytes) {
  if (in_flight_ == 0) {
    rest(now);
    begin_round(now);
  }
  in_flight_ += bytes;
  round_most_ = std::max(round_most_, in_flight_);
  last_sent_ = now;
}

/// What is left of the window after a pause, when nobody knows whether the way still holds as much.
double CongestionWindow::rested(Nanoseconds now) const {
  const auto timeouts = (now - last_sent_) / (smoothed_ + kLeastTimeout);
  if (control_ == CongestionControl::bbr || in_flight_ > 0 || timeouts < 1) return window_;
  const double halved = std::ldexp(window_, -static_cast<int>(std::min<std::int64_t>(timeouts, 64)));
  return std::max(halved, std::min<double>(window_, kInitialWindow));
}

void CongestionWindow::rest(Nanoseconds now) {
  const double left = rested(now);
  if (left == window_) return;
  epoch_ = Nanoseconds(-1);
  threshold_ = std::max(threshold_, window_ * 3 / 4);
  window_ = left;
}

/// A window that is not filled says nothing of the link: so it does not grow.
bool CongestionWindow::was_in_use() const {
  const auto most = static_cast<double>(std::max(round_most_, in_flight_));
  return was_used_ || (is_starting() ? 2 * most > window_ : 4 * most >= 3 * window_);
}

void CongestionWindow::on_acked(Nanoseconds now, Nanoseconds sent_at, std::uint64_t bytes) {
  const bool was_used = was_in_use();
  in_flight_ -= std::min(bytes, in_flight_);
  smoothed_ += (now - sent_at - smoothed_) / 8;
  least_ = std::min(least_, now - sent_at);
  round_bytes_ += bytes;
  if (was_used) grow(now, bytes);
  if (sent_at >= round_began_) end_round(now);
}

void CongestionWindow::grow(Nanoseconds now, std::uint64_t bytes) {
  const auto acked = static_cast<double>(bytes);
  if (is_starting()) {
    window_ = std::min(window_ + acked, threshold_);
  } else if (control_ == CongestionControl::reno) {
    window_ += kSegment * acked / window_;
  } else if (control_ == CongestionControl::cubic) {
    window_ += kSegment * cubic_step(now, in_segments(acked));
  }
}

/// By how many segments the window grows for so many that were acknowledged.
double CongestionWindow::cubic_step(Nanoseconds now, double segments) {
  const double window = in_segments(window_);
  if (epoch_ < Nanoseconds::zero()) {
    epoch_ = now;
    highest_ = std::max(highest_, window);
    until_highest_ = std::cbrt((highest_ - window) / kCubicScale);
    friendly_ = window;
  }
  friendly_ += kFriendlyGain * segments / window;
  const double since = Seconds(now - epoch_ + smoothed_).count() - until_highest_;
  const double target = std::clamp(kCubicScale * since * since * since + highest_, window, 1.5 * window);
  return std::max((target - window) / window * segments, friendly_ - window);
}

void CongestionWindow::on_lost(Nanoseconds now, Nanoseconds sent_at) {
  if (control_ == CongestionControl::bbr || sent_at < reduced_at_) return;
  reduced_at_ = now;
  const double window = in_segments(window_);
  // Who has not got back to where it was leaves more to others (RFC 9438, 4.7).
  highest_ = window < highest_ ? window * (1 + kCubicBeta) / 2 : window;
  epoch_ = Nanoseconds(-1);
  window_ = std::max(window_ * (control_ == CongestionControl::reno ? kRenoBeta : kCubicBeta), kLeastWindow);
  threshold_ = window_;
}

void CongestionWindow::end_round(Nanoseconds now) {
  const double passed = Seconds(now - round_began_).count();
  was_used_ = false;
  const bool was_used = was_in_use();
  const double rate = passed > 0 ? static_cast<double>(round_bytes_) / passed : 0;
  if (control_ == CongestionControl::bbr && (was_used || rate > *std::ranges::max_element(rates_))) follow_rate(rate);
  was_used_ = was_used;
  begin_round(now);
}

void CongestionWindow::begin_round(Nanoseconds now) {
  round_began_ = now;
  round_bytes_ = 0;
  round_most_ = in_flight_;
}

/// Doubles the window each round until that brings no more; then it is what the link holds, twice.
void CongestionWindow::follow_rate(double rate) {
  rates_[next_rate_++ % kRounds] = rate;
  if (is_starting()) {
    const bool has_grown = rate >= full_rate_ * kGrowth;
    if (has_grown) full_rate_ = rate;
    rounds_without_growth_ = has_grown ? 0 : rounds_without_growth_ + 1;
    if (rounds_without_growth_ < kRoundsUntilFull) return;
    threshold_ = 0;
  }
  const double held = *std::ranges::max_element(rates_) * Seconds(least_).count();
  window_ = std::max<double>(2 * held, kInitialWindow);
}

}  // namespace shoal::sim
