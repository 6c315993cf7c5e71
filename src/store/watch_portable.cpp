// The portable twin of watch_linux.cpp: it looks at the folder again and again. A kqueue would need a descriptor for each file.
module;

#if !defined(__linux__) || defined(SHOAL_PORTABLE)

#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#endif

module shoal.store;

#if !defined(__linux__) || defined(SHOAL_PORTABLE)

import :internal;
import shoal.base;
import shoal.manifest;
import shoal.world;

namespace shoal {
namespace {

constexpr std::chrono::milliseconds kLeastPause{500};
constexpr int kPauseFactor = 9;  // a tenth of the time at most is spent on looking

class PollingWatch final : public FolderWatch {
 public:
  PollingWatch(Root root, std::function<void(FolderChanges)> on_change) : root_(std::move(root)), on_change_(std::move(on_change)) {
    seen_ = look();
    thread_ = std::thread([this] { run(); });
  }

  ~PollingWatch() override {
    {
      const std::lock_guard lock(mutex_);
      is_closing_ = true;
    }
    closing_.notify_one();
    thread_.join();
  }

 private:
  using Stamps = std::map<std::string, std::pair<EntryKind, FileStamp>>;

  Stamps look() {
    Stamps stamps;
    if (const auto listing = list_folder(root_, {}))
      for (const Listed& listed : listing->found) stamps[listed.name] = {listed.kind, listed.stamp};
    return stamps;
  }

  void run() {
    std::chrono::steady_clock::duration pause = kLeastPause;
    std::unique_lock lock(mutex_);
    while (!closing_.wait_for(lock, pause, [this] { return is_closing_; })) {
      lock.unlock();
      const auto begun = std::chrono::steady_clock::now();
      compare(look());
      pause = std::max<std::chrono::steady_clock::duration>(kLeastPause, kPauseFactor * (std::chrono::steady_clock::now() - begun));
      lock.lock();
    }
  }

  void compare(Stamps now) {
    FolderChanges changes;
    const auto note = [&](const std::string& name, EntryKind kind) {
      changes.names.insert(name);
      changes.is_anything |= kind == EntryKind::folder;
    };
    for (const auto& [name, stamp] : now)
      if (const auto before = seen_.find(name); before == seen_.end() || before->second != stamp) note(name, stamp.first);
    for (const auto& [name, stamp] : seen_)
      if (!now.contains(name)) note(name, stamp.first);
    seen_ = std::move(now);
    if (!changes.names.empty()) on_change_(std::move(changes));
  }

  Root root_;
  std::function<void(FolderChanges)> on_change_;
  Stamps seen_;
  std::mutex mutex_;
  std::condition_variable closing_;
  bool is_closing_ = false;
  std::thread thread_;
};

}  // namespace

Result<std::unique_ptr<FolderWatch>> watch_folder(const std::string& path, std::function<void(FolderChanges)> on_change) {
  auto root = open_root(path, false);
  if (!root) return Failure(std::move(root).error());
  return std::make_unique<PollingWatch>(std::move(*root), std::move(on_change));
}

}  // namespace shoal

#endif
