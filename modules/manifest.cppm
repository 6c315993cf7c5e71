/// What a file is, apart from its bytes: its name, size, time and digests; and which names are safe to accept.
/// Plain values and functions, no IO.
module;

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

export module shoal.manifest;

import shoal.base;
import shoal.digest;

export namespace shoal {

enum class EntryKind : std::uint8_t { file = 0, folder = 1 };

/// One file or folder of a catalogue, as its owner describes it.
struct FileEntry {
  std::string name;  ///< Relative, UTF-8, parts joined by '/'. See check_name.
  EntryKind kind = EntryKind::file;
  std::uint64_t size = 0;     ///< Bytes; 0 for a folder.
  std::int64_t mtime_ns = 0;  ///< Last modification, nanoseconds since 1970-01-01 UTC.
  bool executable = false;    ///< The owner's execute bit.
  Md5Digest md5;              ///< Zeros for a folder.
  Sha256Digest root;          ///< BEP 52 pieces root; zeros for a folder and an empty file.

  friend bool operator==(const FileEntry&, const FileEntry&) = default;
};

/// One that several hold: there may be millions.
using EntryPtr = std::shared_ptr<const FileEntry>;

inline constexpr std::size_t kMaxNamePart = 255;   ///< Bytes in one part of a name.
inline constexpr std::size_t kMaxNameDepth = 100;  ///< Parts in a name.
inline constexpr std::size_t kMaxName = 4096;      ///< Bytes in a name.

/// Whether a name from outside may be opened beneath a shared folder. Fails with `unsafe_name` and the reason
/// when it is empty, absolute, not UTF-8 (overlong forms and surrogates included), has an empty, `.` or `..` part,
/// a NUL, control (C0, C1, DEL), bidirectional-control or line-separator character, a part over kMaxNamePart bytes,
/// more than kMaxNameDepth parts, or over kMaxName bytes. A backslash is an ordinary character.
/// A part that begins with kReservedPrefix is refused as well: such names are our own partial files. So is one that some file system
/// takes for such a name, as `.Shoal-`.
Result<> check_name(std::string_view name);
inline constexpr std::string_view kReservedPrefix = ".shoal-";

/// What a file system does not see in a name: names that differ by nothing else are one name there.
struct NameFolding {
  bool letter_case = false;    ///< `README` and `readme`.
  bool unicode_form = false;   ///< An accented letter as one character or as two (NFC, NFD).
  bool ignorable = false;      ///< Characters that have no shape, such as U+200C.
  bool trailing_dots = false;  ///< `a.` and `a`.

  bool is_any() const { return letter_case || unicode_form || ignorable || trailing_dots; }
  friend bool operator==(const NameFolding&, const NameFolding&) = default;
};

/// What is the same for all names that are one name where they are folded so; rather too many than too few are. For comparing only. Parts
/// stay parts. A name that is not UTF-8 is folded as far as it is ASCII.
std::string fold_name(std::string_view name, const NameFolding& folding);

/// Whether an entry from outside makes sense by itself: its name is safe, its size below 2^60, a folder has no size
/// and no digests, and an empty file has the empty file's digests. A file of 2^32 chunks or more is too_large.
Result<> check_entry(const FileEntry& entry);

/// The name under which a second, different content of `name` is kept: `a/b.txt` of `mars` becomes
/// `a/b (from mars).txt`. A leading dot is no extension; a part that would pass 255 bytes is shortened
/// at a character boundary, keeping owner and extension. Characters of `owner` that check_name refuses or `/` become '_'.
/// The result always passes check_name when `name` does.
std::string conflict_name(std::string_view name, std::string_view owner);

/// Whether `name` matches a shell pattern: `*` and `?` do not cross '/', `**` does, `**/` is any number of folders,
/// `[a-z]` and `[!a-z]`, and `\` quotes. A pattern without '/' is compared with the last part of the name as well as with
/// all of it; a pattern that ends in '/' means everything below that folder, and below any folder of that name where it
/// has no other '/'. A pattern of more than kMaxPattern bytes matches nothing. Linear in pattern times name.
bool matches(std::string_view pattern, std::string_view name);
inline constexpr std::size_t kMaxPattern = 2 * kMaxName;  ///< Bytes in a pattern: the longest name, each byte of it quoted.

/// Of a longer one nothing is asked: a usage error.
Result<> check_pattern(std::string_view pattern);

/// What a user may ask for: a name, a shell pattern, an MD5, a root, or by nothing, everything. Taken apart once, for many entries.
class EntryPattern {
 public:
  explicit EntryPattern(std::string pattern);
  bool means(const FileEntry& entry) const;

 private:
  std::string pattern_;
  bool is_plain_ = false;  ///< It has no character that stands for others.
  std::optional<Md5Digest> md5_;
  std::optional<Sha256Digest> root_;
};

}  // namespace shoal
