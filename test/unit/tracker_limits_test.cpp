#include <fmt/core.h>
#include <catch2/catch_test_macros.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>
#include <utility>
#include <variant>
#include <vector>

import shoal.base;
import shoal.digest;
import shoal.manifest;
import shoal.tracker;
import shoal.wire;

using namespace shoal;

namespace {

constexpr std::size_t kPlenty = 1 << 20;
const Instant kNow{std::chrono::hours(1)};

FileEntry some_file(const std::string& name) {
  FileEntry entry;
  entry.name = name;
  entry.size = 5;
  entry.md5.bytes.fill(1);
  entry.root.bytes.fill(2);
  return entry;
}

Hello hello_of(const std::string& id, std::uint64_t instance = 1) {
  Hello hello;
  hello.id = id;
  hello.instance = instance;
  return hello;
}

PeerId join(Registry& registry, const std::string& id) { return registry.admit(hello_of(id), {}, "192.0.2.1", 1, kNow)->peer; }

/// Has all of `entry`, and offers nothing.
void hold(Registry& registry, PeerId peer, const FileEntry& entry) {
  Progress progress;
  progress.counts.push_back({entry.root, 1});
  REQUIRE(registry.progress(peer, progress));
}

std::vector<RosterEntry> roster_of(std::size_t peers) {
  std::vector<RosterEntry> roster;
  for (std::size_t i = 0; i < peers; ++i)
    roster.push_back({PeerId(static_cast<std::uint32_t>(i)), fmt::format("{:064}", i), std::string(kMaxHost, 'h'), 1, true, false});
  return roster;
}

RefusalReason reason_for(Registry& registry, const Hello& hello, const Register& request) {
  const auto admission = registry.admit(hello, request, "192.0.2.1", 2, kNow);
  return admission ? RefusalReason::other : admission.error().reason;
}

}  // namespace

// ---- what fits a frame --------------------------------------------------------------------------------

TEST_CASE("A roster of many peers travels in messages that fit a frame") {
  for (const Message& message : split_roster(roster_of(2000))) CHECK(encoded_size(message) <= kControlLimit);
}

TEST_CASE("A roster that is split is whole and in order") {
  std::vector<RosterEntry> together;
  for (const Message& message : split_roster(roster_of(2000)))
    std::ranges::copy(std::get<Roster>(message).peers, std::back_inserter(together));
  CHECK(together == roster_of(2000));
}

TEST_CASE("A roster that fits is one message, and an empty one is none") {
  CHECK(split_roster(roster_of(3)).size() == 1);
  CHECK(split_roster({}).empty());
}

TEST_CASE("An answer about a file that everyone has fits a frame") {
  Registry registry({});
  for (int i = 0; i < 20'000; ++i) hold(registry, join(registry, fmt::format("{}", i)), some_file("x"));
  REQUIRE(registry.offer(PeerId(0), {{some_file("x")}}, kNow));
  auto listing = registry.find("x", {}, kPlenty);
  CHECK(encoded_size(Message(Found{1, true, std::move(listing.entries)})) <= kControlLimit);
}

TEST_CASE("Of many holders the owners are named first, and no more than the most") {
  Registry registry({});
  for (int i = 0; i < 100; ++i) hold(registry, join(registry, fmt::format("holder-{}", i)), some_file("x"));
  const PeerId owner = join(registry, "owner");
  REQUIRE(registry.offer(owner, {{some_file("x")}}, kNow));
  const auto holders = registry.find("x", {}, kPlenty).entries.front().holders;
  CHECK((holders.size() == kMaxHolders && holders.front() == owner));
}

TEST_CASE("Of many owners no more than the most are named") {
  Registry registry({});
  for (int i = 0; i < 100; ++i) REQUIRE(registry.offer(join(registry, fmt::format("{}", i)), {{some_file("x")}}, kNow));
  CHECK(registry.find("x", {}, kPlenty).entries.front().holders.size() == kMaxHolders);
}

// ---- why a peer is refused ----------------------------------------------------------------------------

TEST_CASE("A namesake is refused because its name is in use") {
  Registry registry({});
  join(registry, "a");
  CHECK(reason_for(registry, hello_of("a", 2), {}) == RefusalReason::id_in_use);
}

TEST_CASE("A registration that disagrees about the size is refused as bad") {
  Registry registry({.expect = 3});
  Register request;
  request.expect = 2;
  CHECK(reason_for(registry, hello_of("a"), request) == RefusalReason::bad_register);
}

TEST_CASE("An address that no roster could carry is refused as bad") {
  Registry registry({});
  Register request;
  request.host.assign(kMaxHost + 1, 'h');
  CHECK(reason_for(registry, hello_of("a"), request) == RefusalReason::bad_register);
}

TEST_CASE("Whoever comes after the end is refused because the swarm is over") {
  Registry registry({.expect = 1});
  REQUIRE(registry.offer_end(join(registry, "a"), kNow));
  REQUIRE(registry.outcome());
  CHECK(reason_for(registry, hello_of("b"), {}) == RefusalReason::swarm_over);
}
