/// Inside shoal.sim: the loop, the network, the disks, and a host's world.
module;

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/execution.hpp>
#include <boost/asio/execution_context.hpp>
#include <tl/expected.hpp>

#include <array>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

module shoal.sim:internal;

import :api;

import shoal.base;
import shoal.digest;
import shoal.manifest;
import shoal.wire;
import shoal.world;

namespace shoal::sim {

// ---- the loop: src/sim/loop.cpp -----------------------------------------------------------------------

/// A source of random words: SplitMix64 (Steele, Lea, Flood 2014). Small, so that each host can have its own.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t operator()() { return mix(state_ += 0x9E3779B97F4A7C15U); }
  /// Below `bound`, which is not 0.
  std::uint64_t below(std::uint64_t bound) { return static_cast<std::uint64_t>((static_cast<unsigned __int128>((*this)()) * bound) >> 64); }
  bool is_true(double probability) { return probability > 0 && static_cast<double>((*this)() >> 11) * 0x1p-53 < probability; }
  static std::uint64_t mix(std::uint64_t word) {
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9U;
    word = (word ^ (word >> 27)) * 0x94D049BB133111EBU;
    return word ^ (word >> 31);
  }

 private:
  std::uint64_t state_;
};

/// Something to run once. Small ones take no memory of their own.
class Job {
 public:
  Job() = default;
  template <class F>
    requires(!std::same_as<std::remove_cvref_t<F>, Job>)
  Job(F&& f) {  // NOLINT(google-explicit-constructor)
    using Callable = std::remove_cvref_t<F>;
    if constexpr (fits<Callable>) {
      ::new (static_cast<void*>(storage_)) Callable(std::forward<F>(f));
      table_ = &kInline<Callable>;
    } else {
      *pointer<Callable>(storage_) = new Callable(std::forward<F>(f));
      table_ = &kOnHeap<Callable>;
    }
  }
  Job(Job&& other) noexcept { take(other); }
  Job& operator=(Job&& other) noexcept {
    if (this == &other) return *this;
    reset();
    take(other);
    return *this;
  }
  ~Job() { reset(); }

  explicit operator bool() const { return table_ != nullptr; }
  void operator()() { table_->run(storage_); }
  void reset() {
    if (table_) std::exchange(table_, nullptr)->destroy(storage_);
  }

 private:
  static constexpr std::size_t kRoom = 40;
  struct Table {
    void (*run)(std::byte*);
    void (*move)(std::byte*, std::byte*);
    void (*destroy)(std::byte*);
  };
  template <class F>
  static constexpr bool fits = sizeof(F) <= kRoom && alignof(F) <= alignof(void*) && std::is_nothrow_move_constructible_v<F>;
  template <class F>
  static F* object(std::byte* at) {
    return std::launder(reinterpret_cast<F*>(at));
  }
  template <class F>
  static F** pointer(std::byte* at) {
    return reinterpret_cast<F**>(at);
  }
  template <class F>
  static constexpr Table kInline{[](std::byte* at) { (*object<F>(at))(); },
                                 [](std::byte* from, std::byte* to) {
                                   ::new (static_cast<void*>(to)) F(std::move(*object<F>(from)));
                                   object<F>(from)->~F();
                                 },
                                 [](std::byte* at) { object<F>(at)->~F(); }};
  template <class F>
  static constexpr Table kOnHeap{[](std::byte* at) { (**pointer<F>(at))(); },
                                 [](std::byte* from, std::byte* to) { *pointer<F>(to) = *pointer<F>(from); },
                                 [](std::byte* at) { delete *pointer<F>(at); }};

  void take(Job& other) {
    if (other.table_) other.table_->move(other.storage_, storage_);
    table_ = std::exchange(other.table_, nullptr);
  }

  alignas(void*) std::byte storage_[kRoom];
  const Table* table_ = nullptr;
};

/// A job that waits for its time; good for one cancel.
struct TimerId {
  std::uint32_t place = 0;
  std::uint32_t use = 0;  ///< 0: none.
};

/// Virtual time, what is ready, and what waits for its time. What is ready runs in an order drawn from the seed.
class Loop : public boost::asio::execution_context {
 public:
  explicit Loop(std::uint64_t seed) : random_(seed) {}
  ~Loop();
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  /// Destroys all that is left to run, and takes nothing more. What it destroys may still use its surroundings.
  void end();
  Nanoseconds now() const { return now_; }
  void ready(Job job);
  TimerId at(Nanoseconds due, Job job);
  void cancel(TimerId timer);
  /// Runs one job. Where none is ready, time goes on to the next moment at which there is; false where there is none, or not
  /// before `end`.
  bool step(Nanoseconds end);
  bool is_empty() const { return ready_.empty() && due_.empty(); }
  std::uint64_t steps() const { return steps_; }
  std::uint64_t trace() const { return trace_; }
  /// Takes something that happened into the trace.
  void note(std::uint64_t what) { trace_ = Random::mix(trace_ ^ what) + what; }

