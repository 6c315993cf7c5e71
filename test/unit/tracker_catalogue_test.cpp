#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <tl/expected.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

import shoal.base;
import shoal.digest;
import shoal.manifest;
import shoal.tracker;
import shoal.wire;

using namespace shoal;
using namespace std::chrono_literals;

namespace {

using Names = std::vector<std::string>;

FileEntry file(std::string name, std::uint8_t content = 1) {
  FileEntry entry;
  entry.name = std::move(name);
  entry.size = 1000;
  entry.md5.bytes.fill(content);
  entry.root.bytes.fill(content);
  return entry;
}

/// The registry of a tracker that keeps what changes; an open one where it expects 0.
struct Kept {
  explicit Kept(std::uint32_t expect = 0) : registry({expect, 30s, 42, true}) {}

  Registry registry;
  Instant now = Instant(1h);

  PeerId join(const std::string& id, std::uint64_t session = 1) {
    Hello hello;
    hello.id = id;
    hello.instance = 7;
    const auto admission = registry.admit(hello, Register{"", 7000, Appetite::nothing, 0, 0, 0}, "192.0.2.1", session, now);
    REQUIRE(admission.has_value());
    return admission->peer;
  }
  void offer(PeerId peer, const std::vector<FileEntry>& entries) { REQUIRE(registry.offer(peer, Offer{entries}, now).has_value()); }
  void end(PeerId peer) { REQUIRE(registry.offer_end(peer, now).has_value()); }

  std::vector<PeerId> candidates(std::string_view pattern) const {
    const auto listing = registry.candidates(pattern, {}, 1 << 20);
    return listing.entries.empty() ? std::vector<PeerId>() : listing.entries.front().holders;
  }
  std::size_t found(std::string_view pattern) const { return registry.find(pattern, {}, 1 << 20).entries.size(); }
  void restore(const std::string& id, const std::vector<FileEntry>& offers) { registry.restore({{id, "192.0.2.1", 7000, offers}}, now); }

  /// What was to be kept since the last call, a word each.
  Names kept() {
    Names words;
    for (const StateChange& change : registry.take_changes()) {
      if (const auto* seen = std::get_if<PeerSeen>(&change)) words.push_back("seen " + seen->id);
      if (const auto* gone = std::get_if<PeerForgotten>(&change)) words.push_back("forgotten " + gone->id);
      if (const auto* offered = std::get_if<EntryOffered>(&change)) words.push_back("offered " + offered->entry.name);
      if (const auto* withdrawn = std::get_if<EntryWithdrawn>(&change)) words.push_back("withdrawn " + withdrawn->name);
    }
    return words;
  }
};

Names visited(const NameIndex& index, std::string_view pattern, std::string_view from = {}) {
  Names names;
  index.visit(pattern, from, 1000, [&](const std::string& name, std::span<const PeerId>) {
    names.push_back(name);
    return true;
  });
  return names;
}

NameIndex index_of(const Names& names) {
  NameIndex index;
  for (const auto& name : names) index.add(name, PeerId(1));
  return index;
}

}  // namespace

TEST_CASE("An index finds a name by the whole of it and by its last part") {
  const NameIndex index = index_of({"a/x", "b/x", "x", "xy"});
  CHECK(visited(index, "x") == Names{"a/x", "b/x", "x"});
  CHECK(visited(index, "b/x") == Names{"b/x"});
  CHECK(visited(index, "x", "b") == Names{"b/x", "x"});
}

TEST_CASE("An index looks only where a pattern may be meant") {
  const NameIndex index = index_of({"a/1.iso", "a/2.txt", "b/3.iso", "c.iso"});
  CHECK(visited(index, "a/*") == Names{"a/1.iso", "a/2.txt"});
  CHECK(visited(index, "*.iso") == Names{"a/1.iso", "b/3.iso", "c.iso"});
  CHECK(visited(index, "**/c.iso") == Names{"c.iso"});
  CHECK(visited(index, "").size() == 4);
}

TEST_CASE("An index forgets a name with the last peer that offers it") {
  NameIndex index = index_of({"a/x"});
  index.add("a/x", PeerId(2));
  index.remove("a/x", PeerId(1));
  CHECK(visited(index, "x") == Names{"a/x"});
  index.remove("a/x", PeerId(2));
  CHECK(visited(index, "x").empty());
}

