// Whether this processor, and the system on it, has the AVX-512 instructions that digests use: rotations and any function of three bits, in
// one instruction each. Code for them carries [[gnu::target("avx512f,avx512bw,avx512vl")]] and is only called where they are.
#pragma once

namespace shoal {

inline bool has_avx512() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512vl") != 0;
#else
  return false;
#endif
}

}  // namespace shoal