 private:
  struct Ready {
    Job job;
    std::uint64_t number = 0;
  };
  struct Due {
    Nanoseconds when;
    std::uint64_t number;
    std::uint32_t place;
    bool operator<(const Due& other) const { return when != other.when ? when > other.when : number > other.number; }
  };
  struct Place {
    Job job;
    std::uint32_t use = 1;
  };

  bool advance(Nanoseconds end);
  void release(std::uint32_t place);

  Random random_;
  Nanoseconds now_{0};
  std::vector<Ready> ready_;
  std::vector<Due> due_;  ///< A heap, the next first.
  std::vector<Place> places_;
  std::vector<std::uint32_t> free_;
  std::uint64_t next_number_ = 0;
  std::uint64_t steps_ = 0;
  std::uint64_t trace_ = 0;
  bool is_ending_ = false;
};

/// What a process does goes through its gate, which is closed while the process is stopped. It outlives all that does.
class Gate {
 public:
  explicit Gate(Loop& loop) : loop_(loop) {}
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;

  void ready(Job job) {
    if (is_closed_) return held_.push_back(std::move(job));
    loop_.ready(std::move(job));
  }
  void at(Nanoseconds due, Job job) {
    loop_.at(due, [this, job = std::move(job)]() mutable {
      if (is_closed_) return held_.push_back(std::move(job));
      job();
    });
  }
  void close() { is_closed_ = true; }
  /// What was held back becomes ready.
  void open() {
    is_closed_ = false;
    for (Job& job : std::exchange(held_, {})) loop_.ready(std::move(job));
  }
  Loop& loop() { return loop_; }

 private:
  Loop& loop_;
  bool is_closed_ = false;
  std::vector<Job> held_;
};

/// Runs what a process does on a Loop: at once, or, for work, after `delay`.
class LoopExecutor {
 public:
  explicit LoopExecutor(Gate& gate, Nanoseconds delay = Nanoseconds::zero()) : gate_(&gate), delay_(delay) {}

  boost::asio::execution_context& query(boost::asio::execution::context_t) const noexcept { return gate_->loop(); }
  static constexpr boost::asio::execution::blocking_t query(boost::asio::execution::blocking_t) noexcept {
    return boost::asio::execution::blocking.never;
  }
  bool operator==(const LoopExecutor&) const noexcept = default;

  template <class F>
  void execute(F&& f) const {
    if (delay_ > Nanoseconds::zero())
      gate_->at(gate_->loop().now() + delay_, std::forward<F>(f));
    else
      gate_->ready(std::forward<F>(f));
  }

 private:
  Gate* gate_;
  Nanoseconds delay_;
};

// ---- the network: src/sim/network.cpp, link.cpp -------------------------------------------------------

