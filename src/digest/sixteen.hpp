// Sixteen messages side by side, each in a lane of AVX-512 vectors: for both digests, which read blocks of sixteen words.
#pragma once

#if defined(__x86_64__)

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>

namespace shoal::sixteen {

inline constexpr std::size_t kLanes = 16;
inline constexpr std::size_t kBlockSize = 64;

/// A word of each message. As the words of one message it is a block.
using Word = std::uint32_t __attribute__((vector_size(64)));
using Letters = std::array<std::uint32_t, kLanes>;  ///< A Word's, one by one.
using Words = std::array<Word, kLanes>;

static_assert(sizeof(Word) == kBlockSize && sizeof(Word) / sizeof(std::uint32_t) == kLanes);

/// Has columns and rows change places where a column's number has bit `Bit` and its row's has not.
template <std::size_t Bit, std::size_t... Column>
[[gnu::always_inline, gnu::target("avx512f,avx512bw,avx512vl")]] inline void exchange(Words& rows,
                                                                                      std::index_sequence<Column...> /*columns*/) {
  for (std::size_t row = 0; row < kLanes; ++row) {
    if ((row & Bit) != 0) continue;
    Word& first = rows[row];
    Word& second = rows[row + Bit];
    const Word kept = __builtin_shufflevector(first, second, ((Column & Bit) == 0 ? Column : kLanes + Column - Bit)...);
    second = __builtin_shufflevector(first, second, ((Column & Bit) == 0 ? Column + Bit : kLanes + Column)...);
    first = kept;
  }
}

/// Loads a block of each message, and turns them so that word i of all messages stands together.
[[gnu::always_inline, gnu::target("avx512f,avx512bw,avx512vl")]] inline void load_words(Words& words,
                                                                                        std::span<const std::byte* const, kLanes> messages,
                                                                                        std::size_t offset) {
  constexpr auto kColumns = std::make_index_sequence<kLanes>();
  for (std::size_t i = 0; i < kLanes; ++i) std::memcpy(&words[i], messages[i] + offset, sizeof(Word));
  exchange<1>(words, kColumns);
  exchange<2>(words, kColumns);
  exchange<4>(words, kColumns);
  exchange<8>(words, kColumns);
}

}  // namespace shoal::sixteen

#endif
