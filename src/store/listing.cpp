module;

#include <dirent.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>
#include <tl/expected.hpp>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

module shoal.store;

import :internal;
import shoal.base;
import shoal.manifest;
import shoal.world;

namespace shoal {
namespace {

struct CloseDir {
  void operator()(DIR* dir) const { ::closedir(dir); }
};
using Dir = std::unique_ptr<DIR, CloseDir>;

/// Takes the descriptor over.
Dir open_dir(int fd) {
  Dir dir(fd < 0 ? nullptr : ::fdopendir(fd));
  if (!dir && fd >= 0) ::close(fd);
  return dir;
}

/// The next entry but `.` and `..`; null at the end. errno is not 0 where it could not be read.
const dirent* next_entry(DIR* dir) {
  for (;;) {
    errno = 0;
    const dirent* const entry = ::readdir(dir);
    if (!entry) return nullptr;
    if (std::strcmp(entry->d_name, ".") != 0 && std::strcmp(entry->d_name, "..") != 0) return entry;
  }
}

constexpr int kOpenFolder = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;

bool any_matches(const std::vector<std::string>& patterns, std::string_view name) {
  return std::ranges::any_of(patterns, [&](const std::string& pattern) { return matches(pattern, name); });
}

bool is_partial_name(std::string_view base) {
  constexpr std::size_t kDigits = 32;
  if (base.size() != kReservedPrefix.size() + kDigits + kPartialSuffix.size()) return false;
  if (!base.starts_with(kReservedPrefix) || !base.ends_with(kPartialSuffix)) return false;
  const auto digits = base.substr(kReservedPrefix.size(), kDigits);
  return digits.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

enum class Kind { file, folder, other };

bool is_probe_name(std::string_view base) { return base.starts_with(kProbePrefix); }

/// What a probe has left that was killed: an empty file that is older than any probe takes.
bool is_left_probe(int folder, const char* base) {
  constexpr std::int64_t kLongest = 60'000'000'000;
  struct stat status{};
  if (!is_probe_name(base) || ::fstatat(folder, base, &status, AT_SYMLINK_NOFOLLOW) != 0) return false;
  return S_ISREG(status.st_mode) && status.st_size == 0 && modified_ns(status) < wall_clock_ns() - kLongest;
}

/// Most file systems tell with the name.
Kind kind_of(DIR* dir, const dirent& entry) {
  if (entry.d_type == DT_REG) return Kind::file;
  if (entry.d_type == DT_DIR) return Kind::folder;
  struct stat status{};
  if (entry.d_type != DT_UNKNOWN || ::fstatat(::dirfd(dir), entry.d_name, &status, AT_SYMLINK_NOFOLLOW) != 0) return Kind::other;
  if (S_ISREG(status.st_mode)) return Kind::file;
  return S_ISDIR(status.st_mode) ? Kind::folder : Kind::other;
}

/// A file of ours that goes when nobody uses it.
bool is_left_partial(DIR* dir, const dirent& entry) {
  if (is_partial_name(entry.d_name)) return kind_of(dir, entry) == Kind::file;
  return is_left_probe(::dirfd(dir), entry.d_name);
}

class Lister {
 public:
  Lister(const Root& root, const ScanOptions& options) : root_(root), options_(options) {
    listing_.is_complete = options.include.empty() && options.exclude.empty();
  }

  Result<Listing> list() {
    Dir dir = open_dir(::openat(root_.fd.get(), ".", kOpenFolder));
    if (!dir) return io_failure("read", root_.path);
    std::string name;
    list_entries(dir.get(), name);
    if (is_stopped_) return fail(Errc::interrupted, fmt::format("listing of '{}'", root_.path));
    std::ranges::sort(listing_.found, {}, &Listed::name);
    std::ranges::sort(listing_.symlinks);
    return std::move(listing_);
  }

 private:
  /// Returns how many files and folders of any name there are. `name` is the folder's, and is left as it was.
  std::size_t list_entries(DIR* dir, std::string& name) {
    std::size_t members = 0;
    if (options_.should_stop && options_.should_stop()) is_stopped_ = true;
    const std::size_t length = name.size();
    while (!is_stopped_) {
      const dirent* const entry = next_entry(dir);
      if (!entry) break;
      const bool is_left = is_left_partial(dir, *entry);
      if (!is_left && is_probe_name(entry->d_name) && kind_of(dir, *entry) == Kind::file) continue;
      if (length > 0) name += '/';
      name += entry->d_name;
      if (is_left)
        listing_.partials.push_back(name);
      else if (visit(::dirfd(dir), name))
        ++members;
      name.resize(length);
    }
    if (!is_stopped_ && errno != 0) add_problem(io_failure("read", root_.path_of(name)).value());
    return members;
  }

  /// Returns whether it is a file or a folder.
  bool visit(int folder, std::string& name) {
    struct stat status{};
    if (::fstatat(folder, base_part(name).data(), &status, AT_SYMLINK_NOFOLLOW) != 0) {
      if (errno != ENOENT) add_problem(io_failure("look at", root_.path_of(name)).value());
      return false;
    }
    const bool is_member = S_ISREG(status.st_mode) || S_ISDIR(status.st_mode);
    if (any_matches(options_.exclude, name)) return is_member;
    if (!S_ISDIR(status.st_mode) && !is_included(name)) return is_member;
    if (S_ISLNK(status.st_mode)) {
      listing_.symlinks.push_back(name);
      return false;
    }
    if (auto checked = check_name(name); !checked)
      add_problem(std::move(checked).error());
    else if (S_ISDIR(status.st_mode))
      visit_folder(folder, name);
    else
      visit_file(name, status);
    return is_member;
  }

  void visit_file(const std::string& name, const struct stat& status) {
    if (S_ISREG(status.st_mode))
      listing_.found.push_back({name, stamp_of(status), EntryKind::file, (status.st_mode & S_IXUSR) != 0});
    else
      add_problem(not_regular(root_.path_of(name)).value());
  }

  void visit_folder(int parent, std::string& name) {
    Dir dir = open_dir(::openat(parent, base_part(name).data(), kOpenFolder));
    if (!dir) {
      if (errno != ENOENT) add_problem(io_failure("read", root_.path_of(name)).value());
      return;
    }
    const std::size_t problems = listing_.problems.size();
    if (list_entries(dir.get(), name) > 0 || problems != listing_.problems.size() || !is_included(name)) return;
    struct stat status{};
    if (::fstat(::dirfd(dir.get()), &status) != 0) return;
    FileStamp stamp = stamp_of(status);
    stamp.size = 0;
    listing_.found.push_back({name, stamp, EntryKind::folder, false});
  }

  bool is_included(std::string_view name) const { return options_.include.empty() || any_matches(options_.include, name); }

  void add_problem(Error error) {
    listing_.is_complete = false;
    listing_.problems.push_back(std::move(error));
  }

  const Root& root_;
  const ScanOptions& options_;
  Listing listing_;
  bool is_stopped_ = false;
};

void find_partials(DIR* dir, const std::string& prefix, std::vector<std::string>& out) {
  while (const dirent* const entry = next_entry(dir)) {
    const Kind kind = kind_of(dir, *entry);
    const bool is_partial = is_left_partial(dir, *entry);
    if (!is_partial && kind != Kind::folder) continue;
    const std::string name = prefix + entry->d_name;
    if (is_partial) out.push_back(name);
    if (is_partial || name.size() > kMaxName) continue;
    if (const Dir child = open_dir(::openat(::dirfd(dir), entry->d_name, kOpenFolder))) find_partials(child.get(), name + '/', out);
  }
}

}  // namespace

Failure not_regular(const std::string& path) {
  return fail(Errc::unsupported, fmt::format("skipped '{}', which is no regular file", path));
}

namespace {

Failure bad_folder(const std::string& folder, int error) {
  return fail(Errc::usage, fmt::format("cannot use folder '{}' ({})", folder, std::generic_category().message(error)));
}

/// mkdir -p.
bool make_all(const std::string& folder) {
  if (::mkdir(folder.c_str(), 0777) == 0 || errno == EEXIST) return true;
  const auto slash = folder.find_last_of('/', folder.find_last_not_of('/'));
  if (errno != ENOENT || slash == std::string::npos || slash == 0 || !make_all(folder.substr(0, slash))) return false;
  return ::mkdir(folder.c_str(), 0777) == 0 || errno == EEXIST;
}

}  // namespace

std::string Root::path_of(std::string_view name) const {
  std::string whole;
  whole.reserve(path.size() + 1 + name.size());
  whole += path;
  if (!name.empty() && !path.ends_with('/')) whole += '/';
  return whole += name;
}

Result<Root> open_root(const std::string& folder, bool create) {
  if (create && !make_all(folder)) {
    if (errno == ENOSPC || errno == EDQUOT) return io_failure("make folder", folder);
    return bad_folder(folder, errno);
  }
  Root root;
  root.fd = Fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!root.fd || ::faccessat(root.fd.get(), ".", R_OK | X_OK, AT_EACCESS) != 0) return bad_folder(folder, errno);
  const std::unique_ptr<char, void (*)(void*)> path(::realpath(folder.c_str(), nullptr), &std::free);
  if (!path) return bad_folder(folder, errno);
  root.path = path.get();
  return root;
}

Result<Listing> list_folder(const Root& root, const ScanOptions& options) { return Lister(root, options).list(); }

std::vector<std::string> list_partials(const Root& root) {
  std::vector<std::string> names;
  if (const Dir dir = open_dir(::openat(root.fd.get(), ".", kOpenFolder))) find_partials(dir.get(), "", names);
  return names;
}

}  // namespace shoal
