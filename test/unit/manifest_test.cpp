#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include <tl/expected.hpp>

import shoal.base;
import shoal.digest;
import shoal.manifest;

using namespace shoal;

namespace {

std::string repeated(std::string_view text, std::size_t times) {
  std::string all;
  for (std::size_t i = 0; i < times; ++i) all += text;
  return all;
}

/// What check_name says of a name: "safe", or the whole line.
std::string verdict(std::string_view name) {
  const auto result = check_name(name);
  return result ? "safe" : result.error().message();
}

bool is_refused(std::string_view name) {
  const auto result = check_name(name);
  return !result && result.error().code == Errc::unsafe_name;
}

FileEntry some_file() {
  FileEntry entry;
  entry.name = "docs/a.txt";
  entry.size = 5;
  entry.md5.bytes.fill(1);
  entry.root.bytes.fill(2);
  return entry;
}

FileEntry empty_file() {
  FileEntry entry;
  entry.name = "docs/empty";
  entry.md5 = md5({});
  return entry;
}

FileEntry some_folder() {
  FileEntry entry;
  entry.name = "docs";
  entry.kind = EntryKind::folder;
  return entry;
}

/// "fine", or the reason's code in words.
std::string verdict(const FileEntry& entry) {
  const auto result = check_entry(entry);
  return result ? "fine" : result.error().code.message();
}

}  // namespace

// ---- names --------------------------------------------------------------------------------------------

TEST_CASE("Ordinary names are safe") {
  const auto name = GENERATE(as<std::string>{}, "a", "a/b/c.txt", "with space.txt", ".hidden", "...", "..a/b..", "a\\b", "C:x", "-rf",
                             "ü/日本/😀", "e\u0301", "\u00a0", "\u200b", ".shoal", "x.shoal-1", "~");
  CHECK(verdict(name) == "safe");
}

TEST_CASE("Names at their limits are safe, and one beyond is not") {
  CHECK(verdict(std::string(255, 'x')) == "safe");
  CHECK(is_refused(std::string(256, 'x')));
  CHECK(verdict(repeated("d/", 99) + "f") == "safe");
  CHECK(is_refused(repeated("d/", 100) + "f"));
  CHECK(verdict(repeated(std::string(255, 'x') + "/", 15) + std::string(255, 'x') + "") == "safe");
  CHECK(verdict(repeated(std::string(250, 'x') + "/", 16) + std::string(80, 'x')) == "safe");
  CHECK(is_refused(repeated(std::string(250, 'x') + "/", 16) + std::string(81, 'x')));
}

TEST_CASE("Names that would leave the folder are refused") {
  const auto name =
      GENERATE(as<std::string>{}, "", "/", "/etc/passwd", ".", "..", "../x", "a/../b", "a/..", "a/./b", "./a", "a//b", "a/", "//");
  CHECK(is_refused(name));
}

TEST_CASE("Names with characters that deceive are refused") {
  const auto name = GENERATE(as<std::string>{}, std::string("a\0b", 3), "a\nb", "a\tb", "\x1b[31m", "a\x7f", "\u0080", "a\u0085b", "\u009f",
                             "\u061c", "a\u200eb", "\u200f", "\u2028", "\u2029", "\u202a", "invoice\u202efdp.exe", "\u2066", "\u2069");
  CHECK(is_refused(name));
}

TEST_CASE("Names that are not UTF-8 are refused") {
  const auto name =
      GENERATE(as<std::string>{}, "\x80", "a\xff", "\xc3", "\xc3(", "\xe2\x82", "\xe2\x28\xa1", "\xf0\x9f\x98", "\xf0\x28\x8c\xbc",
               "\xc0\xaf",          // '/' in two bytes
               "\xc1\xbf",          // overlong
               "\xe0\x80\xaf",      // '/' in three bytes
               "\xf0\x80\x80\xaf",  // '/' in four bytes
               "\xed\xa0\x80",      // the first surrogate
               "\xed\xbf\xbf",      // the last surrogate
               "\xf4\x90\x80\x80",  // past U+10FFFF
               "\xf8\x88\x80\x80\x80", "latin-1 \xe9");
  CHECK(is_refused(name));
}

TEST_CASE("The first and last characters of each UTF-8 length are safe") {
  const auto name =
      GENERATE(as<std::string>{}, " ", "~", "\u00a0", "\u07ff", "\u0800", "\ud7ff", "\ue000", "\uffff", "\U00010000", "\U0010ffff");
  CHECK(verdict(name) == "safe");
}

