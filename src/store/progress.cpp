module;

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <mutex>

module shoal.store;

import :internal;
import shoal.world;

namespace shoal {

ProgressMeter::ProgressMeter(const ScanOptions& options, std::uint64_t bytes_total) : options_(options), bytes_total_(bytes_total) {}

bool ProgressMeter::add(std::uint64_t files, std::uint64_t bytes) {
  files_ += files;
  bytes_ += bytes;
  if (options_.progress) report_sometimes();
  if (options_.should_stop && !is_stopped_ && options_.should_stop()) is_stopped_ = true;
  return !is_stopped_;
}

void ProgressMeter::report_sometimes() {
  constexpr std::int64_t kInterval = 50'000'000;
  const std::unique_lock lock(mutex_, std::try_to_lock);
  const std::int64_t time = std::chrono::steady_clock::now().time_since_epoch().count();
  if (!lock || time - last_report_ns_ < kInterval) return;
  last_report_ns_ = time;
  options_.progress(now());
}

void ProgressMeter::report_end() {
  const std::lock_guard lock(mutex_);
  if (options_.progress) options_.progress(now());
}

ScanProgress ProgressMeter::now() const {
  // A file that grew, or was digested twice because it changed, counts more than was planned.
  return {files_, std::min<std::uint64_t>(bytes_, bytes_total_), bytes_total_};
}

}  // namespace shoal