/// A connection that takes nothing at all for this long is dead, as in shoal.net.
inline constexpr Nanoseconds kSendPatience{30'000'000'000};

/// That so many bytes take; none at all where the rate has no limit.
Nanoseconds time_for(std::uint64_t bytes, double rate);

class Network;
class Connection;
struct SimListener;

/// One frame on its way. `end` is its place in its direction's stream of bytes.
struct Frame {
  enum class Kind : std::uint8_t { message, chunk, fin };
  Kind kind = Kind::message;
  bool is_wrong = false;  ///< The bytes are to be others than the source's.
  std::uint64_t end = 0;
  Incoming what;
  std::vector<std::byte> encoded;
  std::shared_ptr<const ChunkSource> source;
  std::uint64_t offset = 0;  ///< In the source.
  std::unique_ptr<Frame> next;
};

/// One direction of a connection. Positions count bytes since its beginning.
struct Pipe {
  HostId from;
  HostId to;
  std::unique_ptr<Frame> first;  ///< From the oldest that is not read to the newest.
  Frame* last = nullptr;
  std::uint64_t queued = 0;   ///< That the sender said.
  std::uint64_t sent = 0;     ///< That left its uplink.
  std::uint64_t arrived = 0;  ///< That came through the receiver's downlink.
  std::uint64_t taken = 0;    ///< That the receiver took.
  std::uint64_t wanted = 0;   ///< Where the receiver wants to be woken; 0: it does not wait.
  std::uint64_t acked = 0;    ///< What the sender knows to be off the receiver's hands.
  std::uint32_t unsent_limit = 16 * 1024;
  std::optional<CongestionWindow> congestion;  ///< Where its sender has TCP. Then `acked` is the end of what was acknowledged in order,
  Nanoseconds held_until{0};                   ///< what comes in earlier waits for a retransmission,
  std::optional<std::uint64_t> unsaid;         ///< and so many bytes came in of which the receiver could not tell.
  bool is_in_turn = false;                     ///< In its uplink's ring.
  bool has_waiting_writer = false;
  Nanoseconds last_arrival{0};
};

/// One side of a connection.
struct Side {
  Signal readable;
  Signal writable;
  bool is_closed = false;
  bool is_reset = false;
  bool has_expired = false;
  std::optional<Nanoseconds> read_until;
  std::optional<Nanoseconds> write_until;
  Nanoseconds patience{0};  ///< With the bytes of a chunk, for as long as some come; 0 for messages.
  TimerId watch;
  Nanoseconds watch_at{0};
};

/// A connection between two hosts. Side 0 connected, side 1 accepted; pipe i carries what side i says.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(Network& network, HostId from, HostId to);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  Pipe& pipe(int side) { return pipes_[static_cast<std::size_t>(side)]; }
  Side& side(int side) { return sides_[static_cast<std::size_t>(side)]; }
  Network& network() { return network_; }
  HostId host(int side) { return pipe(side).from; }
  std::uint64_t number() const { return number_; }
  int side_of(const Pipe& pipe) const { return &pipe == pipes_.data() ? 0 : 1; }

  void say(int side, std::unique_ptr<Frame> frame, std::uint64_t bytes);
  /// Ends a side. The other hears of it in time, unless `is_silent`.
  void close(int side, bool is_silent = false);
  /// The other side is told that what it says is not heard any more.
  void reset(int side);
  void reset_now(int side);
  /// Sleeps until the next moment at which a side can have waited too long.
  void watch(int side);
  /// The same for one that went on: it may have waited too long meanwhile.
  void watch_again(int side);
  bool is_over() const { return sides_[0].is_closed && sides_[1].is_closed; }

 private:
  void on_watch(int side);

  Network& network_;
  std::uint64_t number_;
  std::array<Pipe, 2> pipes_;
  std::array<Side, 2> sides_;
};
using ConnectionPtr = std::shared_ptr<Connection>;

/// Where datagrams come to.
struct Postbox {
  HostId host;
  std::uint16_t port = 0;
  std::optional<DatagramAddress> other;  ///< The only one that it is for.
  std::vector<Datagram> waiting;
  Signal arrived;
  bool is_closed = false;
};

DatagramAddress datagram_address(HostId host, std::uint16_t port);

/// Both ways of a host to the network, and who listens there.
struct Port {
  HostOptions options;
  std::string address;
  std::uint32_t island = 0;
  bool is_on = true;        ///< Off: silent.
  bool is_mute = false;     ///< What it says does not get through.
  bool is_paused = false;   ///< Its process does not run.
  bool is_sending = false;  ///< The uplink is busy.
  std::deque<std::pair<ConnectionPtr, int>> turns;
  Nanoseconds down_free{0};
  std::uint16_t next_port = 20'000;
  std::map<std::uint16_t, std::shared_ptr<SimListener>> listeners;
  std::map<std::uint16_t, std::shared_ptr<Postbox>> postboxes;
  std::map<std::uint64_t, std::pair<std::weak_ptr<Connection>, int>> connections;  ///< That are open at this end.
};

/// Where connections wait for accept.
struct SimListener {
  HostId host;
  std::uint16_t port = 0;
  std::deque<std::pair<ConnectionPtr, Endpoint>> waiting;
  Signal arrived;
  bool is_closed = false;
};

/// What lies between two sites, in one direction.
struct Route {
  SiteLink link;
  Nanoseconds free_at{0};  ///< When all that waits has gone.
  std::uint64_t crossed = 0;
};

/// Some bytes of a pipe on their way.
struct Burst {
  ConnectionPtr connection;
  int side = 0;
  std::uint32_t bytes = 0;
  Nanoseconds sent_at{0};
  Nanoseconds span{0};    ///< From the first of them to the last.
  bool is_lossy = false;  ///< Some have to be sent again.
};

class Network {
 public:
  Network(Loop& loop, const Options& options);

