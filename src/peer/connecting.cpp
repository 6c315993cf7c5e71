module;

#include <fmt/core.h>
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

bool may_be_reached(const Node& node, const RosterEntry& entry) { return entry.is_here && entry.port != 0 && entry.id != node.options.id; }

bool was_dropped(const Node& node, const RosterEntry& entry) {
  const auto first = node.dropped.lower_bound({entry.id, 0});
  return first != node.dropped.end() && first->first == entry.id;
}

/// Everyone that the tracker told of, or an answer named as a holder. Of two members the later one connects.
void choose_neighbours(Node& node) {
  const Instant now = node.world.now();
  std::map<std::string, Reach> reaches;
  for (const auto& [id, entry] : node.roster) {
    if (!may_be_reached(node, entry) || was_dropped(node, entry)) continue;
    const auto known = node.reaches.find(id);
    Reach reach = known != node.reaches.end() ? known->second : Reach{now, now, kFirstBackoff};
    reach.is_ours = !node.self || entry.peer < *node.self || node.called.contains(id);
    reaches.emplace(id, reach);
  }
  node.reaches = std::move(reaches);
}

/// Where nothing came for a while, those that have what we want are not among our neighbours.
void widen_if_starved(Node& node) {
  const Instant now = node.world.now();
  if (node.unfinished == 0 || !node.has_begun || node.last_chunk == Instant{}) node.last_chunk = now;
  if (now - node.last_chunk < kStarved || node.others_wanted == kMostNeighbours) return;
  node.last_chunk = now;
  want_others(node, 2 * std::max<std::size_t>(others_here(node), 1));
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
    const bool are_enough = node.remotes.size() + node.connecting.size() >= kMostNeighbours;
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
