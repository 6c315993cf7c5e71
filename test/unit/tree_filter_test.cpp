// What is taken of the answers to a search.
#include <catch2/catch_test_macros.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <tl/expected.hpp>

import shoal.base;
import shoal.manifest;
import shoal.tree;
import shoal.wire;

using namespace shoal;

namespace {

Hit hit(const std::string& name) { return {{name, EntryKind::file, 1, 0, false, {}, {}}, "p", "10.0.0.1", 9, 0, 0}; }

SearchAnswer with_hits(std::size_t count) { return {5, false, 0, 0, false, std::vector<Hit>(count, hit("a")), {}}; }

SearchAnswer with_nodes(std::size_t count, std::size_t links = 2) {
  const OverlayNode node{{1, 2}, "p", "10.0.0.1", 9, std::vector<NodeKey>(links, NodeKey{3, 4})};
  return {5, false, 0, 0, false, {}, std::vector<OverlayNode>(count, node)};
}

}  // namespace

TEST_CASE("An answer to another search is none") {
  SearchFilter filter(6, SearchKind::files, "a");
  SearchAnswer part = with_hits(1);
  CHECK_FALSE(filter.take(part));
}

TEST_CASE("As many hits as a search may bring are taken, and no more, even where they come in parts") {
  SearchFilter filter(5, SearchKind::files, "a");
  std::size_t taken = 0;
  for (int i = 0; i < 30; ++i) {
    SearchAnswer part = with_hits(100);
    REQUIRE(filter.take(part));
    taken += part.hits.size();
    CHECK(filter.is_full() == (i >= 20));
    CHECK(part.is_cut == filter.is_full());
  }
  CHECK(taken == Searches::kMostHits);
}

TEST_CASE("Hits that do not match count as well: whoever sends them without end is not read for ever") {
  SearchFilter filter(5, SearchKind::files, "b");
  for (int i = 0; i < 21; ++i) {
    SearchAnswer part = with_hits(100);
    REQUIRE(filter.take(part));
    CHECK(part.hits.empty());
  }
  CHECK(filter.is_full());
}

TEST_CASE("Nodes are taken up to a limit, and so are their links") {
  SearchFilter many(5, SearchKind::nodes, {});
  for (std::size_t i = 0; i < Searches::kMostFoundNodes / 1000; ++i) {
    SearchAnswer part = with_nodes(1000);
    REQUIRE(many.take(part));
    CHECK(part.found_nodes.size() == 1000);
  }
  CHECK_FALSE(many.is_full());
  SearchAnswer one_more = with_nodes(1);
  REQUIRE(many.take(one_more));
  CHECK(one_more.found_nodes.empty());

  SearchFilter linked(5, SearchKind::nodes, {});
  for (int i = 0; i < 100; ++i) {
    SearchAnswer part = with_nodes(1, 1000);
    REQUIRE(linked.take(part));
  }
  CHECK(linked.is_full());
}

TEST_CASE("Whoever says at the end that it asked nobody has not asked itself") {
  SearchFilter filter(5, SearchKind::files, "a");
  SearchAnswer part{5, true, 0, 0, false, {}, {}};
  REQUIRE(filter.take(part));
  CHECK(part.missing == 1);
}

TEST_CASE("A root or an MD5 is a pattern, too") {
  SearchFilter filter(5, SearchKind::files, std::string(64, '0'));
  SearchAnswer part = with_hits(1);
  REQUIRE(filter.take(part));
  CHECK(part.hits.size() == 1);
}
