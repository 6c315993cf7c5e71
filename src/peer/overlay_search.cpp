// Searches through the overlay: of our own, of somebody who asks this node, and what this node has itself.
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
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
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

constexpr std::uint32_t kSearchMilliseconds = 10'000;
constexpr Nanoseconds kConnectTimeout = 1500ms;
constexpr Nanoseconds kAnswerTimeout = 5s;  // of a node that is asked: it says once a second that it goes on
constexpr Nanoseconds kTrackerTimeout = 5s;
constexpr std::size_t kMostTried = 16;                                       // nodes, until one can be asked
constexpr Nanoseconds kSearchTime = Milliseconds(kSearchMilliseconds) + 3s;  // of a node that is asked, to the end
constexpr Nanoseconds kAskingTime = 30s;                                     // for all of those that are tried
constexpr Nanoseconds kRefusedPause = 100ms;                                 // of a stranger, before it may ask again
constexpr std::size_t kMostListed = 100'000;                                 // nodes, by a tracker; ...
constexpr std::size_t kMostListedBytes = 64 * kMiB;                          // ... and how much of them

Search new_search(World& world, SearchKind kind, std::string pattern) {
  return {world.random(), kind, std::move(pattern), 0, Searches::kMostHops, kSearchMilliseconds};
}

}  // namespace

// ---- what this node has -------------------------------------------------------------------------------

SearchAnswer Overlay::own_node(std::uint64_t search) const {
  SearchAnswer answer{search, true, 0, 0, false, {}, {}};
  answer.found_nodes.push_back({tree_.key(), self_.id, self_.listening.host, self_.listening.port, tree_.neighbours()});
  return answer;
}

Task<> Overlay::look_up_one(Wanted wanted) {
  if (wanted.kind == SearchKind::nodes) {
    searches_.on_looked_up(wanted.search, own_node(wanted.search), now());
    co_return carry_out();
  }
  const auto is_wanted = [this, id = wanted.search] { return searches_.is_under_way(id); };
  const auto take_part = [this, id = wanted.search](SearchAnswer part) {
    for (Hit& hit : part.hits) {
      hit.id = self_.id;
      hit.host = self_.listening.host;
      hit.port = self_.listening.port;
    }
    searches_.on_looked_up(id, std::move(part), now());
    carry_out();
  };
  co_await look_up_(std::move(wanted.pattern), strand_, is_wanted, take_part);
}

/// One after the other, so that many searches cost what one costs at a time.
Task<> Overlay::look_up_in_turn() {
  for (;;) {
    while (to_look_up_.empty()) co_await has_to_look_up_.wait();
    Wanted wanted = std::move(to_look_up_.front());
    to_look_up_.pop_front();
    co_await look_up_one(std::move(wanted));
  }
}

// ---- whoever asks this node ---------------------------------------------------------------------------

std::pair<LinkIndex, Overlay::ClientPtr> Overlay::begin_search(Asker asker, const Search& search) {
  const LinkIndex link = tree_.new_link();
  const auto client = std::make_shared<Client>();
  clients_[link] = client;
  const auto branches = tree_.links();
  const auto begun = searches_.on_search(link, asker, search, branches, tree_.is_settled(), now());
  if (!begun) client->parts.push_back({search.id, true, 0, 1, false, {}, {}});
  carry_out();
  return {link, client};
}

void Overlay::end_client(LinkIndex link) {
  clients_.erase(link);
  searches_.on_closed(link);
  carry_out();
}

Task<Result<OverlaySearch>> Overlay::follow_search(Asker asker, Search search, std::function<Task<>(SearchAnswer)> on_part) {
  const auto [link, client] = co_await call_on(strand_, [&] { return begin_search(asker, search); });
  OverlaySearch outcome;
  std::exception_ptr failed;
  try {
    for (bool is_over = false; !is_over;) {
      auto parts = co_await call_on(strand_, [&, waiting = client] { return std::exchange(waiting->parts, {}); });
      if (parts.empty()) co_await client->came.wait();
      for (SearchAnswer& part : parts) {
        if (part.is_last) outcome = {part.nodes, part.missing, part.is_cut};
        is_over |= part.is_last;
        co_await on_part(std::move(part));
      }
    }
  } catch (...) {
    failed = std::current_exception();
  }
  co_await run_on(strand_, [&, ended = link] { end_client(ended); });
  if (failed) std::rethrow_exception(failed);
  co_return outcome;
}

Task<Result<OverlaySearch>> Overlay::search(SearchKind kind, std::string pattern, std::function<void(const SearchAnswer&)> on_answer) {
  const auto on_part = [on_answer = std::move(on_answer)](SearchAnswer part) -> Task<> {
    on_answer(part);
    co_return;
  };
  co_return co_await follow_search(Asker::self, new_search(world_, kind, std::move(pattern)), on_part);
}

/// Under an id of ours: one that a stranger may choose could be that of another's search.
Task<> Overlay::answer(Link& link, Search search) {
  const std::uint64_t id = std::exchange(search.id, world_.random());
  search.hops = 0;
  const auto on_part = [&link, id](SearchAnswer part) -> Task<> {
    part.id = id;
    co_await step(shoal::send(link, std::move(part)));
  };
  const auto outcome = co_await follow_search(Asker::stranger, std::move(search), on_part);
  if (!outcome || outcome->asked == 0) co_await world_.sleep(kRefusedPause);
}

// ---- asking a node that is not ours -------------------------------------------------------------------

