/// The numbers that chunk frames have over all connections of a bundle. Plain values, no IO.
module;

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>

export module shoal.bundle:order;

import shoal.wire;

export namespace shoal {

/// Which of the frames that the other side numbers have come.
class Arrivals {
 public:
  static constexpr std::uint64_t kMostAhead = 32768;  ///< A number is at most so far ahead of the lowest that is missing.

  /// False for one that came before, or is too far ahead.
  bool take(std::uint64_t number);
  bool has_all_below(std::uint64_t number) const { return number <= lowest_missing_; }
  std::uint64_t lowest_missing() const { return lowest_missing_; }

 private:
  std::uint64_t lowest_missing_ = 0;
  std::set<std::uint64_t> ahead_;
};

/// The numbers of connections that there were. They come in about their order; one that is far below the highest counts as used, so that no
/// side can have the other remember much.
class UsedNumbers {
 public:
  static constexpr std::uint32_t kMostBehind = 64;

  bool contains(std::uint32_t number) const;
  void insert(std::uint32_t number);

 private:
  std::uint32_t highest_ = 0;
  std::uint64_t recent_ = 1;  ///< Bit i: `highest_ - i` was used. So was 0, the first connection.
};

/// Which of the frames that we number are not known to have come, and what they belong to.
class Departures {
 public:
  static constexpr std::uint64_t kMostUnderWay = Arrivals::kMostAhead / 2;  ///< From the oldest of them to the newest.

  std::uint64_t place(ChunkRef ref);
  void confirm(std::uint64_t number);
  bool is_full() const { return !under_way_.empty() && next_ - under_way_.begin()->first >= kMostUnderWay; }
  std::uint64_t next() const { return next_; }
  /// Whether the message takes back, or ends, what is under way: then it must not overtake that.
  bool must_wait(const Message& message) const;

 private:
  std::uint64_t next_ = 0;
  std::map<std::uint64_t, ChunkRef> under_way_;
  std::map<ChunkRef, std::size_t> frames_of_;  ///< How many of them each chunk has.
};

}  // namespace shoal
