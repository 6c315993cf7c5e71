// Peers that answer nothing, or nonsense: whoever has to do with them gets on as if they were not there.
#include <catch2/catch_test_macros.hpp>

#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

import shoal.base;
import shoal.digest;
import shoal.peer;
import shoal.report;
import shoal.sim;
import shoal.wire;
import shoal.world;

#include "simulation/checks.hpp"
#include "simulation/scenarios.hpp"
#include "support/silent_report.hpp"

using namespace shoal;
using namespace shoal::simulation;
using namespace std::chrono_literals;

namespace {

sim::Options options_of(std::uint64_t seed) {
  sim::Options options;
  options.seed = seed;
  options.bytes = sim::Bytes::marks;
  options.messages = sim::Messages::values;
  return options;
}

sim::HostOptions host_at(double rate, Nanoseconds latency = 100us) {
  sim::HostOptions host;
  host.up = host.down = rate;
  host.latency = latency;
  return host;
}

PeerPlan source_at(const sim::HostOptions& host, std::string name, const sim::ContentPtr& content) {
  PeerPlan source{host, {{std::move(name), content}}};
  source.is_fetching = false;
  return source;
}

/// Fetches from a source with a round trip of 100 ms, while `near`, where there is such a one, has all of it, too.
Figures beside_who_is_near(std::uint64_t seed, const std::optional<sim::HostOptions>& near) {
  Swarm swarm(options_of(seed), 0);
  const auto content = swarm.simulation().content(1, 32 * kMiB);
  swarm.add(source_at(host_at(4e6, 50ms), "file", content));
  swarm.add({host_at(4e6), {}});
  if (near) swarm.add(source_at(*near, "copy", content));
  swarm.start_all();
  return swarm.finish({1min});
}

/// Passes over that part of what it is asked for.
sim::HostOptions silent(double part) {
  sim::HostOptions host = host_at(4e6);
  host.lies.silence = part;
  return host;
}

/// Whoever is near and passes over that part delays a get by less than `most`.
void check_delay(double part, Nanoseconds most) {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    CAPTURE(seed);
    const Figures beside = beside_who_is_near(seed, silent(part));
    check_whole(beside);
    CHECK(beside.taken < beside_who_is_near(seed, std::nullopt).taken + most);
  }
}

}  // namespace

TEST_CASE("Who is near, has everything and answers nothing keeps nobody from what is far") { check_delay(1, 2s); }

TEST_CASE("Who is near and passes over some of what it is asked for delays nobody for long") { check_delay(0.02, 3s); }

