#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/this_coro.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
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

/// So many peers at 100 Mbit/s, and a file of a few MiB, really hashed.
Scale scale_of(std::size_t peers, std::uint64_t seed = 1) {
  Scale scale;
  scale.peers = peers;
  scale.bytes = 2 * kMiB + 12'345;
  scale.options.seed = seed;
  scale.limits.time = 10min;
  return scale;
}

Scale marked(Scale scale) {
  scale.options.bytes = sim::Bytes::marks;
  scale.options.messages = sim::Messages::values;
  return scale;
}

sim::HostOptions host_at(double rate) {
  sim::HostOptions host;
  host.up = host.down = rate;
  return host;
}

/// The first peer has a file of `bytes`, and so many others, on machines alike, want it.
void add_source_and_fetchers(Swarm& swarm, const sim::HostOptions& host, std::uint64_t bytes, std::size_t fetchers) {
  PeerPlan source{host, {}};
  source.files.emplace_back("file", swarm.simulation().content(1, bytes));
  swarm.add(std::move(source));
  for (std::size_t i = 0; i < fetchers; ++i) swarm.add({host, {}});
}

}  // namespace

TEST_CASE("Four real peers with a file each have everything, in virtual time and with real bytes") {
  const Figures figures = classic(scale_of(4));
  check_whole(figures);
  CHECK(figures.chunks == 4 * 3 * 9);
}

TEST_CASE("One seed is one run; another seed is another") {
  std::set<std::uint64_t> traces;
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    const Figures figures = churn(scale_of(6, seed));
    CHECK(churn(scale_of(6, seed)).trace == figures.trace);
    traces.insert(figures.trace);
  }
  CHECK(traces.size() == 5);
}

TEST_CASE("One source fills sixteen peers, with all bytes right") {
  const Figures figures = one_source(scale_of(16));
  check_whole(figures);
  CHECK(figures.duplicate_percent < 25);
}

TEST_CASE("A file gets through where a chunk is under way for most of a minute, because three share 16 KiB a second") {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    Scale scale = marked(scale_of(3, seed));
    scale.rate = 16.0 * 1024;
    CAPTURE(seed);
    check_whole(one_source(scale));
  }
}

TEST_CASE("Uplinks of 10 Mbit are not divided among more neighbours than faster ones are") {
  Scale scale = marked(scale_of(15));
  scale.bytes = 32 * kMiB;
  scale.rate = 1.25e6;
  scale.latency = 2ms;
  const Figures figures = one_source(scale);
  check_whole(figures);
  CHECK(figures.percent_of_bound > 78);
}

TEST_CASE("A small file that has many names comes once, and gets all of them") {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    CAPTURE(seed);
    Swarm swarm(scale_of(3, seed).options, 3);
    PeerPlan source{host_at(12.5e6), {}};
    constexpr std::size_t kContents = 20;
    constexpr std::uint64_t kBytes = 1000;
    for (std::size_t content = 0; content < kContents; ++content)
      for (std::size_t name = 0; name <= 2 * content; ++name)  // up to 39, which is more than are written at once
        source.files.emplace_back("name-" + std::to_string(name) + "/of-" + std::to_string(content),
                                  swarm.simulation().content(content + 1, kBytes));
    swarm.add(std::move(source));
    for (int fetcher = 0; fetcher < 2; ++fetcher) swarm.add({host_at(12.5e6), {}});
    swarm.start_all();
    const Figures figures = swarm.finish({1min});
    check_whole(figures);
    CHECK(figures.traffic.data_bytes == 2 * kContents * kBytes);
  }
}

