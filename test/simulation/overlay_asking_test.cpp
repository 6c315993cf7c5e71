// Who asks the overlay, and is answered by nodes and trackers that send what they like; and who asks a real node without end.
#include <fmt/core.h>
#include <catch2/catch_test_macros.hpp>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
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
import shoal.peer;
import shoal.report;
import shoal.sim;
import shoal.tracker;
import shoal.tree;
import shoal.wire;
import shoal.world;

#include "support/silent_report.hpp"

using namespace shoal;
using namespace std::chrono_literals;

namespace {

constexpr std::uint16_t kPort = 4000;
constexpr std::uint16_t kTrackerPort = 5555;
constexpr Nanoseconds kPatience = 60s;

using Answering = std::function<Task<>(World&, Link&, Search)>;

/// Takes connections, makes everybody welcome, and does with the first message what a test wants.
Task<> take_all(World& world, std::function<Task<>(World&, Link&, Message)> serve) {
  TaskGroup tasks([](const std::string&, const Error&) {});
  const auto listener = unwrap(world.listen({"0.0.0.0", kPort}));
  const auto serve_one = [](World& w, std::shared_ptr<Link> link, std::function<Task<>(World&, Link&, Message)> with) -> Task<> {
    co_await step(receive<Hello>(*link, kPatience));
    co_await step(send(*link, Welcome{kProtocolVersion, 0, "liar", 5}));
    link->established();
    co_await with(w, *link, std::get<Message>(co_await step(link->receive(kPatience))));
    static_cast<void>(co_await link->receive(kPatience));
  };
  for (;;) {
    const Executor strand = make_strand(world);
    std::shared_ptr<Link> link = unwrap(co_await listener->accept(strand));
    tasks.spawn(strand, "serving", serve_one(world, std::move(link), serve));
  }
}

Hit hit(std::string name) { return {{std::move(name), EntryKind::file, 1, 0, false, {}, {}}, "liar", {}, 9, 0, 0}; }
std::vector<Hit> hits(std::size_t count) { return std::vector<Hit>(count, hit("file")); }
SearchAnswer last_of(const Search& search, std::uint32_t nodes = 1) { return {search.id, true, nodes, 0, false, {}, {}}; }

struct Asked {
  std::optional<Result<OverlaySearch>> search;
  std::optional<Result<Topology>> topology;
  std::size_t hits = 0;
  Nanoseconds taken{0};

  bool is_over() const { return search || topology; }
};

PeerOptions asking(const Endpoint& of, bool is_tracker) {
  PeerOptions options;
  options.tracker = of;
  options.id = "asker";
  options.wait = 0s;
  options.overlay.emplace();
  if (!is_tracker) options.overlay->join = of;
  return options;
}

/// What a liar is asked: for a file, or for all nodes; as a node, or as the tracker.
enum class Question { file, nodes, nodes_of_tracker };

Asked ask(Question question, std::function<Task<>(World&, Link&, Message)> serve, std::string pattern = "file") {
  Asked asked;
  sim::Simulation simulation({});
  const sim::HostId liar = simulation.add_host({});
  const sim::HostId asker = simulation.add_host({});
  const Endpoint address{simulation.address_of(liar), kPort};
  simulation.start(liar, [&](World& world, Storage&, Signal&) { return take_all(world, serve); });
  simulation.run([] { return false; }, {100ms});
  simulation.start(asker, [&](World& world, Storage&, Signal&) -> Task<> {
    const Instant begun = world.now();
    if (question == Question::file)
      asked.search = co_await search_overlay(world, asking(address, false), pattern, [&](const Hit&) { ++asked.hits; });
    else
      asked.topology = co_await overlay_topology(world, asking(address, question == Question::nodes_of_tracker));
    asked.taken = world.now() - begun;
  });
  simulation.run([&] { return asked.is_over(); }, {5min});
  CHECK(asked.is_over());
  simulation.run([] { return false; }, {3s});  // until the liar finds that nobody is there any more
  return asked;
}

Asked ask_node(Question question, Answering answer, std::string pattern = "file") {
  return ask(
      question,
      [answer](World& world, Link& link, Message first) -> Task<> { co_await answer(world, link, std::get<Search>(std::move(first))); },
      std::move(pattern));
}

}  // namespace

// ---- a node that lies to who asks it --------------------------------------------------------------------

