module;

#include "evp.hpp"
#include "sha256_rounds.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

module shoal.digest;

namespace shoal {
namespace {

#if defined(__x86_64__)

/// What follows a message of whole blocks: a bit, zeros, and its length in bits.
std::array<std::byte, sha256_rounds::kBlockSize> padding_after(std::size_t length) {
  std::array<std::byte, sha256_rounds::kBlockSize> padding{std::byte{0x80}};
  auto bits = std::bit_cast<std::array<std::byte, sizeof(std::uint64_t)>>(std::uint64_t{length} * 8);
  std::ranges::reverse(bits);
  std::ranges::copy(bits, padding.end() - bits.size());
  return padding;
}

std::array<Sha256Digest, 2> sha256_together(std::span<const std::byte> a, std::span<const std::byte> b) {
  std::array<sha256_rounds::State, 2> states;
  sha256_rounds::compress(states, {a.data(), b.data()}, a.size() / sha256_rounds::kBlockSize);
  const auto padding = padding_after(a.size());
  sha256_rounds::compress(states, {padding.data(), padding.data()}, 1);
  std::array<Sha256Digest, 2> digests;
  for (std::size_t i = 0; i < digests.size(); ++i) sha256_rounds::store(states[i], digests[i].bytes);
  return digests;
}

bool can_go_together(std::span<const std::byte> a, std::span<const std::byte> b) {
  static const bool are_there = sha256_rounds::are_there();
  return are_there && a.size() == b.size() && a.size() % sha256_rounds::kBlockSize == 0;
}

#endif

}  // namespace

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

std::array<Sha256Digest, 2> sha256_pair(std::span<const std::byte> a, std::span<const std::byte> b) {
#if defined(__x86_64__)
  if (can_go_together(a, b)) return sha256_together(a, b);
#endif
  return {sha256(a), sha256(b)};
}

}  // namespace shoal
