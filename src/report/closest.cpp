module;

#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

module shoal.report;

namespace shoal {

std::size_t typing_distance(std::string_view typed, std::string_view meant) {
  const std::size_t width = meant.size() + 1;
  std::vector<std::size_t> cost((typed.size() + 1) * width);
  const auto at = [&](std::size_t i, std::size_t j) -> std::size_t& { return cost[i * width + j]; };
  for (std::size_t i = 0; i <= typed.size(); ++i) at(i, 0) = i;
  for (std::size_t j = 0; j <= meant.size(); ++j) at(0, j) = j;
  for (std::size_t i = 1; i <= typed.size(); ++i) {
    for (std::size_t j = 1; j <= meant.size(); ++j) {
      const std::size_t changed = at(i - 1, j - 1) + (typed[i - 1] == meant[j - 1] ? 0 : 1);
      at(i, j) = std::min({at(i - 1, j) + 1, at(i, j - 1) + 1, changed});
      const bool is_swapped = i > 1 && j > 1 && typed[i - 1] == meant[j - 2] && typed[i - 2] == meant[j - 1];
      if (is_swapped) at(i, j) = std::min(at(i, j), at(i - 2, j - 2) + 1);
    }
  }
  return at(typed.size(), meant.size());
}

std::string did_you_mean(std::string_view typed, const std::vector<std::string>& words, std::string_view prefix) {
  if (typed.size() > 64) return {};  // nobody mistypes that, and the distance is quadratic
  const std::string* best = nullptr;
  std::size_t best_distance = std::max<std::size_t>(1, typed.size() / 3) + 1;
  for (const std::string& word : words) {
    const std::size_t distance = typing_distance(typed, word);
    if (distance >= best_distance) continue;
    best = &word;
    best_distance = distance;
  }
  return best == nullptr ? std::string{} : fmt::format("did you mean {}{}?", prefix, *best);
}

}  // namespace shoal