namespace {

constexpr Nanoseconds kPatience = 20s;

Hello hello_as(Role role, std::string id) {
  Hello hello;
  hello.role = role;
  hello.id = std::move(id);
  hello.instance = 77;
  return hello;
}

/// Where a peer listens, as the tracker says. It has to offer something.
Task<Endpoint> address_of(World& world, Endpoint tracker, std::string id) {
  const auto link = unwrap(co_await world.connect(std::move(tracker), make_strand(world), kPatience));
  co_await step(link->send({hello_as(Role::peer_to_tracker, "asks"), Find{1, "*"}}));
  co_await step(receive<Welcome>(*link, kPatience));
  link->established();
  const auto roster = co_await step(receive<Roster>(*link, kPatience));
  link->close();
  for (const RosterEntry& entry : roster.peers)
    if (entry.id == id) co_return Endpoint{entry.host, entry.port};
  throw StepFailed(Error{make_error_code(Errc::not_found), id, {}});
}

/// A neighbour of its own making, greeted, that wants to hear of everything.
Task<std::unique_ptr<Link>> connect_as_neighbour(World& world, Endpoint peer, std::string id) {
  auto link = unwrap(co_await world.connect(std::move(peer), make_strand(world), kPatience));
  co_await step(link->send({hello_as(Role::peer_to_peer, std::move(id)), Subscribe{}}));
  co_await step(receive<Welcome>(*link, kPatience));
  link->established();
  co_return link;
}

/// What somebody offers, as it says first.
Task<Holding> offered_by(Link& link) {
  for (;;) {
    const Incoming incoming = co_await step(link.receive(kPatience));
    const auto* message = std::get_if<Message>(&incoming);
    if (const auto* inventory = message ? std::get_if<Inventory>(message) : nullptr) co_return inventory->holdings.front();
  }
}

class Zeros final : public ChunkSource {
 public:
  std::uint64_t size() const override { return kChunkSize; }
  Result<> read(std::uint64_t, std::span<std::byte> out) const override {
    std::ranges::fill(out, std::byte{0});
    return {};
  }
  Result<> check() const override { return {}; }
};

/// Says that it has all of a content. Of what it is asked for it sends a byte at first, and another one with each ping.
Task<> send_bytes_now_and_then(World& world, Endpoint tracker, std::string victim, sim::ContentPtr content) {
  const auto link = co_await connect_as_neighbour(world, co_await address_of(world, std::move(tracker), std::move(victim)), "slow");
  co_await step(send(*link, Inventory{{{9, content->root, content->size, true, 0, {}}}}));
  std::map<std::uint32_t, std::uint32_t> sent;
  for (;;) {
    const Incoming incoming = co_await step(link->receive(kPatience));
    const Message& message = std::get<Message>(incoming);
    if (const auto* hashes = std::get_if<HashRequest>(&message)) co_await step(send(*link, HashReply{9, hashes->span, {}, {}}));
    if (const auto* request = std::get_if<Request>(&message))
      for (const ChunkRef& ref : request->chunks) sent.emplace(ref.chunk, 0);
    const auto* ping = std::get_if<Ping>(&message);
    const auto now = world.now().time_since_epoch().count();
    if (ping) co_await step(send(*link, Pong{ping->t1, now, now}));
    for (auto& [chunk, bytes] : sent)
      if (ping || bytes == 0) co_await step(link->send_chunk({9, chunk, bytes++, 1}, std::make_shared<Zeros>(), 0));
  }
}

Request all_of(const Holding& holding) {
  Request request;
  for (std::uint32_t chunk = 0; chunk < chunk_count(holding.size); ++chunk) request.chunks.push_back({holding.handle, chunk});
  return request;
}

/// Says that its pings took for ever, asks for everything once, and tells nobody that it has got any of it.
Task<> ask_once_and_lie(World& world, Endpoint tracker, std::string victim) {
  const auto link = co_await connect_as_neighbour(world, co_await address_of(world, std::move(tracker), std::move(victim)), "liar");
  co_await step(link->send({Pong{1, 1, 1}, Ping{}}));
  co_await step(send(*link, all_of(co_await offered_by(*link))));
  std::vector<std::byte> payload;
  for (;;) {
    const Incoming incoming = co_await step(link->receive(kPatience));
    if (const auto* header = std::get_if<ChunkHeader>(&incoming)) {
      payload.resize(header->length);
      co_await step(link->receive_payload(payload));
    } else if (std::holds_alternative<Ping>(std::get<Message>(incoming))) {
      co_await step(link->send({Pong{1, 1, 1}, Ping{}}));
    }
  }
}

/// Asks for everything again and again, with or without taking it back before, and reads nothing.
Task<> ask_for_ever(World& world, Endpoint tracker, std::string victim, bool takes_back) {
  const auto link = co_await connect_as_neighbour(world, co_await address_of(world, std::move(tracker), std::move(victim)), "greedy");
  const Request all = all_of(co_await offered_by(*link));
  for (;;) {
    if (takes_back) co_await step(send(*link, Cancel{all.chunks}));
    co_await step(send(*link, all));
    co_await world.sleep(400ms);
  }
}

using Hostile = std::function<Task<>(World& world, Endpoint tracker, std::string victim)>;

/// Somebody who has to do with that peer, on a host that is near all that are.
void begin(Swarm& swarm, const Hostile& hostile, std::size_t victim) {
  swarm.simulation().start(swarm.simulation().add_host(host_at(100e6)),
                           [&swarm, hostile, victim](World& world, Storage&, Signal&) -> Task<> {
                             try {
                               co_await hostile(world, {swarm.simulation().address_of(swarm.tracker()), 5555}, swarm.id_of(victim));
                             } catch (const StepFailed&) {  // the other has closed the connection
                             }
                           });
}

/// One fetches from a source that somebody got at first.
Figures beside(const Hostile& hostile, std::uint64_t bytes, double rate) {
  Swarm swarm(options_of(1), 0);
  swarm.add(source_at(host_at(rate), "file", swarm.simulation().content(1, bytes)));
  swarm.add({host_at(rate), {}});
  swarm.start_tracker();
  swarm.start(0);
  swarm.simulation().run([] { return false; }, {1s});
  if (hostile) begin(swarm, hostile, 0);
  swarm.simulation().run([] { return false; }, {200ms});
  swarm.start(1);
  const Figures figures = swarm.finish({2min});
  return figures;
}

}  // namespace

