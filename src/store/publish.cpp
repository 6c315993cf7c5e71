module;

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>
#include <tl/expected.hpp>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

module shoal.store;

import :internal;
import shoal.base;
import shoal.manifest;

namespace shoal {
namespace {

/// From so many on, one flush of the whole file system costs less than one for each.
constexpr std::size_t kSyncTogether = 8;

/// Who may read a file may run it, as chmod +x says under the umask that the file was made with.
mode_t with_execution(mode_t mode, bool executable) {
  const mode_t permissions = mode & 07777;
  return executable ? permissions | ((permissions & 0444) >> 2) : permissions & ~mode_t{0111};
}

Result<> set_mode(const Publishing& job, int fd) {
  struct stat status{};
  if (::fstat(fd, &status) != 0) return io_failure("look at", job.file->file()->path());
  const bool is_executable = (status.st_mode & S_IXUSR) != 0;
  if (is_executable != job.entry->executable && ::fchmod(fd, with_execution(status.st_mode, job.entry->executable)) != 0)
    return io_failure("set the mode of", job.file->file()->path());
  return {};
}

Result<> set_attributes(const Publishing& job) {
  const int fd = job.file->file()->descriptor();
  if (job.entry->executable || !job.file->is_plain())
    if (auto set = set_mode(job, fd); !set) return set;
  if (!set_modified(fd, job.entry->mtime_ns)) return io_failure("set the time of", job.file->file()->path());
  return {};
}

void sync_data(const Root& root, std::span<Publishing> jobs) {
  const auto good = std::ranges::count_if(jobs, [](const Publishing& job) { return job.result.has_value(); });
  if (static_cast<std::size_t>(good) >= kSyncTogether && sync_file_system(root.fd.get())) return;
  for (Publishing& job : jobs)
    if (job.result && ::fsync(job.file->file()->descriptor()) != 0) job.result = io_failure("write", job.file->file()->path());
}

/// Renames all files that belong into `folder`.
class Renamer {
 public:
  Renamer(const Root& root, FreshFolders& fresh, RecentFolders& recent, KnownFiles& known)
      : root_(root), fresh_(fresh), recent_(recent), known_(known) {}

  void rename(std::string_view folder, Publishing& job) {
    job.result = enter(folder);
    if (job.result) job.result = rename_into(job);
    if (job.result) job.result = take_stamp(job);
    if (job.result && !std::exchange(is_dirty_, true)) dirty_.insert(folder_name_);
  }

  const std::set<std::string>& dirty_folders() const { return dirty_; }

 private:
  /// Jobs come by folder, so that one open folder is enough.
  Result<> enter(std::string_view name) {
    if (folder_ && folder_name_ == name) return {};
    is_dirty_ = false;
    folder_name_ = name;
    folder_ = recent_.find(name);
    is_recent_ = folder_ != nullptr;
    return is_recent_ ? Result<>() : enter_anew();
  }

  Result<> enter_anew() {
    is_recent_ = false;
    auto folder = make_recent_folder(root_, folder_name_, fresh_, recent_);
    if (!folder) return Failure(std::move(folder).error());
    folder_ = std::move(*folder);
    return {};
  }

  Result<> rename_into(const Publishing& job) {
    const std::string& part = job.file->part_name();
    const std::string target(base_part(job.entry->name));
    // A file that is kept under another name than it was fetched for may have to leave its folder.
    Fd other;
    if (folder_part(part) != folder_name_) {
      other = Fd(open_beneath(root_.fd.get(), std::string(folder_part(part)), O_RDONLY | O_DIRECTORY));
      if (!other) return io_failure("find", job.file->file()->path());
    }
    const auto rename = [&] {
      return rename_over_known({other ? other.get() : folder_->get(), base_part(part).data()}, {folder_->get(), target.c_str()},
                               job.entry->name);
    };
    if (rename()) return {};
    int error = errno;
    if (error == ENOENT && is_recent_) {  // the folder may have been removed a moment ago
      if (auto entered = enter_anew(); !entered) return entered;
      if (rename()) return {};
      error = errno;
    }
    return fail(std::error_code(error, std::generic_category()), fmt::format("cannot publish '{}'", root_.path_of(job.entry->name)),
                advice_for(error));
  }