namespace {

/// A source of several files, some under several names and one of a single chunk, and `fetchers` that confirm the MD5s later. Who publishes
/// the name after so many others is killed then, and started again.
void check_later(std::uint64_t seed, std::size_t fetchers, std::optional<std::size_t> killed_after) {
  CAPTURE(seed);
  Swarm swarm(scale_of(fetchers + 1, seed).options, static_cast<std::uint32_t>(fetchers + 1));
  auto& simulation = swarm.simulation();
  PeerPlan source{host_at(12.5e6), {}};
  for (std::uint64_t file = 1; file <= 3; ++file)
    for (std::uint64_t name = 0; name < file; ++name)
      source.files.emplace_back("file-" + std::to_string(file) + "-" + std::to_string(name), simulation.content(file, file * kMiB + 77));
  source.files.emplace_back("small", simulation.content(9, 1000));
  swarm.add(std::move(source));
  PeerPlan fetcher{host_at(12.5e6), {}};
  fetcher.md5_later = true;
  for (std::size_t i = 0; i < fetchers; ++i) swarm.add(fetcher);
  swarm.start_all();
  if (killed_after) {
    simulation.run([&] { return simulation.published().size() > *killed_after; }, {1min});
    REQUIRE(simulation.published().size() > *killed_after);
    simulation.kill(simulation.published().back().host, seed % 2 == 0 ? sim::Death::killed : sim::Death::power);
    swarm.make_whole();
  }
  check_whole(swarm.finish({1min}));
}

}  // namespace

TEST_CASE("Where MD5s are confirmed later, everybody has every file under all its names, and the swarm ends") {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) check_later(seed, 3, std::nullopt);
}

TEST_CASE("Who dies when a file has its name and its MD5 is not confirmed has everything in the end") {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) check_later(seed, 2, seed % 5);
}

namespace {

/// What a peer that confirms MD5s later has published of one content after ten seconds, where one offers it under three names, the first or
/// the others with an MD5 that is not its own.
std::set<std::string> names_published(std::uint64_t seed, bool is_first_wrong) {
  Swarm swarm(scale_of(2, seed).options, 0);
  auto& simulation = swarm.simulation();
  const sim::ContentPtr right = simulation.content(1, 5 * kMiB + 1);
  auto wrong = *right;
  wrong.md5.bytes.front() ^= 1;
  const auto mislabelled = std::make_shared<const sim::Content>(std::move(wrong));
  PeerPlan source{host_at(12.5e6), {}};
  for (const char* const name : {"a", "b", "c"}) source.files.emplace_back(name, (*name == 'a') == is_first_wrong ? mislabelled : right);
  swarm.add(std::move(source));
  PeerPlan fetcher{host_at(12.5e6), {}};
  fetcher.md5_later = true;
  swarm.add(std::move(fetcher));
  swarm.start_all();
  simulation.run([] { return false; }, {10s});
  std::set<std::string> names;
  for (const auto& published : simulation.published()) names.insert(published.name);
  return names;
}

}  // namespace

TEST_CASE("Where the MD5 of the name that was given early is wrong, the other names are given, and where theirs is, they are not") {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    CAPTURE(seed);
    CHECK(names_published(seed, true) == std::set<std::string>{"a", "b", "c"});
    CHECK(names_published(seed, false) == std::set<std::string>{"a"});
  }
}

