// Peers that are given commands, and their tracker, as they ship, in virtual time.
#include <fmt/core.h>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
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
import shoal.wire;
import shoal.world;

#include "support/memory_state.hpp"
#include "support/silent_report.hpp"

using namespace shoal;
using namespace std::chrono_literals;

namespace {

constexpr std::uint16_t kPort = 5555;
constexpr Nanoseconds kLongestCommand = 60s;
constexpr Nanoseconds kLongestOfSilent = 3min;  ///< Where sources may say that they have it, and send nothing.
/// A holder answered at most so long before the asker heard of it: the tracker's patience with others, and the way.
constexpr Nanoseconds kFreshness = 3s;

enum class Kind : std::uint8_t { find, download, update };

struct Command {
  Kind kind = Kind::find;
  std::string name;
  bool from_one = false;
};

/// A tracker, and peers that each do their commands one after the other.
class Lab {
 public:
  explicit Lab(std::uint64_t seed, bool has_state) : simulation({.seed = seed}), tracker(simulation.add_host({})) {
    if (has_state) state_ = std::make_shared<test::MemoryState>();
  }
  ~Lab() { is_ending_ = true; }
  Lab(const Lab&) = delete;
  Lab& operator=(const Lab&) = delete;

  struct Peer {
    sim::HostId host;
    std::deque<Command> commands;
    std::optional<Nanoseconds> busy_since;
    std::optional<Nanoseconds> died_at;
    std::vector<std::string> found;    ///< By the last find.
    std::vector<std::string> missing;  ///< Likewise.
    std::size_t done = 0;
    std::size_t failed = 0;
  };

  std::size_t add(const sim::HostOptions& options) {
    peers.emplace_back();
    peers.back().host = simulation.add_host(options);
    return peers.size() - 1;
  }
  void put(std::size_t peer, const std::string& name) {
    const auto [file, is_new] = files.try_emplace(name);
    if (is_new) file->second = simulation.content(files.size(), (files.size() % 8 + 1) * kChunkSize - files.size());
    simulation.put(peers[peer].host, name, file->second);
    has_at_first[name].push_back(peer);
  }

  void start_tracker() {
    simulation.start(tracker, [this](World& world, Storage&, Signal& stop) { return serve(*this, world, stop); });
  }
  void start(std::size_t peer) {
    simulation.start(peers[peer].host,
                     [this, peer](World& world, Storage& storage, Signal& stop) { return be_peer(*this, peer, world, storage, stop); });
    peers[peer].died_at.reset();
  }
  void start_all() {
    start_tracker();
    for (std::size_t i = 0; i < peers.size(); ++i) start(i);
  }
  void kill(std::size_t peer, sim::Death death) {
    simulation.kill(peers[peer].host, death);
    peers[peer].died_at = simulation.now();
    peers[peer].busy_since.reset();
    peers[peer].commands.clear();
  }
  void restart_tracker() {
    if (simulation.is_running(tracker)) simulation.kill(tracker, sim::Death::killed);
    start_tracker();
  }
  void pass(Nanoseconds time) {
    simulation.run([] { return false; }, {time});
  }
  /// Whether everybody has done all commands.
  bool is_idle() const {
    return std::ranges::all_of(peers, [](const Peer& peer) { return peer.commands.empty() && !peer.busy_since; });
  }
  bool gets_idle() {
    return simulation.run([this] { return is_idle(); }, {kLongestCommand * 10}) == sim::Ending::reached;
  }
  bool is_overdue(std::size_t peer) const {
    const auto since = peers[peer].busy_since;
    return since && simulation.now() - *since > longest_command;
  }
  void tell(std::size_t peer, Command command) { peers[peer].commands.push_back(std::move(command)); }
  bool has(std::size_t peer, const std::string& name) const {
    const bool is_own = std::ranges::find(has_at_first.at(name), peer) != has_at_first.at(name).end();
    return is_own || simulation.has(peers[peer].host, name, *files.at(name));
  }

  sim::Simulation& world() { return simulation; }

