// How others become children: at once, by the word of the root, or by being referred on.
module;

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <tl/expected.hpp>

module shoal.tree;

import :actions;
import shoal.base;
import shoal.wire;

using namespace std::chrono_literals;

namespace shoal {
namespace {

constexpr Nanoseconds kDoubtful = 1500ms;  // silent for so long, a neighbour that another has lost is lost
constexpr std::size_t kMostRelayed = 1024;
constexpr Nanoseconds kSoon = 100ms;
constexpr std::uint32_t kMostVerified = 50;  // questions to the root in a second, by one neighbour

ReferReason reason_of(Judgement judgement) {
  switch (judgement) {
    case Judgement::yes:
    case Judgement::other: return ReferReason::other;
    case Judgement::busy: return ReferReason::busy;
    case Judgement::same_tree: return ReferReason::same_tree;
    case Judgement::older: return ReferReason::older;
  }
  return ReferReason::other;
}

}  // namespace

void TreeNode::refer(LinkIndex link, ReferReason reason, std::vector<Contact> to) {
  actions_.emplace_back(SendTo{link, Refer{reason, std::move(to)}});
  actions_.emplace_back(CloseLink{link});
}

void TreeNode::on_attach(LinkIndex link, const Attach& attach, Instant now) {
  const NodeKey& child = attach.self.key;
  if (!is_sound(attach.self) || child.nonce == 0) return refer(link, ReferReason::other);
  if (is_leaving_) return refer(link, ReferReason::leaving, contacts());
  if (child.nonce == key_.nonce) {
    if (attempt_) attempt_->is_at_itself = true;
    return refer(link, ReferReason::same_tree);
  }
  if (!is_in_ || is_asking()) return refer(link, ReferReason::busy);
  if (parent_ && links_.at(*parent_).contact.key.nonce == child.nonce) return refer(link, ReferReason::same_tree);
  drop_if_silent(child, now);  // it has lost a link that is not lost here yet
  if (linked_as(child.nonce)) return refer(link, ReferReason::busy);
  for (const auto& [other, entrant] : entrants_)
    if (entrant.attach.self.key.nonce == child.nonce) return refer(link, ReferReason::busy);
  drop_if_silent(attach.lost, now);
  if (is_asking()) return refer(link, ReferReason::busy);  // as the parent was lost just now
  if (links_.size() >= options_.max_links) {
    if (is_place_cleared(child.nonce, now)) return refer(link, ReferReason::busy);
    return refer(link, ReferReason::full, rooms_for(attach));
  }
  if (!is_place_for(attach.self, now)) return refer(link, ReferReason::busy);
  if (!has_room()) return refer(link, ReferReason::busy);
  if (!attach.has_children && child.number != 0) return admit(link, attach.self, child.number, now);
  entrants_[link] = {attach, random_(), now + time_to_root(depth_)};
  if (is_root()) {
    const auto [judgement, number] = judge(attach.self, attach.has_children, now);
    return settle_entrant(link, judgement, number, now);
  }
  Around way;  // says how long it may take
  way.root = root_;
  way.depth = depth_;
  actions_.emplace_back(SendTo{link, std::move(way)});
  actions_.emplace_back(SendTo{*parent_, Verify{entrants_.at(link).request, attach.self, attach.has_children}});
}

/// Who has lost a neighbour of ours finds it so before we do: then we need not wait until it has been silent for long.
void TreeNode::drop_if_silent(const NodeKey& lost, Instant now) {
  if (lost.nonce == 0) return;
  for (const auto& [link, neighbour] : links_) {
    if (neighbour.contact.key.nonce != lost.nonce || now - neighbour.heard < kDoubtful) continue;
    const LinkIndex gone = link;
    actions_.emplace_back(CloseLink{gone});
    return lose(gone, now);
  }
}

/// Our neighbours, the one with the highest free place behind it first. Of several that have it equally high, the one with the smallest
/// branch, where those that were referred there since it last told of itself count.
std::vector<Contact> TreeNode::rooms_for(const Attach& attach) {
  struct Way {
    std::uint32_t room_depth;
    std::uint64_t nodes;
    LinkIndex link;
    auto operator<=>(const Way&) const = default;
  };
  std::vector<Way> ways;
  for (const auto& [link, neighbour] : links_) {
    const NodeKey& key = neighbour.contact.key;
    if (key.nonce == attach.lost.nonce || key.nonce == attach.self.key.nonce) continue;
    const bool is_unknown = neighbour.around.nodes == 0;
    ways.push_back(
        {is_unknown ? depth_ + 1 : neighbour.around.room_depth, std::uint64_t{neighbour.around.nodes} + neighbour.referred, link});
  }
  std::ranges::sort(ways);
  std::vector<Contact> contacts;
  for (const Way& way : ways)
    if (contacts.size() < kMaxContacts) contacts.push_back(links_.at(way.link).contact);
  if (!ways.empty()) ++links_.at(ways.front().link).referred;
  return contacts;
}

void TreeNode::admit(LinkIndex link, const Contact& child, std::uint32_t number, Instant now) {
  Contact contact = child;
  if (number != 0) contact.key.number = number;
  links_[link] = Neighbour(contact, now);
  last_number_ = std::max(last_number_, contact.key.number);
  actions_.emplace_back(SendTo{link, Attached{key_, contact.key.number, root_, sequence_, depth_}});
  actions_.emplace_back(Remark{fmt::format("overlay: {} is linked to s{}", name_of(contact), key_.number)});
  tell_around(link, now);
  spread_news(now);
  tell_tracker_links();
}

// ---- the root's word ----------------------------------------------------------------------------------

std::uint32_t TreeNode::next_number() {
  std::uint32_t highest = std::max(last_number_, key_.number);
  for (const auto& [link, neighbour] : links_) highest = std::max(highest, neighbour.around.highest);
  last_number_ = std::min(highest, kMostNodes - 2) + 1;
  return last_number_;
}

std::pair<Judgement, std::uint32_t> TreeNode::judge(const Contact& origin, bool has_children, Instant now) {
  if (origin.key.nonce == key_.nonce) return {Judgement::same_tree, 0};
  if (has_children && is_asking()) return {Judgement::busy, 0};
  if (has_children && origin.key.number != 0 && origin.key < key_) {
    if (!is_no_use(origin, now)) {
      entries_ = {origin};
      next_look_ = now + kSoon;
    }
    return {Judgement::older, 0};
  }
  return {Judgement::yes, origin.key.number == 0 ? next_number() : 0};
}

void TreeNode::on_verify(LinkIndex link, const Verify& verify, Instant now) {
  Neighbour& neighbour = links_.at(link);
  begin_second(neighbour, now);
  if (++neighbour.asked_root > kMostVerified) {
    actions_.emplace_back(SendTo{link, Verified{verify.request, Judgement::busy, 0}});
  } else if (!is_sound(verify.origin)) {
    actions_.emplace_back(SendTo{link, Verified{verify.request, Judgement::other, 0}});
  } else if (is_root() || verify.origin.key.nonce == key_.nonce) {
    const auto [judgement, number] = judge(verify.origin, verify.has_children, now);
    actions_.emplace_back(SendTo{link, Verified{verify.request, judgement, number}});
  } else if (relayed_.size() < kMostRelayed && relayed_.try_emplace(verify.request, Relayed{link, now + time_to_root(depth_)}).second) {
    actions_.emplace_back(SendTo{*parent_, verify});
  } else {
    actions_.emplace_back(SendTo{link, Verified{verify.request, Judgement::busy, 0}});
  }
}

void TreeNode::on_verified(const Verified& verified, Instant now) {
  if (const auto relayed = relayed_.find(verified.request); relayed != relayed_.end()) {
    const LinkIndex to = relayed->second.from;
    relayed_.erase(relayed);
    if (is_child(to)) actions_.emplace_back(SendTo{to, verified});
    return;
  }
  const auto asked = std::ranges::find_if(entrants_, [&](const auto& entry) { return entry.second.request == verified.request; });
  if (asked != entrants_.end()) settle_entrant(asked->first, verified.judgement, verified.number, now);
}

void TreeNode::settle_entrant(LinkIndex link, Judgement judgement, std::uint32_t number, Instant now) {
  const Entrant entrant = std::move(entrants_.at(link));
  entrants_.erase(link);
  if (judgement == Judgement::yes && number < kMostNodes && !is_asking())
    return admit(link, entrant.attach.self, entrant.attach.self.key.number == 0 ? number : 0, now);
  refer(link, judgement == Judgement::yes ? ReferReason::busy : reason_of(judgement));
}

}  // namespace shoal
