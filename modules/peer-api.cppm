/// What shoal.peer offers: names for files of others, and the runs that a person starts.
module;

#include <boost/asio/awaitable.hpp>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

export module shoal.peer:api;

import shoal.base;
import shoal.clock;
import shoal.digest;
import shoal.manifest;
import shoal.report;
import shoal.schedule;
import shoal.wire;
import shoal.world;

export namespace shoal {

// ---- names --------------------------------------------------------------------------------------------

/// Decides under which name each offered file is kept. Plain values; one strand.
///
/// The first content that is known under a name keeps it, a file of our own before all others. A different content of
/// that name, from another owner, is kept under a name that tells its owner; the same content is one file.
class Names {
 public:
  /// Which names are one name in the folder. Whatever was taken before stays so.
  void set_folding(const NameFolding& folding);
  /// Something of our own folder.
  void add_own(const std::string& self, EntryPtr entry);
  void remove_own(const std::string& name);
  /// Something is in the folder under that name that is not offered: it is to be left alone.
  void reserve(const std::string& name);
  bool is_taken(std::string_view name) const;
  bool is_reserved(std::string_view name) const;
  /// Whether anything that is known is below that name.
  bool is_folder(std::string_view name) const;

  struct Place {
    EntryPtr entry;            ///< With the name that it is kept under.
    bool is_conflict = false;  ///< It could not have the name that it was offered under.
    bool is_newer = false;     ///< It replaces what the same owner offered before under that name.
    bool is_refused = false;   ///< The owner has offered more contents under that name than are kept: this one is not.
  };
  /// Whether something that is not known here has a name in the folder. It is asked of the names that a file could get.
  using IsThere = std::function<bool(const std::string& name)>;
  /// Where an offer is to be kept; nothing when that content is, or will be, there already. Names that something has are reserved.
  std::optional<Place> place(const std::string& owner, const FileEntry& entry, const IsThere& is_there = nullptr);
  /// The name that `place` would take now; nothing where it would take none, or that of an older offer.
  std::optional<std::string> free_name(const std::string& owner, const FileEntry& entry);

 private:
  using OwnerIndex = Index<struct OwnerTag>;
  struct Taken {
    EntryPtr entry;       ///< With the name that is taken.
    EntryPtr offered_as;  ///< With the owner's name for it.
    OwnerIndex owner;
    bool is_own = false;
    std::unique_ptr<const std::string> folded;  ///< The name as it is compared; null where that is the name.

    std::string_view key() const { return folded ? std::string_view(*folded) : entry->name; }
  };
  struct Offered {
    EntryPtr entry;  ///< With the owner's name for it.
    OwnerIndex owner;
  };
  /// How an offer goes with a name.
  enum class Fit : std::uint8_t {
    free,
    here,   ///< That content has it.
    newer,  ///< What the same owner offered before has it.
    taken,
  };
  struct Spot {
    std::string name;
    Fit fit = Fit::taken;
  };
  OwnerIndex index_of(const std::string& owner);
  Fit fit(const std::string& name, const Offered& offered) const;
  Spot spot_for(const Offered& offered, const IsThere& is_there);
  bool is_file(std::string_view name) const;
  std::string without_file_parents(std::string name, const std::string& owner);
  bool is_alias(const std::string& owner, const FileEntry& entry);
  void take(EntryPtr entry, EntryPtr offered_as, OwnerIndex owner, bool is_own);
  void count_in_folders(std::string_view key);
  void uncount_in_folders(std::string_view key);
  const Taken* find(std::string_view name) const;