  std::vector<Peer> peers;
  std::map<std::string, sim::ContentPtr> files;
  std::map<std::string, std::vector<std::size_t>> has_at_first;
  std::vector<std::string> problems;  ///< What must not be.
  Nanoseconds longest_command = kLongestCommand;
  bool md5_later = false;

 private:
  static Task<> serve(Lab& lab, World& world, Signal& stop) {
    const test::SilentReport silent;
    TrackerOptions options;
    options.listen = {"0.0.0.0", kPort};
    options.state = lab.state_;
    unwrap(co_await run_tracker(world, *silent.report, options, stop));
  }

  static Task<> be_peer(Lab& lab, std::size_t self, World& world, Storage& storage, Signal& stop) {
    const test::SilentReport silent;
    PeerOptions options;
    options.tracker = {lab.simulation.address_of(lab.tracker), kPort};
    options.listen = {"0.0.0.0", 0};
    options.id = fmt::format("p{}", self);
    options.appetite = Appetite::nothing;
    options.md5_later = lab.md5_later;
    const auto drive = [&](PeerControl& control) { return do_commands(lab, self, world, control); };
    static_cast<void>(co_await run_catalogue(world, *silent.report, storage, options, drive, stop));
  }

  static Task<ExitCode> do_commands(Lab& lab, std::size_t self, World& world, PeerControl& control) {
    co_await control.wait_until_ready();
    for (;;) {
      co_await world.sleep(10ms);
      if (lab.is_ending_ || lab.peers[self].died_at) continue;
      if (lab.peers[self].commands.empty()) continue;
      const Command command = lab.peers[self].commands.front();
      lab.peers[self].commands.pop_front();
      lab.peers[self].busy_since = lab.simulation.now();
      const bool is_done = co_await lab.do_command(self, command, control);
      if (lab.is_ending_ || lab.peers[self].died_at) continue;
      lab.look_at_time(self, command);
      lab.peers[self].busy_since.reset();
      ++(is_done ? lab.peers[self].done : lab.peers[self].failed);
    }
  }

  Task<bool> do_command(std::size_t self, Command command, PeerControl& control) {
    switch (command.kind) {
      case Kind::find: {
        const auto answer = co_await control.find(command.name);
        if (!is_ending_ && !peers[self].died_at) look_at_answer(self, answer);
        co_return answer.has_value();
      }
      case Kind::download: {
        const auto fetched = co_await control.download(command.name, command.from_one);
        if (fetched && !is_ending_ && !peers[self].died_at && !has(self, command.name))
          problems.push_back(fmt::format("p{} says that it has {}", self, command.name));
        co_return fetched.has_value();
      }
      case Kind::update: co_return (co_await control.update_list()).has_value();
    }
    co_return false;
  }

  void look_at_time(std::size_t self, const Command& command) {
    const Nanoseconds taken = simulation.now() - *peers[self].busy_since;
    if (taken > longest_command) problems.push_back(fmt::format("p{}: {} took {}", self, command.name, Seconds(taken).count()));
  }

  /// Nobody is named who did not have it a moment ago.
  void look_at_answer(std::size_t self, const Result<LocateAnswer>& answer) {
    peers[self].found.clear();
    peers[self].missing.clear();
    if (!answer) return;
    for (const Holder& holder : answer->missing) peers[self].missing.push_back(holder.id);
    for (const LocatedFile& file : answer->files)
      for (const LocatedSource& source : file.sources) {
        const std::size_t holder = std::stoul(source.holder.id.substr(1));
        peers[self].found.push_back(source.holder.id);
        const auto died_at = peers[holder].died_at;
        if (died_at && simulation.now() - *died_at > kFreshness)
          problems.push_back(fmt::format("p{} is told of p{}, which is gone since {}", self, holder, Seconds(*died_at).count()));
        if (!has(holder, file.entry.name)) problems.push_back(fmt::format("p{} is told that p{} has {}", self, holder, file.entry.name));
      }
    std::ranges::sort(peers[self].found);
  }

  std::shared_ptr<test::MemoryState> state_;
  bool is_ending_ = false;

