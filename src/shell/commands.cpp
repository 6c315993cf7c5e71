module;

#include <fmt/core.h>
#include <tl/expected.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

module shoal.shell;

import shoal.base;
import shoal.manifest;
import shoal.report;

namespace shoal {
namespace {

constexpr std::array kCommands{
    ShellCommand{"updatelist", "", "compare the folder with what is offered, and tell the tracker", 0, 0, Operand::none},
    ShellCommand{"getload", "HOST PORT", "how many transfers that peer is in now", 1, 2, Operand::peer},
    ShellCommand{"find", "PATTERN [--via overlay]", "which peers have files whose names match, asked just now", 1, 1, Operand::pattern},
    ShellCommand{"download", "NAME [--one]", "fetch a file from the best sources, or the best one, and verify it", 1, 1, Operand::pattern},
    ShellCommand{"ls", "[PATTERN]", "list all files that peers offer", 0, 1, Operand::pattern},
    ShellCommand{"topo", "[--dot]", "the tree of the overlay's nodes", 0, 0, Operand::none},
    ShellCommand{"peers", "", "list the peers of the swarm", 0, 0, Operand::none},
    ShellCommand{"status", "", "this peer: its address, files and load", 0, 0, Operand::none},
    ShellCommand{"why", "NAME", "why a file was, or would be, fetched from where", 1, 1, Operand::pattern},
    ShellCommand{"help", "[COMMAND]", "what there is to type", 0, 1, Operand::none},
    ShellCommand{"exit", "", "finish what is being sent (at most 2 s), and leave", 0, 0, Operand::none},
    ShellCommand{"stop", "", "the same as exit", 0, 0, Operand::none},
    ShellCommand{"exit!", "", "leave at once", 0, 0, Operand::none},
};

bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

/// A line that is taken apart as far as it goes.
struct Scanned {
  std::vector<std::string> words;
  std::size_t last_begin = 0;  ///< Where the last word begins, or would.
  bool is_open = false;        ///< The last word may go on: no blank is behind it.
  char quote = 0;              ///< That is not closed.
  bool ends_in_escape = false;
};

Scanned scan(std::string_view line) {
  Scanned scanned;
  scanned.last_begin = line.size();
  const auto open = [&](std::size_t at) {
    if (scanned.is_open) return;
    scanned.words.emplace_back();
    scanned.last_begin = at;
    scanned.is_open = true;
  };
  for (std::size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (scanned.quote == 0 && is_blank(c)) {
      scanned.is_open = false;
      scanned.last_begin = line.size();
      continue;
    }
    open(i);
    if (scanned.quote != 0 && c == scanned.quote)
      scanned.quote = 0;
    else if (scanned.quote == 0 && (c == '\'' || c == '"'))
      scanned.quote = c;
    else if (c == '\\' && scanned.quote != '\'' && i + 1 < line.size())
      scanned.words.back() += line[++i];
    else if (c == '\\' && scanned.quote != '\'')
      scanned.ends_in_escape = true;
    else
      scanned.words.back() += c;
  }
  if (!scanned.is_open) scanned.words.emplace_back();
  return scanned;
}

const ShellCommand* find_command(std::string_view name) {
  const auto command = std::ranges::find(kCommands, name, &ShellCommand::name);
  return command == kCommands.end() ? nullptr : &*command;
}

std::vector<std::string> command_names() {
  std::vector<std::string> names;
  names.reserve(kCommands.size());
  for (const ShellCommand& command : kCommands) names.emplace_back(command.name);
  return names;
}

Failure bad_usage(const ShellCommand& command, std::string what) {
  return fail(Errc::usage, std::move(what), "write " + usage_of(command));
}

// ---- options ------------------------------------------------------------------------------------------

constexpr std::array<std::string_view, 3> kOptions{"--one", "--via", "--dot"};
constexpr std::string_view kVia = "--via";
const std::array<std::string, 2> kWays{"overlay", "tracker"};

/// Its usage says which it has.
bool takes(const ShellCommand& command, std::string_view option) { return command.operands.find(option) != std::string_view::npos; }

std::vector<std::string> options_of(const ShellCommand& command) {
  std::vector<std::string> options;
  for (const std::string_view option : kOptions)
    if (takes(command, option)) options.emplace_back(option);
  return options;
}

Result<> set_way(ShellLine& line, std::string_view way) {
  if (std::ranges::find(kWays, way) == kWays.end())
    return bad_usage(*line.command, fmt::format("'{}' is no way to search: there are tracker and overlay", way));
  line.via_overlay = way == "overlay";
  return {};
}

/// Takes a word behind the command, with its value where it is an option that has one.
Result<> take_word(ShellLine& line, std::span<std::string>& words) {
  const ShellCommand& command = *line.command;
  std::string& word = words.front();
  words = words.subspan(1);
  if (word == "--one" && takes(command, word)) {
    line.from_one = true;
  } else if (word == "--dot" && takes(command, word)) {
    line.as_dot = true;
  } else if (word == kVia && takes(command, kVia)) {
    if (words.empty()) return bad_usage(command, "--via needs a value");
    const std::string& way = words.front();
    words = words.subspan(1);
    return set_way(line, way);
  } else if (word.starts_with("--via=") && takes(command, kVia)) {
    return set_way(line, std::string_view(word).substr(kVia.size() + 1));
  } else if (word.starts_with("--") && takes(command, "--")) {
    return bad_usage(command, fmt::format("unknown option {}", word));
  } else if (word.empty()) {
    return bad_usage(command, "'' is an empty argument");
  } else {
    line.operands.push_back(std::move(word));
  }
  return {};
}

}  // namespace

Result<std::vector<std::string>> split_line(std::string_view line) {
  Scanned scanned = scan(line);
  if (scanned.quote != 0) return fail(Errc::usage, fmt::format("a quote {} that does not end", scanned.quote));
  if (scanned.ends_in_escape) return fail(Errc::usage, "a \\ with nothing behind it");
  if (!scanned.is_open) scanned.words.pop_back();
  return std::move(scanned.words);
}

std::string quoted(std::string_view word) {
  constexpr std::string_view kPlain = "_-./:,+=@%~*?[]!^";
  const auto is_plain = [&](char c) {
    const bool is_word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    return is_word || kPlain.find(c) != std::string_view::npos || static_cast<unsigned char>(c) >= 0x80;
  };
  if (!word.empty() && std::ranges::all_of(word, is_plain)) return std::string(word);
  std::string text = "\"";
  for (const char c : word) {
    if (c == '"' || c == '\\') text += '\\';
    text += c;
  }
  return text + '"';
}

std::span<const ShellCommand> shell_commands() { return kCommands; }

std::string usage_of(const ShellCommand& command) {
  return command.operands.empty() ? std::string(command.name) : fmt::format("{} {}", command.name, command.operands);
}

Result<std::optional<ShellLine>> parse_line(std::string_view line) {
  auto words = split_line(line);
  if (!words) return Failure(std::move(words).error());
  if (words->empty() || words->front().starts_with('#')) return std::nullopt;
  ShellLine parsed;
  parsed.command = find_command(words->front());
  if (!parsed.command) {
    const std::string hint = did_you_mean(words->front(), command_names());
    return fail(Errc::usage, fmt::format("unknown command '{}'", words->front()), hint.empty() ? "help lists all of them" : hint);
  }
  for (auto rest = std::span(*words).subspan(1); !rest.empty();)
    if (auto taken = take_word(parsed, rest); !taken) return Failure(std::move(taken).error());
  if (parsed.operands.size() < parsed.command->least)
    return bad_usage(*parsed.command, fmt::format("{} needs more than that", parsed.command->name));
  if (parsed.command->kind == Operand::pattern && !parsed.operands.empty() && parsed.operands.front().size() > kMaxPattern)
    return bad_usage(*parsed.command,
                     fmt::format("a pattern of {} bytes is too long; {} are the most", parsed.operands.front().size(), kMaxPattern));
  if (parsed.operands.size() > parsed.command->most)
    return bad_usage(*parsed.command, fmt::format("{} does not take '{}'", parsed.command->name, parsed.operands[parsed.command->most]));
  return std::optional(std::move(parsed));
}

// ---- completion ---------------------------------------------------------------------------------------

namespace {

void add_matching(std::vector<std::string>& choices, std::string_view beginning, std::span<const std::string> words) {
  for (const std::string& word : words)
    if (word.starts_with(beginning)) choices.push_back(quoted(word));
}

/// How many of the words behind the command are operands.
std::size_t operands_in(const ShellCommand& command, std::span<const std::string> words) {
  std::size_t operands = 0;
  for (std::size_t i = 1; i < words.size(); ++i) {
    if (words[i] == kVia && takes(command, kVia))
      ++i;  // its value
    else if (!words[i].starts_with("--") || !takes(command, "--"))
      ++operands;
  }
  return operands;
}

}  // namespace

Completion complete(std::string_view line, const KnownWords& known) {
  const Scanned scanned = scan(line);
  Completion completion{scanned.last_begin, {}};
  const std::string& typed = scanned.words.back();
  if (scanned.words.size() == 1) {
    add_matching(completion.choices, typed, command_names());
    return completion;
  }
  const ShellCommand* const command = find_command(scanned.words.front());
  if (!command || operands_in(*command, scanned.words) > command->most) return completion;
  if (scanned.words[scanned.words.size() - 2] == kVia && takes(*command, kVia))
    add_matching(completion.choices, typed, kWays);
  else if (typed.starts_with("--") && takes(*command, "--"))
    add_matching(completion.choices, typed, options_of(*command));
  else if (command->name == "help")
    add_matching(completion.choices, typed, command_names());
  else if (command->kind == Operand::file || command->kind == Operand::pattern)
    add_matching(completion.choices, typed, known.files);
  else if (command->kind == Operand::peer)
    add_matching(completion.choices, typed, known.peers);
  std::ranges::sort(completion.choices);
  const auto same = std::ranges::unique(completion.choices);
  completion.choices.erase(same.begin(), same.end());
  return completion;
}

std::string common_beginning(std::span<const std::string> choices) {
  if (choices.empty()) return {};
  std::string common = choices.front();
  for (const std::string& choice : choices) {
    const auto [end, other] = std::ranges::mismatch(common, choice);
    common.erase(end, common.end());
  }
  // Not within a character.
  while (!common.empty() && common.size() < choices.front().size() &&
         (static_cast<unsigned char>(choices.front()[common.size()]) & 0xc0) == 0x80)
    common.pop_back();
  return common;
}

std::string hint_for(std::string_view line) {
  const Scanned scanned = scan(line);
  const ShellCommand* const command = find_command(scanned.words.front());
  if (command && scanned.words.size() > 1) return fmt::format("{}: {}", usage_of(*command), command->help);
  if (command) return fmt::format("{}: {}", usage_of(*command), command->help);
  if (scanned.words.size() > 1) return fmt::format("'{}' is no command; help lists all of them", scanned.words.front());
  std::string names;
  for (const ShellCommand& other : kCommands)
    if (other.name.starts_with(scanned.words.front())) names += (names.empty() ? "" : "  ") + std::string(other.name);
  return names;
}

}  // namespace shoal
