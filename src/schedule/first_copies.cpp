module;

#include <chrono>
#include <unordered_map>

module shoal.schedule;

import shoal.base;

namespace shoal {

bool FirstCopies::promise(Slot slot, Source asker, Instant now, Nanoseconds round_trip) {
  const Promise wanted{asker, now + kPatience + 2 * round_trip};
  const auto [promised, is_new] = promises_.try_emplace(slot, wanted);
  if (is_new) return true;
  if (promised->second.to != asker && now < promised->second.until) return false;
  promised->second = wanted;
  return true;
}

void FirstCopies::keep(Slot slot) { promises_.erase(slot); }

void FirstCopies::withdraw(Slot slot, Source asker) {
  const auto promised = promises_.find(slot);
  if (promised != promises_.end() && promised->second.to == asker) promises_.erase(promised);
}

void FirstCopies::remove(Source asker) {
  std::erase_if(promises_, [&](const auto& promised) { return promised.second.to == asker; });
}

}  // namespace shoal