TEST_CASE("Hits without end are cut, and the connection is closed") {
  std::size_t sent = 0;
  const Asked asked = ask_node(Question::file, [&sent](World& world, Link& link, Search search) -> Task<> {
    for (;; ++sent) {
      co_await step(send(link, SearchAnswer{search.id, false, 0, 0, false, hits(100), {}}));
      co_await world.sleep(1ms);
    }
  });
  REQUIRE(*asked.search);
  CHECK((*asked.search)->is_cut);
  CHECK((*asked.search)->missing == 1);
  CHECK(asked.hits == Searches::kMostHits);
  CHECK(asked.taken < 1s);
  CHECK(sent < 100);
}

TEST_CASE("Nodes without end are no more than a search may bring") {
  const Asked asked = ask_node(Question::nodes, [](World& world, Link& link, Search search) -> Task<> {
    for (std::uint64_t nonce = 1;;) {
      SearchAnswer answer{search.id, false, 0, 0, false, {}, {}};
      for (int i = 0; i < 500; ++i) answer.found_nodes.push_back({{1, nonce++}, "p", {}, 9, {}});
      co_await step(send(link, std::move(answer)));
      co_await world.sleep(1ms);
    }
  });
  REQUIRE(*asked.topology);
  CHECK((*asked.topology)->missing == 1);
  CHECK((*asked.topology)->nodes.size() == Searches::kMostFoundNodes);
}

TEST_CASE("A node that says for ever that it goes on is not waited for longer than a search may take") {
  for (const bool brings_something : {false, true}) {
    const Asked asked = ask_node(Question::file, [brings_something](World& world, Link& link, Search search) -> Task<> {
      for (;;) {
        co_await step(send(link, SearchAnswer{search.id, false, 0, 0, false, hits(brings_something ? 1 : 0), {}}));
        co_await world.sleep(1s);
      }
    });
    CHECK(asked.taken < 15s);
    CHECK(asked.search->has_value() == brings_something);
    if (brings_something) CHECK((*asked.search)->missing == 1);
  }
}

TEST_CASE("The answer to another search is no answer") {
  const Asked asked = ask_node(Question::file, [](World&, Link& link, Search search) -> Task<> {
    co_await step(send(link, SearchAnswer{search.id + 1, true, 5, 0, false, hits(1), {}}));
  });
  CHECK_FALSE(*asked.search);
  CHECK(asked.hits == 0);
}

TEST_CASE("A node that says that no node was asked has not answered, and none counts more nodes than there can be") {
  Asked asked =
      ask_node(Question::file, [](World&, Link& link, Search search) -> Task<> { co_await step(send(link, last_of(search, 0))); });
  REQUIRE(*asked.search);
  CHECK((*asked.search)->missing == 1);
  asked =
      ask_node(Question::file, [](World&, Link& link, Search search) -> Task<> { co_await step(send(link, last_of(search, 0xffffffff))); });
  REQUIRE(*asked.search);
  CHECK((*asked.search)->asked == kMostNodes);
}

TEST_CASE("Hits that were not asked for, or for a search of another kind, are dropped") {
  const Asked files = ask_node(Question::file, [](World&, Link& link, Search search) -> Task<> {
    SearchAnswer answer = last_of(search);
    answer.hits = {hit("file"), hit("another"), hit("../file")};
    co_await step(send(link, std::move(answer)));
  });
  REQUIRE(*files.search);
  CHECK(files.hits == 1);
  const Asked nodes = ask_node(Question::nodes, [](World&, Link& link, Search search) -> Task<> {
    SearchAnswer answer = last_of(search);
    answer.hits = hits(3);
    answer.found_nodes = {{{1, 7}, "p", {}, 9, {{1, 7}, {2, 8}}}, {{2, 8}, "q", {}, 9, {}}, {{3, 7}, "r", {}, 9, {}}};
    co_await step(send(link, std::move(answer)));
  });
  REQUIRE(*nodes.topology);
  REQUIRE((*nodes.topology)->nodes.size() == 2);
  CHECK((*nodes.topology)->nodes.front().links.empty());  // one with itself, and one that the other knows nothing of
}

