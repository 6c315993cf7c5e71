module;

#include <algorithm>
#include <chrono>
#include <cmath>
#include <compare>
#include <cstdint>
#include <optional>

module shoal.schedule;

import shoal.base;

namespace shoal {
namespace {

constexpr double kMemory = 1.0;                                  ///< Seconds of busy time after which 1/e of a sample is left.
constexpr double kShortest = 1e-3;                               ///< Nobody is believed a rate that was measured over less.
constexpr double kLongestSilence = 2.0;                          ///< Seconds that one stall counts at most, so that it can be lived down.
constexpr Seconds kSlack{0.008};                                 ///< Answers that wait for us, beyond a round trip.
constexpr Seconds kLongest{3600};                                ///< No expectation goes beyond it, so that no sum overflows.
constexpr Nanoseconds kMostPatience = std::chrono::seconds(30);  ///< Who fell silent has hardly any rate: nobody waits for that.
constexpr double kFewestChunks = 2;
constexpr Nanoseconds kShortWay = std::chrono::milliseconds(5);
constexpr double kMostChunks = 64;

Nanoseconds to_nanoseconds(Seconds seconds) { return std::chrono::duration_cast<Nanoseconds>(std::min(seconds, kLongest)); }

}  // namespace

void SourceRate::on_request(Instant now, std::uint64_t bytes) {
  if (outstanding_ == 0) {
    measured_until_ = now;
    most_outstanding_ = 0;
  }
  outstanding_ += bytes;
  most_outstanding_ = std::max(most_outstanding_, outstanding_);
}

void SourceRate::on_answer(Instant requested, Instant now, std::uint64_t bytes) {
  on_round_trip(now - requested);
  measure(now, bytes);
  outstanding_ -= std::min(bytes, outstanding_);
  most_outstanding_ = outstanding_;
}

void SourceRate::on_dropped(Instant now, std::uint64_t bytes) {
  outstanding_ -= std::min(bytes, outstanding_);
  // Time that others' answers share is counted with the next of them; else it would be lost, and a source that
  // stalls would keep its good name.
  if (outstanding_ == 0) measure(now, 0);
}

void SourceRate::on_round_trip(Nanoseconds rtt) { min_rtt_ = std::min(min_rtt_.value_or(rtt), std::max(rtt, Nanoseconds(0))); }

/// Adds `bytes`, delivered evenly since the last measurement, to two sums that forget alike: bytes, and seconds.
/// Their quotient is the plain mean at first and later the mean of about the last second.
void SourceRate::measure(Instant now, std::uint64_t bytes) {
  const double passed = std::max(0.0, Seconds(now - measured_until_).count());
  const double elapsed = bytes > 0 ? passed : std::min(passed, kLongestSilence);
  measured_until_ = now;
  // Less than a chunk under way measures the round trip, not the rate: it is only better than knowing nothing.
  const bool is_telling = most_outstanding_ >= kChunkSize;
  if (!is_telling && is_measured_) return;
  if (is_telling && !is_measured_) {
    recent_bytes_ = recent_seconds_ = 0;
    is_measured_ = true;
  }
  const double kept = std::exp(-elapsed / kMemory);
  const double seconds = kMemory * (1 - kept);
  const double weight = elapsed > 0 ? seconds / elapsed : 1.0;
  recent_bytes_ = recent_bytes_ * kept + static_cast<double>(bytes) * weight;
  recent_seconds_ = recent_seconds_ * kept + seconds;
  rate_ = recent_bytes_ / std::max(recent_seconds_, kShortest);
}

std::uint64_t SourceRate::window(bool is_one_of_many) const {
  const Nanoseconds round_trip = min_rtt_.value_or(Nanoseconds(0));
  const Seconds ahead = Seconds(round_trip) + kSlack;
  const double spare = is_one_of_many && round_trip < kShortWay ? 0 : 1;
  const double chunks = std::ceil(rate_ * ahead.count() / kChunkSize) + spare;
  return static_cast<std::uint64_t>(std::clamp(chunks, kFewestChunks - 1 + spare, kMostChunks)) * kChunkSize;
}

bool SourceRate::has_room(std::uint64_t bytes, bool is_one_of_many) const {
  return outstanding_ == 0 || outstanding_ + bytes <= window(is_one_of_many);
}

Nanoseconds SourceRate::expected(std::uint64_t bytes) const {
  if (rate_ <= 0) return std::chrono::seconds(1);
  const Seconds transfer(static_cast<double>(outstanding_ + bytes) / rate_);
  return to_nanoseconds(transfer + Seconds(min_rtt_.value_or(Nanoseconds(0))));
}

Nanoseconds SourceRate::patience(std::uint64_t bytes) const {
  return std::clamp<Nanoseconds>(3 * expected(bytes), std::chrono::seconds(2), kMostPatience);
}

}  // namespace shoal