 public:
  sim::Simulation simulation;  ///< Goes before what its processes use.
  sim::HostId tracker;
};

void put_own_and_shared(Lab& lab, std::size_t peer) {
  lab.put(peer, fmt::format("own/{}", peer));
  lab.put(peer, fmt::format("shared-{}", peer % 2));
}

/// A fault, or the end of one, as the seed says.
void meddle(Lab& lab) {
  sim::Simulation& world = lab.world();
  const std::size_t peer = world.random() % lab.peers.size();
  const sim::HostId host = lab.peers[peer].host;
  switch (world.random() % 8) {
    case 0:
      if (world.is_running(host)) lab.kill(peer, world.random() % 2 == 0 ? sim::Death::killed : sim::Death::power);
      break;
    case 1:
    case 2:
      if (!world.is_running(host)) lab.start(peer);
      break;
    case 3: lab.restart_tracker(); break;
    case 4: world.cut_connection(host); break;
    case 5: world.partition(std::array{host}); break;
    case 6: world.mute(host); break;
    default: world.heal(); break;
  }
}

void tell_anything(Lab& lab) {
  sim::Simulation& world = lab.world();
  const std::size_t peer = world.random() % lab.peers.size();
  if (!world.is_running(lab.peers[peer].host)) return;
  const std::string name = std::next(lab.files.begin(), static_cast<std::ptrdiff_t>(world.random() % lab.files.size()))->first;
  constexpr std::array kinds{Kind::find, Kind::find, Kind::download, Kind::update};
  lab.tell(peer, {kinds[world.random() % kinds.size()], name, world.random() % 2 == 0});
}

/// Some 20 s with commands, and a fault at one in so many moments.
void live_through_faults(Lab& lab, std::uint64_t one_in) {
  for (int i = 0; i < 60; ++i) {
    lab.pass(std::chrono::milliseconds(lab.world().random() % 700));
    if (lab.world().random() % one_in == 0) meddle(lab);
    tell_anything(lab);
  }
}

/// The network is whole, and everyone is there.
void make_whole(Lab& lab) {
  lab.world().heal();
  if (!lab.world().is_running(lab.tracker)) lab.start_tracker();
  for (std::size_t i = 0; i < lab.peers.size(); ++i)
    if (!lab.world().is_running(lab.peers[i].host)) lab.start(i);
}

void check_sound(Lab& lab) {
  CHECK(lab.problems == std::vector<std::string>{});
  CHECK(lab.world().wrong_files().empty());
  CHECK(lab.world().failures().empty());
}

std::vector<std::string> holders_of(const Lab& lab, const std::string& name) {
  std::vector<std::string> holders;
  for (std::size_t i = 0; i < lab.peers.size(); ++i)
    if (lab.has(i, name)) holders.push_back(fmt::format("p{}", i));
  return holders;
}

}  // namespace

