module;

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

module shoal.schedule;

import :connections;
import shoal.base;

using namespace std::chrono_literals;

namespace shoal {
namespace {

constexpr double kGain = 1.1;             ///< By so much the rate has to grow for one more to be kept.
constexpr int kPeriodTrips = 2;           ///< A rate is measured over so many round trips, ...
constexpr Nanoseconds kShortest = 100ms;  ///< ... and no less than this.
constexpr int kTrialTrips = 12;           ///< A flow's slow start from 10 packets to 40 MB a round trip.
constexpr Nanoseconds kShortTrial = 1s;   ///< A trial takes no less.
constexpr Nanoseconds kIdleAfter = 5s;
constexpr Nanoseconds kFirstBackoff = 10s;
constexpr Nanoseconds kLongestBackoff = 80s;

}  // namespace

ConnectionCount::Change ConnectionCount::on_look(const Look& look) {
  if (is_idle(look)) return come_down(look);
  if (look.round_trip < kFarAway) return Change::none;
  if (!begun_) {
    begun_ = look.now;
    bytes_before_ = look.bytes_moved;
    return Change::none;
  }
  const Nanoseconds passed = look.now - *begun_;
  if (passed < std::max<Nanoseconds>(kPeriodTrips * look.round_trip, kShortest)) return Change::none;
  const double rate = static_cast<double>(look.bytes_moved - bytes_before_) / Seconds(passed).count();
  begun_ = look.now;
  bytes_before_ = look.bytes_moved;
  const Change change = judge(look, rate);
  usual_ = (usual_ + rate) / 2;
  before_last_ = std::exchange(last_, rate);
  return change;
}

/// What moves is busy, also where nothing waits at this very moment.
bool ConnectionCount::is_idle(const Look& look) {
  const bool has_moved = std::exchange(last_bytes_, look.bytes_moved) != look.bytes_moved;
  if (look.is_waiting || has_moved) busy_at_ = look.now;
  return busy_at_ != look.now;
}

ConnectionCount::Change ConnectionCount::come_down(const Look& look) {
  begun_.reset();  // a period with a pause in it would tell nothing
  if (look.now - busy_at_ < kIdleAfter) return Change::none;
  trial_.reset();
  last_ = before_last_ = usual_ = 0;
  return look.connections > 1 ? Change::close_one : Change::none;
}

ConnectionCount::Change ConnectionCount::judge(const Look& look, double rate) {
  if (trial_) return judge_trial(look, rate);
  const bool is_growing = rate > kGain * std::max(last_, before_last_);  // a dip that is made good is no growth
  return is_growing || rate <= 0 || look.now < next_trial_ ? Change::none : begin_trial(look, rate);
}

ConnectionCount::Change ConnectionCount::begin_trial(const Look& look, double rate) {
  trial_.reset();
  if (look.connections >= look.most) return Change::none;
  trial_ = Trial{std::max(rate, usual_), look.connections, look.now + std::max<Nanoseconds>(kTrialTrips * look.round_trip, kShortTrial), 0};
  return Change::open_one;
}

/// Two periods, so that a short burst proves nothing.
ConnectionCount::Change ConnectionCount::judge_trial(const Look& look, double rate) {
  const bool is_open = look.connections > trial_->connections;
  if (is_open) ++trial_->periods;
  if (trial_->periods >= 2 && (rate + last_) / 2 > kGain * trial_->before) {
    backoff_ = Nanoseconds::zero();
    return begin_trial(look, std::max(rate, last_));
  }
  if (look.now < trial_->deadline) return Change::none;
  trial_.reset();
  backoff_ = std::clamp(2 * backoff_, kFirstBackoff, kLongestBackoff);
  next_trial_ = look.now + backoff_;
  return is_open ? Change::close_one : Change::none;
}

}  // namespace shoal
