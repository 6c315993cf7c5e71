// What asks the overlay without being a node of it: a node that has the tree searched, or the tracker for all nodes. What either sends is
// bounded, in size and in time.
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
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

module shoal.peer;

import :node;
import :overlay;
import shoal.base;
import shoal.manifest;
import shoal.tree;
import shoal.wire;
import shoal.world;

namespace asio = boost::asio;
using namespace std::chrono_literals;

namespace shoal {
namespace {

constexpr Nanoseconds kConnectTimeout = 1500ms;
constexpr Nanoseconds kGreetingTimeout = 2s;
constexpr Nanoseconds kAnswerTimeout = 5s;  // of a node that is asked: it says once a second that it goes on
constexpr Nanoseconds kMargin = 2s;         // for the end of a search to get here
constexpr Nanoseconds kMostLooking = 10s;   // until one can be asked
constexpr Nanoseconds kTrackerTimeout = 5s;
constexpr Nanoseconds kListTimeout = 10s;  // for all of a tracker's list
constexpr std::size_t kMostTried = 16;     // nodes, until one can be asked

Error wrong_number() { return Error{make_error_code(Errc::out_of_order), "got the answer to another question", {}}; }

/// Waits for the next message of a sequence that has to be over at `deadline`.
template <class M>
Task<M> receive_until(World& world, Link& link, Instant deadline, Nanoseconds timeout) {
  const Nanoseconds left = deadline - world.now();
  if (left <= Nanoseconds::zero()) throw StepFailed(Error{make_error_code(Errc::timed_out), "its answer goes on and on", {}});
  co_return co_await step(receive<M>(link, std::min(left, timeout)));
}

using OnPart = std::function<void(const SearchAnswer&)>;

/// Hands on what comes of one search, as much as one may bring.
class Gathering {
 public:
  Gathering(const Search& search, OnPart on_part)
      : id_(search.id), sieve_(search.kind, search.pattern), left_(Searches::most_of(search.kind)), on_part_(std::move(on_part)) {}

  bool has_begun() const { return has_begun_; }
  /// What came of it, once that is known: its last answer is there, or it sends more than any search may bring.
  std::optional<OverlaySearch> take(SearchAnswer answer) {
    if (answer.id != id_) throw StepFailed(wrong_number());
    sieve_.sift(answer);
    const bool is_within = take_room(answer.hits) && take_room(answer.found_nodes);
    is_cut_ |= answer.is_cut || !is_within;
    has_begun_ |= !answer.hits.empty() || !answer.found_nodes.empty();
    on_part_(answer);
    if (!is_within) return broken_off();
    if (answer.is_last) return OverlaySearch{answer.nodes, answer.missing, is_cut_};
    return std::nullopt;
  }
  /// Its end is not known.
  OverlaySearch broken_off() const { return {0, 1, is_cut_}; }

 private:
  /// False where there is too much, of which the rest is dropped.
  template <class T>
  bool take_room(std::vector<T>& found) {
    const auto too_much = std::ranges::find_if(found, [this](const T& each) {
      const std::size_t room = room_of(each);
      const bool fits = room <= left_;
      left_ = fits ? left_ - room : 0;
      return !fits;
    });
    const bool is_within = too_much == found.end();
    found.erase(too_much, found.end());
    return is_within;
  }

