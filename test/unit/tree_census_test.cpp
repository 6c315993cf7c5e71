// What the tracker knows of the overlay, and how trees are drawn.
#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

import shoal.base;
import shoal.tree;
import shoal.wire;

using namespace shoal;
using namespace std::chrono_literals;

namespace {

using Session = Census::SessionNumber;
using Sessions = std::vector<Session>;
using Keys = std::vector<NodeKey>;
using Lines = std::vector<std::string>;

constexpr Instant kStart{1h};

OverlayJoin joining(std::uint64_t nonce, std::uint32_t number = 0, bool is_linked = false, std::uint32_t max_links = 2) {
  return {{number, nonce}, {}, 4000, max_links, is_linked};
}

/// A census whose sessions have the nonces of their nodes.
struct Overlay {
  std::uint32_t join(Session node, std::uint32_t max_links = 2) {
    census.join(node, "p", joining(node, 0, false, max_links));
    return census.number_of(node);
  }
  NodeKey key(Session node) const { return census.key_of(node); }
  /// `node` tells that it is at `depth` of the tree of `root`, linked to `others`.
  void links(Session node, Session root, std::uint32_t depth, const Sessions& others) {
    OverlayLinks told{key(root), depth, {}};
    for (const Session other : others) told.links.push_back(key(other));
    census.set_links(node, told);
  }
  /// Nodes 1, 2, 3 ... in a row, each the parent of the next.
  void chain(std::size_t length) {
    for (Session node = 1; node <= length; ++node) join(node);
    for (Session node = 1; node <= length; ++node) {
      Sessions others;
      if (node > 1) others.push_back(node - 1);
      if (node < length) others.push_back(node + 1);
      links(node, 1, static_cast<std::uint32_t>(node - 1), others);
    }
  }
  std::vector<OverlayNode> nodes() const {
    std::vector<OverlayNode> nodes;
    for (Census::Seen& seen : census.nodes()) nodes.push_back(std::move(seen.node));
    return nodes;
  }

  Census census;
};

OverlayNode node(std::uint32_t number, const Keys& links, std::string id = "p") {
  return {{number, number}, std::move(id), "10.0.0.1", 4000, links};
}

NodeKey key(std::uint32_t number) { return {number, number}; }

}  // namespace

// ---- numbers ------------------------------------------------------------------------------------------

TEST_CASE("Numbers are given in order, and none twice while there are nodes") {
  Overlay overlay;
  CHECK(overlay.join(11) == 1);
  CHECK(overlay.join(12) == 2);
  overlay.census.leave(12);
  CHECK(overlay.join(13) == 3);
}

TEST_CASE("A network that nobody is left of is followed by a new one") {
  Overlay overlay;
  overlay.join(11);
  overlay.census.leave(11);
  CHECK(overlay.join(12) == 1);
}

TEST_CASE("Who comes with a number keeps it where nobody has it, and later ones get higher numbers") {
  Census census;
  CHECK_FALSE(census.join(1, "p", joining(11, 7)));
  CHECK(census.number_of(1) == 7);
  census.join(2, "p", joining(12));
  CHECK(census.number_of(2) == 8);
}

TEST_CASE("A linked node takes its number back from one that is not, which gets another") {
  Census census;
  census.join(1, "new", joining(11));
  CHECK(census.join(2, "old", joining(12, 1, true)) == 1);
  CHECK(census.number_of(1) == 2);
  CHECK(census.number_of(2) == 1);
}

TEST_CASE("Of two linked nodes of one number the first to come keeps it") {
  Census census;
  census.join(1, "a", joining(11, 1, true));
  CHECK_FALSE(census.join(2, "b", joining(12, 1, true)));
  CHECK(census.number_of(1) == 1);
  CHECK(census.number_of(2) == 2);
}

TEST_CASE("A number so high that there are hardly any above it is not taken over") {
  Census census;
  for (const std::uint32_t claim : {kMostNodes, kMostNodes - 1, 1'000'001U}) {
    census.join(claim, "p", joining(claim, claim, true));
    CHECK(census.number_of(claim) <= 3);
  }
  census.join(1, "p", joining(1, 1'000'000, true));
  CHECK(census.number_of(1) == 1'000'000);
  census.join(2, "p", joining(2));
  CHECK(census.number_of(2) == 1'000'001);
}

