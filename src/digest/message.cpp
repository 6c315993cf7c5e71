module;

#include "avx512.hpp"
#include "evp.hpp"
#include "sha256_lanes.hpp"
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

/// Longer messages go one by one: their lengths in bits would not fit into a word.
constexpr std::size_t kMostTogether = 0xffffffff / 8;

/// Messages of one length, one after another.
struct Messages {
  std::span<const std::byte> bytes;
  std::size_t length = 0;

  const std::byte* operator[](std::size_t i) const { return bytes.data() + i * length; }
};

void digest_two(const Messages& messages, std::size_t first, std::span<Sha256Digest> digests) {
  std::array<sha256_rounds::State, 2> states;
  sha256_rounds::compress(states, {messages[first], messages[first + 1]}, messages.length / sha256_rounds::kBlockSize);
  const auto padding = padding_after(messages.length);
  sha256_rounds::compress(states, {padding.data(), padding.data()}, 1);
  for (std::size_t i = 0; i < states.size(); ++i) sha256_rounds::store(states[i], digests[first + i].bytes);
}

/// Where there are fewer messages than lanes, the others repeat the first one's work, for nobody.
void digest_lanes(const Messages& messages, std::size_t first, std::span<Sha256Digest> digests) {
  const std::size_t count = std::min(digests.size() - first, sha256_lanes::kLanes);
  std::array<const std::byte*, sha256_lanes::kLanes> lanes;
  for (std::size_t i = 0; i < lanes.size(); ++i) lanes[i] = messages[first + (i < count ? i : 0)];
  std::array<std::array<std::uint8_t, 32>, sha256_lanes::kLanes> all;
  sha256_lanes::digest(lanes, messages.length, all);
  for (std::size_t i = 0; i < count; ++i) digests[first + i].bytes = all[i];
}

/// As many messages keep the lanes busy enough to be faster than pairs.
constexpr std::size_t kWorthLanes = sha256_lanes::kLanes / 2 + 1;

/// Digests what can go side by side. Returns how many from the front on that were.
std::size_t digest_together(const Messages& messages, std::span<Sha256Digest> digests) {
  static const bool has_lanes = has_avx512();
  static const bool has_instructions = sha256_rounds::are_there();
  if (messages.length % sha256_rounds::kBlockSize != 0 || messages.length > kMostTogether) return 0;
  std::size_t done = 0;
  while (has_lanes && digests.size() - done >= kWorthLanes) {
    digest_lanes(messages, done, digests);
    done = std::min(done + sha256_lanes::kLanes, digests.size());
  }
  for (; has_instructions && digests.size() - done >= 2; done += 2) digest_two(messages, done, digests);
  return done;
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

void sha256_each(std::span<const std::byte> messages, std::size_t length, std::span<Sha256Digest> digests) {
  std::size_t done = 0;
#if defined(__x86_64__)
  done = digest_together({messages, length}, digests);
#endif
  for (; done < digests.size(); ++done) digests[done] = sha256(messages.subspan(done * length, length));
}

}  // namespace shoal
