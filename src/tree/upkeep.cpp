// What time brings: heartbeats, silence, a lost parent, and leaving.
module;

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <map>
#include <optional>
#include <utility>
#include <vector>

module shoal.tree;

import :actions;
import shoal.base;
import shoal.wire;

using namespace std::chrono_literals;

namespace shoal {
namespace {

constexpr Nanoseconds kHeirWait = 500ms;  // the children of a root that is lost come to the oldest of them
constexpr Nanoseconds kHeartbeat = 1s;
constexpr Nanoseconds kRelayLate = 1300ms;  // a node that is not the root passes on its parent's; without that it speaks by itself
constexpr Nanoseconds kAskWhileLooking = 2s;
constexpr Nanoseconds kSilent = 3s;
constexpr Nanoseconds kCutOff = 15s;  // nothing new of the root came, though the parent lives

}  // namespace

void TreeNode::tick(Instant now) {
  if (is_leaving_) return;
  std::vector<LinkIndex> silent;
  for (const auto& [link, neighbour] : links_)
    if (now - neighbour.heard >= kSilent) silent.push_back(link);
  for (const LinkIndex link : silent) {
    actions_.emplace_back(Remark{fmt::format("overlay: {} is silent", name_of(links_.at(link).contact))});
    actions_.emplace_back(CloseLink{link});
    lose(link, now, Vain::silent);
  }
  if (parent_ && now - sequence_at_ >= kCutOff) {
    actions_.emplace_back(CloseLink{*parent_});
    lose(*parent_, now, Vain::useless);
  }
  if (is_root() && now - sequence_at_ >= kHeartbeat) {
    sequence_ = ++own_sequence_;
    sequence_at_ = now;
    tell_children(now);
  }
  for (const auto& [link, neighbour] : links_) {
    if (now - neighbour.told >= (link == parent_ || is_root() ? kHeartbeat : kRelayLate))
      tell_around(link, now);
    else if (neighbour.is_news)
      tell_news(link, now);
  }
  end_late_probes(now);
  std::erase_if(relayed_, [now](const auto& relayed) { return now >= relayed.second.deadline; });
  std::vector<LinkIndex> late;
  for (const auto& [link, entrant] : entrants_)
    if (now >= entrant.deadline) late.push_back(link);
  for (const LinkIndex link : late) settle_entrant(link, Judgement::busy, 0, now);
  if (attempt_ && attempt_->link && now >= attempt_->deadline) {
    actions_.emplace_back(CloseLink{*attempt_->link});
    ask_in_vain(attempt_->has_asked ? Vain::silent : Vain::unreachable, now);
  } else if (attempt_ && !attempt_->link && now >= attempt_->next_round) {
    for (Candidate& busy : std::exchange(attempt_->again, {})) {
      attempt_->asked.erase(address_of(busy.contact));
      attempt_->to_ask.push_back(std::move(busy));
    }
    ask_next(now);
  }
  if (has_tracker_news_) tell_tracker_links();
  if (attempt_ || !is_settled()) ask_tracker(now, kAskWhileLooking);
  look_for_parent(now);
}

void TreeNode::become_root(const NodeKey& lost, Instant now) {
  was_root_lost_ = lost.nonce == root_.nonce;
  lost_ = lost;
  parent_.reset();
  root_ = key_;
  sequence_ = ++own_sequence_;
  sequence_at_ = now;
  depth_ = 0;
  backoff_ = kFirstBackoff;
  failures_ = 0;
  const bool is_oldest = was_root_lost_ && hints_.empty() && std::ranges::none_of(known_, [&](const Contact& contact) {
                           return contact.key.nonce != lost.nonce && contact.key < key_;
                         });
  next_look_ = is_oldest ? now + kHeirWait : now;
  for (const auto& [link, neighbour] : links_) tell_around(link, now);
  tell_tracker_links();
  ask_tracker(now);
}

void TreeNode::leave() {
  is_leaving_ = true;
  if (attempt_ && attempt_->link) actions_.emplace_back(CloseLink{*attempt_->link});
  attempt_.reset();
  for (const auto& [link, entrant] : entrants_) refer(link, ReferReason::leaving, contacts());
  entrants_.clear();
  // The children go to the parent; without one, to the oldest of them, who is the root then.
  std::optional<LinkIndex> heir;
  for (const auto& [link, neighbour] : links_)
    if (!heir || neighbour.contact.key < links_.at(*heir).contact.key) heir = link;
  const LinkIndex to = parent_ ? *parent_ : heir.value_or(LinkIndex());
  for (const auto& [link, neighbour] : links_) {
    Detach detach;
    detach.is_heir = !parent_ && link == to;
    if (link != to) detach.to.push_back(links_.at(to).contact);
    actions_.emplace_back(SendTo{link, std::move(detach)});
    actions_.emplace_back(CloseLink{link});
  }
  links_.clear();
  parent_.reset();
}

}  // namespace shoal
