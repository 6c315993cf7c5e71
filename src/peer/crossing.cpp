module;

#include <boost/asio/any_io_executor.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

module shoal.peer;

import :node;
import shoal.base;
import shoal.digest;
import shoal.schedule;
import shoal.wire;
import shoal.world;

namespace shoal {
namespace {

/// What has to have come from a neighbour before it can be far: a round trip that was measured once tells of queues as well.
constexpr std::uint64_t kLeastReceived = 2 * kChunkSize;

/// Those that are near, as a pick from one that is far looks at them. Who is late is not among them: whatever it said that it has, nobody
/// knows whether it will come.
struct Near {
  std::vector<const Remote*> remotes;
};

/// Nothing where `remote` is not far, or nobody is near.
std::optional<Near> near_of(const Node& node, const Remote& remote) {
  const auto round_trip = remote.rate.round_trip();
  if (!round_trip || remote.bytes_received < kLeastReceived || !is_far(*round_trip, Nanoseconds::zero()))
    return std::nullopt;  // the usual case: nobody is
  Nanoseconds nearest = *round_trip;
  for (const auto& [source, other] : node.remotes)
    if (!other->is_late) nearest = std::min(nearest, other->rate.round_trip().value_or(nearest));
  if (!is_far(*round_trip, nearest)) return std::nullopt;
  Near near;
  for (const auto& [source, other] : node.remotes)
    if (const auto theirs = other->rate.round_trip(); theirs && !other->is_late && !is_far(*theirs, nearest))
      near.remotes.push_back(other.get());
  return near;
}

/// The same at every peer, wherever the content stands in its table.
std::uint64_t key_of_chunk(const Content& content, std::uint32_t chunk) {
  std::uint64_t key = 0;
  std::memcpy(&key, content.root.bytes.data(), sizeof key);
  return key ^ std::uint64_t{chunk} << 32 ^ chunk;
}

/// Whether someone near has it, and can deliver: not who was asked for it, in vain, or it would be in flight.
bool is_had_near(const Node& node, const Near& near, const Remote& far, Slot slot) {
  return std::ranges::any_of(near.remotes, [&](const Remote* other) {
    return node.picker.knows(other->source, slot) && !other->outstanding.contains(slot) &&
           is_better_near(other->rate, far.rate, kChunkSize);
  });
}

bool is_ours(Node& node, const Near& near, Slot slot) {
  const Content& content = content_at(node, slot);
  std::vector<std::uint64_t> others;
  for (const Remote* other : near.remotes)
    if (is_interested(*other, content)) others.push_back(key_of(other->id));
  return is_ours_to_bring(key_of_chunk(content, chunk_of(content, slot)), key_of(node.options.id), others);
}

std::optional<Slot> pick_across(Node& node, const Remote& remote, const Near& near, const Random& random) {
  const Instant now = node.world.now();
  if (!node.crossing.may_look(now)) return std::nullopt;
  // Each begins elsewhere: where not all know each other, several take a chunk for theirs, and the first that has it is soon asked by the
  // rest.
  const std::size_t slots = std::max<std::size_t>(node.picker.slots(), 1);
  const Slot begin(static_cast<std::uint32_t>(key_of(node.options.id) % slots));
  std::uint64_t others = 0;
  const auto is_for_us = [&](Slot slot) {
    if (is_had_near(node, near, remote, slot)) return false;
    const bool is_it = is_ours(node, near, slot);
    others += is_it ? 0 : 1;
    return is_it;
  };
  const auto ours = node.picker.pick_where(remote.source, begin, is_for_us);
  if (ours) {
    node.crossing.on_found();
    return ours;
  }
  if (node.crossing.may_bring_others(now)) {
    // Where those that it is left to do not begin: what they ask for now is not to cross twice.
    const Slot from(static_cast<std::uint32_t>(random() % slots));
    if (const auto other = node.picker.pick_where(remote.source, from, [&](Slot slot) { return !is_had_near(node, near, remote, slot); }))
      return other;
  }
  const double rate = remote.rate.rate();
  const Seconds alone(rate > 0 ? static_cast<double>(others * kChunkSize) / rate : 0);
  node.crossing.on_nothing(now, std::chrono::duration_cast<Nanoseconds>(std::min<Seconds>(alone, Crossing::kLongestHold)));
  return std::nullopt;
}

}  // namespace

std::optional<Slot> pick_for(Node& node, const Remote& remote, const Random& random, bool in_order, std::size_t spread) {
  const auto near = near_of(node, remote);
  return near ? pick_across(node, remote, *near, random) : node.picker.pick(remote.source, random, in_order, spread);
}

bool is_near(const Remote& remote) {
  const auto round_trip = remote.rate.round_trip();
  return round_trip && !is_far(*round_trip, Nanoseconds::zero());
}

bool is_farther(const Remote& remote, const Remote& than) {
  const auto round_trip = remote.rate.round_trip();
  const auto other = than.rate.round_trip();
  return round_trip && other && remote.bytes_received >= kLeastReceived && is_far(*round_trip, *other);
}

}  // namespace shoal
