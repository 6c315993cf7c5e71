#include <fmt/core.h>

#include <catch2/catch_test_macros.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "tree_network.hpp"

import shoal.base;
import shoal.manifest;
import shoal.tree;
import shoal.wire;

using namespace shoal;
using namespace std::chrono_literals;
using shoal::test::TreeNetwork;

namespace {

void add_one_by_one(TreeNetwork& network, std::size_t nodes) {
  for (std::size_t i = 0; i < nodes; ++i) {
    network.add();
    network.run(300ms);
  }
}

std::vector<OverlayNode> seen_by(const Census& census) {
  std::vector<OverlayNode> nodes;
  for (const auto& seen : census.nodes()) nodes.push_back(seen.node);
  return nodes;
}

}  // namespace

// ---- joining ------------------------------------------------------------------------------------------

TEST_CASE("Five nodes that come one by one form a line around the first") {
  TreeNetwork network(1);
  add_one_by_one(network, 5);
  network.run(2s);
  CHECK(network.problem().empty());
  CHECK(topology_text(seen_by(network.census)) == "s1:  s2 s3\ns2:  s1 s4\ns3:  s1 s5\ns4:  s2\ns5:  s3\n");
}

TEST_CASE("Nodes that come at once form one tree") {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    TreeNetwork network(seed, 2 + seed % 3);
    for (int i = 0; i < 60; ++i) network.add();
    INFO(seed << ": " << network.problem());
    const auto taken = network.run_until_one(30s);
    REQUIRE(taken);
    CHECK(network.most_links <= 2 + seed % 3);
  }
}

TEST_CASE("A node that knows another needs no tracker, and gets a number") {
  TreeNetwork network(3);
  add_one_by_one(network, 5);
  network.run(2s);
  network.set_tracker(false);
  const auto sixth = network.add(4);
  REQUIRE(network.run_until_one(5s));
  CHECK(network.tree(sixth).key().number == 6);
  const auto seventh = network.add(0);
  REQUIRE(network.run_until_one(5s));
  CHECK(network.tree(seventh).key().number == 7);
}

TEST_CASE("Whoever begins at the end of a long line is referred on to where there is room, and no node twice") {
  TreeNetwork network(4);
  add_one_by_one(network, 40);
  network.run(3s);
  network.set_tracker(false);
  const auto before = network.dials;
  network.add(0);  // the middle
  REQUIRE(network.run_until_one(5s));
  CHECK(network.dials - before <= 25);
}

// ---- leaving and losing -------------------------------------------------------------------------------

TEST_CASE("Who leaves hands its neighbours over to each other") {
  for (const std::size_t leaver : {0U, 1U, 2U, 3U, 4U}) {
    TreeNetwork network(5);
    add_one_by_one(network, 7);
    network.run(2s);
    network.leave(leaver);
    INFO(leaver << ": " << network.problem());
    const auto taken = network.run_until_one(5s);
    REQUIRE(taken);
    CHECK(*taken <= 1s);
  }
}

TEST_CASE("Who crashes is noticed, and the tree is one again") {
  for (const bool is_silent : {false, true})
    for (const bool has_tracker : {true, false})
      for (const std::size_t crashed : {0U, 1U, 2U, 3U, 4U}) {
        TreeNetwork network(6);
        add_one_by_one(network, 7);
        network.run(3s);
        network.set_tracker(has_tracker);
        network.crash(crashed, is_silent);
        INFO(crashed << (is_silent ? " silent" : "") << (has_tracker ? "" : " no tracker") << ": " << network.problem());
        const auto taken = network.run_until_one(20s);
        REQUIRE(taken);
        INFO(Seconds(*taken).count());
        CHECK(*taken <= 5s);
      }
}

// ---- searches -----------------------------------------------------------------------------------------

TEST_CASE("A search asks each node once, and says how many it asked") {
  TreeNetwork network(8);
  add_one_by_one(network, 5);
  network.run(3s);
  network.has_file = [](std::size_t host, const std::string& name) { return host == 4 && name == "at the end"; };
  const auto nowhere = network.search(3, "missing");
  network.run(1s);
  REQUIRE(nowhere->last);
  CHECK(nowhere->last->nodes == 5);
  CHECK(nowhere->last->missing == 0);
  CHECK(nowhere->hits.empty());
  CHECK(network.searches_sent == 4);
  CHECK(network.last_answers == 4);
  const auto found = network.search(3, "at the end");
  network.run(1s);
  REQUIRE(found->hits.size() == 1);
  CHECK(found->hits.front().hops == 4);
  CHECK(found->last->nodes == 5);
}

