#include <dirent.h>
#include <fmt/core.h>
#include <tl/expected.hpp>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "common/spec.hpp"

import shoal.base;

namespace shoal::apps {
namespace {

template <class Target, class Parse>
Setter parsed_into(Target& target, Parse parse) {
  return [&target, parse](const std::string& text) -> Result<void> {
    auto value = parse(text);
    if (!value) return Failure(value.error());
    target = *value;
    return {};
  };
}

Result<std::uint32_t> parse_count(const std::string& text) {
  std::uint32_t count = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, count);
  if (error == std::errc{} && stop == end && !text.empty()) return count;
  return fail(Errc::usage, fmt::format("'{}' is not a count", text),
              fmt::format("write a whole number from 0 to {}", std::numeric_limits<std::uint32_t>::max()));
}

Result<std::optional<Nanoseconds>> parse_wait(const std::string& text) {
  if (text == "forever") return std::optional<Nanoseconds>{};
  const auto duration = parse_duration(text);
  if (!duration) return Failure(Error{duration.error().code, duration.error().what, "write a duration such as 10s, or forever"});
  return std::optional(*duration);
}

/// So many bytes a second leave room for pings between the pieces of chunks that go to thirty neighbours.
constexpr std::uint64_t kLeastRate = 32 * 1024;

Result<std::uint64_t> parse_rate(const std::string& text) {
  const auto rate = parse_bytes(text);
  if (!rate || *rate == 0 || *rate >= kLeastRate) return rate;
  return fail(Errc::usage, fmt::format("'{}' is so slow that peers would take each other for dead", text),
              fmt::format("write {}K or more, or 0 for no limit", kLeastRate / 1024));
}

Result<void> require_folder(const std::string& path) {
  DIR* const folder = ::opendir(path.c_str());
  if (folder == nullptr) return fail_errno(fmt::format("cannot read the folder '{}'", path), "name a folder that is there and readable");
  ::closedir(folder);
  return {};
}

}  // namespace

Result<bool> parse_switch(const std::string& text) {
  static constexpr std::array<std::string_view, 4> yes{"true", "yes", "on", "1"};
  static constexpr std::array<std::string_view, 4> no{"false", "no", "off", "0"};
  std::string lower = text;
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (std::find(yes.begin(), yes.end(), lower) != yes.end()) return true;
  if (std::find(no.begin(), no.end(), lower) != no.end()) return false;
  return fail(Errc::usage, fmt::format("'{}' is neither yes nor no", text), "write true or false");
}

namespace {

/// What a variable that is not set leaves on a command line means nothing, least of all everything.
Result<void> require_text(const std::string& text) {
  if (!text.empty()) return {};
  return fail(Errc::usage, "'' is an empty argument", "write what is meant, or leave it out; a variable may not be set");
}

}  // namespace

Setter into(std::string& target) {
  return [&target](const std::string& text) -> Result<void> {
    if (auto some = require_text(text); !some) return some;
    target = text;
    return {};
  };
}

Setter into(std::vector<std::string>& target) {
  return [&target](const std::string& text) -> Result<void> {
    if (auto some = require_text(text); !some) return some;
    target.push_back(text);
    return {};
  };
}

Setter into(bool& target) { return parsed_into(target, parse_switch); }
Setter into(std::uint32_t& target) { return parsed_into(target, parse_count); }
Setter into(std::optional<Nanoseconds>& target) { return parsed_into(target, parse_wait); }

Setter into(Nanoseconds& target) {
  return parsed_into(target, [](const std::string& text) { return parse_duration(text); });
}

Setter rate_into(std::uint64_t& target) { return parsed_into(target, parse_rate); }

Setter into(Endpoint& target, std::uint16_t default_port) {
  return parsed_into(target, [default_port](const std::string& text) { return parse_endpoint(text, default_port); });
}

Setter folder_into(std::string& target) {
  return [&target](const std::string& path) -> Result<void> {
    if (auto readable = require_folder(path); !readable) return readable;
    target = path;
    return {};
  };
}

}  // namespace shoal::apps
