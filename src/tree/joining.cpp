// How a root finds a node of an older tree, and becomes its child.
module;

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
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
constexpr int kMostInVain = 8;            // of these, that cost time and did not answer
constexpr int kMostMisled = 2;            // of these, that one node named

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
    if (entries_.size() < kMaxContacts && !is_no_use(entry, now)) entries_.push_back(entry);
  if (place.entries.empty() && is_in_) {  // nobody is older
    hints_.clear();
    lost_ = {};
    is_shut_out_ = false;
  }
  if (attempt_) {  // the tracker knows better than what was heard before
    for (auto entry = entries_.rbegin(); entry != entries_.rend() && attempt_->to_ask.size() < kMostAsked; ++entry)
      if (!attempt_->asked.contains(address_of(*entry))) attempt_->to_ask.push_front({*entry});
    return;
  }
  if (!entries_.empty()) {
    if (failures_ == 0) next_look_ = std::min(next_look_, now);
    return look_for_parent(now);
  }
  if (!place.entries.empty()) {  // none that is of any use
    ++failures_;
    return;
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
std::vector<Contact> TreeNode::candidates(Instant now) const {
  std::vector<Contact> all;
  const auto add = [&](const Contact& contact) {
    if (is_no_use(contact, now) || all.size() >= 2 * kMaxContacts) return;
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
  auto first = candidates(now);
  const bool may_ask = key_.number != 0 || options_.join || is_in_;
  if (!first.empty() && may_ask) return begin_attempt(std::move(first), now);
  hints_.clear();
  const bool was_orphan = std::exchange(lost_, NodeKey{}).nonce != 0;
  if (!is_in_ && failures_ > 0 && key_.number != 0) stand_alone();
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
  for (Contact& contact : first) attempt_->to_ask.push_back({std::move(contact)});
  ask_next(now);
}

void TreeNode::ask(Candidate candidate, Instant now) {
  const LinkIndex link = new_link();
  attempt_->link = link;
  attempt_->at = std::move(candidate);
  attempt_->deadline = now + kConnectTimeout;
  actions_.emplace_back(Dial{link, address_of(attempt_->at.contact)});
}

/// The one that is asked now is left alone for a while, and so is who named several like it.
void TreeNode::ask_in_vain(Vain why, Instant now) {
  Attempt& attempt = *attempt_;
  doubts_.add(address_of(attempt.at.contact), why, now);
  const bool took_time = why != Vain::unreachable || now >= attempt.deadline;
  attempt.in_vain += took_time ? 1 : 0;
  const auto by = attempt.at.by;
  if (by && took_time && ++attempt.misled[*by] >= kMostMisled) {
    doubts_.add(*by, Vain::useless, now);
    std::erase_if(attempt.to_ask, [&by](const Candidate& candidate) { return candidate.by == by; });
  }
  ask_next(now);
}

/// It is none that takes connections, this node itself, one that it is linked to, or one that was asked in vain.
bool TreeNode::is_no_use(const Contact& contact, Instant now) const {
  const std::uint64_t nonce = contact.key.nonce;
  const bool is_near = nonce != 0 && (nonce == key_.nonce || nonce == lost_.nonce || linked_as(nonce));
  return is_near || !is_sound(contact) || doubts_.holds(address_of(contact), now);
}

/// Others are there, but none takes this node in: it begins a tree of its own, for those that have the same trouble, and goes on asking.
void TreeNode::stand_alone() {
  is_in_ = true;
  is_shut_out_ = true;
  if (!std::exchange(was_warned_, true))
    actions_.emplace_back(Warn{"overlay: no node takes this one in; it is a tree of its own, and goes on trying"});
  tell_tracker_links();
}

void TreeNode::on_connected(LinkIndex link, Instant now) {
  if (is_probe_connected(link, now) || !attempt_ || attempt_->link != link) return;
  attempt_->deadline = now + kAnswerTimeout;
  attempt_->has_asked = true;
  attempt_->may_ask_root = has_children() || key_.number == 0;
  actions_.emplace_back(SendTo{link, Attach{self(), lost_, has_children()}});
}

void TreeNode::ask_next(Instant now) {
  Attempt& attempt = *attempt_;
  attempt.link.reset();
  attempt.has_asked = false;
  attempt.may_ask_root = false;
  attempt.is_at_root = false;
  attempt.is_at_itself = false;
  if (attempt.in_vain >= kMostInVain) return end_attempt(true, now);
  while (!attempt.to_ask.empty()) {
    Candidate candidate = std::move(attempt.to_ask.front());
    attempt.to_ask.pop_front();
    if (attempt.asked.size() >= kMostAsked || is_no_use(candidate.contact, now)) continue;
    if (attempt.asked.insert(address_of(candidate.contact)).second) return ask(std::move(candidate), now);
  }
  if (attempt.again.empty()) return end_attempt(true, now);
  if (++attempt.rounds > kMostRounds) {
    for (const Candidate& busy : attempt.again) doubts_.add(address_of(busy.contact), Vain::useless, now);
    return end_attempt(true, now);
  }
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
  if (!is_in_ && attempt.referrals > 0 && !std::exchange(was_warned_, true))
    actions_.emplace_back(Warn{fmt::format("overlay: no node takes this one in: {} were asked, and referred it to each other; trying again",
                                           attempt.asked.size())});
  if (++failures_ >= kMostFailures) {  // what is left, or would be a node, goes on by itself, and looks for others now and then
    lost_ = {};
    if (!is_in_ && key_.number != 0) stand_alone();
  }
  next_look_ = now + backoff_ + some(backoff_, random_);
  backoff_ = std::min(backoff_ * 2, kLongestBackoff);
  ask_tracker(now);
}

// ---- answers ------------------------------------------------------------------------------------------

void TreeNode::on_attached(const Attached& attached, Instant now) {
  const bool is_circle = attached.root.nonce == key_.nonce || attached.self.nonce == key_.nonce || linked_as(attached.self.nonce);
  const bool is_nobody = attached.self.nonce == 0 || attached.root.nonce == 0;
  if (is_circle || is_nobody || attached.depth >= Searches::kMostHops) {
    actions_.emplace_back(CloseLink{*attempt_->link});
    return ask_in_vain(Vain::useless, now);
  }
  while (links_.size() >= options_.max_links) shed_child();
  attempt_->has_asked = false;
  const LinkIndex link = *std::exchange(attempt_->link, std::nullopt);
  Contact contact = attempt_->at.contact;
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
  is_shut_out_ = false;
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
  actions_.emplace_back(SendTo{link, Detach{false, {attempt_->at.contact, self()}}});
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
  const bool is_no_help = refer.to.empty() && (refer.reason == ReferReason::other || refer.reason == ReferReason::full);
  if (is_no_help || attempt.is_at_itself) return ask_in_vain(Vain::useless, now);
  if (refer.reason == ReferReason::busy) attempt.again.push_back(attempt.at);
  attempt.referrals += refer.to.empty() ? 0 : 1;
  std::ptrdiff_t place = 0;
  for (std::size_t i = 0; i < std::min(refer.to.size(), kMaxContacts) && attempt.to_ask.size() < kMostAsked; ++i)
    attempt.to_ask.insert(attempt.to_ask.begin() + place++, {refer.to[i], address_of(attempt.at.contact)});
  ask_next(now);
}

}  // namespace shoal
