module;

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

module shoal.report;

namespace shoal {
namespace {

constexpr char32_t kInvalid = 0xfffd;

struct Character {
  char32_t code = kInvalid;
  std::size_t bytes = 1;  ///< What it takes in the text; an invalid byte stands alone.
  bool is_valid = false;
};

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

std::size_t sequence_length(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead < 0xe0) return 2;
  if (lead >= 0xe0 && lead < 0xf0) return 3;
  if (lead >= 0xf0 && lead < 0xf5) return 4;
  return 0;
}

bool is_overlong_or_surrogate(char32_t code, std::size_t bytes) {
  static constexpr std::array<char32_t, 5> smallest{0, 0, 0x80, 0x800, 0x10000};
  return code < smallest[bytes] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000);
}

/// The first character of `text`, which is not empty.
Character first_character(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text.front());
  const std::size_t length = sequence_length(lead);
  if (length == 1) return {lead, 1, true};
  if (length == 0 || length > text.size()) return {};
  char32_t code = lead & (0x7fu >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if (!is_continuation(text[i])) return {};
    code = (code << 6) | (static_cast<unsigned char>(text[i]) & 0x3fu);
  }
  if (is_overlong_or_surrogate(code, length)) return {};
  return {code, length, true};
}

struct Range {
  char32_t first;
  char32_t last;
};

template <std::size_t N>
bool is_in(char32_t code, const std::array<Range, N>& sorted) {
  const auto after = std::upper_bound(sorted.begin(), sorted.end(), code, [](char32_t c, const Range& r) { return c < r.first; });
  return after != sorted.begin() && code <= std::prev(after)->last;
}

/// Controls, and what can reorder, hide or break a line (the bidi controls of Unicode TR 9, line separators, tags).
bool is_unsafe(char32_t code) {
  static constexpr std::array<Range, 9> ranges{{{0x00, 0x1f},
                                                {0x7f, 0x9f},
                                                {0x61c, 0x61c},
                                                {0x200e, 0x200f},
                                                {0x2028, 0x202e},
                                                {0x2066, 0x2069},
                                                {0xfeff, 0xfeff},
                                                {0xfff9, 0xfffb},
                                                {0xe0000, 0xe007f}}};
  return is_in(code, ranges);
}

/// The common part of Unicode's marks and joiners; what is missing here only makes a line too short.
bool has_no_width(char32_t code) {
  static constexpr std::array<Range, 17> ranges{{{0x300, 0x36f},
                                                 {0x483, 0x489},
                                                 {0x591, 0x5bd},
                                                 {0x610, 0x61a},
                                                 {0x64b, 0x65f},
                                                 {0x6d6, 0x6dc},
                                                 {0x900, 0x902},
                                                 {0x93c, 0x93c},
                                                 {0xe31, 0xe31},
                                                 {0xe34, 0xe3a},
                                                 {0xe47, 0xe4e},
                                                 {0x1ab0, 0x1aff},
                                                 {0x1dc0, 0x1dff},
                                                 {0x200b, 0x200d},
                                                 {0x20d0, 0x20ff},
                                                 {0xfe00, 0xfe0f},
                                                 {0xfe20, 0xfe2f}}};
  return is_in(code, ranges);
}

/// East Asian Width W and F (Unicode TR 11), and emoji.
bool is_wide(char32_t code) {
  static constexpr std::array<Range, 12> ranges{{{0x1100, 0x115f},
                                                 {0x231a, 0x231b},
                                                 {0x2329, 0x232a},
                                                 {0x2e80, 0x303e},
                                                 {0x3041, 0xa4cf},
                                                 {0xa960, 0xa97c},
                                                 {0xac00, 0xd7a3},
                                                 {0xf900, 0xfaff},
                                                 {0xfe30, 0xfe6f},
                                                 {0xff00, 0xff60},
                                                 {0x1f300, 0x1faff},
                                                 {0x20000, 0x3fffd}}};
  return is_in(code, ranges);
}

std::size_t width_of(char32_t code) {
  if (code < 0x300) return 1;
  if (has_no_width(code)) return 0;
  return is_wide(code) ? 2 : 1;
}

std::string escaped(char32_t code) {
  const auto value = static_cast<std::uint32_t>(code);
  return value < 0x100 ? fmt::format("\\x{:02x}", value) : fmt::format("\\u{{{:x}}}", value);
}

bool is_plain_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c < 0x7f; });
}

}  // namespace

std::string printable(std::string_view text) {
  if (is_plain_ascii(text)) return std::string(text);
  std::string out;
  out.reserve(text.size() + 16);
  while (!text.empty()) {
    const Character character = first_character(text);
    if (!character.is_valid)
      out += "\xef\xbf\xbd";
    else if (is_unsafe(character.code))
      out += escaped(character.code);
    else
      out += text.substr(0, character.bytes);
    text.remove_prefix(character.bytes);
  }
  return out;
}

std::size_t columns_of(std::string_view text) {
  std::size_t columns = 0;
  while (!text.empty()) {
    const Character character = first_character(text);
    columns += width_of(character.code);
    text.remove_prefix(character.bytes);
  }
  return columns;
}

std::string fit_columns(std::string_view text, std::size_t columns) {
  std::size_t excess = columns_of(text);
  if (excess <= columns) return std::string(text);
  if (columns == 0) return {};
  const std::size_t room = columns - 1;  // one for the ellipsis
  while (!text.empty()) {
    const Character character = first_character(text);
    const std::size_t width = width_of(character.code);
    if (excess <= room && width > 0) break;  // a mark without its letter would land on the ellipsis
    excess -= width;
    text.remove_prefix(character.bytes);
  }
  return "…" + std::string(text);
}

}  // namespace shoal
