module;

#include <cstddef>
#include <iterator>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

module shoal.store;

import :internal;
import shoal.base;
import shoal.digest;

namespace shoal {

KnownFiles::KnownFiles() : most_open_(part_of_descriptors(8, 1024)) {}

void KnownFiles::set(const std::string& name, const FileStamp& stamp, const Sha256Digest& root) {
  const std::lock_guard lock(mutex_);
  Entry& entry = files_[name];
  entry.stamp = stamp;
  entry.root = root;
}

void KnownFiles::set_unless_older(const std::string& name, const FileStamp& stamp, const Sha256Digest& root) {
  const std::lock_guard lock(mutex_);
  const auto [at, is_new] = files_.try_emplace(name);
  if (!is_new && at->second.stamp.ctime_ns > stamp.ctime_ns) return;
  at->second.stamp = stamp;
  at->second.root = root;
}

void KnownFiles::set_open(const std::string& name, const Sha256Digest& root, SourcePtr source) {
  SourcePtr closed;  // after the lock is released
  const std::lock_guard lock(mutex_);
  Entry& entry = files_[name];
  entry.stamp = source->stamp();
  entry.root = root;
  closed = keep(entry, std::move(source));
}

void KnownFiles::keep_open(std::string_view name, SourcePtr source) {
  SourcePtr closed;
  const std::lock_guard lock(mutex_);
  if (const auto found = files_.find(name); found != files_.end()) closed = keep(found->second, std::move(source));
}

std::optional<KnownFiles::Known> KnownFiles::find(std::string_view name) {
  const std::lock_guard lock(mutex_);
  const auto found = files_.find(name);
  if (found == files_.end()) return std::nullopt;
  const Entry& entry = found->second;
  if (entry.source) by_use_.splice(by_use_.begin(), by_use_, entry.place);
  return Known{entry.stamp, entry.root, entry.source};
}

void KnownFiles::close(std::string_view name) {
  SourcePtr closed;
  const std::lock_guard lock(mutex_);
  const auto found = files_.find(name);
  if (found == files_.end() || !found->second.source) return;
  closed = std::exchange(found->second.source, nullptr);
  by_use_.erase(found->second.place);
}

void KnownFiles::close_all() {
  std::list<SourcePtr> closed;
  const std::lock_guard lock(mutex_);
  for (Entry* const entry : by_use_) closed.push_back(std::exchange(entry->source, nullptr));
  by_use_.clear();
}

KnownFiles::SourcePtr KnownFiles::keep(Entry& entry, SourcePtr source) {
  if (entry.source) {
    by_use_.splice(by_use_.begin(), by_use_, entry.place);
    return std::exchange(entry.source, std::move(source));
  }
  SourcePtr closed;
  if (by_use_.size() < most_open_) {
    by_use_.push_front(&entry);
  } else {  // the one that was not used for longest gives its place
    closed = std::exchange(by_use_.back()->source, nullptr);
    by_use_.splice(by_use_.begin(), by_use_, std::prev(by_use_.end()));
    by_use_.front() = &entry;
  }
  entry.source = std::move(source);
  entry.place = by_use_.begin();
  return closed;
}

}  // namespace shoal