TEST_CASE("A branch that takes a search and never answers is named as missing, soon, and the rest is known") {
  TreeNetwork network(9);
  add_one_by_one(network, 7);
  network.run(3s);
  network.has_file = [](std::size_t host, const std::string&) { return host == 1 || host == 3; };
  // Node 1 goes on with its heartbeats.
  network.swallow = [](std::size_t, std::size_t to, const Message& message) { return to == 1 && std::holds_alternative<Search>(message); };
  const auto answer = network.search(2, "file");
  network.run(4s);
  REQUIRE(answer->last);
  CHECK(answer->last->missing == 1);
  CHECK(answer->last->nodes == 4);  // 2 and what hangs on it, and the root
  CHECK(network.problem().empty());
}

TEST_CASE("Where nodes fall silent and there is no tracker, a search soon says again that it asked all") {
  for (std::size_t first = 0; first < 7; ++first) {
    TreeNetwork network(23 + first);
    add_one_by_one(network, 7);
    network.run(3s);
    network.set_tracker(false);
    network.crash(first, true);
    network.crash((first + 2) % 7, true);
    INFO(first);
    REQUIRE(network.run_until_one(20s));
    network.run(5s);
    for (std::size_t i = 0; i < 7; ++i) {
      if (!network.is_up(i)) continue;
      const auto answer = network.search(i, "file");
      network.run(1s);
      REQUIRE(answer->last);
      CHECK(answer->last->nodes == 5);
      CHECK(answer->last->missing == 0);
    }
  }
}

TEST_CASE("A branch that says for ever that it goes on costs no more than the time that was allowed") {
  TreeNetwork network(10);
  add_one_by_one(network, 3);
  network.run(3s);
  network.swallow = [&network](std::size_t from, std::size_t to, const Message& message) {
    const auto* search = std::get_if<Search>(&message);
    if (to != 1 || !search) return false;
    for (int i = 0; i < 200; ++i) network.forge(1, from, SearchAnswer{search->id, false, 0, 0, false, {}, {}});
    return true;
  };
  const auto answer = network.search(2, "file", 5s);
  for (int i = 0; i < 60 && !answer->last; ++i) network.run(100ms);
  REQUIRE(answer->last);
  CHECK(answer->last->missing == 1);
}

TEST_CASE("A search stops where it has no hop left, and says so") {
  TreeNetwork network(11);
  add_one_by_one(network, 5);
  network.run(3s);
  const auto answer = network.search(3, "file", 10s, 2);
  network.run(1s);
  REQUIRE(answer->last);
  CHECK(answer->last->nodes == 3);
  CHECK(answer->last->missing == 1);
}

TEST_CASE("Many searches at once are told apart") {
  TreeNetwork network(12, 3);
  add_one_by_one(network, 20);
  network.run(3s);
  network.has_file = [](std::size_t host, const std::string& name) { return std::to_string(host) == name; };
  std::vector<std::shared_ptr<TreeNetwork::Found>> all;
  for (std::size_t i = 0; i < 20; ++i) all.push_back(network.search((i + 7) % 20, std::to_string(i)));
  network.run(2s);
  for (std::size_t i = 0; i < 20; ++i) {
    REQUIRE(all[i]->last);
    CHECK(all[i]->last->nodes == 20);
    REQUIRE(all[i]->hits.size() == 1);
    CHECK(all[i]->hits.front().id == "h" + std::to_string(i));
  }
  for (std::size_t i = 0; i < 20; ++i) CHECK(network.searches(i).under_way() == 0);
}

TEST_CASE("All nodes are listed through the tree") {
  TreeNetwork network(13, 3);
  add_one_by_one(network, 30);
  network.run(3s);
  network.set_tracker(false);
  const auto answer = network.list(17);
  network.run(2s);
  REQUIRE(answer->last);
  CHECK(answer->nodes.size() == 30);
  CHECK(draw_topology(answer->nodes).size() == 30);
}

