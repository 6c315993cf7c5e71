// The compression of SHA-256 (FIPS 180-4) for one message or two side by side, with the instructions that x86 has for it. Each of them
// waits for the one before it: two rounds are ready after 4 cycles, while the unit can begin others after 2 or 3, as the processor may be.
#pragma once

#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace shoal::sha256_rounds {

inline constexpr std::size_t kBlockSize = 64;

alignas(16) inline constexpr std::array<std::uint32_t, 64> kRoots{
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
    0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
    0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
    0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
    0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

/// Whether this processor has the instructions.
inline bool are_there() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & bit_SSE4_1) == 0) return false;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b & bit_SHA) != 0;
}

using State = std::array<std::uint32_t, 8>;  ///< A to H.

inline constexpr State kStart{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

/// A State in the order in which the instructions take it; the first named is the highest.
struct Packed {
  __m128i abef;
  __m128i cdgh;
};

/// The words of a message's schedule, four in each.
using Words = std::array<__m128i, 16>;

[[gnu::always_inline]] inline __m128i load(const void* from) { return _mm_loadu_si128(static_cast<const __m128i*>(from)); }

/// Reverses the bytes of each word: SHA-256 has the highest first.
[[gnu::always_inline, gnu::target("ssse3")]] inline __m128i swap_bytes(__m128i words) {
  return _mm_shuffle_epi8(words, _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203));
}

/// Rounds 4 I to 4 I + 3.
template <std::size_t I>
[[gnu::always_inline, gnu::target("sha,sse4.1")]] inline void four_rounds(Packed& state, Words& words) {
  if constexpr (I >= 4) {
    const __m128i sum = _mm_add_epi32(_mm_sha256msg1_epu32(words[I - 4], words[I - 3]), _mm_alignr_epi8(words[I - 1], words[I - 2], 4));
    words[I] = _mm_sha256msg2_epu32(sum, words[I - 1]);
  }
  const __m128i added = _mm_add_epi32(words[I], load(&kRoots[4 * I]));
  state.cdgh = _mm_sha256rnds2_epu32(state.cdgh, state.abef, added);
  state.abef = _mm_sha256rnds2_epu32(state.abef, state.cdgh, _mm_shuffle_epi32(added, 0x0e));
}

template <std::size_t N, std::size_t... I>
[[gnu::always_inline, gnu::target("sha,sse4.1")]] inline void all_rounds(std::array<Packed, N>& states, std::array<Words, N>& words,
                                                                         std::index_sequence<I...> /*fours*/) {
  static_assert(N == 1 || N == 2);
  if constexpr (N == 1)
    (four_rounds<I>(states[0], words[0]), ...);
  else
    ((four_rounds<I>(states[0], words[0]), four_rounds<I>(states[1], words[1])), ...);
}

/// Digests `count` blocks of each of `N` messages.
template <std::size_t N>
[[gnu::target("sha,sse4.1")]] inline void compress(std::array<Packed, N>& states, std::array<const std::byte*, N> blocks,
                                                   std::size_t count) {
  for (; count > 0; --count) {
    const auto before = states;
    std::array<Words, N> words;
    for (std::size_t message = 0; message < N; ++message) {
      for (std::size_t i = 0; i < 4; ++i) words[message][i] = swap_bytes(load(blocks[message] + i * sizeof(__m128i)));
      blocks[message] += kBlockSize;
    }
    all_rounds(states, words, std::make_index_sequence<16>());
    for (std::size_t message = 0; message < N; ++message) {
      states[message].abef = _mm_add_epi32(states[message].abef, before[message].abef);
      states[message].cdgh = _mm_add_epi32(states[message].cdgh, before[message].cdgh);
    }
  }
}

inline Packed pack(const State& state) {
  const __m128i abcd = _mm_shuffle_epi32(load(&state[0]), 0x1b);  // the lowest first: D, C, B, A
  const __m128i efgh = _mm_shuffle_epi32(load(&state[4]), 0x1b);  // H, G, F, E
  return {_mm_unpackhi_epi64(efgh, abcd), _mm_unpacklo_epi64(efgh, abcd)};
}

inline State unpack(const Packed& packed) {
  const __m128i abcd = _mm_unpackhi_epi64(packed.cdgh, packed.abef);  // the lowest first: D, C, B, A
  const __m128i efgh = _mm_unpacklo_epi64(packed.cdgh, packed.abef);  // H, G, F, E
  State state;
  _mm_storeu_si128(reinterpret_cast<__m128i*>(&state[0]), _mm_shuffle_epi32(abcd, 0x1b));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(&state[4]), _mm_shuffle_epi32(efgh, 0x1b));
  return state;
}

/// Two lanes for sha256_runs.hpp.
class Pair {
 public:
  static constexpr std::size_t kLanes = 2;

  void set(std::size_t lane, const State& state) { states_[lane] = pack(state); }
  State get(std::size_t lane) const { return unpack(states_[lane]); }

  /// Digests `count` blocks of each message; the second is null where there is only one.
  void advance(const std::array<const std::byte*, kLanes>& blocks, std::size_t count) {
    if (blocks[1] != nullptr) return compress(states_, blocks, count);
    std::array<Packed, 1> state{states_[0]};
    compress(state, std::array{blocks[0]}, count);
    states_[0] = state[0];
  }

 private:
  std::array<Packed, kLanes> states_;
};

}  // namespace shoal::sha256_rounds

#endif
