// Any bytes, as a name, a pattern and an owner.
#include <tl/expected.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "check.hpp"

import shoal.base;
import shoal.manifest;

using namespace shoal;

namespace {

/// Cuts what stands before the next line break off the front of `text`.
std::string_view take_line(std::string_view& text) {
  const auto end = std::min(text.find('\n'), text.size());
  const std::string_view line = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return line;
}

/// The pattern that means just this name: each character quoted, and each is as long as UTF-8 makes it.
std::string quoted(std::string_view name) {
  std::string pattern;
  for (const char c : name) {
    const bool begins_character = (static_cast<unsigned char>(c) & 0xc0) != 0x80;
    if (c != '/' && begins_character) pattern += '\\';
    pattern += c;
  }
  return pattern;
}

void check_safe(std::string_view name) {
  check(!name.empty() && name.size() <= kMaxName, "an accepted name has a good length");
  check(name.front() != '/' && name.back() != '/', "an accepted name is relative, and of a file");
  check(name.find('\0') == std::string_view::npos, "an accepted name has no NUL");
  const std::string framed = "/" + std::string(name) + "/";
  for (const std::string_view part : {"//", "/./", "/../"}) check(framed.find(part) == std::string::npos, "an accepted name stays inside");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string text(size, '\0');
  std::transform(data, data + size, text.begin(), [](std::uint8_t byte) { return static_cast<char>(byte); });
  std::string_view rest = text;
  const std::string_view pattern = take_line(rest);
  const std::string_view owner = take_line(rest);
  static_cast<void>(matches(pattern, rest));
  if (!check_name(rest)) return 0;
  check_safe(rest);
  check(check_name(conflict_name(rest, owner)).has_value(), "the other name for an accepted name is accepted");
  check(matches(quoted(rest), rest), "a quoted name matches itself");
  check(matches("**", rest), "** matches every name");
  return 0;
}
