module;

#include <algorithm>
#include <chrono>
#include <optional>
#include <unordered_map>
#include <utility>

module shoal.schedule;

import shoal.base;

namespace shoal {
namespace {

Instant until(Instant now, Nanoseconds round_trip) {
  return now + FirstCopies::kPatience + 2 * std::min(round_trip, FirstCopies::kLongestWay);
}

}  // namespace

bool FirstCopies::promise(Slot slot, Source asker, Instant now, Nanoseconds round_trip) {
  const Promise wanted{asker, until(now, round_trip)};
  const auto [promised, is_new] = promises_.try_emplace(slot, wanted);
  if (is_new || promised->second.to == asker) return true;
  if (promised->second.until && now < *promised->second.until) return false;
  promised->second = wanted;
  return true;
}

bool FirstCopies::serve(Slot slot, Source asker, Instant now, Nanoseconds round_trip) {
  if (!promise(slot, asker, now, round_trip)) return false;
  Promise& promised = promises_.at(slot);
  if (!std::exchange(promised.was_served, true) && promised.until) promised.until = until(now, round_trip);
  return true;
}

bool FirstCopies::is_promised(Slot slot) const {
  const auto promised = promises_.find(slot);
  return promised != promises_.end() && promised->second.until.has_value();
}

void FirstCopies::keep(Slot slot) { promises_.erase(slot); }

void FirstCopies::withdraw(Slot slot, Source asker) {
  const auto promised = promises_.find(slot);
  if (promised != promises_.end() && promised->second.to == asker) promised->second.until.reset();
}

void FirstCopies::remove(Source asker) {
  std::erase_if(promises_, [&](const auto& promised) { return promised.second.to == asker; });
}

}  // namespace shoal