namespace {

/// Fails as late as a deadline allows, or in `patience`.
template <class M>
Task<Result<M>> receive_before(World& world, Link& link, Instant deadline, Nanoseconds patience) {
  const Nanoseconds left = deadline - world.now();
  if (left <= Nanoseconds::zero()) co_return fail(Errc::timed_out, "waiting for an answer");
  co_return co_await receive<M>(link, std::min(left, patience));
}

/// One search on a connection of its own.
Task<Result<OverlaySearch>> ask_node(World& world, std::string id, Endpoint node, Search search,
                                     std::function<void(const SearchAnswer&)> on_answer) {
  const Executor strand = co_await asio::this_coro::executor;
  const Instant deadline = world.now() + kSearchTime;
  SearchFilter filter(search);
  auto link = co_await world.connect(node, strand, kConnectTimeout);
  if (!link) co_return Failure(std::move(link).error());
  Hello hello;
  hello.role = Role::question;
  hello.id = std::move(id);
  hello.instance = world.random() | 1;
  if (auto sent = co_await (*link)->send({std::move(hello), std::move(search)}); !sent) co_return Failure(std::move(sent).error());
  if (auto welcome = co_await receive<Welcome>(**link, kAnswerTimeout); !welcome) co_return Failure(std::move(welcome).error());
  (*link)->established();
  for (;;) {
    auto answer = co_await receive_before<SearchAnswer>(world, **link, deadline, kAnswerTimeout);
    if (!answer) co_return Failure(std::move(answer).error());
    Message message(std::move(*answer));
    set_hosts(message, (*link)->remote().host);
    auto& part = std::get<SearchAnswer>(message);
    if (auto taken = filter.take(part); !taken) co_return Failure(std::move(taken).error());
    on_answer(part);
    if (!part.is_last && !filter.is_full()) continue;
    static_cast<void>(co_await send(**link, Leave{}));
    (*link)->close();
    if (!part.is_last) co_return OverlaySearch{0, 1, true};
    co_return OverlaySearch{part.nodes, part.missing, part.is_cut};
  }
}

/// All nodes, as the tracker sees them.
Task<Result<std::vector<OverlayNode>>> nodes_of_tracker(World& world, const PeerOptions& options, Nanoseconds patience) {
  const Executor strand = co_await asio::this_coro::executor;
  auto link = co_await world.connect(options.tracker, strand, patience);
  if (!link) co_return Failure(std::move(link).error());
  const Instant deadline = world.now() + kAskingTime;
  try {
    co_await greet_tracker(**link, options.id, world.random() | 1, {OverlayList{1}});
    std::vector<OverlayNode> nodes;
    std::size_t bytes = 0;
    for (bool is_last = false; !is_last;) {
      auto page = co_await step(receive_before<OverlayNodes>(world, **link, deadline, kTrackerTimeout));
      for (OverlayNode& node : page.nodes) {
        bytes += encoded_size(node);
        if (nodes.size() >= kMostListed || bytes > kMostListedBytes)
          co_return fail(Errc::too_large, fmt::format("the tracker lists more than {} nodes", nodes.size()));
        node.host = with_zone_of(node.host, (*link)->remote().host);
        nodes.push_back(std::move(node));
      }
      is_last = page.is_last;
    }
    static_cast<void>(co_await send(**link, Leave{}));
    (*link)->close();
    co_return nodes;
  } catch (const StepFailed& failed) {
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

/// The answer of the first that answers. Once one has found anything, no other is asked.
Task<Result<OverlaySearch>> ask_any(World& world, const PeerOptions& options, bool with_tracker, Search search,
                                    std::function<void(const SearchAnswer&)> on_answer) {
  bool is_tracker_there = false;
  const auto nodes = co_await nodes_to_ask(world, options, with_tracker, is_tracker_there);
  if (nodes.empty() && is_tracker_there) co_return OverlaySearch{};
  if (nodes.empty())
    co_return fail(Errc::nobody, "nobody to ask: no node of the overlay is known", "name one with --join, or start a tracker and share");
  const Instant deadline = world.now() + kAskingTime;
  Result<OverlaySearch> outcome;
  for (const Endpoint& node : nodes) {
    if (world.now() >= deadline) break;
    bool has_begun = false;
    outcome = co_await ask_node(world, options.id, node, search, [&](const SearchAnswer& part) {
      has_begun |= !part.hits.empty() || !part.found_nodes.empty();
      on_answer(part);
    });
    if (has_begun && !outcome) co_return OverlaySearch{0, 1, false};
    if (outcome && (has_begun || outcome->asked > 0)) co_return outcome;
    if (outcome) continue;  // refused
    outcome = fail(outcome.error().code, fmt::format("cannot ask the node at {}", to_string(node)), "name another with --join");
  }
  co_return outcome;
}

}  // namespace

Task<Result<OverlaySearch>> search_overlay(World& world, PeerOptions options, std::string pattern, OnHit on_hit) {
  const auto on_answer = [on_hit = std::move(on_hit)](const SearchAnswer& part) {
    for (const Hit& hit : part.hits) on_hit(hit);
  };
  co_return co_await ask_any(world, options, true, new_search(world, SearchKind::files, std::move(pattern)), on_answer);
}

Topology sorted_topology(Topology topology) {
  keep_confirmed_links(topology.nodes);
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
    topology.nodes.insert(topology.nodes.end(), part.found_nodes.begin(), part.found_nodes.end());
  });
  if (!gathered && why && gathered.error().code == make_error_code(Errc::nobody)) co_return Failure(*why);
  if (!gathered) co_return Failure(gathered.error());
  topology.missing = gathered->missing;
  co_return sorted_topology(std::move(topology));
}

}  // namespace shoal
