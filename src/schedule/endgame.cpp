module;

#include <algorithm>
#include <chrono>
#include <compare>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>

module shoal.schedule;

import shoal.base;

namespace shoal {
namespace {

/// How much longer a request will take. One that is late is expected to take as long again as it is late.
Nanoseconds time_left(const InFlight& request, Instant now) { return std::max(request.expected_at - now, now - request.expected_at); }

}  // namespace

std::optional<InFlight> pick_duplicate(std::span<const InFlight> in_flight, Source idle, Instant now, Nanoseconds idle_expected,
                                       const std::function<bool(Slot)>& has, const std::function<std::uint32_t(Slot)>& copies) {
  std::optional<InFlight> longest;
  for (const InFlight& request : in_flight) {
    const Nanoseconds left = time_left(request, now);
    if (request.source == idle || idle_expected >= left / 2) continue;
    if (longest && left <= time_left(*longest, now)) continue;
    if (copies(request.slot) >= 2 || !has(request.slot)) continue;
    longest = request;
  }
  return longest;
}

bool should_ask_instead(const SourceRate& asked, const SourceRate& newcomer, std::uint32_t holders, const Random& random) {
  if (newcomer.outstanding() == 0 && random() % std::max<std::uint32_t>(holders, 1) == 0) return true;
  const bool are_rates_known = asked.rate() > 0 && newcomer.rate() > 0;
  const double with_it = static_cast<double>(newcomer.outstanding()) + kChunkSize;
  const double without_it = static_cast<double>(asked.outstanding()) - kChunkSize;
  return are_rates_known ? with_it / newcomer.rate() <= without_it / asked.rate() : with_it <= without_it;
}

}  // namespace shoal
