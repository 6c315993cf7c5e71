module;

#include "evp.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <fmt/core.h>
#include <tl/expected.hpp>

module shoal.digest;

import shoal.base;

namespace shoal {

Sha256Digest chunk_hash_over(std::span<const Sha256Digest> leaf_hashes, std::uint64_t file_size);  // merkle.cpp

struct FileHasher::State {
  Md5Stream whole;
  evp::Sha256 leaf{evp::sha256_algorithm()};
  std::vector<Sha256Digest> leaf_hashes;  ///< Of the chunk that has begun.
  std::uint64_t bytes_hashed = 0;
  bool has_overflowed = false;
  FileDigest result;

  std::size_t room_in_leaf() const { return kLeafSize - bytes_hashed % kLeafSize; }
  bool is_at_end() const { return bytes_hashed == result.size; }

  /// Hashes from the front of `data`: a chunk that is all there, or else what fits into the current leaf. Both digests read it while
  /// it is in cache. Returns how many bytes that were.
  std::size_t hash(std::span<const std::byte> data) {
    const bool has_whole_chunk = bytes_hashed % kChunkSize == 0 && data.size() >= kChunkSize;
    const auto piece = data.first(std::min(data.size(), has_whole_chunk ? kChunkSize : room_in_leaf()));
    whole.update(piece);
    if (has_whole_chunk)
      hash_chunk(piece);
    else
      hash_in_leaf(piece);
    return piece.size();
  }

  void hash_chunk(std::span<const std::byte> chunk) {
    bytes_hashed += chunk.size();
    result.chunks.push_back(chunk_hash(chunk, result.size));
  }

  void hash_in_leaf(std::span<const std::byte> piece) {
    leaf.update(piece);
    bytes_hashed += piece.size();
    if (bytes_hashed % kLeafSize == 0 || is_at_end()) leaf_hashes.push_back(Sha256Digest{leaf.finish()});
    if (bytes_hashed % kChunkSize == 0 || is_at_end()) end_chunk();
  }

  void end_chunk() {
    result.chunks.push_back(chunk_hash_over(leaf_hashes, result.size));
    leaf_hashes.clear();
  }
};

FileHasher::FileHasher(std::uint64_t size) : state_(std::make_unique<State>()) {
  state_->result.size = size;
  state_->leaf_hashes.reserve(kChunkSize / kLeafSize);
}

FileHasher::~FileHasher() = default;
FileHasher::FileHasher(FileHasher&&) noexcept = default;
FileHasher& FileHasher::operator=(FileHasher&&) noexcept = default;

Result<> FileHasher::update(std::span<const std::byte> data) {
  State& state = *state_;
  if (data.size() > state.result.size - state.bytes_hashed) {
    state.has_overflowed = true;
    return fail(Errc::changed, fmt::format("more than the expected {} bytes came", state.result.size));
  }
  while (!data.empty()) data = data.subspan(state.hash(data));
  return {};
}

Result<FileDigest> FileHasher::finish() {
  State& state = *state_;
  if (state.has_overflowed || !state.is_at_end())
    return fail(Errc::changed, fmt::format("{} bytes came where {} were expected", state.bytes_hashed, state.result.size));
  state.result.md5 = state.whole.finish();
  state.result.root = merkle_root(state.result.chunks);
  return std::move(state.result);
}

}  // namespace shoal
