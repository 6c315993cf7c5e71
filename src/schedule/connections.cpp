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
constexpr Nanoseconds kVeryFar = 20ms;    ///< From here on a pair begins with several, ...
constexpr int kSeveral = 4;               ///< ... so many, ...
constexpr std::size_t kMuch = 8;          ///< ... where so many chunks wait.
constexpr Nanoseconds kIdleAfter = 5s;
constexpr Nanoseconds kFirstBackoff = 10s;
constexpr Nanoseconds kLongestBackoff = 80s;

}  // namespace

int ConnectionCount::on_look(const Look& look) {
  if (is_idle(look)) return come_down(look);
  if (look.round_trip < kFarAway) return 0;
  if (const int several = begin(look); several > 0) return several;
  if (!begun_) {
    begun_ = look.now;
    bytes_before_ = look.bytes_moved;
    return 0;
  }
  const Nanoseconds passed = look.now - *begun_;
  if (passed < std::max<Nanoseconds>(kPeriodTrips * look.round_trip, kShortest)) return 0;
  const double rate = static_cast<double>(look.bytes_moved - bytes_before_) / Seconds(passed).count();
  begun_ = look.now;
  bytes_before_ = look.bytes_moved;
  const int change = judge(look, rate);
  usual_ = (usual_ + rate) / 2;
  before_last_ = std::exchange(last_, rate);
  return change;
}

int ConnectionCount::begin(const Look& look) {
  if (is_begun_with_several_ || look.round_trip < kVeryFar || look.waiting < kMuch) return 0;
  is_begun_with_several_ = true;
  return std::min(kSeveral, static_cast<int>(look.most)) - static_cast<int>(look.connections);
}

/// What moves is busy, also where nothing waits at this very moment.
bool ConnectionCount::is_idle(const Look& look) {
  const bool has_moved = std::exchange(last_bytes_, look.bytes_moved) != look.bytes_moved;
  if (look.waiting > 0 || has_moved) busy_at_ = look.now;
  return busy_at_ != look.now;
}

int ConnectionCount::come_down(const Look& look) {
  begun_.reset();  // a period with a pause in it would tell nothing
  if (look.now - busy_at_ < kIdleAfter) return 0;
  trial_.reset();
  is_begun_with_several_ = false;
  last_ = before_last_ = usual_ = 0;
  return look.connections > 1 ? -1 : 0;
}

int ConnectionCount::judge(const Look& look, double rate) {
  if (trial_) return judge_trial(look, rate);
  const bool is_growing = rate > kGain * std::max(last_, before_last_);  // a dip that is made good is no growth
  return is_growing || rate <= 0 || look.now < next_trial_ ? 0 : begin_trial(look, rate);
}

int ConnectionCount::begin_trial(const Look& look, double rate) {
  trial_.reset();
  if (look.connections >= look.most) return 0;
  trial_ = Trial{std::max(rate, usual_), look.connections, look.now + std::max<Nanoseconds>(kTrialTrips * look.round_trip, kShortTrial), 0};
  return 1;
}

/// Two periods, so that a short burst proves nothing.
int ConnectionCount::judge_trial(const Look& look, double rate) {
  const bool is_open = look.connections > trial_->connections;
  if (is_open) ++trial_->periods;
  if (trial_->periods >= 2 && (rate + last_) / 2 > kGain * trial_->before) {
    backoff_ = Nanoseconds::zero();
    return begin_trial(look, std::max(rate, last_));
  }
  if (look.now < trial_->deadline) return 0;
  trial_.reset();
  backoff_ = std::clamp(2 * backoff_, kFirstBackoff, kLongestBackoff);
  next_trial_ = look.now + backoff_;
  return is_open ? -1 : 0;
}

}  // namespace shoal
