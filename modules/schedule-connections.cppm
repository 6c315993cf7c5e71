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

/// Finds out, by trying, how many connections a pair needs for what it moves. One flow is limited by its window and by loss, both a round
/// trip: so only far ones are tried. One more is opened where the rate has stopped growing, and kept where that made it grow by a tenth;
/// else it is closed, and none is tried for a while. Who is idle comes down to one (docs/decisions/0030).
class ConnectionCount {
 public:
  struct Look {
    Instant now;
    std::uint64_t bytes_moved = 0;  ///< In both directions, by all connections, since any moment before the first look.
    bool is_waiting = false;        ///< For something that was asked for, in either direction.
    Nanoseconds round_trip{0};      ///< The least.
    std::size_t connections = 1;    ///< That are open now.
    std::size_t most = 1;
  };
  enum class Change : std::uint8_t { none, open_one, close_one };

  /// Every few tens of milliseconds, or every round trip.
  Change on_look(const Look& look);

 private:
  struct Trial {
    double before = 0;  ///< Bytes a second.
    std::size_t connections = 1;
    Instant deadline;
    int periods = 0;
  };

  bool is_idle(const Look& look);
  Change come_down(const Look& look);
  Change judge(const Look& look, double rate);
  Change judge_trial(const Look& look, double rate);
  Change begin_trial(const Look& look, double rate);

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
