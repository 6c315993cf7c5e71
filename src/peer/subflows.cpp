// Further connections with a neighbour: who may open them, and how many it takes.
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
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

module shoal.peer;

import :node;
import :subflows;
import shoal.base;
import shoal.bundle;
import shoal.report;
import shoal.schedule;
import shoal.wire;
import shoal.world;

namespace asio = boost::asio;
using namespace std::chrono_literals;

namespace shoal {

// ---- secrets and places -------------------------------------------------------------------------------

Secret Subflows::offer(World& world, const std::shared_ptr<Bundle>& bundle) {
  const Secret secret{world.random(), world.random()};
  const std::lock_guard lock(mutex_);
  offered_.insert_or_assign(secret, bundle);
  return secret;
}

void Subflows::withdraw(const Secret& secret) {
  const std::lock_guard lock(mutex_);
  offered_.erase(secret);
}

std::shared_ptr<Bundle> Subflows::find(const Secret& secret) const {
  const std::lock_guard lock(mutex_);
  const auto offered = offered_.find(secret);
  return offered == offered_.end() ? nullptr : offered->second.lock();
}

namespace {

constexpr Nanoseconds kPatience = 10s;  // for the greeting of a further connection
constexpr Nanoseconds kSilence = 15s;   // of the first one
constexpr Nanoseconds kBusyLook = 20ms;
constexpr Nanoseconds kIdleLook = 200ms;
constexpr Nanoseconds kFresh = 2s;  // what a session is for comes with the greeting, or soon after
constexpr std::size_t kMostTogether = 8;
constexpr std::ptrdiff_t kMostPairs = 2;

/// The connection itself knows best: what a ping measures may have waited behind data.
std::optional<Nanoseconds> round_trip_of(const PeerSession& session) {
  const auto known = session.link->round_trip();
  return known ? known : session.several.round_trip;
}

// ---- the side that opens them -------------------------------------------------------------------------

Task<> open_connection(Node& node, SessionPtr session, Join join, std::shared_ptr<void> place) {
  const Executor strand = co_await asio::this_coro::executor;
  std::shared_ptr<Link> link = co_await step(node.world.connect(session->link->remote(), strand, kPatience));
  Hello hello;
  hello.features = kSeveralConnections;
  hello.role = Role::subflow;
  hello.id = node.options.id;
  hello.instance = instance_for_peers(node.instance);
  std::vector<Message> greeting;
  greeting.emplace_back(std::move(hello));
  greeting.emplace_back(join);
  co_await step(link->send(std::move(greeting)));
  co_await step(receive<Welcome>(*link, kPatience));
  link->established();
  unwrap(co_await call_on(session->link->executor(), [&] { return session->link->add(join.connection, link, std::move(place)); }));
  node.report.detail("connection", {{"peer", session->id}, {"number", std::uint64_t{join.connection}}});
}

/// Chunks of the largest content that waits for hashes of each neighbour: they are asked for as soon as these are here.
std::map<Source, std::size_t> chunks_to_come(Node& node) {
  std::map<Source, std::size_t> chunks;
  for (const auto& [asked, from] : node.hash_requests) {
    const Content* content = find_content(node, asked.first);
    std::size_t& most = chunks[from.source];
    if (content) most = std::max<std::size_t>(most, content->chunks);
  }
  return chunks;
}

/// What the node knows that a session does not.
struct Outlook {
  std::size_t most = 1;     ///< Connections of each pair.
  std::size_t to_come = 0;  ///< Chunks that were asked for and wait to be sent, or will be asked for.
};

/// One busy pair may have all, two have half of it each: of more, each is one flow among several anyhow.
Outlook look_ahead(Node& node, const PeerSession& session) {
  const auto to_come = chunks_to_come(node);
  const Instant now = node.world.now();
  const auto busy = std::ranges::count_if(node.remotes, [&](const auto& remote) {
    const bool is_fresh = now - remote.second->since < kFresh;
    return is_fresh || !remote.second->outstanding.empty() || remote.second->is_sending || node.queue.waiting(remote.first) > 0 ||
           to_come.contains(remote.first);
  });
  Outlook outlook;
  outlook.most = busy > kMostPairs ? 1 : kMostTogether / static_cast<std::size_t>(std::max<std::ptrdiff_t>(busy, 1));
  if (!session.source) return outlook;
  outlook.to_come = node.queue.waiting(*session.source);
  if (const auto own = to_come.find(*session.source); own != to_come.end()) outlook.to_come += own->second;
  return outlook;
}

ConnectionCount::Look look_at(const Node& node, const PeerSession& session, const Outlook& outlook) {
  ConnectionCount::Look look;
  look.now = node.world.now();
  look.bytes_moved = session.link->bytes_moved();
  look.waiting = session.expected.size() + session.uploads.size() + session.in_hand.size() + outlook.to_come;
  look.round_trip = round_trip_of(session).value_or(Nanoseconds::zero());
  look.connections = session.link->connections();
  look.most = std::min(outlook.most, kMostConnections);
  return look;
}

/// On the session's strand.
Task<> keep_connections(Node& node, SessionPtr session, Joinable offer) {
  ConnectionCount count;
  std::uint32_t opened = 0;
  const Instant fresh_until = node.world.now() + kFresh;
  while (!session->is_over) {
    Outlook outlook = co_await in_node(node, [&] { return look_ahead(node, *session); });
    outlook.most = std::min<std::size_t>(outlook.most, offer.most);
    const auto look = look_at(node, *session, outlook);
    const int change = count.on_look(look);
    for (int i = change; i < 0; ++i) session->link->remove_one();
    for (int i = 0; i < change; ++i)
      if (auto place = node.subflows.take_place(session->link))
        node.tasks.spawn(make_strand(node.world), "a further connection to " + session->id,
                         open_connection(node, session, Join{offer.secret, ++opened}, std::move(place)));
    const bool is_idle = look.waiting == 0 && look.now > fresh_until;
    co_await node.world.sleep(is_idle ? kIdleLook : std::max(look.round_trip / 8, kBusyLook));
  }
}

}  // namespace

void take_offer(Node& node, const SessionPtr& session, const Joinable& offer) {
  if (!session->is_initiator || !session->several.are_known || session->link->is_begun()) return;
  session->link->begin(node.world, node.tasks, kSilence);
  node.tasks.spawn(session->link->executor(), "connections to " + session->id, keep_connections(node, session, offer));
}

// ---- the side that lets them come ---------------------------------------------------------------------

void offer_connections(Node& node, PeerSession& session) {
  Several& several = session.several;
  if (!std::exchange(several.is_to_be_looked_at, false)) return;
  if (session.is_initiator || !several.are_known || session.link->is_begun()) return;
  if (round_trip_of(session).value_or(Nanoseconds::zero()) < kFarAway) return;
  session.link->begin(node.world, node.tasks, kSilence);
  several.secret = node.subflows.offer(node.world, session.link);
  session.outbox.push(Joinable{*several.secret, static_cast<std::uint32_t>(kMostConnections)});
}

Task<> let_join(Node& node, PeerSession& session, const Hello& hello) {
  if ((hello.features & kSeveralConnections) == 0)
    co_await refuse(node.world, session, RefusalReason::other, "a further connection needs bit 0 of the features");
  session.link->established();
  const Join join = co_await step(receive<Join>(*session.link, kPatience));
  const auto bundle = node.subflows.find(join.secret);
  if (!bundle) co_await refuse(node.world, session, RefusalReason::other, "no session here has that secret");
  auto place = node.subflows.take_place(bundle);
  if (!place) co_await refuse(node.world, session, RefusalReason::other, "this peer has as many further connections as it may have");
  const std::size_t most = co_await in_node(node, [&] { return look_ahead(node, session).most; });
  const bool has_room =
      co_await call_on(bundle->executor(), [&] { return bundle->connections() < most && bundle->can_add(join.connection); });
  if (!has_room)
    co_await refuse(node.world, session, RefusalReason::other, "that session is over, or has as many connections as it may have");
  co_await step(send(*session.link, Welcome{kProtocolVersion, kSeveralConnections, node.options.id, instance_for_peers(node.instance)}));
  unwrap(co_await call_on(bundle->executor(), [&] { return bundle->add(join.connection, session.link->first(), std::move(place)); }));
}

}  // namespace shoal
