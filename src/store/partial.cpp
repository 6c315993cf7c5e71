module;

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>
#include <tl/expected.hpp>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
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
import shoal.digest;
import shoal.manifest;
import shoal.world;

namespace shoal {

// ---- sources --------------------------------------------------------------------------------------------

Result<> FileSource::read(std::uint64_t offset, std::span<std::byte> out) const {
  const std::int64_t n = read_fully(fd_.get(), offset, out);
  if (n < 0) return io_failure("read", path_);
  if (static_cast<std::size_t>(n) < out.size()) return fail(Errc::changed, fmt::format("cannot read '{}'", path_));
  return {};
}

Result<> FileSource::check() const {
  if (!is_settled()) return {};  // it is still being fetched, by us
  struct stat status{};
  if (::fstat(fd_.get(), &status) != 0) return io_failure("look at", path_);
  if (status.st_nlink > 0 && stamp_of(status) == stamp_) return {};
  return fail(Errc::changed, fmt::format("cannot serve '{}'", path_));
}

void FileSource::settle(const FileStamp& stamp) {
  stamp_ = stamp;
  is_settled_.store(true, std::memory_order_release);
}

Result<> DiskPartial::write(std::uint64_t offset, std::span<const std::byte> data) {
  if (source_->is_settled() || offset > size() || data.size() > size() - offset)
    return fail(std::make_error_code(std::errc::invalid_argument), fmt::format("cannot write '{}'", source_->path()));
  const std::lock_guard turn(writing_);
  if (!write_fully(source_->descriptor(), offset, data)) return io_failure("write", source_->path());
  return {};
}

// ---- folders --------------------------------------------------------------------------------------------

void FreshFolders::add(std::string name) {
  const std::lock_guard lock(mutex_);
  names_.insert(std::move(name));
}

bool FreshFolders::take(std::string_view name) {
  const std::lock_guard lock(mutex_);
  const auto found = names_.find(name);
  if (found == names_.end()) return false;
  names_.erase(found);
  return true;
}

namespace {

constexpr int kOpenFolder = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;

Failure folder_failure(int error, const Root& root, std::string_view name) {
  if (error == ELOOP || error == ENOTDIR)
    return fail(std::error_code(ENOTDIR, std::generic_category()), fmt::format("cannot use '{}' as a folder", root.path_of(name)),
                "symbolic links are not followed; move what is there away");
  return io_failure(error, "make folder", root.path_of(name));
}

/// Opens one part of a path, and makes it where it is missing.
Fd enter(int parent, const std::string& part, bool& is_new) {
  Fd fd(::openat(parent, part.c_str(), kOpenFolder));
  if (fd || errno != ENOENT) return fd;
  is_new = ::mkdirat(parent, part.c_str(), 0777) == 0;
  if (!is_new && errno != EEXIST) return fd;
  return Fd(::openat(parent, part.c_str(), kOpenFolder));
}

}  // namespace

Result<Fd> make_folder(const Root& root, std::string_view name, FreshFolders& fresh) {
  Fd at(open_beneath(root.fd.get(), std::string(name), kOpenFolder));
  if (at) return at;
  if (errno != ENOENT) return folder_failure(errno, root, name);
  for (std::size_t begin = 0; begin <= name.size();) {
    const auto end = std::min(name.find('/', begin), name.size());
    bool is_new = false;
    Fd next = enter(at ? at.get() : root.fd.get(), std::string(name.substr(begin, end - begin)), is_new);
    if (!next) return folder_failure(errno, root, name.substr(0, end));
    if (is_new) fresh.add(std::string(name.substr(0, end)));
    at = std::move(next);
    begin = end + 1;
  }
  return at;
}

Result<RecentFolders::Folder> make_recent_folder(const Root& root, std::string_view name, FreshFolders& fresh, RecentFolders& recent) {
  auto made = make_folder(root, name, fresh);
  if (!made) return Failure(std::move(made).error());
  auto folder = std::make_shared<const Fd>(std::move(*made));
  recent.keep(name, folder);
  return folder;
}

// ---- partial files --------------------------------------------------------------------------------------

std::string part_name_of(const FileEntry& entry) {
  constexpr std::size_t kBytes = 16;
  std::string key(reinterpret_cast<const char*>(entry.root.bytes.data()), entry.root.bytes.size());
  key += entry.name;
  const Sha256Digest digest = sha256(std::as_bytes(std::span(key)));
  std::string name(folder_part(entry.name));
  if (!name.empty()) name += '/';
  name += kReservedPrefix;
  name += to_hex(std::span(digest.bytes).first(kBytes));
  name += kPartialSuffix;
  return name;
}

namespace {

struct OpenedPart {
  Fd fd;
  bool is_new = false;
  int error = 0;  ///< Of the system, where there is no fd.
};

/// Opens or makes the file under its temporary name. The system's umask applies to the mode, as to any file of the user.
OpenedPart open_part(int folder, const std::string& base, bool executable) {
  constexpr int kFlags = O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;
  OpenedPart part{Fd(::openat(folder, base.c_str(), kFlags | O_CREAT | O_EXCL, executable ? 0755 : 0644)), true};
  if (!part.fd && errno == EEXIST) part = {Fd(::openat(folder, base.c_str(), kFlags)), false};
  if (!part.fd) part.error = errno;
  return part;
}

/// The same in the folder of `entry`, which is made where it is missing.
Result<OpenedPart> open_part_in(const Root& root, const FileEntry& entry, const std::string& base, FreshFolders& fresh,
                                RecentFolders& recent) {
  const auto name = folder_part(entry.name);
  if (const auto folder = recent.find(name)) {
    OpenedPart part = open_part(folder->get(), base, entry.executable);
    if (part.error != ENOENT) return part;  // else the folder was removed a moment ago
  }
  const auto folder = make_recent_folder(root, name, fresh, recent);
  if (!folder) return Failure(folder.error());
  return open_part((*folder)->get(), base, entry.executable);
}

/// Gives a new file its size; one of a single chunk gets it by being written. Nothing is written yet.
Result<std::vector<ByteRange>> size_new(int fd, std::uint64_t size, const std::string& path) {
  if (size > kChunkSize && ::ftruncate(fd, static_cast<off_t>(size)) != 0) return io_failure("size", path);
  return {};
}

/// The same for one that an earlier run left; says what may be written in it.
Result<std::vector<ByteRange>> size_old(int fd, std::uint64_t size, const std::string& path) {
  struct stat status{};
  if (::fstat(fd, &status) != 0) return io_failure("make", path);
  if (!S_ISREG(status.st_mode)) return io_failure(EEXIST, "make", path);
  const auto length = static_cast<std::uint64_t>(status.st_size);
  auto written = data_extents(fd, std::min(size, length));
  if (length != size && ::ftruncate(fd, static_cast<off_t>(size)) != 0) return io_failure("size", path);
  return written;
}

}  // namespace

Result<std::shared_ptr<DiskPartial>> open_partial_file(const Root& root, const FileEntry& entry, FreshFolders& fresh,
                                                       RecentFolders& recent) {
  if (auto checked = check_name(entry.name); !checked) return Failure(std::move(checked).error());
  std::string name = part_name_of(entry);
  std::string path = root.path_of(name);
  auto part = open_part_in(root, entry, std::string(base_part(name)), fresh, recent);
  if (!part) return Failure(std::move(part).error());
  if (!part->fd) return io_failure(part->error, "make", path);
  auto written = part->is_new ? size_new(part->fd.get(), entry.size, path) : size_old(part->fd.get(), entry.size, path);
  if (!written) return Failure(std::move(written).error());
  auto source = std::make_shared<FileSource>(std::move(part->fd), std::move(path), entry.size);
  return std::make_shared<DiskPartial>(std::move(source), std::move(name), std::move(*written), part->is_new && !entry.executable);
}

}  // namespace shoal
