module;

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

module shoal.report;

import shoal.base;

namespace shoal {
namespace {

constexpr std::size_t kMaxFiles = 8;
constexpr std::size_t kNarrowestName = 12;
constexpr std::size_t kWidestName = 40;
constexpr std::size_t kNarrowestBar = 8;
constexpr std::size_t kWidestBar = 30;
constexpr double kLongestEta = 100.0 * 3600;

double share_of(const ProgressLine& line) {
  if (line.total == 0) return 0;
  return std::min(1.0, static_cast<double>(line.done) / static_cast<double>(line.total));
}

/// Rounded down: 100.0 % is said only when it is true.
std::string percent_text(const ProgressLine& line) { return fmt::format("{:.1f}%", std::floor(share_of(line) * 1000) / 10); }

bool has_rate(const ProgressLine& line) { return std::isfinite(line.rate) && line.rate >= 1; }

std::string rate_text(const ProgressLine& line) {
  const double rate = has_rate(line) ? std::min(line.rate, 1e18) : 0;
  return format_bytes(static_cast<std::uint64_t>(rate)) + "/s";
}

std::string eta_text(const ProgressLine& line) {
  if (line.done >= line.total) return "ETA 0 s";
  if (!has_rate(line)) return "ETA --";
  const double seconds = static_cast<double>(line.total - line.done) / line.rate;
  if (seconds >= kLongestEta) return "ETA --";
  if (seconds < 59.5) return fmt::format("ETA {:.0f} s", std::ceil(seconds));
  return "ETA " + format_duration(std::chrono::seconds(std::llround(seconds)));
}

std::string sources_text(const ProgressLine& line) { return fmt::format("{} {}", line.sources, line.sources == 1 ? "source" : "sources"); }

std::string amount_text(const ProgressLine& line) { return fmt::format("{} of {}", format_bytes(line.done), format_bytes(line.total)); }

std::string bar(const ProgressLine& line, std::size_t columns) {
  const std::size_t inner = columns - 2;
  const auto filled = static_cast<std::size_t>(share_of(line) * static_cast<double>(inner));
  return "[" + std::string(filled, '#') + std::string(inner - filled, '.') + "]";
}

/// Which columns the screen has room for. The least useful go first when it gets narrow.
struct Layout {
  std::size_t name = 0;
  std::size_t bar = 0;  ///< None when 0.
  bool has_rate = false;
  bool has_amount = false;
  bool has_eta = false;
  bool has_sources = false;
};

constexpr std::size_t kPercentColumns = 7;   // " 100.0%"
constexpr std::size_t kRateColumns = 13;     // two spaces, "1023 MiB/s" with room
constexpr std::size_t kAmountColumns = 22;   // "  9.99 GiB of 9.99 GiB"
constexpr std::size_t kEtaColumns = 18;      // "  ETA 59 min 59 s"
constexpr std::size_t kSourcesColumns = 13;  // "  128 sources"
constexpr std::uint32_t kMostSources = 999;

Layout lay_out(std::size_t columns, std::size_t longest_name) {
  Layout layout;
  std::size_t room = columns > kPercentColumns ? columns - kPercentColumns : 0;
  const std::size_t name = std::clamp(longest_name, kNarrowestName, kWidestName);
  const auto take = [&](std::size_t wanted) {
    if (room < wanted + kNarrowestName) return false;
    room -= wanted;
    return true;
  };
  layout.has_rate = take(kRateColumns);
  layout.has_eta = layout.has_rate && take(kEtaColumns);
  layout.has_amount = layout.has_eta && take(kAmountColumns);
  layout.has_sources = layout.has_amount && take(kSourcesColumns);
  if (room >= name + kNarrowestBar + 1) layout.bar = std::min(room - name - 1, kWidestBar);
  const std::size_t bar_columns = layout.bar == 0 ? 0 : layout.bar + 1;
  layout.name = std::min(room - bar_columns, layout.bar == 0 ? room : name);
  return layout;
}

std::string padded(std::string_view text, std::size_t columns) {
  std::string out = fit_columns(text, columns);
  out.append(columns - columns_of(out), ' ');
  return out;
}

std::string draw(const ProgressLine& line, const Layout& layout, const Screen& screen) {
  std::string out = padded(printable(line.name), layout.name);
  if (layout.bar > 0) out += " " + bar(line, layout.bar);
  const std::string percent = fmt::format("{:>7}", percent_text(line));
  out += screen.has_colour ? "\x1b[32m" + percent + "\x1b[0m" : percent;
  if (layout.has_rate) out += fmt::format("{:>13}", rate_text(line));
  if (layout.has_eta) out += fmt::format("  {:<16}", eta_text(line));
  if (layout.has_amount) out += fmt::format("{:>22}", amount_text(line));
  if (layout.has_sources && line.sources <= kMostSources) out += fmt::format("{:>13}", sources_text(line));
  return out;
}

bool moves(const ProgressLine& line) { return line.done < line.total && (has_rate(line) || line.sources > 0); }

/// On a screen that is too narrow for the columns, what fits of the name alone is still safe to draw.
constexpr std::size_t kNarrowestScreen = kPercentColumns + kNarrowestName + 1;

}  // namespace

std::string progress_text(const ProgressLine& line) {
  return fmt::format("{} {}, {}, {}, {}", percent_text(line), amount_text(line), rate_text(line), eta_text(line), sources_text(line));
}

std::vector<std::string> progress_frame(const std::vector<ProgressLine>& files, const ProgressLine& total, const Screen& screen) {
  if (screen.columns < kNarrowestScreen) return {fit_columns(percent_text(total), screen.columns > 0 ? screen.columns - 1 : 0)};
  const std::size_t max_files = std::min(kMaxFiles, screen.rows > 2 ? screen.rows - 2 : 0);
  std::vector<ProgressLine> shown;
  for (const ProgressLine& file : files) {
    if (shown.size() == max_files) break;
    if (moves(file)) shown.push_back(file);
  }
  shown.push_back(total);

  std::size_t longest_name = 0;
  for (const ProgressLine& line : shown) longest_name = std::max(longest_name, columns_of(printable(line.name)));
  const Layout layout = lay_out(screen.columns - 1, longest_name);  // the last column would wrap on some terminals
  std::vector<std::string> frame;
  for (const ProgressLine& line : shown) frame.push_back(draw(line, layout, screen));
  return frame;
}

}  // namespace shoal
