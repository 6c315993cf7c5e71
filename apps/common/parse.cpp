#include <fmt/core.h>
#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/config.hpp"
#include "common/options.hpp"

import shoal.base;
import shoal.report;

namespace shoal::apps {
namespace {

using Values = std::map<std::string, std::vector<std::string>>;

// ---- the command line -------------------------------------------------------------------------------------

/// A command line taken apart, before anything in it is judged.
struct Line {
  const Command* command = nullptr;  ///< None when none was named.
  Values flags;
  std::vector<std::string> words;               ///< What is neither an option nor the command.
  std::vector<std::string> strangers;           ///< Options that the command does not have.
  std::vector<std::string> strangers_in_front;  ///< Options before the command that not every command has, and words there.
};

bool is_option_like(const std::string& word) { return word.size() > 1 && word.front() == '-'; }

void add_option(CLI::App& app, const Option& option) {
  std::string names = "--" + option.name;
  if (option.letter != 0) names += fmt::format(",-{}", option.letter);
  CLI::Option* const added = option.value.empty() ? app.add_flag(names) : app.add_option(names, [](const CLI::results_t&) { return true; });
  added->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  if (!option.value.empty()) added->type_name(option.value);
}

void add_options(CLI::App& app, const std::vector<OptionGroup>& groups) {
  for (const OptionGroup& group : groups)
    for (const Option& option : group.options) add_option(app, option);
}

void prepare(CLI::App& app, const Program& program, const Command* command) {
  app.allow_extras();
  app.set_help_flag();
  app.add_flag("--help,-h");
  app.add_flag("--version");
  add_options(app, program.groups);
  if (command != nullptr) add_options(app, command->groups);
}

void collect(const CLI::App& app, Values& flags) {
  for (const CLI::Option* const option : app.get_options()) {
    auto& values = flags[option->get_single_name()];
    values.insert(values.end(), option->results().begin(), option->results().end());
  }
}

/// What comes after `--` is never an option; CLI11 loses its place there when there are commands.
std::vector<std::string> cut_literal_words(std::vector<std::string>& arguments) {
  const auto mark = std::find(arguments.begin(), arguments.end(), "--");
  if (mark == arguments.end()) return {};
  std::vector<std::string> words(mark + 1, arguments.end());
  arguments.erase(mark, arguments.end());
  return words;
}

void sort_extras(const CLI::App& app, Line& line) {
  for (const std::string& extra : app.remaining()) (is_option_like(extra) ? line.strangers : line.words).push_back(extra);
}

/// CLI11 reports what has no value as `--listen: 1 required HOST:PORT missing`.
tl::unexpected<Stop> missing_value(const Program& program, const CLI::ParseError& error) {
  const std::string text = error.what();
  if (error.get_name() == "ArgumentMismatch" && text.find(" missing") != std::string::npos)
    return usage_error(program, fmt::format("{} needs a value", text.substr(0, text.find(':'))),
                       fmt::format("{} --help says which", program.name));
  return usage_error(program, text.substr(0, text.find('\n')), fmt::format("{} --help lists the options", program.name));
}

Parsed<Line> take_apart(const Program& program, std::vector<std::string> arguments) {
  Line line;
  const auto literal_words = cut_literal_words(arguments);
  const bool has_commands = !program.commands.front().name.empty();
  CLI::App app;
  prepare(app, program, has_commands ? nullptr : &program.commands.front());
  if (has_commands) app.require_subcommand(0, 1);
  std::map<const CLI::App*, const Command*> commands{{&app, &program.commands.front()}};
  if (has_commands) {
    for (const Command& command : program.commands) {
      CLI::App* const sub = app.add_subcommand(command.name);
      prepare(*sub, program, &command);
      commands[sub] = &command;
    }
  }
  std::reverse(arguments.begin(), arguments.end());  // CLI11 takes them from the back
  try {
    app.parse(arguments);
  } catch (const CLI::ParseError& error) {
    return missing_value(program, error);
  }
  const auto named = app.get_subcommands();
  const CLI::App* const chosen = named.empty() ? &app : named.front();
  if (!named.empty() || !has_commands) line.command = commands.at(chosen);
  collect(app, line.flags);
  if (chosen != &app) collect(*chosen, line.flags);
  if (line.command != nullptr) sort_extras(*chosen, line);
  if (has_commands) line.strangers_in_front = app.remaining();
  line.words.insert(line.words.end(), literal_words.begin(), literal_words.end());
  return line;
}

// ---- what is wrong with it ----------------------------------------------------------------------------------

std::vector<const Option*> options_of(const Program& program, const Command* command) {
  std::vector<const Option*> options;
  const auto add = [&](const std::vector<OptionGroup>& groups) {
    for (const OptionGroup& group : groups)
      for (const Option& option : group.options) options.push_back(&option);
  };
  add(program.groups);
  if (command != nullptr) add(command->groups);
  return options;
}

std::string called(const Program& program, const Command* command) {
  return command == nullptr || command->name.empty() ? program.name : program.name + " " + command->name;
}

tl::unexpected<Stop> unknown_option(const Program& program, const Command* command, const std::string& word) {
  const std::string typed = word.substr(0, word.find('='));
  std::vector<std::string> names{"help", "version"};
  for (const Option* const option : options_of(program, command)) names.push_back(option->name);
  const std::string hint = typed.starts_with("--") ? did_you_mean(typed.substr(2), names, "--") : std::string{};
  return usage_error(program, fmt::format("unknown option {}", typed),
                     hint.empty() ? fmt::format("{} --help lists the options", called(program, command)) : hint);
}

tl::unexpected<Stop> unknown_command(const Program& program, const std::string& word) {
  std::vector<std::string> names;
  for (const Command& command : program.commands) names.push_back(command.name);
  const std::string hint = did_you_mean(word, names);
  return usage_error(program, fmt::format("unknown command '{}'", word),
                     hint.empty() ? fmt::format("{} --help lists the commands", program.name) : hint);
}

/// An option or a word in front of the command that is not for every command.
tl::unexpected<Stop> misplaced(const Program& program, const Line& line) {
  const std::string& word = line.strangers_in_front.front();
  if (!is_option_like(word)) return unknown_command(program, word);
  const std::string typed = word.substr(0, word.find('='));
  for (const Command& command : program.commands)
    for (const Option* const option : options_of(program, &command))
      if ("--" + option->name == typed && (line.command == nullptr || line.command == &command))
        return usage_error(program, fmt::format("{} is an option of {}", typed, command.name), "write it after the command");
  return unknown_option(program, nullptr, word);
}

tl::unexpected<Stop> no_command(const Program& program) {
  std::string names;
  for (const Command& command : program.commands) names += (names.empty() ? "" : ", ") + command.name;
  return usage_error(program, "no command was given", fmt::format("write one of {}; {} --help has more", names, program.name));
}

Parsed<void> check(const Program& program, const Line& line) {
  if (!line.strangers_in_front.empty()) return misplaced(program, line);
  if (line.command == nullptr && !line.words.empty()) return unknown_command(program, line.words.front());
  if (line.command == nullptr) return no_command(program);
  const Command& command = *line.command;
  if (!line.strangers.empty()) return unknown_option(program, &command, line.strangers.front());
  const std::string usage = fmt::format("write {} {}", called(program, &command), command.operand);
  if (!command.operand.empty() && line.words.empty()) return usage_error(program, fmt::format("{} is missing", command.operand), usage);
  const std::size_t most = command.operand.empty() ? 0 : command.operand.ends_with("...") ? line.words.size() : 1;
  if (line.words.size() > most)
    return usage_error(program, fmt::format("unexpected argument '{}'", line.words[most]),
                       command.operand.empty() ? fmt::format("{} takes options only", called(program, &command)) : usage);
  return {};
}

// ---- where values come from -----------------------------------------------------------------------------------

enum class Source { command_line, environment, configuration };

struct Choice {
  const Option* option = nullptr;
  Source source = Source::command_line;
  std::string where;  ///< `--listen`, `SHOAL_LISTEN`, `config.toml:3: listen`
  std::vector<std::string> values;
};

std::vector<std::string> split_list(const std::string& text) {
  std::vector<std::string> parts;
  for (std::size_t from = 0; from <= text.size();) {
    const std::size_t to = std::min(text.find(':', from), text.size());
    if (to > from) parts.push_back(text.substr(from, to - from));
    from = to + 1;
  }
  return parts;
}

std::optional<Choice> choose(const Option& option, const Values& flags, const Inputs& inputs, const Settings& settings) {
  if (const auto flag = flags.find(option.name); flag != flags.end() && !flag->second.empty())
    return Choice{&option, Source::command_line, "--" + option.name, flag->second};
  const std::string variable = variable_name(option.name);
  if (const auto value = inputs.variable(variable); value && !value->empty())
    return Choice{&option, Source::environment, variable, option.repeats ? split_list(*value) : std::vector{*value}};
  if (const auto setting = settings.find(option.name); setting != settings.end())
    return Choice{&option, Source::configuration, setting->second.where, setting->second.values};
  return std::nullopt;
}

tl::unexpected<Stop> refused_value(const Program& program, const std::string& where, const Error& error) {
  // That it is a usage error shows already; another cause, such as a folder that is not there, is worth its words.
  const bool is_plain = error.code == make_error_code(Errc::usage);
  Error shown{is_plain ? std::error_code{} : error.code, where.empty() ? error.what : where + ": " + error.what, error.advice};
  return usage_error(program, shown.message());
}

Parsed<void> apply(const Program& program, const Choice& choice) {
  const Option& option = *choice.option;
  if (!option.repeats && choice.values.size() != 1 && choice.source != Source::command_line)
    return usage_error(program, fmt::format("{}: has a list, and takes one value", choice.where));
  const std::size_t first = option.repeats || choice.values.empty() ? 0 : choice.values.size() - 1;
  for (std::size_t i = first; i < choice.values.size(); ++i)
    if (const auto done = option.set(choice.values[i]); !done) return refused_value(program, choice.where, done.error());
  return {};
}

bool is_on(const Choice& choice) { return !choice.values.empty() && parse_switch(choice.values.back()).value_or(false); }

/// --quiet and --verbose exclude each other; one from a stronger source overrides the other.
Parsed<void> settle_verbosity(const Program& program, std::vector<Choice>& choices) {
  const auto find = [&](std::string_view name) {
    return std::find_if(choices.begin(), choices.end(), [&](const Choice& c) { return c.option->name == name && is_on(c); });
  };
  const auto quiet = find("quiet");
  const auto verbose = find("verbose");
  if (quiet == choices.end() || verbose == choices.end()) return {};
  if (quiet->source == verbose->source)
    return usage_error(program, fmt::format("{} and {} exclude each other", quiet->where, verbose->where), "leave one out");
  choices.erase(quiet->source > verbose->source ? quiet : verbose);
  return {};
}

Parsed<void> apply_options(const Program& program, const Line& line, const Inputs& inputs) {
  const auto path = xdg_path(inputs, "XDG_CONFIG_HOME", ".config", "config.toml");
  const auto settings = read_configuration(path.value_or(""), program.table, line.command->name);
  if (!settings) return refused_value(program, "", settings.error());
  std::vector<Choice> choices;
  for (const Option* const option : options_of(program, line.command))
    if (auto choice = choose(*option, line.flags, inputs, *settings)) choices.push_back(std::move(*choice));
  if (auto settled = settle_verbosity(program, choices); !settled) return settled;
  for (const Choice& choice : choices)
    if (auto done = apply(program, choice); !done) return done;
  return {};
}

Parsed<void> apply_words(const Program& program, const Line& line) {
  for (const std::string& word : line.words)
    if (const auto done = line.command->set_operand(word); !done) return refused_value(program, "", done.error());
  return {};
}

}  // namespace

Parsed<void> parse(const Program& program, const Inputs& inputs) {
  auto line = take_apart(program, inputs.arguments);
  if (!line) return tl::unexpected(line.error());
  if (!line->flags["help"].empty()) return tl::unexpected(Stop{ExitCode::done, help_text(program, line->command), {}});
  if (!line->flags["version"].empty()) return tl::unexpected(Stop{ExitCode::done, fmt::format("{} {}\n", program.name, SHOAL_VERSION), {}});
  if (auto sound = check(program, *line); !sound) return sound;
  if (line->command->choose) line->command->choose();
  if (auto done = apply_options(program, *line, inputs); !done) return done;
  return apply_words(program, *line);
}

}  // namespace shoal::apps
