#include <rapidcheck.h>

#include <fmt/core.h>
#include <catch2/catch_test_macros.hpp>
#include <tl/expected.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "registry_client.hpp"

import shoal.base;
import shoal.digest;
import shoal.manifest;
import shoal.tracker;
import shoal.wire;

using namespace shoal;
using namespace std::chrono_literals;
using test::RegistryClient;

namespace {

constexpr std::uint32_t kPeers = 4;

FileEntry file(const std::string& name, int content) {
  FileEntry entry;
  entry.name = name;
  entry.size = kChunkSize;
  entry.md5.bytes.fill(static_cast<std::uint8_t>(content + 1));
  entry.root.bytes.fill(static_cast<std::uint8_t>(content + 1));
  return entry;
}

/// A swarm that random things happen to, next to what should be offered by then.
class Story {
 public:
  Story() {
    for (std::uint32_t i = 0; i < kPeers; ++i) come(i);
  }

  void happen(int what, std::uint32_t i, const std::string& name, int content) {
    now_ += 100ms;
    switch (what) {
      case 0: return come(i);
      case 1: return go(i);
      case 2: return withdraw(i, name);
      case 3: return list_anew(i, name, content);
      default: return offer(i, name, content);
    }
  }

  const Registry& registry() const { return registry_; }

  /// What peer `i` should know of. Nobody is given up: nothing is lost.
  RegistryClient::Files others_of(std::uint32_t i) const {
    RegistryClient::Files files;
    for (const auto& [key, entry] : offered_)
      if (key.first != PeerId(i)) files.emplace(key, entry);
    return files;
  }

 private:
  void come(std::uint32_t i) {
    Hello hello;
    hello.id = fmt::format("peer{}", i);
    hello.instance = i + 1;
    RC_ASSERT(registry_.admit(hello, {}, "192.0.2.1", ++session_, now_)->peer == PeerId(i));
    session_of_[i] = session_;
  }
  void go(std::uint32_t i) { registry_.gone(PeerId(i), session_of_[i], false, now_); }
  void offer(std::uint32_t i, const std::string& name, int content) {
    RC_ASSERT(registry_.offer(PeerId(i), Offer{{file(name, content)}}, now_).has_value());
    offered_[{PeerId(i), name}] = file(name, content);
  }
  void withdraw(std::uint32_t i, const std::string& name) {
    RC_ASSERT(registry_.withdraw(PeerId(i), Withdraw{{name}}, now_).has_value());
    offered_.erase({PeerId(i), name});
  }
  /// The peer returns with just this one file.
  void list_anew(std::uint32_t i, const std::string& name, int content) {
    come(i);
    std::erase_if(offered_, [i](const auto& offer) { return offer.first.first == PeerId(i); });
    offer(i, name, content);
    RC_ASSERT(registry_.offer_end(PeerId(i), now_).has_value());
  }

  Registry registry_{{0, std::chrono::hours(24), 7}};
  Instant now_{1h};
  std::uint64_t session_ = 0;
  std::map<std::uint32_t, std::uint64_t> session_of_;
  RegistryClient::Files offered_;
};

std::string pick_name(int names) { return fmt::format("f{}", *rc::gen::inRange(0, names)); }

std::vector<RegistryClient> make_readers() {
  std::vector<RegistryClient> readers;
  for (std::uint32_t i = 0; i < kPeers; ++i) readers.emplace_back(PeerId(i));
  return readers;
}

/// After `steps` random things, with readers that take what they like in between, all readers know all others' offers.
void check_story(int steps, int names) {
  Story story;
  auto readers = make_readers();
  for (int step = 0; step < steps; ++step) {
    story.happen(*rc::gen::inRange(0, 10), *rc::gen::inRange(0U, kPeers), pick_name(names), *rc::gen::inRange(0, 3));
    if (*rc::gen::inRange(0, 3) == 0)
      readers[*rc::gen::inRange(0U, kPeers)].read(story.registry(), *rc::gen::inRange<std::size_t>(1, 2000));
  }
  for (auto& reader : readers) {
    reader.read_all(story.registry(), *rc::gen::inRange<std::size_t>(1, 5000));
    RC_ASSERT(reader.files == story.others_of(reader.self.value));
    RC_ASSERT(reader.revision == story.registry().revision());
  }
}

}  // namespace

TEST_CASE("A peer that applies all news knows exactly what all others offer, in whatever slices they come") {
  REQUIRE(rc::check("slices", [] { check_story(*rc::gen::inRange(0, 120), 5); }));
}