TEST_CASE("Names of our own partial files are refused from outside") {
  const auto name = GENERATE(as<std::string>{}, ".shoal-", ".shoal-1.part", "a/.shoal-1", ".shoal-d/x");
  CHECK(is_refused(name));
}

TEST_CASE("Names that some file system takes for our own partial files are refused as well") {
  const auto name =
      GENERATE(as<std::string>{}, ".Shoal-1.part", ".SHOAL-", "a/.sHoal-1", ".\u017fhoal-1", "\u200c.shoal-1", ".sho\u00adal-1/x");
  CHECK(is_refused(name));
}

TEST_CASE("Names that only resemble ours are safe") {
  const auto name = GENERATE(as<std::string>{}, ".shoal", ".shoals", "shoal-1", "a.shoal-1", ".\u00e9", "\u00e9.shoal-1");
  CHECK(check_name(name));
}

// ---- names that are one name --------------------------------------------------------------------------

namespace {

bool are_one(std::string_view a, std::string_view b, const NameFolding& folding) { return fold_name(a, folding) == fold_name(b, folding); }

constexpr NameFolding kCase{.letter_case = true};
constexpr NameFolding kForm{.unicode_form = true};
constexpr NameFolding kBoth{.letter_case = true, .unicode_form = true, .ignorable = true};

}  // namespace

TEST_CASE("Where nothing is folded every name is itself") {
  const auto name = GENERATE(as<std::string>{}, "README", "caf\u00e9", "a\u200c", "a.", "\xff");
  CHECK(fold_name(name, {}) == name);
}

TEST_CASE("Where case is folded names of another case are one, in any script") {
  const auto [a, b] = GENERATE(table<std::string, std::string>({{"README.md", "readme.MD"},
                                                                {"A/x", "a/X"},
                                                                {"\u00c4rger", "\u00e4rger"},
                                                                {"\u03a3\u03a3", "\u03c3\u03c2"},
                                                                {"\u0416", "\u0436"},
                                                                {"stra\u00dfe", "STRASSE"},
                                                                {"I", "\u0131"},
                                                                {"\U00010400", "\U00010428"}}));
  CHECK(are_one(a, b, kCase));
  CHECK(are_one(a, b, kBoth));
  CHECK_FALSE(are_one(a, b, kForm));
}

TEST_CASE("Where forms are folded one letter and its two characters are one") {
  const auto [a, b] = GENERATE(table<std::string, std::string>(
      {{"caf\u00e9", "cafe\u0301"}, {"\uac00", "\u1100\u1161"}, {"\u212b", "A\u030a"}, {"q\u0323\u0307", "q\u0307\u0323"}}));
  CHECK(are_one(a, b, kForm));
  CHECK_FALSE(are_one(a, b, {.trailing_dots = true}));
}

TEST_CASE("Both at once are folded, too") { CHECK(are_one("CAF\u00c9", "cafe\u0301", kBoth)); }

TEST_CASE("Names that differ otherwise stay apart, also where all is folded") {
  const auto [a, b] =
      GENERATE(table<std::string, std::string>({{"a", "b"}, {"a/b", "ab"}, {"caf\u00e9", "cafe"}, {"a.b", "ab"}, {"1", "\u2460"}}));
  CHECK_FALSE(are_one(a, b, {true, true, true, true}));
}

TEST_CASE("Dots at the end of a part are left out where the folder leaves them out") {
  CHECK(are_one("a./b. .", "a/b", {.trailing_dots = true}));
  CHECK_FALSE(are_one("a./b", "a/b", kBoth));
}

TEST_CASE("What is not UTF-8 is folded as far as it is ASCII") { CHECK(are_one("A\xff", "a\xff", kBoth)); }

TEST_CASE("The error names the file and the reason") {
  CHECK(verdict("a/../b") == "name 'a/../b' has a '.' or '..' part: unsafe file name");
}

