module;

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
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
  return next_++;
}

bool Departures::must_wait(const Message& message) const {
  if (under_way_.empty()) return false;
  if (std::holds_alternative<Leave>(message)) return true;
  const auto concerns = [this](auto is_meant) {
    return std::ranges::any_of(under_way_, [&](const auto& frame) { return is_meant(frame.second); });
  };
  if (const auto* gone = std::get_if<Gone>(&message))
    return concerns([gone](const ChunkRef& ref) { return std::ranges::find(gone->handles, ref.handle) != gone->handles.end(); });
  if (const auto* reject = std::get_if<Reject>(&message)) {
    const std::set<ChunkRef> refs(reject->chunks.begin(), reject->chunks.end());
    return concerns([&refs](const ChunkRef& ref) { return refs.contains(ref); });
  }
  return false;
}

}  // namespace shoal
