module;

#include "avx512.hpp"
#include "evp.hpp"
#include "sha256_lanes.hpp"
#include "sha256_rounds.hpp"
#include "sha256_runs.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

module shoal.digest;

namespace shoal {

const KernelChoice& kernels_for(std::size_t bytes);  // choice.cpp

namespace {

/// How messages are digested: one by one, alone or in twos by the instructions for SHA-256, or in sixteen lanes.
enum class Way : std::uint8_t { openssl, alone, pair, sixteen };

struct Code {
  Kernel kernel;
  Way way = Way::openssl;
  double standard_time = 0;  ///< Nanoseconds for a KiB of each lane, about, on the processors of a few years.
};

const std::vector<Code>& codes() {
  static const std::vector<Code> here = [] {
    std::vector<Code> all{{{"openssl", 1}, Way::openssl, 520}};
#if defined(__x86_64__)
    if (sha256_rounds::are_there()) {
      all.push_back({{"sha-ni", 1}, Way::alone, 500});
      all.push_back({{"sha-ni-x2", 2}, Way::pair, 745});
    }
    if (has_avx512()) all.push_back({{"avx512-16", 16}, Way::sixteen, 3500});
#endif
    return all;
  }();
  return here;
}

#if defined(__x86_64__)

using Messages = std::vector<sha256_runs::Message>;

Way way_of(const KernelPlan& plan, std::size_t messages) { return codes()[plan.kernel_for(messages)].way; }

/// So many messages are faster in sixteen lanes; more than there can be where that is never so.
std::size_t worth_lanes(const KernelPlan& plan) {
  std::size_t messages = 1;
  while (messages <= KernelPlan::kMostStreams && way_of(plan, messages) != Way::sixteen) ++messages;
  return messages;
}

Messages longest_first(std::span<const Sha256Message> messages) {
  Messages sorted;
  sorted.reserve(messages.size());
  for (const Sha256Message& message : messages) sorted.push_back({message.data, message.digest->bytes.data()});
  std::ranges::sort(sorted, std::greater(), [](const auto& message) { return sha256_runs::blocks_of(message.data.size()); });
  return sorted;
}

/// In lanes while they are worth it, the rest in pairs; false where OpenSSL is faster for these messages.
bool digest_together(std::span<const Sha256Message> messages, const KernelPlan& plan) {
  static const bool has_instructions = sha256_rounds::are_there();
  const std::size_t worth = worth_lanes(plan);
  const bool use_lanes = worth <= std::min(messages.size(), KernelPlan::kMostStreams);
  if (!use_lanes && (messages.empty() || way_of(plan, std::min<std::size_t>(messages.size(), 2)) == Way::openssl)) return false;
  const Messages sorted = longest_first(messages);
  sha256_runs::Waiting waiting(sorted);
  if (use_lanes) sha256_runs::digest<sha256_lanes::Sixteen>(waiting, has_instructions ? worth : 1);
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
  std::size_t bytes = 0;
  for (const Sha256Message& message : messages) bytes += message.data.size();
  sha256_together(messages, kernels_for(bytes).sha256);
}

void sha256_together(std::span<const Sha256Message> messages, [[maybe_unused]] const KernelPlan& plan) {
#if defined(__x86_64__)
  if (digest_together(messages, plan)) return;
#endif
  for (const Sha256Message& message : messages) *message.digest = sha256(message.data);
}

// ---- for choice.cpp -----------------------------------------------------------------------------------

std::vector<Kernel> sha256_kernels() {
  std::vector<Kernel> kernels;
  for (const Code& code : codes()) kernels.push_back(code.kernel);
  return kernels;
}

std::vector<double> standard_sha256_times() {
  std::vector<double> times;
  for (const Code& code : codes()) times.push_back(code.standard_time);
  return times;
}

/// Has a kernel digest a part of `data` in each of its lanes.
void run_sha256_kernel(std::size_t kernel, std::span<const std::byte> data) {
  const Code& code = codes()[kernel];
  const std::size_t of_each = data.size() / KernelPlan::kMostStreams;
  std::array<Sha256Digest, KernelPlan::kMostStreams> digests;
  if (code.way == Way::openssl) digests.front() = sha256(data.first(of_each));
#if defined(__x86_64__)
  Messages messages;
  for (std::size_t i = 0; i < code.kernel.lanes; ++i) messages.push_back({data.subspan(i * of_each, of_each), digests[i].bytes.data()});
  sha256_runs::Waiting waiting(messages);
  if (code.way == Way::sixteen) sha256_runs::digest<sha256_lanes::Sixteen>(waiting, 1);
  if (code.way == Way::alone || code.way == Way::pair) sha256_runs::digest<sha256_rounds::Pair>(waiting, 1);
#endif
}

}  // namespace shoal