TEST_CASE("An index stops after so many names, and says where") {
  const NameIndex index = index_of({"a", "b", "c"});
  CHECK(index.visit("*", "", 2, [](const std::string&, std::span<const PeerId>) { return true; }) == "b");
  CHECK(index.visit("*", "b", 5, [](const std::string&, std::span<const PeerId>) { return true; }) == std::nullopt);
}

TEST_CASE("What members say is kept, step by step") {
  Kept kept;
  const PeerId a = kept.join("a");
  kept.offer(a, {file("x"), file("y")});
  REQUIRE(kept.registry.withdraw(a, Withdraw{{"x"}}, kept.now).has_value());
  CHECK(kept.kept() == Names{"seen a", "offered x", "offered y", "withdrawn x"});
}

TEST_CASE("A member that leaves for good is forgotten, and kept again when it is back") {
  Kept kept;
  const PeerId a = kept.join("a");
  kept.offer(a, {file("x")});
  kept.end(a);
  kept.kept();
  kept.registry.gone(a, 1, true, kept.now);
  CHECK(kept.kept() == Names{"forgotten a"});
  kept.offer(kept.join("a", 2), {file("x")});
  CHECK(kept.kept() == Names{"seen a", "offered x"});
}

TEST_CASE("Nobody is named for what an earlier run knew before it is back") {
  Kept kept;
  kept.restore("a", {file("x")});
  CHECK(kept.candidates("x").empty());
  CHECK(kept.found("x") == 0);
  const PeerId a = kept.join("a");
  CHECK(kept.candidates("x") == std::vector{a});
  CHECK(kept.found("x") == 0);
}

TEST_CASE("What was remembered and is offered again needs not be kept again") {
  Kept kept;
  kept.restore("a", {file("x"), file("y"), file("z")});
  const PeerId a = kept.join("a");
  kept.offer(a, {file("x"), file("y", 2)});
  kept.end(a);
  CHECK(kept.kept() == Names{"seen a", "offered y", "withdrawn z"});
  CHECK(kept.found("x") == 1);
  CHECK(kept.candidates("z").empty());
}

TEST_CASE("Whoever does not come back within the grace is forgotten") {
  Kept kept;
  kept.restore("a", {file("x")});
  kept.now += 31s;
  kept.registry.expire(kept.now);
  CHECK(kept.kept() == Names{"forgotten a"});
  kept.join("a");
  CHECK(kept.candidates("x").empty());
}

TEST_CASE("Who is down is no candidate until it is heard of") {
  Kept kept;
  const PeerId a = kept.join("a");
  kept.offer(a, {file("x")});
  kept.registry.set_down(a, true);
  CHECK(kept.candidates("x").empty());
  kept.registry.set_down(a, false);
  CHECK(kept.candidates("x") == std::vector{a});
}

TEST_CASE("Who is gone without a goodbye is asked once more; who said it is not") {
  Kept kept;
  const PeerId a = kept.join("a");
  kept.offer(a, {file("x")});
  const bool says_goodbye = GENERATE(false, true);
  kept.registry.gone(a, 1, says_goodbye, kept.now);
  CHECK(kept.candidates("x") == (says_goodbye ? std::vector<PeerId>{} : std::vector{a}));
  kept.registry.set_down(a, true);
  CHECK(kept.candidates("x").empty());
}

TEST_CASE("Who is gone for longer than the grace is asked no more") {
  Kept kept;
  const PeerId a = kept.join("a");
  kept.offer(a, {file("x")});
  kept.registry.gone(a, 1, false, kept.now);
  kept.now += 31s;
  kept.registry.expire(kept.now);
  CHECK(kept.candidates("x").empty());
}

TEST_CASE("A closed swarm does not wait for peers of an earlier run") {
  Kept kept(1);
  kept.restore("old", {file("x")});
  Hello hello;
  hello.id = "new";
  hello.instance = 1;
  const auto admission = kept.registry.admit(hello, Register{"", 7000, Appetite::everything, 1, 0, 0}, "192.0.2.1", 1, kept.now);
  REQUIRE(admission.has_value());
  kept.end(admission->peer);
  Complete complete;
  complete.revision = kept.registry.revision();
  REQUIRE(kept.registry.complete(admission->peer, complete, kept.now).has_value());
  REQUIRE(kept.registry.outcome().has_value());
  CHECK(kept.registry.outcome()->failed.empty());
}
