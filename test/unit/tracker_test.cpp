#include <fmt/core.h>
#include <catch2/catch_test_macros.hpp>
#include <tl/expected.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
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

constexpr std::size_t kPlenty = 1 << 20;

Instant at(Nanoseconds since_start) { return Instant(1h + since_start); }

/// A file of one chunk, or as many as `chunks`, whose content `content` stands for.
FileEntry file(std::string name, std::uint8_t content, std::uint64_t chunks = 1) {
  FileEntry entry;
  entry.name = std::move(name);
  entry.size = chunks * kChunkSize;
  entry.md5.bytes.fill(content);
  entry.root.bytes.fill(content);
  return entry;
}

FileEntry empty_file(std::string name) {
  FileEntry entry;
  entry.name = std::move(name);
  entry.md5 = md5({});
  return entry;
}

struct Joining {
  std::string id;
  std::uint32_t expect = 0;
  Appetite appetite = Appetite::everything;
  std::uint64_t instance = 1;
  std::uint64_t session = 1;
  std::uint64_t last_epoch = 0;
  Nanoseconds last_clock{0};
  std::string host{};
};

/// A registry at instants that the test names, with the usual steps in one call each.
struct Swarm {
  explicit Swarm(std::uint32_t expect = 0, Nanoseconds grace = 30s) : registry({expect, grace, 42}) {}

  Result<Registry::Admission> admit(const Joining& joining) {
    auto admission = try_admit(joining);
    if (!admission) return Failure(std::move(admission).error());
    return *admission;
  }
  tl::expected<Registry::Admission, Registry::Denial> try_admit(const Joining& joining) {
    Hello hello;
    hello.id = joining.id;
    hello.instance = joining.instance;
    const Register request{joining.host, 7000, joining.appetite, joining.expect, joining.last_epoch, joining.last_clock.count()};
    return registry.admit(hello, request, "192.0.2.1", joining.session, now);
  }
  PeerId join(const Joining& joining) {
    const auto admission = admit(joining);
    REQUIRE(admission.has_value());
    return admission->peer;
  }
  /// A member that offers `entries`, and no others.
  PeerId join_with(const Joining& joining, const std::vector<FileEntry>& entries) {
    const PeerId peer = join(joining);
    REQUIRE(registry.offer(peer, Offer{entries}, now).has_value());
    REQUIRE(registry.offer_end(peer, now).has_value());
    return peer;
  }
  void offer(PeerId peer, const FileEntry& entry) { REQUIRE(registry.offer(peer, Offer{{entry}}, now).has_value()); }
  void has(PeerId peer, const FileEntry& entry, std::uint32_t chunks = 1) {
    Progress progress;
    progress.counts.push_back({entry.root, chunks});
    REQUIRE(registry.progress(peer, progress).has_value());
  }
  void complete(PeerId peer, std::uint32_t failed = 0) {
    Complete message;
    message.revision = registry.revision();
    message.failed = failed;
    message.bytes_fetched = 100;
    REQUIRE(registry.complete(peer, message, now).has_value());
  }
  void lose(PeerId peer, std::uint64_t session = 1) { registry.gone(peer, session, false, now); }
  void leave(PeerId peer, std::uint64_t session = 1) { registry.gone(peer, session, true, now); }

  RegistryClient client(PeerId peer) const {
    RegistryClient reader(peer);
    reader.read_all(registry, kPlenty);
    return reader;
  }
  std::vector<std::string> names_for(PeerId peer) const {
    std::vector<std::string> names;
    for (const auto& [key, entry] : client(peer).files) names.push_back(key.second);
    return names;
  }
  std::vector<PeerId> holders(std::string_view pattern) const {
    const auto listing = registry.find(pattern, {}, kPlenty);
    REQUIRE(listing.entries.size() == 1);
    return listing.entries.front().holders;
  }

  Registry registry;
  Instant now = at(0s);
};

template <class T>
bool has_failed_with(const Result<T>& result, Errc code) {
  return !result && result.error().code == make_error_code(code);
}

using Names = std::vector<std::string>;
using Peers = std::vector<PeerId>;

}  // namespace

// ---- members ------------------------------------------------------------------------------------------

TEST_CASE("Peers are numbered in the order in which they register") {
  Swarm swarm;
  CHECK(swarm.join({"a"}) == PeerId(0));
  CHECK(swarm.join({"b"}) == PeerId(1));
}

