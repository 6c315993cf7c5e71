// While a link lasts: what lies behind it, and how it ends.
module;

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <limits>
#include <map>
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

constexpr std::uint32_t kMostNews = 10;  // a second, to one neighbour
constexpr std::size_t kMostKnown = 32;
constexpr std::size_t kKnownInAround = 8;
constexpr int kSampled = 2;
constexpr Nanoseconds kSettled = 5s;  // a link that lasts so long

/// A word of which each bit depends on all of `word` (SplitMix64).
std::uint64_t mixed(std::uint64_t word) {
  word += 0x9e3779b97f4a7c15;
  word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9;
  word = (word ^ word >> 27) * 0x94d049bb133111eb;
  return word ^ word >> 31;
}

std::uint32_t sum(std::uint32_t a, std::uint32_t b) { return a > std::numeric_limits<std::uint32_t>::max() - b ? a : a + b; }

}  // namespace

const Contact* TreeNode::linked_as(std::uint64_t nonce) const {
  const auto found = std::ranges::find_if(links_, [nonce](const auto& entry) { return entry.second.contact.key.nonce == nonce; });
  return found == links_.end() ? nullptr : &found->second.contact;
}

// ---- what lies around ---------------------------------------------------------------------------------

Around TreeNode::around_for(LinkIndex link) {
  Around around{root_, sequence_, depth_, 1, room_depth_for(link), std::max(key_.number, last_number_), known_for(link)};
  for (const auto& [other, neighbour] : links_) {
    if (other == link) continue;
    around.nodes = sum(around.nodes, neighbour.around.nodes);
    around.highest = std::max(around.highest, neighbour.around.highest);
  }
  around.highest = std::min(around.highest, kMostNodes - 1);
  return around;
}

/// Whom that neighbour may ask when it has lost us: our parent, our other neighbours, and those that we would ask.
std::vector<Contact> TreeNode::known_for(LinkIndex link) {
  std::vector<Contact> known;
  if (parent_ && *parent_ != link) known.push_back(links_.at(*parent_).contact);
  for (const auto& [other, neighbour] : links_)
    if (other != link && other != parent_ && known.size() < kKnownInAround / 2) known.push_back(neighbour.contact);
  for (const Contact& contact : known_)
    if (known.size() < kKnownInAround && contact.key.nonce != links_.at(link).contact.key.nonce &&
        std::ranges::find(known, contact) == known.end())
      known.push_back(contact);
  for (int i = 0; i < kSampled; ++i)
    if (const Contact& other = sample_[random_() % sample_.size()].contact; other.port != 0) known.push_back(other);
  return known;
}

/// Each place keeps whoever comes out least by a hash of its own, so that all that were ever heard of are as likely, however often they
/// are named (Bortnikov et al., Brahms, 2009). Where a network is cut, some of them are on this side.
void TreeNode::sample(const std::vector<Contact>& contacts) {
  for (const Contact& contact : contacts) {
    if (!is_sound(contact) || contact.key.nonce == 0 || contact.key.nonce == key_.nonce) continue;
    for (Sample& place : sample_) {
      const std::uint64_t hash = mixed(place.seed ^ contact.key.nonce);
      if (place.contact.port != 0 && hash > place.hash) continue;
      place.hash = hash;
      place.contact = contact;
    }
  }
}

/// Those that a neighbour tells of come before others.
void TreeNode::remember(const std::vector<Contact>& contacts) {
  for (auto contact = contacts.rbegin(); contact != contacts.rend(); ++contact) {
    if (!is_sound(*contact) || contact->key.nonce == 0 || contact->key.nonce == key_.nonce) continue;
    std::erase_if(known_, [&](const Contact& old) { return old.key.nonce == contact->key.nonce; });
    known_.push_front(*contact);
  }
  while (known_.size() > kMostKnown) known_.pop_back();
}

void TreeNode::tell_around(LinkIndex link, Instant now) {
  Neighbour& neighbour = links_.at(link);
  Around around = around_for(link);
  neighbour.told = now;
  neighbour.told_room_depth = around.room_depth;
  neighbour.is_news = false;
  actions_.emplace_back(SendTo{link, std::move(around)});
}

