// Folds names as file systems do, so that those which are one name to them compare equal.
module;

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>

#include <utf8proc.h>

module shoal.manifest;

namespace shoal {
namespace {

bool is_ascii(std::string_view name) {
  unsigned char all = 0;
  for (const char c : name) all |= static_cast<unsigned char>(c);
  return all < 0x80;
}

std::string in_lower_case(std::string_view name) {
  std::string lower(name);
  for (char& c : lower)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return lower;
}

struct Free {
  void operator()(utf8proc_uint8_t* text) const { std::free(text); }
};

/// File systems fold by Unicode's case folding (APFS, ext4) or by a table of capitals (FAT, NTFS): what either takes for one is one.
utf8proc_int32_t capital_of(utf8proc_int32_t code, void*) { return utf8proc_toupper(code); }
utf8proc_int32_t as_it_is(utf8proc_int32_t code, void*) { return code; }

std::string fold_unicode(std::string_view name, const NameFolding& folding) {
  int options = 0;
  if (folding.letter_case) options |= UTF8PROC_CASEFOLD;
  if (folding.unicode_form) options |= UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
  if (folding.ignorable) options |= UTF8PROC_IGNORE;
  utf8proc_uint8_t* folded = nullptr;
  const auto size =
      utf8proc_map_custom(reinterpret_cast<const utf8proc_uint8_t*>(name.data()), static_cast<utf8proc_ssize_t>(name.size()), &folded,
                          static_cast<utf8proc_option_t>(options), folding.letter_case ? capital_of : as_it_is, nullptr);
  const std::unique_ptr<utf8proc_uint8_t, Free> kept(folded);
  if (size < 0) return folding.letter_case ? in_lower_case(name) : std::string(name);
  return {reinterpret_cast<const char*>(folded), static_cast<std::size_t>(size)};
}

/// Blanks at the end go the way of dots there.
std::string without_trailing_dots(std::string_view name) {
  std::string kept;
  for (std::size_t begin = 0; begin <= name.size();) {
    const auto end = std::min(name.find('/', begin), name.size());
    const auto part = name.substr(begin, end - begin);
    kept += part.substr(0, part.find_last_not_of(". ") + 1);  // npos + 1 is 0
    if (end < name.size()) kept += '/';
    begin = end + 1;
  }
  return kept;
}

}  // namespace

std::string fold_name(std::string_view name, const NameFolding& folding) {
  if (!folding.is_any()) return std::string(name);
  std::string folded = !is_ascii(name) ? fold_unicode(name, folding) : folding.letter_case ? in_lower_case(name) : std::string(name);
  return folding.trailing_dots ? without_trailing_dots(folded) : folded;
}

}  // namespace shoal