TEST_CASE("A member's place in the roster is what it said, or else where it was seen") {
  Swarm swarm;
  const PeerId a = swarm.join({"a"});
  const PeerId b = swarm.join({.id = "b", .host = "b.example"});
  CHECK(swarm.client(a).roster.at(a) == RosterEntry{a, "a", "192.0.2.1", 7000, true, false});
  CHECK(swarm.client(a).roster.at(b).host == "b.example");
}

TEST_CASE("A second peer of the same name is refused while the first is here") {
  Swarm swarm;
  swarm.join({"a"});
  CHECK(has_failed_with(swarm.admit({.id = "a", .instance = 2}), Errc::refused));
}

TEST_CASE("A peer of the same name is welcome once the first is gone, as the same member") {
  Swarm swarm;
  const PeerId first = swarm.join({"a"});
  swarm.lose(first);
  const auto again = swarm.admit({.id = "a", .instance = 2, .session = 2});
  CHECK(again->peer == first);
  CHECK(again->has_returned);
  CHECK_FALSE(again->replaced_session);
}

TEST_CASE("A new connection of the same process replaces the older one") {
  Swarm swarm;
  swarm.join({.id = "a", .session = 5});
  CHECK(swarm.admit({.id = "a", .session = 6})->replaced_session == 5);
}

TEST_CASE("The end of a connection that was replaced changes nothing") {
  Swarm swarm;
  const PeerId a = swarm.join({.id = "a", .session = 5});
  swarm.join({.id = "a", .session = 6});
  swarm.lose(a, 5);
  CHECK(swarm.client(a).roster.at(a).is_here);
}

TEST_CASE("Who is gone is told as gone") {
  Swarm swarm;
  const PeerId a = swarm.join({"a"});
  const PeerId b = swarm.join({"b"});
  swarm.lose(b);
  CHECK_FALSE(swarm.client(a).roster.at(b).is_here);
}

TEST_CASE("A member of a large swarm is told of few others, and the catalogue says whose files there are") {
  Swarm swarm;
  swarm.join_with({"owner"}, {file("a", 1)});
  PeerId last;
  for (int i = 0; i < 199; ++i) last = swarm.join({.id = fmt::format("p{}", i)});
  const RegistryClient reader = swarm.client(last);
  CHECK(reader.roster.size() < 30);
  CHECK(reader.files.size() == 1);
  CHECK(reader.owners == std::map<PeerId, std::string>{{PeerId(0), "owner"}});
}

TEST_CASE("News of a member goes to itself and to those that were introduced to it") {
  Swarm swarm;
  std::vector<PeerId> members;
  for (std::uint64_t i = 0; i < 200; ++i) members.push_back(swarm.join({.id = fmt::format("p{}", i), .session = i + 1}));
  static_cast<void>(swarm.registry.take_concerned());
  swarm.complete(members[50]);
  const auto concerned = swarm.registry.take_concerned();
  CHECK_FALSE(concerned.all);
  std::set<std::uint64_t> expected{51};
  for (const auto& [peer, entry] : swarm.client(members[50]).roster) expected.insert(peer.value + 1);
  CHECK(std::set(concerned.sessions.begin(), concerned.sessions.end()) == expected);
}

TEST_CASE("There is no news for whoever is not a member") {
  Swarm swarm;
  swarm.join_with({"a"}, {file("a", 1)});
  CHECK_FALSE(swarm.registry.news_for(PeerId(7), 0, kPlenty).has_value());
}

TEST_CASE("News of files concerns everyone") {
  Swarm swarm;
  const PeerId a = swarm.join({"a"});
  static_cast<void>(swarm.registry.take_concerned());
  swarm.offer(a, file("a", 1));
  CHECK(swarm.registry.take_concerned().all);
}

TEST_CASE("A member that asks is introduced to as many as it wants, and learns of those that it knew as well") {
  Swarm swarm;
  PeerId last;
  for (int i = 0; i < 100; ++i) last = swarm.join({.id = fmt::format("p{}", i)});
  const auto known = swarm.registry.introduce(last, 60);
  REQUIRE(known.has_value());
  CHECK(known->size() >= 60);
  CHECK(swarm.client(last).roster.size() == known->size() + 1);  // and itself
}

