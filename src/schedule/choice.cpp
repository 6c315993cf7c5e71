module;

#include <fmt/core.h>
#include <tl/expected.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

module shoal.schedule;

import shoal.base;

namespace shoal {
namespace {

constexpr double kMillisecondsOfLoad = 10.0;
constexpr Nanoseconds kLongestLatency = std::chrono::hours(1);

double mean_rate(std::span<const Candidate> candidates) {
  double sum = 0;
  std::size_t count = 0;
  for (const Candidate& candidate : candidates) {
    if (candidate.rate <= 0) continue;
    sum += candidate.rate;
    ++count;
  }
  return count == 0 ? 0 : sum / static_cast<double>(count);
}

/// How long a file of `bytes` is expected to take, in milliseconds; without any rate just the score.
double expected_milliseconds(const Candidate& candidate, std::uint64_t bytes, double mean) {
  const auto at_rate = [&](double rate) { return 1000.0 * static_cast<double>(bytes) / rate; };
  if (candidate.rate > 0) return at_rate(candidate.rate);
  return score_of(candidate) + (mean > 0 ? at_rate(mean) : 0.0);
}

}  // namespace

double score_of(const Candidate& candidate) {
  if (!candidate.latency) return std::numeric_limits<double>::infinity();
  return Seconds(*candidate.latency).count() * 1000.0 + kMillisecondsOfLoad * candidate.load;
}

std::vector<std::size_t> rank(std::span<const Candidate> candidates, std::uint64_t bytes) {
  const double mean = mean_rate(candidates);
  std::vector<std::size_t> order(candidates.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto key = [&](std::size_t i) {
    return std::pair(expected_milliseconds(candidates[i], bytes, mean), std::string_view(candidates[i].name));
  };
  std::ranges::sort(order, {}, key);
  return order;
}

// ---- latencies from a file ----------------------------------------------------------------------------

namespace {

std::vector<std::string_view> words_of(std::string_view line) {
  constexpr std::string_view kBlank = " \t\r";
  std::vector<std::string_view> words;
  line = line.substr(0, line.find('#'));
  for (auto begin = line.find_first_not_of(kBlank); begin != std::string_view::npos; begin = line.find_first_not_of(kBlank)) {
    line.remove_prefix(begin);
    const auto end = std::min(line.find_first_of(kBlank), line.size());
    words.push_back(line.substr(0, end));
    line.remove_prefix(end);
  }
  return words;
}

std::optional<Nanoseconds> parse_milliseconds(std::string_view text) {
  const auto duration = parse_duration(fmt::format("{}ms", text));
  if (!duration || *duration > kLongestLatency) return std::nullopt;
  return *duration;
}

std::array<std::string, 3> names_of(const LatencyTable::Party& party) { return {party.id, to_string(party.address), party.address.host}; }

}  // namespace

Result<LatencyTable> LatencyTable::parse(std::string_view text) {
  LatencyTable table;
  for (std::size_t number = 1; !text.empty(); ++number) {
    const auto end = std::min(text.find('\n'), text.size());
    const auto words = words_of(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (words.empty()) continue;
    const auto bad = [&](std::string why) {
      return fail(Errc::usage, fmt::format("line {}: {}", number, why), "write A B MILLISECONDS on each line");
    };
    if (words.size() != 3) return bad(fmt::format("{} words", words.size()));
    const auto latency = parse_milliseconds(words[2]);
    if (!latency) return bad(fmt::format("'{}' is no number of milliseconds", words[2]));
    const auto [place, is_new] = table.pairs_.try_emplace({std::string(words[0]), std::string(words[1])}, *latency);
    if (!is_new && place->second != *latency) return bad(fmt::format("{} to {} is there already", words[0], words[1]));
  }
  return table;
}

std::optional<Nanoseconds> LatencyTable::find(const Party& from, const Party& to) const {
  const auto either = [this](const Party& a, const Party& b) -> std::optional<Nanoseconds> {
    for (const std::string& first : names_of(a))
      for (const std::string& second : names_of(b))
        if (const auto named = pairs_.find({first, second}); named != pairs_.end()) return named->second;
    return std::nullopt;
  };
  if (const auto latency = either(from, to)) return latency;
  return either(to, from);
}

}  // namespace shoal