namespace {

/// Has a machine get everything, and says what that ended with.
void start_get(Swarm& swarm, sim::HostId host, bool md5_later, std::optional<ExitCode>& exit) {
  swarm.simulation().start(host, [&swarm, md5_later, &exit](World& world, Storage& storage, Signal& stop) -> Task<> {
    const test::SilentReport silent;
    PeerOptions options;
    options.tracker = {swarm.simulation().address_of(swarm.tracker()), 5555};
    options.listen = {"0.0.0.0", 0};
    options.id = "asker";
    options.md5_later = md5_later;
    const auto got = co_await run_get(world, *silent.report, storage, options, {"**"}, stop);
    exit = got ? got->exit : exit_code_of(got.error());
  });
}

/// What a get that confirms MD5s later came to, whose user changed the file of two names that came first under one of them.
struct Meddled {
  std::optional<ExitCode> exit;
  std::string changed;
  bool has_other_name = false;
  bool has_other_file = false;
};

Meddled meddle(std::uint64_t seed, bool is_truncated) {
  Swarm swarm(scale_of(0, seed).options, 0);
  auto& simulation = swarm.simulation();
  const sim::ContentPtr twice = simulation.content(1, 20 * kMiB + 1);
  const sim::ContentPtr other = simulation.content(2, 3 * kMiB);
  swarm.add({host_at(125e6), {{"a", twice}, {"b", twice}, {"other", other}}});
  swarm.start_tracker();
  swarm.start(0);
  simulation.run([] { return false; }, {1s});
  sim::HostOptions machine = host_at(125e6);
  machine.work = 30ms;
  const sim::HostId host = simulation.add_host(machine);
  Meddled meddled;
  start_get(swarm, host, true, meddled.exit);
  const auto is_given = [&] { return !simulation.published().empty() && simulation.published().back().name != "other"; };
  REQUIRE(simulation.run(is_given, {1min}) == sim::Ending::reached);
  meddled.changed = simulation.published().back().name;
  is_truncated ? simulation.truncate(host, meddled.changed) : simulation.edit(host, meddled.changed);
  simulation.run([&] { return meddled.exit.has_value(); }, {1min});
  meddled.has_other_name = simulation.has(host, meddled.changed == "a" ? "b" : "a", *twice);
  meddled.has_other_file = simulation.has(host, "other", *other);
  return meddled;
}

}  // namespace

TEST_CASE("A file that its user changes before its MD5 is confirmed fails alone, and is nobody's wrong MD5") {
  for (const bool is_truncated : {false, true}) {
    int in_time = 0;
    for (std::uint64_t seed = 1; seed <= 10; ++seed) {
      CAPTURE(seed, is_truncated);
      const Meddled meddled = meddle(seed, is_truncated);
      if (meddled.exit == ExitCode::done) continue;  // the MD5 was found before
      ++in_time;
      CHECK(meddled.exit == ExitCode::partial);
      CHECK(meddled.has_other_name);
      CHECK(meddled.has_other_file);
    }
    CHECK(in_time >= 3);
  }
}

TEST_CASE("Of two MD5s that are said of the same bytes, the right one gives them their name") {
  const bool md5_later = GENERATE(false, true);
  const std::uint64_t bytes = GENERATE(1000, 5 * kMiB + 1);
  const auto seed = static_cast<std::uint64_t>(GENERATE(range(1, 6)));
  CAPTURE(md5_later, bytes, seed);
  Swarm swarm(scale_of(0, seed).options, 0);
  auto& simulation = swarm.simulation();
  const sim::ContentPtr right = simulation.content(1, bytes);
  sim::Content wrong = *right;
  wrong.md5.bytes.front() ^= 1;
  for (const sim::ContentPtr& said : {right, std::make_shared<const sim::Content>(wrong)}) {
    PeerPlan source{host_at(12.5e6), {{"a", said}}};
    source.is_fetching = false;
    swarm.add(std::move(source));
  }
  PeerPlan fetcher{host_at(12.5e6), {}};
  fetcher.md5_later = md5_later;
  const std::size_t fetching = swarm.add(std::move(fetcher));
  swarm.start_all();
  simulation.run([] { return false; }, {10s});
  CHECK(simulation.has(swarm.host_of(fetching), "a", *right));
}

TEST_CASE("Every scenario ends with everyone complete") {
  for (const Scenario& scenario : scenarios()) {
    DYNAMIC_SECTION(scenario.name) { check_whole(scenario.run(scale_of(10))); }
  }
}

TEST_CASE("Every scenario ends with everyone complete where marks stand for bytes") {
  for (const Scenario& scenario : scenarios()) {
    DYNAMIC_SECTION(scenario.name) { check_whole(scenario.run(marked(scale_of(SHOAL_SLOWNESS > 1 ? 10 : 20)))); }
  }
}

