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
constexpr std::size_t kChunkLeaves = kChunkSize / kLeafSize;
constexpr unsigned kChunkLevel = std::countr_zero(kChunkLeaves);
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

/// How many levels are above `nodes` nodes, up to the single root.
unsigned height_over(std::uint64_t nodes) { return nodes < 2 ? 0 : static_cast<unsigned>(std::bit_width(nodes - 1)); }

/// The root of the subtree `height` levels above `nodes`, which stand at `level` from its left edge on.
Sha256Digest subtree_root(std::span<const Sha256Digest> nodes, unsigned level, unsigned height) {
  if (nodes.empty()) return empty_root(level + height);
  if (height == 0) return nodes.front();
  const std::size_t left = std::min(nodes.size(), std::size_t{1} << (height - 1));
  return parent_of(subtree_root(nodes.first(left), level, height - 1), subtree_root(nodes.subspan(left), level, height - 1));
}

/// What is known of a chunk's subtree, which goes from leaves to root for all chunks at once.
struct ChunkTree {
  std::size_t begin = 0;  ///< Where its nodes stand among those of all.
  std::size_t nodes = 0;  ///< Those that are not past the end, at the level that has been reached.
  std::size_t width = 0;  ///< With those that are.
};

/// A chunk without leaves counts as one whose first is past the end.
ChunkTree tree_over(std::size_t leaves, std::uint64_t file_size, std::size_t begin) {
  leaves = std::clamp(leaves, std::size_t{1}, kChunkLeaves);
  return {begin, leaves, file_size <= kChunkSize ? std::bit_ceil(leaves) : kChunkLeaves};
}

/// Takes the trees that are not at their root up from `level`.
void climb(std::span<ChunkTree> trees, unsigned level, std::vector<Sha256Digest>& nodes) {
  std::vector<Sha256Digest> above = nodes;
  std::vector<Sha256Message> parents;
  for (ChunkTree& tree : trees) {
    if (tree.width == 1) continue;
    const auto below = std::span(nodes).subspan(tree.begin, tree.width);
    if (tree.nodes % 2 != 0) below[tree.nodes++] = empty_root(level);
    tree.nodes /= 2;
    tree.width /= 2;
    for (std::size_t i = 0; i < tree.nodes; ++i) parents.push_back({std::as_bytes(below.subspan(2 * i, 2)), &above[tree.begin + i]});
  }
  sha256_together(parents);
  nodes.swap(above);
}

/// Has each tree's root stand at its begin. `nodes` is all leaf hashes, with room for those past the end.
void climb_to_roots(std::span<ChunkTree> trees, std::vector<Sha256Digest>& nodes) {
  const auto is_below_root = [](const ChunkTree& tree) { return tree.width > 1; };
  for (unsigned level = 0; std::ranges::any_of(trees, is_below_root); ++level) climb(trees, level, nodes);
}

/// The hashes of all leaves, each tree's from its begin on.
std::vector<Sha256Digest> hash_leaves(std::span<const ChunkToHash> chunks, std::span<const ChunkTree> trees) {
  std::vector<Sha256Digest> nodes(trees.back().begin + trees.back().width);
  std::vector<Sha256Message> leaves;
  leaves.reserve(nodes.size());
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    auto rest = chunks[i].chunk.first(std::min<std::size_t>(chunks[i].chunk.size(), kChunkSize));
    for (std::size_t at = trees[i].begin; !rest.empty(); ++at) {
      const auto leaf = rest.first(std::min<std::size_t>(rest.size(), kLeafSize));
      leaves.push_back({leaf, &nodes[at]});
      rest = rest.subspan(leaf.size());
    }
  }
  sha256_together(leaves);
  return nodes;
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
  ChunkTree tree = tree_over(leaf_hashes.size(), file_size, 0);
  std::vector<Sha256Digest> nodes(leaf_hashes.begin(), leaf_hashes.end());
  nodes.resize(tree.width);
  climb_to_roots(std::span(&tree, 1), nodes);
  return nodes.front();
}

std::uint64_t chunk_count(std::uint64_t size) { return size / kChunkSize + (size % kChunkSize != 0 ? 1 : 0); }

std::uint32_t chunk_length(std::uint64_t size, ChunkIndex index) {
  const std::uint64_t begin = std::uint64_t{index.value} * kChunkSize;
  return begin >= size ? 0 : static_cast<std::uint32_t>(std::min<std::uint64_t>(size - begin, kChunkSize));
}

void hash_chunks(std::span<ChunkToHash> chunks) {
  if (chunks.empty()) return;
  std::vector<ChunkTree> trees;
  trees.reserve(chunks.size());
  for (const ChunkToHash& chunk : chunks) {
    const std::size_t leaves = (chunk.chunk.size() + kLeafSize - 1) / kLeafSize;
    trees.push_back(tree_over(leaves, chunk.file_size, trees.empty() ? 0 : trees.back().begin + trees.back().width));
  }
  auto nodes = hash_leaves(chunks, trees);
  climb_to_roots(trees, nodes);
  for (std::size_t i = 0; i < chunks.size(); ++i) chunks[i].hash = nodes[trees[i].begin];
}

Sha256Digest chunk_hash(std::span<const std::byte> chunk, std::uint64_t file_size) {
  ChunkToHash only{chunk, file_size, {}};
  hash_chunks(std::span(&only, 1));
  return only.hash;
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
