// What a peer's node of the overlay knows of the rest: what files there are here, and what was found elsewhere as a source.
module;

#include <fmt/core.h>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/post.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

module shoal.peer;

import :node;
import :overlay;
import shoal.base;
import shoal.digest;
import shoal.manifest;
import shoal.report;
import shoal.schedule;
import shoal.tree;
import shoal.wire;
import shoal.world;

namespace asio = boost::asio;
using namespace std::chrono_literals;

namespace shoal {
namespace {

constexpr std::size_t kLooksAtOnce = 2048;  // names; others come in between
constexpr std::size_t kMostOwnHits = 200;   // in one search; who asks for more than that is to ask more precisely
constexpr Nanoseconds kTrackerWait = 1s;    // for a tracker that is away for a moment
constexpr Nanoseconds kLongestSearch = 2min;

// ---- what is here -------------------------------------------------------------------------------------

/// Some names further on.
struct Looked {
  std::vector<Hit> hits;
  std::optional<std::string> last;  ///< Nothing at the end.
};

Looked look_on(const Node& node, const EntryPattern& pattern, const std::optional<std::string>& after) {
  Looked looked;
  const std::uint32_t load = load_of(node);
  auto own = after ? node.own.upper_bound(*after) : node.own.begin();
  for (std::size_t i = 0; own != node.own.end() && i < kLooksAtOnce; ++own, ++i) {
    looked.last = (*own)->name;
    if (pattern.means(**own)) looked.hits.push_back({**own, {}, {}, 0, load, 0});
  }
  if (own == node.own.end()) looked.last.reset();
  return looked;
}

Task<> look_up_own(Node& node, std::string text, Executor strand, std::function<bool()> is_wanted, OverlayParts part) {
  const EntryPattern pattern(std::move(text));
  std::size_t count = 0;
  std::optional<std::string> last;
  for (bool is_over = false; !is_over;) {
    Looked looked = co_await in_node(node, [&] { return look_on(node, pattern, last); });
    last = std::move(looked.last);
    const bool is_cut = count + looked.hits.size() > kMostOwnHits;
    if (is_cut) looked.hits.resize(kMostOwnHits - count);
    count += looked.hits.size();
    is_over = !last || is_cut;
    bool goes_on = false;
    co_await run_on(strand, [&] {
      goes_on = is_wanted();
      if (goes_on) part({0, is_over, 0, 0, is_cut, std::move(looked.hits), {}});
    });
    if (!goes_on) co_return;
  }
}

}  // namespace

void start_overlay(Node& node) {
  if (!node.options.overlay) return;
  const Endpoint listening{host_to_tell(node.listening), node.listening.port};
  node.overlay = std::make_unique<Overlay>(
      node.world, node.report, *node.options.overlay, Overlay::Self{node.options.tracker, listening, node.options.id},
      [&node](std::string pattern, Executor strand, std::function<bool()> is_wanted, OverlayParts part) {
        return look_up_own(node, std::move(pattern), std::move(strand), std::move(is_wanted), std::move(part));
      });
  node.overlay->start(node.tasks);
}

// ---- what was found elsewhere -------------------------------------------------------------------------

namespace {

/// Who is no peer of the tracker's has a number of its own, from its name.
PeerId number_for(const std::string& id) {
  constexpr std::uint32_t kNotOfTracker = 0x80000000;
  return PeerId(static_cast<std::uint32_t>(std::hash<std::string>()(id)) | kNotOfTracker);
}

RosterEntry holder_of(const Hit& hit) { return {number_for(hit.id), hit.id, hit.host, hit.port, true, true}; }

}  // namespace

std::vector<Finding> findings_of(const std::vector<Hit>& hits) {
  using Key = std::tuple<std::string, Sha256Digest, std::uint64_t>;
  std::map<Key, Finding> findings;
  for (const Hit& hit : hits) {
    Finding& finding = findings.try_emplace({hit.entry.name, hit.entry.root, hit.entry.size}, Finding{hit.entry, {}}).first->second;
    const bool is_known = std::ranges::find(finding.holders, hit.id, &RosterEntry::id) != finding.holders.end();
    if (!is_known) finding.holders.push_back(holder_of(hit));
  }
  std::vector<Finding> all;
  for (auto& [key, finding] : findings) all.push_back(std::move(finding));
  // Of several contents of one name, the one that most have comes first.
  std::sort(all.begin(), all.end(), [](const Finding& a, const Finding& b) {
    if (a.holders.size() != b.holders.size()) return a.holders.size() > b.holders.size();
    return std::tie(a.entry.name, a.entry.root) < std::tie(b.entry.name, b.entry.root);
  });
  return all;
}

namespace {

std::vector<LocatedEntry> located_of(const std::vector<Hit>& hits) {
  std::vector<LocatedEntry> entries;
  for (const Finding& finding : findings_of(hits)) {
    LocatedEntry entry{finding.entry, {}};
    for (const RosterEntry& holder : finding.holders) {
      const auto hit =
          std::ranges::find_if(hits, [&](const Hit& each) { return each.id == holder.id && each.entry.root == finding.entry.root; });
      entry.holders.push_back({holder.peer, holder.id, holder.host, holder.port, hit->load});
    }
    entries.push_back(std::move(entry));
  }
  return entries;
}

/// Where a peer is reached now may have changed since the tracker said so.
void note_holders(Node& node, const std::vector<LocatedEntry>& entries) {
  for (const LocatedEntry& entry : entries)
    for (const Holder& holder : entry.holders) {
      const auto known = node.roster.find(holder.id);
      if (known == node.roster.end() || holder.id == node.options.id) continue;
      known->second.host = holder.host;
      known->second.port = holder.port;
      known->second.is_here = true;
      node.has_roster_news = true;
    }
}

}  // namespace

namespace {

/// A search of a command, which may be stopped meanwhile: then nothing is told of it any more.
struct Searching {
  std::optional<Result<OverlaySearch>> outcome;
  std::function<void(const SearchAnswer&)> on_answer;
};

Task<> search_in_background(Node& node, SearchKind kind, std::string pattern, std::shared_ptr<Searching> searching) {
  searching->outcome = co_await node.overlay->search(kind, std::move(pattern), [searching](const SearchAnswer& part) {
    if (searching->on_answer) searching->on_answer(part);
  });
}

/// On the node's strand.
Task<Result<OverlaySearch>> search_for(Node& node, SearchKind kind, std::string pattern,
                                       std::function<void(const SearchAnswer&)> on_answer) {
  const auto searching = std::make_shared<Searching>();
  searching->on_answer = std::move(on_answer);
  node.tasks.spawn(node.strand, "searching", search_in_background(node, kind, std::move(pattern), searching));
  std::optional<Error> stopped;
  try {
    co_await wait_for(node, [&] { return searching->outcome.has_value(); }, kLongestSearch);
  } catch (const StepFailed& failed) {
    stopped = failed.error();
  }
  searching->on_answer = nullptr;
  if (stopped) throw StepFailed(*stopped);
  if (!searching->outcome) co_return fail(Errc::timed_out, "the search through the overlay did not end");
  co_return *searching->outcome;
}

}  // namespace

Task<std::optional<FoundInOverlay>> find_without_tracker(Node& node, std::string pattern) {
  if (!node.overlay || node.tracker) co_return std::nullopt;
  if (co_await wait_for(node, [&node] { return node.tracker != nullptr; }, kTrackerWait)) co_return std::nullopt;
  if (node.overlay->link_count() == 0) co_return std::nullopt;
  FoundInOverlay found;
  const auto take = [&found](const SearchAnswer& part) { found.hits.insert(found.hits.end(), part.hits.begin(), part.hits.end()); };
  const auto outcome = co_await search_for(node, SearchKind::files, std::move(pattern), take);
  if (!outcome) throw StepFailed(outcome.error());
  found.outcome = *outcome;
  found.entries = located_of(found.hits);
  note_holders(node, found.entries);
  co_return found;
}

Task<Result<OverlaySearch>> search_from(Node& node, std::string pattern, OnHit on_hit) {
  if (auto checked = check_pattern(pattern); !checked) co_return Failure(std::move(checked).error());
  if (!node.overlay) co_return fail(Errc::unsupported, "this peer is no node of the overlay", "start it without --no-overlay");
  co_return co_await search_for(node, SearchKind::files, std::move(pattern), [on_hit = std::move(on_hit)](const SearchAnswer& part) {
    for (const Hit& hit : part.hits) on_hit(hit);
  });
}

Task<Result<Topology>> topology_from(Node& node) {
  PeerOptions options = node.options;
  options.wait = 1s;
  if (options.overlay) options.overlay->join.reset();
  if (node.tracker || !node.overlay) co_return co_await overlay_topology(node.world, std::move(options));
  Topology topology;
  const auto gathered = co_await search_for(node, SearchKind::nodes, {}, [&](const SearchAnswer& part) {
    topology.nodes.insert(topology.nodes.end(), part.found_nodes.begin(), part.found_nodes.end());
  });
  if (!gathered) co_return Failure(gathered.error());
  topology.missing = gathered->missing;
  co_return sorted_topology(std::move(topology));
}

}  // namespace shoal