TEST_CASE("What members know is the same after news were compacted") {
  REQUIRE(rc::check("compaction", [] {
    Story story;
    auto readers = make_readers();
    // More than 1024 news about few names, from a seed: a value of RapidCheck a step would take too long.
    auto random = *rc::gen::arbitrary<std::uint32_t>() | 1U;
    const auto below = [&random](std::uint32_t bound) {
      random = random * 1664525U + 1013904223U;
      return (random >> 16) % bound;
    };
    for (int step = 0; step < 3000; ++step) {
      story.happen(static_cast<int>(below(40)), below(kPeers), fmt::format("f{}", below(8)), static_cast<int>(below(200)));
      if (below(100) == 0) readers[below(kPeers)].read(story.registry(), 1 + below(3000));
    }
    for (auto& reader : readers) {
      reader.read_all(story.registry(), 1 + below(5000));
      RC_ASSERT(reader.files == story.others_of(reader.self.value));
    }
  }));
}

TEST_CASE("A listing in parts is the listing at once, whatever the parts' size") {
  REQUIRE(rc::check("parts", [] {
    Story story;
    const int files = *rc::gen::inRange(0, 40);
    for (int i = 0; i < files; ++i) story.happen(9, *rc::gen::inRange(0U, kPeers), pick_name(30), *rc::gen::inRange(0, 3));
    const auto whole = story.registry().find("*", {}, std::size_t{1} << 30);
    const auto max_bytes = *rc::gen::inRange<std::size_t>(1, 2000);
    std::vector<FoundEntry> parts;
    for (std::optional<Registry::Cursor> from = Registry::Cursor{}; from;) {
      const auto part = story.registry().find("*", *from, max_bytes);
      RC_ASSERT(!part.next || *part.next > *from);
      parts.insert(parts.end(), part.entries.begin(), part.entries.end());
      from = part.next;
    }
    RC_ASSERT(parts == whole.entries);
    RC_ASSERT(!whole.next);
  }));
}

// ---- names --------------------------------------------------------------------------------------------

namespace {

std::string any_path() {
  const auto part = [] {
    return std::string(1, static_cast<char>('a' + *rc::gen::inRange(0, 3))) + (*rc::gen::arbitrary<bool>() ? ".x" : "");
  };
  std::string path = part();
  for (int more = *rc::gen::inRange(0, 3); more > 0; --more) path += "/" + part();
  return path;
}

/// All names that the index shows for a pattern, in pages of a few, and who offers them.
std::map<std::string, std::set<std::uint32_t>> shown(const NameIndex& index, const std::string& pattern, std::size_t page) {
  std::map<std::string, std::set<std::uint32_t>> names;
  std::optional<std::string> from = "";
  while (from) {
    const std::string begin = *from;
    from = index.visit(pattern, begin, page, [&](const std::string& name, std::span<const PeerId> peers) {
      RC_ASSERT(name >= begin);
      for (const PeerId peer : peers) names[name].insert(peer.value);
      return true;
    });
    RC_ASSERT(!from || *from > begin || begin.empty());
  }
  return names;
}

}  // namespace

TEST_CASE("An index shows every name that a pattern means, whatever came and went and however long the pages are") {
  REQUIRE(rc::check("names", [] {
    NameIndex index;
    std::map<std::string, std::set<std::uint32_t>> offered;
    for (int step = *rc::gen::inRange(0, 60); step > 0; --step) {
      const std::string path = any_path();
      const auto peer = *rc::gen::inRange(0U, kPeers);
      if (*rc::gen::inRange(0, 3) == 0) {
        index.remove(path, PeerId(peer));
        offered[path].erase(peer);
      } else {
        index.add(path, PeerId(peer));
        offered[path].insert(peer);
      }
    }
    const std::string pattern =
        *rc::gen::element<std::string>("*", "**", "a", "a.x", "a/b", "a/*", "**/a.x", "b/", "*.x", "a/**/c", "[ab]/*", "");
    const auto found = shown(index, pattern, *rc::gen::inRange<std::size_t>(2, 20));
    for (const auto& [name, peers] : offered) {
      if (peers.empty()) RC_ASSERT(!found.contains(name));
      if (peers.empty() || !(pattern.empty() || matches(pattern, name))) continue;
      RC_ASSERT(found.contains(name));
      RC_ASSERT(found.at(name) == peers);
    }
  }));
}
