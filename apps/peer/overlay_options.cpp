// The options that have to do with the overlay.
#include <fmt/core.h>
#include <tl/expected.hpp>

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <variant>

#include "peer/option_parts.hpp"

import shoal.base;

namespace shoal::apps {
namespace {

constexpr std::uint32_t kLeastLinks = 2;
constexpr std::uint32_t kMostLinks = 1000;

Setter join_into(PeerCommand& command) {
  return [&command](const std::string& text) -> Result<void> { return reachable_into(command.overlay.join.emplace(), 0)(text); };
}

Setter max_links_into(OverlayCommand& overlay) {
  return [&overlay](const std::string& text) -> Result<void> {
    const bool is_number = into(overlay.max_links)(text).has_value();
    if (!is_number || overlay.max_links < kLeastLinks || overlay.max_links > kMostLinks)
      return fail(Errc::usage, fmt::format("'{}' is no number of links for a node", text),
                  fmt::format("write {} to {}", kLeastLinks, kMostLinks));
    overlay.is_max_links_chosen = true;
    return {};
  };
}

Option join_option(PeerCommand& command, std::string help) {
  return {.name = "join", .value = "HOST:PORT", .help = std::move(help), .set = join_into(command)};
}

}  // namespace

OptionGroup node_group(PeerCommand& command) {
  return {"Overlay",
          {{.name = "no-overlay",
            .help = "be no node of the overlay, which finds files without the tracker",
            .set = into(command.overlay.is_left_out)},
           {.name = "max-links",
            .value = "N",
            .help = "have at most so many links there; with 2 it is a line",
            .standard = "2",
            .set = max_links_into(command.overlay)},
           join_option(command, "a node to come in by, without a tracker, too")}};
}

OptionGroup asking_group(PeerCommand& command) { return {"Overlay", {join_option(command, "the node to ask, in place of those known")}}; }

Command topology_command(PeerCommand& command) {
  Command topology = make_command<TopologyAction>(command, "topo", "", "show the tree of the overlay's nodes", "shoal-peer topo --dot");
  topology.choose = [&command] {
    command.action = TopologyAction{};
    command.wait = std::chrono::seconds(5);
  };
  topology.groups = {{"Topo",
                      {{.name = "dot",
                        .help = "for Graphviz",
                        .set = within<TopologyAction>(command, [](TopologyAction& action) { return into(action.as_dot); })}}},
                     asking_group(command)};
  return topology;
}

Parsed<void> check_overlay(const Program& program, const PeerCommand& command) {
  const auto* const swarm = std::get_if<SwarmAction>(&command.action);
  const auto* const topology = std::get_if<TopologyAction>(&command.action);
  const OverlayCommand& overlay = command.overlay;
  if (overlay.is_left_out && (overlay.join || overlay.is_max_links_chosen))
    return usage_error(program, fmt::format("--no-overlay and {} do not go together", overlay.join ? "--join" : "--max-links"),
                       "leave one of them out");
  if (topology && topology->as_dot && command.common.json)
    return usage_error(program, "--dot and --json are two ways to write the same", "leave one of them out");
  if (!swarm || swarm->expect == 0 || overlay.is_left_out || (!overlay.join && !overlay.is_max_links_chosen)) return {};
  return usage_error(program,
                     fmt::format("{} is about the overlay, and a closed swarm has none: its peers all know each other",
                                 overlay.join ? "--join" : "--max-links"),
                     "leave it out, or --expect");
}

}  // namespace shoal::apps
