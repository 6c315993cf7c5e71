// Lines that others cause: one of each kind now and then, with how many there were.
module;

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

module shoal.report;

import :pacing;
import shoal.base;

namespace shoal {
namespace {

constexpr Nanoseconds kEvery = std::chrono::seconds(10);
constexpr std::size_t kMostKinds = 256;

std::string grouped(std::uint64_t number) {
  std::string digits = std::to_string(number);
  for (std::size_t end = digits.size(); end > 3; end -= 3) digits.insert(end - 3, 1, ',');
  return digits;
}

}  // namespace

std::optional<Pacing::Passed> Pacing::pass(std::string_view kind, std::string_view line) {
  const Instant now = now_();
  const std::lock_guard lock(mutex_);
  auto known = kinds_.find(kind);
  if (known == kinds_.end()) {
    if (kinds_.size() < kMostKinds) {
      kinds_.emplace(kind, Kind{now, 0, {}});
      return Passed{};
    }
    known = kinds_.begin();  // as good as any
  }
  Kind& same = known->second;
  if (now - same.passed < kEvery) {
    ++same.more;
    same.last = line;
    return std::nullopt;
  }
  const Passed passed{std::exchange(same.more, 0), now - same.passed};
  same.passed = now;
  same.last.clear();
  return passed;
}

std::vector<std::string> Pacing::overdue(bool is_end) {
  const Instant now = now_();
  const std::lock_guard lock(mutex_);
  std::vector<std::string> lines;
  for (auto& [name, kind] : kinds_) {
    if (kind.more == 0 || (!is_end && now - kind.passed < kEvery)) continue;
    lines.push_back(with_count(kind.last, {kind.more - 1, now - kind.passed}));
    kind = {now, 0, {}};
  }
  return lines;
}

std::string with_count(std::string_view line, const Pacing::Passed& passed) {
  if (passed.more == 0) return std::string(line);
  const auto seconds = std::max(std::chrono::ceil<std::chrono::seconds>(passed.since), std::chrono::seconds(1)).count();
  return fmt::format("{} (and {} more like it in the last {} s)", line, grouped(passed.more), seconds);
}

}  // namespace shoal