TEST_CASE("Who is near and sends a byte now and then keeps nobody from what is far") {
  Swarm swarm(options_of(1), 0);
  const auto content = swarm.simulation().content(1, 32 * kMiB);
  swarm.add(source_at(host_at(4e6, 50ms), "file", content));
  swarm.add({host_at(4e6), {{"own", swarm.simulation().content(2, 1000)}}});
  swarm.start_tracker();
  swarm.start(1);
  swarm.simulation().run([] { return false; }, {1s});
  const auto hostile = [content](World& world, Endpoint tracker, std::string victim) {
    return send_bytes_now_and_then(world, std::move(tracker), std::move(victim), content);
  };
  begin(swarm, hostile, 1);
  swarm.simulation().run([] { return false; }, {1s});
  swarm.start(0);
  const Figures figures = swarm.finish({1min});
  check_whole(figures);
  CHECK(figures.taken < 2s + beside_who_is_near(1, std::nullopt).taken + 3s);
}

TEST_CASE("Who lies about its round trip and asks for everything keeps nobody else waiting") {
  const Figures figures = beside(ask_once_and_lie, 64 * kMiB, 12e6);
  check_whole(figures);
  CHECK(figures.taken < 2 * beside(nullptr, 64 * kMiB, 12e6).taken + 3s);
}

TEST_CASE("Who asks for the same again and again, and takes none of it, keeps nobody else from it") {
  for (const bool takes_back : {false, true}) {
    CAPTURE(takes_back);
    const auto hostile = [takes_back](World& world, Endpoint tracker, std::string victim) {
      return ask_for_ever(world, std::move(tracker), std::move(victim), takes_back);
    };
    const Figures figures = beside(hostile, 600 * kMiB, 120e6);
    check_whole(figures);
    CHECK(figures.taken < 2 * beside(nullptr, 600 * kMiB, 120e6).taken + 3s);
  }
}

namespace {

/// How long a get with little in flight takes from a source, after another one has been asked for all that and stalled.
Nanoseconds time_of_get(bool has_stalled) {
  Swarm swarm(options_of(1), 0);
  const auto content = swarm.simulation().content(1, 64 * kMiB);
  const sim::HostOptions far = host_at(12e6, 50ms);
  sim::HostOptions stalled = far;
  stalled.lies.silence = 1;
  swarm.add(source_at(has_stalled ? stalled : far, "file", content));
  swarm.add(source_at(far, "copy", content));
  swarm.start_tracker();
  swarm.start(0);
  swarm.simulation().run([] { return false; }, {1s});
  bool is_done = false;
  const sim::HostId host = swarm.simulation().add_host(host_at(0));
  swarm.simulation().start(host, [&](World& world, Storage& storage, Signal& stop) -> Task<> {
    const test::SilentReport silent;
    PeerOptions options;
    options.tracker = {swarm.simulation().address_of(swarm.tracker()), 5555};
    options.listen = {"0.0.0.0", 0};
    options.id = "gets";
    options.most_in_flight = 2 * kMiB;
    is_done = unwrap(co_await run_get(world, *silent.report, storage, options, {"file"}, stop)).exit == ExitCode::done;
  });
  swarm.simulation().run([] { return false; }, {1s});
  swarm.start(1);
  const Nanoseconds begun = swarm.simulation().now();
  swarm.simulation().run([&] { return is_done; }, {2min});
  REQUIRE(is_done);
  return swarm.simulation().now() - begun;
}

}  // namespace