TEST_CASE("Marks and values cost what bytes and frames cost: the swarm takes as long") {
  const Figures real = classic(scale_of(4));
  const Figures token = classic(marked(scale_of(4)));
  CHECK(token.taken > real.taken * 9 / 10);
  CHECK(token.taken < real.taken * 11 / 10);
  CHECK(token.traffic.data_bytes == real.traffic.data_bytes);
}

TEST_CASE("A tenth of liars keeps no honest peer from finishing with the right bytes") {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    CAPTURE(seed);
    check_whole(liars(scale_of(20, seed), 10));
  }
}

namespace {

/// An open swarm whose only source leaves when some of its file is out, and comes back where it `returns`.
Figures source_leaves(std::uint64_t seed, bool returns) {
  const Scale scale = marked(scale_of(3, seed));
  Swarm swarm(scale.options, 0);
  sim::HostOptions host = host_at(2e6);
  host.work = 2ms;
  add_source_and_fetchers(swarm, host, 4 * kMiB, 3);
  swarm.start_all();
  const Nanoseconds while_it_goes(500'000'000 + swarm.simulation().random() % 1'000'000'000);
  swarm.simulation().run([] { return false; }, {while_it_goes});
  swarm.simulation().stop(swarm.host_of(0));
  swarm.simulation().run([] { return false; }, {5s});
  if (returns) swarm.start(0);
  return swarm.finish({1min});
}

}  // namespace

TEST_CASE("What was lost with its only source is fetched after all when that comes back") {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    CAPTURE(seed);
    check_whole(source_leaves(seed, true));
  }
}

namespace {

/// A swarm whose only source cannot read its disk for two seconds.
Figures source_cannot_read(std::uint64_t seed) {
  const Scale scale = marked(scale_of(1, seed));
  Swarm swarm(scale.options, 0);
  add_source_and_fetchers(swarm, host_at(2e6), 4 * kMiB, 1);
  swarm.start_all();
  swarm.simulation().run([] { return false; }, {Nanoseconds(100'000'000 + swarm.simulation().random() % 1'000'000'000)});
  swarm.simulation().break_disk(swarm.host_of(0), true);
  swarm.simulation().run([] { return false; }, {2s});
  swarm.simulation().break_disk(swarm.host_of(0), false);
  return swarm.finish({1min});
}

}  // namespace

TEST_CASE("A source that could not read its disk for a while is asked again") {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    CAPTURE(seed);
    check_whole(source_cannot_read(seed));
  }
}

TEST_CASE("A chunk that comes when its file was given up a moment ago harms nobody") {
  for (std::uint64_t seed = 1; seed <= 100 / SHOAL_SLOWNESS; ++seed) {
    CAPTURE(seed);
    const Figures figures = source_leaves(seed, false);
    CHECK(figures.ending == sim::Ending::too_long);
    CHECK(figures.steps > 0);
  }
}

TEST_CASE("Swarms whose tracker died, or that were cut in two, are whole in the end") {
  for (std::uint64_t seed = 1; seed <= 10 / SHOAL_SLOWNESS; ++seed) {
    CAPTURE(seed);
    check_whole(tracker_restart(scale_of(8, seed)));
    check_whole(partition_and_heal(scale_of(8, seed)));
  }
}

TEST_CASE("In a large swarm each peer has a few neighbours, and the source gives each chunk out once before any twice") {
  if (SHOAL_SLOWNESS > 1) SKIP("figures of a large swarm, for which sanitizers have no time");
  Scale scale = marked(scale_of(40));
  scale.bytes = 100 * kMiB;
  const Figures figures = one_source(scale);
  check_whole(figures);
  CHECK(figures.percent_of_bound > 85);
  CHECK(figures.messages_per_chunk < 10);
  CHECK(figures.duplicate_percent < 1);
  CHECK(figures.control_percent < 0.5);
}

TEST_CASE("Who has none of the sources among its neighbours looks for others") {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    CAPTURE(seed);
    const Scale scale = marked(scale_of(1, seed));
    Swarm swarm(scale.options, 32);
    add_source_and_fetchers(swarm, host_at(scale.rate), 4 * kMiB, 1);
    for (int i = 0; i < 30; ++i) swarm.add({host_at(scale.rate), {}, false});  // have nothing, want nothing, and pass nothing on
    swarm.start_all();
    check_whole(swarm.finish({1min}));
  }
}

TEST_CASE("Connections that break while a swarm begins cost no more than a moment") {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    CAPTURE(seed);
    const Scale scale = marked(scale_of(12, seed));
    Swarm swarm(scale.options, 13);
    add_source_and_fetchers(swarm, host_at(scale.rate), 8 * kMiB, scale.peers);
    swarm.start_all();
    for (int cut = 0; cut < 20; ++cut) {
      swarm.simulation().run([] { return false; }, {1ms});
      swarm.simulation().cut_connection(swarm.host_of(swarm.simulation().random() % swarm.size()));
    }
    const Figures figures = swarm.finish({1min});
    check_whole(figures);
    CHECK(figures.taken < 3s);  // a span of hashes whose connection broke was asked for again after 5 s
  }
}

