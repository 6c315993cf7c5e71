module;

#include "avx512.hpp"
#include "md5_lanes.hpp"
#include "md5_rounds.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

module shoal.digest;

namespace shoal {
namespace {

using md5_rounds::Lane;
using md5_rounds::Quad;
using md5_rounds::State;

/// What follows a message, before its length.
constexpr std::array<std::byte, md5_rounds::kBlockSize> kPadding{std::byte{0x80}};

/// Where there are fewer messages than lanes, the others repeat the first one's work, for nobody.
template <class Word, std::size_t Groups>
[[gnu::always_inline]] inline void compress_padded(std::span<const Lane> lanes, std::size_t count) {
  std::array<Lane, Groups * md5_rounds::kLanesOf<Word>> all;
  State nobodys{};
  all.fill({&nobodys, lanes.front().blocks});
  std::ranges::copy(lanes, all.begin());
  md5_rounds::compress<Word, Groups>(all, count);
}

#if defined(__x86_64__)

template <std::size_t Groups>
[[gnu::target("avx512f,avx512bw,avx512vl")]] void compress_with_avx512(std::span<const Lane> lanes, std::size_t count) {
  compress_padded<Quad, Groups>(lanes, count);
}

/// A single message is a little faster in a lane of a vector, too, once filling the lanes has paid.
constexpr std::size_t kWorthLanes = 32;

void compress_with_avx512(std::span<const Lane> lanes, std::size_t count) {
  if (lanes.size() == 1 && count < kWorthLanes) return compress_padded<std::uint32_t, 1>(lanes, count);
  if (lanes.size() <= md5_rounds::kLanesOf<Quad>) return compress_with_avx512<1>(lanes, count);
  if (lanes.size() <= 2 * md5_rounds::kLanesOf<Quad>) return compress_with_avx512<2>(lanes, count);
  md5_lanes::compress(lanes, count);
}

#endif

constexpr std::size_t kMostLanes = 16;  ///< With AVX-512.

/// How many messages go side by side here.
std::size_t lanes_here() {
  static const std::size_t lanes = has_avx512() ? kMostLanes : kMd5Lanes;
  return lanes;
}

/// Digests `count` blocks of each of 1 to lanes_here() messages.
void compress(std::span<const Lane> lanes, std::size_t count) {
  static_assert(kMd5Lanes == 2 * md5_rounds::kLanesOf<Quad>);
#if defined(__x86_64__)
  static_assert(kMostLanes == md5_lanes::kLanes);
  if (lanes_here() == kMostLanes) return compress_with_avx512(lanes, count);
#endif
  if (lanes.size() == 1) return compress_padded<std::uint32_t, 1>(lanes, count);
  if (lanes.size() == 2) return compress_padded<std::uint32_t, 2>(lanes, count);
  if (lanes.size() <= md5_rounds::kLanesOf<Quad>) return compress_padded<Quad, 1>(lanes, count);
  compress_padded<Quad, 2>(lanes, count);
}

}  // namespace

std::span<const std::byte> Md5Stream::complete_block(std::span<const std::byte> data) {
  static_assert(kBlockSize == md5_rounds::kBlockSize);
  const std::size_t begun = length_ % kBlockSize;
  if (begun == 0) return data;
  const auto part = data.first(std::min(data.size(), kBlockSize - begun));
  std::ranges::copy(part, block_.begin() + static_cast<std::ptrdiff_t>(begun));
  length_ += part.size();
  if (length_ % kBlockSize == 0) compress(std::array{Lane{&state_, block_.data()}}, 1);
  return data.subspan(part.size());
}

void Md5Stream::begin_block(std::span<const std::byte> rest) {
  std::ranges::copy(rest, block_.begin());
  length_ += rest.size();
}

void Md5Stream::update(std::span<const std::byte> data) { update_together(std::array{Md5Piece{this, data}}); }

Md5Digest Md5Stream::finish() {
  const std::uint64_t bits = length_ * 8;
  const std::size_t begun = (length_ + sizeof bits) % kBlockSize;
  update(std::span(kPadding).first(kBlockSize - begun));
  update(std::as_bytes(std::span(&bits, 1)));
  Md5Digest digest;
  static_assert(sizeof digest.bytes == sizeof state_);
  std::memcpy(digest.bytes.data(), state_.data(), sizeof state_);
  return digest;
}

/// The streams that are in the lanes, each with what is left of its data.
class Md5Stream::Lanes {
 public:
  bool is_empty() const { return taken_ == 0; }
  bool is_full() const { return taken_ == most_; }
  bool is_half_full() const { return taken_ >= most_ / 2; }

  /// Takes a lane for the whole blocks of a piece, where it has such.
  void take(const Md5Piece& piece) {
    const auto data = piece.stream->complete_block(piece.data);
    if (data.size() < kBlockSize) return piece.stream->begin_block(data);
    runs_[taken_++] = {piece.stream, data};
  }

  /// Advances all by as many blocks as the shortest has; at least one lane is free after that.
  void advance() {
    const auto runs = std::span(runs_).first(taken_);
    const std::size_t count = std::ranges::min(runs, {}, &Run::blocks).blocks();
    std::array<Lane, kMostLanes> lanes;
    for (std::size_t i = 0; i < taken_; ++i) lanes[i] = {&runs[i].stream->state_, runs[i].data.data()};
    compress(std::span(lanes).first(taken_), count);
    for (Run& run : runs) run.advance(count);
    free_finished();
  }

  /// What the streams are still to be updated with.
  std::vector<Md5Piece> rest() const {
    std::vector<Md5Piece> pieces;
    for (const Run& run : std::span(runs_).first(taken_)) pieces.push_back({run.stream, run.data});
    return pieces;
  }

 private:
  struct Run {
    Md5Stream* stream = nullptr;
    std::span<const std::byte> data;

    std::size_t blocks() const { return data.size() / kBlockSize; }
    void advance(std::size_t count) {
      data = data.subspan(count * kBlockSize);
      stream->length_ += count * kBlockSize;
    }
  };

  void free_finished() {
    for (std::size_t i = taken_; i-- > 0;) {
      if (runs_[i].blocks() > 0) continue;
      runs_[i].stream->begin_block(runs_[i].data);
      runs_[i] = runs_[--taken_];
    }
  }

  const std::size_t most_ = lanes_here();
  std::array<Run, kMostLanes> runs_;
  std::size_t taken_ = 0;
};

void Md5Stream::update_together(std::span<const Md5Piece> pieces) {
  Lanes lanes;
  for (const Md5Piece& piece : pieces) {
    lanes.take(piece);
    if (lanes.is_full()) lanes.advance();
  }
  while (!lanes.is_empty()) lanes.advance();
}

std::vector<Md5Piece> Md5Stream::update_in_company(std::span<const Md5Piece> pieces) {
  Lanes lanes;
  for (const Md5Piece& piece : pieces) {
    lanes.take(piece);
    if (lanes.is_full()) lanes.advance();
  }
  while (lanes.is_half_full()) lanes.advance();
  return lanes.rest();
}

}  // namespace shoal
