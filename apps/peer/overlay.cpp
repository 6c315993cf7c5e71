// The commands that ask the overlay: find, and topo.
#include <fmt/core.h>

#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "peer/nodes.hpp"
#include "peer/overlay.hpp"
#include "peer/run.hpp"

import shoal.base;
import shoal.peer;
import shoal.report;
import shoal.shell;
import shoal.wire;
import shoal.world;

using namespace std::chrono_literals;

namespace shoal::apps {

OverlayOptions overlay_options(const PeerCommand& command, Report& report) {
  OverlayOptions options;
  options.max_links = command.overlay.max_links;
  options.join = command.overlay.join;
  options.known = read_nodes(command.overlay.nodes);
  // An earlier run may have been allowed to talk to other machines in plain text.
  if (!command.insecure) std::erase_if(options.known, [](const Endpoint& node) { return !is_loopback(node.host); });
  options.remember = [&report, file = command.overlay.nodes](const std::vector<Endpoint>& nodes) {
    if (const auto kept = keep_nodes(file, nodes); !kept) report.debug(kept.error().message());
  };
  return options;
}

namespace {

struct Searched {
  OverlaySearch search;
  std::uint64_t hits = 0;
};

/// Says each hit at once. `begin` is called before the first, or else at the end of a search that somebody answered.
Task<Result<Searched>> search(World& world, Report& report, PeerOptions options, std::string pattern, std::function<void()> begin) {
  Searched searched;
  const auto on_hit = [&](const Hit& hit) {
    if (searched.hits++ == 0) begin();
    print_hit(report, hit);
  };
  const auto ended = co_await search_overlay(world, std::move(options), std::move(pattern), on_hit);
  if (!ended) co_return Failure(ended.error());
  if (searched.hits == 0) begin();
  searched.search = *ended;
  co_return searched;
}

ExitCode conclude(Report& report, const Searched& searched) {
  return answer(
      report, conclude_search(report, searched.search, searched.hits),
      {{"files", searched.hits}, {"asked", std::uint64_t{searched.search.asked}}, {"silent", std::uint64_t{searched.search.missing}}});
}

/// Whether nobody is there, or whoever is does not answer; one that says no is there.
bool is_away(const Error& error) {
  constexpr std::array kAnswers{Errc::refused, Errc::unsupported_version, Errc::malformed, Errc::too_large, Errc::out_of_order};
  for (const Errc code : kAnswers)
    if (error.code == make_error_code(code)) return false;
  return exit_code_of(error) == ExitCode::network;
}

ExitCode conclude(Report& report, const std::string& pattern, const LocateAnswer& located) {
  print_located(report, located);
  const Fields fields{
      {"files", std::uint64_t{located.files.size()}}, {"asked", std::uint64_t{located.asked}}, {"silent", std::uint64_t{located.silent}}};
  const auto concluded = conclude_located(report, located);
  if (concluded && located.files.empty())
    return answer(report, fail(Errc::not_found, fmt::format("no peer has '{}'", pattern), "shoal-peer ls shows what there is"), fields);
  return answer(report, concluded, fields);
}

}  // namespace

Task<ExitCode> run_find_command(const FindAction& action, World& world, Report& report, PeerOptions options) {
  if (action.via_overlay) {
    const auto searched = co_await search(world, report, std::move(options), action.pattern, [] {});
    co_return searched ? conclude(report, *searched) : answer(report, Failure(searched.error()));
  }
  const auto located = co_await locate_files(world, options, action.pattern);
  if (located) co_return conclude(report, action.pattern, *located);
  if (!action.via_tracker && is_away(located.error())) {
    const auto say = [&] { report.note(fmt::format("no tracker at {}: asking the overlay", to_string(options.tracker))); };
    PeerOptions without_tracker = options;
    without_tracker.wait = 0s;
    const auto searched = co_await search(world, report, std::move(without_tracker), action.pattern, say);
    if (searched) co_return conclude(report, *searched);
  }
  co_return answer(report, Failure(located.error()));
}

Task<ExitCode> run_topology_command(const TopologyAction& action, World& world, Report& report, PeerOptions options) {
  const auto topology = co_await overlay_topology(world, std::move(options));
  if (!topology) co_return answer(report, Failure(topology.error()));
  co_return answer(report, print_topology(report, *topology, action.as_dot),
                   {{"nodes", std::uint64_t{topology->nodes.size()}},
                    {"missing", std::uint64_t{topology->missing}},
                    {"from_tracker", topology->is_from_tracker}});
}

}  // namespace shoal::apps