TEST_CASE("Who comes late gets every chunk from those that believe to be alone in having others") {
  // Nobody tells a peer of chunks that it has: so it takes them for unshared, and would send away whoever asks for another one for ever.
  check_whole(mixed(mixed_scale(1459)));
}

namespace {

/// Registers with the tracker under a name, and says why that did not work.
Task<> ask_for_name(World& world, Endpoint tracker, std::string id, std::optional<Error>& why) {
  const auto link = unwrap(co_await world.connect(std::move(tracker), make_strand(world), 5s));
  Hello hello;
  hello.role = Role::peer_to_tracker;
  hello.id = std::move(id);
  hello.instance = 77;
  co_await step(send(*link, std::move(hello)));
  co_await step(receive<Welcome>(*link, 5s));
  link->established();
  co_await step(send(*link, Register{}));
  const auto answer = co_await receive<Registered>(*link, 5s);
  why = answer ? Error{} : answer.error();
}

/// A source and peers with a round trip of 80 ms between all of them; now and then a connection of the first peer breaks.
Figures far_from_the_source(std::uint64_t seed, int cuts, std::uint32_t fetchers = 1) {
  Scale scale = scale_of(1, seed);
  scale.options.bytes = sim::Bytes::marks;  // but messages as they are on the wire
  sim::HostOptions host = host_at(4e6);
  host.latency = 20ms;
  host.jitter = 5ms;
  Swarm swarm(scale.options, fetchers + 1);
  add_source_and_fetchers(swarm, host, 24 * kMiB, fetchers);
  swarm.start_all();
  swarm.simulation().run([] { return false; }, {2s});
  for (int cut = 0; cut < cuts; ++cut) {
    swarm.simulation().run([] { return false; }, {Nanoseconds(swarm.simulation().random() % 400'000'000)});
    swarm.simulation().cut_connection(swarm.host_of(1));
  }
  return swarm.finish({2min});
}

}  // namespace

TEST_CASE("Who comes back after a loss of power is let in at once, and what it costs is its absence and what its disk lost") {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    CAPTURE(seed);
    const Scale scale = marked(scale_of(4, seed));
    Swarm swarm(scale.options, 0);
    add_source_and_fetchers(swarm, host_at(scale.rate), 40 * kMiB, scale.peers);
    swarm.start_all();
    swarm.simulation().run([] { return false; }, {1500ms});
    swarm.kill(1, sim::Death::power);
    swarm.simulation().run([] { return false; }, {500ms});
    swarm.start(1);
    const Figures figures = swarm.finish({1min});
    check_whole(figures);
    CHECK(figures.taken < 7s);  // it was refused for three seconds, until its old connection turned out to be dead
    CHECK(figures.percent_of_bound > 80);
    CHECK(figures.percent_of_bound <= 100);
  }
}

