// The kernels of MD5: pieces of code that advance one or several messages by whole blocks, each with its name and the number of its lanes.
#pragma once

#include "avx512.hpp"
#include "md5_lanes.hpp"
#include "md5_rounds.hpp"

#define OPENSSL_SUPPRESS_DEPRECATED  // its state can be set and read in no other way
#include <openssl/md5.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace shoal::md5_code {

using md5_rounds::Eight;
using md5_rounds::Lane;
using md5_rounds::Quad;
using md5_rounds::State;

/// Where there are fewer messages than lanes, the others repeat the first one's work, for nobody.
template <class Word, std::size_t Groups>
[[gnu::always_inline]] inline void compress_padded(std::span<const Lane> lanes, std::size_t count) {
  std::array<Lane, Groups * md5_rounds::kLanesOf<Word>> all;
  State nobodys{};
  all.fill({&nobodys, lanes.front().blocks});
  std::ranges::copy(lanes, all.begin());
  md5_rounds::compress<Word, Groups>(all, count);
}

template <class Word, std::size_t Groups>
void compress(std::span<const Lane> lanes, std::size_t count) {
  compress_padded<Word, Groups>(lanes, count);
}

inline void compress_with_openssl(std::span<const Lane> lanes, std::size_t count) {
  State& state = *lanes.front().state;
  MD5_CTX context;
  MD5_Init(&context);
  context.A = state[0];
  context.B = state[1];
  context.C = state[2];
  context.D = state[3];
  MD5_Update(&context, lanes.front().blocks, count * md5_rounds::kBlockSize);  // of whole blocks it keeps nothing back
  state = {context.A, context.B, context.C, context.D};
}

#if defined(__x86_64__)

template <class Word, std::size_t Groups>
[[gnu::target("avx2")]] void compress_with_avx2(std::span<const Lane> lanes, std::size_t count) {
  compress_padded<Word, Groups>(lanes, count);
}

template <class Word, std::size_t Groups>
[[gnu::target("avx512f,avx512bw,avx512vl")]] void compress_with_avx512(std::span<const Lane> lanes, std::size_t count) {
  compress_padded<Word, Groups>(lanes, count);
}

#endif

struct Code {
  std::string_view name;
  std::size_t lanes = 1;
  void (*run)(std::span<const Lane> lanes, std::size_t count) = nullptr;  ///< Of 1 to `lanes` messages, `count` blocks each.
  double standard_time = 0;  ///< Nanoseconds for a KiB of each lane, about, on the processors of a few years.
};

inline std::vector<Code> codes_here() {
  std::vector<Code> codes{{"openssl", 1, compress_with_openssl, 1500},
                          {"scalar", 1, compress<std::uint32_t, 1>, 1450},
                          {"scalar-x2", 2, compress<std::uint32_t, 2>, 1650},
                          {"scalar-x3", 3, compress<std::uint32_t, 3>, 2600},
                          {"vector4", 4, compress<Quad, 1>, 2000},
                          {"vector4-x2", 8, compress<Quad, 2>, 2300}};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") != 0) {
    codes.push_back({"avx2-8", 8, compress_with_avx2<Eight, 1>, 2300});
    codes.push_back({"avx2-8-x2", 16, compress_with_avx2<Eight, 2>, 4600});
  }
  if (has_avx512()) {
    codes.push_back({"avx512-4", 4, compress_with_avx512<Quad, 1>, 1600});
    codes.push_back({"avx512-4-x2", 8, compress_with_avx512<Quad, 2>, 1900});
    codes.push_back({"avx512-8", 8, compress_with_avx512<Eight, 1>, 1950});
    codes.push_back({"avx512-8-x2", 16, compress_with_avx512<Eight, 2>, 2600});
    codes.push_back({"avx512-16", 16, md5_lanes::compress, 2500});
  }
#endif
  return codes;
}

/// All that this processor, and the system on it, can run; always in the same order.
inline const std::vector<Code>& codes() {
  static const std::vector<Code> here = codes_here();
  return here;
}

}  // namespace shoal::md5_code
