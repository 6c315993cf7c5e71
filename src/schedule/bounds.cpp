module;

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

module shoal.schedule;

import shoal.base;

namespace shoal {
namespace {

double score_without_rate(const SourceScore& source) { return source.latency_ms + 10.0 * source.load; }

double seconds_to_deliver(const SourceScore& source, std::uint64_t bytes) {
  return static_cast<double>(source.outstanding + bytes) / source.rate;
}

bool is_better(const SourceScore& a, const SourceScore& b, std::uint64_t bytes) {
  const bool a_has_rate = a.rate > 0;
  const bool b_has_rate = b.rate > 0;
  if (a_has_rate != b_has_rate) return a_has_rate;
  return a_has_rate ? seconds_to_deliver(a, bytes) < seconds_to_deliver(b, bytes) : score_without_rate(a) < score_without_rate(b);
}

/// The time that `bytes` take at `rate`; none at all where the rate is unlimited.
Seconds time_at(std::uint64_t bytes, double rate) { return rate > 0 ? Seconds(static_cast<double>(bytes) / rate) : Seconds(0); }

}  // namespace

std::optional<std::size_t> best_source(std::span<const SourceScore> sources, std::uint64_t bytes) {
  if (sources.empty()) return std::nullopt;
  const auto better = [&](const SourceScore& a, const SourceScore& b) { return is_better(a, b, bytes); };
  return static_cast<std::size_t>(std::ranges::min_element(sources, better) - sources.begin());
}

std::optional<Seconds> lower_bound(std::span<const BoundPeer> peers) {
  Seconds bound{0};
  std::uint64_t lacked = 0;
  double uploads = 0;
  bool is_any_known = false;
  bool are_uploads_limited = true;
  for (const BoundPeer& peer : peers) {
    bound = std::max({bound, time_at(peer.offers, peer.upload), time_at(peer.lacks, peer.download)});
    is_any_known = is_any_known || peer.upload > 0 || peer.download > 0;
    are_uploads_limited = are_uploads_limited && peer.upload > 0;
    lacked += peer.lacks;
    uploads += peer.upload;
  }
  if (!is_any_known) return std::nullopt;
  return are_uploads_limited ? std::max(bound, time_at(lacked, uploads)) : bound;
}

double percent_of_bound(Seconds bound, Seconds taken) { return taken.count() > 0 ? 100.0 * bound.count() / taken.count() : 0.0; }

}  // namespace shoal
