// Changes of a folder, from inotify. watch_portable.cpp is the twin.
module;

#if defined(__linux__) && !defined(SHOAL_PORTABLE)

#include <dirent.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>
#include <tl/expected.hpp>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <utility>

#endif

module shoal.store;

#if defined(__linux__) && !defined(SHOAL_PORTABLE)

import :internal;
import shoal.base;
import shoal.manifest;
import shoal.world;

namespace shoal {
namespace {

constexpr std::uint32_t kEvents =
    IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_CREATE | IN_ATTRIB | IN_ONLYDIR | IN_DONT_FOLLOW;
constexpr std::size_t kMostNames = 4096;  // more than that is told as anything

class InotifyWatch final : public FolderWatch {
 public:
  InotifyWatch(std::string root, Fd inotify, Fd stop, std::function<void(FolderChanges)> on_change)
      : root_(std::move(root)), inotify_(std::move(inotify)), stop_(std::move(stop)), on_change_(std::move(on_change)) {}

  Result<> begin() {
    if (!add_folder("")) return io_failure("watch", root_);
    thread_ = std::thread([this] { run(); });
    return {};
  }

  ~InotifyWatch() override {
    if (!thread_.joinable()) return;
    const std::uint64_t one = 1;
    static_cast<void>(::write(stop_.get(), &one, sizeof one) == sizeof one);
    thread_.join();
  }

 private:
  std::string path_of(const std::string& name) const { return name.empty() ? root_ : root_ + '/' + name; }

  /// With all folders below it. False where the folder itself cannot be watched.
  bool add_folder(const std::string& name) {
    const std::string path = path_of(name);
    const int number = ::inotify_add_watch(inotify_.get(), path.c_str(), kEvents);
    if (number < 0) return false;
    folders_[number] = name;
    const std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(path.c_str()), ::closedir);
    if (!dir) return true;
    while (const dirent* const entry = ::readdir(dir.get())) {
      const std::string_view part = entry->d_name;
      if (part == "." || part == ".." || part.starts_with(kReservedPrefix)) continue;
      if (entry->d_type != DT_DIR && entry->d_type != DT_UNKNOWN) continue;
      const std::string below = name.empty() ? std::string(part) : name + '/' + std::string(part);
      // One that could not be watched, for want of watches, is looked at with the next change.
      if (!add_folder(below) && errno == ENOSPC) changes_.is_anything = true;
    }
    return true;
  }

  void run() {
    for (;;) {
      std::array<pollfd, 2> waits{{{inotify_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}}};
      if (::poll(waits.data(), waits.size(), -1) < 0 && errno != EINTR) return;
      if (waits[1].revents != 0) return;
      if (waits[0].revents != 0) read_events();
      if (changes_.names.empty() && !changes_.is_anything) continue;
      on_change_(std::exchange(changes_, {}));
    }
  }

  void read_events() {
    alignas(inotify_event) std::array<char, 16 * 1024> bytes{};
    const auto count = ::read(inotify_.get(), bytes.data(), bytes.size());
    for (std::size_t at = 0; count > 0 && at + sizeof(inotify_event) <= static_cast<std::size_t>(count);) {
      inotify_event event{};
      std::memcpy(&event, bytes.data() + at, sizeof event);
      take(event, event.len > 0 ? std::string(bytes.data() + at + sizeof event) : std::string());
      at += sizeof event + event.len;
    }
  }

  void take(const inotify_event& event, const std::string& part) {
    if ((event.mask & IN_Q_OVERFLOW) != 0) return take_overflow();
    const auto folder = folders_.find(event.wd);
    if (folder == folders_.end()) return;
    if ((event.mask & IN_IGNORED) != 0) return static_cast<void>(folders_.erase(folder));
    if (part.empty() || part.starts_with(kReservedPrefix)) return;
    const std::string name = folder->second.empty() ? part : folder->second + '/' + part;
    if ((event.mask & IN_ISDIR) != 0) return take_folder(event, name);
    // A new file is looked at when it is closed; but a new name for an old one is never opened.
    if ((event.mask & IN_CREATE) != 0 && !is_further_link(name)) return;
    if (changes_.names.size() < kMostNames)
      changes_.names.insert(name);
    else
      changes_.is_anything = true;
  }

  void take_folder(const inotify_event& event, const std::string& name) {
    if ((event.mask & IN_ATTRIB) != 0) return;
    if ((event.mask & IN_MOVED_FROM) != 0) forget_below(name);
    if ((event.mask & (IN_CREATE | IN_MOVED_TO)) != 0) add_folder(name);
    changes_.is_anything = true;
  }

  /// What was missed may be folders: all are watched anew.
  void take_overflow() {
    add_folder("");
    changes_.is_anything = true;
  }

  /// A folder that was moved away takes its watches with it.
  void forget_below(const std::string& name) {
    for (auto folder = folders_.begin(); folder != folders_.end();) {
      const bool is_below = folder->second == name || folder->second.starts_with(name + '/');
      if (is_below) ::inotify_rm_watch(inotify_.get(), folder->first);
      folder = is_below ? folders_.erase(folder) : std::next(folder);
    }
  }

  bool is_further_link(const std::string& name) const {
    struct stat status{};
    return ::lstat(path_of(name).c_str(), &status) == 0 && S_ISREG(status.st_mode) && status.st_nlink > 1;
  }

  std::string root_;
  Fd inotify_;
  Fd stop_;
  std::function<void(FolderChanges)> on_change_;
  std::unordered_map<int, std::string> folders_;  ///< Names, by number of the watch.
  FolderChanges changes_;
  std::thread thread_;
};

}  // namespace

Result<std::unique_ptr<FolderWatch>> watch_folder(const std::string& path, std::function<void(FolderChanges)> on_change) {
  Fd inotify(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  Fd stop(::eventfd(0, EFD_CLOEXEC));
  if (!inotify || !stop) return io_failure("watch", path);
  auto watch = std::make_unique<InotifyWatch>(path, std::move(inotify), std::move(stop), std::move(on_change));
  if (auto begun = watch->begin(); !begun) return Failure(std::move(begun).error());
  return watch;
}

}  // namespace shoal

#endif
