/// What TCP lets a sender have under way: slow start, congestion avoidance, and what losses and pauses do to them. No IO, no clock.
module;

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>

export module shoal.sim:congestion;

import shoal.base;

export namespace shoal::sim {

/// How a sender finds out what it may have under way.
enum class CongestionControl : std::uint8_t {
  none,   ///< It does not: a rate is taken up at once, and nothing is lost.
  reno,   ///< RFC 5681 and 6582: half of it after a loss, one segment more each round trip.
  cubic,  ///< RFC 9438: 0.7 of it after a loss, then along a cubic back to where it was; what Linux does unless it is told otherwise.
  bbr,    ///< Like BBR: twice the rate times the round trip, both as measured. A loss changes nothing.
};

/// What a packet carries where a frame has 1500 bytes: the unit in which a window grows.
inline constexpr std::uint64_t kSegment = 1448;
/// RFC 6928, and Linux.
inline constexpr std::uint64_t kInitialWindow = 10 * kSegment;

/// The congestion window of one direction of one connection. Times may be on any clock, and do not go back.
///
/// It grows only where it was in use: a sender that has little to say does not earn a window by that. After a pause of a retransmission
/// timeout (a round trip and 200 ms) with nothing under way, reno and cubic begin with half of it for each such time, but not with less
/// than the initial window (RFC 2861; tcp_slow_start_after_idle).
class CongestionWindow {
 public:
  /// `round_trip` is that of the handshake. Not for `none`.
  CongestionWindow(CongestionControl control, Nanoseconds round_trip);

  std::uint64_t size() const { return static_cast<std::uint64_t>(window_); }
  /// Sent, and neither acknowledged nor known to be lost.
  std::uint64_t in_flight() const { return in_flight_; }
  /// How many more bytes may leave.
  std::uint64_t allowed(Nanoseconds now) const;

  void on_sent(Nanoseconds now, std::uint64_t bytes);
  /// The sender hears that `bytes` which it sent at `sent_at` are there, in order or not.
  void on_acked(Nanoseconds now, Nanoseconds sent_at, std::uint64_t bytes);
  /// The sender notices that some of what it sent at `sent_at` is lost. Losses of one round trip count once.
  void on_lost(Nanoseconds now, Nanoseconds sent_at);

 private:
  /// Rates of the rounds that count, the highest of which is taken for the link's.
  static constexpr std::size_t kRounds = 10;

  bool is_starting() const { return window_ < threshold_; }
  bool was_in_use() const;
  double rested(Nanoseconds now) const;
  void rest(Nanoseconds now);
  void grow(Nanoseconds now, std::uint64_t bytes);
  double cubic_step(Nanoseconds now, double segments);
  void end_round(Nanoseconds now);
  void begin_round(Nanoseconds now);
  void follow_rate(double rate);

  CongestionControl control_;
  double window_ = kInitialWindow;
  double threshold_ = std::numeric_limits<double>::infinity();  ///< Where slow start ends.
  std::uint64_t in_flight_ = 0;
  Nanoseconds last_sent_{0};
  Nanoseconds smoothed_;  ///< The round trip.
  Nanoseconds least_;     ///< Likewise.
  Nanoseconds reduced_at_{-1};

  // A round begins when the first bytes that were sent after the last one are acknowledged.
  Nanoseconds round_began_{0};
  std::uint64_t round_bytes_ = 0;
  std::uint64_t round_most_ = 0;  ///< In flight at a time.
  bool was_used_ = false;         ///< In the last whole round.

  double highest_ = 0;        ///< Of cubic: the window, in segments, at which something was lost.
  double friendly_ = 0;       ///< What reno would have by now, in segments.
  double until_highest_ = 0;  ///< Seconds from the beginning of the epoch.
  Nanoseconds epoch_{-1};     ///< Since when it grows along the cubic; -1: it does not.

  std::array<double, kRounds> rates_{};  ///< Of bbr: bytes a second.
  std::size_t next_rate_ = 0;
  double full_rate_ = 0;
  unsigned rounds_without_growth_ = 0;
};

}  // namespace shoal::sim
