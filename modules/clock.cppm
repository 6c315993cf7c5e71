/// Time that is kept by several machines: what their clocks differ by, when to send timestamps, and the tables of them.
/// Plain values and functions: no IO and no clock but the times that are passed in. One strand each.
module;

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

export module shoal.clock;

import shoal.base;

export namespace shoal {

// ---- what two clocks differ by ------------------------------------------------------------------------

/// By how much the difference of two clocks may change in a second: 500 ppm, the most by which NTP's discipline slews a
/// clock (RFC 5905, MAXFREQ). Quartz is off by less than 100.
inline constexpr double kFrequencyTolerance = 500e-6;

/// The four times of NTP (RFC 5905) in nanoseconds: t1 sent and t4 answer received on the local clock, t2 received and t3
/// answered on the remote one.
struct Exchange {
  std::int64_t t1 = 0;
  std::int64_t t2 = 0;
  std::int64_t t3 = 0;
  std::int64_t t4 = 0;
};

/// What is known of a clock at a moment.
struct ClockEstimate {
  std::int64_t offset_ns = 0;  ///< Local minus remote: positive when the local clock is fast.
  Nanoseconds bound{0};        ///< |true offset - offset_ns| is at most this.
  Nanoseconds delay{0};        ///< Round trip of the exchange that the offset rests on.
  Nanoseconds jitter{0};       ///< RMS of the last offsets against that one.
  double drift_ppm = 0;        ///< How fast the offset grows: positive when the local clock runs too fast.
  double skew_ppm = 0;         ///< How far the drift may be off, as the residuals say (two standard errors); 0: not known yet.
};

/// Estimates the offset of the local clock to a remote one.
///
/// An exchange proves that the offset was in [t1 - t2, t4 - t3] while it lasted, whatever the links did: half of the round trip
/// to either side of the middle. The *bound* rests on the newest exchange alone, widened with its age by the frequency tolerance;
/// so it is true even if a clock jumped in between, from the first exchange on that began after the jump. The *estimate* within it
/// prefers low delays: of the last exchanges it takes the one whose own bound is the least now, carried on by the drift,
/// which is a weighted regression over the best exchanges of stretches of time.
class ClockEstimator {
 public:
  /// What an exchange did.
  enum class Added {
    taken,
    jump,
    refused
  };  ///< `jump`: one of the clocks did; all before is forgotten. `refused`: the times make no sense.
  Added add(const Exchange& exchange);
  /// The remote clock is another one now.
  void restart();
  bool is_set() const { return count_ > 0; }
  /// At the local time `now_ns`; nothing before the first exchange.
  std::optional<ClockEstimate> at(std::int64_t now_ns) const;
  std::uint32_t jumps() const { return jumps_; }

 private:
  /// An exchange. Offsets are relative to base_.
  struct Sample {
    std::int64_t time = 0;  ///< t4.
    double offset = 0;
    double half = 0;  ///< Half of the delay, and what the clocks may have drifted apart meanwhile.

    double width_at(std::int64_t now_ns) const;
  };
  const Sample& best_at(std::int64_t now_ns) const;
  double jitter_against(const Sample& best) const;
  void remember(const Sample& sample);
  void fit();

  static constexpr std::size_t kWindow = 32;
  static constexpr std::size_t kStretches = 64;
  static constexpr std::int64_t kFirstStretch = 100'000'000;

  std::array<Sample, kWindow> window_;  ///< The last ones; `count_` of them, the newest before next_.
  std::size_t count_ = 0;
  std::size_t next_ = 0;
  std::int64_t base_ = 0;
  Sample newest_;
  std::vector<Sample> history_;  ///< The best of each stretch of time, the last one still open.
  std::int64_t stretch_begin_ = 0;
  std::int64_t stretch_ = kFirstStretch;
  double drift_ = 0;  ///< A ratio.
  double skew_ = 0;   ///< 0: not known.
  std::uint32_t jumps_ = 0;
};

// ---- numbers ------------------------------------------------------------------------------------------

/// Mean and deviation of values as they come (Welford), exact also where they are large and differ by little.
class Spread {
 public:
  void add(std::int64_t value);
  std::uint64_t count() const { return count_; }
  double mean() const { return static_cast<double>(base_) + mean_; }
  double deviation() const;
  double rms() const;
  std::int64_t last() const { return last_; }
  /// The one furthest from 0.
  std::int64_t largest() const { return largest_; }

 private:
  std::uint64_t count_ = 0;
  std::int64_t base_ = 0;
  double mean_ = 0;  ///< Relative to base_.
  double squares_ = 0;
  std::int64_t last_ = 0;
  std::int64_t largest_ = 0;
};

/// Counts durations in steps of an eighth, from a microsecond to hours.
class Histogram {
 public:
  void add(Nanoseconds value);
  void add(const Histogram& other);
  /// The upper end of the step in which that share of the values is reached; 0 without values.
  Nanoseconds quantile(double share) const;
  std::uint64_t count() const { return count_; }

 private:
  static std::size_t step_of(Nanoseconds value);
  static Nanoseconds end_of(std::size_t step);

  static constexpr std::size_t kSteps = 8 * 36;
  std::array<std::uint32_t, kSteps> counts_{};
  std::uint64_t count_ = 0;
  Nanoseconds most_{0};
};

// ---- when to tick -------------------------------------------------------------------------------------

/// Tick n is due at start + n * interval, whatever the ones before it did. A tick is sent late as long as that is by less than
/// kMostLate, or the next is not due. Others are missed and counted: after a stop there is no burst.
class TickSchedule {
 public:
  static constexpr Nanoseconds kMostLate{100'000'000};

