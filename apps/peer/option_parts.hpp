/// What the options of the commands of shoal-peer are put together from. Include this last: it imports modules.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>

#include "peer/options.hpp"

import shoal.base;

namespace shoal::apps {

/// A setter for a part of the action that was chosen.
template <class Action>
Setter within(PeerCommand& command, Setter (*part)(Action&)) {
  return [&command, part](const std::string& text) { return part(std::get<Action>(command.action))(text); };
}

template <class Action>
Command make_command(PeerCommand& command, std::string name, std::string operand, std::string summary, std::string example) {
  return {.name = std::move(name),
          .operand = std::move(operand),
          .summary = std::move(summary),
          .example = std::move(example),
          .choose = [&command] { command.action = Action{}; },
          .set_operand = {},
          .groups = {}};
}

/// An address where somebody may listen.
Setter reachable_into(Endpoint& target, std::uint16_t default_port);

Command clock_command(PeerCommand& command);
Command timeline_command(PeerCommand& command);
Command topology_command(PeerCommand& command);

/// Options of a peer that is a node of the overlay, and of a command that asks one.
OptionGroup node_group(PeerCommand& command);
OptionGroup asking_group(PeerCommand& command);
/// A closed swarm has no overlay.
Parsed<void> check_overlay(const Program& program, const PeerCommand& command);

}  // namespace shoal::apps
