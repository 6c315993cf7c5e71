module;

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

module shoal.store;

import :internal;

namespace shoal {
namespace {

constexpr std::size_t kRecentFolders = 32;

/// An eighth of the descriptors that the process may have.
std::size_t most_sources() {
  const long descriptors = ::sysconf(_SC_OPEN_MAX);
  return static_cast<std::size_t>(std::clamp(descriptors / 8, 32L, 1024L));
}

}  // namespace

RecentSources::RecentSources() : most_(most_sources()) {}

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
  by_use_.emplace_front(name, std::move(source));
  by_name_.emplace(name, by_use_.begin());
  if (by_use_.size() <= most_) return;
  evicted = std::move(by_use_.back().second);
  by_name_.erase(by_use_.back().first);
  by_use_.pop_back();
}

void RecentSources::forget(const std::string& name) {
  std::shared_ptr<const FileSource> forgotten;  // is closed after the lock is released
  const std::lock_guard lock(mutex_);
  const auto found = by_name_.find(name);
  if (found == by_name_.end()) return;
  forgotten = std::move(found->second->second);
  by_use_.erase(found->second);
  by_name_.erase(found);
}

void RecentSources::forget_all() {
  decltype(by_use_) forgotten;
  const std::lock_guard lock(mutex_);
  forgotten.swap(by_use_);
  by_name_.clear();
}

RecentFolders::Folder RecentFolders::find(std::string_view name) {
  const std::lock_guard lock(mutex_);
  const auto found = by_name_.find(name);
  if (found == by_name_.end() || std::chrono::steady_clock::now() - found->second.opened > kTrust) return nullptr;
  return found->second.folder;
}

void RecentFolders::keep(std::string_view name, Folder folder) {
  std::map<std::string, Entry, std::less<>> evicted;  // are closed after the lock is released
  const std::lock_guard lock(mutex_);
  if (by_name_.size() >= kRecentFolders && !by_name_.contains(name)) evicted.swap(by_name_);
  by_name_.insert_or_assign(std::string(name), Entry{std::move(folder), std::chrono::steady_clock::now()});
}

}  // namespace shoal
