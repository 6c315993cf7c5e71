module;

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

module shoal.schedule;

import shoal.base;

namespace shoal {
namespace {

constexpr Nanoseconds kLeastFar = std::chrono::milliseconds(50);
constexpr int kTimesAsFar = 8;

/// MurmurHash3's last step (Appleby): every bit of the outcome depends on all of `word`.
std::uint64_t mix(std::uint64_t word) {
  word = (word ^ (word >> 33)) * 0xFF51AFD7ED558CCDU;
  word = (word ^ (word >> 33)) * 0xC4CEB9FE1A85EC53U;
  return word ^ (word >> 33);
}

}  // namespace

bool is_far(Nanoseconds round_trip, Nanoseconds nearest) { return round_trip >= kLeastFar && round_trip / kTimesAsFar >= nearest; }

std::uint64_t key_of(std::string_view name) {
  std::uint64_t key = 0;
  for (const char letter : name) key = mix(key ^ static_cast<unsigned char>(letter)) + 1;
  return key;
}

bool is_ours_to_bring(std::uint64_t chunk, std::uint64_t us, std::span<const std::uint64_t> near) {
  const std::uint64_t ours = mix(chunk ^ us);
  return std::ranges::all_of(near, [&](std::uint64_t other) { return mix(chunk ^ other) <= ours; });
}

bool is_better_near(const SourceRate& near, const SourceRate& far, std::uint64_t bytes) {
  return near.rate() <= 0 || near.expected(bytes) <= 2 * far.expected(bytes);
}

void Crossing::on_nothing(Instant now, Nanoseconds alone) {
  look_at_ = now + kLookAgain;
  if (idle_since_) return;
  idle_since_ = now;
  at_last_ = now + std::clamp(2 * alone, kHold, kLongestHold);
}

bool Crossing::may_bring_others(Instant now) const {
  return idle_since_ && (now >= at_last_ || now - std::max(*idle_since_, news_at_) >= kHold);
}

}  // namespace shoal
