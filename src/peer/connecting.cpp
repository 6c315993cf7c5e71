module;

#include <fmt/format.h>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/this_coro.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
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
import shoal.wire;
import shoal.world;

namespace asio = boost::asio;
using namespace std::chrono_literals;

namespace shoal {
namespace {

constexpr Nanoseconds kConnectPatience = 5s;
constexpr Nanoseconds kLook = 50ms;     // how often the roster is looked through
constexpr Nanoseconds kTheirTurn = 3s;  // a peer that came later connects to us; if it does not, we try
constexpr Nanoseconds kFirstBackoff = 200ms;
constexpr Nanoseconds kLongestBackoff = 5s;
constexpr std::size_t kMostSessions = 512;

/// What is known of reaching one peer; it is kept while it is in the roster.
struct Reach {
  Instant seen;
  Instant next_try;
  Nanoseconds backoff = kFirstBackoff;
};

bool is_our_turn(const Node& node, const RosterEntry& entry, const Reach& reach, Instant now) {
  const bool came_before = !node.self || entry.peer < *node.self;
  return now >= reach.next_try && (came_before || now - reach.seen >= kTheirTurn);
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

Task<> keep_connected(Node& node) {
  std::map<std::string, Reach> reaches;
  for (;;) {
    const Instant now = node.world.now();
    for (const auto& [id, entry] : node.roster) {
      if (!entry.is_here || id == node.options.id || entry.port == 0) {
        reaches.erase(id);
        continue;
      }
      Reach& reach = reaches.try_emplace(id, Reach{now, now}).first->second;
      if (node.by_id.contains(id)) {
        reach = {now, now + kFirstBackoff};
        continue;
      }
      if (node.connecting.contains(id) || node.remotes.size() >= kMostNeighbours || !is_our_turn(node, entry, reach, now)) continue;
      reach.next_try = now + reach.backoff;
      reach.backoff = std::min(reach.backoff * 2, kLongestBackoff);
      node.connecting.insert(id);
      node.tasks.spawn(make_strand(node.world), "connecting to " + id, connect_to(node, entry));
    }
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
