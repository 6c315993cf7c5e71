module;

#include "utf8.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/core.h>
#include <tl/expected.hpp>

module shoal.manifest;

import shoal.base;

namespace shoal {
namespace {

enum class TokenKind : std::uint8_t {
  literal,     ///< That one character.
  any,         ///< `?`: one character, not '/'.
  one_of,      ///< `[...]`
  none_of,     ///< `[!...]`
  star,        ///< `*`: none or more, not '/'.
  everything,  ///< `**`: none or more.
  folders,     ///< `**/` at the begin of a part: none or more whole folders.
};

struct Range {
  char32_t first = 0;
  char32_t last = 0;
};

struct Token {
  TokenKind kind = TokenKind::literal;
  char32_t character = 0;
  std::vector<Range> ranges;

  bool may_be_nothing() const { return kind >= TokenKind::star; }
};

class Parser {
 public:
  explicit Parser(std::string_view pattern) : rest_(pattern) {}

  std::vector<Token> parse() && {
    while (!rest_.empty()) {
      if (rest_.front() == '*')
        parse_stars();
      else if (rest_.front() != '[' || !parse_class())
        parse_character();
    }
    return std::move(tokens_);
  }

 private:
  void parse_stars() {
    const std::size_t stars = std::min(rest_.find_first_not_of('*'), rest_.size());
    rest_.remove_prefix(stars);
    const bool begins_part = tokens_.empty() || tokens_.back().kind == TokenKind::folders ||
                             (tokens_.back().kind == TokenKind::literal && tokens_.back().character == '/');
    if (stars == 1) return add({TokenKind::star, 0, {}});
    if (!begins_part || !rest_.starts_with('/')) return add({TokenKind::everything, 0, {}});
    rest_.remove_prefix(1);
    // `**/**/` says no more than `**/`.
    if (tokens_.empty() || tokens_.back().kind != TokenKind::folders) add({TokenKind::folders, 0, {}});
  }

  void parse_character() {
    const bool is_quoted = rest_.front() == '\\' && rest_.size() > 1;
    const bool is_any = rest_.front() == '?';
    if (is_quoted) rest_.remove_prefix(1);
    add({is_any ? TokenKind::any : TokenKind::literal, take(rest_), {}});
  }

  /// False, and nothing taken, when the bracket is never closed: then it means itself. What does not close one bracket
  /// closes none after it either, so the search goes to the end of the pattern once at most.
  bool parse_class() {
    if (has_unclosed_) return false;
    std::string_view rest = rest_.substr(1);
    Token token{TokenKind::one_of, 0, {}};
    if (rest.starts_with('!')) {
      token.kind = TokenKind::none_of;
      rest.remove_prefix(1);
    }
    while (token.ranges.empty() || !rest.starts_with(']')) {  // a ']' that comes first is a member
      if (rest.empty()) {
        has_unclosed_ = true;
        return false;
      }
      Range range;
      range.first = range.last = take_quoted(rest);
      if (rest.size() > 1 && rest[0] == '-' && rest[1] != ']') {
        rest.remove_prefix(1);
        range.last = take_quoted(rest);
      }
      token.ranges.push_back(range);
    }
    rest_ = rest.substr(1);
    add(std::move(token));
    return true;
  }

  static char32_t take(std::string_view& text) {
    const auto character = utf8::first_of(text);
    text.remove_prefix(character.length);
    return character.code;
  }

  static char32_t take_quoted(std::string_view& text) {
    if (text.front() == '\\' && text.size() > 1) text.remove_prefix(1);
    return take(text);
  }

  void add(Token token) { tokens_.push_back(std::move(token)); }

  std::string_view rest_;
  std::vector<Token> tokens_;
  bool has_unclosed_ = false;
};

/// Places in a pattern, each once, in the order they came.
class Places {
 public:
  explicit Places(std::size_t places) : is_in_(places) {}

  bool has(std::size_t place) const { return is_in_[place] != 0; }
  const std::vector<std::size_t>& all() const { return list_; }

  void insert(std::size_t place) {
    if (!has(place)) list_.push_back(place);
    is_in_[place] = 1;
  }

