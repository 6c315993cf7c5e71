/// What MD5 costs, for streams one by one, for streams that advance together, and in OpenSSL; and what a chunk hash costs. Run:
/// bin/digest_benchmark
#include <benchmark/benchmark.h>
#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

import shoal.base;
import shoal.digest;

using namespace shoal;

namespace {

constexpr std::size_t kPiece = 32 * 1024;  // of each stream, as a peer reads it

std::vector<std::byte> made_up_bytes(std::size_t size) {
  std::vector<std::byte> bytes(size);
  std::uint32_t word = 1;
  std::ranges::generate(bytes, [&] { return static_cast<std::byte>((word = word * 1664525u + 1013904223u) >> 24); });
  return bytes;
}

void count_bytes(benchmark::State& state, std::size_t streams) {
  state.SetBytesProcessed(static_cast<std::int64_t>(static_cast<std::size_t>(state.iterations()) * streams * kPiece));
}

void md5_together(benchmark::State& state) {
  const auto count = static_cast<std::size_t>(state.range(0));
  const auto bytes = made_up_bytes(count * kPiece);
  std::vector<Md5Stream> streams(count);
  std::vector<Md5Piece> pieces;
  for (std::size_t i = 0; i < count; ++i) pieces.push_back({&streams[i], std::span(bytes).subspan(i * kPiece, kPiece)});
  for (auto _ : state) Md5Stream::update_together(pieces);
  count_bytes(state, count);
}
BENCHMARK(md5_together)->DenseRange(1, 8)->Arg(16);

void md5_of_openssl(benchmark::State& state) {
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), &EVP_MD_CTX_free);
  EVP_DigestInit_ex2(context.get(), EVP_md5(), nullptr);
  const auto bytes = made_up_bytes(kPiece);
  for (auto _ : state) EVP_DigestUpdate(context.get(), bytes.data(), bytes.size());
  count_bytes(state, 1);
}
BENCHMARK(md5_of_openssl);

/// A whole chunk: its leaves and its tree.
void chunk_hash_of_one(benchmark::State& state) {
  const auto bytes = made_up_bytes(kChunkSize);
  for (auto _ : state) benchmark::DoNotOptimize(chunk_hash(bytes, 2 * kChunkSize));
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(kChunkSize));
}
BENCHMARK(chunk_hash_of_one);

void sha256_of_openssl(benchmark::State& state) {
  const auto bytes = made_up_bytes(kLeafSize);
  for (auto _ : state) benchmark::DoNotOptimize(sha256(bytes));
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(kLeafSize));
}
BENCHMARK(sha256_of_openssl);

/// Messages of one leaf, such as small files are.
void md5_of_small_messages(benchmark::State& state) {
  const auto bytes = made_up_bytes(static_cast<std::size_t>(state.range(0)));
  for (auto _ : state) benchmark::DoNotOptimize(md5(bytes));
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(md5_of_small_messages)->Arg(0)->Arg(200)->Arg(4096);

}  // namespace

BENCHMARK_MAIN();