TEST_CASE("Whose name is taken by one that is here, or only silent, is refused as before") {
  const Scale scale = marked(scale_of(2));
  Swarm swarm(scale.options, 0);
  add_source_and_fetchers(swarm, host_at(scale.rate), 100 * kMiB, scale.peers);
  const bool is_silent = GENERATE(false, true);
  swarm.start_all();
  swarm.simulation().run([] { return false; }, {1s});
  if (is_silent) swarm.simulation().mute(swarm.host_of(1));
  const sim::HostId other = swarm.simulation().add_host(host_at(scale.rate));
  std::optional<Error> why;
  swarm.simulation().start(other, [&](World& world, Storage&, Signal&) {
    return ask_for_name(world, {swarm.simulation().address_of(swarm.tracker()), 5555}, swarm.id_of(1), why);
  });
  swarm.simulation().run([&] { return why.has_value(); }, {5s});
  REQUIRE(why);
  CHECK(why->code == make_error_code(Errc::refused));
  swarm.simulation().heal();
  check_whole(swarm.finish({1min}));
}

namespace {

/// How long a get takes on a machine that is so far from the tracker and the one source of a file of two chunks.
Nanoseconds time_of_get(Nanoseconds round_trip) {
  Swarm swarm(marked(scale_of(0)).options, 0);
  add_source_and_fetchers(swarm, {}, kChunkSize + 1000, 0);
  swarm.start_tracker();
  swarm.start(0);
  swarm.simulation().run([] { return false; }, {1s});
  sim::HostOptions far;
  far.latency = round_trip / 2;
  const sim::HostId host = swarm.simulation().add_host(far);
  const Nanoseconds begun = swarm.simulation().now();
  bool is_done = false;
  swarm.simulation().start(host, [&](World& world, Storage& storage, Signal& stop) -> Task<> {
    const test::SilentReport silent;
    PeerOptions options;
    options.tracker = {swarm.simulation().address_of(swarm.tracker()), 5555};
    options.listen = {"0.0.0.0", 0};
    options.id = "far";
    is_done = unwrap(co_await run_get(world, *silent.report, storage, options, {"file"}, stop)).exit == ExitCode::done;
  });
  swarm.simulation().run([&] { return is_done; }, {1min});
  REQUIRE(is_done);
  return swarm.simulation().now() - begun;
}

}  // namespace

TEST_CASE("A get asks its source for chunks after five round trips, however far that is, and has them after one more") {
  for (const Nanoseconds round_trip : {Nanoseconds(40ms), Nanoseconds(200ms), Nanoseconds(600ms)}) {
    CAPTURE(round_trip.count());
    const Nanoseconds taken = time_of_get(round_trip);
    CHECK(taken >= 6 * round_trip);
    CHECK(taken < 6 * round_trip + 60ms);  // the end is noticed within 50 ms
  }
}

TEST_CASE("Far and lossy links delay a swarm, and keep nobody from finishing with the right bytes") {
  Scale scale = marked(scale_of(6));
  scale.bytes = 16 * kMiB;
  const Figures near = one_source(scale);
  const Figures far = shoal::simulation::far(scale, 200ms);
  const Figures lossy = shoal::simulation::lossy(scale);
  check_whole(near);
  check_whole(far);
  check_whole(lossy);
  CHECK(far.taken > near.taken + 1s);  // eight round trips of slow start and greetings
  CHECK(lossy.taken > near.taken);
  CHECK(far.taken < 20s);
  CHECK(lossy.taken < 20s);
  CHECK(far.duplicate_percent < 5);
  CHECK(lossy.duplicate_percent < 5);
}

TEST_CASE("What two sites have between them bounds a swarm: each byte crosses once at least") {
  Scale scale = marked(scale_of(10));
  scale.bytes = 16 * kMiB;
  const Figures figures = mixed_far(scale);
  check_whole(figures);
  REQUIRE(figures.crossings.size() == 1);  // into the site that has no source
  CHECK(figures.crossings.front() >= 1);
  const double bound = figures.percent_of_bound / 100 * Seconds(figures.taken).count();
  CHECK(std::abs(bound - static_cast<double>(scale.bytes) / (scale.rate / 2)) < 0.001);
  CHECK(figures.percent_of_bound < 100);
}

