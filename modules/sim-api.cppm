/// The simulated world: virtual time, modelled machines and links, faults, all of it from one seed. The tracker's and the
/// peer's coroutines run here as they ship. One thread; the same seed gives the same run, down to the order of each step.
///
/// What is modelled, and how far it is from a real network:
/// - A host has an uplink and a downlink. The uplink serves its connections in turn, at most `quantum` bytes at a time; the
///   downlink serves what arrives in order of arrival, and begins with a burst when its first bytes are there. So shares of
///   an uplink are fair to within one quantum a connection, those of a downlink to within one window, and a small message waits for at
///   most one quantum of each other connection.
/// - A connection has at most `window` bytes and one round trip's worth on their way or unread. There is no slow start, no loss
///   of packets and no retransmission: a connection takes up a rate at once, where TCP needs some round trips. That is so unless
///   `HostOptions::tcp` says which congestion control the host has. Then:
///   - A connection has under way what its CongestionWindow allows, but at most `send_buffer`, and no more than fits into what is free of
///     the receiver's `receive_buffer`. Acknowledgements take their way back, are never lost, and take nothing of a rate.
///   - Bytes leave in bursts of up to `quantum`, or an eighth of the window while that is less, at the rate of the uplink: nothing is
///     paced. That, and not a packet, is the unit of all that follows.
///   - A burst of which a segment is lost (each with the probability that the way has) comes in a round trip later, and what was sent
///     after it comes in then, too, in order. The sender goes on meanwhile (SACK), with what its window is after a loss. A
///     retransmission may be lost as well: one round trip more. Losses at the end of what is said cost the same, where TCP waits for a
///     timeout (200 ms and a round trip). Windows never go down to one segment. Messages of the handshake and datagrams are not concerned.
///   - Not there: a limit of the queue in front of a downlink (what waits there is never lost), delayed acknowledgements, HyStart, ECN,
///     growth of the buffers with time (they are there from the beginning), Nagle's algorithm.
/// - Hosts may be at several sites. What goes from one site to another shares a link with a latency, a rate, a queue of limited depth,
///   and a probability of loss. A burst that finds the queue full is a loss to its sender, but takes its time on the link all the same,
///   as its retransmission would: so where nobody's window shrinks (`none`, `bbr`) the queue gets longer than it is deep.
/// - A send completes when less than a piece (16 to 256 KiB) of what was said before waits in the sender's buffer, as it
///   does on sockets with TCP_NOTSENT_LOWAT.
/// - Work takes `Host::work` for each piece of it, on as many workers as there is work; running coroutines takes no time.
module;

#include <boost/asio/awaitable.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

export module shoal.sim:api;

import :congestion;

import shoal.base;
import shoal.digest;
import shoal.manifest;
import shoal.wire;
import shoal.world;

