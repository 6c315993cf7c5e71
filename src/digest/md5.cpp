module;

#include "md5_code.hpp"
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

const KernelChoice& kernels_for(std::size_t bytes);  // choice.cpp

namespace {

using md5_rounds::Lane;

/// What follows a message, before its length.
constexpr std::array<std::byte, md5_rounds::kBlockSize> kPadding{std::byte{0x80}};

constexpr std::size_t kMostLanes = KernelPlan::kMostStreams;

/// A single message of fewer blocks does not pay for filling lanes, where these are faster for one.
constexpr std::size_t kWorthLanes = 32;

void compress_few(const Lane& lane, std::size_t count) { md5_code::compress<std::uint32_t, 1>({&lane, 1}, count); }

/// Digests `count` blocks of each of 1 to kMostLanes messages.
void compress(std::span<const Lane> lanes, std::size_t count, const KernelPlan& plan) {
  if (lanes.size() == 1 && count < kWorthLanes) return compress_few(lanes.front(), count);
  while (!lanes.empty()) {
    const md5_code::Code& code = md5_code::codes()[plan.kernel_for(lanes.size())];
    const std::size_t taken = std::min(lanes.size(), code.lanes);
    code.run(lanes.first(taken), count);
    lanes = lanes.subspan(taken);
  }
}

std::size_t bytes_of(std::span<const Md5Piece> pieces) {
  std::size_t bytes = 0;
  for (const Md5Piece& piece : pieces) bytes += piece.data.size();
  return bytes;
}

}  // namespace

std::span<const std::byte> Md5Stream::complete_block(std::span<const std::byte> data) {
  static_assert(kBlockSize == md5_rounds::kBlockSize);
  const std::size_t begun = length_ % kBlockSize;
  if (begun == 0) return data;
  const auto part = data.first(std::min(data.size(), kBlockSize - begun));
  std::ranges::copy(part, block_.begin() + static_cast<std::ptrdiff_t>(begun));
  length_ += part.size();
  if (length_ % kBlockSize == 0) compress_few({&state_, block_.data()}, 1);
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
  explicit Lanes(const KernelPlan& plan) : plan_(plan), most_(std::max(kMd5Lanes, plan.lanes())) {}

  bool is_empty() const { return taken_ == 0; }
  bool is_full() const { return taken_ == most_; }
  /// Whether the rate of those that are left is half of that of full lanes.
  bool is_in_company() const { return taken_ >= plan_.company(); }

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
    compress(std::span(lanes).first(taken_), count, plan_);
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

  const KernelPlan& plan_;
  const std::size_t most_;
  std::array<Run, kMostLanes> runs_;
  std::size_t taken_ = 0;
};

void Md5Stream::update_together(std::span<const Md5Piece> pieces) { update_together(pieces, kernels_for(bytes_of(pieces)).md5); }

void Md5Stream::update_together(std::span<const Md5Piece> pieces, const KernelPlan& plan) {
  Lanes lanes(plan);
  for (const Md5Piece& piece : pieces) {
    lanes.take(piece);
    if (lanes.is_full()) lanes.advance();
  }
  while (!lanes.is_empty()) lanes.advance();
}

std::vector<Md5Piece> Md5Stream::update_in_company(std::span<const Md5Piece> pieces) {
  return update_in_company(pieces, kernels_for(bytes_of(pieces)).md5);
}

std::vector<Md5Piece> Md5Stream::update_in_company(std::span<const Md5Piece> pieces, const KernelPlan& plan) {
  Lanes lanes(plan);
  for (const Md5Piece& piece : pieces) {
    lanes.take(piece);
    if (lanes.is_full()) lanes.advance();
  }
  while (!lanes.is_empty() && lanes.is_in_company()) lanes.advance();
  return lanes.rest();
}

// ---- for choice.cpp -----------------------------------------------------------------------------------

std::vector<Kernel> md5_kernels() {
  std::vector<Kernel> kernels;
  for (const auto& code : md5_code::codes()) kernels.push_back({code.name, code.lanes});
  return kernels;
}

std::vector<double> standard_md5_times() {
  std::vector<double> times;
  for (const auto& code : md5_code::codes()) times.push_back(code.standard_time);
  return times;
}

/// Has a kernel digest a part of `data` in each of its lanes.
void run_md5_kernel(std::size_t kernel, std::span<const std::byte> data) {
  const md5_code::Code& code = md5_code::codes()[kernel];
  const std::size_t blocks = data.size() / kMostLanes / md5_rounds::kBlockSize;
  std::array<md5_rounds::State, kMostLanes> states{};
  std::array<Lane, kMostLanes> lanes;
  for (std::size_t i = 0; i < code.lanes; ++i) lanes[i] = {&states[i], data.data() + i * blocks * md5_rounds::kBlockSize};
  code.run(std::span(lanes).first(code.lanes), blocks);
}

}  // namespace shoal
