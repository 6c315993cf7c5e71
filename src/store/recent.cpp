module;

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

module shoal.store;

import :internal;

namespace shoal {

std::size_t part_of_descriptors(long share, long most) {
  return static_cast<std::size_t>(std::clamp(::sysconf(_SC_OPEN_MAX) / share, 32L, most));
}

RecentFolders::RecentFolders() : most_(part_of_descriptors(32, 256)) {}

RecentFolders::Folder RecentFolders::find(std::string_view name) {
  const std::lock_guard lock(mutex_);
  const auto found = by_name_.find(name);
  if (found == by_name_.end() || std::chrono::steady_clock::now() - found->second.opened > kTrust) return nullptr;
  return found->second.folder;
}

void RecentFolders::keep(std::string_view name, Folder folder) {
  decltype(by_name_) evicted;  // are closed after the lock is released
  const std::lock_guard lock(mutex_);
  if (by_name_.size() >= most_ && !by_name_.contains(name)) evicted.swap(by_name_);
  by_name_.insert_or_assign(std::string(name), Entry{std::move(folder), std::chrono::steady_clock::now()});
}

std::optional<bool> LastLookedFor::is_missing(std::string_view name) const {
  const std::lock_guard lock(mutex_);
  if (name != name_ || std::chrono::steady_clock::now() - at_ > kTrust) return std::nullopt;
  return is_missing_;
}

void LastLookedFor::set(std::string_view name, bool is_missing) {
  const std::lock_guard lock(mutex_);
  name_ = name;
  is_missing_ = is_missing;
  at_ = std::chrono::steady_clock::now();
}

}  // namespace shoal
