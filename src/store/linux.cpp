// The system calls that only Linux has. portable.cpp is the twin that says the same with those that all have.
module;

#if defined(__linux__) && !defined(SHOAL_PORTABLE)

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <string>
#include <vector>

#endif

module shoal.store;

#if defined(__linux__) && !defined(SHOAL_PORTABLE)

import :internal;
import shoal.world;

namespace shoal {

int open_beneath(int folder, const std::string& name, int flags) {
  open_how how{};
  how.flags = static_cast<std::uint64_t>(flags | O_NOFOLLOW | O_CLOEXEC);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
  long fd = -1;
  do {
    fd = ::syscall(SYS_openat2, folder, name.empty() ? "." : name.c_str(), &how, sizeof how);
  } while (fd < 0 && (errno == EINTR || errno == EAGAIN));  // EAGAIN: something was renamed meanwhile
  // Linux before 5.6 has no openat2, and some containers refuse what they do not know. Names may be longer than one call takes.
  if (fd < 0 && (errno == ENOSYS || errno == EPERM || errno == ENAMETOOLONG)) return open_by_parts(folder, name, flags);
  return static_cast<int>(fd);
}

bool rename_if_free(At from, At to) {
  if (::syscall(SYS_renameat2, from.folder, from.name, to.folder, to.name, RENAME_NOREPLACE) == 0) return true;
  // Not every file system can, and some containers refuse what they do not know.
  const bool is_unsupported = errno == EINVAL || errno == ENOSYS || errno == EPERM;
  return is_unsupported && rename_if_missing(from, to);
}

bool sync_file_system(int fd) { return ::syncfs(fd) == 0; }

std::vector<ByteRange> data_extents(int fd, std::uint64_t size) {
  std::vector<ByteRange> extents;
  const auto end = static_cast<off_t>(size);
  for (off_t at = 0; at < end;) {
    const off_t data = ::lseek(fd, at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;  // only a hole is left
    if (data < 0) return {{0, size}};
    const off_t hole = ::lseek(fd, data, SEEK_HOLE);
    at = hole < 0 ? end : std::min(hole, end);
    if (data < at) extents.push_back({static_cast<std::uint64_t>(data), static_cast<std::uint64_t>(at)});
  }
  return extents;
}

bool share_blocks(int from, int to) { return ::ioctl(to, FICLONE, from) == 0; }

}  // namespace shoal

#endif