TEST_CASE("Whoever came last and knows few is introduced to others, and hears of it") {
  Swarm swarm;
  PeerId last;
  for (std::uint64_t i = 0; i < 100; ++i) last = swarm.join({.id = fmt::format("p{}", i), .session = i + 1});
  const std::size_t before = swarm.client(last).roster.size();
  static_cast<void>(swarm.registry.take_concerned());
  swarm.registry.even_out();
  CHECK(swarm.client(last).roster.size() > before);
  CHECK(std::ranges::count(swarm.registry.take_concerned().sessions, 100U) > 0);
}

TEST_CASE("A name that would leave the folder, or is longer than 64 bytes, cannot name a peer") {
  CHECK(check_peer_id("rack7-node_3.example"));
  CHECK(check_peer_id(std::string(kMaxPeerId, 'x')));
  CHECK_FALSE(check_peer_id(std::string(kMaxPeerId + 1, 'x')));
  for (const char* bad : {"", ".", "..", "a/b", "a\nb"}) CHECK_FALSE(check_peer_id(bad));
}

TEST_CASE("A place so long that no roster could carry it is refused") {
  Swarm swarm;
  CHECK(has_failed_with(swarm.admit({.id = "a", .host = std::string(300, 'h')}), Errc::refused));
}

TEST_CASE("A step of nobody is out of order") {
  Swarm swarm;
  const PeerId nobody(7);
  CHECK(has_failed_with(swarm.registry.offer(nobody, {}, swarm.now), Errc::out_of_order));
  CHECK(has_failed_with(swarm.registry.withdraw(nobody, {}, swarm.now), Errc::out_of_order));
  CHECK(has_failed_with(swarm.registry.offer_end(nobody, swarm.now), Errc::out_of_order));
  CHECK(has_failed_with(swarm.registry.progress(nobody, {}), Errc::out_of_order));
  CHECK(has_failed_with(swarm.registry.complete(nobody, {}, swarm.now), Errc::out_of_order));
}

// ---- the clock ----------------------------------------------------------------------------------------

TEST_CASE("The swarm clock stands at 0 until the first registration, and runs from there") {
  Swarm swarm;
  CHECK(swarm.registry.clock(at(5s)) == 0s);
  swarm.now = at(10s);
  swarm.join({"a"});
  CHECK(swarm.registry.clock(at(10s)) == 0s);
  CHECK(swarm.registry.clock(at(13s)) == 3s);
}

TEST_CASE("A restarted tracker's clock goes on from what the first peer remembers") {
  Swarm swarm;
  swarm.join({.id = "a", .last_epoch = 41, .last_clock = 90s});
  swarm.join({.id = "b", .last_epoch = 41, .last_clock = 200s});
  CHECK(swarm.registry.clock(at(2s)) == 92s);
}

TEST_CASE("A clock that no swarm could have reached is not believed") {
  Swarm swarm;
  swarm.join({.id = "a", .last_epoch = 41, .last_clock = Nanoseconds::max()});
  CHECK(swarm.registry.clock(at(0s)) <= std::chrono::hours(24 * 366));
  Swarm other;
  other.join({.id = "a", .last_epoch = 41, .last_clock = Nanoseconds::min()});
  CHECK(other.registry.clock(at(0s)) == 0s);
}

TEST_CASE("A time that is remembered without an epoch is no time of this swarm") {
  Swarm swarm;
  swarm.join({.id = "a", .last_clock = 90s});
  CHECK(swarm.registry.clock(at(0s)) == 0s);
}

// ---- a closed swarm -----------------------------------------------------------------------------------

constexpr std::uint32_t kMost = ~std::uint32_t{0};

/// Why the peer is not let in; it has to be for what it said of the size.
std::string size_objection(Swarm& swarm, const Joining& joining) {
  const auto denied = swarm.try_admit(joining);
  REQUIRE_FALSE(denied);
  CHECK(denied.error().reason == RefusalReason::bad_register);
  return denied.error().what + "; " + denied.error().advice;
}

TEST_CASE("An open swarm stays open whatever size a peer names, first or later, new or known") {
  for (const std::uint32_t size : {1U, 2U, 3U, kMost}) {
    Swarm swarm;
    const auto objection = size_objection(swarm, {.id = "first", .expect = size});
    CHECK(objection.find(std::to_string(size)) != std::string::npos);
    CHECK(swarm.registry.summary().members == 0);
    const PeerId a = swarm.join_with({"a"}, {file("x", 1)});
    size_objection(swarm, {.id = "later", .expect = size});
    size_objection(swarm, {.id = "a", .expect = size, .session = 2});  // the one that is here, once more
    swarm.lose(a);
    size_objection(swarm, {.id = "a", .expect = size, .instance = 2, .session = 3});
    CHECK(swarm.registry.expect() == 0);
    const PeerId b = swarm.join_with({"b"}, {});
    swarm.complete(b);
    CHECK(swarm.names_for(b) == std::vector<std::string>{"x"});
    CHECK_FALSE(swarm.registry.outcome());
  }
}

