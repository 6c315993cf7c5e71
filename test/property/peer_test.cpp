#include <rapidcheck.h>

#include <fmt/core.h>
#include <catch2/catch_test_macros.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

import shoal.base;
import shoal.digest;
import shoal.manifest;
import shoal.peer;

using namespace shoal;

namespace {

std::string pick_name() {
  static const std::string kLong(250, 'n');
  std::string deep;
  for (int i = 0; i < 15; ++i) deep += kLong + '/';
  return *rc::gen::element<std::string>("a", "a/b", "a/b/c", "b", "a (from p0)", "a (from p1)", "a (from p0)/b", "a (from p0 2)",
                                        "a/b (from p1)", kLong, kLong + "/x", kLong.substr(0, 246) + "x", deep + "x.txt", deep + kLong,
                                        deep + kLong + "/x");
}

FileEntry pick_entry() {
  FileEntry entry;
  entry.name = pick_name();
  if (*rc::gen::inRange(0, 8) == 0) {
    entry.kind = EntryKind::folder;
    return entry;
  }
  const auto content = *rc::gen::inRange<std::uint8_t>(1, 5);
  entry.size = content;
  entry.md5.bytes.fill(content);
  entry.root.bytes.fill(content);
  return entry;
}

using Content = std::pair<EntryKind, Sha256Digest>;
Content content_of(const FileEntry& entry) { return {entry.kind, entry.root}; }

/// What a folder would be like after each place was followed.
struct Folder {
  struct Kept {
    Content content;
    std::string owner;
    std::string offered;
  };
  std::map<std::string, Kept> kept;

  void follow(const Names::Place& place, const std::string& owner, const FileEntry& entry) {
    RC_ASSERT(check_name(place.entry->name).has_value());
    RC_ASSERT(place.is_conflict == (place.entry->name != entry.name));
    const auto old = kept.find(place.entry->name);
    RC_ASSERT(place.is_newer == (old != kept.end()));
    if (old != kept.end()) RC_ASSERT((old->second.owner == owner && old->second.offered == entry.name));
    kept.insert_or_assign(place.entry->name, Kept{content_of(entry), owner, entry.name});
  }
  bool has(const Content& content) const {
    return std::ranges::any_of(kept, [&](const auto& item) { return item.second.content == content; });
  }
  /// No file stands where the name of another needs a folder.
  void check_tree() const {
    for (const auto& [name, item] : kept)
      for (auto slash = name.find('/'); slash != std::string::npos; slash = name.find('/', slash + 1))
        if (const auto parent = kept.find(name.substr(0, slash)); parent != kept.end())
          RC_ASSERT(parent->second.content.first == EntryKind::folder);
  }
};

}  // namespace

TEST_CASE("Whatever is offered, no two contents share a name, no content is left out, and all names are safe") {
  REQUIRE(rc::check("names", [] {
    Names names;
    Folder folder;
    const int offers = *rc::gen::inRange(0, 60);
    for (int i = 0; i < offers; ++i) {
      const auto owner = fmt::format("p{}", *rc::gen::inRange(0, 3));
      const FileEntry entry = pick_entry();
      if (const auto place = names.place(owner, entry))
        folder.follow(*place, owner, entry);
      else if (entry.kind == EntryKind::file &&
               entry.name.find(" (from ") == std::string::npos)  // else it may be what was kept for another
        RC_ASSERT(folder.has(content_of(entry)));
    }
    folder.check_tree();
  }));
}

TEST_CASE("An offer that is made again changes nothing") {
  REQUIRE(rc::check("again", [] {
    Names names;
    std::map<std::pair<std::string, std::string>, FileEntry> last;
    const int offers = *rc::gen::inRange(0, 30);
    for (int i = 0; i < offers; ++i) {
      const auto owner = fmt::format("p{}", *rc::gen::inRange(0, 3));
      const FileEntry entry = pick_entry();
      if (!last.try_emplace({owner, entry.name}, entry).second) continue;  // a newer version is for the other property
      names.place(owner, entry);
    }
    for (const auto& [key, entry] : last) RC_ASSERT(!names.place(key.first, entry).has_value());
  }));
}
