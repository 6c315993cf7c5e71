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
constexpr std::uint32_t kHighestClaim = 1'000'000;  // that a node is believed: there have to be numbers above it
constexpr std::size_t kTakesLong = 3;               // so many answers, and not linked yet
constexpr std::size_t kMostUnkept = 3;

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
  member = {};
  member.key.nonce = join.key.nonce;
  member.id = std::move(id);
  member.max_links = join.max_links;
  member.is_linked = join.is_linked;
  by_nonce_.try_emplace(join.key.nonce, session);
  const std::uint32_t wanted = join.key.number;
  if (wanted == 0 || wanted > kHighestClaim) {
    give_number(session, member, free_number());
    return std::nullopt;
  }
  const auto holder = by_number_.find(wanted);
  if (holder == by_number_.end()) {
    give_number(session, member, wanted);
    return std::nullopt;
  }
  Member& other = members_.at(holder->second);
  if (!join.is_linked || other.is_linked || other.confirmed > 0) {
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
  confirm_links(session, member, false);
  by_nonce_.try_emplace(member.key.nonce, session);
  member.links = links;
  if (member.links->links.size() > kMostLinksTold) member.links->links.resize(kMostLinksTold);
  member.linked.clear();
  for (const NodeKey& link : member.links->links) member.linked.push_back(link.nonce);
  std::ranges::sort(member.linked);
  const auto same = std::ranges::unique(member.linked);
  member.linked.erase(same.begin(), same.end());
  confirm_links(session, member, true);
  if (links.root.nonce != member.key.nonce) member.asked = 0;
}

/// Of several of one nonce the first counts as the node.
bool Census::is_itself(SessionNumber session, const Member& member) const {
  const auto known = by_nonce_.find(member.key.nonce);
  return known != by_nonce_.end() && known->second == session;
}

/// Counts its links that both sides tell of, or takes them back, at both.
void Census::confirm_links(SessionNumber session, Member& member, bool is_told) {
  if (!is_itself(session, member)) return;
  for (const std::uint64_t nonce : member.linked) {
    const auto other = by_nonce_.find(nonce);
    if (other == by_nonce_.end() || other->second == session) continue;
    Member& neighbour = members_.at(other->second);
    if (!std::ranges::binary_search(neighbour.linked, member.key.nonce)) continue;
    const auto count = [is_told](Member& of, const Member& by) {
      is_told ? ++of.confirmed : --of.confirmed;
      if (of.links->links.front().nonce == by.key.nonce) of.is_below = is_told;
    };
    count(member, neighbour);
    count(neighbour, member);
  }
}

void Census::leave(SessionNumber session) {
  const auto found = members_.find(session);
  if (found == members_.end()) return;
  const NodeKey key = found->second.key;
  confirm_links(session, found->second, false);
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
    const bool is_kept = std::ranges::binary_search(member.linked, promise.first);
    if (is_kept) member.unkept = 0;
    const bool is_over = !is_kept && now - promise.second > kPromise;
    member.unkept += is_over ? 1 : 0;
    return is_kept || is_over;
  });
  const std::size_t taken = member.links->links.size() + member.promised.size();
  return member.max_links > taken ? member.max_links - taken : 0;
}

/// The roots of the trees that a node may become part of, the best first. One that no other node tells of says only of itself that it is
/// a tree: it comes after those that are. Before there is a tree, the oldest node.
std::vector<Census::SessionNumber> Census::trees_for(SessionNumber session) const {
  const Member& asker = members_.at(session);
  struct Tree {
    bool is_alone = false;
    NodeKey root;
    SessionNumber session = 0;
    auto operator<=>(const Tree&) const = default;
  };
  std::vector<Tree> trees;
  std::optional<Tree> oldest;
  bool is_root = false;  // of a tree of its own, alone or not
  for (const auto& [other, member] : members_) {
    const Tree tree{member.confirmed == 0, member.key, other};
    if (!oldest || member.key < oldest->root) oldest = tree;
    if (!member.links || member.links->root.nonce != member.key.nonce) continue;
    is_root |= other == session;
    if (other != session) trees.push_back(tree);
  }
  // Younger ones come to this.
  const bool has_tree = asker.confirmed > 0;
  if (is_root) std::erase_if(trees, [&](const Tree& tree) { return (tree.is_alone || has_tree) && asker.key < tree.root; });
  if (has_tree) std::erase_if(trees, [](const Tree& tree) { return tree.is_alone; });
  if (trees.empty() && !is_root && oldest && oldest->session != session) trees.push_back(*oldest);
  std::ranges::sort(trees);
  std::vector<SessionNumber> roots;
  for (const Tree& tree : trees) roots.push_back(tree.session);
  return roots;
}

/// The root of the tree that a node is to become part of. Trees that were one come together in pairs: all at the oldest would wait for
/// each other.
std::optional<Census::SessionNumber> Census::target_for(SessionNumber session) const {
  const auto found = members_.find(session);
  if (found == members_.end()) return std::nullopt;
  const auto trees = trees_for(session);
  if (trees.empty()) return std::nullopt;
  const Member& asker = found->second;
  const std::size_t best = asker.confirmed > 0 ? trees.size() & (trees.size() - 1) : 0;
  // Whoever is not taken in by that one, however often it asks, hears of each of the others in turn.
  const std::size_t others = asker.asked >= kTakesLong && asker.asked % 2 == 1 ? (asker.asked - kTakesLong) / 2 + 1 : 0;
  return trees[(best + others) % trees.size()];
}

std::vector<Census::Way> Census::ways_into(const NodeKey& root, SessionNumber asker, Instant now) {
  std::vector<Way> ways;
  for (auto& [other, member] : members_) {
    if (other == asker || !member.links || member.links->root.nonce != root.nonce) continue;
    const bool is_root = member.key.nonce == root.nonce;
    const bool is_there = is_root || member.is_below;
    const bool is_full = member.links->links.size() >= member.max_links;
    const bool is_promised = room_of(member, now) == 0;
    ways.push_back({!is_there || member.unkept >= kMostUnkept, is_full, is_promised, member.links->depth, member.promised.size(), other});
  }
  return ways;
}

std::vector<Census::SessionNumber> Census::entries_for(SessionNumber session, Instant now, const Reaches& reaches) {
  const auto first = target_for(session);
  if (!first || *first == session) return {};
  const NodeKey root = members_.at(*first).key;
  Member& asker = members_.at(session);
  if (asker.links && asker.links->root.nonce == root.nonce) return {};
  ++asker.asked;
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
    const bool is_known = is_itself(session, member);
    for (const std::uint64_t nonce : member.linked) {
      const auto other = by_nonce_.find(nonce);
      if (!is_known || other == by_nonce_.end() || other->second == session) continue;
      const Member& neighbour = members_.at(other->second);
      if (std::ranges::binary_search(neighbour.linked, member.key.nonce)) seen.node.links.push_back(neighbour.key);
    }
    std::ranges::sort(seen.node.links);
    all.push_back(std::move(seen));
  }
  return all;
}

}  // namespace shoal