  Loop& loop() { return loop_; }
  const Options& options() const { return options_; }
  Traffic& traffic() { return traffic_; }
  Random& random() { return random_; }
  std::uint64_t next_number() { return next_number_++; }

  HostId add(const HostOptions& options);
  Port& port(HostId host) { return *ports_[host.value]; }
  const Port& port(HostId host) const { return *ports_[host.value]; }
  std::size_t hosts() const { return ports_.size(); }
  std::optional<HostId> find(const std::string& address) const;

  bool is_reachable(HostId from, HostId to) const;
  Nanoseconds latency(HostId from, HostId to) const;
  Nanoseconds round_trip(HostId one, HostId other) const { return latency(one, other) + latency(other, one); }
  void link_sites(SiteId from, SiteId to, const SiteLink& link) { routes_[{from, to}].link = link; }
  /// What lies between them; null for hosts of one site, and where nothing does.
  Route* route(HostId from, HostId to);
  const Route* route(HostId from, HostId to) const { return const_cast<Network*>(this)->route(from, to); }
  std::uint64_t crossed(SiteId from, SiteId to) const;
  /// How much longer than that the next thing takes which the host sends.
  Nanoseconds draw_jitter(HostId from);
  /// A pipe has something to send, or room to send it.
  void offer(const ConnectionPtr& connection, int side);
  /// A datagram goes its way. It takes nothing of the hosts' rates: such are small.
  void post(const Postbox& from, const DatagramAddress& to, Message message);
  void partition(std::span<const HostId> hosts);
  void heal();
  void pause(HostId host) { port(host).is_paused = true; }
  void resume(HostId host);
  /// Everything of a host that is open ends.
  void shut(HostId host, bool is_silent);
  void turn_on(HostId host);

 private:
  std::uint64_t sendable(Pipe& pipe) const;
  void start_uplink(HostId host);
  void send_burst(const ConnectionPtr& connection, int side, std::uint64_t bytes);
  void on_burst(const ConnectionPtr& connection, int side, std::uint64_t bytes, Nanoseconds whole_at);
  void deliver(const ConnectionPtr& connection, int side, std::uint64_t bytes);
  // With TCP, or between sites: src/sim/tcp.cpp.
  std::uint64_t tcp_sendable(const Pipe& pipe) const;
  void launch(Burst burst, Nanoseconds way);
  void cross(Burst burst, Route& route);
  void arrive(Burst burst, Nanoseconds at);
  void pass_downlink(Burst burst);
  void take_in(const Burst& burst);
  double loss_between(HostId from, HostId to) const;
  bool is_lost(const Pipe& pipe, std::uint64_t bytes);
  Nanoseconds repair_time(const Pipe& pipe);
  void acknowledge(const Burst& burst);
  void acknowledge_unsaid(const ConnectionPtr& connection, int side);
  void on_acknowledged(const Burst& burst, std::uint64_t in_order);
  void drop_in(HostId host, std::uint16_t port, Datagram datagram);
  void offer_all();

  Loop& loop_;
  Options options_;
  Random random_;
  Traffic traffic_;
  std::uint64_t next_number_ = 1;
  std::vector<std::unique_ptr<Port>> ports_;
  std::unordered_map<std::string, HostId> by_address_;
  std::map<std::pair<SiteId, SiteId>, Route> routes_;
};

std::unique_ptr<DatagramSocket> make_sim_datagrams(Network& network, std::shared_ptr<Postbox> postbox);
std::unique_ptr<Link> make_sim_link(ConnectionPtr connection, int side, Endpoint local, Endpoint remote, Executor strand);

// ---- disks: src/sim/disk.cpp, content.cpp -------------------------------------------------------------

/// Draws contents from their seeds, and knows them by root.
class Library {
 public:
  explicit Library(Bytes bytes) : bytes_(bytes) {}
  ContentPtr make(std::uint64_t seed, std::uint64_t size);
  ContentPtr find(const Sha256Digest& root, std::uint64_t size) const;
  Bytes bytes() const { return bytes_; }
  const Digester& digester() const;
  /// The bytes of a content from `offset` on. With marks, only those that are looked at.
  void fill(const Content& content, std::uint64_t offset, std::span<std::byte> out) const;

 private:
  Bytes bytes_;
  std::map<std::pair<std::uint64_t, std::uint64_t>, ContentPtr> by_seed_;
  std::unordered_map<Sha256Digest, ContentPtr> by_root_;
};

/// What chunks of a partial file are.
enum class ChunkState : std::uint8_t { absent, right, wrong };