/// What is counted by the second starts again.
void TreeNode::begin_second(Neighbour& neighbour, Instant now) {
  if (now - neighbour.news_since < 1s) return;
  neighbour.news_since = now;
  neighbour.news = 0;
  neighbour.asked_root = 0;
}

/// At once, but for so many times a second.
void TreeNode::tell_news(LinkIndex link, Instant now) {
  Neighbour& neighbour = links_.at(link);
  begin_second(neighbour, now);
  if (neighbour.news >= kMostNews) return;
  ++neighbour.news;
  tell_around(link, now);
}

/// Where there is room is news for all but `from`; how many nodes there are can wait for the next heartbeat.
void TreeNode::spread_news(Instant now, std::optional<LinkIndex> from) {
  for (auto& [link, neighbour] : links_) {
    if (link == from) continue;
    neighbour.is_news = room_depth_for(link) != neighbour.told_room_depth;
    if (neighbour.is_news) tell_news(link, now);
  }
}

/// The depth of the highest node with room, of all that are reached through us by `link`.
std::uint32_t TreeNode::room_depth_for(LinkIndex link) const {
  std::uint32_t room_depth = links_.size() < options_.max_links ? depth_ : kNoRoom;
  for (const auto& [other, neighbour] : links_)
    if (other != link) room_depth = std::min(room_depth, neighbour.around.room_depth);
  return room_depth;
}

void TreeNode::tell_children(Instant now) {
  for (auto& [link, neighbour] : links_) {
    if (link == parent_) continue;
    neighbour.is_news = true;
    tell_news(link, now);
  }
}

Result<> TreeNode::on_around(LinkIndex link, const Around& around, Instant now) {
  if (around.known.size() > kMaxContacts) return fail(Errc::too_large, fmt::format("{} nodes in one message", around.known.size()));
  Neighbour& neighbour = links_.at(link);
  neighbour.around = around;
  neighbour.around.known.clear();
  neighbour.around.depth = std::min(around.depth, Searches::kMostHops);
  if (link != parent_) neighbour.around.room_depth = std::max(around.room_depth, depth_ + 1);  // it cannot be higher than itself
  neighbour.referred = 0;
  spread_news(now, link);
  sample(around.known);
  if (link != parent_) return {};
  remember(around.known);
  if (around.root.nonce == key_.nonce) {  // a circle, by whatever mistake
    actions_.emplace_back(CloseLink{link});
    lose(link, now, Vain::useless);
    return {};
  }
  const bool is_moved = around.root != root_ || neighbour.around.depth + 1 != depth_;
  if (!is_moved && around.sequence <= sequence_) return {};
  root_ = around.root;
  depth_ = neighbour.around.depth + 1;
  sequence_ = around.sequence;
  sequence_at_ = now;
  tell_children(now);
  has_tracker_news_ |= is_moved;
  return {};
}

// ---- messages -----------------------------------------------------------------------------------------

Result<> TreeNode::on_message(LinkIndex link, const Message& message, Instant now) {
  if (attempt_ && attempt_->link == link) {
    if (const auto* attached = std::get_if<Attached>(&message)) {
      on_attached(*attached, now);
    } else if (const auto* refer = std::get_if<Refer>(&message)) {
      on_refer(*refer, now);
    } else if (const auto* around = std::get_if<Around>(&message);
               around && attempt_->may_ask_root && !std::exchange(attempt_->is_at_root, true)) {
      attempt_->deadline = now + time_to_root(around->depth) + 1s;
    } else {
      attempt_->link.reset();
      ask_in_vain(Vain::useless, now);
      return fail(Errc::out_of_order, fmt::format("got {} in answer to attach", name_of(type_of(message))));
    }
    return {};
  }
  if (is_probe_answered(link, message, now)) return {};
  const auto found = links_.find(link);
  if (found == links_.end()) return {};  // it was closed meanwhile
  found->second.heard = now;
  if (const auto* around = std::get_if<Around>(&message)) {
    auto done = on_around(link, *around, now);
    if (!done) lose(link, now, Vain::useless);
    return done;
  }
  if (const auto* detach = std::get_if<Detach>(&message)) {
    on_detach(link, *detach, now);
    return {};
  }
  const auto* verify = std::get_if<Verify>(&message);
  if (verify && link != parent_) {
    on_verify(link, *verify, now);
    return {};
  }
  const auto* verified = std::get_if<Verified>(&message);
  if (verified && link == parent_) {
    on_verified(*verified, now);
    return {};
  }
  lose(link, now, Vain::useless);
  return fail(Errc::out_of_order, fmt::format("got {} from a node", name_of(type_of(message))));
}

