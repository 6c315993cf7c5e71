#include "common/config.hpp"

#include <fmt/core.h>
#include <toml++/toml.h>
#include <tl/expected.hpp>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "common/names.hpp"

import shoal.base;
import shoal.report;

namespace shoal::apps {
namespace {

/// Whether an option of table `owner` may be set in table `table`, which may be wider or narrower.
bool applies(std::string_view owner, std::string_view table) {
  return owner.empty() || table.empty() || owner == table || owner.starts_with(std::string(table) + ".") ||
         table.starts_with(std::string(owner) + ".");
}

std::vector<std::string> options_for(std::string_view table) {
  std::vector<std::string> names;
  for (const KnownOption& option : kKnownOptions)
    if (applies(option.table, table)) names.emplace_back(option.name);
  return names;
}

bool is_table(const std::string& name) { return std::find(kKnownTables.begin(), kKnownTables.end(), name) != kKnownTables.end(); }

bool has(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// One run over the file for one command. Tables of other commands are checked too, but set nothing.
class Reader {
 public:
  Reader(std::string path, std::string table, std::string command)
      : path_(std::move(path)), table_(std::move(table)), command_(table_ + "." + command) {}

  Result<Settings> read(const toml::table& root) {
    if (auto done = read_table(root, ""); !done) return Failure(done.error());
    return std::move(settings_);
  }

 private:
  Result<void> read_table(const toml::table& table, const std::string& name) {
    // Values first, so that a narrower table overrides them.
    for (const auto& [key, node] : table)
      if (!node.is_table())
        if (auto done = read_value(std::string(key.str()), node, name); !done) return done;
    for (const auto& [key, node] : table) {
      if (!node.is_table()) continue;
      const std::string inner = name.empty() ? std::string(key.str()) : name + "." + std::string(key.str());
      if (!is_table(inner))
        return problem(node, fmt::format("there is no table [{}]", inner), "the tables are [tracker], [peer] and [peer.COMMAND]");
      if (auto done = read_table(*node.as_table(), inner); !done) return done;
    }
    return {};
  }

  Result<void> read_value(const std::string& key, const toml::node& node, const std::string& table) {
    const auto names = options_for(table);
    if (!has(names, key)) {
      const std::string hint = did_you_mean(key, names);
      return problem(node, fmt::format("'{}' is not an option", key), hint.empty() ? "--help lists the options" : hint);
    }
    Setting setting{{}, node.is_array(), fmt::format("{}:{}: {}", path_, node.source().begin.line, key)};
    if (const toml::array* const array = node.as_array()) {
      for (const toml::node& element : *array)
        if (!append(setting.values, element)) return bad_type(node, key);
    } else if (!append(setting.values, node)) {
      return bad_type(node, key);
    }
    if (table.empty() || table == table_ || table == command_) settings_[key] = std::move(setting);
    return {};
  }

  static bool append(std::vector<std::string>& values, const toml::node& node) {
    if (const auto* const text = node.as_string())
      values.push_back(text->get());
    else if (const auto* const truth = node.as_boolean())
      values.emplace_back(truth->get() ? "true" : "false");
    else if (const auto* const whole = node.as_integer())
      values.push_back(fmt::format("{}", whole->get()));
    else if (const auto* const number = node.as_floating_point())
      values.push_back(fmt::format("{}", number->get()));
    else
      return false;
    return true;
  }

  Failure bad_type(const toml::node& node, const std::string& key) const {
    return problem(node, fmt::format("'{}' has a value of the wrong kind", key),
                   "write a string, a number, true or false, or a list of strings");
  }

  Failure problem(const toml::node& node, const std::string& what, std::string advice) const {
    return fail(Errc::usage, fmt::format("{}:{}: {}", path_, node.source().begin.line, what), std::move(advice));
  }

  std::string path_;
  std::string table_;
  std::string command_;
  Settings settings_;
};

}  // namespace

Result<Settings> read_configuration(const std::string& path, const std::string& table, const std::string& command) {
  std::error_code ignored;
  if (path.empty() || !std::filesystem::exists(path, ignored)) return Settings{};
  try {
    const toml::table root = toml::parse_file(path);
    return Reader(path, table, command).read(root);
  } catch (const toml::parse_error& error) {
    return fail(Errc::usage, fmt::format("{}:{}: {}", path, error.source().begin.line, error.description()), "correct the file");
  }
}

}  // namespace shoal::apps
