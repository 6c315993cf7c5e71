// SHA-256 of messages of any lengths that go through lanes side by side: whoever is over makes room for the next one. What computes in the
// lanes is a class of two of them (sha256_rounds.hpp) or sixteen (sha256_lanes.hpp).
#pragma once

#if defined(__x86_64__)

#include "sha256_rounds.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <utility>
#include <vector>

namespace shoal::sha256_runs {

using sha256_rounds::kBlockSize;
using sha256_rounds::kStart;
using sha256_rounds::State;

struct Message {
  std::span<const std::byte> data;
  std::uint8_t* digest = nullptr;  ///< Room for 32 bytes.
};

/// How many blocks a message fills, with the bit and the length that follow it.
inline std::size_t blocks_of(std::size_t length) { return (length + sizeof(std::uint64_t)) / kBlockSize + 1; }

/// A message on its way: the whole blocks of its data, then those that end it. It may change lanes, and be copied, meanwhile.
class Run {
 public:
  Run() = default;
  explicit Run(const Message& message) : message_(message), whole_(message.data.size() / kBlockSize), all_(blocks_of(message.data.size())) {
    const auto rest = message.data.subspan(whole_ * kBlockSize);
    if (!rest.empty()) std::memcpy(end_.data(), rest.data(), rest.size());
    end_[rest.size()] = std::byte{0x80};
    const std::uint64_t bits = __builtin_bswap64(std::uint64_t{message.data.size()} * 8);
    std::memcpy(end_.data() + (all_ - whole_) * kBlockSize - sizeof bits, &bits, sizeof bits);
  }

  bool is_over() const { return done_ == all_; }
  const std::byte* next() const {
    return done_ < whole_ ? message_.data.data() + done_ * kBlockSize : end_.data() + (done_ - whole_) * kBlockSize;
  }
  /// How many blocks stand there.
  std::size_t blocks() const { return (done_ < whole_ ? whole_ : all_) - done_; }
  void advance(std::size_t count) { done_ += count; }

  /// A to H, while no lane has them.
  State state = kStart;

  void store_digest() const {
    for (std::size_t i = 0; i < state.size(); ++i) {
      const std::uint32_t letter = __builtin_bswap32(state[i]);
      std::memcpy(message_.digest + i * sizeof letter, &letter, sizeof letter);
    }
  }

 private:
  Message message_;
  std::size_t done_ = 0;
  std::size_t whole_ = 0;
  std::size_t all_ = 0;
  std::array<std::byte, 2 * kBlockSize> end_{};
};

/// Messages that wait for a lane, in their order. It pays to have the longest first, so that none of them is left to go alone.
class Waiting {
 public:
  explicit Waiting(std::span<const Message> messages) : messages_(messages) {}

  std::size_t count() const { return begun_.size() + messages_.size(); }
  void put_back(const Run& run) { begun_.push_back(run); }
  Run take() {
    if (begun_.empty()) return Run(std::exchange(messages_, messages_.subspan(1)).front());
    const Run run = begun_.back();
    begun_.pop_back();
    return run;
  }

 private:
  std::span<const Message> messages_;
  std::vector<Run> begun_;
};

/// Of the lanes of `Rounds`, the first `taken` are busy.
template <class Rounds>
class Lanes {
 public:
  explicit Lanes(Waiting& waiting) : waiting_(waiting) {
    while (taken_ < Rounds::kLanes && waiting_.count() > 0) begin(taken_++);
  }

  std::size_t taken() const { return taken_; }

  /// Goes on to the next block that stands elsewhere, or does not exist, for any of the messages.
  void advance() {
    std::array<const std::byte*, Rounds::kLanes> blocks{};
    std::size_t count = std::numeric_limits<std::size_t>::max();
    for (std::size_t i = 0; i < taken_; ++i) {
      blocks[i] = runs_[i].next();
      count = std::min(count, runs_[i].blocks());
    }
    rounds_.advance(blocks, count);
    for (std::size_t i = taken_; i-- > 0;) {
      runs_[i].advance(count);
      if (runs_[i].is_over()) end(i);
    }
  }

  void put_back_all() {
    while (taken_ > 0) waiting_.put_back(taken_out(--taken_));
  }

 private:
  void begin(std::size_t lane) {
    runs_[lane] = waiting_.take();
    rounds_.set(lane, runs_[lane].state);
  }

  void end(std::size_t lane) {
    taken_out(lane).store_digest();
    if (waiting_.count() > 0) return begin(lane);
    runs_[lane] = taken_out(--taken_);
    rounds_.set(lane, runs_[lane].state);
  }

  const Run& taken_out(std::size_t lane) {
    runs_[lane].state = rounds_.get(lane);
    return runs_[lane];
  }

  Waiting& waiting_;
  Rounds rounds_;
  std::array<Run, Rounds::kLanes> runs_;
  std::size_t taken_ = 0;
};

/// Digests what waits in lanes of `Rounds`, as long as at least `worth` of them are busy, and puts back what is not over then.
template <class Rounds>
void digest(Waiting& waiting, std::size_t worth) {
  if (waiting.count() < worth) return;
  Lanes<Rounds> lanes(waiting);
  while (lanes.taken() >= worth) lanes.advance();
  lanes.put_back_all();
}

}  // namespace shoal::sha256_runs

#endif