TEST_CASE("A closed swarm keeps its size: a peer that names none or the same joins it, one that names another does not") {
  for (const std::uint32_t size : {1U, 2U, 4U, kMost}) {
    Swarm swarm(3);
    const auto objection = size_objection(swarm, {.id = "z", .expect = size});
    CHECK(objection.find("of 3 peers, not " + std::to_string(size)) != std::string::npos);
    const PeerId a = swarm.join_with({.id = "a", .expect = 3}, {file("x", 1)});
    const PeerId b = swarm.join_with({.id = "b", .expect = 0}, {});
    size_objection(swarm, {.id = "b", .expect = size, .session = 2});
    CHECK_FALSE(swarm.registry.has_begun());
    const PeerId c = swarm.join_with({.id = "c", .expect = 3}, {});
    CHECK(swarm.registry.has_begun());
    for (const PeerId each : {a, b}) swarm.complete(each);
    size_objection(swarm, {.id = "d", .expect = size});
    CHECK_FALSE(swarm.registry.outcome());
    swarm.complete(c);
    CHECK(swarm.registry.outcome());
  }
}

TEST_CASE("A connection that is turned away leaves the one that is there alone") {
  Swarm swarm(2);
  const PeerId a = swarm.join_with({"a"}, {file("x", 1)});
  size_objection(swarm, {.id = "a", .expect = 5, .session = 2});
  swarm.lose(a, 2);
  CHECK(swarm.registry.here() == 1);
}

TEST_CASE("A closed swarm tells of files when all are here, and of peers when all have offered, too") {
  Swarm swarm(2);
  const PeerId a = swarm.join_with({"a"}, {file("x", 1)});
  CHECK_FALSE(swarm.registry.news_for(a, 0, kPlenty));
  const PeerId b = swarm.join({"b"});
  RegistryClient early(b);
  early.read_all(swarm.registry, kPlenty);
  CHECK((early.files.contains({a, "x"}) && early.roster.empty()));
  CHECK_FALSE(swarm.registry.has_begun());
  REQUIRE(swarm.registry.offer_end(b, swarm.now));
  CHECK(swarm.registry.has_begun());
  early.read_all(swarm.registry, kPlenty);
  CHECK((early.files.size() == 1 && early.roster.contains(a) && early.roster.contains(b)));
}

TEST_CASE("A peer that left before all were here does not count") {
  Swarm swarm(2);
  const PeerId a = swarm.join_with({"a"}, {});
  swarm.lose(a);
  swarm.join_with({"b"}, {});
  CHECK_FALSE(swarm.registry.has_begun());
}

TEST_CASE("A closed swarm is over when the last is complete, and its time is that moment") {
  Swarm swarm(2);
  const PeerId a = swarm.join_with({"a"}, {file("x", 1)});
  swarm.now = at(1s);
  const PeerId b = swarm.join_with({"b"}, {});
  swarm.now = at(3s);
  swarm.complete(a);
  CHECK_FALSE(swarm.registry.outcome());
  swarm.now = at(8s);
  swarm.complete(b);
  REQUIRE(swarm.registry.outcome());
  CHECK(Nanoseconds(swarm.registry.outcome()->total_ns) == 8s);
  CHECK(swarm.registry.outcome()->bytes == 200);
  CHECK(swarm.registry.outcome()->failed.empty());
}

TEST_CASE("Being complete at an older revision does not end a swarm that has got new files") {
  Swarm swarm(2);
  const PeerId a = swarm.join_with({"a"}, {file("x", 1)});
  const PeerId b = swarm.join_with({"b"}, {});
  swarm.complete(b);
  swarm.offer(a, file("y", 2));
  swarm.complete(a);
  CHECK_FALSE(swarm.registry.outcome());
  swarm.complete(b);
  CHECK(swarm.registry.outcome());
}

TEST_CASE("Being complete at a revision that is not there yet is malformed") {
  Swarm swarm;
  const PeerId a = swarm.join({"a"});
  Complete message;
  message.revision = swarm.registry.revision() + 1;
  CHECK(has_failed_with(swarm.registry.complete(a, message, swarm.now), Errc::malformed));
}

