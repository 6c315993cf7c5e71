// The compression of SHA-256 (FIPS 180-4) for sixteen messages side by side, each in a lane of AVX-512 vectors. The instructions that x86
// has for SHA-256 finish two rounds in three or four cycles, for one message; these finish a round of all sixteen in about ten.
#pragma once

#if defined(__x86_64__)

#include "sha256_rounds.hpp"
#include "sixteen.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>

namespace shoal::sha256_lanes {

using sha256_rounds::kBlockSize;
using sha256_rounds::kRoots;
using sha256_rounds::State;

inline constexpr std::size_t kLanes = sixteen::kLanes;

using sixteen::Letters;
using sixteen::Word;
using sixteen::Words;
using States = std::array<Word, 8>;  ///< A to H.

template <unsigned Bits>
[[gnu::always_inline, gnu::target("avx512f,avx512bw,avx512vl")]] inline void rotate(Word& to, const Word& from) {
  to = from >> Bits | from << (32 - Bits);
}

/// Adds what FIPS 180-4 writes as a sigma: `from` rotated by A, by B, and rotated or shifted by C.
template <unsigned A, unsigned B, unsigned C, bool IsShift>
[[gnu::always_inline, gnu::target("avx512f,avx512bw,avx512vl")]] inline void add_sigma(Word& to, const Word& from) {
  Word a, b, c;
  rotate<A>(a, from);
  rotate<B>(b, from);
  if constexpr (IsShift)
    c = from >> C;
  else
    rotate<C>(c, from);
  to += a ^ b ^ c;
}

/// Reverses the bytes of each word: SHA-256 has the highest first.
template <std::size_t... I>
[[gnu::always_inline, gnu::target("avx512f,avx512bw,avx512vl")]] inline void swap_bytes(Word& words, std::index_sequence<I...> /*bytes*/) {
  using Bytes = std::uint8_t __attribute__((vector_size(sizeof(Word))));
  const auto bytes = __builtin_bit_cast(Bytes, words);
  words = __builtin_bit_cast(Word, __builtin_shufflevector(bytes, bytes, (I ^ 3)...));
}

/// Round `I`. Of the schedule, the last sixteen words are kept, each where the one sixteen before it stood.
template <std::size_t I>
[[gnu::always_inline, gnu::target("avx512f,avx512bw,avx512vl")]] inline void round(States& states, Words& words) {
  const auto at = [](std::size_t letter) { return (letter + 64 - I) % 8; };  // the eight take turns
  const Word& a = states[at(0)];
  const Word& b = states[at(1)];
  const Word& c = states[at(2)];
  const Word& e = states[at(4)];
  const Word& f = states[at(5)];
  const Word& g = states[at(6)];
  Word& h = states[at(7)];
  Word& word = words[I % 16];
  if constexpr (I >= 16) {
    word += words[(I - 7) % 16];
    add_sigma<7, 18, 3, true>(word, words[(I - 15) % 16]);
    add_sigma<17, 19, 10, true>(word, words[(I - 2) % 16]);
  }
  h += word + kRoots[I];
  h += g ^ (e & (f ^ g));
  add_sigma<6, 11, 25, false>(h, e);
  states[at(3)] += h;
  h += (a & b) | (c & (a | b));
  add_sigma<2, 13, 22, false>(h, a);
}

template <std::size_t... I>
[[gnu::always_inline, gnu::target("avx512f,avx512bw,avx512vl")]] inline void all_rounds(States& states, Words& words,
                                                                                        std::index_sequence<I...> /*rounds*/) {
  const States before = states;
  (round<I>(states, words), ...);
  for (std::size_t i = 0; i < states.size(); ++i) states[i] += before[i];
}

/// Sixteen lanes for sha256_runs.hpp.
class Sixteen {
 public:
  static constexpr std::size_t kLanes = sha256_lanes::kLanes;

  void set(std::size_t lane, const State& state) {
    for (std::size_t i = 0; i < state.size(); ++i) letters_[i][lane] = state[i];
  }
  State get(std::size_t lane) const {
    State state;
    for (std::size_t i = 0; i < state.size(); ++i) state[i] = letters_[i][lane];
    return state;
  }

  /// Digests `count` blocks of each message. Where there are fewer messages than lanes, the last are null: those lanes repeat the first
  /// one's blocks, for nobody.
  [[gnu::target("avx512f,avx512bw,avx512vl")]] void advance(std::array<const std::byte*, kLanes> blocks, std::size_t count) {
    for (const std::byte*& block : blocks)
      if (block == nullptr) block = blocks.front();
    States states;
    std::memcpy(&states, &letters_, sizeof states);
    Words words;
    for (std::size_t offset = 0; offset < count * kBlockSize; offset += kBlockSize) {
      sixteen::load_words(words, blocks, offset);
      for (Word& word : words) swap_bytes(word, std::make_index_sequence<sizeof(Word)>());
      all_rounds(states, words, std::make_index_sequence<kRoots.size()>());
    }
    std::memcpy(&letters_, &states, sizeof states);
  }

 private:
  alignas(sizeof(Word)) std::array<Letters, 8> letters_{};
};

}  // namespace shoal::sha256_lanes

#endif
