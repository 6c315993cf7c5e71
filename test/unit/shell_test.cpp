#include <catch2/catch_test_macros.hpp>
#include <tl/expected.hpp>

#include <string>
#include <string_view>
#include <vector>

import shoal.base;
import shoal.shell;

using namespace shoal;

namespace {

using Words = std::vector<std::string>;

Words split(std::string_view line) {
  const auto words = split_line(line);
  REQUIRE(words.has_value());
  return *words;
}

ShellLine parsed(std::string_view line) {
  const auto result = parse_line(line);
  REQUIRE((result.has_value() && result->has_value()));
  return **result;
}

std::string failure_of(std::string_view line) {
  const auto result = parse_line(line);
  return result ? std::string() : result.error().message();
}

const KnownWords kKnown{{"alpha.iso", "alpine.iso", "two words.txt"}, {"10.0.0.1:5000"}};

}  // namespace

TEST_CASE("Blanks part words, and quotes keep them together") {
  CHECK(split("  find  'a b' \"c \\\" d\" e\\ f g''h \t") == Words{"find", "a b", "c \" d", "e f", "gh"});
  CHECK(split("''") == Words{""});
  CHECK(split("   ").empty());
}

TEST_CASE("A quote or an escape that does not end is refused") {
  CHECK_FALSE(split_line("find 'a").has_value());
  CHECK_FALSE(split_line("find a\\").has_value());
}

TEST_CASE("A word that is quoted is that word again") {
  for (const std::string word : {"plain", "two words", "it's", "a\"b", "back\\slash", "", "#x", "größe"})
    CHECK(split(quoted(word)) == Words{word});
}

TEST_CASE("Empty lines and comments mean nothing") {
  for (const std::string_view line : {"", "  ", "# find x"}) {
    const auto result = parse_line(line);
    CHECK((result.has_value() && !result->has_value()));
  }
}

TEST_CASE("A line is a command with its operands and options") {
  const ShellLine line = parsed("download --one 'a b'");
  CHECK(line.command->name == "download");
  CHECK(line.operands == Words{"a b"});
  CHECK(line.from_one);
  CHECK(parsed("exit!").command->name == "exit!");
}

TEST_CASE("A mistyped command is told what may have been meant") {
  CHECK(failure_of("donwload x").find("did you mean download?") != std::string::npos);
  CHECK(failure_of("xyzzy").find("help lists all of them") != std::string::npos);
}

TEST_CASE("Too few or too many operands are answered with the usage") {
  CHECK(failure_of("find").find("write find PATTERN") != std::string::npos);
  CHECK(failure_of("getload a b c").find("write getload HOST PORT") != std::string::npos);
  CHECK(failure_of("download x --two").find("unknown option --two") != std::string::npos);
}

TEST_CASE("The first word is completed to a command, the next to what it takes") {
  CHECK(complete("do", kKnown).choices == Words{"download"});
  CHECK(complete("", kKnown).choices.size() == shell_commands().size());
  CHECK(complete("find al", kKnown).choices == Words{"alpha.iso", "alpine.iso"});
  CHECK(complete("getload 10", kKnown).choices == Words{"10.0.0.1:5000"});
  CHECK(complete("status al", kKnown).choices.empty());
  CHECK(complete("find a al", kKnown).choices.empty());
}

TEST_CASE("A name with blanks is completed within and without quotes") {
  CHECK(complete("find two", kKnown).choices == Words{"\"two words.txt\""});
  const Completion completion = complete("find \"two w", kKnown);
  CHECK(completion.begin == 5);
  CHECK(completion.choices == Words{"\"two words.txt\""});
}

TEST_CASE("What choices have in common does not end within a character") {
  CHECK(common_beginning(Words{"alpha.iso", "alpine.iso"}) == "alp");
  CHECK(common_beginning(Words{"x\xc3\xa4", "x\xc3\xb6"}) == "x");
  CHECK(common_beginning({}).empty());
}

TEST_CASE("A hint shows the usage of a command, or the commands that begin so") {
  CHECK(hint_for("download ").starts_with("download NAME [--one]"));
  CHECK(hint_for("ex") == "exit  exit!");
}

TEST_CASE("An empty argument is a mistake, not everything") {
  for (const std::string line : {"download ''", "find \"\"", "ls ''", "why ''", "getload ''"})
    CHECK(failure_of(line).find("empty") != std::string::npos);
}