TEST_CASE("A peer that wants nothing is done when it has offered") {
  Swarm swarm(2);
  swarm.join_with({.id = "a", .appetite = Appetite::nothing}, {file("x", 1)});
  const PeerId b = swarm.join_with({"b"}, {});
  swarm.complete(b);
  CHECK(swarm.registry.outcome());
}

TEST_CASE("A peer that completes without some files is named as failed") {
  Swarm swarm(2);
  const PeerId a = swarm.join_with({"a"}, {});
  const PeerId b = swarm.join_with({"b"}, {});
  swarm.complete(a);
  swarm.complete(b, 1);
  REQUIRE(swarm.registry.outcome());
  CHECK(swarm.registry.outcome()->failed == Names{"b"});
}

TEST_CASE("A member that is gone for longer than the grace is given up and named as failed") {
  Swarm swarm(2, 10s);
  const PeerId a = swarm.join_with({"a"}, {});
  const PeerId b = swarm.join_with({"b"}, {});
  swarm.complete(a);
  swarm.lose(b);
  swarm.registry.expire(at(9s));
  CHECK_FALSE(swarm.registry.outcome());
  swarm.registry.expire(at(10s));
  REQUIRE(swarm.registry.outcome());
  CHECK(swarm.registry.outcome()->failed == Names{"b"});
}

TEST_CASE("A member that is back within the grace is waited for again") {
  Swarm swarm(2, 10s);
  const PeerId a = swarm.join_with({"a"}, {});
  const PeerId b = swarm.join_with({"b"}, {});
  swarm.complete(a);
  swarm.lose(b);
  swarm.now = at(9s);
  swarm.join_with({.id = "b", .session = 2}, {});
  swarm.registry.expire(at(60s));
  CHECK_FALSE(swarm.registry.outcome());
  swarm.complete(b);
  CHECK(swarm.registry.outcome()->failed.empty());
}

TEST_CASE("A member that was done and left is no failure") {
  Swarm swarm(2, 10s);
  const PeerId a = swarm.join_with({"a"}, {});
  const PeerId b = swarm.join_with({"b"}, {file("x", 1)});
  swarm.complete(b);
  swarm.has(a, file("x", 1));
  swarm.leave(b);
  CHECK_FALSE(swarm.registry.outcome());
  swarm.complete(a);
  REQUIRE(swarm.registry.outcome());
  CHECK(swarm.registry.outcome()->failed.empty());
}

TEST_CASE("A member that says goodbye before it was done is waited for, and then named as failed") {
  Swarm swarm(2, 10s);
  const PeerId a = swarm.join_with({"a"}, {});
  const PeerId b = swarm.join_with({"b"}, {});
  swarm.leave(b);
  swarm.complete(a);
  CHECK_FALSE(swarm.registry.outcome());
  swarm.registry.expire(at(10s));
  CHECK(swarm.registry.outcome()->failed == Names{"b"});
}

TEST_CASE("Nobody joins a swarm that is over") {
  Swarm swarm(1);
  swarm.complete(swarm.join_with({"a"}, {}));
  REQUIRE(swarm.registry.outcome());
  CHECK(has_failed_with(swarm.admit({"b"}), Errc::refused));
}

TEST_CASE("An open swarm is never over") {
  Swarm swarm;
  swarm.complete(swarm.join_with({"a"}, {}));
  swarm.registry.expire(at(1h));
  CHECK_FALSE(swarm.registry.outcome());
}

// ---- the catalogue ------------------------------------------------------------------------------------

TEST_CASE("A member learns what others offer, not what it offers itself") {
  Swarm swarm;
  const PeerId a = swarm.join_with({"a"}, {file("x", 1)});
  swarm.join_with({"b"}, {file("y", 2)});
  CHECK(swarm.names_for(a) == Names{"y"});
}

TEST_CASE("An offer under a name that was offered before replaces it") {
  Swarm swarm;
  const PeerId a = swarm.join_with({"a"}, {file("x", 1)});
  const PeerId b = swarm.join({"b"});
  RegistryClient reader = swarm.client(b);
  swarm.offer(a, file("x", 2));
  reader.read_all(swarm.registry, kPlenty);
  CHECK(reader.files == RegistryClient::Files{{{a, "x"}, file("x", 2)}});
}

