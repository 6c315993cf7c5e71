module;

#include <algorithm>
#include <cstdint>
#include <map>
#include <variant>

module shoal.bundle;

import :order;
import shoal.wire;

namespace shoal {

bool Arrivals::take(std::uint64_t number) {
  const bool is_new = number >= lowest_missing_ && number - lowest_missing_ < kMostAhead && ahead_.insert(number).second;
  if (!is_new) return false;
  while (!ahead_.empty() && *ahead_.begin() == lowest_missing_) {
    ahead_.erase(ahead_.begin());
    ++lowest_missing_;
  }
  return true;
}

bool UsedNumbers::contains(std::uint32_t number) const {
  if (number > highest_) return false;
  const std::uint32_t behind = highest_ - number;
  return behind >= kMostBehind || (recent_ >> behind & 1) != 0;
}

void UsedNumbers::insert(std::uint32_t number) {
  if (contains(number)) return;
  if (number > highest_) {
    const std::uint32_t step = number - highest_;
    recent_ = step < kMostBehind ? recent_ << step : 0;
    highest_ = number;
  }
  recent_ |= std::uint64_t{1} << (highest_ - number);
}

std::uint64_t Departures::place(ChunkRef ref) {
  under_way_.emplace_hint(under_way_.end(), next_, ref);
  ++frames_of_[ref];
  return next_++;
}

void Departures::confirm(std::uint64_t number) {
  const auto frame = under_way_.find(number);
  if (frame == under_way_.end()) return;
  const auto chunk = frames_of_.find(frame->second);
  if (--chunk->second == 0) frames_of_.erase(chunk);
  under_way_.erase(frame);
}

bool Departures::must_wait(const Message& message) const {
  if (under_way_.empty()) return false;
  if (std::holds_alternative<Leave>(message)) return true;
  if (const auto* gone = std::get_if<Gone>(&message))
    return std::ranges::any_of(gone->handles, [this](std::uint32_t handle) {
      const auto chunk = frames_of_.lower_bound({handle, 0});
      return chunk != frames_of_.end() && chunk->first.handle == handle;
    });
  if (const auto* reject = std::get_if<Reject>(&message))
    return std::ranges::any_of(reject->chunks, [this](const ChunkRef& ref) { return frames_of_.contains(ref); });
  return false;
}

}  // namespace shoal