TEST_CASE("A node that another is linked to keeps its number, whatever others say that they are") {
  Overlay overlay;
  overlay.chain(2);
  CHECK_FALSE(overlay.census.join(9, "thief", joining(99, 1, true)));
  CHECK(overlay.census.number_of(1) == 1);
  CHECK(overlay.census.number_of(9) == 3);
}

TEST_CASE("Who is not here has no number, and what it tells or does changes nothing") {
  Overlay overlay;
  overlay.links(5, 5, 0, {});
  overlay.census.leave(5);
  CHECK(overlay.census.number_of(5) == 0);
  CHECK(overlay.key(5) == NodeKey{});
  CHECK(overlay.census.size() == 0);
}

// ---- whom to ask --------------------------------------------------------------------------------------

TEST_CASE("The first node has nobody to ask") {
  Overlay overlay;
  overlay.join(1);
  CHECK(overlay.census.entries_for(1, kStart).empty());
}

TEST_CASE("As long as nobody told of a tree, the oldest node is to be asked") {
  Overlay overlay;
  overlay.join(1);
  overlay.join(2);
  overlay.join(3);
  CHECK(overlay.census.entries_for(3, kStart) == Sessions{1});
}

TEST_CASE("Nodes with room are to be asked first, the highest first, and the root in any case") {
  Overlay overlay;
  overlay.chain(4);  // the ends have room
  overlay.join(5);
  CHECK(overlay.census.entries_for(5, kStart) == Sessions{1, 4, 2});
}

TEST_CASE("Nodes of younger trees are not to be asked, and theirs are told of the oldest one") {
  Overlay overlay;
  overlay.join(1);
  overlay.join(2);
  overlay.links(1, 1, 0, {});
  overlay.links(2, 2, 0, {});
  CHECK(overlay.census.entries_for(1, kStart).empty());
  CHECK(overlay.census.entries_for(2, kStart) == Sessions{1});
}

TEST_CASE("A node that nobody is linked to is no tree: who is older asks for a place in one, and is no place for others") {
  Overlay overlay;
  overlay.chain(3);
  overlay.join(4);
  overlay.census.join(9, "oldest", joining(99, 0));
  overlay.census.leave(1);  // the tree goes on without its root, and somebody takes the number
  overlay.links(2, 2, 0, {3});
  overlay.links(3, 2, 1, {2});
  overlay.census.join(1, "p", joining(1, 1, true));
  overlay.links(1, 1, 0, {5, 6, 7});  // whom nobody knows
  CHECK(overlay.census.entries_for(4, kStart) == Sessions{2, 3});
  CHECK(overlay.census.entries_for(1, kStart) == Sessions{3, 2});
  CHECK(overlay.census.entries_for(2, kStart).empty());
}

TEST_CASE("Who asks again and again and is not taken in hears of other trees, and so does a tree") {
  Overlay overlay;
  for (const Session first : {1U, 3U, 5U}) {
    overlay.join(first);
    overlay.join(first + 1);
    overlay.links(first, first, 0, {first + 1});
    overlay.links(first + 1, first, 1, {first});
  }
  overlay.join(9);
  for (const Session asker : {9U, 5U}) {
    std::vector<Session> roots;
    for (int i = 0; i < 8; ++i) roots.push_back(overlay.census.entries_for(asker, kStart).back() <= 2 ? 1U : 3U);
    CHECK(std::ranges::count(roots, 1U) >= 5);
    CHECK(std::ranges::count(roots, 3U) >= 1);
    CHECK(std::vector(roots.begin(), roots.begin() + 3) == Sessions(3, 1));
  }
}

