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
#include <cstdio>
#include <ctime>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

module shoal.store;

import :internal;
import shoal.base;

namespace shoal {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;

std::int64_t nanoseconds(const timespec& time) { return std::int64_t{time.tv_sec} * kSecond + time.tv_nsec; }

timespec to_timespec(std::int64_t ns) {
  const std::int64_t rest = (ns % kSecond + kSecond) % kSecond;  // times before 1970 round towards the past
  timespec time{};
  time.tv_sec = (ns - rest) / kSecond;
  time.tv_nsec = rest;
  return time;
}

std::int64_t changed_ns(const struct stat& status) {
#ifdef __APPLE__
  return nanoseconds(status.st_ctimespec);
#else
  return nanoseconds(status.st_ctim);
#endif
}

}  // namespace

Fd::~Fd() {
  if (fd_ >= 0) ::close(fd_);
}

std::int64_t modified_ns(const struct stat& status) {
#ifdef __APPLE__
  return nanoseconds(status.st_mtimespec);
#else
  return nanoseconds(status.st_mtim);
#endif
}

FileStamp stamp_of(const struct stat& status) {
  return {static_cast<std::uint64_t>(status.st_size), modified_ns(status), changed_ns(status), static_cast<std::uint64_t>(status.st_ino)};
}

bool set_modified(int fd, std::int64_t mtime_ns) {
  timespec times[2]{};
  times[0].tv_nsec = UTIME_OMIT;
  times[1] = to_timespec(mtime_ns);
  return ::futimens(fd, times) == 0;
}

Failure io_failure(std::string_view tried, std::string_view path) { return io_failure(errno, tried, path); }

Failure io_failure(int error, std::string_view tried, std::string_view path) {
  const bool is_full = error == ENOSPC || error == EDQUOT;
  return fail(std::error_code(error, std::generic_category()), fmt::format("cannot {} '{}'", tried, path),
              is_full ? "free some space and run it again; what was fetched is kept" : "");
}

std::string_view folder_part(std::string_view name) {
  const auto slash = name.rfind('/');
  return slash == std::string_view::npos ? std::string_view{} : name.substr(0, slash);
}

std::string_view base_part(std::string_view name) { return name.substr(name.rfind('/') + 1); }  // npos + 1 is 0

std::int64_t read_fully(int fd, std::uint64_t offset, std::span<std::byte> out) {
  std::size_t done = 0;
  while (done < out.size()) {
    const ssize_t n = ::pread(fd, out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
    if (n == 0) break;
    if (n > 0) done += static_cast<std::size_t>(n);
    if (n < 0 && errno != EINTR) return -1;
  }
  return static_cast<std::int64_t>(done);
}

bool write_fully(int fd, std::uint64_t offset, std::span<const std::byte> data) {
  std::size_t done = 0;
  while (done < data.size()) {
    const ssize_t n = ::pwrite(fd, data.data() + done, data.size() - done, static_cast<off_t>(offset + done));
    if (n > 0) done += static_cast<std::size_t>(n);
    if (n < 0 && errno != EINTR) return false;
  }
  return true;
}

bool remove_beneath(int folder, const std::string& name) {
  const Fd parent(open_beneath(folder, std::string(folder_part(name)), O_RDONLY | O_DIRECTORY));
  return parent && ::unlinkat(parent.get(), base_part(name).data(), 0) == 0;
}

int open_by_parts(int folder, const std::string& name, int flags) {
  if (name.empty()) return ::openat(folder, ".", flags | O_CLOEXEC);
  Fd opened;
  std::size_t begin = 0;
  for (auto slash = name.find('/'); slash != std::string::npos; slash = name.find('/', begin)) {
    const std::string part = name.substr(begin, slash - begin);
    opened = Fd(::openat(opened ? opened.get() : folder, part.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!opened) return -1;
    begin = slash + 1;
  }
  return ::openat(opened ? opened.get() : folder, name.c_str() + begin, flags | O_NOFOLLOW | O_CLOEXEC);
}

bool rename_if_missing(At from, At to) {
  struct stat status{};
  if (::fstatat(to.folder, to.name, &status, AT_SYMLINK_NOFOLLOW) != 0) return ::renameat(from.folder, from.name, to.folder, to.name) == 0;
  errno = EEXIST;
  return false;
}

void make_folders_of(const std::string& file) {
  for (auto slash = file.find('/', 1); slash != std::string::npos; slash = file.find('/', slash + 1))
    ::mkdir(file.substr(0, slash).c_str(), 0700);
}

std::int64_t wall_clock_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return nanoseconds(now);
}

}  // namespace shoal