export namespace shoal::sim {

using HostId = Index<struct HostTag>;
/// Where hosts are near each other.
using SiteId = Index<struct SiteTag>;

/// What stands for the bytes of files.
enum class Bytes : std::uint8_t {
  real,   ///< Bytes drawn from the content's seed, really hashed: what a few peers and MiB are tested with.
  marks,  ///< The first 32 bytes of a chunk are its hash, and the others are not looked at: for thousands of peers.
};

/// How messages travel.
enum class Messages : std::uint8_t {
  encoded,  ///< As frames, through the codec and the frame reader.
  values,   ///< As they are; only their size is computed.
};

struct Options {
  std::uint64_t seed = 1;
  Bytes bytes = Bytes::real;
  Messages messages = Messages::encoded;
  std::uint32_t quantum = 64 * 1024;  ///< Bytes that an uplink sends of one connection in a turn.
  std::uint32_t window = 512 * 1024;  ///< What a receiver takes in unread.
};

/// What a lying host says, each with its probability.
struct Lies {
  double chunks = 0;   ///< A piece of a chunk is sent with other bytes.
  double hashes = 0;   ///< A reply with chunk hashes has a false one.
  double haves = 0;    ///< An inventory claims all of a file.
  double silence = 0;  ///< A chunk that it is asked for is neither sent nor rejected.
};

/// The TCP of a host. With `none`, which is the default, none of it is modelled for what the host sends.
struct Tcp {
  CongestionControl control = CongestionControl::none;
  std::uint64_t send_buffer = 4 * kMiB;     ///< What a connection may have sent and not acknowledged: the end of Linux's tcp_wmem.
  std::uint64_t receive_buffer = 6 * kMiB;  ///< What one may have sent it and it has not read: the end of tcp_rmem.
  double loss = 0;                          ///< Which part of the segments that it sends is lost, from 0 to less than 1.
};

/// The link from one site to another.
struct SiteLink {
  Nanoseconds latency{0};          ///< That comes on top of the hosts'.
  double rate = 0;                 ///< Bytes a second, shared by all; 0: no limit.
  std::uint64_t queue = 4 * kMiB;  ///< Bytes that wait for their turn, before what comes is lost.
  double loss = 0;                 ///< Which part of segments, and of datagrams, is lost.
};

struct HostOptions {
  double up = 0;  ///< Bytes a second; 0: no limit.
  double down = 0;
  double reads = 0;              ///< Bytes a second that its process takes off each connection; 0: all that is there.
  Nanoseconds latency{100'000};  ///< To the middle of the network: between two hosts it is the sum of theirs.
  Nanoseconds jitter{0};         ///< At most so much more for each burst that it sends.
  double datagram_loss = 0;      ///< Which part of the datagrams that it sends is lost, from 0 to 1.
  Nanoseconds work{0};           ///< That a piece of work on the workers takes.
  double drift_ppm = 0;          ///< By how much its clock runs too fast.
  Nanoseconds wall_offset{0};    ///< By how much its wall clock is ahead.
  std::uint64_t disk_bytes = std::numeric_limits<std::uint64_t>::max();
  NameFolding disk_folding{};  ///< Which names are one name on its disk.
  double disk_rate = 0;        ///< Bytes a second that its disk writes; 0: no limit. Workers wait for what was written before.
  Lies lies;
  Tcp tcp{};
  SiteId site{0};
};

/// How a host dies.
enum class Death : std::uint8_t {
  killed,  ///< The process: the system closes its connections and keeps what was written.
  power,   ///< The machine: it falls silent, and of each partial file some of what was written lately is lost.
};

/// A file's content, drawn from a seed. Equal seeds and sizes are equal contents.
struct Content {
  std::uint64_t seed = 0;
  std::uint64_t size = 0;
  Md5Digest md5;
  Sha256Digest root;
  ChunkHashes chunks;  ///< Also of a single chunk.
};
using ContentPtr = std::shared_ptr<const Content>;

/// A file that got its name on a host's disk.
struct Published {
  HostId host;
  std::string name;
  Nanoseconds at;
};

/// What a process does: its coroutine ends by itself, or soon after `stop` was notified.
using Main = std::function<Task<>(World& world, Storage& storage, Signal& stop)>;

/// How a run of the simulation ended.
enum class Ending : std::uint8_t {
  reached,   ///< The goal.
  deadlock,  ///< Nothing is left that could happen.
  too_long,  ///< The virtual time that was allowed is over.
  too_many,  ///< As many steps were done as were allowed.
};
std::string_view name_of(Ending ending);

struct Limits {
  Nanoseconds time = std::chrono::hours(1);  ///< From now on.
  std::uint64_t steps = std::numeric_limits<std::uint64_t>::max();
};

/// What crossed the network.
struct Traffic {
  std::uint64_t messages = 0;       ///< But for chunks.
  std::uint64_t control_bytes = 0;  ///< Of those, and of the heads of chunks.
  std::uint64_t pieces = 0;         ///< Frames with bytes of a chunk.
  std::uint64_t data_bytes = 0;
  std::uint64_t connections = 0;
  std::uint64_t datagrams = 0;  ///< That were sent.
};

class Simulation {
 public:
  explicit Simulation(const Options& options);
  /// Kills what still runs and lets it end.
  ~Simulation();
  Simulation(const Simulation&) = delete;
  Simulation& operator=(const Simulation&) = delete;

