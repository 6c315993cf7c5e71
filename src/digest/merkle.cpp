module;

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

module shoal.digest;

import shoal.base;

namespace shoal {
namespace {

// Levels count from the leaves: a leaf is at level 0, a chunk at 4, a span at 14.
constexpr unsigned kChunkLevel = std::countr_zero(kChunkSize / kLeafSize);
constexpr unsigned kSpanHeight = std::countr_zero(kSpanChunks);
constexpr std::uint64_t kMaxChunks = std::numeric_limits<std::uint32_t>::max();

Sha256Digest parent_of(const Sha256Digest& left, const Sha256Digest& right) {
  std::array<Sha256Digest, 2> both{left, right};
  static_assert(sizeof both == 64);
  return sha256(std::as_bytes(std::span(both)));
}

/// The root of a subtree of `level` levels whose leaf hashes are all past the end.
const Sha256Digest& empty_root(unsigned level) {
  static const auto roots = [] {
    std::array<Sha256Digest, 64> all{};
    for (std::size_t i = 1; i < all.size(); ++i) all[i] = parent_of(all[i - 1], all[i - 1]);
    return all;
  }();
  return roots[level];
}

/// The root over as many nodes as stand under it when none is past the end. `nodes` must be a power of two.
Sha256Digest full_root(std::span<const Sha256Digest> nodes) {
  std::array<Sha256Digest, kChunkSize / kLeafSize> level;
  std::ranges::copy(nodes, level.begin());
  for (std::size_t count = nodes.size() / 2; count > 0; count /= 2) {
    const auto children = level;
    sha256_each(std::as_bytes(std::span(children).first(2 * count)), 2 * sizeof(Sha256Digest), std::span(level).first(count));
  }
  return level.front();
}

/// How many levels are above `nodes` nodes, up to the single root.
unsigned height_over(std::uint64_t nodes) { return nodes < 2 ? 0 : static_cast<unsigned>(std::bit_width(nodes - 1)); }

/// The root of the subtree `height` levels above `nodes`, which stand at `level` from its left edge on.
Sha256Digest subtree_root(std::span<const Sha256Digest> nodes, unsigned level, unsigned height) {
  if (nodes.empty()) return empty_root(level + height);
  if (height == 0) return nodes.front();
  const std::size_t left = std::min(nodes.size(), std::size_t{1} << (height - 1));
  return parent_of(subtree_root(nodes.first(left), level, height - 1), subtree_root(nodes.subspan(left), level, height - 1));
}

/// The part of `chunk_hashes` under node `index` of those `height` levels above the chunks; may be empty.
std::span<const Sha256Digest> chunks_under(std::span<const Sha256Digest> chunk_hashes, std::uint64_t index, unsigned height) {
  const std::uint64_t width = std::uint64_t{1} << height;
  const std::uint64_t begin = std::min<std::uint64_t>(index * width, chunk_hashes.size());
  const std::uint64_t end = std::min<std::uint64_t>(begin + width, chunk_hashes.size());
  return chunk_hashes.subspan(begin, end - begin);
}

bool has_valid_shape(const HashSpan& span, std::uint64_t chunks) {
  const std::uint64_t begin = std::uint64_t{span.index} * kSpanChunks;
  if (chunks > kMaxChunks || begin >= chunks) return false;
  const unsigned height = height_over(chunks);
  return span.hashes.size() == std::min<std::uint64_t>(kSpanChunks, chunks - begin) &&
         span.proof.size() == (height > kSpanHeight ? height - kSpanHeight : 0);
}

}  // namespace

/// The hash of a chunk from the hashes of its leaves, 1 to 16 of them. Also what the FileHasher uses.
Sha256Digest chunk_hash_over(std::span<const Sha256Digest> leaf_hashes, std::uint64_t file_size) {
  if (leaf_hashes.size() == kChunkSize / kLeafSize) return full_root(leaf_hashes);
  return subtree_root(leaf_hashes, 0, file_size <= kChunkSize ? height_over(leaf_hashes.size()) : kChunkLevel);
}

std::uint64_t chunk_count(std::uint64_t size) { return size / kChunkSize + (size % kChunkSize != 0 ? 1 : 0); }

std::uint32_t chunk_length(std::uint64_t size, ChunkIndex index) {
  const std::uint64_t begin = std::uint64_t{index.value} * kChunkSize;
  return begin >= size ? 0 : static_cast<std::uint32_t>(std::min<std::uint64_t>(size - begin, kChunkSize));
}

Sha256Digest chunk_hash(std::span<const std::byte> chunk, std::uint64_t file_size) {
  std::array<Sha256Digest, kChunkSize / kLeafSize> leaves;
  const std::size_t whole = std::min(chunk.size() / kLeafSize, leaves.size());
  sha256_each(chunk, kLeafSize, std::span(leaves).first(whole));
  std::size_t count = whole;
  if (const auto rest = chunk.subspan(whole * kLeafSize); !rest.empty() && count < leaves.size()) leaves[count++] = sha256(rest);
  return chunk_hash_over(std::span(leaves).first(count), file_size);
}

Sha256Digest merkle_root(std::span<const Sha256Digest> chunk_hashes) {
  if (chunk_hashes.empty()) return {};
  return subtree_root(chunk_hashes, kChunkLevel, height_over(chunk_hashes.size()));
}

std::uint32_t span_count(std::uint64_t chunks) {
  const std::uint64_t spans = chunks / kSpanChunks + (chunks % kSpanChunks != 0 ? 1 : 0);
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(spans, std::numeric_limits<std::uint32_t>::max()));
}

HashSpan make_span(std::span<const Sha256Digest> chunk_hashes, std::uint32_t index) {
  const auto own = chunks_under(chunk_hashes, index, kSpanHeight);
  HashSpan span{index, {own.begin(), own.end()}, {}};
  const unsigned top = height_over(chunk_hashes.size());
  for (unsigned height = kSpanHeight; height < top; ++height) {
    const std::uint64_t sibling = (index >> (height - kSpanHeight)) ^ 1u;
    span.proof.push_back(subtree_root(chunks_under(chunk_hashes, sibling, height), kChunkLevel, height));
  }
  return span;
}

bool span_is_valid(const HashSpan& span, const Sha256Digest& root, std::uint64_t file_size) {
  const std::uint64_t chunks = chunk_count(file_size);
  if (!has_valid_shape(span, chunks)) return false;
  Sha256Digest node = subtree_root(span.hashes, kChunkLevel, std::min(height_over(chunks), kSpanHeight));
  std::uint32_t index = span.index;
  for (const Sha256Digest& sibling : span.proof) {
    node = index & 1u ? parent_of(sibling, node) : parent_of(node, sibling);
    index >>= 1;
  }
  return node == root;
}

}  // namespace shoal
