#include <catch2/catch_test_macros.hpp>

#include <rapidcheck.h>

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include <tl/expected.hpp>

import shoal.base;
import shoal.manifest;

using namespace shoal;

namespace {

rc::Gen<std::string> text_over(std::vector<std::string> alphabet) {
  return rc::gen::map(rc::gen::container<std::vector<std::string>>(rc::gen::elementOf(alphabet)),
                      [](const std::vector<std::string>& pieces) {
                        std::string text;
                        for (const auto& piece : pieces) text += piece;
                        return text;
                      });
}

/// Anything at all, and much that is nearly a name.
rc::Gen<std::string> any_text() {
  return rc::gen::oneOf(rc::gen::arbitrary<std::string>(),
                        text_over({"a", ".", "..", "/", "日", "\u202e", "\n", ".shoal-", "\xc3", "\xed\xa0\x80", " "}));
}

/// A part of 1 to 255 bytes that check_name lets pass.
std::string safe_part() {
  auto part = *text_over({"a", "b", ".", "..", "é", "日", "😀", " ", "-", "\\", "*", "longer-than-most"});
  const auto limit = *rc::gen::element<std::size_t>(1, 8, 100, kMaxNamePart);
  while (*rc::gen::element(0, 0, 0, 1) == 1 && part.size() < kMaxNamePart) part += part + "x";
  while (part.size() > limit || !check_name(part)) {
    if (part.empty()) return "x";
    part.pop_back();
  }
  return part;
}

/// A name that passes check_name; some are as long or as deep as one may be.
std::string safe_name() {
  std::string name = safe_part();
  const auto depth = *rc::gen::element<std::size_t>(1, 2, 5, 100);
  for (std::size_t i = 1; i < depth; ++i) {
    const std::string deeper = name + "/" + safe_part();
    if (deeper.size() > kMaxName) break;
    name = deeper;
  }
  const auto fill = *rc::gen::element<std::size_t>(0, kMaxName - 1, kMaxName);
  const auto parts = static_cast<std::size_t>(std::count(name.begin(), name.end(), '/')) + 1;
  for (std::size_t i = parts; i < kMaxNameDepth && name.size() + 2 <= fill; ++i)
    name += "/" + std::string(std::min(kMaxNamePart, fill - name.size() - 1), 'f');
  return name;
}

std::string last_part(const std::string& name) { return name.substr(name.rfind('/') + 1); }

std::string quoted(std::string_view text) {
  std::string pattern;
  for (const char c : text) {
    if (std::string_view("*?[]\\!-").find(c) != std::string_view::npos) pattern += '\\';
    pattern += c;
  }
  return pattern;
}

/// What `matches` means for whole names in ASCII without classes: slow, and plainly right.
bool plainly_matches(std::string_view pattern, std::string_view name, bool begins_part = true) {
  if (pattern.empty()) return name.empty();
  if (pattern.starts_with("**")) {
    const std::size_t stars = std::min(pattern.find_first_not_of('*'), pattern.size());
    const std::string_view rest = pattern.substr(stars);
    if (begins_part && rest.starts_with('/')) {
      if (plainly_matches(rest.substr(1), name)) return true;
      for (std::size_t i = 0; i < name.size(); ++i)
        if (name[i] == '/' && plainly_matches(rest.substr(1), name.substr(i + 1))) return true;
      return false;
    }
    for (std::size_t i = 0; i <= name.size(); ++i)
      if (plainly_matches(rest, name.substr(i), false)) return true;
    return false;
  }
  if (pattern.front() == '*') {
    for (std::size_t i = 0; i <= name.size(); ++i) {
      if (plainly_matches(pattern.substr(1), name.substr(i), false)) return true;
      if (i < name.size() && name[i] == '/') return false;
    }
    return false;
  }
  if (name.empty()) return false;
  if (pattern.front() == '?' ? name.front() == '/' : pattern.front() != name.front()) return false;
  return plainly_matches(pattern.substr(1), name.substr(1), pattern.front() == '/');
}

}  // namespace