  // ---- machines
  HostId add_host(const HostOptions& options);
  /// Its address, for endpoints.
  std::string address_of(HostId host) const;
  /// What lies between two sites, each way. Nothing does unless this was called, before their hosts connect.
  void link_sites(SiteId one, SiteId other, const SiteLink& link);
  /// Bytes of chunks that were sent from one site to another.
  std::uint64_t crossed(SiteId from, SiteId to) const;
  /// Starts a process on the machine, which must not have one that runs. Its disk is as the last one left it.
  void start(HostId host, const Main& main);
  bool is_running(HostId host) const;
  /// Processes whose coroutine has not ended, killed ones among them.
  std::size_t processes() const;
  /// Asks the process to stop in good order.
  void stop(HostId host);
  /// The process is gone from the network and the disk at once. Its coroutines end by the way that a stop takes them, in a
  /// world where nobody hears them: so their clean-up is run, and has no effect.
  void kill(HostId host, Death death);
  /// Nothing of the process runs until it goes on (SIGSTOP, SIGCONT). Its connections stay: the system sends what was said, and takes
  /// in what comes until the window is full. What was due meanwhile becomes ready together when it goes on.
  void pause(HostId host);
  void resume(HostId host);
  /// What ended processes by an exception, if any did.
  const std::vector<std::string>& failures() const;

  // ---- files
  ContentPtr content(std::uint64_t seed, std::uint64_t size);
  /// Puts a file on a host's disk. It has to be done before the process scans.
  FileEntry put(HostId host, const std::string& name, const ContentPtr& content);
  /// Whether the host has published, under that name, exactly this content.
  bool has(HostId host, const std::string& name, const Content& content) const;
  /// Everything that was published so far, in order.
  const std::vector<Published>& published() const;
  /// Bytes of files that were not whole yet which losses of power took from the host's disk so far.
  std::uint64_t lost(HostId host) const;
  /// Names of published files whose bytes are not what their entry says. None, if the code is right.
  std::vector<std::string> wrong_files() const;
  /// The user of the host writes other bytes into a file that was published, or leaves nothing in it.
  void edit(HostId host, const std::string& name);
  void truncate(HostId host, const std::string& name);
  /// Reading, writing and publishing fail from now on, or no longer.
  void break_disk(HostId host, bool is_broken);
  /// How much fits on the disk from now on; what is there stays.
  void set_disk_bytes(HostId host, std::uint64_t bytes);
  void set_disk_rate(HostId host, double rate);

  // ---- time
  Nanoseconds now() const;
  /// Calls `action` at a moment from now on.
  void after(Nanoseconds delay, std::function<void()> action);
  /// Goes on until `goal` holds, which is looked at after every step.
  Ending run(const std::function<bool()>& goal, const Limits& limits = {});
  std::uint64_t steps() const;
  /// Of everything that happened so far: what ran and when, which message went where.
  std::uint64_t trace_hash() const;
  /// A word of the generator for faults and scripts; sessions have generators of their own.
  std::uint64_t random();

  // ---- faults
  /// Connections between the two sides carry nothing until heal().
  void partition(std::span<const HostId> hosts);
  /// Nothing that the host says gets through until heal(), while what others say does, as far as they need no answer.
  void mute(HostId host);
  void heal();
  /// Resets one connection of this host, drawn by the seed. False where it has none.
  bool cut_connection(HostId host);
  void set_rates(HostId host, double up, double down);
  /// How fast its process reads from now on: see HostOptions::reads.
  void set_reads(HostId host, double rate);
  void set_lies(HostId host, const Lies& lies);
  /// The host's wall clock jumps by so much.
  void jump_wall_clock(HostId host, Nanoseconds by);
  /// From now on, that part of the datagrams which it sends is lost.
  void lose_datagrams(HostId host, double part);

  Traffic traffic() const;

  struct State;

 private:
  std::unique_ptr<State> state_;
};

}  // namespace shoal::sim
