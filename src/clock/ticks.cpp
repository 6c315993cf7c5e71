module;

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>

module shoal.clock;

import shoal.base;

namespace shoal {

TickSchedule::TickSchedule(Instant start, Nanoseconds interval, Nanoseconds duration)
    : start_(start),
      interval_(std::max(interval, Nanoseconds(1))),
      duration_(duration),
      ticks_(static_cast<std::uint64_t>(std::max<std::int64_t>((duration + interval_ - Nanoseconds(1)) / interval_, 1))) {}

std::optional<Instant> TickSchedule::next() const {
  if (next_ >= ticks_) return std::nullopt;
  return start_ + interval_ * static_cast<std::int64_t>(next_);
}

std::optional<TickSchedule::Due> TickSchedule::take(Instant now) {
  const auto due = next();
  if (!due || *due > now) return std::nullopt;
  std::uint64_t number = next_;
  if (now - *due >= kMostLate) number = std::max(next_, static_cast<std::uint64_t>((now - start_) / interval_));  // the last that is due
  if (number >= ticks_) {
    close();
    return std::nullopt;
  }
  Due tick{number, start_ + interval_ * static_cast<std::int64_t>(number), number - next_};
  missed_ += tick.missed;
  next_ = number + 1;
  return tick;
}

void TickSchedule::close() {
  missed_ += ticks_ - next_;
  next_ = ticks_;
}

bool NumberWindow::take(std::uint64_t number) {
  constexpr std::uint64_t kWidth = 64;
  if (seen_ == 0 || number > newest_) {
    const std::uint64_t step = number - newest_;
    seen_ = (seen_ == 0 || step >= kWidth ? 0 : seen_ << step) | 1;
    newest_ = number;
    return true;
  }
  const std::uint64_t age = newest_ - number;
  if (age >= kWidth || (seen_ >> age & 1) != 0) return false;
  seen_ |= std::uint64_t{1} << age;
  return true;
}

}  // namespace shoal
