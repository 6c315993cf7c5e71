// The ways in which MD5s go side by side, each by itself: on a machine of one kind, Md5Stream takes only some of them.
#include "md5_rounds.hpp"

#include <catch2/catch_test_macros.hpp>

#include <rapidcheck.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
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

}  // namespace

TEST_CASE("MD5 is the same in one lane, in two, in a vector and in two of them") {
  REQUIRE(rc::check("one", [] { check_md5<std::uint32_t, 1>(); }));
  REQUIRE(rc::check("two", [] { check_md5<std::uint32_t, 2>(); }));
  REQUIRE(rc::check("a vector", [] { check_md5<md5_rounds::Quad, 1>(); }));
  REQUIRE(rc::check("two vectors", [] { check_md5<md5_rounds::Quad, 2>(); }));
}