  NameFolding folding_;
  std::unordered_map<std::string_view, Taken> taken_;  ///< By key, which stands in what is taken.
  TextMap<std::uint32_t> folders_;  ///< Those that keys are in: how many of these, and of such folders, are directly in it.
  std::string clean_folder_;        ///< The key of the last one of which no part was a file, as long as that holds.
  std::vector<Offered> offers_;     ///< All that ever came.
  std::unordered_multimap<Sha256Digest, std::size_t> offers_by_root_;  ///< Of the first of them, as far as anybody asked.
  std::vector<std::string> owners_;
  TextMap<OwnerIndex> owner_indices_;
};

// ---- the MD5s of what is being fetched ----------------------------------------------------------------

/// Contents whose next chunks are here, and are to be digested by a worker.
struct WaitingMd5s {
  std::size_t contents = 0;
  std::size_t fetching = 0;      ///< Contents that are being fetched, whether they wait here or not.
  std::size_t workers = 0;       ///< Those that digest others now.
  bool is_one_pressing = false;  ///< See below.
  Md5Pace pace{};                ///< Of this processor.
};

/// Whether a worker is to take them up now, or they are to wait for others to be digested side by side with them: on most processors eight
/// together cost little more than one alone (docs/decisions/0019, 0021 and 0033).
bool is_worth_a_worker(const WaitingMd5s& waiting);

/// Whether an MD5 that is so many chunks behind can wait no longer: it would end after the last chunk of its content has come, at the rate
/// at which the first `have` of its `chunks` came in `elapsed`; or what waits may soon have to be read from the disk again. One whose
/// chunks are all here, for `whole_for` now, may be a tenth of a second late, for as long as others are being fetched.
bool is_pressing(std::uint32_t behind, std::uint32_t have, std::uint32_t chunks, Nanoseconds elapsed, Nanoseconds whole_for,
                 Nanoseconds chunk_time = Md5Pace().chunk_time);

// ---- what a person runs -------------------------------------------------------------------------------

/// How a peer has to do with the overlay: as a node of it, or to ask one.
struct OverlayOptions {
  std::size_t max_links = 2;
  std::optional<Endpoint> join;  ///< A node to begin with, besides those that the tracker names.
  std::vector<Endpoint> known;   ///< Nodes that earlier runs heard of, to ask where the tracker is away.
  /// Keeps addresses of nodes for later runs; on a worker, one call at a time. May be null.
  std::function<void(const std::vector<Endpoint>&)> remember;
};

struct PeerOptions {
  Endpoint tracker{"127.0.0.1", 5555};
  Endpoint listen{"127.0.0.1", 0};
  std::string id;
  std::uint32_t expect = 0;  ///< The size that the tracker's swarm has to have; 0: any, closed or open.
  Appetite appetite = Appetite::everything;
  std::optional<Nanoseconds> wait;  ///< How long to keep trying to reach the tracker at first; nothing: for ever.
  std::uint64_t upload_limit = 0;   ///< As the world was given it; for the lower bound.
  /// Bytes that all neighbours together may be asked for at a time. One chunk of each is asked for whatever it says.
  std::uint64_t most_in_flight = 1024 * kMiB;
  std::vector<std::string> include;
  std::vector<std::string> exclude;
  bool watches = false;                                        ///< The folder: what is offered follows its changes.
  bool announces_again = true;                                 ///< To a tracker that has started anew; else only update_list does.
  std::shared_ptr<const LatencyTable> latencies;               ///< Null: they are measured.
  Nanoseconds other_latency = std::chrono::milliseconds(100);  ///< Of pairs that the table does not name.
  bool emulates_latency = false;                               ///< What comes from others is taken up as late as the table says.
  bool from_one = false;                                       ///< What run_get fetches comes from one source each, the best.
  std::optional<OverlayOptions> overlay;                       ///< Null: it is no node of the overlay, and asks none.
  bool md5_later = false;                                      ///< A file of several chunks gets its name before its MD5 is confirmed.
};

/// What a run came to.
struct PeerOutcome {
  ExitCode exit = ExitCode::done;
  std::uint64_t files_fetched = 0;
  std::uint64_t bytes_fetched = 0;        ///< Of verified chunks.
  std::uint64_t bytes_wasted = 0;         ///< Received twice, or wrong.
  std::optional<Nanoseconds> swarm_time;  ///< Of a closed swarm, from its tracker.
  double percent_of_bound = 0;            ///< Likewise; 0 when unknown.
};

/// Offers the folder and, with an appetite, fetches everything that others offer. Ends when a closed swarm is over, when
/// `stop` is notified (`interrupted`), or by a failure that ends everything, such as a full disk.
Task<Result<PeerOutcome>> run_member(World& world, Report& report, Storage& storage, PeerOptions options, Signal& stop);

/// Fetches what `patterns` name (see Find) into the folder, and ends. Sources are chosen as by PeerControl::download; while there is none,
/// it waits for one to come. Fails with `not_found` where nobody offers it.
Task<Result<PeerOutcome>> run_get(World& world, Report& report, Storage& storage, PeerOptions options, std::vector<std::string> patterns,
                                  Signal& stop);

// ---- timestamps ---------------------------------------------------------------------------------------

struct ClockOptions {
  Endpoint tracker{"127.0.0.1", 5555};
  Endpoint listen{"127.0.0.1", 0};  ///< Where tables are taken; the port of each peer is its own, from the system.
  std::string id;                   ///< Empty: the tracker gives each peer the lowest free number. With `count` over 1, NAME-0, NAME-1, …
  std::uint32_t count = 1;
  Nanoseconds interval = std::chrono::milliseconds(10);
  Nanoseconds duration = std::chrono::minutes(5);
  bool is_exchanging = true;             ///< Tables go to everybody at the end.
  std::optional<Nanoseconds> wait_sync;  ///< End as soon as all error bounds are below this; no tables then.
  std::optional<Nanoseconds> wait;       ///< How long to try to reach the tracker at first; nothing: for ever.
};

/// What became of one clock peer.
struct ClockOutcome {
  std::string id;
  ClockSummary summary;
  std::uint64_t tables_sent = 0;
  std::uint64_t tables_received = 0;
  std::uint64_t failed = 0;  ///< Peers that a table did not reach, or did not come from.
};

struct ClockResult {
  ExitCode exit = ExitCode::done;
  std::vector<ClockOutcome> peers;
  Nanoseconds lateness_p50{0};  ///< Over all ticks of all peers.
  Nanoseconds lateness_p99{0};
  Nanoseconds delay_p50{0};
  Nanoseconds delay_p99{0};
};

/// Clock peers of a process run in crews, those of a crew one at a time: so many crews there are, which is how many threads are of use.
std::size_t clock_crews(std::size_t peers);

/// Runs `options.count` clock peers, from joining the tracker to the last table. Tables go to `records`. Fails where it cannot begin.
Task<Result<ClockResult>> run_clock(World& world, Report& report, RecordFolder& records, ClockOptions options, Signal& stop);

/// One file that somebody has.
struct Finding {
  FileEntry entry;
  std::vector<RosterEntry> holders;
};
/// Asks the tracker. An empty pattern means everything.
Task<Result<std::vector<Finding>>> find_files(World& world, PeerOptions options, std::string pattern);

// ---- the overlay --------------------------------------------------------------------------------------

/// How a search through the tree ended.
struct OverlaySearch {
  std::uint32_t asked = 0;    ///< Nodes that answered.
  std::uint32_t missing = 0;  ///< Branches that did not.
  bool is_cut = false;        ///< There are more hits than came.
};
using OnHit = std::function<void(const Hit&)>;

/// Asks one node, which has the whole tree searched: that of `options.overlay->join`, one that the tracker names, or one of those known
/// from earlier. `on_hit` is called for each file as soon as it is found; its names and entries have been checked. Fails where no node can
/// be asked.
Task<Result<OverlaySearch>> search_overlay(World& world, PeerOptions options, std::string pattern, OnHit on_hit);

struct Topology {
  std::vector<OverlayNode> nodes;  ///< By number.
  bool is_from_tracker = false;    ///< Else it was gathered through the tree.
  std::uint32_t missing = 0;       ///< Branches that did not answer.
};
/// Asks the tracker, or where that is away, or `join` is given, the tree itself. No nodes: an empty network. Fails where nobody can be
/// asked.
Task<Result<Topology>> overlay_topology(World& world, PeerOptions options);

// ---- the catalogue ------------------------------------------------------------------------------------

/// Where a latency is from.
enum class LatencyFrom : std::uint8_t { self, table, assumed, measured, nowhere };

/// A peer that has said just now that it has a file.
struct LocatedSource {
  Holder holder;
  Candidate candidate;  ///< What a choice goes by.
  LatencyFrom latency_from = LatencyFrom::nowhere;
};
struct LocatedFile {
  FileEntry entry;
  std::vector<LocatedSource> sources;  ///< The best first; ourselves, where we have it, before all others.
};
struct LocateAnswer {
  std::vector<LocatedFile> files;
  std::uint32_t asked = 0;                   ///< Times that a peer was asked, ...
  std::uint32_t silent = 0;                  ///< ... and did not answer.
  std::vector<Holder> missing;               ///< Some of those: they offered such a file, and are asked no more until they are heard of.
  std::optional<OverlaySearch> via_overlay;  ///< The tracker is away: the tree was searched instead.
};

/// Asks the tracker, which asks the peers. Fails with `not_found` where no peer has such a file.
Task<Result<LocateAnswer>> locate_files(World& world, PeerOptions options, std::string pattern);
/// Asks a peer how many transfers it is in.
Task<Result<std::uint32_t>> ask_load(World& world, PeerOptions options, Endpoint peer);

/// What a command did to the list of what is offered.
struct ListChange {
  std::size_t added = 0;
  std::size_t changed = 0;
  std::size_t removed = 0;
  std::uint64_t files = 0;
  std::uint64_t bytes = 0;
  std::uint64_t confirmed = 0;  ///< Entries that the tracker has of us now.
};

/// What became of one file that was asked for.
struct Fetched {
  FileEntry entry;  ///< With the name that it got here.
  bool was_here = false;
  Nanoseconds taken{0};
  std::map<std::string, std::uint64_t> from;  ///< Bytes, by peer.
};

/// Why a file was, or would be, fetched from where.
struct Choice {
  LocatedFile file;
  std::vector<std::string> chosen;  ///< Peers.
  std::string reason;
  std::map<std::string, std::uint64_t> from;  ///< Bytes that came; empty where it was not fetched.
};

struct PeerStatus {
  std::string id;
  Endpoint address;
  Endpoint tracker;
  bool is_registered = false;
  std::uint64_t epoch = 0;
  std::uint64_t files = 0;
  std::uint64_t bytes = 0;
  std::uint32_t load = 0;
  std::size_t neighbours = 0;
  std::uint32_t overlay_number = 0;  ///< Of its node, once it has one.
  std::size_t overlay_links = 0;
  std::uint64_t bytes_received = 0;
  std::uint64_t bytes_sent = 0;
};

/// Another peer of the swarm.
struct PeerView {
  RosterEntry peer;
  bool is_connected = false;
  std::optional<Nanoseconds> latency;
  double rate = 0;  ///< Bytes a second that were measured from it; 0: none was.
};

/// A running node, as commands drive it. Everything is called, and resumes, on the node's strand; one command at a time.
class PeerControl {
 public:
  virtual ~PeerControl() = default;
  /// Resumes when the node is registered with a tracker for the first time.
  virtual Task<bool> wait_until_ready() = 0;
  /// Compares the folder with what is offered, tells the tracker, and waits until it confirms that.
  virtual Task<Result<ListChange>> update_list() = 0;
  virtual Task<Result<std::uint32_t>> load_of(Endpoint peer) = 0;
  virtual Task<Result<LocateAnswer>> find(std::string pattern) = 0;
  /// Fetches what `name` means, verifies it, and offers it. Fails with `wrong_digest` where five sources gave something else.
  virtual Task<Result<std::vector<Fetched>>> download(std::string name, bool from_one) = 0;
  virtual Task<Result<std::vector<Finding>>> list(std::string pattern) = 0;
  virtual Task<Result<std::vector<Choice>>> why(std::string name) = 0;
  /// Searches the tree from this node on. Fails where it is none.
  virtual Task<Result<OverlaySearch>> search(std::string pattern, OnHit on_hit) = 0;
  virtual Task<Result<Topology>> topology() = 0;
  virtual PeerStatus status() = 0;
  virtual std::vector<PeerView> peers() = 0;
  /// Names of ours and of what was found, for completion.
  virtual std::vector<std::string> known_names() = 0;
  /// Waits until nothing is sent or received any more, at most so long.
  virtual Task<> let_finish(Nanoseconds patience) = 0;
  /// Has the running command fail with `interrupted`. Any thread.
  virtual void interrupt() = 0;
};

/// Offers the folder, and does what `drive` has it do; ends when that does.
using Drive = std::function<Task<ExitCode>(PeerControl&)>;
Task<Result<PeerOutcome>> run_catalogue(World& world, Report& report, Storage& storage, PeerOptions options, Drive drive, Signal& stop);

}  // namespace shoal
