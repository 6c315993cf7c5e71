module;

#include "evp.hpp"

#include <cstddef>
#include <memory>
#include <span>

module shoal.digest;

namespace shoal {

Md5Digest md5(std::span<const std::byte> data) {
  evp::Md5& hasher = evp::thread_md5();
  hasher.update(data);
  return Md5Digest{hasher.finish()};
}

Sha256Digest sha256(std::span<const std::byte> data) {
  evp::Sha256& hasher = evp::thread_sha256();
  hasher.update(data);
  return Sha256Digest{hasher.finish()};
}

struct Md5Stream::State {
  evp::Md5 hasher{evp::md5_algorithm()};
};

Md5Stream::Md5Stream() : state_(std::make_unique<State>()) {}
Md5Stream::~Md5Stream() = default;
Md5Stream::Md5Stream(Md5Stream&&) noexcept = default;
Md5Stream& Md5Stream::operator=(Md5Stream&&) noexcept = default;

void Md5Stream::update(std::span<const std::byte> data) { state_->hasher.update(data); }

Md5Digest Md5Stream::finish() { return Md5Digest{state_->hasher.finish()}; }

}  // namespace shoal
