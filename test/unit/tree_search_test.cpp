// Searches at one node among others that send what they like.
#include <fmt/core.h>

#include <catch2/catch_test_macros.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

import shoal.base;
import shoal.manifest;
import shoal.tree;
import shoal.wire;

using namespace shoal;
using namespace std::chrono_literals;

namespace {

constexpr LinkIndex kAsker{1};
constexpr LinkIndex kLiar{2};
constexpr LinkIndex kHonest{3};

Hit hit(std::string name, std::string id = "p") {
  return {{std::move(name), EntryKind::file, 1, 0, false, {}, {}}, std::move(id), {}, 9, 0, 0};
}

std::vector<Hit> hits(std::size_t count, const std::string& id = "p", const std::string& name = "file") {
  return std::vector<Hit>(count, hit(name, id));
}

OverlayNode node(std::uint64_t nonce, std::string id = "p") { return {{1, nonce}, std::move(id), {}, 9, {}}; }

/// Links between a node's searches and a test.
struct Bench {
  Searches searches{[this] { return ++word; }};
  std::uint64_t word = 1'000'000;
  Instant now{};
  std::vector<SendTo> sent;
  std::optional<std::uint64_t> to_look_up;

  Result<> search(LinkIndex from, Asker asker, Search search, std::vector<LinkIndex> branches = {kAsker, kLiar, kHonest}) {
    auto done = searches.on_search(from, asker, search, branches, true, now);
    take();
    return done;
  }
  Result<> ask(std::uint64_t id, std::string pattern = "file", SearchKind kind = SearchKind::files) {
    return search(kAsker, Asker::neighbour, {id, kind, std::move(pattern), 0, 100, 10'000});
  }
  void answer(LinkIndex from, SearchAnswer answer) {
    searches.on_answer(from, std::move(answer), now);
    take();
  }
  void answer_hits(LinkIndex from, std::uint64_t id, std::vector<Hit> found, bool is_last = false) {
    answer(from, {id, is_last, is_last ? 1U : 0U, 0, false, std::move(found), {}});
  }
  void look_up(std::vector<Hit> found = {}) {
    searches.on_looked_up(*to_look_up, {0, true, 0, 0, false, std::move(found), {}}, now);
    take();
  }
  void take() {
    for (TreeAction& action : searches.take_actions()) {
      if (auto* to = std::get_if<SendTo>(&action)) sent.push_back(std::move(*to));
      if (const auto* look = std::get_if<LookUp>(&action)) to_look_up = look->search;
    }
  }
  std::vector<SearchAnswer> answers(LinkIndex to) const {
    std::vector<SearchAnswer> all;
    for (const SendTo& each : sent)
      if (const auto* answer = std::get_if<SearchAnswer>(&each.message); answer && each.link == to) all.push_back(*answer);
    return all;
  }
  std::vector<Search> asked(LinkIndex branch) const {
    std::vector<Search> all;
    for (const SendTo& each : sent)
      if (const auto* search = std::get_if<Search>(&each.message); search && each.link == branch) all.push_back(*search);
    return all;
  }
  std::optional<SearchAnswer> last(LinkIndex to) const {
    for (const SearchAnswer& answer : answers(to))
      if (answer.is_last) return answer;
    return std::nullopt;
  }
  std::size_t hits_of(const std::string& id, LinkIndex to = kAsker) const {
    std::size_t count = 0;
    for (const SearchAnswer& answer : answers(to)) count += static_cast<std::size_t>(std::ranges::count(answer.hits, id, &Hit::id));
    return count;
  }
};

}  // namespace

// ---- what is taken of an answer -----------------------------------------------------------------------

TEST_CASE("Hits that the pattern does not mean, or that cannot be, are not passed on") {
  Bench bench;
  REQUIRE(bench.ask(7, "*.iso"));
  Hit no_port = hit("b.iso");
  no_port.port = 0;
  bench.answer_hits(kLiar, 7, {hit("a.iso", "right"), hit("a.exe", "wrong"), hit("../a.iso", "wrong"), no_port, hit("a.iso", "x/y")});
  CHECK(bench.hits_of("right") == 1);
  REQUIRE(bench.answers(kAsker).size() == 1);
  CHECK(bench.answers(kAsker).front().hits.size() == 1);
}

TEST_CASE("A search for files brings no nodes, and one for nodes no files") {
  Bench bench;
  REQUIRE(bench.ask(7));
  bench.answer(kLiar, {7, true, 1, 0, false, {}, {node(5)}});
  REQUIRE(bench.ask(8, {}, SearchKind::nodes));
  bench.answer(kLiar, {8, true, 1, 0, false, {hit("file")}, {node(5), node(0), node(6, "../x")}});
  bench.look_up();
  bench.answer(kHonest, {8, true, 1, 0, false, {}, {}});
  std::size_t nodes = 0;
  for (const SearchAnswer& answer : bench.answers(kAsker)) {
    CHECK(answer.hits.empty());
    CHECK((answer.id == 8 || answer.found_nodes.empty()));
    nodes += answer.found_nodes.size();
  }
  CHECK(nodes == 1);
}

TEST_CASE("A branch that answers and has asked nobody, not even itself, is missing") {
  Bench bench;
  REQUIRE(bench.ask(7));
  bench.look_up();
  bench.answer(kLiar, {7, true, 0, 0, false, {}, {}});
  bench.answer(kHonest, {7, true, 0xffffffff, 0xffffffff, false, {}, {}});
  REQUIRE(bench.last(kAsker));
  CHECK(bench.last(kAsker)->missing == kMostNodes + 1);
  CHECK(bench.last(kAsker)->nodes == kMostNodes + 1);
}

TEST_CASE("To compare what comes with a pattern costs no more than a search may") {
  SearchSieve sieve(SearchKind::files, std::string(kMaxPattern / 2, '*') + std::string(kMaxPattern / 2, '?'));
  std::string name;
  for (int part = 0; part < 16; ++part) name += std::string(250, 'a') + '/';
  SearchAnswer answer{1, false, 0, 0, false, hits(2000, "p", name + "a"), {}};
  sieve.sift(answer);
  CHECK(answer.is_cut);
  CHECK(answer.hits.size() < 10);
}

// ---- shares -------------------------------------------------------------------------------------------

TEST_CASE("A branch that brings all that a search may bring leaves the others their share") {
  Bench bench;
  REQUIRE(bench.ask(7));
  for (int i = 0; i < 50; ++i) bench.answer_hits(kLiar, 7, hits(100, "liar"));
  bench.look_up(hits(200, "own"));
  bench.answer_hits(kHonest, 7, hits(600, "honest"), true);
  bench.answer_hits(kLiar, 7, {}, true);
  CHECK(bench.hits_of("own") == 200);
  CHECK(bench.hits_of("honest") == 600);
  CHECK(bench.hits_of("liar") == Searches::kMostHits - 800);
  REQUIRE(bench.last(kAsker));
  CHECK(bench.last(kAsker)->is_cut);
}

TEST_CASE("What the others leave of a search's room is for whoever has more, in the order in which it came") {
  Bench bench;
  REQUIRE(bench.ask(7));
  std::vector<Hit> many;
  for (int i = 0; i < 1500; ++i) many.push_back(hit("file", fmt::format("p{}", i)));
  bench.answer_hits(kHonest, 7, std::move(many), true);
  CHECK(bench.hits_of("p665") == 1);
  CHECK(bench.hits_of("p666") == 0);  // it is held
  bench.look_up(hits(1, "own"));
  CHECK(bench.hits_of("p1499") == 1);  // nobody but the other branch can need the room
  bench.answer_hits(kLiar, 7, hits(498, "late"));
  bench.answer_hits(kLiar, 7, hits(2, "late"), true);
  CHECK(bench.hits_of("late") == 499);
  CHECK(bench.last(kAsker)->is_cut);
}

TEST_CASE("A branch that lists nodes without end leaves the others their share") {
  Bench bench;
  REQUIRE(bench.ask(7, {}, SearchKind::nodes));
  for (std::uint64_t i = 0; i < 300; ++i) {
    SearchAnswer answer{7, false, 0, 0, false, {}, {}};
    for (std::uint64_t j = 1; j <= 100; ++j) answer.found_nodes.push_back(node(i * 100 + j, "liar"));
    bench.answer(kLiar, std::move(answer));
  }
  SearchAnswer honest{7, true, 1, 0, false, {}, {}};
  for (std::uint64_t j = 1; j <= 5000; ++j) honest.found_nodes.push_back(node(1'000'000 + j, "honest"));
  bench.answer(kHonest, std::move(honest));
  bench.look_up();
  bench.answer(kLiar, {7, true, 1, 0, false, {}, {}});
  std::size_t of_honest = 0;
  std::size_t all = 0;
  for (const SearchAnswer& answer : bench.answers(kAsker)) {
    all += answer.found_nodes.size();
    of_honest += static_cast<std::size_t>(std::ranges::count(answer.found_nodes, "honest", &OverlayNode::id));
  }
  CHECK(of_honest == 5000);
  CHECK(all == Searches::kMostFoundNodes);
  CHECK(bench.last(kAsker)->is_cut);
}

TEST_CASE("Long hits count as several") {
  Bench bench;
  REQUIRE(bench.ask(7, "*"));
  std::string name;
  for (int part = 0; part < 16; ++part) name += std::string(250, 'a') + '/';
  for (int i = 0; i < 200; ++i) bench.answer_hits(kLiar, 7, hits(10, "liar", name + "a"));
  bench.look_up();
  bench.answer_hits(kHonest, 7, {}, true);
  std::size_t bytes = 0;
  for (const SearchAnswer& answer : bench.answers(kAsker))
    for (const Hit& each : answer.hits) bytes += each.entry.name.size();
  CHECK(bytes <= Searches::kMostHits * 512);
  CHECK(bytes > 0);
}

// ---- numbers ------------------------------------------------------------------------------------------

TEST_CASE("A search that comes again is refused, counts, and is a flood in the end") {
  Bench bench;
  REQUIRE(bench.ask(7));
  REQUIRE(bench.ask(7));
  REQUIRE(bench.last(kAsker));
  CHECK(bench.last(kAsker)->missing == 1);
  std::size_t answered = 0;
  while (bench.ask(7)) REQUIRE(++answered < 2000);
  CHECK(answered >= 900);
  CHECK(bench.searches.under_way() == 1);
}

TEST_CASE("Strangers that use one number are told apart, and none ends the search of another") {
  Bench bench;
  constexpr LinkIndex kFirst{11};
  constexpr LinkIndex kSecond{12};
  const Search search{7, SearchKind::files, "file", 0, 100, 10'000};
  REQUIRE(bench.search(kFirst, Asker::stranger, search, {kHonest}));
  const std::uint64_t looked_up = *bench.to_look_up;
  REQUIRE(bench.search(kSecond, Asker::stranger, search, {kHonest}));
  REQUIRE(bench.asked(kHonest).size() == 2);
  const std::uint64_t first = bench.asked(kHonest)[0].id;
  const std::uint64_t second = bench.asked(kHonest)[1].id;
  CHECK(first != 7);
  CHECK(second != first);
  bench.searches.on_looked_up(looked_up, {0, true, 0, 0, false, {}, {}}, bench.now);
  bench.answer_hits(kHonest, first, hits(1, "honest"), true);
  bench.take();
  CHECK(bench.hits_of("honest", kFirst) == 1);
  CHECK(bench.hits_of("honest", kSecond) == 0);
  REQUIRE(bench.last(kFirst));
  CHECK(bench.last(kFirst)->id == 7);
  CHECK(bench.last(kFirst)->nodes == 2);
  CHECK_FALSE(bench.last(kSecond));
  bench.look_up();
  bench.answer_hits(kHonest, second, {}, true);
  REQUIRE(bench.last(kSecond));
  CHECK(bench.last(kSecond)->nodes == 2);
}

TEST_CASE("A neighbour that takes a number before a stranger's search has it keeps nobody from an answer") {
  Bench bench;
  REQUIRE(bench.search(kLiar, Asker::neighbour, {7, SearchKind::files, "x", 0, 100, 10'000}, {}));
  REQUIRE(bench.search(kAsker, Asker::stranger, {7, SearchKind::files, "file", 0, 100, 10'000}, {kHonest}));
  CHECK(bench.asked(kHonest).size() == 1);
  CHECK_FALSE(bench.last(kAsker));
}
