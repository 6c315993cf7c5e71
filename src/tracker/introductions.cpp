module;

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <utility>
#include <vector>

module shoal.tracker;

namespace shoal {
namespace {

/// Where a peer stands on the ring: anywhere, so that those who come one after the other do not stand side by side.
std::uint64_t ring_rank(PeerId peer) {
  std::uint64_t bits = (std::uint64_t{peer.value} + 1) * 0x9E3779B97F4A7C15;  // Fibonacci hashing: even, and no two alike
  bits ^= bits >> 32;
  return bits * 0xD6E8FEB86659FD93;
}

}  // namespace

Introductions::Place& Introductions::place(PeerId peer) {
  if (places_.size() <= peer.value) places_.resize(std::size_t{peer.value} + 1);
  return places_[peer.value];
}

/// Where the peer stands on the ring, or would.
std::size_t Introductions::position(PeerId peer) const {
  return static_cast<std::size_t>(std::ranges::lower_bound(ring_, ring_rank(peer), {}, ring_rank) - ring_.begin());
}

std::size_t Introductions::others_here(PeerId peer) const { return peer.value < places_.size() ? places_[peer.value].here : 0; }

/// False where it is here already.
bool Introductions::enter(PeerId peer) {
  if (std::exchange(place(peer).is_here, true)) return false;
  ring_.insert(ring_.begin() + static_cast<std::ptrdiff_t>(position(peer)), peer);
  for (const PeerId other : places_[peer.value].others) ++places_[other.value].here;
  return true;
}

/// With fewer others than this a peer gets more. In a swarm that all know each other in, everyone.
std::size_t Introductions::fewest() const {
  const std::size_t degree = usual_degree(ring_.size());
  return degree + 1 >= ring_.size() ? degree : degree * 3 / 4;
}

bool Introductions::may_pair(PeerId a, PeerId b, bool is_capped) const {
  const Place& other = places_[b.value];
  if (a == b || (is_capped && other.here >= 2 * usual_degree(ring_.size()))) return false;
  return std::ranges::find(places_[a.value].others, b) == places_[a.value].others.end();
}

/// Introduces two that are here.
bool Introductions::pair(PeerId a, PeerId b, std::vector<Pair>& fresh) {
  if (!may_pair(a, b, false)) return false;
  places_[a.value].others.push_back(b);
  places_[b.value].others.push_back(a);
  ++places_[a.value].here;
  ++places_[b.value].here;
  fresh.emplace_back(a, b);
  return true;
}

/// Introduces the peer to others around the ring until it knows `others` that are here: to those that are some steps away, or the
/// next ones where it knows them or they know many.
void Introductions::fill(PeerId peer, std::size_t others, std::vector<Pair>& fresh) {
  others = std::min(others, ring_.size() - 1);
  const std::size_t start = position(peer);
  const bool is_capped = others < usual_degree(ring_.size());
  const auto pair_near = [&](std::size_t step) {
    for (std::size_t skipped = 0; skipped < ring_.size(); ++skipped) {
      const PeerId other = ring_[(start + step + skipped) % ring_.size()];
      if (may_pair(peer, other, is_capped)) return pair(peer, other, fresh);
    }
    return false;
  };
  while (places_[peer.value].here < others) {
    const std::size_t lacking = others - places_[peer.value].here;
    bool is_any = false;
    for (const std::size_t step : ring_steps(ring_.size(), 2 * lacking)) is_any |= places_[peer.value].here < others && pair_near(step);
    if (!is_any) return;
  }
}

std::vector<Introductions::Pair> Introductions::begin(const std::vector<PeerId>& peers) {
  std::vector<Pair> fresh;
  for (const PeerId peer : peers) enter(peer);
  const std::size_t degree = usual_degree(ring_.size());
  if (degree + 1 >= ring_.size()) {
    for (const PeerId peer : ring_) fill(peer, degree, fresh);
    return fresh;
  }
  const auto steps = ring_steps(ring_.size(), degree);
  for (std::size_t i = 0; i < ring_.size(); ++i)
    for (const std::size_t step : steps) pair(ring_[i], ring_[(i + step) % ring_.size()], fresh);
  return fresh;
}

std::vector<Introductions::Pair> Introductions::arrive(PeerId peer) {
  std::vector<Pair> fresh;
  if (enter(peer)) fill(peer, fewest(), fresh);
  return fresh;
}

std::vector<Introductions::Pair> Introductions::depart(PeerId peer) {
  std::vector<Pair> fresh;
  if (!std::exchange(place(peer).is_here, false)) return fresh;
  ring_.erase(ring_.begin() + static_cast<std::ptrdiff_t>(position(peer)));
  for (const PeerId other : places_[peer.value].others) --places_[other.value].here;
  const auto left = places_[peer.value].others;
  for (const PeerId other : left)
    if (places_[other.value].is_here && places_[other.value].here < fewest()) fill(other, fewest(), fresh);
  return fresh;
}

std::vector<Introductions::Pair> Introductions::even_out() {
  std::vector<Pair> fresh;
  const std::size_t degree = usual_degree(ring_.size());
  const auto is_short = [&](PeerId peer) { return places_[peer.value].here < degree; };
  std::vector<PeerId> few;
  std::ranges::copy_if(ring_, std::back_inserter(few), is_short);
  for (std::size_t i = 0; i < few.size(); ++i)
    for (std::size_t j = i + 1; j < few.size() && is_short(few[i]); ++j)
      if (is_short(few[j])) pair(few[i], few[j], fresh);
  for (const PeerId peer : few) fill(peer, degree, fresh);  // who knows all of those already
  return fresh;
}

std::vector<Introductions::Pair> Introductions::widen(PeerId peer, std::size_t others) {
  std::vector<Pair> fresh;
  if (place(peer).is_here) fill(peer, others, fresh);
  return fresh;
}

}  // namespace shoal
