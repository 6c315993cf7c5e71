module;

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <vector>

module shoal.schedule;

namespace shoal {

std::size_t usual_degree(std::size_t members) {
  if (members < 2) return 0;
  return std::min(members - 1, 2 * static_cast<std::size_t>(std::bit_width(members - 1)) + 2);
}

std::vector<std::size_t> ring_steps(std::size_t members, std::size_t degree) {
  std::vector<std::size_t> steps;
  if (members < 3) return members < 2 ? steps : std::vector<std::size_t>{1};
  const std::size_t farthest = (members - 1) / 2;  // a longer step is a shorter one of the other's
  const std::size_t count = std::min((degree + 1) / 2, farthest);
  for (std::size_t i = 0; i < count; ++i) {
    const double exponent = static_cast<double>(i) / static_cast<double>(count);
    const auto step = static_cast<std::size_t>(std::lround(std::pow(static_cast<double>(farthest), exponent)));
    steps.push_back(steps.empty() ? 1 : std::max(step, steps.back() + 1));
  }
  return steps;
}

}  // namespace shoal