// ---- hostile nodes ------------------------------------------------------------------------------------

TEST_CASE("A flood of searches stops at the first honest node, which serves the others on") {
  TreeNetwork network(14);
  add_one_by_one(network, 5);
  network.run(3s);
  const auto before = network.searches_sent;
  std::size_t passed_on = 0;
  network.swallow = [&](std::size_t from, std::size_t, const Message& message) {
    passed_on += from == 1 && std::holds_alternative<Search>(message) ? 1 : 0;
    return false;
  };
  // Node 3 is at the end, behind 1. A second of 10,000 a second:
  for (int i = 0; i < 100; ++i) {
    for (int j = 0; j < 100; ++j) network.forge(3, 1, Search{network.random(), SearchKind::files, "x", 0, 100, 5000});
    network.run(10ms);
  }
  CHECK(network.searches_sent - before >= 1000);  // the flood itself
  CHECK(passed_on <= 200);
  REQUIRE(network.warnings.size() == 1);
  CHECK(network.warnings.front().first == 1);
  network.run(5s);
  CHECK(network.problem().empty());  // it may come back
  const auto answer = network.search(4, "y");
  network.run(3s);
  REQUIRE(answer->last);
  CHECK(answer->last->nodes == 5);
}

TEST_CASE("A node that finds everything, a thousand times, is cut short, and hides nobody") {
  TreeNetwork network(15);
  add_one_by_one(network, 5);
  network.run(3s);
  network.swallow = [&network](std::size_t from, std::size_t to, const Message& message) {
    const auto* search = std::get_if<Search>(&message);
    if (to != 3 || !search) return false;
    for (int i = 0; i < 100; ++i) {
      SearchAnswer answer{search->id, i == 99, 1, 0, false, {}, {}};
      for (int j = 0; j < 100; ++j) answer.hits.push_back({{"file", EntryKind::file, 1, 0, false, {}, {}}, "liar", "10.0.0.9", 9, 0, 0});
      network.forge(3, from, answer);
    }
    return true;
  };
  // 3 is below 1; 2 and 4 are on the other side, where answers take longer.
  network.has_file = [](std::size_t host, const std::string&) { return host != 3; };
  const auto answer = network.search(0, "file");
  network.run(5s);
  REQUIRE(answer->last);
  CHECK(answer->last->is_cut);
  CHECK(answer->hits.size() <= Searches::kMostHits);
  for (const char* const honest : {"h0", "h1", "h2", "h4"})
    CHECK(std::ranges::count_if(answer->hits, [&](const Hit& hit) { return hit.id == honest; }) == 1);
}

TEST_CASE("What was not asked for is not passed on") {
  TreeNetwork network(21);
  add_one_by_one(network, 4);
  network.run(3s);
  const FileEntry good{"a.txt", EntryKind::file, 1, 0, false, {}, {}};
  FileEntry other = good;
  other.name = "b.jpg";
  FileEntry outside = good;
  outside.name = "../a.txt";
  FileEntry huge = good;
  huge.size = std::uint64_t{1} << 62;
  network.swallow = [&](std::size_t from, std::size_t to, const Message& message) {
    const auto* search = std::get_if<Search>(&message);
    if (to != 3 || !search) return false;
    SearchAnswer answer{search->id, false, 0, 0, false, {}, {}};
    for (const FileEntry& entry : {good, other, outside, huge}) answer.hits.push_back({entry, "liar", "10.0.0.9", 9, 0, 0});
    answer.hits.push_back({good, "liar\n", "10.0.0.9", 9, 0, 0});
    answer.hits.push_back({good, "no port", "10.0.0.9", 0, 0, 0});
    answer.found_nodes.push_back({{9, 9}, "made up", "10.0.0.9", 9, {}});
    network.forge(3, from, answer);
    network.forge(3, from, SearchAnswer{search->id, true, 0xffffffff, 0xffffffff, false, {}, {}});
    return true;
  };
  const auto answer = network.search(0, "*.txt");
  network.run(2s);
  REQUIRE(answer->last);
  REQUIRE(answer->hits.size() == 1);
  CHECK(answer->hits.front().entry == good);
  CHECK(answer->nodes.empty());
  CHECK(answer->last->nodes <= 2 * kMostNodes);
  CHECK(answer->last->missing <= 2 * kMostNodes);
  const auto listed = network.list(0);
  network.run(2s);
  REQUIRE(listed->last);
  CHECK(listed->hits.empty());
}

