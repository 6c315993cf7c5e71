module;

#include <fmt/core.h>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/post.hpp>
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
#include <string_view>
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
constexpr Nanoseconds kCallAgain = 2s;  // until those that we cannot connect to are told again to connect to us

bool may_be_reached(const Node& node, const RosterEntry& entry) { return entry.is_here && entry.port != 0 && entry.id != node.options.id; }

/// It cannot connect to us, as it is on another machine and we listen on this one only.
bool cannot_reach_us(const Node& node, const RosterEntry& entry) { return is_loopback(node.listening.host) && !is_loopback(entry.host); }

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
    reach.is_ours = !node.self || entry.peer < *node.self || node.called.contains(id) || cannot_reach_us(node, entry);
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

/// `attempt` is what it is called in node.connecting, until it is decided whether the other becomes a neighbour.
Task<> connect_to(Node& node, RosterEntry entry, std::string attempt) {
  const Executor strand = co_await asio::this_coro::executor;
  auto link = co_await node.world.connect({entry.host, entry.port}, strand, kConnectPatience);
  if (!link) {
    node.report.debug(fmt::format("peer {}: {}", entry.id, link.error().message()));
    co_return co_await run_on(node.strand, [&] { node.connecting.erase(attempt); });
  }
  const auto session = std::make_shared<PeerSession>(std::move(*link), true);
  session->attempt = std::move(attempt);
  co_await serve_peer(node, session);
  co_await run_on(node.strand, [&] { end_attempt(node, *session); });
}

}  // namespace

void end_attempt(Node& node, PeerSession& session) {
  if (const auto attempt = std::exchange(session.attempt, std::nullopt)) node.connecting.erase(*attempt);
}

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
    node.tasks.spawn(make_strand(node.world), "connecting to " + id, connect_to(node, entry, id));
  }
}

std::vector<PeerId> unreached(const Node& node) {
  std::vector<PeerId> peers;
  for (const auto& [id, entry] : node.roster) {
    const bool is_wanted = (!node.self || node.called.contains(id)) && entry.is_here && id != node.options.id;
    if (!is_wanted || node.by_id.contains(id) || node.connecting.contains(id) || was_dropped(node, entry)) continue;
    const auto tried = node.reaches.find(id);
    const bool is_in_vain = entry.port == 0 || (tried != node.reaches.end() && tried->second.backoff > kFirstBackoff);
    if (is_in_vain && peers.size() < kMaxConnectBack) peers.push_back(entry.peer);
  }
  return peers;
}

void on_connect_to(Node& node, const ConnectTo& wish) {
  RosterEntry entry{{}, wish.id, wish.host, wish.port, true, false};
  if (node.tracker) add_zone(entry.host, *node.tracker->link);
  // Anybody may ask, under any name: it takes no room from those that we want to be connected with, nor stands in for one of them.
  std::string attempt = "/" + to_string({entry.host, entry.port});
  const bool are_enough = node.remotes.size() >= kMostNeighbours || node.connecting.size() >= kMostNeighbours / 4;
  const bool is_known = node.by_id.contains(entry.id) || entry.id == node.options.id;
  if (are_enough || is_known || entry.port == 0 || !node.connecting.insert(attempt).second) return;
  node.tasks.spawn(make_strand(node.world), "connecting back to " + entry.id, connect_to(node, std::move(entry), std::move(attempt)));
}

Task<> keep_connected(Node& node) {
  Instant next_call = node.world.now();
  for (;;) {
    widen_if_starved(node);
    connect_missing(node);
    if (!node.called.empty() && node.world.now() >= next_call)
      if (auto peers = unreached(node); !peers.empty()) {
        tell_tracker(node, connect_back(node, std::move(peers)));
        next_call = node.world.now() + kCallAgain;
      }
    co_await node.world.sleep(kLook);
  }
}

namespace {

/// Those that have connected and are not greeted yet, or only ask. Anybody may be one, and for as long as there is a place: where all are
/// taken, one of the machine that has most of them gives way to whoever comes, the one that has been idle for longest.
class Guests {
 public:
  void add(const SessionPtr& session) {
    if (guests_.size() >= kMostGuests) forget_others();
    if (guests_.size() >= kMostGuests) show_one_out();
    guests_.push_back({session, session->link->remote().host});
  }

 private:
  struct Guest {
    std::weak_ptr<PeerSession> session;
    std::string machine;
  };
  static constexpr std::size_t kMostGuests = 512;

  void forget_others() {
    std::erase_if(guests_, [](const Guest& guest) {
      const SessionPtr session = guest.session.lock();
      return !session || !session->is_guest;
    });
  }
  void show_one_out() {
    std::map<std::string_view, std::size_t> count;
    std::string_view most;
    for (const Guest& guest : guests_)
      if (++count[guest.machine] > count[most]) most = guest.machine;
    auto chosen = guests_.end();
    Instant idle_since = Instant::max();
    for (auto guest = guests_.begin(); guest != guests_.end(); ++guest) {
      const SessionPtr session = guest->machine == most ? guest->session.lock() : nullptr;
      const Instant since = session ? session->guest_since.load() : Instant::max();
      if (since >= idle_since) continue;
      idle_since = since;
      chosen = guest;
    }
    if (chosen == guests_.end()) return;  // all are being answered
    if (const SessionPtr session = chosen->session.lock()) asio::post(session->link->executor(), [session] { session->link->close(); });
    guests_.erase(chosen);
  }

  std::vector<Guest> guests_;
};

}  // namespace

Task<> accept_peers(Node& node, std::shared_ptr<Listener> listener) {
  Guests guests;
  for (;;) {
    const Executor strand = make_strand(node.world);
    auto accepted = co_await listener->accept(strand);
    if (!accepted && accepted.error().code == make_error_code(Errc::closed)) co_return;  // by us
    std::shared_ptr<Link> link = unwrap(std::move(accepted));
    if (node.tasks.running() > kMostSessions * 4) continue;  // closes it
    std::string name = "session with " + to_string(link->remote());
    const auto session = std::make_shared<PeerSession>(std::move(link), false);
    session->guest_since = node.world.now();
    guests.add(session);
    node.tasks.spawn(strand, std::move(name), serve_peer(node, session));
  }
}

}  // namespace shoal
