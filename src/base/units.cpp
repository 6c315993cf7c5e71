module;

#include <fmt/core.h>

#include <array>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <tl/expected.hpp>

module shoal.base;

namespace shoal {
namespace {

struct Quantity {
  double number = 0;
  std::string_view unit;
};

Result<Quantity> split_quantity(std::string_view text) {
  Quantity quantity;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, quantity.number, std::chars_format::fixed);
  if (error != std::errc{} || !std::isfinite(quantity.number) || quantity.number < 0)
    return fail(Errc::usage, fmt::format("'{}' does not start with a number", text));
  quantity.unit = std::string_view(rest, static_cast<std::size_t>(end - rest));
  return quantity;
}

int power_of_1024(char letter) {
  switch (letter) {
    case 'k':
    case 'K': return 1;
    case 'm':
    case 'M': return 2;
    case 'g':
    case 'G': return 3;
    case 't':
    case 'T': return 4;
    default: return -1;
  }
}

}  // namespace

Result<std::uint64_t> parse_bytes(std::string_view text) {
  const auto quantity = split_quantity(text);
  if (!quantity) return Failure(quantity.error());
  std::string_view unit = quantity->unit;
  int power = 0;
  if (!unit.empty() && power_of_1024(unit.front()) > 0) {
    power = power_of_1024(unit.front());
    unit.remove_prefix(1);
  }
  const bool known = unit.empty() || unit == "B" || (power > 0 && unit == "iB");
  const double bytes = quantity->number * std::pow(1024.0, power);
  if (!known || bytes >= 9e18)
    return fail(Errc::usage, fmt::format("'{}' is not a size", text), "write a number with K, M, G or T, such as 128M");
  return static_cast<std::uint64_t>(std::llround(bytes));
}

std::string format_bytes(std::uint64_t bytes) {
  static constexpr std::array units{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  if (bytes < kKiB) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes) / 1024.0;
  std::size_t unit = 0;
  while (value >= 999.5 && unit + 1 < units.size()) {
    value /= 1024.0;
    ++unit;
  }
  const int decimals = value < 0.9995 ? 3 : value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  return fmt::format("{:.{}f} {}", value, decimals, units[unit]);
}

Result<Nanoseconds> parse_duration(std::string_view text) {
  static constexpr std::array<std::pair<std::string_view, double>, 8> units{
      {{"", 1e9}, {"s", 1e9}, {"ms", 1e6}, {"us", 1e3}, {"ns", 1.0}, {"m", 60e9}, {"min", 60e9}, {"h", 3600e9}}};
  const auto quantity = split_quantity(text);
  if (!quantity) return Failure(quantity.error());
  for (const auto& [unit, nanoseconds] : units) {
    const double total = quantity->number * nanoseconds;
    if (unit == quantity->unit && total < 9e18) return Nanoseconds(std::llround(total));
  }
  return fail(Errc::usage, fmt::format("'{}' is not a duration", text), "write a number with ms, s, m or h, such as 10ms");
}

std::string format_duration(Nanoseconds duration) {
  const double seconds = std::chrono::duration<double>(duration).count();
  if (seconds < 0.9995) return fmt::format("{:.0f} ms", seconds * 1e3);
  if (seconds < 59.95) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<std::int64_t>(std::llround(seconds));
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole / 60 % 60);
}

}  // namespace shoal