TEST_CASE("Peers far from each other try further connections, and have everything although connections break") {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    CAPTURE(seed);
    const Figures unharmed = far_from_the_source(seed, 0);
    check_whole(unharmed);
    CHECK(unharmed.traffic.connections >= 2 + 4);  // those with the tracker, and the four that they begin with
    CHECK(unharmed.duplicate_percent < 4);         // what was under way on one that brought nothing, and was closed
    check_whole(far_from_the_source(seed, 6));
  }
}

TEST_CASE("Once more than two pairs that are far from each other are busy, hardly any has further connections") {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    CAPTURE(seed);
    const Figures figures = far_from_the_source(seed, 0, 4);
    check_whole(figures);
    CHECK(figures.traffic.connections <=
          5 + 10 + 6);  // with the tracker, one a pair, and what the first two pairs had before there were more
  }
}

namespace {

/// What a neighbour does that claims a content, and what came of it.
struct Halting {
  Endpoint victim{};
  std::string id{};
  std::size_t to_deliver = 0;           ///< Chunks that it sends whole, ...
  std::size_t to_begin = 0;             ///< ... and of so many after them only the first piece.
  bool is_trickling = false;            ///< It sends a little more of the last of those for each ping, every four seconds.
  std::optional<Nanoseconds> begun{};   ///< When it began the last of those.
  std::optional<Nanoseconds> closed{};  ///< When its connection ended.
};

/// A chunk as it is where marks stand for bytes.
class Mark final : public ChunkSource {
 public:
  explicit Mark(const Sha256Digest& hash) : hash_(hash) {}
  std::uint64_t size() const override { return kChunkSize; }
  Result<> read(std::uint64_t, std::span<std::byte> out) const override {
    std::ranges::copy(std::as_bytes(std::span(hash_.bytes)), out.begin());
    return {};
  }
  Result<> check() const override { return {}; }