  static std::string advice_for(int error) {
    if (error == EISDIR) return "a folder has that name; move it away";
    return error == EEXIST ? "it came, or was changed, a moment ago, and is left as it is; run again" : "";
  }

  /// Replaces nothing but what is known under that name, and is still what it was.
  bool rename_over_known(At from, At to, const std::string& name) {
    if (rename_if_free(from, to)) return true;
    if (errno != EEXIST) return false;
    struct stat status{};
    if (::fstatat(to.folder, to.name, &status, AT_SYMLINK_NOFOLLOW) != 0) return rename_if_free(from, to);
    const auto known = known_.find(name);
    if (S_ISREG(status.st_mode) && known && is_same_file(known->stamp, stamp_of(status)))
      return ::renameat(from.folder, from.name, to.folder, to.name) == 0;
    errno = S_ISDIR(status.st_mode) ? EISDIR : EEXIST;
    return false;
  }

  /// Other permissions make it no other file.
  static bool is_same_file(const FileStamp& one, const FileStamp& other) {
    return one.inode == other.inode && one.size == other.size && one.mtime_ns == other.mtime_ns;
  }

  Result<> take_stamp(Publishing& job) {
    struct stat status{};
    if (::fstat(job.file->file()->descriptor(), &status) != 0) return io_failure("look at", root_.path_of(job.entry->name));
    job.stamp = stamp_of(status);
    known_.set(job.entry->name, job.stamp, job.entry->root);
    return {};
  }

  const Root& root_;
  FreshFolders& fresh_;
  RecentFolders& recent_;
  KnownFiles& known_;
  RecentFolders::Folder folder_;
  std::string folder_name_;
  bool is_recent_ = false;  ///< The folder that is open was opened before.
  bool is_dirty_ = false;   ///< The folder that is open is among the dirty ones.
  std::set<std::string> dirty_;
};

bool sync_folder(const Root& root, std::string_view name) {
  const Fd fd(open_beneath(root.fd.get(), std::string(name), O_RDONLY | O_DIRECTORY));
  // Some file systems have no fsync for folders, and say so with EINVAL.
  return fd && (::fsync(fd.get()) == 0 || errno == EINVAL);
}

/// The folders that have to be on the disk for `dirty` to be found again: they themselves, and above each new one its parent.
std::set<std::string> with_parents(const std::set<std::string>& dirty, FreshFolders& fresh) {
  std::set<std::string> all;
  for (const std::string& name : dirty) {
    std::string_view at = name;
    all.emplace(at);
    while (!at.empty() && fresh.take(at)) {
      at = folder_part(at);
      all.emplace(at);
    }
  }
  return all;
}

/// Returns the names of the folders that could not be written.
std::set<std::string> sync_folders(const Root& root, const std::set<std::string>& folders) {
  if (folders.size() >= kSyncTogether && sync_file_system(root.fd.get())) return {};
  std::set<std::string> failed;
  for (const std::string& name : folders)
    if (!sync_folder(root, name)) failed.insert(name);
  return failed;
}

}  // namespace

void publish_files(const Root& root, std::span<Publishing> jobs, FreshFolders& fresh, RecentFolders& recent, KnownFiles& known,
                   Durability durability) {
  for (Publishing& job : jobs)
    if (job.result) job.result = set_attributes(job);
  if (durability == Durability::disk) sync_data(root, jobs);

  std::vector<std::pair<std::string_view, Publishing*>> by_folder;
  for (Publishing& job : jobs)
    if (job.result) by_folder.emplace_back(folder_part(job.entry->name), &job);
  std::ranges::sort(by_folder);
  Renamer renamer(root, fresh, recent, known);
  for (const auto& [folder, job] : by_folder) renamer.rename(folder, *job);
  if (durability == Durability::none) return;

  const auto failed = sync_folders(root, with_parents(renamer.dirty_folders(), fresh));
  if (failed.empty()) return;
  for (const auto& [folder, job] : by_folder)
    if (job->result && failed.contains(std::string(folder)))
      job->result = io_failure(EIO, "write folder of", root.path_of(job->entry->name));
}

}  // namespace shoal
