/// What shoal.peer offers: names for files of others, and the runs that a person starts.
module;

#include <boost/asio/awaitable.hpp>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
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
  /// Something of our own folder.
  void add_own(const std::string& self, const FileEntry& entry);
  void remove_own(const std::string& name);
  /// Something is in the folder under that name that is not offered: it is to be left alone.
  void reserve(const std::string& name);
  bool is_taken(std::string_view name) const { return taken_.contains(name); }

  struct Place {
    std::string name;          ///< Where to keep it.
    bool is_conflict = false;  ///< It could not have the name that it was offered under.
    bool is_newer = false;     ///< It replaces what the same owner offered before under that name.
  };
  /// Where an offer is to be kept; nothing when that content is, or will be, there already.
  std::optional<Place> place(const std::string& owner, const FileEntry& entry);

 private:
  struct Taken {
    std::string owner;
    std::string offered_as;  ///< The owner's name for it.
    EntryKind kind = EntryKind::file;
    Sha256Digest root;
    std::uint64_t size = 0;
    bool is_own = false;
  };
  std::optional<Place> try_name(const std::string& name, const std::string& owner, const FileEntry& entry, bool& is_taken);
  bool is_file(std::string_view name) const;
  std::string without_file_parents(std::string name, const std::string& owner) const;
  bool is_alias(const std::string& owner, const FileEntry& entry) const;
  void take(const std::string& name, Taken taken);

  std::map<std::string, Taken, std::less<>> taken_;
  std::unordered_multimap<Sha256Digest, std::pair<std::string, std::string>> offers_;  ///< Owner and name, by content.
};

// ---- what a person runs -------------------------------------------------------------------------------

struct PeerOptions {
  Endpoint tracker{"127.0.0.1", 5555};
  Endpoint listen{"127.0.0.1", 0};
  std::string id;
  std::uint32_t expect = 0;  ///< The size of the closed swarm; 0: open, or as the tracker says.
  Appetite appetite = Appetite::everything;
  std::optional<Nanoseconds> wait;  ///< How long to keep trying to reach the tracker at first; nothing: for ever.
  std::uint64_t upload_limit = 0;   ///< As the world was given it; for the lower bound.
  std::vector<std::string> include;
  std::vector<std::string> exclude;
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

/// Fetches what `patterns` name (see Find) into the folder, and ends. Fails with `not_found` where nobody offers it.
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

/// Runs `options.count` clock peers, from joining the tracker to the last table. Tables go to `records`. Fails where it cannot begin.
Task<Result<ClockResult>> run_clock(World& world, Report& report, RecordFolder& records, ClockOptions options, Signal& stop);

/// One file that somebody has.
struct Finding {
  FileEntry entry;
  std::vector<RosterEntry> holders;
};
/// Asks the tracker. An empty pattern means everything.
Task<Result<std::vector<Finding>>> find_files(World& world, PeerOptions options, std::string pattern);

}  // namespace shoal
