module;

#include <fmt/core.h>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/strand.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

module shoal.sim;

import :internal;
import shoal.base;
import shoal.manifest;
import shoal.world;

namespace asio = boost::asio;

namespace shoal::sim {

namespace {

/// A process, from its start to the end of its coroutine.
struct Process {
  Process(Network& network, const Library& library, HostId host, const std::shared_ptr<Disk>& disk, Gate& g, std::uint64_t seed)
      : gate(g), world(network, library, disk, g, host, seed), storage(library, disk) {}

  Gate& gate;
  SimWorld world;
  SimStorage storage;
  Signal stop;
};

Task<> run_main(Main main, std::shared_ptr<Process> process) { co_await main(process->world, process->storage, process->stop); }

std::string text_of(std::exception_ptr thrown) {
  try {
    std::rethrow_exception(thrown);
  } catch (const std::exception& failed) {
    return failed.what();
  }
}

}  // namespace

std::string_view name_of(Ending ending) {
  switch (ending) {
    case Ending::reached: return "reached";
    case Ending::deadlock: return "deadlock";
    case Ending::too_long: return "too long";
    case Ending::too_many: return "too many steps";
  }
  return "?";
}

struct Simulation::State {
  explicit State(const Options& options)
      : library(options.bytes), loop(Random::mix(options.seed)), network(loop, options), random(Random::mix(options.seed ^ 0x736372)) {}
  ~State() { loop.end(); }  // what is suspended uses all the others
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  Library library;
  std::deque<Gate> gates;  ///< Of all processes that ever were: what is left of them may still go through.
  Loop loop;
  Network network;
  Random random;
  std::uint64_t next_process = 0;
  std::size_t alive = 0;
  std::vector<std::shared_ptr<Disk>> disks;
  std::vector<std::shared_ptr<Process>> processes;  ///< By host: those that are there; null where none is.
  std::vector<std::string> failures;
  std::vector<Published> published;
};

Simulation::Simulation(const Options& options) : state_(std::make_unique<State>(options)) {}

Simulation::~Simulation() {
  for (std::uint32_t host = 0; host < state_->processes.size(); ++host) kill(HostId(host), Death::power);
  const Limits patience{std::chrono::minutes(10), 100'000'000};
  const Ending ending = run([this] { return state_->alive == 0; }, patience);
  // What cannot be ended cannot be taken apart either: its coroutines hold each other.
  if (ending != Ending::reached) static_cast<void>(state_.release());  // NOLINT(bugprone-unused-return-value)
}

// ---- machines -----------------------------------------------------------------------------------------

HostId Simulation::add_host(const HostOptions& options) {
  auto disk = std::make_shared<Disk>(state_->loop);
  const HostId host(static_cast<std::uint32_t>(state_->disks.size()));
  disk->capacity = options.disk_bytes;
  disk->folding = options.disk_folding;
  disk->rate = options.disk_rate;
  disk->on_published = [state = state_.get(), host](const std::string& name) {
    state->published.push_back({host, name, state->loop.now()});
  };
  state_->disks.push_back(std::move(disk));
  state_->processes.emplace_back();
  return state_->network.add(options);
}

std::string Simulation::address_of(HostId host) const { return state_->network.port(host).address; }

void Simulation::link_sites(SiteId one, SiteId other, const SiteLink& link) {
  state_->network.link_sites(one, other, link);
  state_->network.link_sites(other, one, link);
}

std::uint64_t Simulation::crossed(SiteId from, SiteId to) const { return state_->network.crossed(from, to); }

void Simulation::start(HostId host, const Main& main) {
  State& state = *state_;
  state.network.turn_on(host);
  const std::uint64_t seed = Random::mix(state.network.options().seed + Random::mix(++state.next_process));
  auto process =
      std::make_shared<Process>(state.network, state.library, host, state.disks[host.value], state.gates.emplace_back(state.loop), seed);
  state.processes[host.value] = process;
  ++state.alive;
  asio::co_spawn(make_strand(process->world), run_main(main, process), [&state, host, process](std::exception_ptr thrown) {
    --state.alive;
    if (thrown) state.failures.push_back(fmt::format("{}: {}", state.network.port(host).address, text_of(thrown)));
    if (state.processes[host.value] == process) state.processes[host.value].reset();
  });
}

bool Simulation::is_running(HostId host) const { return state_->processes[host.value] != nullptr; }

std::size_t Simulation::processes() const { return state_->alive; }

void Simulation::stop(HostId host) {
  if (const auto& process = state_->processes[host.value]) process->stop.notify();
}

void Simulation::kill(HostId host, Death death) {
  const std::shared_ptr<Process> process = std::exchange(state_->processes[host.value], nullptr);
  if (!process) return;
  process->world.fence();
  process->storage.fence();
  state_->network.shut(host, death == Death::power);
  Disk& disk = *state_->disks[host.value];
  if (death == Death::power) disk.lose_power(state_->random);
  // What is gone goes on with files of its own.
  for (auto& [key, data] : disk.partials) data = std::make_shared<PartialData>(*data);
  process->stop.notify();
  process->gate.open();
}

void Simulation::pause(HostId host) {
  const auto& process = state_->processes[host.value];
  if (!process) return;
  state_->network.pause(host);
  process->gate.close();
}

void Simulation::resume(HostId host) {
  if (const auto& process = state_->processes[host.value]) process->gate.open();
  state_->network.resume(host);
}

const std::vector<std::string>& Simulation::failures() const { return state_->failures; }

// ---- files --------------------------------------------------------------------------------------------

ContentPtr Simulation::content(std::uint64_t seed, std::uint64_t size) { return state_->library.make(seed, size); }

FileEntry Simulation::put(HostId host, const std::string& name, const ContentPtr& content) {
  FileEntry entry;
  entry.name = name;
  entry.size = content->size;
  entry.mtime_ns = 1'700'000'000'000'000'000;
  entry.md5 = content->md5;
  entry.root = content->root;
  Disk& disk = *state_->disks[host.value];
  disk.used += content->size;
  disk.files.insert_or_assign(name, DiskFile{entry, content, true});
  return entry;
}

bool Simulation::has(HostId host, const std::string& name, const Content& content) const {
  const auto& files = state_->disks[host.value]->files;
  const auto file = files.find(name);
  return file != files.end() && file->second.is_right && file->second.content.get() == &content;
}

const std::vector<Published>& Simulation::published() const { return state_->published; }

std::uint64_t Simulation::lost(HostId host) const { return state_->disks[host.value]->lost; }

std::vector<std::string> Simulation::wrong_files() const {
  std::vector<std::string> wrong;
  for (const auto& disk : state_->disks) std::ranges::copy(disk->wrong, std::back_inserter(wrong));
  return wrong;
}

void Simulation::edit(HostId host, const std::string& name) { state_->disks[host.value]->edit(name, false); }
void Simulation::truncate(HostId host, const std::string& name) { state_->disks[host.value]->edit(name, true); }
void Simulation::break_disk(HostId host, bool is_broken) { state_->disks[host.value]->is_broken = is_broken; }
void Simulation::set_disk_bytes(HostId host, std::uint64_t bytes) { state_->disks[host.value]->capacity = bytes; }
void Simulation::set_disk_rate(HostId host, double rate) { state_->disks[host.value]->rate = rate; }

// ---- time ---------------------------------------------------------------------------------------------

Nanoseconds Simulation::now() const { return state_->loop.now(); }

void Simulation::after(Nanoseconds delay, std::function<void()> action) { state_->loop.at(state_->loop.now() + delay, std::move(action)); }

Ending Simulation::run(const std::function<bool()>& goal, const Limits& limits) {
  Loop& loop = state_->loop;
  const Nanoseconds end = loop.now() + limits.time;
  for (std::uint64_t steps = 0; !goal(); ++steps) {
    if (steps >= limits.steps) return Ending::too_many;
    if (!loop.step(end)) return loop.is_empty() ? Ending::deadlock : Ending::too_long;
  }
  return Ending::reached;
}

std::uint64_t Simulation::steps() const { return state_->loop.steps(); }
std::uint64_t Simulation::trace_hash() const { return state_->loop.trace(); }
std::uint64_t Simulation::random() { return state_->random(); }

// ---- faults -------------------------------------------------------------------------------------------

void Simulation::partition(std::span<const HostId> hosts) { state_->network.partition(hosts); }
void Simulation::mute(HostId host) { state_->network.port(host).is_mute = true; }
void Simulation::heal() { state_->network.heal(); }

bool Simulation::cut_connection(HostId host) {
  const auto& open = state_->network.port(host).connections;
  if (open.empty()) return false;
  const auto chosen = std::next(open.begin(), static_cast<std::ptrdiff_t>(state_->random.below(open.size())));
  if (const auto connection = chosen->second.first.lock())
    for (const int side : {0, 1}) connection->reset_now(side);
  return true;
}

void Simulation::set_rates(HostId host, double up, double down) {
  HostOptions& options = state_->network.port(host).options;
  options.up = up;
  options.down = down;
}

void Simulation::set_reads(HostId host, double rate) { state_->network.port(host).options.reads = rate; }
void Simulation::set_lies(HostId host, const Lies& lies) { state_->network.port(host).options.lies = lies; }
void Simulation::lose_datagrams(HostId host, double part) { state_->network.port(host).options.datagram_loss = part; }
void Simulation::jump_wall_clock(HostId host, Nanoseconds by) { state_->network.port(host).options.wall_offset += by; }

Traffic Simulation::traffic() const { return state_->network.traffic(); }

}  // namespace shoal::sim
