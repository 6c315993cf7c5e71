module;

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

module shoal.clock;

import shoal.base;

namespace shoal {
namespace {

constexpr std::int64_t kLastDate = 253'402'300'799'999'999;  // the end of the year 9999, in microseconds
constexpr std::string_view kHead =
    "Timestamp Data\n"
    "| # | Sender's IP | Receiver's IP | Date | Time |\n"
    "|---|---|---|---|---|\n";

/// Writes the last `digits` digits of a number, ending before `end`.
void put(char* end, std::int64_t number, int digits) {
  for (; digits > 0; --digits, number /= 10) *--end = static_cast<char>('0' + number % 10);
}

}  // namespace

std::string_view DateText::of(std::int64_t date_us) {
  const std::int64_t date = std::clamp<std::int64_t>(date_us, 0, kLastDate);
  const std::int64_t second = date / 1'000'000;
  char* const text = text_.data();
  if (second != second_) {
    second_ = second;
    const std::chrono::year_month_day day(std::chrono::sys_days(std::chrono::days(second / 86'400)));
    const std::int64_t of_day = second % 86'400;
    constexpr std::string_view form = "0000-00-00 | 00:00:00.000000";
    static_assert(form.size() == kSize);
    std::ranges::copy(form, text);
    put(text + 4, static_cast<int>(day.year()), 4);
    put(text + 7, static_cast<unsigned>(day.month()), 2);
    put(text + 10, static_cast<unsigned>(day.day()), 2);
    put(text + 15, of_day / 3600, 2);
    put(text + 18, of_day / 60 % 60, 2);
    put(text + 21, of_day % 60, 2);
  }
  put(text + kSize, date % 1'000'000, 6);
  return {text, kSize};
}

std::string duration_in_words(Nanoseconds duration) {
  constexpr std::array<std::pair<std::int64_t, std::string_view>, 6> units{{{3'600'000'000'000, "hour"},
                                                                            {60'000'000'000, "minute"},
                                                                            {1'000'000'000, "second"},
                                                                            {1'000'000, "millisecond"},
                                                                            {1'000, "microsecond"},
                                                                            {1, "nanosecond"}}};
  for (const auto& [size, name] : units)
    if (duration.count() % size == 0 && duration.count() >= size)
      return fmt::format("{} {}{}", duration.count() / size, name, duration.count() == size ? "" : "s");
  return "0 seconds";
}

TimeTable::TimeTable() : pending_(kHead) {}

std::string TimeTable::between(const Endpoint& sender, const Endpoint& receiver) {
  return fmt::format(" | {} | {} | ", to_string(sender), to_string(receiver));
}

void TimeTable::add(std::string_view between, std::int64_t date_us) {
  std::array<char, 20> number;
  const auto written = std::to_chars(number.data(), number.data() + number.size(), ++rows_);
  pending_ += "| ";
  pending_.append(number.data(), written.ptr);
  pending_ += between;
  pending_ += dates_.of(date_us);
  pending_ += " |\n";
}

void TimeTable::close(Nanoseconds asked_for) {
  pending_ += fmt::format("End of Timestamp Data (after {})\n", duration_in_words(asked_for));
}

std::string TimeTable::take(std::string spare) {
  spare.clear();
  std::swap(spare, pending_);
  return spare;
}

}  // namespace shoal
