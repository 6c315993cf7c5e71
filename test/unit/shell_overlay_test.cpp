// What the shell does with the overlay, and what it says of it.
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <catch2/catch_test_macros.hpp>
#include <tl/expected.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

import shoal.base;
import shoal.peer;
import shoal.report;
import shoal.shell;
import shoal.wire;
import shoal.world;

using namespace shoal;
namespace asio = boost::asio;

namespace {

using Words = std::vector<std::string>;

/// A node that answers as it was told to.
class FakeControl final : public PeerControl {
 public:
  Task<bool> wait_until_ready() override { co_return is_ready; }
  Task<Result<ListChange>> update_list() override { co_return ListChange{}; }
  Task<Result<std::uint32_t>> load_of(Endpoint) override { co_return 0U; }
  Task<Result<LocateAnswer>> find(std::string pattern) override {
    asked = "tracker: " + pattern;
    co_return located;
  }
  Task<Result<std::vector<Fetched>>> download(std::string, bool) override { co_return std::vector<Fetched>{}; }
  Task<Result<std::vector<Finding>>> list(std::string) override { co_return std::vector<Finding>{}; }
  Task<Result<std::vector<Choice>>> why(std::string) override { co_return std::vector<Choice>{}; }
  Task<Result<OverlaySearch>> search(std::string pattern, OnHit on_hit) override {
    asked = "overlay: " + pattern;
    for (const Hit& hit : hits) on_hit(hit);
    co_return searched;
  }
  Task<Result<Topology>> topology() override { co_return seen; }
  PeerStatus status() override { return {}; }
  std::vector<PeerView> peers() override { return {}; }
  std::vector<std::string> known_names() override { return {}; }
  Task<> let_finish(Nanoseconds) override {
    ++finished;
    co_return;
  }
  void interrupt() override {}

  bool is_ready = true;
  std::string asked;
  int finished = 0;
  Result<LocateAnswer> located;
  std::vector<Hit> hits;
  Result<OverlaySearch> searched;
  Result<Topology> seen;
};

class FakeLines final : public Lines {
 public:
  explicit FakeLines(std::deque<std::string> lines) : lines_(std::move(lines)) {}
  bool is_terminal() const override { return false; }
  Task<std::optional<std::string>> next(KnownWords) override {
    if (lines_.empty()) co_return std::nullopt;
    std::string line = std::move(lines_.front());
    lines_.pop_front();
    co_return line;
  }
  void abandon(std::string) override {}
  bool write(std::FILE* stream, std::string_view text) override { return write_whole(stream, text); }

