// The compression of MD5 (RFC 1321) for several messages side by side. Each step needs the one before it, so a single message leaves
// most of a processor idle: four messages in the lanes of a vector, and two such vectors in turn, take hardly longer than one.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>

namespace shoal::md5_rounds {

inline constexpr std::size_t kBlockSize = 64;
inline constexpr std::size_t kWords = kBlockSize / sizeof(std::uint32_t);
inline constexpr std::size_t kSteps = 64;

using State = std::array<std::uint32_t, 4>;  ///< A, B, C, D.

/// One message: its state, and the whole blocks that come next.
struct Lane {
  State* state = nullptr;
  const std::byte* blocks = nullptr;
};

static_assert(std::endian::native == std::endian::little, "MD5 reads its words with the lowest byte first");

/// A word of each of four messages. The compiler makes SSE2, NEON or plain words of it.
using Quad = std::uint32_t __attribute__((vector_size(16)));

/// A word of each of eight, for code that is compiled for AVX2 or more.
using Eight = std::uint32_t __attribute__((vector_size(32)));

template <class Word>
inline constexpr std::size_t kLanesOf = sizeof(Word) / sizeof(std::uint32_t);

inline constexpr std::array<std::uint32_t, kSteps> kSines{
    0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee, 0xf57c0faf, 0x4787c62a, 0xa8304613, 0xfd469501, 0x698098d8, 0x8b44f7af, 0xffff5bb1,
    0x895cd7be, 0x6b901122, 0xfd987193, 0xa679438e, 0x49b40821, 0xf61e2562, 0xc040b340, 0x265e5a51, 0xe9b6c7aa, 0xd62f105d, 0x02441453,
    0xd8a1e681, 0xe7d3fbc8, 0x21e1cde6, 0xc33707d6, 0xf4d50d87, 0x455a14ed, 0xa9e3e905, 0xfcefa3f8, 0x676f02d9, 0x8d2a4c8a, 0xfffa3942,
    0x8771f681, 0x6d9d6122, 0xfde5380c, 0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70, 0x289b7ec6, 0xeaa127fa, 0xd4ef3085, 0x04881d05,
    0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665, 0xf4292244, 0x432aff97, 0xab9423a7, 0xfc93a039, 0x655b59c3, 0x8f0ccc92, 0xffeff47d,
    0x85845dd1, 0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1, 0xf7537e82, 0xbd3af235, 0x2ad7d2bb, 0xeb86d391};

inline constexpr unsigned kShifts[4][4] = {{7, 12, 17, 22}, {5, 9, 14, 20}, {4, 11, 16, 23}, {6, 10, 15, 21}};

/// Which word of the block a step takes.
constexpr std::size_t word_of(std::size_t step) {
  switch (step / 16) {
    case 0: return step % 16;
    case 1: return (5 * step + 1) % 16;
    case 2: return (3 * step + 5) % 16;
    default: return 7 * step % 16;
  }
}

/// Has `value` computed as it is written here. Left alone, the optimiser regroups the sums of a step, and what could be added before
/// the step's turn waits for the step before: that costs a fifth of the speed.
template <class Word>
[[gnu::always_inline]] inline void hold(Word& value) {
  if constexpr (sizeof(Word) == sizeof(std::uint32_t)) {
    asm("" : "+r"(value));
  } else if constexpr (sizeof(Word) == sizeof(Quad)) {
#if defined(__SSE2__)
    asm("" : "+v"(value));
#elif defined(__aarch64__)
    asm("" : "+w"(value));
#endif
  }
}

/// Step `I` of a block. What `b` decides comes last, because `b` is the outcome of the step before.
template <std::size_t I, class Word>
[[gnu::always_inline]] inline void step(Word& a, const Word& b, const Word& c, const Word& d, const Word& word) {
  constexpr std::size_t kRound = I / 16;
  constexpr unsigned kShift = kShifts[kRound][I % 4];
  Word sum = a + word + kSines[I];
  if constexpr (kRound == 1) sum += c & ~d;  // (b & d) | (c & ~d): the two share no bit
  hold(sum);
  if constexpr (kRound == 0) sum += d ^ (b & (c ^ d));
  if constexpr (kRound == 1) sum += b & d;
  if constexpr (kRound == 2) sum += b ^ (c ^ d);
  if constexpr (kRound == 3) sum += c ^ (b | ~d);
  a = b + (sum << kShift | sum >> (32 - kShift));
}

template <class Word>
using Words = std::array<Word, kWords>;
template <class Word>
using States = std::array<Word, 4>;

/// Step `I` of the groups in turn: while one waits for its last result, the other computes.
template <std::size_t I, class Word, std::size_t Groups>
[[gnu::always_inline]] inline void step_of_all(std::array<States<Word>, Groups>& states, const std::array<Words<Word>, Groups>& words) {
  constexpr std::size_t kA = (kSteps - I) % 4;  // the four take turns
  for (std::size_t group = 0; group < Groups; ++group) {
    States<Word>& state = states[group];
    step<I>(state[kA], state[(kA + 1) % 4], state[(kA + 2) % 4], state[(kA + 3) % 4], words[group][word_of(I)]);
  }
}

template <class Word, std::size_t Groups, std::size_t... I>
[[gnu::always_inline]] inline void all_steps(std::array<States<Word>, Groups>& states, const std::array<Words<Word>, Groups>& words,
                                             std::index_sequence<I...> /*steps*/) {
  (step_of_all<I>(states, words), ...);
}

template <class Word>
[[gnu::always_inline]] inline Word load(const std::byte* from) {
  Word value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

/// The words of one block.
[[gnu::always_inline]] inline void load_words(Words<std::uint32_t>& words, const Lane* lane, std::size_t offset) {
  for (std::size_t i = 0; i < kWords; ++i) words[i] = load<std::uint32_t>(lane->blocks + offset + i * sizeof(std::uint32_t));
}

/// The words of four blocks, turned so that word i of all four stands together.
[[gnu::always_inline]] inline void load_words(Words<Quad>& words, const Lane* lanes, std::size_t offset) {
  for (std::size_t i = 0; i < kWords; i += 4) {
    const std::size_t at = offset + i * sizeof(std::uint32_t);
    const Quad a = load<Quad>(lanes[0].blocks + at);
    const Quad b = load<Quad>(lanes[1].blocks + at);
    const Quad c = load<Quad>(lanes[2].blocks + at);
    const Quad d = load<Quad>(lanes[3].blocks + at);
    const Quad ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    const Quad ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const Quad cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    const Quad cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    words[i] = __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5);
    words[i + 1] = __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7);
    words[i + 2] = __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5);
    words[i + 3] = __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7);
  }
}

