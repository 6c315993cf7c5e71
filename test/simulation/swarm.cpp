#include <fmt/core.h>
#include <sys/types.h>

#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

import shoal.base;
import shoal.manifest;
import shoal.peer;
import shoal.report;
import shoal.schedule;
import shoal.sim;
import shoal.tracker;
import shoal.wire;
import shoal.world;

#include "simulation/swarm.hpp"

using namespace std::chrono_literals;

namespace shoal::simulation {
namespace {

constexpr std::uint16_t kTrackerPort = 5555;

/// The log that SHOAL_SIM_LOG names; null where it names none.
std::FILE* log_file() {
  static std::FILE* const file = [] {
    const char* const path = std::getenv("SHOAL_SIM_LOG");
    return path ? std::fopen(path, "a") : nullptr;
  }();
  return file;
}

void log_line(Nanoseconds at, std::string_view who, std::string_view text) {
  fmt::print(log_file(), "{:11.6f} {}: {}{}", Seconds(at).count(), who, text, text.ends_with('\n') ? "" : "\n");
  std::fflush(log_file());
}

/// What a process says, line by line, with its name and the moment.
struct Voice {
  const sim::Simulation& simulation;
  std::string who;

  static ssize_t write(void* voice, const char* text, std::size_t size) {
    const auto& self = *static_cast<const Voice*>(voice);
    log_line(self.simulation.now(), self.who, {text, size});
    return static_cast<ssize_t>(size);
  }
};

/// A process's report, and where it goes: nowhere, or to the log.
class Diary {
 public:
  Diary(const sim::Simulation& simulation, const std::string& who) : voice_{simulation, who}, out_(open(voice_), std::fclose) {
    ReportOptions options;
    options.verbosity = log_file() ? Verbosity::verbose : Verbosity::quiet;
    options.colour = Colour::never;
    options.program = who;
    if (const char* const folder = std::getenv("SHOAL_SIM_EVENTS")) options.log_file = fmt::format("{}/{}.ndjson", folder, who);
    options.out = options.err = out_.get();
    report_ = std::move(*Report::open(std::move(options)));
  }
  Report& report() { return *report_; }

 private:
  static std::FILE* open(Voice& voice) {
    if (!log_file()) return std::fopen("/dev/null", "a");
#ifdef __APPLE__
    const auto write = [](void* at, const char* text, int size) {
      return static_cast<int>(Voice::write(at, text, static_cast<std::size_t>(size)));
    };
    return funopen(&voice, nullptr, write, nullptr, nullptr);
#else
    return fopencookie(&voice, "w", {.read = nullptr, .write = Voice::write, .seek = nullptr, .close = nullptr});
#endif
  }

