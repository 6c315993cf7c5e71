/// What MD5 costs, for streams one by one, for streams that advance together, and in OpenSSL; and what the hashes of chunks cost, one by
/// one and together. First, what a peer measures and takes here. Run: bin/digest_benchmark
#include <benchmark/benchmark.h>
#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <numeric>
#include <span>
#include <string>
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

/// Files of one chunk each, of so many bytes, which stand one after another.
struct Files {
  explicit Files(std::span<const std::size_t> sizes) : bytes(made_up_bytes(std::reduce(sizes.begin(), sizes.end()))) {
    std::span<const std::byte> rest = bytes;
    for (const std::size_t size : sizes) {
      chunks.push_back({rest.first(size), size, {}});
      rest = rest.subspan(size);
    }
  }

  std::vector<std::byte> bytes;
  std::vector<ChunkToHash> chunks;
};

template <std::size_t Size>
Files many_of() {
  return Files(std::vector<std::size_t>(128, Size));
}

Files mixed_files() {
  std::vector<std::size_t> sizes(32);
  std::uint32_t word = 7;
  for (std::size_t& size : sizes) size = 1024 + ((word = word * 1664525u + 1013904223u) >> 8) % (59 * 1024);
  return Files(sizes);
}

void chunk_hash_of_each(benchmark::State& state, Files (*make)()) {
  Files files = make();
  for (auto _ : state)
    for (ChunkToHash& file : files.chunks) benchmark::DoNotOptimize(file.hash = chunk_hash(file.chunk, file.file_size));
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(files.bytes.size()));
}

void chunk_hashes_together(benchmark::State& state, Files (*make)()) {
  Files files = make();
  for (auto _ : state) hash_chunks(files.chunks);
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(files.bytes.size()));
}

BENCHMARK_CAPTURE(chunk_hash_of_each, 100_bytes, many_of<100>);
BENCHMARK_CAPTURE(chunk_hashes_together, 100_bytes, many_of<100>);
BENCHMARK_CAPTURE(chunk_hash_of_each, 3_6_KiB, many_of<3686>);
BENCHMARK_CAPTURE(chunk_hashes_together, 3_6_KiB, many_of<3686>);
BENCHMARK_CAPTURE(chunk_hash_of_each, 64_KiB, many_of<64 * 1024>);
BENCHMARK_CAPTURE(chunk_hashes_together, 64_KiB, many_of<64 * 1024>);
BENCHMARK_CAPTURE(chunk_hash_of_each, 200_KiB_and_100, many_of<200 * 1024 + 100>);
BENCHMARK_CAPTURE(chunk_hashes_together, 200_KiB_and_100, many_of<200 * 1024 + 100>);
BENCHMARK_CAPTURE(chunk_hash_of_each, 1_to_60_KiB, mixed_files);
BENCHMARK_CAPTURE(chunk_hashes_together, 1_to_60_KiB, mixed_files);

/// Messages of 4 KiB, so many side by side.
void sha256_of_several(benchmark::State& state) {
  const auto count = static_cast<std::size_t>(state.range(0));
  const auto bytes = made_up_bytes(count * 4096);
  std::vector<Sha256Digest> digests(count);
  std::vector<Sha256Message> messages;
  for (std::size_t i = 0; i < count; ++i) messages.push_back({std::span(bytes).subspan(i * 4096, 4096), &digests[i]});
  for (auto _ : state) sha256_together(messages);
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(bytes.size()));
}
BENCHMARK(sha256_of_several)->DenseRange(1, 16)->Arg(128);

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

/// The rates of all kernels, as a peer measures them, and what it takes then.
void print_kernels() {
  const auto print = [](const char* digest, const std::vector<Kernel>& kernels, const std::vector<double>& times) {
    for (std::size_t i = 0; i < kernels.size(); ++i)
      std::printf("%s by %-12s %2zu lanes: %5.2f GB/s of each, %5.2f of all\n", digest, std::string(kernels[i].name).c_str(),
                  kernels[i].lanes, 1024 / times[i], 1024 * static_cast<double>(kernels[i].lanes) / times[i]);
  };
  const auto now = [] { return Nanoseconds(std::chrono::steady_clock::now().time_since_epoch()); };
  const Nanoseconds begin = now();
  const KernelTimes times = measure_kernels(now);
  std::printf("%s: measured in %.1f ms\n", processor_name().c_str(), Seconds(now() - begin).count() * 1000);
  print("MD5", md5_kernels(), times.md5);
  print("SHA-256", sha256_kernels(), times.sha256);
  for (const std::string& line : describe(KernelChoice(times, true))) std::printf("%s\n", line.c_str());
  const Md5Pace pace = KernelChoice(times, true).pace;
  std::printf("MD5s that wait for no more: of 2 files %d, of 4 %d, of 8 %d, of 16 %d; %zu together\n", pace.enough[2], pace.enough[4],
              pace.enough[8], pace.enough[16], pace.together);
  choose_kernels_by([times] { return times; });
  (void)md5(made_up_bytes(kChunkSize));
}

}  // namespace

int main(int argc, char** argv) {
  print_kernels();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
