// Whom a node better leaves alone for a while.
module;

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <map>

module shoal.tree;

import :doubts;
import shoal.base;

using namespace std::chrono_literals;

namespace shoal {
namespace {

struct Patience {
  Nanoseconds first;
  Nanoseconds most;
};

Patience patience_with(Vain why) {
  switch (why) {
    case Vain::unreachable: return {1s, 4s};
    case Vain::useless: return {1s, 64s};
    case Vain::silent: return {5s, 60s};  // the tracker takes 4 s to see that a node is gone
  }
  return {1s, 4s};
}

constexpr int kMostTimes = 8;

}  // namespace

void Doubts::add(const Endpoint& at, Vain why, Instant now) {
  if (!doubts_.contains(at)) make_room(now);
  Doubt& doubt = doubts_[at];
  if (now - doubt.until > kForgotten) doubt = {};
  const Patience patience = patience_with(why);
  doubt.until = std::max(doubt.until, now + std::min(patience.first * (1 << doubt.times), patience.most));
  doubt.times = std::min(doubt.times + 1, kMostTimes);
}

bool Doubts::holds(const Endpoint& at, Instant now) const {
  const auto found = doubts_.find(at);
  return found != doubts_.end() && now < found->second.until;
}

/// The one that is asked again first goes.
void Doubts::make_room(Instant now) {
  if (doubts_.size() < kMost) return;
  std::erase_if(doubts_, [now](const auto& entry) { return now - entry.second.until > kForgotten; });
  if (doubts_.size() < kMost) return;
  doubts_.erase(std::ranges::min_element(doubts_, {}, [](const auto& entry) { return entry.second.until; }));
}

}  // namespace shoal
