/// A swarm in the simulated world: a real tracker and real peers on modelled machines. Includes its std headers only; import shoal.sim,
/// shoal.wire and shoal.report before it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace shoal::simulation {

/// A peer's machine, and what is on its disk at first.
struct PeerPlan {
  sim::HostOptions host;
  std::vector<std::pair<std::string, sim::ContentPtr>> files;
  bool is_fetching = true;  ///< Else it only shares what it has.
  bool md5_later = false;   ///< Files get their names before their MD5s are confirmed.
};

/// A point of a swarm's curve: what had been sent by then, of all that had to be.
struct Moved {
  Nanoseconds at{0};
  double percent = 0;
};

/// What a swarm came to.
struct Figures {
  sim::Ending ending = sim::Ending::reached;
  Nanoseconds taken{0};          ///< From the beginning to the last file published.
  double percent_of_bound = 0;   ///< 100 would be the time that no schedule could beat.
  std::uint64_t bytes = 0;       ///< That had to be moved.
  std::uint64_t chunks = 0;      ///< Likewise.
  double duplicate_percent = 0;  ///< Of bytes sent over those that had to be.
  double messages_per_chunk = 0;
  double control_bytes_per_chunk = 0;
  double control_percent = 0;  ///< Of the bytes of data.
  Nanoseconds median{0};       ///< When half of those that fetched had everything.
  Nanoseconds p99{0};
  Nanoseconds last{0};
  /// Into each site from the others, for each byte of their files that it did not have; empty where all are at one site. 1 is what has to
  /// be.
  std::vector<double> crossings;
  sim::Traffic traffic;
  std::vector<Moved> curve;
  std::uint64_t steps = 0;
  std::uint64_t trace = 0;
  std::vector<std::string> problems;  ///< What must not be: someone who did not finish, a wrong byte, an exception.
};

/// One line for a person.
std::string to_string(const Figures& figures);

class Swarm {
 public:
  /// `expect` is the size of a closed swarm; 0: an open one, which ends when everybody has everything.
  Swarm(const sim::Options& options, std::uint32_t expect);
  ~Swarm();
  Swarm(const Swarm&) = delete;
  Swarm& operator=(const Swarm&) = delete;

  sim::Simulation& simulation() { return simulation_; }
  std::size_t add(PeerPlan plan);
  /// Two sites that hosts may be at, and what is between them.
  void link_sites(sim::SiteId one, sim::SiteId other, const sim::SiteLink& link);
  std::size_t size() const { return peers_.size(); }
  sim::HostId host_of(std::size_t peer) const;
  sim::HostId tracker() const { return tracker_; }
  /// What its host began with.
  const sim::HostOptions& plan_of(std::size_t peer) const;
  const std::string& id_of(std::size_t peer) const;
  /// Writes a line to the log that SHOAL_SIM_LOG names, with the moment.
  void note(std::string_view what) const;

  void start_tracker();
  /// Not once the swarm is being ended.
  void start(std::size_t peer);
  /// How long it was away, and what its disk lost, is counted in the bound: no schedule could do anything about that.
  void kill(std::size_t peer, sim::Death death);
  /// Starts the tracker and all peers.
  void start_all();
  /// No faults any more: the network is whole and everyone who is not there is started again.
  void make_whole();

  /// Whether every peer has everything. Those that `excuse` are not waited for: liars.
  bool is_done();
  void excuse(std::size_t peer);
  bool has_all(std::size_t peer) const;
  /// How many of the files that were to be moved have come.
  std::size_t published() const { return seen_; }

  /// Goes on until all have everything; then all processes are stopped, and must end.
  Figures finish(const sim::Limits& limits);
  /// The time that no schedule could beat, at the rates that the hosts began with. Nobody has anything before it was started; who was
  /// killed gets nothing until it is started again, and gets what its disk lost a second time. What has to come from other sites cannot
  /// come faster than the links to them let it.
  Seconds bound() const;

 private:
  struct Peer;
  void look();
  void sample();
  std::uint64_t bytes_to_move() const;
  std::set<sim::SiteId> sites() const;
  std::uint64_t foreign_bytes(sim::SiteId site) const;
  Seconds time_to_cross(sim::SiteId site) const;
  std::vector<double> crossings() const;
  Task<> run_peer(std::size_t peer, World& world, Storage& storage, Signal& stop);
  Task<> run_tracker(World& world, Signal& stop);
  void end_processes(Figures& figures);

  std::uint32_t expect_;
  sim::HostId tracker_;
  std::vector<std::unique_ptr<Peer>> peers_;
  std::map<std::pair<sim::SiteId, sim::SiteId>, sim::SiteLink> links_;
  std::size_t seen_ = 0;  ///< Of the simulation's publications.
  std::size_t unfinished_ = 0;
  std::size_t files_ = 0;
  std::vector<Moved> curve_;
  Nanoseconds apart_{0};  ///< Between the points of the curve.
  bool is_started_ = false;
  bool is_ending_ = false;
  sim::Simulation simulation_;  ///< Goes first: processes that still run use all the others.
};

}  // namespace shoal::simulation