  std::uint64_t id_;
  SearchSieve sieve_;
  std::size_t left_;
  OnPart on_part_;
  bool is_cut_ = false;
  bool has_begun_ = false;
};

/// One search on a connection of its own.
Task<Result<OverlaySearch>> ask_node(World& world, std::string id, Endpoint node, Search search, Gathering& gathering) {
  const Executor strand = co_await asio::this_coro::executor;
  const Nanoseconds time = std::chrono::milliseconds(search.left_ms) + kMargin;
  auto connected = co_await world.connect(node, strand, kConnectTimeout);
  if (!connected) co_return Failure(std::move(connected).error());
  Link& link = **connected;
  Hello hello;
  hello.role = Role::question;
  hello.id = std::move(id);
  hello.instance = world.random() | 1;
  try {
    co_await step(link.send({std::move(hello), std::move(search)}));
    co_await step(receive<Welcome>(link, kGreetingTimeout));
    link.established();
    const Instant deadline = world.now() + time;
    std::optional<OverlaySearch> outcome;
    while (!outcome) {
      Message message(co_await receive_until<SearchAnswer>(world, link, deadline, kAnswerTimeout));
      set_hosts(message, link.remote().host);
      outcome = gathering.take(std::get<SearchAnswer>(std::move(message)));
    }
    static_cast<void>(co_await send(link, Leave{}));
    link.close();
    co_return *outcome;
  } catch (const StepFailed& failed) {
    link.close();
    co_return Failure(failed.error());
  }
}

/// All nodes, as the tracker sees them.
Task<Result<std::vector<OverlayNode>>> nodes_of_tracker(World& world, const PeerOptions& options, Nanoseconds patience) {
  const Executor strand = co_await asio::this_coro::executor;
  constexpr std::uint32_t kQuery = 1;
  auto link = co_await world.connect(options.tracker, strand, patience);
  if (!link) co_return Failure(std::move(link).error());
  try {
    co_await greet_tracker(**link, options.id, world.random() | 1, {OverlayList{kQuery}});
    const Instant deadline = world.now() + kListTimeout;
    SearchSieve sieve(SearchKind::nodes, {});
    std::vector<OverlayNode> nodes;
    std::size_t room = 0;
    for (bool is_last = false; !is_last;) {
      auto page = co_await receive_until<OverlayNodes>(world, **link, deadline, kTrackerTimeout);
      if (page.query != kQuery) throw StepFailed(wrong_number());
      is_last = page.is_last;
      SearchAnswer answer{0, false, 0, 0, false, {}, std::move(page.nodes)};
      sieve.sift(answer);
      for (OverlayNode& node : answer.found_nodes) {
        room += room_of(node);
        node.host = with_zone_of(node.host, (*link)->remote().host);
        nodes.push_back(std::move(node));
      }
      if (room > Searches::kMostFoundNodes) throw StepFailed(Error{make_error_code(Errc::too_large), "a list of nodes without an end", {}});
    }
    static_cast<void>(co_await send(**link, Leave{}));
    (*link)->close();
    co_return nodes;
  } catch (const StepFailed& failed) {
    (*link)->close();
    co_return Failure(failed.error());
  }
}

Endpoint address_of(const OverlayNode& node) { return {node.host, node.port}; }

/// Whom to ask: the node that the user named, else those of the tracker, else those that were known before, where there is no tracker.
Task<std::vector<Endpoint>> nodes_to_ask(World& world, const PeerOptions& options, bool with_tracker, bool& is_tracker_there) {
  std::vector<Endpoint> nodes;
  const auto add = [&](const Endpoint& node) {
    if (node.port != 0 && std::ranges::find(nodes, node) == nodes.end()) nodes.push_back(node);
  };
  if (options.overlay && options.overlay->join) {
    add(*options.overlay->join);
    co_return nodes;
  }
  if (with_tracker) {
    const auto listed = co_await nodes_of_tracker(world, options, kConnectTimeout);
    is_tracker_there = listed.has_value();
    if (listed)
      for (const OverlayNode& node : *listed)
        if (nodes.size() < kMostTried) add(address_of(node));
  }
  if (options.overlay && !is_tracker_there)
    for (const Endpoint& node : options.overlay->known)
      if (nodes.size() < 2 * kMostTried) add(node);
  co_return nodes;
}

/// The answer of the first that answers. Once one has told of anything, no other is asked.
Task<Result<OverlaySearch>> ask_any(World& world, const PeerOptions& options, bool with_tracker, Search search, OnPart on_part) {
  bool is_tracker_there = false;
  const auto nodes = co_await nodes_to_ask(world, options, with_tracker, is_tracker_there);
  if (nodes.empty() && is_tracker_there) co_return OverlaySearch{};
  if (nodes.empty())
    co_return fail(Errc::nobody, "nobody to ask: no node of the overlay is known", "name one with --join, or start a tracker and share");
  Result<OverlaySearch> outcome;
  const Instant last_try = world.now() + kMostLooking;
  for (const Endpoint& node : nodes) {
    Gathering gathering(search, on_part);
    outcome = co_await ask_node(world, options.id, node, search, gathering);
    const bool is_refused = outcome && outcome->asked == 0 && !gathering.has_begun();
    if (outcome && !is_refused) co_return outcome;
    if (gathering.has_begun()) co_return gathering.broken_off();
    if (!outcome)
      outcome = fail(outcome.error().code, fmt::format("cannot ask the node at {}", to_string(node)), "name another with --join");
    if (world.now() >= last_try) break;
  }
  co_return outcome;
}

}  // namespace

std::string nowhere_text(std::uint32_t asked) {
  return fmt::format("not found anywhere ({} {} asked)", asked, asked == 1 ? "node" : "nodes");
}

Search new_search(World& world, SearchKind kind, std::string pattern) {
  constexpr std::uint32_t kSearchMilliseconds = 10'000;
  return {world.random(), kind, std::move(pattern), 0, Searches::kMostHops, kSearchMilliseconds};
}

Task<Result<OverlaySearch>> search_overlay(World& world, PeerOptions options, std::string pattern, OnHit on_hit) {
  if (auto checked = check_pattern(pattern); !checked) co_return Failure(std::move(checked).error());
  const auto on_part = [on_hit = std::move(on_hit)](const SearchAnswer& part) {
    for (const Hit& hit : part.hits) on_hit(hit);
  };
  co_return co_await ask_any(world, options, true, new_search(world, SearchKind::files, std::move(pattern)), on_part);
}

Topology sorted_topology(Topology topology) {
  keep_confirmed(topology.nodes);
  std::ranges::sort(topology.nodes, {}, &OverlayNode::key);
  return topology;
}

Task<Result<Topology>> overlay_topology(World& world, PeerOptions options) {
  const bool is_named = options.overlay && options.overlay->join;
  std::optional<Error> why;
  if (!is_named) {
    auto listed = co_await nodes_of_tracker(world, options, options.wait.value_or(kTrackerTimeout));
    if (listed) co_return sorted_topology({std::move(*listed), true, 0});
    why = no_tracker(options.tracker, listed.error());
  }
  Topology topology;
  const auto gathered = co_await ask_any(world, options, false, new_search(world, SearchKind::nodes, {}), [&](const SearchAnswer& part) {
    std::ranges::copy(part.found_nodes, std::back_inserter(topology.nodes));
  });
  if (!gathered && why && gathered.error().code == make_error_code(Errc::nobody)) co_return Failure(*why);
  if (!gathered) co_return Failure(gathered.error());
  topology.missing = gathered->missing;
  co_return sorted_topology(std::move(topology));
}

}  // namespace shoal
