// How a root finds a node of an older tree, and becomes its child.
module;

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <tl/expected.hpp>

module shoal.tree;

import :actions;
import shoal.base;
import shoal.wire;

using namespace std::chrono_literals;

namespace shoal {
namespace {

constexpr Nanoseconds kConnectTimeout = 2s;
constexpr Nanoseconds kAnswerTimeout = 3s;
constexpr Nanoseconds kLongestBackoff = 5s;
constexpr Nanoseconds kLookForOlder = 2s;  // of a root that has found none
constexpr Nanoseconds kProbeKnown = 5s;    // the same, without a tracker
constexpr Nanoseconds kAskTrackerEvery = 500ms;
constexpr Nanoseconds kJoinDelay = 300ms;  // for a tracker to give a number first
constexpr std::size_t kMostKnownAsked = 8;
constexpr int kMostFailures = 3;          // attempts of who has lost its parent, before its tree counts as one by itself
constexpr int kMostRounds = 20;           // to ask those that were busy
constexpr std::size_t kMostAsked = 4096;  // nodes, in one attempt

Nanoseconds some(Nanoseconds most, const RandomWords& random) {
  return Nanoseconds(static_cast<Nanoseconds::rep>(random() % static_cast<std::uint64_t>(most.count())));
}

}  // namespace

TreeNode::TreeNode(Options options, RandomWords random, Instant now)
    : options_(std::move(options)),
      random_(std::move(random)),
      key_{0, options_.nonce},
      root_(key_),
      sequence_at_(now),
      next_look_(now + kJoinDelay),
      backoff_(kFirstBackoff) {
  options_.max_links = std::max<std::size_t>(options_.max_links, 2);
  for (Sample& place : sample_) place.seed = random_();
}

OverlayJoin TreeNode::introduction() const {
  return {key_, options_.address.host, options_.address.port, static_cast<std::uint32_t>(options_.max_links), is_in_};
}

// ---- the tracker --------------------------------------------------------------------------------------

void TreeNode::on_tracker(bool is_there, Instant now) {
  is_tracker_there_ = is_there;
  if (!is_there) return;
  told_links_.reset();
  asked_tracker_ = now;  // its first answer comes unasked
  if (is_in_) tell_tracker_links();
}

/// Unless it was just asked.
void TreeNode::ask_tracker(Instant now, Nanoseconds at_most_every) {
  if (!is_tracker_there_ || now - asked_tracker_ < at_most_every) return;
  asked_tracker_ = now;
  actions_.emplace_back(TellTracker{OverlayAsk{root_}});
}

void TreeNode::on_place(const OverlayPlace& place, Instant now) {
  if (is_leaving_) return;
  if (place.number != 0 && place.number < kMostNodes && place.number != key_.number) {
    key_.number = place.number;
    last_number_ = std::max(last_number_, place.number);
    if (is_root()) root_ = key_;
    if (is_in_) {
      told_links_.reset();
      tell_tracker_links();
      for (const auto& [link, neighbour] : links_) tell_around(link, now);
    }
  }
  if (!is_root() || key_.number == 0) return;
  entries_.clear();
  for (const Contact& entry : place.entries)
    if (is_sound(entry) && entries_.size() < kMaxContacts) entries_.push_back(entry);
  if (entries_.empty() && is_in_) {  // nobody is older
    hints_.clear();
    lost_ = {};
  }
  if (attempt_) {  // the tracker knows better than what was heard before
    attempt_->to_ask.insert(attempt_->to_ask.begin(), entries_.begin(), entries_.end());
    return;
  }
  if (!entries_.empty()) {
    next_look_ = std::min(next_look_, now);
    return look_for_parent(now);
  }
  if (options_.join && !is_in_ && failures_ == 0) return;  // another tracker's network, maybe: that is found out first
  if (!is_in_) actions_.emplace_back(Remark{fmt::format("overlay: s{} is the first node", key_.number)});
  is_in_ = true;
  hints_.clear();
  lost_ = {};
  backoff_ = kFirstBackoff;
  next_look_ = std::max(next_look_, now + kLookForOlder);
  tell_tracker_links();
}

// ---- whom to ask --------------------------------------------------------------------------------------

/// The nodes to ask, the best first.
std::vector<Contact> TreeNode::candidates() const {
  std::vector<Contact> all;
  const auto add = [&](const Contact& contact) {
    const bool is_own = contact.key.nonce != 0 && (contact.key.nonce == key_.nonce || linked_as(contact.key.nonce));
    const bool is_lost = contact.key.nonce != 0 && contact.key.nonce == lost_.nonce;
    if (is_own || is_lost || all.size() >= 2 * kMaxContacts) return;
    if (std::ranges::find(all, contact) == all.end()) all.push_back(contact);
  };
  for (const Contact& contact : hints_) add(contact);
  if (lost_.nonce != 0) {
    // Where the root is lost, its children come to the oldest of them: that one asks nobody.
    const auto is_younger = [&](const Contact& contact) { return was_root_lost_ && key_ < contact.key; };
    for (std::size_t i = 0; i < std::min(known_.size(), kMostKnownAsked); ++i)
      if (!is_younger(known_[i])) add(known_[i]);
  }
  for (const Contact& contact : entries_) add(contact);
  if (options_.join && (!is_in_ || lost_.nonce != 0)) add({{}, options_.join->host, options_.join->port});
  return all;
}

void TreeNode::look_for_parent(Instant now) {
  if (!is_root() || attempt_ || is_leaving_ || now < next_look_) return;
  auto first = candidates();
  const bool may_ask = key_.number != 0 || options_.join || is_in_;
  if (!first.empty() && may_ask) return begin_attempt(std::move(first), now);
  hints_.clear();
  const bool was_orphan = std::exchange(lost_, NodeKey{}).nonce != 0;
  if (is_tracker_there_) {
    ask_tracker(now, kAskTrackerEvery);
    next_look_ = now + (was_orphan || !is_in_ ? kAskTrackerEvery : kLookForOlder);
    return;
  }
  next_look_ = now + kProbeKnown + some(1s, random_);
  // Others may be cut off from this tree, or it from them: one of those that it heard of is asked.
  const Contact contact = sample_[random_() % sample_.size()].contact;
  if (is_in_ && contact.port != 0 && !linked_as(contact.key.nonce) && contact.key.nonce != key_.nonce) begin_attempt({contact}, now);
}

// ---- one attempt --------------------------------------------------------------------------------------

void TreeNode::begin_attempt(std::vector<Contact> first, Instant now) {
  attempt_ = Attempt{};
  attempt_->to_ask.assign(first.begin(), first.end());
  ask_next(now);
}

void TreeNode::ask(const Contact& contact, Instant now) {
  const LinkIndex link = new_link();
  attempt_->link = link;
  attempt_->at = contact;
  attempt_->deadline = now + kConnectTimeout;
  actions_.emplace_back(Dial{link, {contact.host, contact.port}});
}

void TreeNode::on_connected(LinkIndex link, Instant now) {
  if (!attempt_ || attempt_->link != link) return;
  attempt_->deadline = now + kAnswerTimeout;
  attempt_->has_asked = true;
  actions_.emplace_back(SendTo{link, Attach{self(), lost_, has_children()}});
}

void TreeNode::ask_next(Instant now) {
  Attempt& attempt = *attempt_;
  attempt.link.reset();
  attempt.has_asked = false;
  attempt.is_at_root = false;
  while (!attempt.to_ask.empty()) {
    const Contact contact = std::move(attempt.to_ask.front());
    attempt.to_ask.pop_front();
    const bool is_own = contact.key.nonce != 0 && (contact.key.nonce == key_.nonce || linked_as(contact.key.nonce));
    if (is_own || attempt.asked.size() >= kMostAsked) continue;
    if (attempt.asked.insert({contact.host, contact.port}).second) return ask(contact, now);
  }
  if (attempt.again.empty() || ++attempt.rounds > kMostRounds) return end_attempt(true, now);
  attempt.next_round = now + 30ms + some(20ms * (2 + 2 * attempt.rounds), random_);
}

void TreeNode::end_attempt(bool has_failed, Instant now) {
  const Attempt attempt = *std::exchange(attempt_, std::nullopt);
  if (attempt.link) actions_.emplace_back(CloseLink{*attempt.link});
  hints_.clear();
  entries_.clear();
  if (!has_failed) {
    backoff_ = kFirstBackoff;
    failures_ = 0;
    was_warned_ = false;
    return;
  }
  if (++failures_ >= kMostFailures) lost_ = {};  // what is left goes on by itself, and looks for others now and then
  // A tree of one that nobody takes in is no tree: it is asked again. What is left of one goes on by itself meanwhile.
  if (!is_in_ && attempt.referrals > 0 && !std::exchange(was_warned_, true))
    actions_.emplace_back(Warn{fmt::format("overlay: no node takes this one in: {} were asked, and referred it to each other; trying again",
                                           attempt.asked.size())});
  next_look_ = now + backoff_ + some(backoff_, random_);
  backoff_ = std::min(backoff_ * 2, kLongestBackoff);
  ask_tracker(now);
}

// ---- answers ------------------------------------------------------------------------------------------

void TreeNode::on_attached(const Attached& attached, Instant now) {
  const bool is_circle = attached.root.nonce == key_.nonce || attached.self.nonce == key_.nonce || linked_as(attached.self.nonce);
  if (is_circle || attached.self.nonce == 0 || attached.depth >= kMostNodes) {
    actions_.emplace_back(CloseLink{*attempt_->link});
    return ask_next(now);
  }
  while (links_.size() >= options_.max_links) shed_child();
  attempt_->has_asked = false;
  const LinkIndex link = *std::exchange(attempt_->link, std::nullopt);
  Contact contact = attempt_->at;
  contact.key = attached.self;
  links_[link] = Neighbour(contact, now);
  parent_ = link;
  if (key_.number == 0 && attached.number < kMostNodes) key_.number = attached.number;
  root_ = attached.root;
  sequence_ = attached.sequence;
  sequence_at_ = now;
  depth_ = attached.depth + 1;
  is_in_ = true;
  lost_ = {};
  was_root_lost_ = false;
  end_attempt(false, now);
  actions_.emplace_back(Remark{fmt::format("overlay: s{} is linked to {}", key_.number, name_of(contact))});
  for (const auto& [other, neighbour] : links_) tell_around(other, now);
  tell_tracker_links();
}

/// Makes room for a parent: the smallest branch looks for another place.
void TreeNode::shed_child() {
  const auto smallest =
      std::ranges::min_element(links_, {}, [](const auto& entry) { return std::pair(entry.second.around.nodes, entry.first); });
  const LinkIndex link = smallest->first;
  actions_.emplace_back(SendTo{link, Detach{false, {attempt_->at, self()}}});
  actions_.emplace_back(CloseLink{link});
  links_.erase(smallest);
}

void TreeNode::on_refer(const Refer& refer, Instant now) {
  Attempt& attempt = *attempt_;
  actions_.emplace_back(CloseLink{*attempt.link});
  if (refer.reason == ReferReason::older) {
    // Its root comes to us. Where that fails, we ask again.
    end_attempt(true, now);
    next_look_ = std::max(next_look_, now + kLookForOlder);
    return;
  }
  if (refer.reason == ReferReason::busy) attempt.again.push_back(attempt.at);
  attempt.referrals += refer.to.empty() ? 0 : 1;
  std::size_t place = 0;
  for (const Contact& contact : refer.to)
    if (is_sound(contact) && place < kMaxContacts && attempt.to_ask.size() < kMostAsked)
      attempt.to_ask.insert(attempt.to_ask.begin() + static_cast<std::ptrdiff_t>(place++), contact);
  ask_next(now);
}

}  // namespace shoal
