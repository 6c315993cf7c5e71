/// How far_link's command line is read.
#include "options.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <initializer_list>
#include <system_error>
#include <utility>

namespace farlink {
namespace {

/// A number that is not negative, and the word behind it.
std::optional<std::pair<double, std::string_view>> number_and_unit(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed);
  if (error != std::errc() || !std::isfinite(value) || value < 0) return std::nullopt;
  return std::pair(value, text.substr(static_cast<std::size_t>(end - text.data())));
}

using Units = std::initializer_list<std::pair<const char*, double>>;

std::optional<double> scaled(std::string_view text, Units units) {
  const auto parts = number_and_unit(text);
  if (!parts) return std::nullopt;
  for (const auto& [unit, factor] : units) {
    if (parts->second == unit) return parts->first * factor;
  }
  return std::nullopt;
}

/// Reads an option by `parse`, within what makes sense.
template <class T, class Parse>
CLI::Option* add(CLI::App& app, const std::string& name, T& target, Parse parse, const std::string& wanted, const std::string& help) {
  return app.add_option_function<std::string>(
      name,
      [&target, parse, wanted](const std::string& text) {
        const auto value = parse(text);
        if (!value) throw CLI::ValidationError(fmt::format("'{}' is not {}", text, wanted));
        target = *value;
      },
      help);
}

}  // namespace

std::optional<double> parse_rate(std::string_view text) {
  if (text == "none") return kNoLimit;
  const auto rate = scaled(text, {{"bit", 1.0 / 8}, {"kbit", 1e3 / 8}, {"mbit", 1e6 / 8}, {"gbit", 1e9 / 8}});
  return rate && *rate >= 1000 && *rate <= 1e11 ? rate : std::nullopt;
}

std::optional<Duration> parse_duration(std::string_view text) {
  constexpr double kMost = 60e9;
  const auto ns = scaled(text, {{"us", 1e3}, {"ms", 1e6}, {"s", 1e9}, {"ns", 1.0}});
  return ns && *ns <= kMost ? std::optional(Duration(std::llround(*ns))) : std::nullopt;
}

std::optional<double> parse_percent(std::string_view text) {
  const auto share = scaled(text, {{"%", 0.01}, {"", 0.01}});
  return share && *share < 1 ? share : std::nullopt;
}

void add_options(CLI::App& app, Options& options) {
  app.add_option("NAME", options.name, "of the lab: its namespaces are NAME-1 and so on, and NAME-switch, which has no limit")->required();
  app.get_option("NAME")->check([](const std::string& name) {
    const bool is_plain =
        !name.empty() && std::ranges::all_of(name, [](unsigned char each) { return std::isalnum(each) || each == '_' || each == '-'; });
    return is_plain ? std::string() : fmt::format("'{}' is not a name of letters, digits, - and _", name);
  });
  app.add_option("COUNT", options.count, "hosts")->required()->check(CLI::Range(1, 200));
  add(app, "RATE", options.rate, parse_rate, "a rate such as 500mbit, or none", "of each host's link, up and down")->required();
  add(app, "--delay", options.delay, parse_duration, "a time such as 25ms, a minute at most", "of a packet, one way");
  add(app, "--loss", options.loss, parse_percent, "a percentage such as 0.1%, below 100", "packets that are lost on their way");
  add(app, "--queue", options.queue, parse_duration, "a time such as 50ms, a minute at most",
      "how long a packet waits at most for either line; 50ms");
  app.add_option("--seed", options.seed, "of what is lost; 1");
}

}  // namespace farlink
