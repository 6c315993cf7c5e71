/// What a command line looks like, as data: one list drives parsing, the environment, the configuration and --help.
/// Include this last: it imports modules.
#pragma once

#include <tl/expected.hpp>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

import shoal.base;

namespace shoal::apps {

/// Takes one value as the user wrote it; fails with what is wrong with it and what to write.
using Setter = std::function<Result<void>(const std::string&)>;

struct Option {
  std::string name = {};   ///< `limit-rate`: `--limit-rate`, `SHOAL_LIMIT_RATE`, and `limit-rate` in the configuration.
  char letter = 0;         ///< `o` for `-o`; none when 0.
  std::string value = {};  ///< `RATE`, for the help; a switch when empty.
  std::string help = {};
  std::string standard = {};  ///< The default, for the help; may be empty.
  Setter set = {};            ///< A switch is given "true" or "false".
  bool repeats = false;       ///< Each use adds a value; otherwise the last one counts.
};

struct OptionGroup {
  std::string title = {};
  std::vector<Option> options = {};
};

struct Command {
  std::string name = {};              ///< `swarm`; empty for a program without commands.
  std::string operand = {};           ///< `DIR`, or `NAME...` for one or more; none when empty.
  std::string summary = {};           ///< One line, without a full stop.
  std::string example = {};           ///< A whole command line.
  std::function<void()> choose = {};  ///< Called before any setter of the command.
  Setter set_operand = {};            ///< Called for each operand.
  std::vector<OptionGroup> groups = {};
};

struct Program {
  std::string name = {};   ///< `shoal-peer`
  std::string table = {};  ///< `peer`: its table in the configuration.
  std::string summary = {};
  std::vector<Command> commands = {};    ///< One without a name, or several with names.
  std::vector<OptionGroup> groups = {};  ///< Options of every command.
};

// ---- setters ----------------------------------------------------------------------------------------------

/// Texts are not empty.
Setter into(std::string& target);
Setter into(bool& target);
Setter into(std::uint32_t& target);
Setter into(Nanoseconds& target);
/// A duration, or `forever`.
Setter into(std::optional<Nanoseconds>& target);
Setter into(std::vector<std::string>& target);
/// The port may be left out where `default_port` is not 0.
Setter into(Endpoint& target, std::uint16_t default_port);
/// Bytes a second, 0 for no limit: not so few that a ping would wait behind file data for longer than a neighbour waits for it.
Setter rate_into(std::uint64_t& target);
/// A folder that is there and can be listed.
Setter folder_into(std::string& target);

/// `true`, `yes`, `on`, `1`, and their opposites.
Result<bool> parse_switch(const std::string& text);

}  // namespace shoal::apps