 private:
  std::deque<std::string> lines_;
};

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

std::string content(const File& file) {
  std::fflush(file.get());
  std::string text(static_cast<std::size_t>(std::ftell(file.get())), '\0');
  std::rewind(file.get());
  text.resize(std::fread(text.data(), 1, text.size(), file.get()));
  return text;
}

struct Said {
  ExitCode exit = ExitCode::unknown;
  std::string out;
  std::string err;
};

Said say(FakeControl& control, std::deque<std::string> typed, bool json = false) {
  const File out(std::tmpfile());
  const File err(std::tmpfile());
  ReportOptions options;
  options.json = json;
  options.program = "shoal-peer";
  options.out = out.get();
  options.err = err.get();
  auto report = std::move(*Report::open(std::move(options)));
  FakeLines lines(std::move(typed));
  Interrupts interrupts(lines, [] {});
  Said said;
  asio::io_context io;
  asio::co_spawn(io, run_shell(*report, control, lines, interrupts), [&](const std::exception_ptr& problem, ExitCode exit) {
    if (!problem) said.exit = exit;
  });
  io.run();
  report->flush();
  report.reset();
  said.out = content(out);
  said.err = content(err);
  return said;
}

Hit some_hit(const std::string& name, std::uint32_t hops) {
  Hit hit;
  hit.entry.name = name;
  hit.entry.size = 2048;
  hit.entry.md5.bytes.fill(0xab);
  hit.id = "mars";
  hit.host = "10.0.0.3";
  hit.port = 4000;
  hit.load = 2;
  hit.hops = hops;
  return hit;
}

/// s1 in the middle, s2 and s3 at its sides.
Topology small_tree() {
  Topology tree;
  for (std::uint32_t i = 1; i <= 3; ++i)
    tree.nodes.push_back({{i, i}, "peer" + std::to_string(i), "10.0.0.1", static_cast<std::uint16_t>(5000 + i), {}});
  tree.nodes[0].links = {{3, 3}, {2, 2}};
  tree.nodes[1].links = tree.nodes[2].links = {{1, 1}};
  return tree;
}

bool has(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("find is asked of the tracker unless the line says otherwise") {
  FakeControl control;
  say(control, {"find x"});
  CHECK(control.asked == "tracker: x");
  for (const std::string line : {"find x --via overlay", "find --via overlay x", "find --via=overlay x"}) {
    control.asked.clear();
    say(control, {line});
    CHECK(control.asked == "overlay: x");
  }
  say(control, {"find --via tracker y"});
  CHECK(control.asked == "tracker: y");
}

TEST_CASE("A way to search that does not exist is a usage error") {
  FakeControl control;
  CHECK(say(control, {"find x --via"}).exit == ExitCode::usage);
  const Said said = say(control, {"find x --via web"});
  CHECK(said.exit == ExitCode::usage);
  CHECK(has(said.err, "'web' is no way to search"));
  CHECK(control.asked.empty());
}

TEST_CASE("Each hit of a search is a line, and the number of nodes a note") {
  FakeControl control;
  control.hits = {some_hit("a.iso", 1), some_hit("b.iso", 3)};
  control.searched = OverlaySearch{5, 0, false};
  const Said said = say(control, {"find *.iso --via overlay"});
  CHECK(said.exit == ExitCode::done);
  CHECK(said.out ==
        "10.0.0.3:4000            2.00 KiB  abababababababababababababababab    1 hop  a.iso  mars\n"
        "10.0.0.3:4000            2.00 KiB  abababababababababababababababab   3 hops  b.iso  mars\n");
  CHECK(said.err == "2 hits, 5 nodes asked\n");
}

TEST_CASE("A hit is an event with all that is known of it") {
  FakeControl control;
  control.hits = {some_hit("a.iso", 1)};
  control.searched = OverlaySearch{2, 0, false};
  const Said said = say(control, {"find a.iso --via overlay"}, true);
  CHECK(has(said.out, R"("event":"hit")"));
  CHECK(has(said.out, R"("name":"a.iso","bytes":2048,"md5":"abababababababababababababababab","root":")"));
  CHECK(has(said.out, R"("peer":"mars","address":"10.0.0.3:4000","load":2,"hops":1)"));
}

TEST_CASE("What no node has is not found anywhere") {
  FakeControl control;
  control.searched = OverlaySearch{5, 0, false};
  const Said said = say(control, {"find x --via overlay"});
  CHECK(said.exit == ExitCode::not_found);
  CHECK(said.out.empty());
  CHECK(said.err == "shoal-peer: not found anywhere (5 nodes asked)\n");
}

TEST_CASE("A search that branches did not answer is incomplete, with hits and without") {
  FakeControl control;
  control.searched = OverlaySearch{4, 1, false};
  for (const std::vector<Hit>& hits : {std::vector<Hit>{}, {some_hit("a.iso", 1)}}) {
    control.hits = hits;
    const Said said = say(control, {"find x --via overlay"});
    CHECK(said.exit == ExitCode::partial);
    CHECK(said.err == "shoal-peer: incomplete: 1 branch did not answer in time (4 nodes asked)\n");
  }
  control.searched = OverlaySearch{1, 2, false};
  CHECK(has(say(control, {"find x --via overlay"}).err, "2 branches did not answer in time (1 node asked)"));
}

TEST_CASE("A search that found more than it sends says so") {
  FakeControl control;
  control.hits = {some_hit("a.iso", 1)};
  control.searched = OverlaySearch{4, 0, true};
  CHECK(has(say(control, {"find * --via overlay"}).err, "more precise"));
}

TEST_CASE("A search that cannot be made fails as it says") {
  FakeControl control;
  control.searched = fail(Errc::refused, "this peer is no node of the overlay");
  const Said said = say(control, {"find x --via overlay"});
  CHECK(said.exit == ExitCode::network);
  CHECK(has(said.err, "this peer is no node of the overlay"));
}

TEST_CASE("A find that the overlay answers as the tracker is away says that") {
  FakeControl control;
  LocateAnswer answer;
  answer.files.resize(1);
  answer.via_overlay = OverlaySearch{5, 0, false};
  control.located = answer;
  Said said = say(control, {"find x"});
  CHECK(said.exit == ExitCode::done);
  CHECK(said.err == "the tracker is away: 5 nodes asked\n");

  answer.via_overlay->missing = 1;
  control.located = answer;
  said = say(control, {"find x"});
  CHECK(said.exit == ExitCode::partial);
  CHECK(has(said.err, "incomplete: 1 branch did not answer in time (5 nodes asked)"));

  control.located = LocateAnswer{{}, 0, 0, {}, OverlaySearch{5, 0, false}};
  said = say(control, {"find x"});
  CHECK(said.exit == ExitCode::not_found);
  CHECK(has(said.err, "not found anywhere (5 nodes asked)"));
}

TEST_CASE("topo draws the tree with names and addresses") {
  FakeControl control;
  control.seen = small_tree();
  control.seen->is_from_tracker = true;
  const Said said = say(control, {"topo"});
  CHECK(said.exit == ExitCode::done);
  CHECK(said.out == "s1  peer1 (10.0.0.1:5001)\n|- s2  peer2 (10.0.0.1:5002)\n`- s3  peer3 (10.0.0.1:5003)\n");
  CHECK(said.err.empty());
  CHECK(say(control, {"topo --dot"}).out.starts_with("graph overlay {"));
}

TEST_CASE("What the nodes told of themselves is said to be that") {
  FakeControl control;
  control.seen = small_tree();
  CHECK(say(control, {"topo"}).err == "3 nodes told of themselves, through the overlay\n");
}

TEST_CASE("A tree of which nothing is known is not called empty") {
  FakeControl control;
  control.seen = Topology{{}, false, 1};
  const Said said = say(control, {"topo"});
  CHECK(said.exit == ExitCode::partial);
  CHECK(said.out.empty());
}

TEST_CASE("A pattern that no name can be as long as is a mistake in the line") {
  FakeControl control;
  const Said said = say(control, {"find " + std::string(8193, 'x')});
  CHECK(said.exit == ExitCode::usage);
  CHECK(control.asked.empty());
}

TEST_CASE("Each node is an event with its links by name") {
  FakeControl control;
  control.seen = small_tree();
  const Said said = say(control, {"topo"}, true);
  CHECK(has(said.out, R"("name":"s1","peer":"peer1","address":"10.0.0.1:5001","links":"s2 s3")"));
}

TEST_CASE("A network without nodes is empty") {
  FakeControl control;
  control.seen = Topology{};
  const Said said = say(control, {"topo"});
  CHECK(said.exit == ExitCode::done);
  CHECK(said.out == "empty network\n");
}

TEST_CASE("A tree of which branches did not answer is incomplete") {
  FakeControl control;
  control.seen = small_tree();
  control.seen->missing = 1;
  const Said said = say(control, {"topo"});
  CHECK(said.exit == ExitCode::partial);
  CHECK(has(said.out, "peer3"));
  CHECK(said.err == "3 nodes told of themselves, through the overlay\nshoal-peer: incomplete: 1 branch did not answer in time\n");
}

TEST_CASE("A picture for Graphviz has a line a node and a link, whatever the nodes are called") {
  FakeControl control;
  control.seen = small_tree();
  control.seen->nodes[1].id = "a\n}\x1b\"";
  const File out(std::tmpfile());
  ReportOptions options;
  options.out = options.err = out.get();
  control.seen->is_from_tracker = true;
  {
    const auto report = std::move(*Report::open(std::move(options)));
    REQUIRE(print_topology(*report, *control.seen, true).has_value());
  }
  const std::string text = content(out);
  CHECK(text ==
        "graph overlay {\n"
        "  node [shape=box];\n"
        "  n1 [label=\"s1  peer1 (10.0.0.1:5001)\"];\n"
        "  n2 [label=\"s2  a\\\\x0a}\\\\x1b\\\" (10.0.0.1:5002)\"];\n"
        "  n3 [label=\"s3  peer3 (10.0.0.1:5003)\"];\n"
        "  n1 -- n3;\n"
        "  n1 -- n2;\n"
        "}\n");
}

TEST_CASE("A shell that is stopped before it was ready does not say that it is") {
  FakeControl control;
  control.is_ready = false;
  const Said said = say(control, {"find x"}, true);
  CHECK(said.exit == ExitCode::interrupted);
  CHECK_FALSE(has(said.out, "ready"));
  CHECK(control.asked.empty());
}

TEST_CASE("stop is another word for exit") {
  FakeControl control;
  control.searched = OverlaySearch{1, 0, false};
  const Said said = say(control, {"stop", "find x --via overlay"});
  CHECK(said.exit == ExitCode::done);
  CHECK(control.finished == 1);
  CHECK(control.asked.empty());
}

TEST_CASE("Options and their values are completed where a command has them") {
  const KnownWords known{{"alpha.iso"}, {}};
  CHECK(complete("find --", known).choices == Words{"--via"});
  CHECK(complete("download --", known).choices == Words{"--one"});
  CHECK(complete("find --via ", known).choices == Words{"overlay", "tracker"});
  CHECK(complete("find al --via o", known).choices == Words{"overlay"});
  CHECK(complete("find --via overlay al", known).choices == Words{"alpha.iso"});
  CHECK(complete("find --via overlay x al", known).choices.empty());
  CHECK(complete("ls --", known).choices.empty());
  CHECK(hint_for("find ").starts_with("find PATTERN [--via overlay]"));
}
