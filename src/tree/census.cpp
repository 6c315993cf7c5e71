// What the tracker knows of the overlay.
module;

#include <algorithm>
#include <chrono>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

module shoal.tree;

import :actions;
import :census;
import shoal.base;
import shoal.wire;

using namespace std::chrono_literals;

namespace shoal {
namespace {

constexpr Nanoseconds kPromise = 2s;  // until who was told to ask a node should be seen there
constexpr std::size_t kMostEntries = 4;
constexpr std::size_t kMostLinksTold = 1024;

}  // namespace

/// The next one; when those are used up, the lowest that nobody has.
std::uint32_t Census::free_number() const {
  if (last_number_ + 1 < kMostNodes) return last_number_ + 1;
  std::uint32_t number = 1;
  while (by_number_.contains(number)) ++number;
  return number;
}

void Census::give_number(SessionNumber session, Member& member, std::uint32_t number) {
  if (const auto before = by_number_.find(member.key.number); before != by_number_.end() && before->second == session)
    by_number_.erase(before);
  member.key.number = number;
  by_number_[number] = session;
  last_number_ = std::max(last_number_, number);
}

std::optional<Census::SessionNumber> Census::join(SessionNumber session, std::string id, const OverlayJoin& join) {
  if (members_.empty()) last_number_ = 0;  // a new network
  Member& member = members_[session];
  member = {{0, join.key.nonce}, std::move(id), join.max_links, join.is_linked, std::nullopt, {}, {}};
  by_nonce_.try_emplace(join.key.nonce, session);
  const std::uint32_t wanted = join.key.number;
  if (wanted == 0 || wanted >= kMostNodes) {
    give_number(session, member, free_number());
    return std::nullopt;
  }
  const auto holder = by_number_.find(wanted);
  if (holder == by_number_.end()) {
    give_number(session, member, wanted);
    return std::nullopt;
  }
  Member& other = members_.at(holder->second);
  if (!join.is_linked || other.is_linked) {
    give_number(session, member, free_number());
    return std::nullopt;
  }
  const SessionNumber renumbered = holder->second;
  give_number(renumbered, other, free_number());
  give_number(session, member, wanted);
  return renumbered;
}

void Census::set_links(SessionNumber session, const OverlayLinks& links) {
  const auto found = members_.find(session);
  if (found == members_.end()) return;
  Member& member = found->second;
  by_nonce_.try_emplace(member.key.nonce, session);
  member.links = links;
  if (member.links->links.size() > kMostLinksTold) member.links->links.resize(kMostLinksTold);
  member.linked.clear();
  for (const NodeKey& link : member.links->links) member.linked.push_back(link.nonce);
  std::ranges::sort(member.linked);
  const auto same = std::ranges::unique(member.linked);
  member.linked.erase(same.begin(), same.end());
}

void Census::leave(SessionNumber session) {
  const auto found = members_.find(session);
  if (found == members_.end()) return;
  const NodeKey key = found->second.key;
  if (const auto known = by_nonce_.find(key.nonce); known != by_nonce_.end() && known->second == session) by_nonce_.erase(known);
  if (const auto known = by_number_.find(key.number); known != by_number_.end() && known->second == session) by_number_.erase(known);
  members_.erase(found);
}

std::uint32_t Census::number_of(SessionNumber session) const {
  const auto found = members_.find(session);
  return found == members_.end() ? 0 : found->second.key.number;
}

NodeKey Census::key_of(SessionNumber session) const {
  const auto found = members_.find(session);
  return found == members_.end() ? NodeKey{} : found->second.key;
}

// ---- whom to ask for a place --------------------------------------------------------------------------

std::size_t Census::room_of(Member& member, Instant now) const {
  std::erase_if(member.promised, [&](const auto& promise) {
    return now - promise.second > kPromise ||
           std::ranges::find(member.links->links, promise.first, &NodeKey::nonce) != member.links->links.end();
  });
  const std::size_t taken = member.links->links.size() + member.promised.size();
  return member.max_links > taken ? member.max_links - taken : 0;
}

/// The root of the oldest tree; before there is one, the oldest node.
std::optional<Census::SessionNumber> Census::oldest() const {
  std::optional<SessionNumber> root;
  std::optional<SessionNumber> node;
  const auto is_older = [&](const Member& member, std::optional<SessionNumber> than) {
    return !than || member.key < members_.at(*than).key;
  };
  for (const auto& [session, member] : members_) {
    if (is_older(member, node)) node = session;
    if (member.links && member.links->root.nonce == member.key.nonce && is_older(member, root)) root = session;
  }
  return root ? root : node;
}

/// The root of the tree that a node is to become part of. Trees that were one come together in pairs: all at the oldest would wait for
/// each other.
std::optional<Census::SessionNumber> Census::target_for(SessionNumber session) const {
  const auto asker = members_.find(session);
  if (asker == members_.end()) return std::nullopt;
  const auto first = oldest();
  if (!asker->second.links || asker->second.links->links.empty()) return first;
  std::vector<std::pair<NodeKey, SessionNumber>> roots;
  for (const auto& [other, member] : members_) {
    const bool is_root = member.links && member.links->root.nonce == member.key.nonce && (!member.links->links.empty() || other == first);
    if (is_root && member.key < asker->second.key) roots.emplace_back(member.key, other);
  }
  const std::size_t older = roots.size();
  if (older == 0) return first;
  std::ranges::sort(roots);
  return roots[older & (older - 1)].second;
}

std::vector<Census::Way> Census::ways_into(const NodeKey& root, SessionNumber asker, Instant now) {
  std::vector<Way> ways;
  for (auto& [other, member] : members_) {
    if (other == asker || !member.links || member.links->root.nonce != root.nonce) continue;
    const bool is_full = member.links->links.size() >= member.max_links;
    ways.push_back({is_full, room_of(member, now) == 0, member.links->depth, member.promised.size(), other});
  }
  return ways;
}

std::vector<Census::SessionNumber> Census::entries_for(SessionNumber session, Instant now, const Reaches& reaches) {
  const auto first = target_for(session);
  if (!first || *first == session) return {};
  const NodeKey root = members_.at(*first).key;
  const Member& asker = members_.at(session);
  if (asker.links && asker.links->root.nonce == root.nonce) return {};
  // Few of many are wanted, and most are reached: a heap, as sorting all of them would be most of the work.
  std::vector<Way> ways = ways_into(root, session, now);
  std::ranges::make_heap(ways, std::greater());
  std::vector<SessionNumber> entries;
  while (!ways.empty() && entries.size() + 1 < kMostEntries) {
    std::ranges::pop_heap(ways, std::greater());
    if (reaches(ways.back().session)) entries.push_back(ways.back().session);
    ways.pop_back();
  }
  if (!entries.empty()) members_.at(entries.front()).promised[asker.key.nonce] = now;
  if (std::ranges::find(entries, *first) == entries.end() && reaches(*first)) entries.push_back(*first);
  return entries;
}

// ---- the picture --------------------------------------------------------------------------------------

std::vector<Census::Seen> Census::nodes() const {
  std::vector<Seen> all;
  for (const auto& [number, session] : by_number_) {
    const Member& member = members_.at(session);
    Seen seen{session, {member.key, member.id, {}, 0, {}}};
    const bool is_itself = by_nonce_.contains(member.key.nonce) && by_nonce_.at(member.key.nonce) == session;
    for (const std::uint64_t nonce : member.linked) {
      const auto other = by_nonce_.find(nonce);
      if (!is_itself || other == by_nonce_.end() || other->second == session) continue;
      const Member& neighbour = members_.at(other->second);
      if (std::ranges::binary_search(neighbour.linked, member.key.nonce)) seen.node.links.push_back(neighbour.key);
    }
    std::ranges::sort(seen.node.links);
    all.push_back(std::move(seen));
  }
  return all;
}

}  // namespace shoal
