// The ways in which digests go side by side, each by itself: on a machine of one kind, Md5Stream and sha256_together take only some of
// them.
#include "avx512.hpp"
#include "md5_rounds.hpp"
#include "sha256_lanes.hpp"
#include "sha256_rounds.hpp"
#include "sha256_runs.hpp"

#include <catch2/catch_test_macros.hpp>

#include <openssl/evp.h>
#include <rapidcheck.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <span>
#include <vector>

import shoal.digest;

using namespace shoal;

namespace {

using Bytes = std::vector<std::byte>;

/// The states of MD5 after `blocks` blocks of each message, from that many lanes.
template <class Word, std::size_t Groups>
auto md5_states(const Bytes& messages, std::size_t blocks) {
  constexpr std::size_t kLanes = Groups * md5_rounds::kLanesOf<Word>;
  std::array<md5_rounds::State, kLanes> states;
  states.fill({0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476});
  std::array<md5_rounds::Lane, kLanes> lanes;
  for (std::size_t i = 0; i < kLanes; ++i) lanes[i] = {&states[i], messages.data() + i * blocks * md5_rounds::kBlockSize};
  md5_rounds::compress<Word, Groups>(lanes, blocks);
  return states;
}

Bytes any_messages(std::size_t count, std::size_t length) {
  return *rc::gen::container<Bytes>(count * length,
                                    rc::gen::map(rc::gen::inRange(0, 256), [](int value) { return static_cast<std::byte>(value); }));
}

/// The last block of a message of whole blocks.
std::array<std::byte, 64> padding_of(std::size_t length) {
  std::array<std::byte, 64> block{std::byte{0x80}};
  const std::uint64_t bits = std::uint64_t{length} * 8;
  std::memcpy(block.data() + 56, &bits, sizeof bits);
  return block;
}

/// Checks lanes against the digests of the messages one by one.
template <class Word, std::size_t Groups>
void check_md5() {
  constexpr std::size_t kLanes = Groups * md5_rounds::kLanesOf<Word>;
  const auto blocks = *rc::gen::inRange<std::size_t>(0, 5);
  const std::size_t length = blocks * md5_rounds::kBlockSize;
  const Bytes messages = any_messages(kLanes, length);
  Bytes padded;
  for (std::size_t i = 0; i < kLanes; ++i) {
    const auto message = std::span(messages).subspan(i * length, length);
    padded.insert(padded.end(), message.begin(), message.end());
    const auto padding = padding_of(length);
    padded.insert(padded.end(), padding.begin(), padding.end());
  }
  const auto states = md5_states<Word, Groups>(padded, blocks + 1);
  for (std::size_t i = 0; i < kLanes; ++i) {
    Md5Digest digest;
    std::memcpy(digest.bytes.data(), states[i].data(), digest.bytes.size());
    RC_ASSERT(digest == md5(std::span(messages).subspan(i * length, length)));
  }
}

// ---- SHA-256 --------------------------------------------------------------------------------------------

/// A message in memory that ends where it does, and begins at any place.
class PlacedMessage {
 public:
  PlacedMessage(std::size_t length, std::mt19937& random) : before_(random() % 64), memory_(before_ + length) {
    std::ranges::generate(memory_, [&] { return static_cast<std::byte>(random()); });
  }

  std::span<const std::byte> data() const { return std::span(memory_).subspan(before_); }

 private:
  std::size_t before_;
  Bytes memory_;
};

/// In no order. Around the lengths at which a block or two end a message, around those of leaves, and others.
std::vector<PlacedMessage> placed_messages(std::size_t count, std::mt19937& random) {
  constexpr auto kLengths = std::to_array<std::size_t>({0, 1, 55, 56, 63, 64, 65, 119, 120, 127, 128, 16383, 16384, 16385});
  std::vector<PlacedMessage> messages;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t which = random() % (kLengths.size() + 5);
    messages.emplace_back(which < kLengths.size() ? kLengths[which] : random() % 3000, random);
  }
  return messages;
}