TEST_CASE("Names that are made of safe parts are safe") {
  REQUIRE(rc::check("any safe name", [] {
    const std::string name = safe_name();
    RC_CLASSIFY(name.size() > kMaxName - 100, "as long as may be");
    RC_ASSERT(check_name(name).has_value());
  }));
}

TEST_CASE("What makes a name unsafe does so at any place in it") {
  REQUIRE(rc::check("any name and place", [] {
    std::string name = safe_name();
    const auto bad = *rc::gen::element<std::string>("//", "/./", "/../", "/.shoal-", "\n", "\x7f", "\u0085", "\u202e", "\u2028", "\xff",
                                                    "\xc3", "\xed\xa0\x80", std::string(1, '\0'));
    name.insert(*rc::gen::inRange<std::size_t>(0, name.size() + 1), bad);
    RC_ASSERT_FALSE(check_name(name).has_value());
  }));
}

TEST_CASE("Whatever a name holds, the reason against it is one line") {
  REQUIRE(rc::check("any text", [] {
    const auto result = check_name(*any_text());
    RC_PRE(!result.has_value());
    const std::string line = result.error().message();
    RC_ASSERT(std::none_of(line.begin(), line.end(), [](char c) { return (c >= 0 && c < 0x20) || c == 0x7f; }));
  }));
}

TEST_CASE("The conflict name of a safe name is safe, whoever the owner is") {
  REQUIRE(rc::check("any name and owner", [] { RC_ASSERT(check_name(conflict_name(safe_name(), *any_text())).has_value()); }));
}

TEST_CASE("The conflict name of a name is another name") {
  REQUIRE(rc::check("any name and owner", [] {
    const std::string name = safe_name();
    RC_ASSERT(conflict_name(name, *any_text()) != name);
  }));
}

TEST_CASE("Owners with names of their own have conflict names of their own") {
  REQUIRE(rc::check("any name", [] {
    const std::string name = safe_name();
    RC_ASSERT(conflict_name(name, "mars") != conflict_name(name, "moon"));
  }));
}

TEST_CASE("A conflict name of any text at all can be made") {
  REQUIRE(rc::check("any text", [] { RC_ASSERT(conflict_name(*any_text(), *any_text()).ends_with("/") == false); }));
}

TEST_CASE("A quoted name matches itself alone") {
  REQUIRE(rc::check("any two names", [] {
    const std::string name = safe_name();
    const std::string other = *rc::gen::element(0, 1) == 0 ? name : safe_name();
    const bool is_one_part = name.find('/') == std::string::npos;
    RC_ASSERT(matches(quoted(name), other) == (other == name || (is_one_part && last_part(other) == name)));
  }));
}

TEST_CASE("Two stars match every name") {
  REQUIRE(rc::check("any name", [] { RC_ASSERT(matches("**", safe_name())); }));
}

TEST_CASE("A folder's pattern matches what is below it and not the folder") {
  REQUIRE(rc::check("any folder", [] {
    const std::string folder = safe_part();
    RC_ASSERT(matches(quoted(folder) + "/", folder + "/" + safe_part()));
    RC_ASSERT_FALSE(matches(quoted(folder) + "/", folder));
  }));
}

TEST_CASE("A pattern matches as its plain definition says") {
  REQUIRE(rc::check("any pattern over few letters", [] {
    auto pattern = (*text_over({"a", "b", "/", "*", "**", "**/", "?"})).substr(0, 10);
    const auto name = (*text_over({"a", "b", "/"})).substr(0, 10);
    RC_PRE(!pattern.ends_with('/'));
    const bool is_one_part = pattern.find('/') == std::string::npos;
    const bool expected = plainly_matches(pattern, name) || (is_one_part && plainly_matches(pattern, last_part(name)));
    RC_CLASSIFY(expected, "matching");
    RC_ASSERT(matches(pattern, name) == expected);
  }));
}

TEST_CASE("Any bytes at all match themselves when quoted") {
  REQUIRE(rc::check("any text", [] {
    const auto text = *rc::gen::oneOf(any_text(), text_over({"[", "]", "!", "-", "\\", "a", "*", "/", "\xc3"}));
    RC_CLASSIFY(matches(text, text), "also unquoted");
    RC_ASSERT(matches(quoted(text + "x"), text + "x"));
  }));
}
