module;

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

module shoal.sim;

import :internal;
import shoal.base;
import shoal.digest;
import shoal.world;

namespace shoal::sim {
namespace {

constexpr std::size_t kMarkSize = sizeof(Sha256Digest::bytes);

/// The first bytes of a chunk are its hash; a chunk of fewer bytes is filled up with zeros.
Sha256Digest mark_of(std::span<const std::byte> chunk) {
  Sha256Digest mark;
  std::memcpy(mark.bytes.data(), chunk.data(), std::min(chunk.size(), kMarkSize));
  return mark;
}

class MarkDigester final : public Digester {
 public:
  void hash_chunks(std::span<ChunkToHash> chunks) const override {
    for (ChunkToHash& each : chunks) each.hash = mark_of(each.chunk);
  }
  void update(Md5Stream& md5, std::uint64_t offset, std::span<const std::byte> bytes) const override {
    if (offset % kChunkSize == 0) md5.update(bytes.first(std::min(bytes.size(), kMarkSize)));
  }
  void update_together(std::span<const Md5Piece> pieces, std::span<const std::uint64_t> offsets) const override {
    for (std::size_t i = 0; i < pieces.size(); ++i) update(*pieces[i].stream, offsets[i], pieces[i].data);
  }
  std::vector<Md5Piece> update_small(std::span<const Md5Piece> pieces, bool /*are_last*/) const override {
    for (const Md5Piece& piece : pieces) update(*piece.stream, 0, piece.data);
    return {};
  }
};

/// The word at place `index` of a content. Neighbouring words have nothing to do with each other.
std::uint64_t word_at(std::uint64_t seed, std::uint64_t index) { return Random::mix(seed + index * 0x9E3779B97F4A7C15U); }

void fill_words(std::uint64_t seed, std::uint64_t offset, std::span<std::byte> out) {
  std::size_t done = 0;
  while (done < out.size()) {
    const std::uint64_t at = offset + done;
    const std::uint64_t word = word_at(seed, at / sizeof(std::uint64_t));
    const std::size_t skip = at % sizeof word;
    const std::size_t part = std::min(sizeof word - skip, out.size() - done);
    std::memcpy(out.data() + done, reinterpret_cast<const std::byte*>(&word) + skip, part);
    done += part;
  }
}

/// What identifies a content, by the digester of its library.
Content digested(const Library& library, std::uint64_t seed, std::uint64_t size) {
  Content content{seed, size, {}, {}, nullptr};
  std::vector<Sha256Digest> chunks;
  Md5Stream md5;
  std::vector<std::byte> bytes(kChunkSize);
  for (std::uint64_t at = 0; at < size; at += kChunkSize) {
    const auto chunk = std::span(bytes).first(std::min<std::uint64_t>(kChunkSize, size - at));
    library.fill(content, at, chunk);
    chunks.push_back(library.digester().chunk_hash(chunk, size));
    library.digester().update(md5, at, chunk);
  }
  content.md5 = md5.finish();
  content.root = merkle_root(chunks);
  content.chunks = std::make_shared<const std::vector<Sha256Digest>>(std::move(chunks));
  return content;
}

}  // namespace

const Digester& Library::digester() const {
  static const Digester real;
  static const MarkDigester marks;
  return bytes_ == Bytes::real ? real : marks;
}

void Library::fill(const Content& content, std::uint64_t offset, std::span<std::byte> out) const {
  if (bytes_ == Bytes::real) return fill_words(content.seed, offset, out);
  for (std::uint64_t at = (offset + kChunkSize - 1) / kChunkSize * kChunkSize; at < offset + out.size(); at += kChunkSize) {
    const auto rest = out.subspan(at - offset);
    fill_words(content.seed, at, rest.first(std::min({rest.size(), kMarkSize, static_cast<std::size_t>(content.size - at)})));
  }
}

ContentPtr Library::make(std::uint64_t seed, std::uint64_t size) {
  ContentPtr& known = by_seed_[{seed, size}];
  if (known) return known;
  known = std::make_shared<const Content>(digested(*this, seed, size));
  by_root_.emplace(known->root, known);
  return known;
}

ContentPtr Library::find(const Sha256Digest& root, std::uint64_t size) const {
  const auto known = by_root_.find(root);
  return known == by_root_.end() || known->second->size != size ? nullptr : known->second;
}

}  // namespace shoal::sim