TEST_CASE("A pattern that is too long is a usage error, and nobody is asked") {
  bool is_asked = false;
  const Asked asked = ask_node(
      Question::file,
      [&is_asked](World&, Link&, Search) -> Task<> {
        is_asked = true;
        co_return;
      },
      std::string(kMaxPattern + 1, 'a'));
  REQUIRE_FALSE(*asked.search);
  CHECK(exit_code_of(asked.search->error()) == ExitCode::usage);
  CHECK(asked.taken == Nanoseconds::zero());
  CHECK_FALSE(is_asked);
}

// ---- a tracker that lies ----------------------------------------------------------------------------------

TEST_CASE("A list of a tracker that has no end, or belongs to another question, is a failure, soon") {
  const auto list = [](std::uint32_t query, Nanoseconds pause, std::size_t nodes) {
    return ask(Question::nodes_of_tracker, [query, pause, nodes](World& world, Link& link, Message) -> Task<> {
      for (std::uint64_t nonce = 1;;) {
        OverlayNodes page{query, false, {}};
        for (std::size_t i = 0; i < nodes; ++i) page.nodes.push_back({{1, nonce++}, "p", "10.0.0.1", 9, {}});
        co_await step(send(link, std::move(page)));
        co_await world.sleep(pause);
      }
    });
  };
  const Asked endless = list(1, 1ms, 500);
  CHECK_FALSE(*endless.topology);
  CHECK(endless.taken < 2s);
  const Asked slow = list(1, 1s, 1);
  CHECK_FALSE(*slow.topology);
  CHECK(slow.taken < 15s);
  CHECK_FALSE(*list(2, 1ms, 1).topology);
}

// ---- a real node ------------------------------------------------------------------------------------------

namespace {

/// A real node, and others that do what a test wants.
class Lab {
 public:
  Lab() : simulation({}), host(simulation.add_host({})), tracker(simulation.add_host({})) {
    simulation.start(tracker, [](World& world, Storage&, Signal& stop) { return be_tracker(world, stop); });
  }

  void start(std::function<void(const std::vector<Endpoint>&)> remember = nullptr, std::optional<Endpoint> join = std::nullopt) {
    start_on(host, "node", std::move(remember), std::move(join));
  }
  void start_on(sim::HostId on, const std::string& id, std::function<void(const std::vector<Endpoint>&)> remember,
                std::optional<Endpoint> join) {
    const Endpoint at{simulation.address_of(tracker), kTrackerPort};
    simulation.start(on,
                     [=](World& world, Storage& storage, Signal& stop) { return be_node(world, storage, stop, at, id, remember, join); });
  }
  void pass(Nanoseconds time) {
    simulation.run([] { return false; }, {time});
  }
  Endpoint address() const { return {simulation.address_of(host), kPort}; }

  sim::Simulation simulation;
  sim::HostId host;
  sim::HostId tracker;

 private:
  static Task<> be_tracker(World& world, Signal& stop) {
    const test::SilentReport silent;
    TrackerOptions options;
    options.listen = {"0.0.0.0", kTrackerPort};
    unwrap(co_await run_tracker(world, *silent.report, options, stop));
  }
  static Task<> be_node(World& world, Storage& storage, Signal& stop, Endpoint at, std::string id,
                        std::function<void(const std::vector<Endpoint>&)> remember, std::optional<Endpoint> join) {
    const test::SilentReport silent;
    PeerOptions options;
    options.tracker = std::move(at);
    options.listen = {"0.0.0.0", kPort};
    options.id = std::move(id);
    options.appetite = Appetite::nothing;
    options.overlay.emplace();
    options.overlay->join = std::move(join);
    options.overlay->remember = std::move(remember);
    static_cast<void>(co_await run_member(world, *silent.report, storage, options, stop));
  }
};

Hello question(const std::string& id) {
  Hello hello;
  hello.role = Role::question;
  hello.id = id;
  hello.instance = 7;
  return hello;
}

/// A connection that was made welcome, to ask.
Task<std::shared_ptr<Link>> connect_to_ask(World& world, Endpoint to) {
  std::shared_ptr<Link> link = unwrap(co_await world.connect(std::move(to), make_strand(world), kPatience));
  co_await step(send(*link, question("stranger")));
  co_await step(receive<Welcome>(*link, kPatience));
  link->established();
  co_return link;
}

}  // namespace

