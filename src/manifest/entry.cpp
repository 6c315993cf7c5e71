module;

#include "utf8.hpp"

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

#include <fmt/core.h>
#include <tl/expected.hpp>

module shoal.manifest;

import shoal.base;
import shoal.digest;

namespace shoal {
namespace {

/// `name` as an error shows it: always UTF-8, and without the end of a long one. `Error::message` escapes the rest.
std::string shown(std::string_view name) {
  constexpr std::size_t kMaxShown = 200;
  std::string text;
  while (!name.empty() && text.size() < kMaxShown) {
    const auto character = utf8::first_of(name);
    text += character.is_valid ? name.substr(0, character.length) : std::string_view("\xef\xbf\xbd");  // U+FFFD
    name.remove_prefix(character.length);
  }
  return name.empty() ? text : text + "...";
}

Failure unsafe(std::string_view name, std::string_view reason) {
  return fail(Errc::unsafe_name, fmt::format("name '{}' {}", shown(name), reason));
}

/// Whether all are printable ASCII, as in most names. Looks at all, whatever comes first, so that it goes many at a time.
bool is_plain(std::string_view name) {
  bool is_plain = true;
  for (const char c : name) is_plain &= c >= 0x20 && c < 0x7f;
  return is_plain;
}

/// Why the characters of a name make it unsafe; empty when they do not.
std::string_view fault_in_characters(std::string_view name) {
  if (is_plain(name)) return {};
  while (!name.empty()) {
    const auto character = utf8::first_of(name);
    if (!character.is_valid) return "is not UTF-8";
    if (utf8::is_deceptive(character.code)) return "has a control character";
    name.remove_prefix(character.length);
  }
  return {};
}

/// Also where some file system takes it for such a name.
bool is_reserved(std::string_view part) {
  constexpr NameFolding kAll{.letter_case = true, .unicode_form = true, .ignorable = true, .trailing_dots = false};
  return part.starts_with(kReservedPrefix) || fold_name(part, kAll).starts_with(kReservedPrefix);
}

/// Most names are not worth a closer look: such a part begins with the prefix's dot, or with a character that is not seen.
bool may_be_reserved(std::string_view part) { return part.front() == '.' || static_cast<unsigned char>(part.front()) >= 0x80; }

std::string_view fault_in_part(std::string_view part) {
  if (part.empty()) return "has an empty part";
  if (part == "." || part == "..") return "has a '.' or '..' part";
  if (part.size() > kMaxNamePart) return "has a part over 255 bytes";
  if (may_be_reserved(part) && is_reserved(part)) return "has a part that begins like a partial file";
  return {};
}

std::string_view fault_in_parts(std::string_view name) {
  for (std::size_t depth = 1;; ++depth) {
    if (depth > kMaxNameDepth) return "is deeper than 100 parts";
    const auto slash = name.find('/');
    if (const auto fault = fault_in_part(name.substr(0, slash)); !fault.empty()) return fault;
    if (slash == std::string_view::npos) return {};
    name.remove_prefix(slash + 1);
  }
}

Failure senseless(const FileEntry& entry, std::string_view reason) {
  return fail(Errc::malformed, fmt::format("entry '{}' {}", shown(entry.name), reason));
}

Result<> check_folder(const FileEntry& entry) {
  if (entry.size != 0) return senseless(entry, "is a folder with a size");
  if (entry.md5 != Md5Digest{} || entry.root != Sha256Digest{}) return senseless(entry, "is a folder with digests");
  return {};
}

Result<> check_file(const FileEntry& entry) {
  constexpr std::uint64_t kMaxSize = std::uint64_t{1} << 60;
  if (entry.size >= kMaxSize || chunk_count(entry.size) > std::numeric_limits<std::uint32_t>::max())
    return fail(Errc::too_large, fmt::format("entry '{}' of {} bytes", shown(entry.name), entry.size));
  if (entry.size == 0 && (entry.md5 != md5({}) || entry.root != Sha256Digest{}))
    return senseless(entry, "is empty, and its digests are not");
  return {};
}

}  // namespace

Result<> check_name(std::string_view name) {
  if (name.empty()) return unsafe(name, "is empty");
  if (name.size() > kMaxName) return unsafe(name, "is over 4096 bytes");
  if (name.front() == '/') return unsafe(name, "is absolute");
  if (const auto fault = fault_in_characters(name); !fault.empty()) return unsafe(name, fault);
  if (const auto fault = fault_in_parts(name); !fault.empty()) return unsafe(name, fault);
  return {};
}

Result<> check_entry(const FileEntry& entry) {
  if (auto name = check_name(entry.name); !name) return name;
  switch (entry.kind) {
    case EntryKind::file: return check_file(entry);
    case EntryKind::folder: return check_folder(entry);
  }
  return senseless(entry, "is neither a file nor a folder");
}

}  // namespace shoal
