// The tracker's side of the overlay, as nodes see it that say what a test has them say; in virtual time.
#include <fmt/core.h>
#include <catch2/catch_test_macros.hpp>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

import shoal.base;
import shoal.report;
import shoal.sim;
import shoal.tracker;
import shoal.wire;
import shoal.world;

#include "tracker_lab.hpp"

using namespace shoal;
using namespace std::chrono_literals;
using namespace shoal::test;

namespace {

constexpr const char* kTopology = "topo.txt";
constexpr const char* kCount = "NumberOfServers.txt";

std::size_t count_of(std::string_view what, std::string_view text) {
  std::size_t count = 0;
  for (auto at = text.find(what); at != std::string_view::npos; at = text.find(what, at + 1)) ++count;
  return count;
}

TrackerOptions with_topology() {
  TrackerOptions options;
  options.keeps_topology = true;
  return options;
}

using Keys = std::vector<NodeKey>;

}  // namespace

// ---- numbers and places -------------------------------------------------------------------------------

TEST_CASE("Nodes are numbered in the order in which they come") {
  StartedLab lab;
  const Client& first = lab.join("a", 11);
  const Client& second = lab.join("b", 12);
  CHECK(first.number() == 1);
  CHECK(second.number() == 2);
}

TEST_CASE("A node that returns to a restarted tracker keeps its number, and one that got that meanwhile is told another") {
  StartedLab lab;
  const Client& newcomer = lab.join("new", 12);
  const Client& returned = lab.join("old", 11, 1, true);
  CHECK(returned.number() == 1);
  REQUIRE(newcomer.all<OverlayPlace>().size() == 2);
  CHECK(newcomer.number() == 2);
}

TEST_CASE("A place names nodes of the oldest tree, where its reader reaches them") {
  StartedLab lab;
  Client& root = lab.join("a", 11);
  lab.say(root, OverlayLinks{{1, 11}, 0, {}});
  const Client& second = lab.join("b", 12);
  CHECK(second.last<OverlayPlace>().entries == std::vector<Contact>{{{1, 11}, lab.simulation.address_of(root.host), kNodePort}});
}

TEST_CASE("The root of the oldest tree is told nobody to link to, also when it asks") {
  StartedLab lab;
  Client& root = lab.join("a", 11);
  lab.say(root, OverlayLinks{{1, 11}, 0, {}});
  lab.join("b", 12);
  lab.say(root, OverlayAsk{{1, 11}});
  REQUIRE(root.all<OverlayPlace>().size() == 2);
  CHECK(root.last<OverlayPlace>().entries.empty());
}

TEST_CASE("A node that its reader cannot reach is no place to link to") {
  StartedLab lab;
  Client& root = lab.connect("a", OverlayJoin{{0, 11}, "127.0.0.1", kNodePort, 2, false});
  lab.say(root, OverlayLinks{{1, 11}, 0, {}});
  CHECK(lab.join("b", 12).last<OverlayPlace>().entries.empty());
}

TEST_CASE("A node that asks all the time is answered ten times a second") {
  StartedLab lab;
  Client& node = lab.join("a", 11);
  for (int i = 0; i < 6; ++i) node.outbox.push(OverlayAsk{{1, 11}});
  REQUIRE(lab.comes([&] { return node.heard.size() == 7; }));
  CHECK(node.at[6] - node.at[1] >= 500ms);
}

TEST_CASE("A process that is back before its old connection was found dead keeps its number") {
  StartedLab lab;
  const OverlayJoin join{{0, 11}, {}, kNodePort, 2, true};
  Client& before = lab.connect("a", join, 77);
  OverlayJoin again = join;
  again.key.number = 1;
  const Client& after = lab.connect("a", again, 77);
  CHECK(after.number() == 1);
  CHECK(before.is_over);
}

TEST_CASE("Somebody else who says to be a node that is here takes nothing from it") {
  StartedLab lab;
  Client& node = lab.join("a", 11, 0, true);
  const Client& other = lab.join("a", 11, 1, true);
  lab.say(node, OverlayAsk{{1, 11}});
  CHECK(other.number() == 2);
  CHECK(node.number() == 1);
}

