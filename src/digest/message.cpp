module;

#include "avx512.hpp"
#include "evp.hpp"
#include "sha256_lanes.hpp"
#include "sha256_rounds.hpp"
#include "sha256_runs.hpp"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <span>
#include <vector>

module shoal.digest;

namespace shoal {
namespace {

#if defined(__x86_64__)

using Messages = std::vector<sha256_runs::Message>;

/// So many messages keep sixteen lanes busy enough to be as fast as pairs: a block of each takes as long as one of ten messages in pairs.
constexpr std::size_t kWorthLanes = 10;

Messages longest_first(std::span<const Sha256Message> messages) {
  Messages sorted;
  sorted.reserve(messages.size());
  for (const Sha256Message& message : messages) sorted.push_back({message.data, message.digest->bytes.data()});
  std::ranges::sort(sorted, std::greater(), [](const auto& message) { return sha256_runs::blocks_of(message.data.size()); });
  return sorted;
}

/// False where the processor has nothing for these messages that OpenSSL has not.
bool digest_together(std::span<const Sha256Message> messages) {
  static const bool has_lanes = has_avx512();
  static const bool has_instructions = sha256_rounds::are_there();
  const bool use_lanes = has_lanes && messages.size() >= kWorthLanes;
  if (!use_lanes && !has_instructions) return false;
  const Messages sorted = longest_first(messages);
  sha256_runs::Waiting waiting(sorted);
  if (use_lanes) sha256_runs::digest<sha256_lanes::Sixteen>(waiting, has_instructions ? kWorthLanes : 1);
  if (has_instructions) sha256_runs::digest<sha256_rounds::Pair>(waiting, 1);
  return true;
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

void sha256_together(std::span<const Sha256Message> messages) {
#if defined(__x86_64__)
  if (digest_together(messages)) return;
#endif
  for (const Sha256Message& message : messages) *message.digest = sha256(message.data);
}

}  // namespace shoal
