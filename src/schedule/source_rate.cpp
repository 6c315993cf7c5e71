module;

#include <algorithm>
#include <chrono>
#include <cmath>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <iterator>
#include <optional>

module shoal.schedule;

import shoal.base;

namespace shoal {
namespace {

constexpr double kMemory = 1.0;                                  ///< Seconds of busy time after which 1/e of a sample is left.
constexpr double kShortest = 1e-3;                               ///< Nobody is believed a rate that was measured over less.
constexpr double kLongestSilence = 2.0;                          ///< Seconds that one stall counts at most, so that it can be lived down.
constexpr Seconds kSlack{0.008};                                 ///< Answers that wait for us, beyond a round trip.
constexpr Seconds kLongest{3600};                                ///< No expectation goes beyond it, so that no sum overflows.
constexpr Nanoseconds kMostPatience = std::chrono::seconds(30);  ///< Who fell silent has hardly any rate: nobody waits for that.
constexpr double kFewestChunks = 2;
constexpr Nanoseconds kShortWay = std::chrono::milliseconds(5);
constexpr double kMostChunks = 64;
constexpr double kGain = 2;          ///< Round trips that a far window holds; ...
constexpr double kLoneGain = 4;      ///< ... of the only neighbour, so that TCP alone decides, also where much is lost and comes late; ...
constexpr double kLoneChunks = 4;    ///< ... and so many chunks more, which come side by side by several connections.
constexpr double kMostGrowth = 2.5;  ///< While its rate grows, as much as it will be after one more, but no more than this.
constexpr double kGrowth = 1.25;     ///< A rate grows as long as it does so ...
constexpr int kGrowthTrips = 2;      ///< ... in so many round trips.
constexpr std::uint64_t kTellingBytes = 4 * std::uint64_t{kChunkSize};  ///< Chunks come one by one: fewer of them tell no rate.
constexpr double kMostFirstChunks = 16;                                 ///< At first: a chunk for each ...
constexpr Seconds kFirstChunkEvery{0.0025};                             ///< ... of the way.
constexpr double kMostFarChunks = 2048;                                 ///< As many requests as a neighbour lets wait.
constexpr int kFirstRoundTrips = 5;                                     ///< That a connection may take until it has found its rate.
constexpr std::size_t kMostMarks = 4096;

Nanoseconds to_nanoseconds(Seconds seconds) { return std::chrono::duration_cast<Nanoseconds>(std::min(seconds, kLongest)); }

}  // namespace

void SourceRate::on_request(Instant now, std::uint64_t bytes) {
  if (outstanding_ == 0) {
    measured_until_ = now;
    most_outstanding_ = 0;
  }
  if (outstanding_ == 0) {
    marks_.clear();
    deliveries_.clear();
    is_growing_ = true;
    grown_to_ = 0;
  }
  if (marks_.empty() || marks_.back().at < now) marks_.push_back({now, delivered_});
  if (marks_.size() > kMostMarks) marks_.pop_front();
  outstanding_ += bytes;
  most_outstanding_ = std::max(most_outstanding_, outstanding_);
}

void SourceRate::on_answer(Instant requested, Instant now, std::uint64_t bytes) {
  on_round_trip(now, now - requested);
  measure(now, bytes);
  delivered_ += bytes;
  learn_delivery(requested, now);
  learn_growth(now);
  outstanding_ -= std::min(bytes, outstanding_);
  most_outstanding_ = outstanding_;
}

void SourceRate::on_dropped(Instant now, std::uint64_t bytes) {
  outstanding_ -= std::min(bytes, outstanding_);
  // Time that others' answers share is counted with the next of them; else it would be lost, and a source that
  // stalls would keep its good name.
  if (outstanding_ == 0) measure(now, 0);
}

void SourceRate::on_round_trip(Instant now, Nanoseconds rtt) { min_rtt_.add(now, std::max(rtt, Nanoseconds(0))); }

std::optional<Nanoseconds> SourceRate::round_trip() const { return min_rtt_.get(); }

bool SourceRate::is_far() const { return round_trip().value_or(Nanoseconds(0)) >= kShortWay; }

void SourceRate::learn_delivery(Instant requested, Instant now) {
  const auto after = std::ranges::upper_bound(marks_, requested, {}, &Mark::at);
  if (after == marks_.begin() || now <= requested) return;
  delivery_.set_span(round_trip().value_or(Nanoseconds(0)));
  delivery_.add(now, static_cast<double>(delivered_ - std::prev(after)->delivered) / Seconds(now - requested).count());
}

/// An answer that waited long for others tells of a time when the rate had not grown yet: so what came in the last round trip is compared
/// with what came in the one before.
void SourceRate::learn_growth(Instant now) {
  if (!is_far()) return;
  const Nanoseconds way = *round_trip();
  const auto is_far_from = [&](const Mark& mark, const Mark& later) {
    return mark.at + way <= later.at && mark.delivered + kTellingBytes <= later.delivered;
  };
  const auto latest_before = [&](const Mark& later) {
    const auto end = std::ranges::partition_point(deliveries_, [&](const Mark& mark) { return is_far_from(mark, later); });
    return end == deliveries_.begin() ? deliveries_.end() : std::prev(end);
  };
  const auto rate_between = [](const Mark& from, const Mark& to) {
    return static_cast<double>(to.delivered - from.delivered) / Seconds(to.at - from.at).count();
  };
  const Mark last{now, delivered_};
  deliveries_.push_back(last);
  if (deliveries_.size() > kMostMarks) deliveries_.pop_front();
  const auto middle = latest_before(last);
  if (middle == deliveries_.end()) return;
  recent_ = rate_between(*middle, last);
  if (const auto first = latest_before(*middle); first != deliveries_.end()) {
    growth_ = recent_ / rate_between(*first, *middle);
    deliveries_.erase(deliveries_.begin(), first);
  }
  if (recent_ > kGrowth * grown_to_) {
    grown_to_ = recent_;
    grown_at_ = now;
  }
  // Once found, it is not looked for again: what comes in bursts, as after a loss, would seem to grow.
  is_growing_ = is_growing_ && now - grown_at_ <= kGrowthTrips * way;
}

double SourceRate::best_rate() const { return std::max(rate_, delivery_.get().value_or(0)); }

std::uint64_t SourceRate::under_way() const {
  return is_far() ? static_cast<std::uint64_t>(best_rate() * Seconds(*round_trip()).count()) : 0;
}

/// Adds `bytes`, delivered evenly since the last measurement, to two sums that forget alike: bytes, and seconds.
/// Their quotient is the plain mean at first and later the mean of about the last second.
void SourceRate::measure(Instant now, std::uint64_t bytes) {
  const double passed = std::max(0.0, Seconds(now - measured_until_).count());
  const double elapsed = bytes > 0 ? passed : std::min(passed, kLongestSilence);
  measured_until_ = now;
  // Less than a chunk under way measures the round trip, not the rate: it is only better than knowing nothing.
  const bool is_telling = most_outstanding_ >= kChunkSize;
  if (!is_telling && is_measured_) return;
  if (is_telling && !is_measured_) {
    recent_bytes_ = recent_seconds_ = 0;
    is_measured_ = true;
  }
  const double kept = std::exp(-elapsed / kMemory);
  const double seconds = kMemory * (1 - kept);
  const double weight = elapsed > 0 ? seconds / elapsed : 1.0;
  recent_bytes_ = recent_bytes_ * kept + static_cast<double>(bytes) * weight;
  recent_seconds_ = recent_seconds_ * kept + seconds;
  rate_ = recent_bytes_ / std::max(recent_seconds_, kShortest);
}

std::uint64_t SourceRate::window(Company company) const {
  if (is_far()) return static_cast<std::uint64_t>(far_window(company)) * kChunkSize;
  const Seconds way = round_trip().value_or(Nanoseconds(0));
  const double spare = company == Company::many ? 0 : 1;
  const double chunks = std::ceil(rate_ * (way + kSlack).count() / kChunkSize) + spare;
  return static_cast<std::uint64_t>(std::clamp(chunks, kFewestChunks - 1 + spare, kMostChunks)) * kChunkSize;
}

/// In chunks.
double SourceRate::far_window(Company company) const {
  const Seconds way = *round_trip();
  const auto hold = [&](double rate, double gain) { return std::ceil(rate * (gain * way + kSlack).count() / kChunkSize); };
  double chunks = company == Company::alone ? hold(best_rate(), kLoneGain) + kLoneChunks : hold(best_rate(), kGain);
  if (is_growing_) chunks = std::max(chunks, hold(std::max(recent_, best_rate()), std::min(kGrowth * growth_, kMostGrowth)));
  // What the first chunks tell of the rate is how it began: until as much came as was asked for at first, no less is.
  const double first = std::min(std::ceil(way / kFirstChunkEvery), kMostFirstChunks);
  if (static_cast<double>(delivered_) < first * kChunkSize) chunks = std::max(chunks, first);
  return std::clamp(chunks, kFewestChunks, kMostFarChunks);
}

bool SourceRate::has_room(std::uint64_t bytes, Company company) const {
  return outstanding_ == 0 || outstanding_ + bytes <= window(company);
}

Nanoseconds SourceRate::expected(std::uint64_t bytes) const {
  if (rate_ <= 0) return std::chrono::seconds(1) + kFirstRoundTrips * round_trip().value_or(Nanoseconds(0));
  const Seconds transfer(static_cast<double>(outstanding_ + bytes) / rate_);
  return to_nanoseconds(transfer + Seconds(round_trip().value_or(Nanoseconds(0))));
}

Nanoseconds SourceRate::patience(std::uint64_t bytes) const {
  return std::clamp<Nanoseconds>(3 * expected(bytes), std::chrono::seconds(2), kMostPatience);
}

}  // namespace shoal