// ---- who is let in ------------------------------------------------------------------------------------

TEST_CASE("A closed swarm has no overlay, and says so") {
  TrackerOptions closed;
  closed.expect = 2;
  StartedLab lab(closed);
  const Client& node = lab.join("a", 11);
  const auto refusal = node.last<Refusal>();
  CHECK(refusal.reason == RefusalReason::bad_register);
  CHECK(refusal.text == "a closed swarm has no overlay");
  CHECK(lab.comes([&] { return node.is_over; }));
}

TEST_CASE("A node without a nonce or a port, or with an address that no message could carry, is refused") {
  StartedLab lab;
  const OverlayJoin sound{{0, 11}, {}, kNodePort, 2, false};
  OverlayJoin nobody = sound;
  nobody.key.nonce = 0;
  OverlayJoin nowhere = sound;
  nowhere.port = 0;
  OverlayJoin wordy = sound;
  wordy.host.assign(kMaxHost + 1, 'h');
  for (const OverlayJoin& bad : {nobody, nowhere, wordy}) {
    const Client& node = lab.connect("a", bad);
    CHECK(node.last<Refusal>().reason == RefusalReason::bad_register);
    CHECK(lab.comes([&] { return node.is_over; }));
  }
  CHECK(lab.join("b", 12).number() == 1);
}

TEST_CASE("A node that tells of more links than any may have, or speaks out of order, is gone") {
  StartedLab lab;
  Client& wordy = lab.join("a", 11);
  lab.say(wordy, OverlayLinks{{1, 11}, 0, Keys(1025)});
  CHECK(wordy.is_over);
  Client& confused = lab.join("b", 12);
  lab.say(confused, Introduce{3});
  CHECK(confused.is_over);
}

TEST_CASE("A node that says nothing for 15 s is gone") {
  StartedLab lab;
  const Client& silent = lab.join("a", 11);
  lab.pass(16s);
  CHECK(silent.is_over);
}

TEST_CASE("A ping is answered") {
  StartedLab lab;
  Client& node = lab.join("a", 11);
  lab.say(node, Ping{5});
  CHECK(node.last<Pong>().t1 == 5);
}

// ---- the list -----------------------------------------------------------------------------------------

TEST_CASE("The list has all nodes, and those links that both sides tell of") {
  StartedLab lab;
  Client& first = lab.join("a", 11);
  Client& second = lab.join("b", 12);
  Client& third = lab.join("c", 13);
  lab.say(first, OverlayLinks{{1, 11}, 0, {{2, 12}, {3, 13}}});
  lab.say(second, OverlayLinks{{1, 11}, 1, {{1, 11}}});
  lab.say(third, OverlayLinks{{3, 13}, 0, {}});
  const Client& reader = lab.connect("reader", OverlayList{7});
  CHECK(reader.last<OverlayNodes>().query == 7);
  CHECK(reader.last<OverlayNodes>().is_last);
  const auto at = [&](const Client& client) { return lab.simulation.address_of(client.host); };
  CHECK(reader.listed() == std::vector<OverlayNode>{{{1, 11}, "a", at(first), kNodePort, {{2, 12}}},
                                                    {{2, 12}, "b", at(second), kNodePort, {{1, 11}}},
                                                    {{3, 13}, "c", at(third), kNodePort, {}}});
}

TEST_CASE("The list of no nodes is one message") {
  StartedLab lab;
  const Client& reader = lab.connect("reader", OverlayList{7});
  CHECK(reader.heard.size() == 1);
  CHECK(reader.last<OverlayNodes>().is_last);
}

TEST_CASE("A node may ask for the list, too") {
  StartedLab lab;
  Client& node = lab.join("a", 11);
  lab.say(node, OverlayList{1});
  CHECK(node.listed().size() == 1);
}

