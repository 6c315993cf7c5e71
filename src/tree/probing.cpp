// Whether others reach the children: who stands in the way gives way.
module;

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

module shoal.tree;

import :actions;
import shoal.base;
import shoal.wire;

using namespace std::chrono_literals;

namespace shoal {
namespace {

constexpr Nanoseconds kConnectTimeout = 2s;
constexpr Nanoseconds kAnswerTimeout = 3s;
constexpr Nanoseconds kProbeEvery = 10s;  // one child
constexpr std::size_t kMostReferred = 64;
constexpr Nanoseconds kReferredFor = 60s;
constexpr Nanoseconds kClearedFor = 5s;

}  // namespace

/// Somebody comes, and there is no room. Who was referred to the children before was taken in by none of them: whether they take
/// connections is seen to, and there may be a place soon.
bool TreeNode::is_place_cleared(std::uint64_t nonce, Instant now) {
  std::erase_if(referred_, [now](const Referred& referred) { return now - referred.at > kReferredFor; });
  const auto before = std::ranges::find(referred_, nonce, &Referred::nonce);
  if (before != referred_.end()) {
    before->at = now;
    probe_children(now);
    if (probes_.empty()) return false;
    if (now - cleared_for_.at >= kClearedFor) cleared_for_ = {nonce, now};
    return true;
  }
  if (referred_.size() >= kMostReferred) referred_.pop_front();
  referred_.push_back({nonce, now});
  return false;
}

/// The last place is for who is reached by others, and first of all for whom it was cleared.
bool TreeNode::is_place_for(const Contact& contact, Instant now) const {
  if (links_.size() + 1 < options_.max_links) return true;
  const bool is_cleared = cleared_for_.nonce != 0 && now - cleared_for_.at < kClearedFor;
  return !unreached_.holds(address_of(contact), now) && (!is_cleared || contact.key.nonce == cleared_for_.nonce);
}

void TreeNode::probe_children(Instant now) {
  for (auto& [link, neighbour] : links_) {
    if (link == parent_ || now < neighbour.next_probe) continue;
    neighbour.next_probe = now + kProbeEvery;
    const LinkIndex probe = new_link();
    probes_[probe] = {link, now + kConnectTimeout};
    actions_.emplace_back(Dial{probe, address_of(neighbour.contact)});
  }
}

/// Asks for a place at a node that is below already: that refers whoever is above it elsewhere.
bool TreeNode::is_probe_connected(LinkIndex link, Instant now) {
  const auto found = probes_.find(link);
  if (found == probes_.end()) return false;
  found->second.deadline = now + kAnswerTimeout;
  actions_.emplace_back(SendTo{link, Attach{self(), {}, true}});
  return true;
}

bool TreeNode::is_probe_answered(LinkIndex link, const Message& message, Instant now) {
  const auto found = probes_.find(link);
  if (found == probes_.end()) return false;
  actions_.emplace_back(CloseLink{link});
  end_probe(found, std::holds_alternative<Refer>(message), now);
  return true;
}

bool TreeNode::is_probe_closed(LinkIndex link, Instant now) {
  const auto found = probes_.find(link);
  if (found == probes_.end()) return false;
  end_probe(found, false, now);
  return true;
}

void TreeNode::end_probe(Probes::iterator probe, bool is_good, Instant now) {
  const LinkIndex child = probe->second.child;
  probes_.erase(probe);
  if (is_good || !is_child(child)) return;
  const Contact contact = links_.at(child).contact;
  actions_.emplace_back(Remark{fmt::format("overlay: {} is not reached by others: it gives way to them", name_of(contact))});
  unreached_.add(address_of(contact), Vain::useless, now);
  actions_.emplace_back(SendTo{child, Detach{}});
  actions_.emplace_back(CloseLink{child});
  lose(child, now);
}

void TreeNode::end_late_probes(Instant now) {
  std::vector<LinkIndex> late;
  for (const auto& [link, probe] : probes_)
    if (now >= probe.deadline) late.push_back(link);
  for (const LinkIndex link : late) {
    actions_.emplace_back(CloseLink{link});
    end_probe(probes_.find(link), false, now);
  }
}

}  // namespace shoal