 private:
  Sha256Digest hash_;
};

Task<> answer(World& world, Link& link, const Message& message, const sim::Content& content, Halting& halting, std::size_t& left,
              ChunkHeader& last) {
  if (const auto* ping = std::get_if<Ping>(&message)) {
    co_await step(send(link, Pong{ping->t1, 0, 0}));
    if (!halting.is_trickling || !halting.begun) co_return;
    last.offset += std::exchange(last.length, 32);
    co_await step(link.send_chunk(last, std::make_shared<Mark>(Sha256Digest{}), 0));
  }
  const auto* request = std::get_if<Request>(&message);
  if (!request) co_return;
  for (const ChunkRef& ref : request->chunks) {
    if (left == 0) co_return;
    const std::uint32_t length = left-- > halting.to_begin ? kChunkSize : 1024;
    if (left == 0) halting.begun = world.now().time_since_epoch();
    last = {ref.handle, ref.chunk, 0, length};
    co_await step(link.send_chunk(last, std::make_shared<Mark>((*content.chunks)[ref.chunk]), 0));
  }
}

Task<> begin_and_halt(World& world, const sim::Content& content, Halting& halting) {
  const auto link = co_await step(world.connect(halting.victim, co_await boost::asio::this_coro::executor, 5s));
  Hello hello;
  hello.role = Role::peer_to_peer;
  hello.id = halting.id;
  hello.instance = world.random();
  co_await step(send(*link, std::move(hello)));
  co_await step(receive<Welcome>(*link, 5s));
  link->established();
  co_await step(send(*link, Inventory{{{1, content.root, content.size, true, 0, {}}}}));
  ChunkHeader last;
  for (std::size_t left = halting.to_deliver + halting.to_begin;;) {
    const auto incoming = co_await link->receive(15s);
    if (!incoming) break;
    co_await answer(world, *link, std::get<Message>(*incoming), content, halting, left, last);
  }
  halting.closed = world.now().time_since_epoch();
}

/// A get of a file of 240 MiB that its one true source sends at that rate, by somebody to whom so many others connect that send the
/// beginnings of chunks only.
std::vector<Halting> get_in_spite_of(std::size_t halting_ones, const Halting& alike, Nanoseconds& taken, double rate = 6e6) {
  constexpr std::uint16_t kPort = 7000;
  Swarm swarm(marked(scale_of(0)).options, 0);
  const std::uint64_t bytes = 240 * kMiB;
  add_source_and_fetchers(swarm, host_at(rate), bytes, 0);
  swarm.start_tracker();
  swarm.start(0);
  sim::Simulation& simulation = swarm.simulation();
  simulation.run([] { return false; }, {1s});
  const sim::HostId host = simulation.add_host({});
  bool is_done = false;
  simulation.start(host, [&](World& world, Storage& storage, Signal& stop) -> Task<> {
    const test::SilentReport silent;
    PeerOptions options;
    options.tracker = {simulation.address_of(swarm.tracker()), 5555};
    options.listen = {"0.0.0.0", kPort};
    options.id = "victim";
    is_done = unwrap(co_await run_get(world, *silent.report, storage, options, {"file"}, stop)).exit == ExitCode::done;
  });
  const Nanoseconds begun = simulation.now();
  simulation.run([] { return false; }, {1s});
  const auto content = simulation.content(1, bytes);
  std::vector<Halting> others(halting_ones);
  for (std::size_t i = 0; i < halting_ones; ++i) {
    others[i] = alike;
    others[i].victim = {simulation.address_of(host), kPort};
    others[i].id = "halting" + std::to_string(i);
    simulation.start(simulation.add_host({}),
                     [&, i](World& world, Storage&, Signal&) { return begin_and_halt(world, *content, others[i]); });
  }
  simulation.run([&] { return is_done; }, {10min});
  CHECK(is_done);
  taken = simulation.now() - begun;
  simulation.run([&] { return std::ranges::all_of(others, [](const Halting& each) { return each.closed.has_value(); }); }, {1min});
  CHECK(simulation.failures().empty());
  return others;
}

}  // namespace

TEST_CASE("Whoever begins a chunk and does not go on is left after half a minute") {
  Nanoseconds taken{};
  const auto others = get_in_spite_of(1, {.to_deliver = 3, .to_begin = 1}, taken);
  REQUIRE(others[0].begun);
  REQUIRE(others[0].closed);
  CHECK(*others[0].closed - *others[0].begun > 29s);
  CHECK(*others[0].closed - *others[0].begun < 36s);
}

TEST_CASE("Many that begin chunks and do not go on delay a get by half a minute or so, and keep nobody from the end of it") {
  Nanoseconds taken{};
  const auto others = get_in_spite_of(48, {.to_deliver = 3, .to_begin = 4}, taken);
  for (const Halting& other : others) CHECK((other.begun && other.closed));
  CHECK(taken > 60s);  // nothing came while they had all the buffers
  CHECK(taken < 150s);
}

TEST_CASE("Whoever begins more than four chunks at once is left at once") {
  Nanoseconds taken{};
  const auto others = get_in_spite_of(1, {.to_deliver = 3, .to_begin = 5}, taken);
  REQUIRE((others[0].begun && others[0].closed));
  CHECK(*others[0].closed - *others[0].begun < 1s);
}

TEST_CASE("Whoever goes on with a chunk by a few bytes at a time is left after five minutes") {
  Nanoseconds taken{};
  const auto others = get_in_spite_of(1, {.to_deliver = 3, .to_begin = 1, .is_trickling = true}, taken, 0.6e6);
  REQUIRE((others[0].begun && others[0].closed));
  CHECK(*others[0].closed - *others[0].begun > 5min);
  CHECK(*others[0].closed - *others[0].begun < 5min + 6s);
}