TEST_CASE("A search that is sent again and again counts like any other, and ends as a flood does") {
  Searches searches([] { return 1U; });
  const LinkIndex from(7);
  const Search search{1, SearchKind::files, "x", 0, 10, 5000};
  CHECK(searches.on_search(from, Asker::neighbour, search, {}, true, Instant{}));
  std::size_t sent = 1;
  while (sent < 5000 && searches.on_search(from, Asker::neighbour, search, {}, true, Instant{1ms})) ++sent;
  CHECK(sent <= Searches::kFlood + 2);
}

TEST_CASE("Referrals that lead in a circle end, are said in one line, and another way is found") {
  TreeNetwork network(16);
  add_one_by_one(network, 3);
  network.run(2s);
  network.set_tracker(false);
  // Nodes 1 and 2 send everybody to each other.
  network.swallow = [&network](std::size_t from, std::size_t to, const Message& message) {
    if (!std::holds_alternative<Attach>(message) || (to != 1 && to != 2)) return false;
    const std::size_t other = 3 - to;
    network.forge(to, from,
                  Refer{ReferReason::full, {{network.tree(other).key(), network.address(other).host, network.address(other).port}}});
    return true;
  };
  const auto comer = network.add(1);
  const auto before = network.dials;
  network.run(20s);
  CHECK(network.dials - before < 60);
  REQUIRE(network.warnings.size() == 1);
  CHECK(network.warnings.front().first == comer);
  CHECK(network.warnings.front().second.find("referred it to each other") != std::string::npos);
  network.swallow = nullptr;
  CHECK(network.run_until_one(10s));
}