TEST_CASE("Nodes that nobody got linked to come last, and so do those that only say that they are in a tree") {
  Overlay overlay;
  overlay.chain(3);  // 1 has no room; 3 has
  overlay.census.join(4, "p", joining(4, 0, false, 1000));
  overlay.links(4, 1, 0, {1});  // of which 1 knows nothing
  for (Session newcomer = 5; newcomer <= 12; ++newcomer) overlay.join(newcomer);
  CHECK(overlay.census.entries_for(5, kStart) == Sessions{1, 3, 2});
  // 5, and others after it, are sent to 1, and never get there.
  for (int i = 0; i < 3; ++i) overlay.census.entries_for(6 + i, kStart + 3s * (i + 1));
  CHECK(overlay.census.entries_for(9, kStart + 20s).front() == 3);
  overlay.links(1, 1, 0, {2, 8});
  CHECK(overlay.census.entries_for(10, kStart + 21s).front() == 3);
}

TEST_CASE("Who is in the oldest tree is told nobody") {
  Overlay overlay;
  overlay.chain(3);
  CHECK(overlay.census.entries_for(1, kStart).empty());
  CHECK(overlay.census.entries_for(3, kStart).empty());
}

TEST_CASE("A node that others were just told to ask counts as taken, for a while") {
  Overlay overlay;
  overlay.chain(3);
  for (Session newcomer = 4; newcomer <= 6; ++newcomer) overlay.join(newcomer);
  CHECK(overlay.census.entries_for(4, kStart).front() == 1);
  CHECK(overlay.census.entries_for(5, kStart).front() == 3);
  CHECK(overlay.census.entries_for(6, kStart + 3s).front() == 1);
}

TEST_CASE("Nodes that the asker cannot reach leave their places to others") {
  Overlay overlay;
  overlay.chain(6);
  overlay.join(7);
  const auto reaches = [](Session node) { return node == 4 || node == 5; };
  CHECK(overlay.census.entries_for(7, kStart, reaches) == Sessions{4, 5});
}

// ---- links --------------------------------------------------------------------------------------------

TEST_CASE("A link counts where both sides tell of it, and once however often they do") {
  Overlay overlay;
  for (Session node = 1; node <= 3; ++node) overlay.join(node);
  overlay.links(1, 1, 0, {2, 3, 2, 1});
  overlay.links(2, 1, 1, {1, 1});
  const auto nodes = overlay.nodes();
  CHECK(nodes[0].links == Keys{key(2)});
  CHECK(nodes[1].links == Keys{key(1)});
  CHECK(nodes[2].links.empty());
}

TEST_CASE("Links name a node by the number that it has now") {
  Census census;
  census.join(1, "new", joining(11));
  census.join(2, "old", joining(12, 1, true));
  census.set_links(1, {{1, 11}, 0, {{1, 12}}});
  census.set_links(2, {{1, 11}, 1, {{1, 11}}});
  const auto seen = census.nodes();
  REQUIRE(seen.size() == 2);
  CHECK(seen[0].node.links == Keys{{2, 11}});
  CHECK(seen[1].node.key == NodeKey{2, 11});
}

TEST_CASE("A node that has left is in nobody's links") {
  Overlay overlay;
  overlay.chain(2);
  overlay.census.leave(2);
  CHECK(overlay.nodes().size() == 1);
  CHECK(overlay.nodes().front().links.empty());
}

TEST_CASE("Somebody who uses the nonce of a node has none of its links") {
  Overlay overlay;
  overlay.chain(2);
  overlay.census.join(3, "p", joining(1));
  overlay.links(3, 1, 1, {2});
  const auto nodes = overlay.nodes();
  CHECK(nodes[0].links == Keys{key(2)});
  CHECK(nodes[1].links == Keys{key(1)});
  CHECK(nodes[2].links.empty());
}

TEST_CASE("A node counts again once somebody who came with its nonce has left") {
  Overlay overlay;
  overlay.census.join(3, "p", joining(1));
  overlay.census.join(1, "p", joining(1));
  overlay.join(2);
  overlay.census.leave(3);
  overlay.links(1, 1, 0, {2});
  overlay.links(2, 1, 1, {1});
  CHECK(overlay.nodes().front().links == Keys{{3, 2}});
}

// ---- pictures -----------------------------------------------------------------------------------------

TEST_CASE("The text of a topology has a line a node, by number, with those that it is linked to") {
  const std::vector<OverlayNode> nodes{node(3, {key(1)}), node(1, {key(2), key(3)}), node(2, {key(1)}), node(4, {})};
  CHECK(topology_text(nodes) == "s1:  s2 s3\ns2:  s1\ns3:  s1\ns4:\n");
  CHECK(topology_text({}).empty());
}

