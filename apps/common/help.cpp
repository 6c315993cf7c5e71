#include <fmt/core.h>
#include <tl/expected.hpp>

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/options.hpp"

import shoal.base;

namespace shoal::apps {
namespace {

constexpr std::size_t kHelpColumn = 28;
constexpr std::size_t kHelpWidth = 100;

constexpr std::string_view kEpilogue =
    R"(Every option can also be set in the environment, as SHOAL_ and its name in capitals
(SHOAL_NO_COLOR=1), and in ~/.config/shoal/config.toml. The command line wins, then the
environment, then the file.

Exit codes:
   0  all done                          7  interrupted; run it again to go on
   1  unknown failure                   9  disk full; what was fetched is kept
   2  usage                            23  partial: something failed, here or at another peer
   3  not found                        32  checksum mismatch
   6  network
)";

/// Words of `text` in lines that end before `kHelpWidth`, each after the first indented.
std::string wrapped(std::string_view text) {
  std::string out;
  std::size_t column = kHelpColumn;
  while (!text.empty()) {
    const std::string_view word = text.substr(0, text.find(' '));
    text.remove_prefix(std::min(text.size(), word.size() + 1));
    if (column + word.size() > kHelpWidth) {
      out += "\n" + std::string(kHelpColumn, ' ');
      column = kHelpColumn;
    } else if (!out.empty()) {
      out += ' ';
    }
    out += word;
    column += word.size() + 1;
  }
  return out;
}

std::string entry(const std::string& head, std::string_view help) {
  const std::string gap =
      head.size() + 2 > kHelpColumn ? "\n" + std::string(kHelpColumn, ' ') : std::string(kHelpColumn - head.size(), ' ');
  return head + gap + wrapped(help) + "\n";
}

std::string option_entry(const Option& option) {
  std::string head = option.letter != 0 ? fmt::format("  -{}, --{}", option.letter, option.name) : fmt::format("      --{}", option.name);
  if (!option.value.empty()) head += " " + option.value;
  std::string help = option.help;
  if (option.repeats) help += "; may be given more than once";
  if (!option.standard.empty()) help += fmt::format(" [{}]", option.standard);
  return entry(head, help);
}

std::string group_text(const OptionGroup& group) {
  std::string out = "\n" + group.title + ":\n";
  for (const Option& option : group.options) out += option_entry(option);
  return out;
}

std::string command_head(const Command& command) { return command.operand.empty() ? command.name : command.name + " " + command.operand; }

std::string commands_text(const Program& program) {
  std::string out = "\nCommands:\n";
  for (const Command& command : program.commands) out += entry("  " + command_head(command), command.summary);
  return out;
}

std::string usage_line(const Program& program, const Command* command) {
  if (command == nullptr) return fmt::format("Usage: {} COMMAND [OPTION]...\n", program.name);
  const std::string separator = command->name.empty() ? "" : " " + command_head(*command);
  return fmt::format("Usage: {}{} [OPTION]...\n", program.name, separator);
}

std::string examples_text(const Program& program, const Command* command) {
  std::string out = command != nullptr ? "\nExample:\n" : "\nExamples:\n";
  for (const Command& each : program.commands)
    if (command == nullptr || command == &each) out += "  " + each.example + "\n";
  return out;
}

}  // namespace

std::string help_text(const Program& program, const Command* command) {
  const bool is_named = command != nullptr && !command->name.empty();
  std::string out = is_named ? fmt::format("{} {}: {}\n\n", program.name, command->name, command->summary)
                             : fmt::format("{}: {}\n\n", program.name, program.summary);
  out += usage_line(program, command);
  if (command == nullptr) out += commands_text(program);
  if (command != nullptr)
    for (const OptionGroup& group : command->groups) out += group_text(group);
  for (const OptionGroup& group : program.groups) out += group_text(group);
  out += entry("  -h, --help", command == nullptr ? "this help; COMMAND --help has the options of one command" : "this help");
  out += entry("      --version", "the version");
  out += examples_text(program, command);
  return out + "\n" + std::string(kEpilogue);
}

std::string variable_name(const std::string& option) {
  std::string name = "SHOAL_" + option;
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return c == '-' ? '_' : static_cast<char>(std::toupper(c)); });
  return name;
}

}  // namespace shoal::apps
