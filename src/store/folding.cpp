// Tries which names are one name in a folder: a file is made under a name that nobody else has, and looked for by others.
module;

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <optional>
#include <random>
#include <string>
#include <string_view>

module shoal.store;

import :internal;
import shoal.manifest;

namespace shoal {
namespace {

/// A file that is there for as long as it is looked for. Its name has so many random digits that who finds a file by another has found it.
class Probe {
 public:
  Probe(const Root& root, std::string_view end) : root_(root), begin_(probe_begin()), name_(begin_ + std::string(end)) {
    is_there_ = Fd(::openat(root_.fd.get(), name_.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0600)).get() >= 0;
  }
  ~Probe() {
    if (is_there_) ::unlinkat(root_.fd.get(), name_.c_str(), 0);
  }
  Probe(const Probe&) = delete;
  Probe& operator=(const Probe&) = delete;

  bool is_there() const { return is_there_; }
  bool is_found_by(std::string_view end) const {
    struct stat status{};
    return is_there_ && ::fstatat(root_.fd.get(), (begin_ + std::string(end)).c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0;
  }

 private:
  static std::string probe_begin() {
    std::random_device random;
    return fmt::format("{}{:08x}{:08x}{:08x}{:08x}", kProbePrefix, random(), random(), random(), random());
  }

  const Root& root_;
  std::string begin_;
  std::string name_;
  bool is_there_ = false;
};

}  // namespace

std::optional<NameFolding> try_folding(const Root& root) {
  const Probe plain(root, "a");
  if (!plain.is_there()) return std::nullopt;
  const Probe accented(root, "\u00e9");  // not every file system has a name for it
  NameFolding folding;
  folding.letter_case = plain.is_found_by("A") || accented.is_found_by("\u00c9");
  folding.trailing_dots = plain.is_found_by("a.");
  folding.unicode_form = accented.is_found_by("e\u0301");
  folding.ignorable = plain.is_found_by("a\u200c") || accented.is_found_by("\u00e9\u200c");
  return folding;
}

}  // namespace shoal
