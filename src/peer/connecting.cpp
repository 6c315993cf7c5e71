module;

#include <fmt/format.h>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/this_coro.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

module shoal.peer;

import :node;
import shoal.base;
import shoal.report;
import shoal.schedule;
import shoal.wire;
import shoal.world;

namespace asio = boost::asio;
using namespace std::chrono_literals;

namespace shoal {
namespace {

constexpr Nanoseconds kConnectPatience = 5s;
constexpr Nanoseconds kLook = 50ms;     // how often it is looked who is missing
constexpr Nanoseconds kTheirTurn = 3s;  // a peer that came later connects to us; if it does not, we try
constexpr Nanoseconds kFirstBackoff = 200ms;
constexpr Nanoseconds kLongestBackoff = 5s;
constexpr std::size_t kMostSessions = 512;
constexpr Nanoseconds kStarved = 2s;
constexpr std::size_t kMostWidening = 16;  // times two: all that there may be

bool may_be_reached(const Node& node, const RosterEntry& entry) { return entry.is_here && entry.port != 0 && entry.id != node.options.id; }

bool was_dropped(const Node& node, const RosterEntry& entry) {
  const auto first = node.dropped.lower_bound({entry.id, 0});
  return first != node.dropped.end() && first->first == entry.id;
}

/// Where a member stands on the ring: anywhere, so that those who come one after the other do not all begin with the first members.
std::uint64_t place_of(PeerId peer) {
  std::uint64_t bits = (std::uint64_t{peer.value} + 1) * 0x9E3779B97F4A7C15;  // Fibonacci hashing: even, and the same for everyone
  bits ^= bits >> 32;
  return bits * 0xD6E8FEB86659FD93;
}

std::vector<const RosterEntry*> members_in_order(const Node& node) {
  std::vector<const RosterEntry*> members;
  for (const auto& [id, entry] : node.roster) members.push_back(&entry);
  std::ranges::sort(members, {}, [](const RosterEntry* entry) { return place_of(entry->peer); });
  return members;
}

/// Those on the ring of members that are some steps away, or the next ones where they are gone.
std::vector<const RosterEntry*> on_ring(const Node& node, const std::vector<const RosterEntry*>& members, std::size_t degree) {
  const auto self =
      std::ranges::lower_bound(members, place_of(*node.self), {}, [](const RosterEntry* entry) { return place_of(entry->peer); });
  const auto place = static_cast<std::size_t>(self - members.begin());
  std::vector<const RosterEntry*> chosen;
  for (const std::size_t step : ring_steps(members.size(), degree))
    for (std::size_t skipped = 0; skipped < members.size(); ++skipped) {
      const RosterEntry* const entry = members[(place + step + skipped) % members.size()];
      if (!may_be_reached(node, *entry) || was_dropped(node, *entry) || std::ranges::find(chosen, entry) != chosen.end()) continue;
      chosen.push_back(entry);
      break;
    }
  return chosen;
}

/// Whom we want to be connected with: everyone in a small swarm, who was named as a holder, and where something is lost, because that
/// nobody has it can only be said of those that are connected. Else the usual number, or more where that did not do.
void choose_neighbours(Node& node) {
  const auto members = members_in_order(node);
  const std::size_t degree = usual_degree(members.size()) << node.widening;
  const bool is_with_all = !node.self || node.has_lost || degree + 1 >= members.size();
  node.degree = is_with_all ? kMostNeighbours : degree;
  const Instant now = node.world.now();
  std::map<std::string, Reach> reaches;
  const auto choose = [&](const RosterEntry& entry, bool is_ours) {
    const auto known = node.reaches.find(entry.id);
    Reach reach = known != node.reaches.end() ? known->second : Reach{now, now, kFirstBackoff, is_ours};
    reach.is_ours = is_ours;
    reaches.emplace(entry.id, reach);
  };
  if (is_with_all) {
    for (const RosterEntry* entry : members)
      if (may_be_reached(node, *entry)) choose(*entry, !node.self || entry->peer < *node.self);
  } else {
    for (const RosterEntry* entry : on_ring(node, members, degree)) choose(*entry, true);
  }
  node.reaches = std::move(reaches);
}

/// Where nothing came for a while, those that have what we want are not among our neighbours.
void widen_if_starved(Node& node) {
  const Instant now = node.world.now();
  if (node.unfinished == 0 || node.last_chunk == Instant{}) node.last_chunk = now;
  if (now - node.last_chunk < kStarved || node.widening == kMostWidening) return;
  node.last_chunk = now;
  node.has_roster_news = true;
  ++node.widening;
  node.report.debug("nothing came for a while: looking for more neighbours");
}

Task<> connect_to(Node& node, RosterEntry entry) {
  const Executor strand = co_await asio::this_coro::executor;
  auto link = co_await node.world.connect({entry.host, entry.port}, strand, kConnectPatience);
  if (link) {
    co_await serve_peer(node, std::make_shared<PeerSession>(std::move(*link), true));
  } else {
    node.report.debug(fmt::format("peer {}: {}", entry.id, link.error().message()));
  }
  co_await run_on(node.strand, [&] { node.connecting.erase(entry.id); });
}

}  // namespace

void connect_missing(Node& node) {
  if (std::exchange(node.has_roster_news, false)) choose_neighbours(node);
  const Instant now = node.world.now();
  for (auto& [id, reach] : node.reaches) {
    const RosterEntry& entry = node.roster.at(id);
    if (node.by_id.contains(id)) {
      reach = {now, now + kFirstBackoff, kFirstBackoff, reach.is_ours};
      continue;
    }
    const bool is_our_turn = now >= reach.next_try && (reach.is_ours || now - reach.chosen >= kTheirTurn);
    const bool are_enough = node.remotes.size() + node.connecting.size() >= std::min(node.degree, kMostNeighbours);
    if (!is_our_turn || are_enough || !may_be_reached(node, entry) || node.connecting.contains(id)) continue;
    reach.next_try = now + reach.backoff;
    reach.backoff = std::min(reach.backoff * 2, kLongestBackoff);
    node.connecting.insert(id);
    node.tasks.spawn(make_strand(node.world), "connecting to " + id, connect_to(node, entry));
  }
}

Task<> keep_connected(Node& node) {
  for (;;) {
    widen_if_starved(node);
    connect_missing(node);
    co_await node.world.sleep(kLook);
  }
}

Task<> accept_peers(Node& node, std::shared_ptr<Listener> listener) {
  for (;;) {
    const Executor strand = make_strand(node.world);
    std::shared_ptr<Link> link = co_await step(listener->accept(strand));
    if (node.tasks.running() > kMostSessions * 4) continue;  // closes it
    node.tasks.spawn(strand, "session with " + to_string(link->remote()),
                     serve_peer(node, std::make_shared<PeerSession>(std::move(link), false)));
  }
}

}  // namespace shoal
