module;

#include <fmt/core.h>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/post.hpp>
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
#include <variant>
#include <vector>

module shoal.peer;

import :node;
import shoal.base;
import shoal.report;
import shoal.wire;
import shoal.world;

namespace asio = boost::asio;

namespace shoal {

void tell_tracker(Node& node, Message message) {
  if (!node.tracker) return;
  asio::post(node.tracker->link->executor(),
             [tracker = node.tracker, message = std::move(message)]() mutable { tracker->outbox.push(std::move(message)); });
}

void on_tracker_up(Node& node, std::shared_ptr<TrackerLink> link, const Registered& registered) {
  if (node.epoch != registered.epoch) {
    node.peer_names.clear();  // another run of the tracker numbers its peers anew
    node.roster.clear();
    node.reaches.clear();
    node.introduced = 0;
  }
  node.tracker = std::move(link);
  node.self = registered.peer;
  node.epoch = registered.epoch;
  node.expect = registered.expect;
  node.revision = 0;
  node.has_begun = false;
  node.complete_told.reset();
  for (const auto& content : node.contents)
    if (content->have > 0) note_count(node, *content);
  if (node.others_wanted > node.introduced) tell_tracker(node, Introduce{static_cast<std::uint32_t>(node.others_wanted)});
  node.report.event("registered", {{"peer", node.options.id}, {"tracker", to_string(node.options.tracker)}, {"epoch", registered.epoch}});
  node.report.note(fmt::format("{}: registered with the tracker at {}", node.options.id, to_string(node.options.tracker)));
}

void on_tracker_down(Node& node, const std::shared_ptr<TrackerLink>& link) {
  if (node.tracker != link) return;
  node.tracker.reset();
  node.announced_epoch = 0;
  node.is_announcing = false;
}

void on_roster(Node& node, const RosterEntry& entry) {
  node.peer_names[entry.peer] = entry.id;
  RosterEntry& known = node.roster[entry.id] = entry;
  if (node.tracker) add_zone(known.host, *node.tracker->link);
  node.has_roster_news = true;
}

void want_others(Node& node, std::size_t others) {
  others = std::min(others, kMostNeighbours);
  if (others <= node.others_wanted) return;
  node.others_wanted = others;
  tell_tracker(node, Introduce{static_cast<std::uint32_t>(others)});
}

std::size_t others_here(const Node& node) {
  return static_cast<std::size_t>(
      std::ranges::count_if(node.roster, [&](const auto& peer) { return peer.second.is_here && peer.first != node.options.id; }));
}

namespace {

std::string owner_name(const Node& node, PeerId peer) {
  const auto known = node.peer_names.find(peer);
  return known == node.peer_names.end() ? fmt::format("peer-{}", peer.value) : known->second;
}

void on_swarm_complete(Node& node, const SwarmComplete& over) {
  node.swarm_time = Nanoseconds(over.total_ns);
  node.percent_of_bound = over.percent_of_bound_x100 / 100.0;
  const bool is_ours = std::ranges::find(over.failed, node.options.id) != over.failed.end();
  for (const auto& id : over.failed)
    if (id != node.options.id) node.report.warn(fmt::format("peer {}: did not get everything, or could not offer all that it has", id));
  finish(node, is_ours ? node.failure : over.failed.empty() ? ExitCode::done : ExitCode::partial);
}

}  // namespace

Result<> on_tracker_message(Node& node, const Message& message) {
  if (const auto* roster = std::get_if<Roster>(&message)) {
    for (const auto& entry : roster->peers) on_roster(node, entry);
    connect_missing(node);
  } else if (const auto* wish = std::get_if<ConnectTo>(&message)) {
    on_connect_to(node, *wish);
  } else if (const auto* catalogue = std::get_if<Catalogue>(&message)) {
    for (const auto& owner : catalogue->owners) node.peer_names[owner.peer] = owner.id;
    for (const auto& offered : catalogue->entries) on_offered(node, owner_name(node, offered.owner), offered.entry);
    node.revision = std::max(node.revision, catalogue->revision);
  } else if (const auto* retracted = std::get_if<Retracted>(&message)) {
    for (const auto& name : retracted->names) on_retracted(node, owner_name(node, retracted->owner), name, retracted->lost);
    node.revision = std::max(node.revision, retracted->revision);
  } else if (const auto* begin = std::get_if<Begin>(&message)) {
    if (!node.has_begun) node.report.event("begin", {{"peers", std::uint64_t{begin->peers}}});
    node.has_begun = true;
    node.revision = std::max(node.revision, begin->revision);
    check_done(node);
  } else if (const auto* introduced = std::get_if<Introduced>(&message)) {
    node.introduced = std::max<std::size_t>(node.introduced, introduced->others);
    give_up_lost(node);
    check_done(node);
  } else if (const auto* confirmed = std::get_if<Confirmed>(&message)) {
    on_confirmed(node, *confirmed);
  } else if (const auto* located = std::get_if<Located>(&message)) {
    on_located(node, *located);
  } else if (const auto* probe = std::get_if<Probe>(&message)) {
    node.tasks.spawn(node.strand, "answering a probe", answer_probe(node, *probe));
  } else if (const auto* over = std::get_if<SwarmComplete>(&message)) {
    on_swarm_complete(node, *over);
  } else {
    return fail(Errc::out_of_order, fmt::format("got {} from the tracker", name_of(type_of(message))));
  }
  return {};
}

// ---- how far we are -----------------------------------------------------------------------------------

void report_progress(Node& node) {
  node.last_report = node.world.now();
  if (!node.tracker) return;
  constexpr std::size_t kCountsPerMessage = 1500;
  Progress progress{node.bytes_have, node.bytes_wanted, load_of(node), {}};
  for (const ContentIndex index : std::exchange(node.counts_changed, {})) {
    Content& content = *find_content(node, index);
    content.is_count_told = true;
    progress.counts.push_back({content.root, content.have});
    if (progress.counts.size() < kCountsPerMessage) continue;
    tell_tracker(node, progress);
    progress.counts.clear();
  }
  tell_tracker(node, std::move(progress));
}

}  // namespace shoal