Sha256Digest sha256_of_openssl(std::span<const std::byte> data) {
  Sha256Digest digest;
  REQUIRE(EVP_Digest(data.data(), data.size(), digest.bytes.data(), nullptr, EVP_sha256(), nullptr) == 1);
  return digest;
}

using Way = std::function<void(std::span<const Sha256Message>)>;

void hash_alone(std::span<const Sha256Message> messages) {
  for (const Sha256Message& message : messages) *message.digest = sha256(message.data);
}

/// Whether each of some messages gets its digest, the first of them twice.
bool is_right(const Way& way, const std::vector<PlacedMessage>& placed) {
  std::vector<Sha256Digest> digests(placed.size() + 1);
  std::vector<Sha256Message> messages;
  for (const PlacedMessage& message : placed) messages.push_back({message.data(), &digests[messages.size()]});
  if (!placed.empty()) messages.push_back({placed.front().data(), &digests.back()});
  way(messages);
  return std::ranges::all_of(messages, [](const auto& message) { return *message.digest == sha256_of_openssl(message.data); });
}

/// Every count of messages: fewer than lanes, as many, and more, which wait.
void check_sha256(const Way& way) {
  std::mt19937 random(1);
  for (std::size_t count = 0; count <= 40; ++count) {
    CAPTURE(count);
    CHECK(is_right(way, placed_messages(count, random)));
  }
}

#if defined(__x86_64__)

std::vector<sha256_runs::Message> as_given(std::span<const Sha256Message> messages) {
  std::vector<sha256_runs::Message> all;
  for (const Sha256Message& message : messages) all.push_back({message.data, message.digest->bytes.data()});
  return all;
}

template <class Rounds>
void hash_in(std::span<const Sha256Message> messages) {
  const auto all = as_given(messages);
  sha256_runs::Waiting waiting(all);
  sha256_runs::digest<Rounds>(waiting, 1);
}

/// From sixteen lanes to pairs once fewer than `worth` are busy.
template <std::size_t Worth>
void hash_in_both(std::span<const Sha256Message> messages) {
  const auto all = as_given(messages);
  sha256_runs::Waiting waiting(all);
  sha256_runs::digest<sha256_lanes::Sixteen>(waiting, Worth);
  sha256_runs::digest<sha256_rounds::Pair>(waiting, 1);
}

#endif

}  // namespace

TEST_CASE("MD5 is the same in one lane, in two, in a vector and in two of them") {
  REQUIRE(rc::check("one", [] { check_md5<std::uint32_t, 1>(); }));
  REQUIRE(rc::check("two", [] { check_md5<std::uint32_t, 2>(); }));
  REQUIRE(rc::check("a vector", [] { check_md5<md5_rounds::Quad, 1>(); }));
  REQUIRE(rc::check("two vectors", [] { check_md5<md5_rounds::Quad, 2>(); }));
}

TEST_CASE("SHA-256 is the same alone and in company") {
  check_sha256(hash_alone);
  check_sha256([](std::span<const Sha256Message> messages) { sha256_together(messages); });
}

#if defined(__x86_64__)

TEST_CASE("SHA-256 is the same in pairs") {
  if (!sha256_rounds::are_there()) SKIP("no instructions for SHA-256 here");
  check_sha256(hash_in<sha256_rounds::Pair>);
}

TEST_CASE("SHA-256 is the same in sixteen lanes") {
  if (!has_avx512()) SKIP("no AVX-512 here");
  check_sha256(hash_in<sha256_lanes::Sixteen>);
}

TEST_CASE("SHA-256 is the same where messages change from sixteen lanes to pairs") {
  if (!has_avx512() || !sha256_rounds::are_there()) SKIP("no AVX-512 here, or no instructions for SHA-256");
  check_sha256(hash_in_both<2>);
  check_sha256(hash_in_both<10>);
  check_sha256(hash_in_both<16>);
}

#endif
