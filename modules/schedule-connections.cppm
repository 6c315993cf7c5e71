/// How many connections two peers should have.
module;

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>

export module shoal.schedule:connections;

import shoal.base;

export namespace shoal {

inline constexpr Nanoseconds kFarAway = std::chrono::milliseconds(5);  ///< From this round trip on, one flow may be the limit.

/// How many connections a pair should have for what it moves. One flow is limited by its window, by loss, and at first by the packets it
/// may begin with, each a round trip: so only far pairs have more. Who is very far and has much to move begins with several; then the best
/// number is found by trying: one more is opened where the rate has stopped growing, and kept where that made it grow by a tenth; else it
/// is closed, and none is tried for a while. Who is idle comes down to one (docs/decisions/0030).
class ConnectionCount {
 public:
  struct Look {
    Instant now;
    std::uint64_t bytes_moved = 0;  ///< In both directions, by all connections, since any moment before the first look.
    std::size_t waiting = 0;        ///< Chunks that were asked for, in either direction, and have not moved.
    Nanoseconds round_trip{0};      ///< The least.
    std::size_t connections = 1;    ///< That are open now.
    std::size_t most = 1;
  };

  /// Every few tens of milliseconds, or every round trip. So many are to be opened or, below 0, closed.
  int on_look(const Look& look);

 private:
  struct Trial {
    double before = 0;  ///< Bytes a second.
    std::size_t connections = 1;
    Instant deadline;
    int periods = 0;
  };

  bool is_idle(const Look& look);
  int come_down(const Look& look);
  int begin(const Look& look);
  int judge(const Look& look, double rate);
  int judge_trial(const Look& look, double rate);
  int begin_trial(const Look& look, double rate);

  bool is_begun_with_several_ = false;

  // The period that is measured.
  std::optional<Instant> begun_;
  std::uint64_t bytes_before_ = 0;

  double last_ = 0;         ///< The rate of the period before, ...
  double before_last_ = 0;  ///< ... and of that before it.
  double usual_ = 0;        ///< Smoothed.
  std::optional<Trial> trial_;
  Instant next_trial_{};
  Nanoseconds backoff_{0};
  Instant busy_at_{};  ///< When it last was.
  std::uint64_t last_bytes_ = 0;
};

}  // namespace shoal
