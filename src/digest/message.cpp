module;

#include "evp.hpp"

#include <cstddef>
#include <span>

module shoal.digest;

namespace shoal {

Md5Digest md5(std::span<const std::byte> data) {
  Md5Stream stream;
  stream.update(data);
  return stream.finish();
}

Sha256Digest sha256(std::span<const std::byte> data) {
  evp::Sha256& hasher = evp::thread_sha256();
  hasher.update(data);
  return Sha256Digest{hasher.finish()};
}

}  // namespace shoal