TEST_CASE("An offer that says nothing new is no news") {
  Swarm swarm;
  const PeerId a = swarm.join_with({"a"}, {file("x", 1)});
  const std::uint64_t before = swarm.registry.revision();
  swarm.offer(a, file("x", 1));
  CHECK(swarm.registry.revision() == before);
}

TEST_CASE("An entry that makes no sense is refused with its reason") {
  Swarm swarm;
  const PeerId a = swarm.join({"a"});
  CHECK(has_failed_with(swarm.registry.offer(a, Offer{{file("../x", 1)}}, swarm.now), Errc::unsafe_name));
}

TEST_CASE("A withdrawn file is told as retracted, and not as lost") {
  Swarm swarm;
  const PeerId a = swarm.join_with({"a"}, {file("x", 1), file("y", 2)});
  const PeerId b = swarm.join({"b"});
  RegistryClient reader = swarm.client(b);
  REQUIRE(swarm.registry.withdraw(a, Withdraw{{"x"}}, swarm.now));
  const auto news = swarm.registry.news_for(b, reader.revision, kPlenty);
  REQUIRE(news->messages.size() == 1);
  const auto& retracted = std::get<Retracted>(news->messages.front());
  CHECK(retracted.owner == a);
  CHECK_FALSE(retracted.lost);
  CHECK(retracted.names == Names{"x"});
}

TEST_CASE("A file that is withdrawn and offered again is there, for whoever saw the first offer and whoever did not") {
  Swarm swarm;
  const PeerId a = swarm.join_with({"a"}, {file("x", 1)});
  const PeerId b = swarm.join({"b"});
  RegistryClient early = swarm.client(b);
  REQUIRE(swarm.registry.withdraw(a, Withdraw{{"x"}}, swarm.now));
  swarm.offer(a, file("x", 2));
  early.read_all(swarm.registry, kPlenty);
  CHECK(early.files == RegistryClient::Files{{{a, "x"}, file("x", 2)}});
  CHECK(swarm.client(b).files == early.files);
}

TEST_CASE("A member that returns with fewer files has the rest retracted") {
  Swarm swarm;
  const PeerId a = swarm.join_with({"a"}, {file("x", 1), file("y", 2)});
  const PeerId b = swarm.join({"b"});
  swarm.lose(a);
  swarm.join_with({.id = "a", .session = 2}, {file("y", 2)});
  CHECK(swarm.names_for(b) == Names{"y"});
}

TEST_CASE("Until a member that returned has listed everything, nothing is retracted") {
  Swarm swarm;
  const PeerId a = swarm.join_with({"a"}, {file("x", 1), file("y", 2)});
  const PeerId b = swarm.join({"b"});
  swarm.lose(a);
  swarm.join({.id = "a", .session = 2});
  swarm.offer(a, file("y", 2));
  CHECK(swarm.names_for(b) == Names{"x", "y"});
}

TEST_CASE("What only a member that is given up had is lost") {
  Swarm swarm;
  const PeerId a = swarm.join_with({"a"}, {file("x", 1), file("y", 2)});
  const PeerId b = swarm.join({"b"});
  swarm.has(b, file("y", 2));
  swarm.lose(a);
  CHECK(swarm.names_for(b) == Names{"x", "y"});
  swarm.registry.expire(at(30s));
  CHECK(swarm.names_for(b) == Names{"y"});
}

TEST_CASE("A part of a file does not keep it from being lost") {
  Swarm swarm;
  const PeerId a = swarm.join_with({"a"}, {file("x", 1, 4)});
  const PeerId b = swarm.join({"b"});
  swarm.has(b, file("x", 1, 4), 3);
  swarm.leave(a);
  CHECK(swarm.names_for(b).empty());
}

TEST_CASE("An empty file has nothing that could be lost") {
  Swarm swarm;
  const PeerId a = swarm.join_with({"a"}, {empty_file("x")});
  const PeerId b = swarm.join({"b"});
  swarm.leave(a);
  CHECK(swarm.names_for(b) == Names{"x"});
}

TEST_CASE("A file is lost when the last one that had all of it is given up, whoever offered it") {
  Swarm swarm;
  const PeerId owner = swarm.join_with({"owner"}, {file("x", 1)});
  const PeerId holder = swarm.join({"holder"});
  const PeerId other = swarm.join({"other"});
  swarm.has(holder, file("x", 1));
  swarm.leave(owner);
  REQUIRE(swarm.names_for(other) == Names{"x"});
  swarm.leave(holder);
  CHECK(swarm.names_for(other).empty());
}