TEST_CASE("A chain is drawn straight down") {
  const std::vector<OverlayNode> nodes{node(1, {key(2)}, "a"), node(2, {key(1), key(3)}, "b"), node(3, {key(2)}, "c")};
  CHECK(draw_topology(nodes) == Lines{"s1  a (10.0.0.1:4000)", "s2  b (10.0.0.1:4000)", "s3  c (10.0.0.1:4000)"});
}

TEST_CASE("Branches are drawn beneath their node, and what is in no tree with it after that") {
  const std::vector<OverlayNode> nodes{
      node(1, {key(2), key(3)}), node(2, {key(1), key(4), key(5)}), node(3, {key(1)}), node(4, {key(2)}), node(5, {key(2)}), node(6, {})};
  CHECK(draw_topology(nodes) == Lines{"s1  p (10.0.0.1:4000)", "|- s2  p (10.0.0.1:4000)", "|  |- s4  p (10.0.0.1:4000)",
                                      "|  `- s5  p (10.0.0.1:4000)", "`- s3  p (10.0.0.1:4000)", "s6  p (10.0.0.1:4000)"});
}

TEST_CASE("What is told of links in a circle is drawn with each node once") {
  const std::vector<OverlayNode> nodes{node(1, {key(2), key(3)}), node(2, {key(1), key(3)}), node(3, {key(1), key(2)})};
  CHECK(draw_topology(nodes).size() == 3);
}

TEST_CASE("A tree as deep as anybody says is drawn in lines of bounded length") {
  std::vector<OverlayNode> nodes;
  constexpr std::uint32_t kDepth = 20'000;
  for (std::uint32_t i = 1; i <= kDepth; ++i) {  // odd ones in a row, each with an even one beside the next
    nodes.push_back(node(2 * i, {key(2 * i - 1)}));
    nodes.push_back(node(2 * i - 1, {key(2 * i), key(2 * i + 1)}));
  }
  const Lines lines = draw_topology(nodes);
  CHECK(lines.size() == 2 * kDepth);
  std::size_t longest = 0;
  for (const std::string& line : lines) longest = std::max(longest, line.size());
  CHECK(longest < 200);
}

TEST_CASE("The graph has a box a node and a line a link, and names cannot break out of it") {
  const std::vector<OverlayNode> nodes{node(1, {key(2), key(9)}, R"(a"];\)"), node(2, {key(1)}, "b")};
  CHECK(topology_dot(nodes) ==
        "graph overlay {\n"
        "  node [shape=box];\n"
        "  n1 [label=\"s1  a\\\"];\\\\ (10.0.0.1:4000)\"];\n"
        "  n2 [label=\"s2  b (10.0.0.1:4000)\"];\n"
        "  n1 -- n2;\n"
        "}\n");
}

TEST_CASE("A node that tells of links that nobody else knows has none of them, nor any with itself") {
  std::vector<OverlayNode> nodes{node(1, {key(2)}), node(2, {key(1), {9, 1}, key(3), key(9)}), node(3, {key(3), key(1)}),
                                 node(2, {key(3)})};
  keep_confirmed(nodes);
  REQUIRE(nodes.size() == 3);
  CHECK(nodes[0].links == Keys{key(2)});
  CHECK(nodes[1].links == Keys{key(1), key(9)});  // of whoever is not known nobody knows better
  CHECK(nodes[2].links.empty());
  CHECK(draw_topology(nodes).size() == 3);
  CHECK(topology_dot(nodes).find("n3 --") == std::string::npos);
}

TEST_CASE("What is confirmed of a chain as long as anybody lists, in a circle, is drawn") {
  constexpr std::uint32_t kNodes = 20'000;
  std::vector<OverlayNode> nodes;
  for (std::uint32_t i = 1; i <= kNodes; ++i) nodes.push_back(node(i, {key(i % kNodes + 1), key(i == 1 ? kNodes : i - 1)}));
  keep_confirmed(nodes);
  CHECK(draw_topology(nodes).size() == kNodes);
  CHECK(topology_dot(nodes).size() > kNodes);
}