/// The words of eight blocks, likewise.
[[gnu::always_inline]] inline void load_words(Words<Eight>& words, const Lane* lanes, std::size_t offset) {
  Words<Quad> first;
  Words<Quad> second;
  load_words(first, lanes, offset);
  load_words(second, lanes + kLanesOf<Quad>, offset);
  for (std::size_t i = 0; i < kWords; ++i) words[i] = __builtin_shufflevector(first[i], second[i], 0, 1, 2, 3, 4, 5, 6, 7);
}

template <class Word>
[[gnu::always_inline]] inline States<Word> load_states(const Lane* lanes) {
  States<Word> states;
  for (std::size_t i = 0; i < states.size(); ++i)
    if constexpr (kLanesOf<Word> == 1)
      states[i] = (*lanes->state)[i];
    else
      for (std::size_t lane = 0; lane < kLanesOf<Word>; ++lane) states[i][lane] = (*lanes[lane].state)[i];
  return states;
}

template <class Word>
[[gnu::always_inline]] inline void store_states(const States<Word>& states, const Lane* lanes) {
  for (std::size_t i = 0; i < states.size(); ++i)
    if constexpr (kLanesOf<Word> == 1)
      (*lanes->state)[i] = states[i];
    else
      for (std::size_t lane = 0; lane < kLanesOf<Word>; ++lane) (*lanes[lane].state)[i] = states[i][lane];
}

/// Digests `count` blocks of each of `Groups` times as many messages as a Word has lanes, with the instructions that the caller may use.
template <class Word, std::size_t Groups>
[[gnu::always_inline]] inline void compress(std::span<const Lane, Groups * kLanesOf<Word>> lanes, std::size_t count) {
  std::array<States<Word>, Groups> states;
  for (std::size_t group = 0; group < Groups; ++group) states[group] = load_states<Word>(&lanes[group * kLanesOf<Word>]);
  for (std::size_t offset = 0; offset < count * kBlockSize; offset += kBlockSize) {
    std::array<Words<Word>, Groups> words;
    for (std::size_t group = 0; group < Groups; ++group) load_words(words[group], &lanes[group * kLanesOf<Word>], offset);
    const auto before = states;
    all_steps(states, words, std::make_index_sequence<kSteps>());
    for (std::size_t group = 0; group < Groups; ++group)
      for (std::size_t i = 0; i < before[group].size(); ++i) states[group][i] += before[group][i];
  }
  for (std::size_t group = 0; group < Groups; ++group) store_states<Word>(states[group], &lanes[group * kLanesOf<Word>]);
}

}  // namespace shoal::md5_rounds