void TreeNode::on_detach(LinkIndex link, const Detach& detach, Instant now) {
  actions_.emplace_back(CloseLink{link});
  const bool is_parent = link == parent_;
  if (is_parent) {
    hints_.clear();
    for (const Contact& contact : detach.to)
      if (is_sound(contact) && hints_.size() < kMaxContacts) hints_.push_back(contact);
  }
  is_heir_ = is_parent && detach.is_heir;
  lose(link, now);
}

void TreeNode::on_heard(LinkIndex link, Instant now) {
  if (const auto found = links_.find(link); found != links_.end()) found->second.heard = now;
}

void TreeNode::on_closed(LinkIndex link, Instant now) {
  if (attempt_ && attempt_->link == link) return ask_in_vain(attempt_->has_asked ? Vain::useless : Vain::unreachable, now);
  if (is_probe_closed(link, now)) return;
  entrants_.erase(link);
  if (links_.contains(link)) lose(link, now);
}

/// A link is over. A parent that let go so soon is no better than one that refuses.
void TreeNode::lose(LinkIndex link, Instant now, std::optional<Vain> why) {
  const Contact contact = links_.at(link).contact;
  if (!why && link == parent_ && now - links_.at(link).since < kSettled) why = Vain::useless;
  if (why && link == parent_) doubts_.add(address_of(contact), *why, now);
  links_.erase(link);
  std::erase_if(relayed_, [link](const auto& relayed) { return relayed.second.from == link; });
  if (link != parent_) {
    spread_news(now);
    return tell_tracker_links();
  }
  // What waits for the word of a root that is not reached any more is to be asked again.
  relayed_.clear();
  become_root(contact.key, now);
  std::vector<LinkIndex> waiting;
  for (const auto& [entering, entrant] : entrants_) waiting.push_back(entering);
  for (const LinkIndex entering : waiting) settle_entrant(entering, Judgement::busy, 0, now);
  if (std::exchange(is_heir_, false)) {
    next_look_ = now + 2s;
    lost_ = {};
  }
  look_for_parent(now);
}

// ---- what is told -------------------------------------------------------------------------------------

std::vector<NodeKey> TreeNode::neighbours() const {
  std::vector<NodeKey> keys;
  if (parent_) keys.push_back(links_.at(*parent_).contact.key);
  for (const auto& [link, neighbour] : links_)
    if (link != parent_) keys.push_back(neighbour.contact.key);
  return keys;
}

void TreeNode::tell_tracker_links() {
  has_tracker_news_ = false;
  OverlayLinks links{root_, depth_, neighbours()};
  const bool is_same =
      told_links_ && told_links_->root == links.root && told_links_->depth == links.depth && told_links_->links == links.links;
  if (is_same || !is_tracker_there_) return;
  actions_.emplace_back(TellTracker{links});
  told_links_ = std::move(links);
}

std::vector<Contact> TreeNode::contacts() const {
  std::vector<Contact> all;
  for (const auto& [link, neighbour] : links_)
    if (all.size() < kMaxContacts) all.push_back(neighbour.contact);
  for (const Contact& contact : known_)
    if (all.size() < kMaxContacts && std::ranges::find(all, contact) == all.end()) all.push_back(contact);
  return all;
}

bool TreeNode::is_settled() const {
  if (parent_) return true;
  return is_in_ && !is_shut_out_ && hints_.empty() && entries_.empty() && lost_.nonce == 0;
}

std::vector<LinkIndex> TreeNode::links() const {
  std::vector<LinkIndex> all;
  for (const auto& [link, neighbour] : links_) all.push_back(link);
  return all;
}

}  // namespace shoal
