/// The configuration file. Include this last: it imports modules.
#pragma once

#include <tl/expected.hpp>

#include <map>
#include <string>
#include <vector>

import shoal.base;

namespace shoal::apps {

struct Setting {
  std::vector<std::string> values;  ///< More than one where the file has an array.
  bool is_array = false;
  std::string where;  ///< `/home/u/.config/shoal/config.toml:3: listen`
};

using Settings = std::map<std::string, Setting>;

/// What the file says to one command: its top level, overridden by `[table]`, overridden by `[table.command]`.
/// No file is no settings. A file that cannot be read or understood, and a key that is no option of ours, is a
/// usage error with the file and the line.
Result<Settings> read_configuration(const std::string& path, const std::string& table, const std::string& command);

}  // namespace shoal::apps