TEST_CASE("The error for a hostile name is one short line of UTF-8") {
  CHECK(verdict("\xff\n\u202e") == "name '\ufffd\\x0a\\xe2\\x80\\xae' is not UTF-8: unsafe file name");
  CHECK(verdict(std::string(100'000, 'x')).size() < 300);
}

// ---- entries ------------------------------------------------------------------------------------------

TEST_CASE("Entries that make sense are fine") {
  CHECK(verdict(some_file()) == "fine");
  CHECK(verdict(empty_file()) == "fine");
  CHECK(verdict(some_folder()) == "fine");
}

TEST_CASE("An entry with an unsafe name is refused") {
  FileEntry entry = some_file();
  entry.name = "../x";
  CHECK(verdict(entry) == "unsafe file name");
}

TEST_CASE("A folder has neither size nor digests") {
  FileEntry sized = some_folder();
  sized.size = 1;
  FileEntry named = some_folder();
  named.md5 = md5({});
  FileEntry rooted = some_folder();
  rooted.root.bytes[31] = 1;
  CHECK(verdict(sized) == "malformed data");
  CHECK(verdict(named) == "malformed data");
  CHECK(verdict(rooted) == "malformed data");
}

TEST_CASE("An empty file has the digests of nothing") {
  FileEntry other_md5 = empty_file();
  other_md5.md5 = {};
  FileEntry other_root = empty_file();
  other_root.root.bytes[0] = 1;
  CHECK(verdict(other_md5) == "malformed data");
  CHECK(verdict(other_root) == "malformed data");
}

TEST_CASE("A file has fewer than 2^32 chunks") {
  FileEntry entry = some_file();
  entry.size = std::uint64_t{0xffffffff} * kChunkSize;
  CHECK(verdict(entry) == "fine");
  entry.size += GENERATE(std::uint64_t{1}, std::uint64_t{1} << 60, std::uint64_t{0xfff} << 52);
  CHECK(verdict(entry) == "over the limit");
}

TEST_CASE("An entry of an unknown kind is refused") {
  FileEntry entry = some_file();
  entry.kind = static_cast<EntryKind>(2);
  CHECK(verdict(entry) == "malformed data");
}

// ---- conflicts ----------------------------------------------------------------------------------------

TEST_CASE("A second content is kept under a name that tells its owner") {
  const auto [name, expected] = GENERATE(table<std::string, std::string>({
      {"a/b.txt", "a/b (from mars).txt"},
      {"b", "b (from mars)"},
      {"a.d/b", "a.d/b (from mars)"},
      {"b.tar.gz", "b.tar (from mars).gz"},
      {".bashrc", ".bashrc (from mars)"},
      {"a/.config.toml", "a/.config (from mars).toml"},
      {"b.", "b (from mars)."},
  }));
  CHECK(conflict_name(name, "mars") == expected);
}

TEST_CASE("An owner cannot put anything unsafe into a name") {
  CHECK(conflict_name("b.txt", "../x\n\u202e\xff") == "b (from .._x___).txt");
  CHECK(conflict_name("b.txt", "") == "b (from _).txt");
}

TEST_CASE("A long name keeps its owner and its extension") {
  CHECK(conflict_name(std::string(251, 'x') + ".txt", "mars") == std::string(239, 'x') + " (from mars).txt");
}

TEST_CASE("A long name is cut between characters") {
  CHECK(conflict_name(repeated("日", 83) + ".txt", "mars") == repeated("日", 79) + " (from mars).txt");
  CHECK(conflict_name(repeated("日", 84), "moon") == repeated("日", 81) + " (from moon)");
}

TEST_CASE("A long end of a name is no extension") {
  const std::string name = "a." + std::string(253, 'x');
  CHECK(conflict_name(name, "mars") == name.substr(0, 243) + " (from mars)");
}

TEST_CASE("A long owner is shortened") {
  CHECK(conflict_name("b.txt", std::string(1000, 'o')) == "b (from " + std::string(128, 'o') + ").txt");
}

TEST_CASE("A name that leaves no room for its owner moves up to a folder that does") {
  const std::string upper = repeated(std::string(250, 'x') + "/", 16);
  const std::string name = upper + std::string(77, 'y') + "/b";
  REQUIRE(verdict(name) == "safe");
  CHECK(conflict_name(name, "mars") == upper + "b (from mars)");
}

// ---- patterns -----------------------------------------------------------------------------------------

TEST_CASE("A pattern matches as a shell's does") {
  const auto [pattern, name] = GENERATE(table<std::string, std::string>({
      {"a.txt", "a.txt"}, {"*", "a"},     {"*", ".hidden"},
      {"*.txt", "a.txt"}, {"a*c", "ac"},  {"a*c", "abcbc"},
      {"a?c", "abc"},     {"?", "日"},    {"[a-c]x", "bx"},
      {"[!a-c]x", "dx"},  {"[abc]", "c"}, {"[]a]", "]"},
      {"[!]a]", "b"},     {"[a-]", "-"},  {"[-a]", "-"},
      {"[ä-ü]", "ö"},     {"[^a]", "^"},  {"[\\]]", "]"},
      {"[a\\-c]", "-"},   {"\\*", "*"},   {"a\\?", "a?"},
      {"\\a", "a"},       {"a\\", "a\\"}, {"[", "["},
      {"[a", "[a"},       {"[]", "[]"},   {"*[0-9].log", "x7.log"},
  }));
  CAPTURE(pattern, name);
  CHECK(matches(pattern, name));
}

TEST_CASE("A pattern does not match what a shell's does not") {
  const auto [pattern, name] = GENERATE(table<std::string, std::string>({
      {"", "a"},
      {"a", "b"},
      {"a", "A"},
      {"a", "ab"},
      {"b", "ab"},
      {"?", ""},
      {"?", "ab"},
      {"*.txt", "a.txt2"},
      {"[a-c]", "d"},
      {"[!a-c]", "b"},
      {"[c-a]", "b"},
      {"[a\\-c]", "b"},
      {"\\*", "a"},
      {"[abc]", "[abc]"},
      {"[a", "a"},
      {"a*c", "ab"},
  }));
  CAPTURE(pattern, name);
  CHECK_FALSE(matches(pattern, name));
}

TEST_CASE("Only two stars cross a folder") {
  CHECK(matches("a/*", "a/b"));
  CHECK_FALSE(matches("a/*", "a/b/c"));
  CHECK_FALSE(matches("a*/c", "a/b/c"));
  CHECK_FALSE(matches("a?b/c", "a/b/c"));
  CHECK_FALSE(matches("a[/]b/c", "a/b/c"));
  CHECK_FALSE(matches("a[!x]b/c", "a/b/c"));
  CHECK(matches("a/**", "a/b/c"));
  CHECK(matches("a**c", "a/b/c"));
  CHECK_FALSE(matches("a/**", "a"));
}

TEST_CASE("Two stars and a slash are any number of folders") {
  CHECK(matches("**/c", "c"));
  CHECK(matches("**/c", "a/b/c"));
  CHECK(matches("a/**/c", "a/c"));
  CHECK(matches("a/**/c", "a/b/b/c"));
  CHECK(matches("**/**/c", "a/c"));
  CHECK_FALSE(matches("**/c", "a/bc"));
  CHECK_FALSE(matches("a/**/c", "a/bc"));
  CHECK_FALSE(matches("a/**/c", "ab/c"));
}

TEST_CASE("A pattern without a slash is also compared with the last part") {
  CHECK(matches("*.txt", "a/b/c.txt"));
  CHECK(matches("c", "a/c"));
  CHECK_FALSE(matches("a", "a/c"));
  CHECK_FALSE(matches("b/c", "a/b/c"));
}

TEST_CASE("A pattern that ends in a slash means everything below that folder") {
  CHECK(matches("build/", "build/a/b"));
  CHECK(matches("build/", "src/build/a"));
  CHECK(matches("b*/", "build/a"));
  CHECK(matches("src/build/", "src/build/a"));
  CHECK_FALSE(matches("src/build/", "x/src/build/a"));
  CHECK_FALSE(matches("build/", "build"));
  CHECK_FALSE(matches("build/", "builder/a"));
}

TEST_CASE("A pattern made to be slow is not") {
  const std::string name(4000, 'a');
  CHECK_FALSE(matches(repeated("a*", 100) + "b", name));
  CHECK_FALSE(matches(repeated("**a", 100) + "b", name));
}

TEST_CASE("A pattern of many brackets that are never closed is not slow") {
  const std::string pattern(kMaxPattern, '[');
  bool is_any_match = false;
  for (int i = 0; i < 2000; ++i) is_any_match = matches(pattern, "a/b") || is_any_match;  // minutes, if each bracket looked for its end
  CHECK_FALSE(is_any_match);
}

TEST_CASE("A bracket after one that is never closed means itself, too") {
  CHECK(matches("[a[b", "[a[b"));
  CHECK(matches("[]a[", "[]a["));
  CHECK(matches("[a-\\][b", "[a-][b"));
  CHECK_FALSE(matches("[a[b", "[ab"));
}

TEST_CASE("A pattern that is longer than any quoted name matches nothing") {
  CHECK(matches(std::string(kMaxPattern, '*'), "a"));
  CHECK_FALSE(matches(std::string(kMaxPattern + 1, '*'), "a"));
}

TEST_CASE("A pattern that is too long is a usage error") {
  CHECK(check_pattern(std::string(kMaxPattern, 'a')));
  const auto checked = check_pattern(std::string(kMaxPattern + 1, 'a'));
  REQUIRE_FALSE(checked);
  CHECK(exit_code_of(checked.error()) == ExitCode::usage);
}
