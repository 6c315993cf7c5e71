// One character of UTF-8 at a time, for text that may be anything.
#pragma once

#include <array>
#include <cstddef>
#include <string_view>

namespace shoal::utf8 {

struct Character {
  char32_t code = 0;       ///< The code point; for a byte that is no UTF-8, a value past all code points.
  std::size_t length = 1;  ///< Bytes of it.
  bool is_valid = false;
};

inline constexpr char32_t kPastUnicode = 0x110000;

/// The first character of `text`, which is not empty. Overlong forms and surrogates are not valid (RFC 3629).
inline Character first_of(std::string_view text) {
  static constexpr std::array<char32_t, 5> smallest{0, 0, 0x80, 0x800, 0x10000};
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const char32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1, true};
  const Character bad{kPastUnicode + lead, 1, false};
  const std::size_t length = lead >> 5 == 0x6 ? 2 : lead >> 4 == 0xe ? 3 : lead >> 3 == 0x1e ? 4 : 0;
  if (length == 0 || text.size() < length) return bad;
  char32_t code = lead & (0x7fu >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if (byte(i) >> 6 != 2) return bad;
    code = code << 6 | (byte(i) & 0x3fu);
  }
  const bool is_surrogate = code >= 0xd800 && code <= 0xdfff;
  if (code < smallest[length] || code >= kPastUnicode || is_surrogate) return bad;
  return {code, length, true};
}

/// Whether a name with this character could look like another name, or like more than a name: C0, DEL, C1,
/// line separators, and what Unicode calls Bidi_Control.
inline bool is_deceptive(char32_t code) {
  return code < 0x20 || (code >= 0x7f && code <= 0x9f) || code == 0x61c || code == 0x200e || code == 0x200f ||
         (code >= 0x2028 && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069);
}

}  // namespace shoal::utf8
