// The compression of MD5 (RFC 1321) for sixteen messages side by side, each in a lane of AVX-512 vectors.
#pragma once

#if defined(__x86_64__)

#include "md5_rounds.hpp"
#include "sixteen.hpp"

#include <array>
#include <cstddef>
#include <cstring>
#include <span>
#include <utility>

namespace shoal::md5_lanes {

using sixteen::kLanes;

/// Digests `count` blocks of each of up to sixteen messages. Lanes that are left repeat the first one's blocks, for nobody.
[[gnu::target("avx512f,avx512bw,avx512vl")]] inline void compress(std::span<const md5_rounds::Lane> lanes, std::size_t count) {
  std::array<const std::byte*, kLanes> blocks;
  blocks.fill(lanes.front().blocks);
  alignas(sizeof(sixteen::Word)) std::array<sixteen::Letters, 4> letters{};
  for (std::size_t lane = 0; lane < lanes.size(); ++lane) {
    blocks[lane] = lanes[lane].blocks;
    for (std::size_t i = 0; i < letters.size(); ++i) letters[i][lane] = (*lanes[lane].state)[i];
  }
  std::array<md5_rounds::States<sixteen::Word>, 1> states;
  static_assert(sizeof states == sizeof letters);
  std::memcpy(&states, &letters, sizeof states);
  std::array<md5_rounds::Words<sixteen::Word>, 1> words;
  for (std::size_t offset = 0; offset < count * md5_rounds::kBlockSize; offset += md5_rounds::kBlockSize) {
    sixteen::load_words(words.front(), blocks, offset);
    const auto before = states;
    md5_rounds::all_steps(states, words, std::make_index_sequence<md5_rounds::kSteps>());
    for (std::size_t i = 0; i < states.front().size(); ++i) states.front()[i] += before.front()[i];
  }
  std::memcpy(&letters, &states, sizeof states);
  for (std::size_t lane = 0; lane < lanes.size(); ++lane)
    for (std::size_t i = 0; i < letters.size(); ++i) (*lanes[lane].state)[i] = letters[i][lane];
}

}  // namespace shoal::md5_lanes

#endif