namespace {

/// What the first node does with whoever wants to be its child.
struct Hostility {
  const char* name;
  std::function<void(TreeNetwork&, std::size_t from)> answer;
};

Attached attached_by(TreeNetwork& network, std::uint32_t depth) { return {network.tree(0).key(), 0, network.tree(0).key(), 1, depth}; }

std::vector<Hostility> hostilities() {
  return {
      {"says nothing", [](TreeNetwork&, std::size_t) {}},
      {"closes", [](TreeNetwork& network, std::size_t from) { network.shut(0, from); }},
      {"is always busy", [](TreeNetwork& network, std::size_t from) { network.forge(0, from, Refer{ReferReason::busy, {}}); }},
      {"refuses", [](TreeNetwork& network, std::size_t from) { network.forge(0, from, Refer{ReferReason::other, {}}); }},
      {"says that it is the same tree",
       [](TreeNetwork& network, std::size_t from) { network.forge(0, from, Refer{ReferReason::same_tree, {}}); }},
      {"refers to itself",
       [](TreeNetwork& network, std::size_t from) {
         network.forge(0, from, Refer{ReferReason::full, {{{9, 99}, network.address(0).host, network.address(0).port}}});
       }},
      {"refers to nodes that are not there",
       [](TreeNetwork& network, std::size_t from) {
         Refer refer{ReferReason::full, {}};
         for (std::uint16_t port = 1000; port < 1032; ++port) refer.to.push_back({{9, network.random() | 1}, "10.0.0.1", port});
         network.forge(0, from, refer);
       }},
      {"says only that it goes on",
       [](TreeNetwork& network, std::size_t from) {
         for (int i = 0; i < 3; ++i) network.forge(0, from, Around{network.tree(0).key(), 1, 1'999, 1, 0, 1, {}});
       }},
      {"is nowhere near", [](TreeNetwork& network, std::size_t from) { network.forge(0, from, attached_by(network, 9'999'999)); }},
      {"lets go at once",
       [](TreeNetwork& network, std::size_t from) {
         network.forge(0, from, attached_by(network, 0));
         network.forge(0, from, Detach{false, {{{1, 5}, network.address(0).host, network.address(0).port}}});
         network.shut(0, from);
       }},
  };
}

}  // namespace

TEST_CASE("Where the oldest node takes nobody in, the others become a tree without it, and hardly ask it any more") {
  for (const Hostility& hostility : hostilities())
    for (const bool was_good : {false, true}) {
      INFO(hostility.name << (was_good ? ", after it was a good one" : ""));
      TreeNetwork network(18);
      network.hostile.insert(0);
      if (was_good) add_one_by_one(network, 6);
      network.swallow = [&](std::size_t from, std::size_t to, const Message& message) {
        if (to != 0) return false;
        const bool is_attach = std::holds_alternative<Attach>(message);
        if (is_attach) hostility.answer(network, from);
        return is_attach || was_good;
      };
      if (!was_good) add_one_by_one(network, 6);
      const auto taken = network.run_until_one(30s);
      CAPTURE(network.problem());
      REQUIRE(taken);
      network.run(5s);
      const auto before = network.dials;
      for (int second = 0; second < 60; ++second) {
        network.run(1s);
        CHECK(network.problem().empty());
      }
      CHECK(network.dials - before <= 30);
      // Who comes later is sent to the tree.
      network.add();
      CHECK(network.run_until_one(8s));
      CHECK(network.warnings.size() <= 20);
    }
}

TEST_CASE("A node that is told its own address under another name asks itself hardly ever") {
  TreeNetwork network(19);
  add_one_by_one(network, 3);
  network.run(2s);
  network.set_tracker(false);
  const auto comer = network.add(3);  // which is itself
  network.run(60s);
  CHECK(comer == 3);
  CHECK(network.dials <= 20);
}

TEST_CASE("A tracker whose places are of no use is not asked more than a few times a second") {
  const Contact unreachable{{1, 77}, "10.0.0.1", 9999};
  const Contact unsound{{1, 77}, "10.0.0.1", 0};
  for (const Contact& entry : {unreachable, unsound}) {
    std::uint64_t words = 1;
    TreeNode node({2, 5, {"10.0.0.1", 1}, {}}, [&words] { return words = words * 6364136223846793005 + 1442695040888963407; }, Instant{});
    Instant now{};
    std::size_t asked = 0;
    std::size_t dials = 0;
    const auto carry_out = [&] {
      for (bool is_done = false; !is_done;) {
        is_done = true;
        for (const TreeAction& action : node.take_actions()) {
          is_done = false;
          if (const auto* dial = std::get_if<Dial>(&action)) {
            ++dials;
            node.on_closed(dial->link, now);
          }
          const auto* tell = std::get_if<TellTracker>(&action);
          if (!tell || !std::holds_alternative<OverlayAsk>(tell->message)) continue;
          ++asked;
          node.on_place({4, std::vector<Contact>(30, entry)}, now);
        }
      }
    };
    node.on_tracker(true, now);
    node.on_place({4, {entry}}, now);
    for (; now < Instant{10s}; now += 100ms) {
      node.tick(now);
      carry_out();
    }
    CHECK(asked >= 3);
    CHECK(asked <= 25);
    CHECK(dials <= 15);
  }
}

TEST_CASE("Nodes that take all places and no connections give way to those that come, and stay where there is room") {
  TreeNetwork network(20);
  add_one_by_one(network, 3);
  const auto add_deaf = [&] {
    network.deaf.insert(network.size());
    network.hostile.insert(network.size());
    network.add();
    network.run(300ms);
  };
  add_deaf();
  network.run(30s);
  CHECK(network.tree(3).parent());
  for (int i = 0; i < 6; ++i) add_deaf();
  network.run(5s);
  for (int i = 0; i < 3; ++i) {
    network.add();
    CHECK(network.run_until_one(20s));
  }
  network.run(30s);
  CHECK(network.problem().empty());
  CHECK(network.most_links <= 2);
}

TEST_CASE("What no node would send ends the link, and the tree is one again") {
  const std::vector<Message> wrong{Verified{1, Judgement::yes, 5}, Attached{}, Around{{1, 1}, 1, 0, 1, 0, 0, std::vector<Contact>(33)},
                                   Leave{}};
  for (const Message& message : wrong) {
    TreeNetwork network(17);
    add_one_by_one(network, 4);
    network.run(2s);
    network.forge(3, 1, message);
    CHECK(network.run_until_one(5s));
    network.run(3s);
    CHECK(network.problem().empty());
    CHECK(network.warnings.size() == 1);
  }
}
