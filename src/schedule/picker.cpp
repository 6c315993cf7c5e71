module;

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

module shoal.schedule;

import shoal.base;

namespace shoal {
namespace {

constexpr std::size_t kPlanes = 8;
constexpr std::size_t kNoPlane = kPlanes;  ///< Where a slot that is not needed stands.
constexpr std::size_t kWordBits = 64;
constexpr std::size_t kBlockWords = 64;
constexpr std::size_t kBlockSlots = kBlockWords * kWordBits;

std::size_t plane_of(std::uint32_t availability) {
  constexpr std::array<std::uint32_t, kPlanes - 1> last{1, 2, 3, 4, 6, 10, 20};
  return static_cast<std::size_t>(std::ranges::lower_bound(last, availability) - last.begin());
}

/// All that a neighbour's counts depend on, of one slot.
struct Standing {
  bool is_missing = false;
  std::size_t plane = kNoPlane;

  friend bool operator==(const Standing&, const Standing&) = default;
};

/// A neighbour's slots, and how many of them are of use to us. The counts make the frequent answer "nothing" O(1),
/// say at once which plane to look in, and let a pick skip whole blocks of 4096 slots.
struct Neighbour {
  bool is_here = false;
  SlotSet theirs;  ///< As long as the highest slot it told us of: slots past its end it does not have.
  std::size_t missing = 0;
  std::array<std::size_t, kPlanes> needed{};
  std::vector<std::array<std::uint16_t, kPlanes>> needed_in_block;

  void count(Slot slot, const Standing& standing) {
    missing += standing.is_missing ? 1 : 0;
    if (standing.plane == kNoPlane) return;
    ++needed[standing.plane];
    ++needed_in_block[slot.value / kBlockSlots][standing.plane];
  }

  void uncount(Slot slot, const Standing& standing) {
    missing -= standing.is_missing ? 1 : 0;
    if (standing.plane == kNoPlane) return;
    --needed[standing.plane];
    --needed_in_block[slot.value / kBlockSlots][standing.plane];
  }

  void reach(std::size_t slots) {
    theirs.resize(slots);
    needed_in_block.resize((slots + kBlockSlots - 1) / kBlockSlots);
  }

  bool has_same_counts(const Neighbour& other) const {
    return missing == other.missing && needed == other.needed && needed_in_block == other.needed_in_block;
  }
};

// Large files go side by side, so many at once, so that their MD5s can (docs/decisions/0022).
constexpr std::uint64_t kLargeFile = 256;  // chunks
constexpr std::size_t kFilesAtOnce = 4;

Slot slot_at(std::size_t word, std::size_t bit) { return Slot(static_cast<std::uint32_t>(word * kWordBits + bit)); }

std::size_t nth_bit(std::uint64_t word, std::size_t n) {
  for (; n > 0; --n) word &= word - 1;
  return static_cast<std::size_t>(std::countr_zero(word));
}

}  // namespace

struct Picker::State {
  SlotSet wanted;
  SlotSet have;
  SlotSet alone;  ///< What we have and no neighbour does.
  std::vector<std::uint16_t> in_flight;
  std::vector<std::uint16_t> availability;
  std::array<SlotSet, kPlanes> planes;  ///< The needed slots alone, each in the plane of its availability.
  std::vector<Neighbour> neighbours;
  std::vector<Source> free_sources;
  std::vector<Slot> fronts;  ///< The first slots of large files, from the lowest.
  Slot start{0};             ///< Where picks begin.
  std::size_t missing = 0;

  std::size_t slots() const { return availability.size(); }

  const Neighbour& neighbour(Source source) const {
    assert(source.value < neighbours.size() && neighbours[source.value].is_here);
    return neighbours[source.value];
  }
  Neighbour& neighbour(Source source) { return const_cast<Neighbour&>(std::as_const(*this).neighbour(source)); }

  Standing standing(Slot slot) const {
    assert(slot.value < slots());
    const bool is_missing = wanted.has(slot) && !have.has(slot);
    const bool is_needed = is_missing && in_flight[slot.value] == 0;
    return {is_missing, is_needed ? plane_of(availability[slot.value]) : kNoPlane};
  }

