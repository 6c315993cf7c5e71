module;

#include <algorithm>
#include <chrono>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

module shoal.schedule;

import shoal.base;

namespace shoal {
namespace {

/// A chunk that so many neighbours have is common, and all that are common are alike.
constexpr std::uint32_t kCommon = 2;

/// A waiting request's place in its neighbour's line; the lowest is served first. `was_sent` and `availability`, which is counted up to
/// kCommon, are what they were when the place was given. Both only rise while nobody leaves, so a place is never too late, and it
/// is enough to look again at whoever is at the head of a line: if its place has become worse, it moves back.
struct Place {
  bool was_sent = false;
  std::uint32_t availability = 0;
  std::uint64_t sequence = 0;
  Slot slot;

  friend auto operator<=>(const Place&, const Place&) = default;
};

struct Line {
  std::set<Place> places;
  std::unordered_map<std::uint32_t, Place> place_of;  ///< By slot.

  void put(const Place& place) {
    places.insert(place);
    place_of[place.slot.value] = place;
  }

  bool take(Slot slot) {
    const auto found = place_of.find(slot.value);
    if (found == place_of.end()) return false;
    places.erase(found->second);
    place_of.erase(found);
    return true;
  }
};

}  // namespace

struct UploadQueue::State {
  using Availability = std::function<std::uint32_t(Slot)>;

  std::map<Source, Line> lines;
  std::unordered_map<Source, std::uint64_t> served;  ///< How many chunks each neighbour was given.
  std::vector<std::uint32_t> times_sent;
  std::uint64_t next_sequence = 0;
  std::size_t waiting = 0;
  bool may_have_sunk = false;  ///< Someone left or a chunk counts as unsent: places may be too late now.

  bool was_sent(Slot slot) const { return slot.value < times_sent.size() && times_sent[slot.value] > 0; }

  Place place_now(const Place& place, const Availability& availability) const {
    return {was_sent(place.slot), std::min(availability(place.slot), kCommon), place.sequence, place.slot};
  }

  void reorder(const Availability& availability) {
    for (auto& [to, line] : lines) {
      const std::set<Place> old = std::exchange(line.places, {});
      for (const Place& place : old) line.put(place_now(place, availability));
    }
    may_have_sunk = false;
  }

  /// What nobody has goes to whoever was given the least: one more that can pass on.
  bool is_before(Source to, const Place& place, Source other, const Place& others) const {
    const auto given = [this](Source source) {
      const auto known = served.find(source);
      return known == served.end() ? std::uint64_t{0} : known->second;
    };
    if (place.was_sent == others.was_sent && place.availability == 0 && others.availability == 0 && given(to) != given(other))
      return given(to) < given(other);
    return place < others;
  }

  const Place& head(Line& line, const Availability& availability) const {
    for (;;) {
      const Place place = *line.places.begin();
      const Place now = place_now(place, availability);
      if (now == place) return *line.places.begin();
      line.take(place.slot);
      line.put(now);
    }
  }

  bool take(Source to, Slot slot) {
    const auto line = lines.find(to);
    if (line == lines.end() || !line->second.take(slot)) return false;
    --waiting;
    if (line->second.places.empty()) lines.erase(line);
    return true;
  }

  void count_sent(Slot slot) {
    if (slot.value >= times_sent.size()) times_sent.resize(std::size_t{slot.value} + 1);
    ++times_sent[slot.value];
  }
};

UploadQueue::UploadQueue() : state_(std::make_unique<State>()) {}
UploadQueue::~UploadQueue() = default;
UploadQueue::UploadQueue(UploadQueue&&) noexcept = default;
UploadQueue& UploadQueue::operator=(UploadQueue&&) noexcept = default;

bool UploadQueue::has_room(Source to, Slot slot) const {
  const auto line = state_->lines.find(to);
  return line == state_->lines.end() || line->second.places.size() < kMaxWaiting || line->second.place_of.contains(slot.value);
}

bool UploadQueue::add(Source to, Slot slot) {
  if (!has_room(to, slot)) return false;
  Line& line = state_->lines[to];
  if (line.place_of.contains(slot.value)) return true;
  // No place is better than this one, so its true one is found when it gets to the head.
  line.put({state_->was_sent(slot), 0, state_->next_sequence++, slot});
  ++state_->waiting;
  return true;
}

bool UploadQueue::cancel(Source to, Slot slot) { return state_->take(to, slot); }

void UploadQueue::remove(Source to) {
  const auto line = state_->lines.find(to);
  state_->may_have_sunk = true;
  state_->served.erase(to);
  if (line == state_->lines.end()) return;
  state_->waiting -= line->second.places.size();
  state_->lines.erase(line);
}

std::size_t UploadQueue::waiting(Source to) const {
  const auto line = state_->lines.find(to);
  return line == state_->lines.end() ? 0 : line->second.places.size();
}

std::size_t UploadQueue::waiting() const { return state_->waiting; }

std::optional<UploadQueue::Serve> UploadQueue::next(const std::function<bool(Source)>& is_ready,
                                                    const std::function<std::uint32_t(Slot)>& availability) {
  if (state_->may_have_sunk) state_->reorder(availability);
  std::optional<Source> best;
  Place first;
  for (auto& [to, line] : state_->lines) {
    if (!is_ready(to)) continue;
    const Place& place = state_->head(line, availability);
    if (best && state_->is_before(*best, first, to, place)) continue;
    best = to;
    first = place;
  }
  if (!best) return std::nullopt;
  state_->take(*best, first.slot);
  state_->count_sent(first.slot);
  ++state_->served[*best];
  return Serve{*best, first.slot};
}

void UploadQueue::unsend(Slot slot) {
  if (!state_->was_sent(slot)) return;
  --state_->times_sent[slot.value];
  state_->may_have_sunk = true;
}

std::uint32_t UploadQueue::times_sent(Slot slot) const {
  return slot.value < state_->times_sent.size() ? state_->times_sent[slot.value] : 0;
}

std::uint32_t upload_shares(Nanoseconds round_trip, Seconds an_upload) {
  constexpr Nanoseconds kFar = std::chrono::milliseconds(5);
  constexpr Nanoseconds kVeryFar = std::chrono::milliseconds(100);
  constexpr double kSlowUpload = 16;  // in round trips
  if (round_trip < kFar || Seconds(round_trip) * kSlowUpload < an_upload) return kUplinkShares / 3;
  return round_trip < kVeryFar ? kUplinkShares / 6 : 1;
}

}  // namespace shoal