TEST_CASE("A file that is gone from one name is still had under another") {
  Swarm swarm;
  const PeerId a = swarm.join_with({"a"}, {file("old", 1)});
  swarm.offer(a, file("new", 1));
  REQUIRE(swarm.registry.withdraw(a, Withdraw{{"old"}}, swarm.now));
  CHECK(swarm.holders("new") == Peers{a});
}

TEST_CASE("A file that changed under one name is still had under another") {
  Swarm swarm;
  const PeerId a = swarm.join_with({"a"}, {file("one", 1), file("two", 1)});
  swarm.offer(a, file("one", 2));
  CHECK(swarm.holders("two") == Peers{a});
}

TEST_CASE("A file that changed is no longer had with its old content") {
  Swarm swarm;
  const PeerId a = swarm.join_with({"a"}, {file("x", 1)});
  const PeerId b = swarm.join_with({"b"}, {file("y", 1)});
  swarm.offer(a, file("x", 2));
  CHECK(swarm.holders("y") == Peers{b});
}

// ---- finding ------------------------------------------------------------------------------------------

TEST_CASE("A file is found by name, pattern, MD5 and root") {
  Swarm swarm;
  swarm.join_with({"a"}, {file("docs/x.txt", 1), file("y.bin", 2)});
  const FileEntry wanted = file("docs/x.txt", 1);
  for (const std::string& pattern : {wanted.name, std::string("*.txt"), std::string("docs/"), to_hex(wanted.md5), to_hex(wanted.root)}) {
    INFO(pattern);
    const auto listing = swarm.registry.find(pattern, {}, kPlenty);
    REQUIRE(listing.entries.size() == 1);
    CHECK(listing.entries.front().entry == wanted);
  }
}

TEST_CASE("An empty pattern finds everything, in order of name") {
  Swarm swarm;
  swarm.join_with({"a"}, {file("z", 1), file("a", 2)});
  swarm.join_with({"b"}, {file("m", 3)});
  Names names;
  for (const auto& found : swarm.registry.find("", {}, kPlenty).entries) names.push_back(found.entry.name);
  CHECK(names == Names{"a", "m", "z"});
}

TEST_CASE("Holders are those who are here and have all of it, owners first") {
  Swarm swarm;
  const FileEntry wanted = file("x", 1, 2);
  const PeerId fetched = swarm.join({"fetched"});
  const PeerId part = swarm.join({"part"});
  const PeerId owner = swarm.join_with({"owner"}, {wanted});
  const PeerId gone = swarm.join_with({"gone"}, {wanted});
  swarm.has(fetched, wanted, 2);
  swarm.has(part, wanted, 1);
  swarm.lose(gone);
  CHECK(swarm.holders("x") == Peers{owner, fetched});
}

TEST_CASE("An empty file is held by those who offer it, not by those who have another content of that name") {
  Swarm swarm;
  swarm.join_with({"a"}, {file("x", 1)});
  const PeerId b = swarm.join_with({"b"}, {empty_file("x")});
  const auto listing = swarm.registry.find("x", {}, kPlenty);
  REQUIRE(listing.entries.size() == 2);
  const auto& empty = listing.entries[listing.entries[0].entry.size == 0 ? 0 : 1];
  CHECK(empty.holders == Peers{b});
}

TEST_CASE("One content under one name is found once, whoever offers it") {
  Swarm swarm;
  swarm.join_with({"a"}, {file("x", 1)});
  swarm.join_with({"b"}, {file("x", 1)});
  CHECK(swarm.holders("x") == Peers{PeerId(0), PeerId(1)});
}

TEST_CASE("What only a peer that is gone has is not found") {
  Swarm swarm;
  swarm.lose(swarm.join_with({"a"}, {file("x", 1)}));
  CHECK(swarm.registry.find("x", {}, kPlenty).entries.empty());
}

TEST_CASE("A long listing comes in parts that together have everything") {
  Swarm swarm;
  std::vector<FileEntry> entries;
  for (int i = 0; i < 50; ++i) entries.push_back(file(fmt::format("{:02}", i), 1));
  swarm.join_with({"a"}, entries);
  std::vector<FileEntry> found;
  std::optional<Registry::Cursor> from = Registry::Cursor{};
  for (int part = 0; from && part < 100; ++part) {
    auto listing = swarm.registry.find("*", *from, 500);
    for (auto& entry : listing.entries) found.push_back(std::move(entry.entry));
    from = listing.next;
  }
  CHECK(found == entries);
}