  TickSchedule(Instant start, Nanoseconds interval, Nanoseconds duration);

  struct Due {
    std::uint64_t number = 0;
    Instant at;
    std::uint64_t missed = 0;  ///< Right before this one.
  };
  /// The next tick, if it is due; then it is done.
  std::optional<Due> take(Instant now);
  /// The tick that was taken last could not be sent.
  void miss() { ++missed_; }
  /// When the next tick is due; nothing after the last.
  std::optional<Instant> next() const;
  Instant end() const { return start_ + duration_; }
  std::uint64_t ticks() const { return ticks_; }  ///< All in all.
  std::uint64_t missed() const { return missed_; }
  /// Counts those that are left as missed.
  void close();

 private:
  Instant start_;
  Nanoseconds interval_;
  Nanoseconds duration_;
  std::uint64_t ticks_;
  std::uint64_t next_ = 0;
  std::uint64_t missed_ = 0;
};

/// Which of the numbers that come about in order have come: the last 64 are told apart, and older ones count as come. The window against
/// replays of RFC 4303, section 3.4.3.
class NumberWindow {
 public:
  /// Whether `number` comes for the first time.
  bool take(std::uint64_t number);

 private:
  std::uint64_t newest_ = 0;
  std::uint64_t seen_ = 0;  ///< Bit i: newest_ - i has come.
};

// ---- what a run came to -------------------------------------------------------------------------------

/// In nanoseconds, where it does not say otherwise.
struct ClockSummary {
  std::uint64_t sent = 0;
  std::uint64_t answered = 0;
  std::uint64_t missed = 0;  ///< Ticks that were never sent.
  std::uint64_t gaps = 0;    ///< Stretches without ticks.
  Nanoseconds longest_gap{0};
  std::uint32_t jumps = 0;  ///< Of one of the clocks.
  double offset_last = 0;
  double offset_rms = 0;
  double offset_max = 0;  ///< The one furthest from 0.
  double offset_deviation = 0;
  double delay_mean = 0;
  double delay_deviation = 0;
  double jitter = 0;
  double drift_ppm = 0;
  double skew_ppm = 0;
  double bound = 0;
  double interval_mean = 0;
  double interval_deviation = 0;
  Nanoseconds lateness_p50{0};
  Nanoseconds lateness_p99{0};
  Nanoseconds delay_p99{0};
};

/// Lines for a person, without line ends.
std::vector<std::string> describe(const ClockSummary& summary);

/// Counts what happens in one peer's run.
class ClockRecord {
 public:
  void on_sent(std::uint64_t number, Instant due, Instant sent);
  /// An answer, and the estimate after it. `date_offset_ns`: what turns its offset into one of dates.
  void on_answer(const Exchange& exchange, const ClockEstimate& estimate, std::int64_t date_offset_ns);
  /// The run is over: `missed` ticks were never sent, and clocks jumped so often.
  ClockSummary finish(std::uint64_t missed, std::uint32_t jumps) const;
  const Histogram& lateness() const { return lateness_; }
  const Histogram& delays() const { return delay_steps_; }
  std::uint64_t sent() const { return sent_; }
  std::uint64_t answered() const { return answered_; }

 private:
  std::uint64_t sent_ = 0;
  std::uint64_t answered_ = 0;
  std::uint64_t gaps_ = 0;
  Nanoseconds longest_gap_{0};
  std::uint64_t last_number_ = 0;
  Instant last_sent_;
  ClockEstimate last_estimate_;
  Spread offsets_;
  Spread delays_;
  Spread intervals_;
  Histogram lateness_;
  Histogram delay_steps_;
};

// ---- tables -------------------------------------------------------------------------------------------

/// `2026-11-21 | 10:58:20.123456`, UTC, of microseconds since 1970; what is past the years 1970 to 9999 is put at their ends.
class DateText {
 public:
  static constexpr std::size_t kSize = 28;
  /// Good until the next call.
  std::string_view of(std::int64_t date_us);

 private:
  std::int64_t second_ = -1;
  std::array<char, kSize> text_{};
};

/// `5 minutes`, `1 second`, `250 milliseconds`: in the largest unit of which it is a whole number.
std::string duration_in_words(Nanoseconds duration);

/// The rows of a table that are not in its file yet. Numbers go on when they are taken.
///
///     Timestamp Data
///     | # | Sender's IP | Receiver's IP | Date | Time |
///     |---|---|---|---|---|
///     | 1 | 127.0.0.1:40312 | 127.0.0.1:5555 | 2026-11-21 | 10:58:20.123456 |
///     End of Timestamp Data (after 5 minutes)
class TimeTable {
 public:
  TimeTable();
  /// ` | sender | receiver | `: made once for many rows.
  static std::string between(const Endpoint& sender, const Endpoint& receiver);
  void add(std::string_view between, std::int64_t date_us);
  void close(Nanoseconds asked_for);
  std::size_t pending() const { return pending_.size(); }
  std::uint64_t rows() const { return rows_; }
  /// What is pending: whole lines. `spare` is a string whose memory may be used for what comes.
  std::string take(std::string spare = {});
  /// The text of a peer's own table's file, and of one that was received, relative to the folder.
  static std::string file_of(std::string_view id) { return "client_" + std::string(id) + "_TimeData.txt"; }
  static std::string received_file(std::string_view id, std::string_view other) {
    return "client_" + std::string(id) + "_received/from_" + std::string(other) + "/" + file_of(other);
  }

 private:
  std::string pending_;
  std::uint64_t rows_ = 0;
  DateText dates_;
};

}  // namespace shoal
