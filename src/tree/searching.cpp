// How a search spreads over the tree and ends, as one node sees it.
module;

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <tl/expected.hpp>

module shoal.tree;

import :actions;
import :search;
import shoal.base;
import shoal.manifest;
import shoal.wire;

using namespace std::chrono_literals;

namespace shoal {
namespace {

constexpr Nanoseconds kFloodTime = 10s;
constexpr std::size_t kMostEnded = 8192;
constexpr std::size_t kGathered = 256;
constexpr std::size_t kAnswerRoom = kElementRoom - 4096;  // bytes of hits in one message

constexpr Nanoseconds kGoesOn = 1s;      // whoever waits for the end is told so
constexpr Nanoseconds kSilent = 2500ms;  // a branch of which nothing came has lost the search
constexpr std::uint32_t kPatientHops = 32;

/// What a branch is told: a little less than we wait, so that it answers before we give it up. After many hops that would leave nothing.
std::uint32_t time_for(std::uint32_t left_ms, std::uint32_t hops) { return hops < kPatientHops ? left_ms - left_ms / 64 : left_ms; }

}  // namespace

// ---- who may ask --------------------------------------------------------------------------------------

bool Searches::take_token(Sender& sender, Instant now) {
  if (sender.at != Instant{}) sender.tokens = std::min(kBurst, sender.tokens + Seconds(now - sender.at).count() * kRate);
  sender.at = now;
  if (sender.tokens < 1) return false;
  sender.tokens -= 1;
  return true;
}

bool Searches::has_place(const Sender& sender, Asker asker) const {
  switch (asker) {
    case Asker::neighbour: return sender.under_way < kMostOfNeighbour;
    case Asker::stranger: return of_strangers_ < kMostOfStrangers;
    case Asker::self: return of_self_ < kMostOfSelf;
  }
  return false;
}

/// Says at once that it is not asked on.
Result<> Searches::refuse(LinkIndex from, Sender& sender, std::uint64_t id, Instant now) {
  if (now - sender.refused_since > kFloodTime) {
    sender.refused = 0;
    sender.refused_since = now;
  }
  if (++sender.refused > kFlood) return fail(Errc::too_large, fmt::format("overlay: more than {} searches a second too many", kFlood / 10));
  actions_.emplace_back(SendTo{from, SearchAnswer{id, true, 0, 1, false, {}, {}}});
  return {};
}

Result<> Searches::on_search(LinkIndex from, Asker asker, const Search& search, std::span<const LinkIndex> branches, bool is_whole,
                             Instant now) {
  if (search.pattern.size() > kMaxPattern) return fail(Errc::too_large, fmt::format("a pattern of {} bytes", search.pattern.size()));
  Sender& sender = senders_[from];
  const bool has_token = asker == Asker::self || take_token(asker == Asker::stranger ? strangers_ : sender, now);
  if (!has_token || !has_place(sender, asker)) {
    if (!std::exchange(sender.was_told, true) && asker == Asker::neighbour)
      actions_.emplace_back(
          Remark{fmt::format("overlay: a neighbour sends more searches than {} a second; the others are refused", kRate)});
    return refuse(from, sender, search.id, now);
  }
  // Never twice through one node. Who it was that came first, and may answer, is not known.
  const std::uint64_t id = asker == Asker::neighbour ? search.id : fresh_id();
  if (ended_.contains(id) || searches_.contains(id)) return refuse(from, sender, search.id, now);
  ++sender.under_way;
  if (asker == Asker::stranger) ++of_strangers_;
  if (asker == Asker::self) ++of_self_;
  const std::uint32_t left_ms = std::min(search.left_ms, kMostMilliseconds);
  const std::uint32_t hops_left = std::min(search.hops_left, kMostHops);
  UnderWay under_way(from, asker, search);
  under_way.deadline = now + Milliseconds(left_ms);
  under_way.told = now;
  under_way.hops = search.hops;
  under_way.missing = is_whole ? 0 : 1;
  actions_.emplace_back(LookUp{id, search.kind, search.pattern});
  for (const LinkIndex branch : branches) {
    if (branch == from) continue;
    if (hops_left == 0) {
      ++under_way.missing;
      continue;
    }
    under_way.waiting[branch].heard = now;
    Search onward = search;
    onward.id = id;
    onward.hops = std::min(search.hops, kMostHops) + 1;
    onward.hops_left = hops_left - 1;
    onward.left_ms = time_for(left_ms, search.hops);
    actions_.emplace_back(SendTo{branch, std::move(onward)});
  }
  under_way.sources += under_way.waiting.size();
  searches_.emplace(id, std::move(under_way));
  return {};
}

std::uint64_t Searches::fresh_id() {
  for (;;)
    if (const std::uint64_t id = random_(); !ended_.contains(id) && !searches_.contains(id)) return id;
}

// ---- answers ------------------------------------------------------------------------------------------

/// Each source has the same share, so that none can take the room of the others. What one brings beyond that is held, and passed on when
/// nobody else can need the room any more.
template <class T>
std::vector<T> Searches::take_share(UnderWay& search, Source& source, std::vector<T> found, std::vector<T>& held) {
  const std::size_t most = most_of(search.sieve.kind());
  const bool is_alone = search.active() == 1;
  const std::size_t share = is_alone ? most : most / search.sources;
  std::vector<T> taken;
  for (T& each : found) {
    const std::size_t room = room_of(each);
    if (search.taken + room <= most && (is_alone || source.taken + room <= share)) {
      search.taken += room;
      source.taken += room;
      taken.push_back(std::move(each));
    } else if (!is_alone && search.taken + search.held + room <= most && held_ + room <= kMostHeld) {
      search.held += room;
      held_ += room;
      held.push_back(std::move(each));
    } else {
      search.is_cut = true;
    }
  }
  return taken;
}

template <class T>
std::vector<T> Searches::take_held(UnderWay& search, std::vector<T>& held) {
  std::vector<T> taken;
  for (T& each : std::exchange(held, {})) {
    const std::size_t room = room_of(each);
    const bool fits = search.taken + room <= most_of(search.sieve.kind());
    search.is_cut |= !fits;
    if (!fits) continue;
    search.taken += room;
    taken.push_back(std::move(each));
  }
  return taken;
}

void Searches::pass_on(UnderWay& search, Source& source, SearchAnswer answer) {
  search.is_cut |= answer.is_cut;
  auto hits = take_share(search, source, std::move(answer.hits), search.held_hits);
  auto nodes = take_share(search, source, std::move(answer.found_nodes), search.held_nodes);
  send_parts(search, std::move(hits), std::move(nodes));
}

void Searches::pass_on_held(UnderWay& search) {
  if (search.held == 0) return;
  held_ -= std::exchange(search.held, 0);
  auto hits = take_held(search, search.held_hits);
  auto nodes = take_held(search, search.held_nodes);
  send_parts(search, std::move(hits), std::move(nodes));
}

/// In as few messages as it takes.
void Searches::send_parts(UnderWay& search, std::vector<Hit> hits, std::vector<OverlayNode> nodes) {
  const SearchAnswer blank{search.asked_as, false, 0, 0, false, {}, {}};
  const auto size_of = [](const Hit& hit) { return encoded_size(hit); };
  for (auto& part : split(std::move(hits), &SearchAnswer::hits, size_of, blank, kAnswerRoom))
    actions_.emplace_back(SendTo{search.from, std::move(part)});
  std::ranges::move(nodes, std::back_inserter(search.gathered));
  if (search.gathered.size() >= kGathered) send_gathered(search);
}

void Searches::send_gathered(UnderWay& search) {
  const SearchAnswer blank{search.asked_as, false, 0, 0, false, {}, {}};
  const auto size_of = [](const OverlayNode& node) { return encoded_size(node); };
  for (auto& part : split(std::exchange(search.gathered, {}), &SearchAnswer::found_nodes, size_of, blank, kAnswerRoom))
    actions_.emplace_back(SendTo{search.from, std::move(part)});
}

void Searches::on_looked_up(std::uint64_t id, SearchAnswer found, Instant now) {
  const auto search = searches_.find(id);
  if (search == searches_.end() || !search->second.is_looking_up || now >= search->second.deadline) return;
  UnderWay& under_way = search->second;
  for (Hit& hit : found.hits) hit.hops = under_way.hops;
  const bool is_last = found.is_last;
  pass_on(under_way, under_way.own, std::move(found));
  if (is_last) under_way.is_looking_up = false;
  go_on(search);
}

void Searches::on_answer(LinkIndex from, SearchAnswer answer, Instant now) {
  const auto search = searches_.find(answer.id);
  if (search == searches_.end()) return;
  UnderWay& under_way = search->second;
  const auto branch = under_way.waiting.find(from);
  if (branch == under_way.waiting.end()) return;
  branch->second.heard = now;
  under_way.sieve.sift(answer);
  const bool is_last = answer.is_last;
  if (is_last) {
    under_way.nodes = std::min(under_way.nodes, kMostNodes) + answer.nodes;
    under_way.missing = std::min(under_way.missing, kMostNodes) + answer.missing;
  }
  pass_on(under_way, branch->second, std::move(answer));
  if (is_last) under_way.waiting.erase(branch);
  go_on(search);
}

/// A source may have ended.
void Searches::go_on(Entry search) {
  if (search->second.active() <= 1) pass_on_held(search->second);
  if (search->second.active() == 0) end(search);
}

void Searches::end(Entry search) {
  auto& [id, under_way] = *search;
  pass_on_held(under_way);
  send_gathered(under_way);
  const auto missing = static_cast<std::uint32_t>(under_way.active());
  const std::uint32_t nodes = under_way.nodes - (under_way.is_looking_up ? 1U : 0U);
  actions_.emplace_back(
      SendTo{under_way.from, SearchAnswer{under_way.asked_as, true, nodes, under_way.missing + missing, under_way.is_cut, {}, {}}});
  if (under_way.is_looking_up) actions_.emplace_back(EndLookUp{id});
  if (const auto sender = senders_.find(under_way.from); sender != senders_.end()) --sender->second.under_way;
  if (under_way.asker == Asker::stranger) --of_strangers_;
  if (under_way.asker == Asker::self) --of_self_;
  remember(id, under_way.deadline);
  searches_.erase(search);
}

void Searches::remember(std::uint64_t id, Instant until) {
  ended_[id] = until;
  ended_order_.push_back(id);
  while (ended_order_.size() > kMostEnded) {
    ended_.erase(ended_order_.front());
    ended_order_.pop_front();
  }
}

// ---- ends ---------------------------------------------------------------------------------------------

void Searches::on_closed(LinkIndex link) {
  for (auto search = searches_.begin(); search != searches_.end();) {
    const auto here = search++;
    UnderWay& under_way = here->second;
    if (under_way.from == link) {
      under_way.waiting.clear();
      end(here);
    } else if (under_way.waiting.erase(link) > 0) {
      ++under_way.missing;
      go_on(here);
    }
  }
  senders_.erase(link);
}

/// A node that lives says that it goes on; one that took the search and says nothing is not waited for.
void Searches::give_up_silent(UnderWay& search, Instant now) {
  search.missing +=
      static_cast<std::uint32_t>(std::erase_if(search.waiting, [now](const auto& branch) { return now - branch.second.heard >= kSilent; }));
}

void Searches::tick(Instant now) {
  for (auto search = searches_.begin(); search != searches_.end();) {
    const auto here = search++;
    UnderWay& under_way = here->second;
    if (now >= under_way.deadline) {
      end(here);
      continue;
    }
    if (now - under_way.told >= kGoesOn) {
      under_way.told = now;
      actions_.emplace_back(SendTo{under_way.from, SearchAnswer{under_way.asked_as, false, 0, 0, false, {}, {}}});
    }
    give_up_silent(under_way, now);
    go_on(here);
  }
  while (!ended_order_.empty()) {
    const auto ended = ended_.find(ended_order_.front());
    if (ended != ended_.end() && now < ended->second) break;
    if (ended != ended_.end()) ended_.erase(ended);
    ended_order_.pop_front();
  }
}

}  // namespace shoal