  /// Does `change` to what `slot` stands on, and carries the outcome into the planes and everyone's counts.
  template <class Change>
  void update(Slot slot, const Change& change) {
    const Standing before = standing(slot);
    change();
    if (have.has(slot) && availability[slot.value] == 0)
      alone.insert(slot);
    else
      alone.erase(slot);
    const Standing after = standing(slot);
    if (before == after) return;
    missing += after.is_missing ? 1 : 0;
    missing -= before.is_missing ? 1 : 0;
    if (before.plane != kNoPlane) planes[before.plane].erase(slot);
    if (after.plane != kNoPlane) planes[after.plane].insert(slot);
    for (Neighbour& each : neighbours) {
      if (!each.theirs.has(slot)) continue;
      each.uncount(slot, before);
      each.count(slot, after);
    }
  }

  void lose(Neighbour& neighbour, Slot slot) {
    if (!neighbour.theirs.has(slot)) return;
    neighbour.uncount(slot, standing(slot));
    neighbour.theirs.erase(slot);
    update(slot, [&] { --availability[slot.value]; });
  }

  /// The `n`th slot, from the lowest, of those in `plane` that `neighbour` has.
  Slot nth_needed(const Neighbour& neighbour, std::size_t plane, std::size_t n) const {
    std::size_t block = 0;
    for (; n >= neighbour.needed_in_block[block][plane]; ++block) n -= neighbour.needed_in_block[block][plane];
    const std::span theirs = neighbour.theirs.words();
    const std::span needed = planes[plane].words();
    for (std::size_t word = block * kBlockWords;; ++word) {
      const std::uint64_t both = theirs[word] & needed[word];
      const auto found = static_cast<std::size_t>(std::popcount(both));
      if (n < found) return slot_at(word, nth_bit(both, n));
      n -= found;
    }
  }

  /// How many slots below `end` are in `plane` and `neighbour` has them.
  std::size_t needed_below(const Neighbour& neighbour, std::size_t plane, Slot end) const {
    const std::span theirs = neighbour.theirs.words();
    const std::span needed = planes[plane].words();
    const std::size_t last = std::min(end.value / kWordBits, theirs.size());
    const std::size_t blocks = last / kBlockWords;
    std::size_t count = 0;
    for (std::size_t block = 0; block < blocks; ++block) count += neighbour.needed_in_block[block][plane];
    for (std::size_t word = blocks * kBlockWords; word < last; ++word)
      count += static_cast<std::size_t>(std::popcount(theirs[word] & needed[word]));
    if (last == theirs.size()) return count;
    const std::uint64_t below = (std::uint64_t{1} << (end.value % kWordBits)) - 1;
    return count + static_cast<std::size_t>(std::popcount(theirs[last] & needed[last] & below));
  }

  /// How many of those in `plane` that `neighbour` has come before where a pick begins: at the first of them from `start` on, or at the
  /// front of one of the large files that come next.
  std::size_t needed_before_pick(const Neighbour& neighbour, std::size_t plane, const Random& random) const {
    const std::size_t first = needed_below(neighbour, plane, start) % neighbour.needed[plane];
    if (fronts.empty()) return first;
    const auto next = std::ranges::upper_bound(fronts, nth_needed(neighbour, plane, first));
    const auto choices = std::min<std::size_t>(static_cast<std::size_t>(fronts.end() - next) + 1, kFilesAtOnce);
    const std::size_t chosen = choices < 2 ? 0 : random() % choices;
    return chosen == 0 ? first : needed_below(neighbour, plane, *(next + static_cast<std::ptrdiff_t>(chosen - 1)));
  }

  bool has_right_planes(Slot slot) const {
    const std::size_t plane = standing(slot).plane;
    for (std::size_t each = 0; each < kPlanes; ++each)
      if (planes[each].has(slot) != (each == plane)) return false;
    return true;
  }

  bool has_right_availability(Slot slot) const {
    const auto holders = std::ranges::count_if(neighbours, [&](const Neighbour& each) { return each.theirs.has(slot); });
    return holders == availability[slot.value];
  }