TEST_CASE("The roster for an answer names each of its holders once") {
  Swarm swarm;
  swarm.join_with({"a"}, {file("x", 1), file("y", 2)});
  swarm.join_with({"b"}, {file("x", 1)});
  swarm.join({"c"});
  Names ids;
  for (const auto& entry : swarm.registry.roster(swarm.registry.find("*", {}, kPlenty).entries)) ids.push_back(entry.id);
  CHECK(ids == Names{"a", "b"});
}

// ---- news ---------------------------------------------------------------------------------------------

TEST_CASE("There is no news for who has read everything") {
  Swarm swarm;
  const PeerId a = swarm.join_with({"a"}, {file("x", 1)});
  CHECK_FALSE(swarm.registry.news_for(a, swarm.registry.revision(), kPlenty));
}

TEST_CASE("A slice of news is not much longer than was asked for") {
  Swarm swarm;
  std::vector<FileEntry> entries;
  for (int i = 0; i < 500; ++i) entries.push_back(file(fmt::format("{}", i), 1));
  swarm.join_with({"a"}, entries);
  const auto news = swarm.registry.news_for(swarm.join({"b"}), 0, 2000);
  std::size_t bytes = 0;
  for (const auto& message : news->messages) bytes += encoded_size(message);
  CHECK(bytes <= 2500);
}

TEST_CASE("Every message of news fits a frame, however long the names are") {
  Swarm swarm;
  std::vector<FileEntry> entries;
  std::string folder;
  for (int i = 0; i < 15; ++i) folder += std::string(250, 'd') + '/';
  for (int i = 0; i < 60; ++i) entries.push_back(file(folder + fmt::format("{}", i), 1));
  const PeerId a = swarm.join_with({"a"}, entries);
  RegistryClient reader = swarm.client(swarm.join({"b"}));
  CHECK(reader.files.size() == 60);
  swarm.leave(a);
  reader.read_all(swarm.registry, kPlenty);
  CHECK(reader.files.empty());
  CHECK(reader.largest_message <= kControlLimit);
}

TEST_CASE("After thousands of changes a member that was away learns just how things are") {
  Swarm swarm;
  const PeerId a = swarm.join({"a"});
  const PeerId b = swarm.join({"b"});
  swarm.offer(a, file("removed", 9));
  swarm.offer(a, file("kept", 9));
  RegistryClient early = swarm.client(b);
  REQUIRE(swarm.registry.withdraw(a, Withdraw{{"removed"}}, swarm.now));
  for (int i = 0; i < 5000; ++i) swarm.offer(a, file("busy", static_cast<std::uint8_t>(i)));
  early.read_all(swarm.registry, kPlenty);
  CHECK(early.files == RegistryClient::Files{{{a, "busy"}, file("busy", static_cast<std::uint8_t>(4999))}, {{a, "kept"}, file("kept", 9)}});
  CHECK(swarm.client(b).files == early.files);
}

TEST_CASE("Thousands of changes of one file are not kept") {
  Swarm swarm;
  const PeerId a = swarm.join({"a"});
  for (int i = 0; i < 5000; ++i) swarm.offer(a, file("busy", static_cast<std::uint8_t>(i)));
  int slices = 0;
  for (RegistryClient reader(swarm.join({"b"})); reader.read(swarm.registry, 1);) ++slices;
  CHECK(slices < 1100);
}

TEST_CASE("The summary counts members, files and bytes") {
  Swarm swarm;
  const PeerId a = swarm.join_with({"a"}, {file("x", 1), file("y", 2, 2)});
  const PeerId b = swarm.join_with({"b"}, {});
  Progress progress;
  progress.bytes_have = 5;
  progress.bytes_wanted = 9;
  REQUIRE(swarm.registry.progress(b, progress));
  swarm.complete(b);
  swarm.lose(a);
  const auto summary = swarm.registry.summary();
  CHECK(summary.members == 2);
  CHECK(summary.here == 1);
  CHECK(summary.complete == 1);
  CHECK(summary.files == 2);
  CHECK(summary.bytes == 3 * kChunkSize);
  CHECK(summary.bytes_have == 5);
  CHECK(summary.bytes_wanted == 9);
}
