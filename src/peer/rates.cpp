module;

#include <boost/asio/any_io_executor.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <utility>

module shoal.peer;

import :node;
import shoal.base;
import shoal.clock;
import shoal.wire;

using namespace std::chrono_literals;

namespace shoal {
namespace {

constexpr Nanoseconds kWindow = 1s;

}  // namespace

void RateMeter::add(Instant now, std::uint64_t bytes) {
  total_ += bytes;
  recent_.emplace_back(now, bytes);
  recent_bytes_ += bytes;
  while (recent_.front().first <= now - kWindow) {
    recent_bytes_ -= recent_.front().second;
    recent_.pop_front();
  }
  // A run of less than a second has its whole length for a window.
  const Nanoseconds span = std::max<Nanoseconds>(now - recent_.front().first, 250ms);
  const double rate = static_cast<double>(recent_bytes_ - recent_.front().second) / Seconds(span).count();
  peak_ = std::max(peak_, rate);
}

double RateMeter::rate(Instant now) const {
  std::uint64_t bytes = 0;
  for (auto sample = recent_.rbegin(); sample != recent_.rend() && sample->first > now - kWindow; ++sample) bytes += sample->second;
  return static_cast<double>(bytes) / Seconds(kWindow).count();
}

std::optional<Nanoseconds> round_trip(const Pong& pong, Instant now) {
  // What comes from outside may be any number: no sum is formed before it is known to be a small one.
  constexpr std::int64_t kLatest = std::int64_t{1} << 61;
  constexpr std::int64_t kLongest = Nanoseconds(30s).count();
  const std::int64_t received = now.time_since_epoch().count();
  const bool is_sound = pong.t1 >= 0 && pong.t1 <= received && pong.t2 >= 0 && pong.t3 >= pong.t2 && pong.t3 < kLatest;
  if (!is_sound || pong.t3 - pong.t2 > received - pong.t1 || received - pong.t1 > kLongest) return std::nullopt;
  return Nanoseconds(received - pong.t1 - (pong.t3 - pong.t2));
}

Ping Pings::next(Instant now) {
  if (sent_.size() == kMost) sent_.pop_front();
  return Ping{sent_.emplace_back(now.time_since_epoch().count())};
}

std::optional<Nanoseconds> Pings::on_pong(const Pong& pong, Instant now) {
  const auto answered = std::ranges::find(sent_, pong.t1);
  if (answered == sent_.end()) return std::nullopt;
  sent_.erase(answered);
  return round_trip(pong, now);
}

void SwarmClock::sample(const Exchange& exchange) {
  const std::lock_guard lock(mutex_);
  if (std::exchange(is_stale_, false)) {
    estimator_.restart();
    told_.reset();
  }
  is_set_ |= estimator_.add(exchange) != ClockEstimator::Added::refused;
}

void SwarmClock::restart() {
  const std::lock_guard lock(mutex_);
  is_stale_ = true;
}

bool SwarmClock::is_set() const {
  const std::lock_guard lock(mutex_);
  return is_set_;
}

std::optional<SwarmClock::Reading> SwarmClock::read(Instant now) const {
  const std::lock_guard lock(mutex_);
  const std::int64_t local = now.time_since_epoch().count();
  const auto estimate = estimator_.at(local);
  if (!estimate) return std::nullopt;
  const Nanoseconds time(local - estimate->offset_ns);
  told_ = std::max(told_.value_or(time), time);
  return Reading{*told_, estimate->bound + (*told_ - time)};
}

Nanoseconds SwarmClock::at(Instant now) const {
  const auto reading = read(now);
  return reading ? reading->time : Nanoseconds::zero();
}

std::optional<Nanoseconds> SwarmClock::bound_at(Instant now) const {
  const auto reading = read(now);
  return reading ? std::optional(reading->bound) : std::nullopt;
}

}  // namespace shoal
