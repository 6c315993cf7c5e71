/// What far_link is told: rates, times and shares as a person writes them.
#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "network.hpp"

namespace farlink {

struct Options {
  std::string name;
  int count = 2;
  double rate = kNoLimit;  ///< Bytes a second.
  Duration delay{};
  double loss = 0;  ///< From 0 to 1.
  Duration queue = std::chrono::milliseconds(50);
  std::uint64_t seed = 1;
};

/// Bytes a second, of 500mbit, 1gbit or `none`, as tc writes it; nothing where it is something else.
std::optional<double> parse_rate(std::string_view text);
/// Of 25ms, 1.5s or 300us.
std::optional<Duration> parse_duration(std::string_view text);
/// A share from 0 to 1, of 0.1% or 0.1: both are a tenth of a percent.
std::optional<double> parse_percent(std::string_view text);

void add_options(CLI::App& app, Options& options);

}  // namespace farlink
