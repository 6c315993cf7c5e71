/// Inside shoal.peer: clock peers. Several run in one process; those of a *crew* share a strand and one timer, because a coroutine
/// and a timer for each would cost more than the ticks.
module;

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

module shoal.peer:clock;

import :api;
import :node;
import shoal.base;
import shoal.clock;
import shoal.digest;
import shoal.report;
import shoal.wire;
import shoal.world;

namespace shoal {

struct ClockRun;

/// Another clock peer, in the exchange of tables.
struct OtherPeer {
  enum class Sent { no, sending, yes, failed };
  Endpoint at;
  Sent sent = Sent::no;
  int attempts = 0;
  Instant next_attempt;
  bool has_come = false;  ///< Its table is here.
  bool is_lost = false;   ///< The tracker lost it.
  bool has_left = false;  ///< It said goodbye to the tracker.
  bool is_given_up = false;
  bool is_being_probed = false;
  int failed_probes = 0;

  bool is_settled() const { return has_left || ((sent == Sent::yes || sent == Sent::failed) && (has_come || is_given_up)); }
};

/// One clock peer. All of it belongs to its crew's strand.
struct ClockPeerState {
  ClockPeerState(ClockRun& r, std::size_t i, Executor s);

  ClockRun& run;
  const std::size_t index;
  const Executor strand;
  const std::uint64_t instance;
  std::string id;  ///< Empty until the tracker has given one.

  // With the tracker
  std::shared_ptr<Link> link;  ///< While it has joined.
  std::uint64_t epoch = 0;
  std::int64_t zero_date_ns = 0;  ///< The tracker's date when the swarm clock was 0.
  Instant last_said;
  bool is_over = false;  ///< It is done with the tracker, too.

  // Datagrams: ticks go so while they get through, and by the link else
  std::shared_ptr<DatagramSocket> datagrams;  ///< While it has joined; null where there are none.
  std::uint64_t token = 0;                    ///< That they carry.
  bool uses_datagrams = false;
  Instant last_heard;  ///< By a datagram.
  Instant last_probe;  ///< When it was last tried whether they get through.
  NumberWindow heard;

  // Ticks
  std::optional<TickSchedule> schedule;
  ClockEstimator estimator;
  ClockRecord record;
  bool has_ticked = false;  ///< Its time is up.
  bool is_in_sync = false;  ///< With wait_sync: its bound was small enough.
  Signal ticked;

  // Its table
  TimeTable table;
  std::unique_ptr<RecordFile> file;
  std::string to_tracker;
  std::string from_tracker;
  bool has_table_failed = false;
  bool is_table_whole = false;  ///< Closed, and written to its end.
  Signal written;

  // Tables of others
  std::unique_ptr<Listener> listener;
  std::map<std::string, OtherPeer> others;
  std::map<std::string, ClockPeer> listed;    ///< As the tracker said last.
  std::map<std::string, ClockPeer> incoming;  ///< A list that is not whole yet.
  std::uint32_t query = 0;
  bool has_list = false;
  bool is_exchanging = false;
  std::set<std::string> came_from;  ///< Whose tables are here.
  std::shared_ptr<const ChunkSource> source;
  Md5Digest md5;
  int sending = 0;
  std::uint64_t tables_sent = 0;
  std::uint64_t failed = 0;
  Instant last_progress;
  Instant last_look;
  Signal changed;
};

struct Crew {
  Executor strand;
  std::vector<ClockPeerState*> peers;  ///< In the order in which they tick.
};

/// The clock peers of a process.
struct ClockRun {
  ClockRun(World& w, Report& r, RecordFolder& f, ClockOptions o);

  World& world;
  Report& report;
  RecordFolder& records;
  const ClockOptions options;
  const Instant begin;           ///< Ticks stand on a grid from here on.
  const std::int64_t zero_date;  ///< The date when the world's clock was 0, as of now: what offsets of dates rest on.
  std::vector<std::unique_ptr<ClockPeerState>> peers;
  std::vector<std::unique_ptr<Crew>> crews;
  Budget connections;  ///< How many connections are opened at once, by all.
  Budget buffers;      ///< Bytes of tables that come in.
  Signal finished;
  std::atomic<std::size_t> unfinished{0};
  std::atomic<bool> is_lost_told{false};
  std::atomic<bool> is_disk_failure_told{false};
  std::atomic<std::uint64_t> temporary{0};  ///< Numbers for files in the making.

  SwarmClock clock;  ///< For the event log: as one of the peers knows it.

  std::mutex mutex;  ///< Guards what follows.
  std::optional<Error> failure;

  TaskGroup tasks;

  /// When tick 0 of a schedule of that peer is due, if it begins now.
  Instant first_tick(std::size_t index, Instant now) const;
  Nanoseconds phase(std::size_t index) const;
  void give_up(Error error);
};

/// Keeps one peer's place at the tracker, from the first join to its end (clock_session.cpp).
Task<> follow_clock_tracker(ClockPeerState& peer);
/// Says something to the tracker, if it is there and takes it.
bool say(ClockPeerState& peer, Message message);
/// Sees whether datagrams get through, as often as it is worth it.
void look_after_datagrams(ClockPeerState& peer, Instant now);
/// Sends the ticks of a crew as they are due (clock_session.cpp).
Task<> keep_ticking(ClockRun& run, Crew& crew);
/// Ten times a second: whose time is up, rows to the files, silence (clock_session.cpp).
Task<> keep_crew(ClockRun& run, Crew& crew);

/// Takes tables of others (clock_exchange.cpp).
Task<> accept_tables(ClockPeerState& peer);
/// Sends the table to all others and waits for theirs (clock_exchange.cpp).
Task<> exchange_tables(ClockPeerState& peer);
/// A list came from the tracker.
void on_clock_list(ClockPeerState& peer, const ClockPeers& part);
/// Now and then, while tables are exchanged: who is still there?
void look_after_exchange(ClockPeerState& peer);

}  // namespace shoal
