// Where others reach us, where we reach them, and what is done where only one side reaches the other.
module;

#include <fmt/core.h>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

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
import shoal.wire;
import shoal.world;

namespace shoal {
namespace {

constexpr int kTriesInVain = 3;  // to be connected with a source, before that is said

/// Says once that there is a connection with none of them, as it will be where nobody changes anything.
void tell_of_unreached(Node& node, const std::vector<PeerId>& peers, InVain& in_vain) {
  const RosterEntry* lost = nullptr;
  for (const PeerId peer : peers) {
    const RosterEntry& entry = node.roster.at(node.peer_names.at(peer));
    if (++in_vain.tries[entry.id] >= kTriesInVain) lost = &entry;
  }
  if (!lost || !node.remotes.empty() || std::exchange(in_vain.is_told, true)) return;
  const auto where = lost->port != 0 ? to_string({lost->host, lost->port}) : lost->host + ", where it does not listen for others";
  node.report.warn(
      fmt::format("peer {}: no connection, neither from here (to {}) nor from there; trying again. One of the two has to listen "
                  "where the other reaches it: see --listen",
                  lost->id, where));
}

}  // namespace

std::string host_to_tell(const Endpoint& listening) { return is_any_address(listening.host) ? std::string() : listening.host; }

void add_zone(std::string& host, const Link& tracker) { host = with_zone_of(host, tracker.remote().host); }

ConnectBack connect_back(const Node& node, std::vector<PeerId> peers) {
  return {host_to_tell(node.listening), node.listening.port, std::move(peers)};
}

Task<> call_unreached(Node& node, Link& link, InVain& in_vain) {
  auto peers = co_await in_node(node, [&] { return unreached(node); });
  if (peers.empty()) co_return;
  co_await run_on(node.strand, [&] { tell_of_unreached(node, peers, in_vain); });
  co_await step(send(link, connect_back(node, std::move(peers))));
}

}  // namespace shoal