/// A partial file: what each chunk is.
struct PartialData {
  std::uint64_t size = 0;
  ContentPtr content;  ///< Null where nobody knows the root.
  std::vector<ChunkState> chunks;
  std::vector<bool> is_synced;
  bool is_changed = false;  ///< By the user, since it has a name.
};

/// A file with a name.
struct DiskFile {
  FileEntry entry;
  ContentPtr content;
  bool is_right = true;
  std::shared_ptr<PartialData> written = nullptr;  ///< What it was fetched into, if it was.
};

/// What outlives the processes of a host.
struct Disk {
  explicit Disk(const Loop& l) : loop(l) {}

  const Loop& loop;
  std::map<std::string, DiskFile> files;
  std::map<std::pair<Sha256Digest, std::uint64_t>, std::shared_ptr<PartialData>> partials;
  std::uint64_t used = 0;
  std::uint64_t lost = 0;  ///< That was written, and gone or wrong after a loss of power.
  std::uint64_t capacity = 0;
  NameFolding folding;  ///< Which names are one name on it.
  bool is_broken = false;
  double rate = 0;                 ///< Bytes a second that it writes; 0: no limit.
  Nanoseconds busy_until{0};       ///< With what was written so far.
  std::vector<std::string> wrong;  ///< Published, and not what the entry says.
  std::function<void(const std::string&)> on_published;

  /// The file that is found by that name.
  std::map<std::string, DiskFile>::const_iterator find(const std::string& name) const;
  /// Gives a file its name, in the place of what was found by it.
  void publish(DiskFile file);
  /// The user writes other bytes into that file, which was published, or leaves nothing in it.
  void edit(const std::string& name, bool is_truncated);
  /// Has it write so much.
  void occupy(std::uint64_t bytes);

  /// Loses some of what no sync has followed.
  void lose_power(Random& random);
};

/// A process's view of its disk; once it is fenced, nothing it does has an effect.
class SimStorage final : public Storage {
 public:
  SimStorage(const Library& library, std::shared_ptr<Disk> disk);

  Result<ScanReport> scan(const ScanOptions& options) override;
  Result<StoredFile> digest(const std::string& name) override;
  Result<std::shared_ptr<const ChunkSource>> open(const FileEntry& entry) override;
  Result<std::shared_ptr<PartialFile>> open_partial(const FileEntry& entry) override;
  std::vector<Result<>> publish(std::span<const Publication> files) override;
  Result<> copy(const StoredFile& from, const FileEntry& to) override;
  bool exists(const std::string& name) const override;
  NameFolding folding() override { return disk_->folding; }
  Result<> make_empty(const FileEntry& entry) override;
  std::size_t remove_stale_partials() override;

  void fence() { *is_fenced_ = true; }

 private:
  Result<> publish_one(const Publication& file);

  const Library& library_;
  std::shared_ptr<Disk> disk_;
  std::shared_ptr<bool> is_fenced_ = std::make_shared<bool>(false);
};

// ---- a process: src/sim/process.cpp -------------------------------------------------------------------

/// Resumes at a moment; throws operation_aborted when cancelled.
Task<> sleep_until(Loop& loop, Nanoseconds due);

/// The world of one process.
class SimWorld final : public World {
 public:
  SimWorld(Network& network, const Library& library, std::shared_ptr<const Disk> disk, Gate& gate, HostId host, std::uint64_t seed);

  Executor executor() override;
  Executor workers() override;
  const Digester& digester() const override { return library_.digester(); }
  Instant now() const override;
  std::int64_t wall_clock_ns() const override;
  std::uint64_t random() override { return random_(); }
  Task<> sleep(Nanoseconds duration) override;
  Task<Result<std::unique_ptr<Link>>> connect(Endpoint to, Executor strand, Nanoseconds timeout) override;
  Result<std::unique_ptr<Listener>> listen(const Endpoint& at) override;
  Result<std::unique_ptr<DatagramSocket>> open_datagrams(const Endpoint& at, Executor strand) override;
  Result<std::unique_ptr<DatagramSocket>> connect_datagrams(const Endpoint& to, Executor strand) override;

  void fence() { is_fenced_ = true; }

 private:
  Result<std::unique_ptr<DatagramSocket>> open_postbox(std::uint16_t at, std::optional<DatagramAddress> other);
  const HostOptions& options() const { return network_.port(host_).options; }

  Network& network_;
  const Library& library_;
  std::shared_ptr<const Disk> disk_;
  Gate& gate_;
  HostId host_;
  Random random_;
  Nanoseconds clock_begin_;  ///< What its clock showed at the beginning of time.
  bool is_fenced_ = false;
};

}  // namespace shoal::sim
