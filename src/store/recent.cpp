module;

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <iterator>
#include <list>
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
namespace {

/// So many descriptors as one of `share` parts of those that the process may have.
std::size_t part_of_descriptors(long share, long most) {
  return static_cast<std::size_t>(std::clamp(::sysconf(_SC_OPEN_MAX) / share, 32L, most));
}

}  // namespace

RecentSources::RecentSources() : most_(part_of_descriptors(8, 1024)) {}

std::shared_ptr<const FileSource> RecentSources::find(const std::string& name) {
  const std::lock_guard lock(mutex_);
  const auto found = by_name_.find(name);
  if (found == by_name_.end()) return nullptr;
  by_use_.splice(by_use_.begin(), by_use_, found->second);
  return found->second->second;
}

void RecentSources::keep(const std::string& name, std::shared_ptr<const FileSource> source) {
  std::shared_ptr<const FileSource> evicted;  // is closed after the lock is released
  const std::lock_guard lock(mutex_);
  if (const auto found = by_name_.find(name); found != by_name_.end()) {
    evicted = std::exchange(found->second->second, std::move(source));
    by_use_.splice(by_use_.begin(), by_use_, found->second);
    return;
  }
  if (by_use_.size() < most_) {
    by_use_.emplace_front(name, std::move(source));
    by_name_.emplace(by_use_.front().first, by_use_.begin());
    return;
  }
  // The one that was not used for longest gives its place.
  auto place = by_name_.extract(by_use_.back().first);
  by_use_.splice(by_use_.begin(), by_use_, std::prev(by_use_.end()));
  by_use_.front().first = name;
  evicted = std::exchange(by_use_.front().second, std::move(source));
  place.key() = by_use_.front().first;
  by_name_.insert(std::move(place));
}

void RecentSources::forget(const std::string& name) {
  std::shared_ptr<const FileSource> forgotten;  // is closed after the lock is released
  const std::lock_guard lock(mutex_);
  const auto found = by_name_.find(name);
  if (found == by_name_.end()) return;
  forgotten = std::move(found->second->second);
  const auto place = found->second;
  by_name_.erase(found);
  by_use_.erase(place);
}

void RecentSources::forget_all() {
  decltype(by_use_) forgotten;
  const std::lock_guard lock(mutex_);
  by_name_.clear();
  forgotten.swap(by_use_);
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
