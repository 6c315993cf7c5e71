// What others can cause as often as they like takes few lines.
module;

#include <fmt/core.h>

#include <chrono>
#include <cstddef>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

module shoal.report;

import shoal.base;

namespace shoal {

LineLimit::Turn LineLimit::take(std::string_view what, Instant now) {
  const std::scoped_lock lock(mutex_);
  auto found = kinds_.find(what);
  if (found == kinds_.end()) found = kinds_.emplace(std::string(what), Kind{now, 0, 0}).first;
  Kind& kind = found->second;
  if (now - kind.since >= kTime) {
    kind.since = now;
    kind.lines = 0;
  }
  if (kind.lines >= kLines) {
    ++kind.left_out;
    return {};
  }
  ++kind.lines;
  return {true, std::exchange(kind.left_out, 0)};
}

}  // namespace shoal