  bool has_right_counts(const Neighbour& neighbour) const {
    Neighbour recounted;
    recounted.reach(neighbour.theirs.size());
    for (std::uint32_t slot = 0; slot < neighbour.theirs.size(); ++slot)
      if (neighbour.theirs.has(Slot(slot))) recounted.count(Slot(slot), standing(Slot(slot)));
    return recounted.has_same_counts(neighbour);
  }
};

Picker::Picker() : state_(std::make_unique<State>()) {}
Picker::~Picker() = default;
Picker::Picker(Picker&&) noexcept = default;
Picker& Picker::operator=(Picker&&) noexcept = default;

Slot Picker::add_file(std::uint64_t chunks) {
  const std::size_t first = state_->slots();
  assert(chunks <= std::numeric_limits<std::uint32_t>::max() - first);
  const std::size_t slots = first + static_cast<std::size_t>(chunks);
  state_->wanted.resize(slots);
  state_->have.resize(slots);
  state_->alone.resize(slots);
  state_->in_flight.resize(slots);
  state_->availability.resize(slots);
  for (SlotSet& plane : state_->planes) plane.resize(slots);
  if (chunks >= kLargeFile) state_->fronts.emplace_back(static_cast<std::uint32_t>(first));
  return Slot(static_cast<std::uint32_t>(first));
}

std::size_t Picker::slots() const { return state_->slots(); }

void Picker::want(Slot slot) {
  state_->update(slot, [&] { state_->wanted.insert(slot); });
}

void Picker::unwant(Slot slot) {
  state_->update(slot, [&] { state_->wanted.erase(slot); });
}

void Picker::set_have(Slot slot) {
  state_->update(slot, [&] { state_->have.insert(slot); });
}

void Picker::clear_have(Slot slot) {
  state_->update(slot, [&] { state_->have.erase(slot); });
}

bool Picker::has(Slot slot) const { return state_->have.has(slot); }
bool Picker::is_wanted(Slot slot) const { return state_->wanted.has(slot); }
std::size_t Picker::missing() const { return state_->missing; }

Source Picker::add_source() {
  Source source(static_cast<std::uint32_t>(state_->neighbours.size()));
  if (state_->free_sources.empty()) {
    state_->neighbours.emplace_back();
  } else {
    source = state_->free_sources.back();
    state_->free_sources.pop_back();
  }
  state_->neighbours[source.value].is_here = true;
  return source;
}

void Picker::remove_source(Source source) {
  Neighbour& neighbour = state_->neighbour(source);
  const auto words = neighbour.theirs.words();
  for (std::size_t word = 0; word < words.size(); ++word)
    for (std::uint64_t left = words[word]; left != 0; left &= left - 1) state_->lose(neighbour, slot_at(word, nth_bit(left, 0)));
  neighbour = Neighbour{};
  state_->free_sources.push_back(source);
}

bool Picker::source_has(Source source, Slot slot) {
  assert(slot.value < slots());
  Neighbour& neighbour = state_->neighbour(source);
  if (neighbour.theirs.has(slot)) return false;
  if (slot.value >= neighbour.theirs.size()) neighbour.reach(slots());
  state_->update(slot, [&] { ++state_->availability[slot.value]; });
  neighbour.theirs.insert(slot);
  neighbour.count(slot, state_->standing(slot));
  return true;
}

void Picker::source_lost(Source source, Slot slot) { state_->lose(state_->neighbour(source), slot); }

bool Picker::knows(Source source, Slot slot) const { return state_->neighbour(source).theirs.has(slot); }

std::uint32_t Picker::availability(Slot slot) const {
  assert(slot.value < slots());
  return state_->availability[slot.value];
}

std::optional<Slot> Picker::next_alone(Slot from, Slot end) const {
  const std::span words = state_->alone.words();
  for (std::size_t word = from.value / kWordBits; word * kWordBits < end.value; ++word) {
    std::uint64_t bits = words[word];
    if (word == from.value / kWordBits) bits &= ~std::uint64_t{0} << (from.value % kWordBits);
    if (bits == 0) continue;
    const Slot found = slot_at(word, nth_bit(bits, 0));
    return found < end ? std::optional(found) : std::nullopt;
  }
  return std::nullopt;
}

bool Picker::is_interesting(Source source) const { return state_->neighbour(source).missing > 0; }

void Picker::begin(Slot slot) {
  state_->update(slot, [&] { ++state_->in_flight[slot.value]; });
}

void Picker::end(Slot slot) {
  if (in_flight(slot) == 0) return;
  state_->update(slot, [&] { --state_->in_flight[slot.value]; });
}

std::uint32_t Picker::in_flight(Slot slot) const {
  assert(slot.value < slots());
  return state_->in_flight[slot.value];
}

namespace {

// Among the first of those that are equally rare, the lower the likelier: far enough apart for variety, near enough that files
// become whole from the front, where the MD5 can follow. With all of them to choose from, the MD5 was 6 to 8 s behind the last
// chunk of the classic run; with the first 128 alike, chunk 0 of 256 came after two thirds of the time (docs/decisions/0006). A
// quarter of what there is, and at last half of what is missing: what comes last at the front is what the MD5 waits for (0018).
constexpr std::size_t kNear = 128;
constexpr std::size_t kNearOfFew = 64;
constexpr std::size_t kNearAtLast = 8;

constexpr std::size_t kMostLooks = 4096;

std::size_t near(std::size_t slots, std::size_t missing) {
  return std::clamp(missing / 2, kNearAtLast, std::clamp(slots / 4, kNearOfFew, kNear));
}

std::size_t draw(const Random& random, std::size_t choices) {
  const double u = static_cast<double>(random() >> 11) * 0x1p-53;  // in [0, 1)
  return static_cast<std::size_t>(u * u * static_cast<double>(choices));
}

}  // namespace

std::optional<Slot> Picker::pick(Source source, const Random& random, bool in_order, std::size_t spread) const {
  const Neighbour& neighbour = state_->neighbour(source);
  for (std::size_t plane = 0; plane < kPlanes; ++plane) {
    const std::size_t choices = neighbour.needed[plane];
    if (choices == 0) continue;
    if (in_order) return state_->nth_needed(neighbour, plane, 0);
    const std::size_t from = state_->needed_before_pick(neighbour, plane, random);
    return state_->nth_needed(neighbour, plane,
                              (from + draw(random, std::min(choices, std::max(spread, near(slots(), missing()))))) % choices);
  }
  return std::nullopt;
}

std::optional<Slot> Picker::pick_where(Source source, Slot from, const std::function<bool(Slot)>& may) const {
  const Neighbour& neighbour = state_->neighbour(source);
  const std::span theirs = neighbour.theirs.words();
  std::size_t looks = 0;
  for (std::size_t plane = 0; plane < kPlanes; ++plane) {
    if (neighbour.needed[plane] == 0) continue;
    const std::span needed = state_->planes[plane].words();
    for (std::size_t i = 0; i < theirs.size(); ++i) {
      const std::size_t word = (from.value / kWordBits + i) % theirs.size();
      for (std::uint64_t both = theirs[word] & needed[word]; both != 0; both &= both - 1) {
        if (++looks > kMostLooks) return std::nullopt;
        if (const Slot slot = slot_at(word, nth_bit(both, 0)); may(slot)) return slot;
      }
    }
  }
  return std::nullopt;
}

void Picker::begin_elsewhere(Source source, const Random& random) {
  const Neighbour& neighbour = state_->neighbour(source);
  const auto rarest = std::ranges::find_if(neighbour.needed, [](std::size_t slots) { return slots > 0; });
  if (rarest == neighbour.needed.end()) return;
  state_->start = state_->nth_needed(neighbour, static_cast<std::size_t>(rarest - neighbour.needed.begin()), random() % *rarest);
}

bool Picker::is_consistent() const {
  std::size_t missing_slots = 0;
  for (std::uint32_t slot = 0; slot < slots(); ++slot) {
    if (!state_->has_right_availability(Slot(slot)) || !state_->has_right_planes(Slot(slot))) return false;
    missing_slots += state_->standing(Slot(slot)).is_missing ? 1 : 0;
  }
  const auto is_right = [&](const Neighbour& each) { return state_->has_right_counts(each); };
  return missing_slots == state_->missing && std::ranges::all_of(state_->neighbours, is_right);
}

}  // namespace shoal
