// The portable twin of linux.cpp.
module;

#if !defined(__linux__) || defined(SHOAL_PORTABLE)

#include <cstdint>
#include <string>
#include <vector>

#endif

module shoal.store;

#if !defined(__linux__) || defined(SHOAL_PORTABLE)

import :internal;
import shoal.world;

namespace shoal {

int open_beneath(int folder, const std::string& name, int flags) { return open_by_parts(folder, name, flags); }

bool rename_if_free(At from, At to) { return rename_if_missing(from, to); }

bool sync_file_system(int) { return false; }

std::vector<ByteRange> data_extents(int, std::uint64_t size) {
  if (size == 0) return {};
  return {{0, size}};
}

bool share_blocks(int, int) { return false; }

}  // namespace shoal

#endif