  void clear() {
    for (const std::size_t place : list_) is_in_[place] = 0;
    list_.clear();
  }

 private:
  std::vector<std::uint8_t> is_in_;
  std::vector<std::size_t> list_;
};

/// Follows all ways through the pattern at once, so that no pattern takes longer than its length times the name's.
class Matcher {
 public:
  explicit Matcher(std::vector<Token> tokens) : tokens_(std::move(tokens)), now_(tokens_.size() + 1), next_(tokens_.size() + 1) {}

  bool matches(std::string_view name) && {
    reach(0);
    std::swap(now_, next_);
    while (!name.empty() && !now_.all().empty()) {
      const auto character = utf8::first_of(name);
      for (const std::size_t place : now_.all())
        if (place < tokens_.size()) follow(place, character.code);
      std::swap(now_, next_);
      next_.clear();
      name.remove_prefix(character.length);
    }
    return now_.has(tokens_.size());
  }

 private:
  void follow(std::size_t place, char32_t character) {
    const Token& token = tokens_[place];
    switch (token.kind) {
      case TokenKind::literal:
        if (character == token.character) reach(place + 1);
        return;
      case TokenKind::any:
        if (character != '/') reach(place + 1);
        return;
      case TokenKind::one_of:
      case TokenKind::none_of:
        if (character != '/' && holds(token.ranges, character) == (token.kind == TokenKind::one_of)) reach(place + 1);
        return;
      case TokenKind::star:
        if (character != '/') reach(place);
        return;
      case TokenKind::everything: reach(place); return;
      case TokenKind::folders:  // left only at the end of a folder
        next_.insert(place);
        if (character == '/') reach(place + 1);
        return;
    }
  }

  /// Tokens that may be nothing are passed at once. The parser leaves no long rows of them.
  void reach(std::size_t place) {
    next_.insert(place);
    while (place < tokens_.size() && tokens_[place].may_be_nothing()) next_.insert(++place);
  }

  static bool holds(const std::vector<Range>& ranges, char32_t character) {
    return std::any_of(ranges.begin(), ranges.end(),
                       [&](const Range& range) { return range.first <= character && character <= range.last; });
  }

  std::vector<Token> tokens_;
  Places now_;
  Places next_;
};

bool matches_whole(std::string_view pattern, std::string_view name) { return Matcher(Parser(pattern).parse()).matches(name); }

}  // namespace

bool matches(std::string_view pattern, std::string_view name) {
  if (pattern.size() > kMaxPattern) return false;
  if (pattern.ends_with('/')) {
    const std::string_view folder = pattern.substr(0, pattern.size() - 1);
    const bool is_anywhere = folder.find('/') == std::string_view::npos;
    return matches_whole(fmt::format("{}{}/**", is_anywhere ? "**/" : "", folder), name);
  }
  if (matches_whole(pattern, name)) return true;
  const auto slash = name.rfind('/');
  if (slash == std::string_view::npos || pattern.find('/') != std::string_view::npos) return false;
  return matches_whole(pattern, name.substr(slash + 1));
}

Result<> check_pattern(std::string_view pattern) {
  if (pattern.size() <= kMaxPattern) return {};
  return fail(Errc::usage, fmt::format("a pattern of {} bytes", pattern.size()), fmt::format("it may have {}", kMaxPattern));
}

EntryPattern::EntryPattern(std::string pattern)
    : pattern_(std::move(pattern)),
      is_plain_(pattern_.find_first_of("*?[\\") == std::string::npos && !pattern_.ends_with('/')),
      md5_(parse_md5(pattern_)),
      root_(parse_sha256(pattern_)) {}

bool EntryPattern::means(const FileEntry& entry) const {
  if (pattern_.empty() || pattern_ == entry.name) return true;
  if (md5_ && entry.md5 == *md5_ && entry.kind == EntryKind::file) return true;
  if (root_ && entry.root == *root_ && entry.kind == EntryKind::file) return true;
  if (!is_plain_) return matches(pattern_, entry.name);
  const auto slash = entry.name.rfind('/');
  return slash != std::string::npos && pattern_.size() <= kMaxPattern && std::string_view(entry.name).substr(slash + 1) == pattern_;
}

}  // namespace shoal