  Voice voice_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> out_;
  std::unique_ptr<Report> report_;
};

}  // namespace

struct Swarm::Peer {
  std::string id;
  sim::HostId host;
  sim::HostOptions options;
  std::vector<std::pair<std::string, sim::ContentPtr>> files;
  std::set<std::string> has;  ///< Names of its own and of what it published.
  std::optional<Nanoseconds> started_at;
  std::optional<Nanoseconds> killed_at;  ///< While it is dead.
  Nanoseconds dead{0};                   ///< In all, before it had everything.
  std::optional<Nanoseconds> done_at;
  bool is_excused = false;
  bool is_fetching = true;
  bool md5_later = false;
  std::uint64_t wasted = 0;
};

Swarm::Swarm(const sim::Options& options, std::uint32_t expect) : expect_(expect), simulation_(options) {
  tracker_ = simulation_.add_host({});
}
Swarm::~Swarm() { is_ending_ = true; }

std::size_t Swarm::add(PeerPlan plan) {
  auto peer = std::make_unique<Peer>();
  peer->id = fmt::format("p{:05}", peers_.size());
  peer->host = simulation_.add_host(plan.host);
  peer->options = plan.host;
  peer->is_fetching = plan.is_fetching;
  peer->md5_later = plan.md5_later;
  peer->is_excused = !plan.is_fetching;
  for (const auto& [name, content] : plan.files) {
    simulation_.put(peer->host, name, content);
    peer->has.insert(name);
  }
  files_ += plan.files.size();
  peer->files = std::move(plan.files);
  peers_.push_back(std::move(peer));
  return peers_.size() - 1;
}

sim::HostId Swarm::host_of(std::size_t peer) const { return peers_[peer]->host; }

const sim::HostOptions& Swarm::plan_of(std::size_t peer) const { return peers_[peer]->options; }
const std::string& Swarm::id_of(std::size_t peer) const { return peers_[peer]->id; }

void Swarm::note(std::string_view what) const {
  if (log_file()) log_line(simulation_.now(), "----", what);
}

// ---- processes ----------------------------------------------------------------------------------------

Task<> Swarm::run_tracker(World& world, Signal& stop) {
  const auto diary = std::make_unique<Diary>(simulation_, "tracker");
  TrackerOptions options;
  options.listen = {"0.0.0.0", kTrackerPort};
  options.expect = expect_;
  unwrap(co_await shoal::run_tracker(world, diary->report(), options, stop));
}

Task<> Swarm::run_peer(std::size_t index, World& world, Storage& storage, Signal& stop) {
  Peer& peer = *peers_[index];
  const auto diary = std::make_unique<Diary>(simulation_, peer.id);
  PeerOptions options;
  options.tracker = {simulation_.address_of(tracker_), kTrackerPort};
  options.listen = {"0.0.0.0", 0};
  options.id = peer.id;
  options.expect = expect_;
  options.md5_later = peer.md5_later;
  if (!peer.is_fetching) options.appetite = Appetite::nothing;
  options.upload_limit = static_cast<std::uint64_t>(peer.options.up);
  const auto outcome = co_await run_member(world, diary->report(), storage, options, stop);
  if (outcome) peer.wasted += outcome->bytes_wasted;
}

void Swarm::start_tracker() {
  simulation_.start(tracker_, [this](World& world, Storage&, Signal& stop) { return run_tracker(world, stop); });
}

void Swarm::start(std::size_t peer) {
  if (is_ending_) return;
  if (!peers_[peer]->started_at) peers_[peer]->started_at = simulation_.now();
  if (const auto killed = std::exchange(peers_[peer]->killed_at, std::nullopt)) peers_[peer]->dead += simulation_.now() - *killed;
  simulation_.start(host_of(peer),
                    [this, peer](World& world, Storage& storage, Signal& stop) { return run_peer(peer, world, storage, stop); });
}

void Swarm::kill(std::size_t peer, sim::Death death) {
  look();
  if (simulation_.is_running(host_of(peer)) && !has_all(peer)) peers_[peer]->killed_at = simulation_.now();
  simulation_.kill(host_of(peer), death);
}

void Swarm::start_all() {
  start_tracker();
  for (std::size_t i = 0; i < peers_.size(); ++i) start(i);
}

void Swarm::make_whole() {
  simulation_.heal();
  if (!simulation_.is_running(tracker_)) start_tracker();
  for (std::size_t i = 0; i < peers_.size(); ++i)
    if (!simulation_.is_running(host_of(i)) && !has_all(i)) start(i);
}

// ---- how far it is ------------------------------------------------------------------------------------

/// Takes into account what was published since the last look.
void Swarm::look() {
  if (!std::exchange(is_started_, true))
    unfinished_ = static_cast<std::size_t>(
        std::ranges::count_if(peers_, [this](const auto& peer) { return !peer->is_excused && peer->has.size() < files_; }));
  const auto& published = simulation_.published();
  for (; seen_ < published.size(); ++seen_) {
    Peer& peer = *peers_[published[seen_].host.value - 1];  // the tracker's host is the first
    peer.has.insert(published[seen_].name);
    if (peer.has.size() < files_ || peer.done_at) continue;
    peer.done_at = published[seen_].at;
    if (!peer.is_excused) --unfinished_;
  }
}

bool Swarm::has_all(std::size_t peer) const { return peers_[peer]->has.size() >= files_; }

void Swarm::excuse(std::size_t peer) { peers_[peer]->is_excused = true; }

/// A hundred points or so until the bound; more where it takes longer.
void Swarm::sample() {
  const Nanoseconds now = simulation_.now();
  if (apart_ == Nanoseconds::zero()) apart_ = std::max(std::chrono::duration_cast<Nanoseconds>(bound() / 100), Nanoseconds(1));
  if (!curve_.empty() && now - curve_.back().at < apart_) return;
  const auto bytes = static_cast<double>(std::max<std::uint64_t>(bytes_to_move(), 1));
  curve_.push_back({now, 100.0 * static_cast<double>(simulation_.traffic().data_bytes) / bytes});
}

bool Swarm::is_done() {
  sample();
  look();
  return unfinished_ == 0;
}

Seconds Swarm::bound() const {
  std::vector<BoundPeer> parties;
  std::uint64_t total = 0;
  for (const auto& peer : peers_)
    for (const auto& [name, content] : peer->files) total += content->size;
  for (const auto& peer : peers_) {
    std::uint64_t own = 0;
    for (const auto& [name, content] : peer->files) own += content->size;
    parties.push_back({own, total - own, peer->options.up, peer->options.down});
  }
  Seconds least = lower_bound(parties).value_or(Seconds(0));
  for (std::size_t i = 0; i < peers_.size(); ++i) {
    const Seconds away = peers_[i]->started_at.value_or(Nanoseconds::zero()) + peers_[i]->dead;
    const auto bytes = static_cast<double>(parties[i].lacks + simulation_.lost(peers_[i]->host));
    if (!peers_[i]->is_excused && parties[i].lacks > 0) least = std::max(least, away + Seconds(bytes / parties[i].download));
  }
  for (const sim::SiteId site : sites()) least = std::max(least, time_to_cross(site));
  return least;
}

// ---- sites --------------------------------------------------------------------------------------------

void Swarm::link_sites(sim::SiteId one, sim::SiteId other, const sim::SiteLink& link) {
  links_[{one, other}] = links_[{other, one}] = link;
  simulation_.link_sites(one, other, link);
}

/// Where someone is who fetches.
std::set<sim::SiteId> Swarm::sites() const {
  std::set<sim::SiteId> sites;
  for (const auto& peer : peers_)
    if (!peer->is_excused) sites.insert(peer->options.site);
  return sites;
}

/// The bytes of all files that nobody at a site has at first.
std::uint64_t Swarm::foreign_bytes(sim::SiteId site) const {
  std::map<const sim::Content*, bool> is_there;
  for (const auto& peer : peers_)
    for (const auto& [name, content] : peer->files) is_there[content.get()] |= peer->options.site == site;
  std::uint64_t bytes = 0;
  for (const auto& [content, is_near] : is_there) bytes += is_near ? 0 : content->size;
  return bytes;
}

/// How long the links to a site take, all at once, for what it does not have; no time where one has no limit.
Seconds Swarm::time_to_cross(sim::SiteId site) const {
  double rate = 0;
  for (const auto& [sites, link] : links_) {
    if (sites.second != site) continue;
    if (link.rate <= 0) return Seconds(0);
    rate += link.rate;
  }
  return rate > 0 ? Seconds(static_cast<double>(foreign_bytes(site)) / rate) : Seconds(0);
}

std::vector<double> Swarm::crossings() const {
  std::vector<double> crossings;
  if (links_.empty()) return crossings;
  for (const sim::SiteId site : sites()) {
    std::uint64_t crossed = 0;
    for (const auto& [sites, link] : links_)
      if (sites.second == site) crossed += simulation_.crossed(sites.first, site);
    const std::uint64_t needed = foreign_bytes(site);
    if (needed > 0) crossings.push_back(static_cast<double>(crossed) / static_cast<double>(needed));
  }
  return crossings;
}

// ---- the end ------------------------------------------------------------------------------------------

std::uint64_t Swarm::bytes_to_move() const {
  std::uint64_t bytes = 0;
  for (const auto& peer : peers_)
    for (const auto& [name, content] : peer->files) bytes += content->size * (peers_.size() - 1);
  return bytes;
}

namespace {

Nanoseconds at_rank(const std::vector<Nanoseconds>& sorted, double rank) {
  if (sorted.empty()) return Nanoseconds::zero();
  return sorted[std::min(sorted.size() - 1, static_cast<std::size_t>(rank * static_cast<double>(sorted.size())))];
}

}  // namespace

void Swarm::end_processes(Figures& figures) {
  is_ending_ = true;
  for (const auto& peer : peers_) simulation_.stop(peer->host);
  simulation_.stop(tracker_);
  const sim::Ending ending = simulation_.run([this] { return simulation_.processes() == 0; }, {10min});
  if (ending != sim::Ending::reached) figures.problems.push_back(fmt::format("stopped processes do not end: {}", name_of(ending)));
}

Figures Swarm::finish(const sim::Limits& limits) {
  Figures figures;
  figures.ending = simulation_.run([this] { return is_done(); }, limits);
  figures.taken = simulation_.now();
  figures.traffic = simulation_.traffic();
  figures.steps = simulation_.steps();
  std::vector<Nanoseconds> times;
  for (const auto& peer : peers_) {
    if (peer->done_at) times.push_back(*peer->done_at);
    if (!peer->is_excused && peer->has.size() < files_)
      figures.problems.push_back(fmt::format("{} has {} of {} files: {}", peer->id, peer->has.size(), files_, name_of(figures.ending)));
  }
  std::ranges::sort(times);
  figures.median = at_rank(times, 0.5);
  figures.p99 = at_rank(times, 0.99);
  figures.last = times.empty() ? Nanoseconds::zero() : times.back();
  figures.bytes = bytes_to_move();
  for (const auto& peer : peers_)
    for (const auto& [name, content] : peer->files) figures.chunks += content->chunks->size() * (peers_.size() - 1);
  figures.crossings = crossings();
  figures.curve = std::move(curve_);
  figures.curve.push_back({figures.taken, figures.curve.empty() ? 0.0 : 100.0});
  figures.percent_of_bound = percent_of_bound(bound(), Seconds(figures.taken));
  const auto chunks = static_cast<double>(std::max<std::uint64_t>(figures.chunks, 1));
  const auto bytes = static_cast<double>(std::max<std::uint64_t>(figures.bytes, 1));
  figures.duplicate_percent = 100.0 * (static_cast<double>(figures.traffic.data_bytes) / bytes - 1.0);
  figures.messages_per_chunk = static_cast<double>(figures.traffic.messages) / chunks;
  figures.control_bytes_per_chunk = static_cast<double>(figures.traffic.control_bytes) / chunks;
  figures.control_percent = 100.0 * static_cast<double>(figures.traffic.control_bytes) / bytes;
  end_processes(figures);
  for (const auto& name : simulation_.wrong_files()) figures.problems.push_back("published with wrong bytes: " + name);
  for (const auto& failure : simulation_.failures()) figures.problems.push_back("ended by an exception: " + failure);
  for (const auto& owner : peers_)
    for (const auto& [name, content] : owner->files)
      for (const auto& peer : peers_)
        if (!peer->is_excused && !simulation_.has(peer->host, name, *content))
          figures.problems.push_back(fmt::format("{} does not have {} as it is", peer->id, name));
  figures.trace = simulation_.trace_hash();
  return figures;
}

std::string to_string(const Figures& figures) {
  const auto seconds = [](Nanoseconds time) { return Seconds(time).count(); };
  std::string crossed;
  for (const double copies : figures.crossings) crossed += fmt::format("; {:.2f} copies crossed into a site", copies);
  return fmt::format(
      "{:.3f} s, {:.1f} % of the bound{}; {:.2f} % duplicates, {:.2f} messages and {:.0f} control bytes a chunk ({:.2f} %); half at "
      "{:.3f} s, 99 % at {:.3f} s, last at {:.3f} s; {} steps, trace {:016x}",
      seconds(figures.taken), figures.percent_of_bound, crossed, figures.duplicate_percent, figures.messages_per_chunk,
      figures.control_bytes_per_chunk, figures.control_percent, seconds(figures.median), seconds(figures.p99), seconds(figures.last),
      figures.steps, figures.trace);
}

}  // namespace shoal::simulation