TEST_CASE("What was asked of who has stalled takes no room in flight from others, once it was given up") { CHECK(time_of_get(true) < 12s); }

namespace {

constexpr std::uint16_t kFirstPort = 1000;

/// Lets everybody in, and says nothing more than it has to.
Task<> keep_company(World& world, std::shared_ptr<Listener> listener, std::string id, std::size_t& accepted) {
  const auto link = unwrap(co_await listener->accept(make_strand(world)));
  ++accepted;
  co_await step(receive<Hello>(*link, kPatience));
  Welcome welcome;
  welcome.id = id;
  welcome.instance = kFirstPort;
  co_await step(send(*link, std::move(welcome)));
  link->established();
  for (;;) {
    const Incoming incoming = co_await step(link->receive(kPatience));
    if (std::holds_alternative<Ping>(std::get<Message>(incoming))) co_await step(send(*link, Ping{}));
  }
}

/// A tracker that tells of so many peers at `host`, and later that one more wants to be connected with.
Task<> introduce_all(World& world, std::string host, std::uint16_t peers) {
  const auto listener = unwrap(world.listen({"0.0.0.0", 5555}));
  const auto link = unwrap(co_await listener->accept(make_strand(world)));
  co_await step(receive<Hello>(*link, kPatience));
  co_await step(send(*link, Welcome{}));
  link->established();
  co_await step(receive<Register>(*link, kPatience));
  Registered registered;
  registered.peer = PeerId(peers);
  registered.epoch = 1;
  Roster roster;
  for (std::uint16_t i = 0; i < peers; ++i)
    roster.peers.push_back({PeerId(i), "p" + std::to_string(i), host, static_cast<std::uint16_t>(kFirstPort + i), true, false});
  co_await step(link->send({std::move(registered), std::move(roster)}));
  co_await world.sleep(2s);
  co_await step(send(*link, ConnectTo{"caller", host, static_cast<std::uint16_t>(kFirstPort + peers)}));
  co_await world.sleep(kPatience);
}

}  // namespace

TEST_CASE("A peer that has opened many connections connects to one more where that is wanted") {
  constexpr std::uint16_t kPeers = 40;
  sim::Simulation simulation(options_of(1));
  const sim::HostId tracker = simulation.add_host({});
  const sim::HostId others = simulation.add_host({});
  const sim::HostId host = simulation.add_host({});
  std::size_t accepted = 0;
  simulation.start(others, [&](World& world, Storage&, Signal& stop) -> Task<> {
    TaskGroup tasks([](const std::string&, const Error&) {});
    for (std::uint16_t i = 0; i <= kPeers; ++i)
      tasks.spawn(make_strand(world), "company",
                  keep_company(world, unwrap(world.listen({"0.0.0.0", static_cast<std::uint16_t>(kFirstPort + i)})),
                               i < kPeers ? "p" + std::to_string(i) : "caller", accepted));
    co_await stop.wait();
    tasks.cancel();
    co_await tasks.join();
  });
  simulation.start(tracker, [&](World& world, Storage&, Signal&) { return introduce_all(world, simulation.address_of(others), kPeers); });
  simulation.start(host, [&](World& world, Storage& storage, Signal& stop) -> Task<> {
    const test::SilentReport silent;
    PeerOptions options;
    options.tracker = {simulation.address_of(tracker), 5555};
    options.listen = {"0.0.0.0", 0};
    options.id = "self";
    co_await run_member(world, *silent.report, storage, options, stop);
  });
  simulation.run([&] { return accepted == kPeers; }, {2s});
  REQUIRE(accepted == kPeers);
  simulation.run([&] { return accepted > kPeers; }, {5s});
  CHECK(accepted == kPeers + 1);
}