TEST_CASE("Whatever happens, find names who has it, and in the end everyone can download everything") {
  const auto seed = GENERATE(range(std::uint64_t{1}, std::uint64_t{1} + 20 / SHOAL_SLOWNESS));
  CAPTURE(seed);
  Lab lab(seed, seed % 2 == 0);
  constexpr std::size_t kPeers = 5;
  for (std::size_t i = 0; i < kPeers; ++i) {
    sim::HostOptions host;
    host.up = host.down = 4e6;
    host.latency = 1ms + std::chrono::microseconds(lab.world().random() % 20'000);
    host.jitter = 1ms;
    lab.add(host);
    put_own_and_shared(lab, i);
  }
  lab.start_all();
  live_through_faults(lab, 3);
  make_whole(lab);
  REQUIRE(lab.gets_idle());
  lab.pass(20s);  // who was cut off is back, and has said what it has
  for (auto& peer : lab.peers) peer.failed = 0;
  for (std::size_t i = 0; i < kPeers; ++i)
    for (const auto& [name, content] : lab.files) lab.tell(i, {Kind::download, name, i % 2 == 0});
  REQUIRE(lab.gets_idle());
  for (std::size_t i = 0; i < kPeers; ++i) {
    CAPTURE(i);
    CHECK(lab.peers[i].failed == 0);
    for (const auto& [name, content] : lab.files) {
      CAPTURE(name);
      CHECK(lab.has(i, name));
    }
  }
  lab.tell(0, {Kind::find, "own/3", false});
  REQUIRE(lab.gets_idle());
  CHECK(lab.peers[0].found == holders_of(lab, "own/3"));
  check_sound(lab);
}

TEST_CASE("Whatever happens and is not mended, every command comes to its end") {
  const auto seed = GENERATE(range(std::uint64_t{1}, std::uint64_t{1} + 20 / SHOAL_SLOWNESS));
  CAPTURE(seed);
  Lab lab(seed, seed % 2 == 0);
  const bool are_some_silent = seed % 3 == 0;
  if (are_some_silent) lab.longest_command = kLongestOfSilent;
  constexpr std::size_t kPeers = 5;
  for (std::size_t i = 0; i < kPeers; ++i) {
    sim::HostOptions host;
    host.up = host.down = static_cast<double>(200'000 + lab.world().random() % 4'000'000);
    host.latency = std::chrono::microseconds(lab.world().random() % 20'000);
    host.lies.chunks = lab.world().random() % 4 == 0 ? 0.5 : 0;
    host.lies.silence = are_some_silent && lab.world().random() % 4 == 0 ? 0.5 : 0;
    lab.add(host);
    put_own_and_shared(lab, i);
  }
  lab.start_all();
  live_through_faults(lab, 6);
  lab.pass(4min);
  for (std::size_t i = 0; i < kPeers; ++i) {
    CAPTURE(i);
    CHECK_FALSE(lab.is_overdue(i));
  }
  check_sound(lab);
}

TEST_CASE("A tracker that has forgotten everything knows all again within 5 s of its return") {
  const bool has_state = GENERATE(false, true);
  CAPTURE(has_state);
  Lab lab(7, has_state);
  for (std::size_t i = 0; i < 4; ++i) {
    lab.add({});
    lab.put(i, "everybody's");
  }
  lab.start_all();
  lab.pass(2s);
  lab.restart_tracker();
  lab.pass(5s);
  lab.tell(0, {Kind::find, "everybody's", false});
  REQUIRE(lab.gets_idle());
  CHECK(lab.peers[0].found == std::vector<std::string>{"p0", "p1", "p2", "p3"});
  CHECK(lab.problems == std::vector<std::string>{});
}

TEST_CASE("A holder that died while nobody could tell is named by no find, and asked by none after the first") {
  Lab lab(3, true);
  for (std::size_t i = 0; i < 3; ++i) {
    lab.add({});
    lab.put(i, "f");
  }
  lab.start_all();
  lab.pass(2s);
  lab.kill(2, sim::Death::power);  // its connections stay, as far as the others can tell
  for (int i = 0; i < 2; ++i) {
    lab.tell(0, {Kind::find, "f", false});
    const Nanoseconds begun = lab.world().now();
    REQUIRE(lab.gets_idle());
    CHECK(lab.peers[0].found == std::vector<std::string>{"p0", "p1"});
    CHECK(lab.peers[0].missing == (i == 0 ? std::vector<std::string>{"p2"} : std::vector<std::string>{}));
    CHECK(lab.world().now() - begun < (i == 0 ? 2s : 100ms));
  }
}

TEST_CASE("A chunk of an honest source that a liar's copy cut off is fetched from there after all") {
  for (std::uint64_t seed = 1; seed <= 100 / SHOAL_SLOWNESS; ++seed) {
    CAPTURE(seed);
    Lab lab(seed, false);
    const auto drawn = [&](std::uint64_t least, std::uint64_t most) {
      return static_cast<double>(least + lab.world().random() % (most - least));
    };
    sim::HostOptions liar;  // it is the nearest, and so is asked first
    liar.up = drawn(1'000'000, 20'000'000);
    liar.lies.chunks = 1;
    sim::HostOptions honest;
    honest.up = drawn(1'000'000, 20'000'000);
    honest.latency = 1ms;
    for (const auto& host : {liar, honest, sim::HostOptions()}) lab.add(host);
    for (const std::string name : {"two chunks", "three chunks", "four chunks"})
      for (const std::size_t source : {0U, 1U}) lab.put(source, name);
    lab.start_all();
    lab.pass(1s);
    lab.tell(2, {Kind::download, "four chunks", true});
    CHECK(lab.gets_idle());
    CHECK(lab.peers[2].done == 1);
    CHECK(lab.problems == std::vector<std::string>{});
  }
}

TEST_CASE("What a peer told of a file that was to come from another is fetched from it later") {
  Lab lab(1, false);
  sim::HostOptions source;
  source.up = 400'000;
  sim::HostOptions slow;
  slow.down = 100'000;
  for (const auto& host : {source, sim::HostOptions(), slow}) lab.add(host);
  lab.put(2, "what connects the last two");
  lab.put(0, "file");
  lab.start_all();
  lab.pass(1s);
  lab.tell(1, {Kind::download, "what connects the last two", true});
  REQUIRE(lab.gets_idle());
  lab.tell(1, {Kind::download, "file", true});
  lab.pass(500ms);
  lab.tell(2, {Kind::download, "file", true});  // from the only one that has all of it
  REQUIRE(lab.world().run([&] { return !lab.peers[1].busy_since; }, {kLongestCommand}) == sim::Ending::reached);
  lab.kill(0, sim::Death::killed);
  REQUIRE(lab.gets_idle());
  CHECK(lab.peers[2].failed == 1);
  lab.tell(2, {Kind::download, "file", true});
  CHECK(lab.gets_idle());
  CHECK(lab.peers[1].done == 2);
  CHECK(lab.peers[2].done == 1);
  CHECK(lab.problems == std::vector<std::string>{});
}

namespace {

/// The first of two peers has a file, and a slow uplink.
void begin_with_slow_source(Lab& lab) {
  sim::HostOptions slow;
  slow.up = 100'000;
  for (const auto& host : {slow, sim::HostOptions()}) lab.add(host);
  lab.put(0, "file");
  lab.start_all();
  lab.pass(1s);
}

}  // namespace

TEST_CASE("A download fails a few seconds after its only source has died") {
  Lab lab(1, false);
  begin_with_slow_source(lab);
  lab.tell(1, {Kind::download, "file", true});
  lab.pass(2s);
  lab.kill(0, sim::Death::killed);
  const Nanoseconds died = lab.world().now();
  REQUIRE(lab.gets_idle());
  CHECK(lab.peers[1].failed == 1);
  CHECK(lab.world().now() - died < 10s);
}

TEST_CASE("What failed under the name of a conflict is fetched after all when its source is back") {
  Lab lab(1, false);
  begin_with_slow_source(lab);
  lab.world().put(lab.peers[1].host, "file", lab.world().content(77, 3 * kChunkSize));  // not offered
  lab.tell(1, {Kind::download, "file", true});
  lab.pass(2s);
  lab.kill(0, sim::Death::killed);
  REQUIRE(lab.gets_idle());
  REQUIRE(lab.peers[1].failed == 1);
  lab.start(0);
  lab.pass(5s);
  lab.tell(1, {Kind::download, "file", true});
  REQUIRE(lab.gets_idle());
  CHECK(lab.peers[1].done == 1);
  CHECK(lab.world().has(lab.peers[1].host, "file (from p0)", *lab.files.at("file")));
}

TEST_CASE("A file whose early MD5 was wrong is confirmed when its owner has said the right one") {
  Lab lab(1, false);
  lab.md5_later = true;
  for (int i = 0; i < 2; ++i) lab.add({});
  lab.put(0, "file");
  sim::Content wrong = *lab.files.at("file");
  wrong.md5.bytes.front() ^= 1;
  lab.world().put(lab.peers[0].host, "file", std::make_shared<const sim::Content>(wrong));
  lab.start_all();
  lab.pass(1s);
  lab.tell(1, {Kind::download, "file", false});
  REQUIRE(lab.gets_idle());
  REQUIRE(lab.peers[1].failed == 1);
  lab.world().put(lab.peers[0].host, "file", lab.files.at("file"));
  lab.tell(0, {Kind::update, {}, false});
  REQUIRE(lab.gets_idle());
  lab.tell(1, {Kind::download, "file", false});
  REQUIRE(lab.gets_idle());
  CHECK(lab.peers[1].done == 1);
  CHECK(lab.problems == std::vector<std::string>{});
}