TEST_CASE("A long list travels in messages that fit a frame") {
  StartedLab lab;
  constexpr std::size_t kNodes = 300;
  for (std::uint64_t i = 1; i <= kNodes; ++i)
    lab.add(fmt::format("p{}", i), OverlayJoin{{0, i}, std::string(kMaxHost, 'h'), kNodePort, 2, false});
  lab.pass(1s);
  const Client& reader = lab.connect("reader", OverlayList{1});
  const auto parts = reader.all<OverlayNodes>();
  REQUIRE(parts.size() == 2);
  CHECK_FALSE(parts.front().is_last);
  CHECK(parts.back().is_last);
  CHECK(reader.listed().size() == kNodes);
}

// ---- what is written ----------------------------------------------------------------------------------

TEST_CASE("A tracker begins with the files of an empty network") {
  Lab lab(with_topology());
  unwrap(unwrap(lab.records->create(kTopology))->append(std::as_bytes(std::span("of an earlier run"))));
  lab.start();
  CHECK(lab.records->names() == std::vector<std::string>{kCount, kTopology});
  CHECK(lab.records->text(kTopology).empty());
  CHECK(lab.records->text(kCount) == "0\n");
}

TEST_CASE("The files say who is linked to whom as it changes, and are empty again when the last node has left") {
  StartedLab lab(with_topology());
  Client& first = lab.join("a", 11);
  Client& second = lab.join("b", 12);
  CHECK(lab.records->text(kTopology) == "s1:\ns2:\n");
  CHECK(lab.records->text(kCount) == "2\n");
  lab.say(first, OverlayLinks{{1, 11}, 0, {{2, 12}}});
  lab.say(second, OverlayLinks{{1, 11}, 1, {{1, 11}}});
  CHECK(lab.records->text(kTopology) == "s1:  s2\ns2:  s1\n");
  lab.leave(first);
  CHECK(lab.records->text(kTopology) == "s2:\n");
  CHECK(lab.records->text(kCount) == "1\n");
  lab.leave(second);
  CHECK(lab.records->text(kTopology).empty());
  CHECK(lab.records->text(kCount) == "0\n");
  CHECK(lab.records->names() == std::vector<std::string>{kCount, kTopology});
}

TEST_CASE("A network that is there when its tracker is stopped stays in the files") {
  StartedLab lab(with_topology());
  lab.join("a", 11);
  lab.simulation.stop(lab.tracker);
  REQUIRE(lab.comes([&] { return !lab.simulation.is_running(lab.tracker); }));
  CHECK(lab.records->text(kTopology) == "s1:\n");
}

TEST_CASE("Without a folder of their own there are no such files") {
  StartedLab lab;
  lab.join("a", 11);
  CHECK(lab.records->names().empty());
}

TEST_CASE("That the files cannot be written is said once, and the tracker goes on") {
  Lab lab(with_topology());
  lab.records->fill();
  lab.start();
  lab.join("a", 11);
  CHECK(lab.join("b", 12).number() == 2);
  CHECK(count_of("topo.txt and NumberOfServers.txt are out of date", HeardReport::text_of(lab.heard.err.get())) == 1);
}

TEST_CASE("Events tell who joined the overlay, and who left it") {
  StartedLab lab;
  Client& node = lab.join("a", 11);
  lab.leave(node);
  lab.heard.report->flush();
  const std::string events = HeardReport::text_of(lab.heard.out.get());
  const std::string joined = fmt::format(R"("node":"s1","peer":"a","address":"{}:4000")", lab.simulation.address_of(node.host));
  CHECK(count_of(R"("event":"overlay_joined")", events) == 1);
  CHECK(count_of(joined, events) == 1);
  CHECK(count_of(R"("node":"s1","peer":"a","clean":true)", events) == 1);
}

TEST_CASE("A node that dies while much waits for it leaves, too") {
  StartedLab lab(with_topology());
  Client& node = lab.connect("a", OverlayJoin{{0, 11}, {}, kNodePort, 2, false}, 0, false);
  for (int i = 0; i < 100'000; ++i) node.outbox.push(Ping{});
  lab.pass(5s);
  lab.simulation.kill(node.host, sim::Death::killed);
  lab.pass(20s);
  CHECK(lab.records->text(kCount) == "0\n");
}