TEST_CASE("However many idle connections somebody has, who comes to ask is answered") {
  Lab lab;
  lab.start();
  lab.pass(500ms);
  std::vector<std::shared_ptr<Link>> idle;
  std::size_t failed = 0;
  lab.simulation.start(lab.simulation.add_host({}), [&](World& world, Storage&, Signal& stop) -> Task<> {
    for (int i = 0; i < 3000; ++i) {
      auto link = co_await world.connect(lab.address(), make_strand(world), kPatience);
      if (!link || !co_await (*link)->send({question("idle")})) {
        ++failed;
        continue;
      }
      idle.push_back(std::move(*link));
    }
    co_await stop.wait();
  });
  const sim::HostId asker = lab.simulation.add_host({});
  std::optional<Result<OverlaySearch>> found;
  lab.simulation.run([&] { return idle.size() + failed >= 3000; }, {3s});
  lab.simulation.start(asker, [&](World& world, Storage&, Signal&) -> Task<> {
    found = co_await search_overlay(world, asking(lab.address(), false), "file", [](const Hit&) {});
  });
  lab.simulation.run([&] { return found.has_value(); }, {1s});
  REQUIRE(found);
  REQUIRE(*found);
  CHECK((*found)->asked == 1);
  lab.simulation.stop(lab.host);
  lab.pass(5s);
  idle.clear();
}

TEST_CASE("Who has asked, and waits for an answer or says nothing more, gives way last to others of its own machine") {
  Lab lab;
  lab.start();
  lab.pass(500ms);
  bool is_answered = false;
  lab.simulation.start(lab.simulation.add_host({}), [&](World& world, Storage&, Signal& stop) -> Task<> {
    const auto early = co_await connect_to_ask(world, lab.address());
    std::vector<std::shared_ptr<Link>> idle;
    for (int i = 0; i < 520; ++i) {
      co_await step(send(*early, LoadRequest{1}));
      co_await step(receive<LoadReply>(*early, kPatience));
      idle.push_back(unwrap(co_await world.connect(lab.address(), make_strand(world), kPatience)));
    }
    is_answered = true;
    co_await stop.wait();
  });
  lab.simulation.run([&] { return is_answered; }, {4s});
  CHECK(is_answered);
  lab.simulation.stop(lab.host);
  lab.pass(5s);
}

TEST_CASE("A stranger whose search is refused has to connect again for the next") {
  Lab lab;
  lab.start();
  lab.pass(500ms);
  std::size_t answers = 0;
  bool is_closed = false;
  lab.simulation.start(lab.simulation.add_host({}), [&](World& world, Storage&, Signal&) -> Task<> {
    const auto link = co_await connect_to_ask(world, lab.address());
    std::vector<Message> many(5000, Search{7, SearchKind::files, "x", 0, 10, 1000});
    static_cast<void>(co_await link->send(std::move(many)));
    while (co_await receive<SearchAnswer>(*link, kPatience)) ++answers;
    is_closed = true;
  });
  lab.simulation.run([&] { return is_closed; }, {10s});
  CHECK(is_closed);
  CHECK(answers <= 110);
  lab.simulation.stop(lab.host);
  lab.pass(5s);
}

TEST_CASE("Nodes that were heard of are kept as soon as there is a link, and when the node leaves") {
  Lab lab;
  const sim::HostId first = lab.simulation.add_host({});
  const sim::HostId third = lab.simulation.add_host({});
  const Endpoint of_first{lab.simulation.address_of(first), kPort};
  const Endpoint of_third{lab.simulation.address_of(third), kPort};
  std::vector<std::vector<Endpoint>> kept;
  lab.start_on(first, "first", nullptr, std::nullopt);
  lab.pass(500ms);
  lab.start([&](const std::vector<Endpoint>& contacts) { kept.push_back(contacts); }, of_first);
  lab.pass(1s);
  REQUIRE(kept.size() == 1);
  CHECK(kept.front() == std::vector{of_first});
  lab.start_on(third, "third", nullptr, lab.address());
  lab.pass(1s);
  CHECK(kept.size() == 1);
  lab.simulation.stop(lab.host);
  lab.pass(1s);
  REQUIRE(kept.size() == 2);
  CHECK(std::ranges::find(kept.back(), of_third) != kept.back().end());
  lab.simulation.stop(first);
  lab.simulation.stop(third);
  lab.pass(5s);
}
