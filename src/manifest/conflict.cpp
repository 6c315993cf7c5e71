module;

#include "utf8.hpp"

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>

#include <fmt/core.h>

module shoal.manifest;

namespace shoal {
namespace {

constexpr std::size_t kMaxOwner = 128;     // bytes; leaves room for a stem and an extension
constexpr std::size_t kMaxExtension = 32;  // bytes; what is longer was not meant as one
constexpr std::size_t kMinStem = 4;        // bytes; one character of any kind

/// At most `limit` bytes of `text`, without half a character at the end.
std::string_view shortened(std::string_view text, std::size_t limit) {
  std::size_t end = 0;
  while (end < text.size()) {
    const std::size_t next = end + utf8::first_of(text.substr(end)).length;
    if (next > limit) break;
    end = next;
  }
  return text.substr(0, end);
}

std::string safe_owner(std::string_view owner) {
  std::string safe;
  while (!owner.empty()) {
    const auto character = utf8::first_of(owner);
    const bool is_safe = character.is_valid && character.code != '/' && !utf8::is_deceptive(character.code);
    safe += is_safe ? owner.substr(0, character.length) : std::string_view("_");
    owner.remove_prefix(character.length);
  }
  return safe.empty() ? "_" : std::string(shortened(safe, kMaxOwner));
}

/// Where the extension of `part` begins, with its dot; the end of `part` when it has none.
std::size_t extension_begin(std::string_view part) {
  const auto dot = part.rfind('.');
  return dot == std::string_view::npos || dot == 0 || part.size() - dot > kMaxExtension ? part.size() : dot;
}

}  // namespace

std::string conflict_name(std::string_view name, std::string_view owner) {
  const auto last = name.rfind('/') + 1;  // npos + 1 is 0
  std::string_view folder = name.substr(0, last);
  const std::string_view part = name.substr(last);
  const std::string_view stem = part.substr(0, extension_begin(part));
  const std::string ending = fmt::format(" (from {}){}", safe_owner(owner), part.substr(stem.size()));
  // A folder so deep that not even this fits beneath it: the copy goes to the nearest one above where it does.
  while (folder.size() + std::min(stem.size(), kMinStem) + ending.size() > kMaxName) {
    folder.remove_suffix(1);
    folder = folder.substr(0, folder.rfind('/') + 1);
  }
  const std::size_t room = std::min(kMaxNamePart, kMaxName - folder.size()) - ending.size();
  return fmt::format("{}{}{}", folder, shortened(stem, room), ending);
}

}  // namespace shoal
