/// The tracker: who is in the swarm, who offers what, how far everyone is, and the common clock. It holds no files.
module;

#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

export module shoal.tracker;

export import :addresses;
import shoal.base;
import shoal.digest;
import shoal.manifest;
import shoal.report;
import shoal.schedule;
import shoal.wire;
import shoal.world;

export namespace shoal {

inline constexpr std::size_t kMaxPeerId = 64;          ///< Bytes in the name of a peer.
inline constexpr std::size_t kMaxHost = 255;           ///< Bytes in the address that a peer is to be reached at.
inline constexpr std::size_t kMaxOffers = 10'000'000;  ///< Entries that one peer may offer.
inline constexpr std::size_t kMaxHolders = 64;         ///< Holders of one file that an answer names.

/// Whether `id` can name a peer: 1 to kMaxPeerId bytes that check_name takes as a single part.
Result<> check_peer_id(std::string_view id);

// ---- who knows whom -----------------------------------------------------------------------------------

/// Who is told of whom: everyone of everyone in a small swarm, of about 2 log2 n others in a large one (`usual_degree` in
/// shoal.schedule, docs/decisions/0009). To be introduced works both ways and lasts. Numbers only: no IO, one strand.
class Introductions {
 public:
  using Pair = std::pair<PeerId, PeerId>;

  /// Each of these is here, nobody was before: they stand on a ring, and everyone gets as many others.
  std::vector<Pair> begin(const std::vector<PeerId>& peers);
  /// The peer is here, for the first time or again. It gets three quarters of the usual number, as later ones are introduced to it, too.
  std::vector<Pair> arrive(PeerId peer);
  /// The peer is gone: those that it leaves with too few get others.
  std::vector<Pair> depart(PeerId peer);
  /// Those with fewer than the usual number meet each other: to be called when nobody has come for a moment. Whoever has fewer than
  /// the others is slower than they are.
  std::vector<Pair> even_out();
  /// The peer needs at least `others` that are here, or all where there are no more.
  std::vector<Pair> widen(PeerId peer, std::size_t others);

  /// How many peers that are here it was introduced to.
  std::size_t others_here(PeerId peer) const;

 private:
  struct Place {
    std::vector<PeerId> others;
    std::size_t here = 0;  ///< How many of them are.
    bool is_here = false;
  };
  Place& place(PeerId peer);
  std::size_t position(PeerId peer) const;
  bool enter(PeerId peer);
  std::size_t fewest() const;
  bool may_pair(PeerId a, PeerId b, bool is_capped) const;
  bool pair(PeerId a, PeerId b, std::vector<Pair>& fresh);
  void fill(PeerId peer, std::size_t others, std::vector<Pair>& fresh);

  std::vector<Place> places_;  ///< By PeerId.
  std::vector<PeerId> ring_;   ///< Those that are here, in the order of the ring.
};

// ---- what outlives a tracker --------------------------------------------------------------------------

/// A peer as an earlier run knew it, and what it offered then.
struct RememberedPeer {
  std::string id;
  std::string host;
  std::uint16_t port = 0;
  std::vector<FileEntry> offers;
};

/// One step from what was kept to what is to be kept.
struct PeerSeen {
  std::string id;
  std::string host;
  std::uint16_t port = 0;
};
struct PeerForgotten {
  std::string id;
};
struct EntryOffered {
  std::string id;
  FileEntry entry;
};
struct EntryWithdrawn {
  std::string id;
  std::string name;
};
using StateChange = std::variant<PeerSeen, PeerForgotten, EntryOffered, EntryWithdrawn>;

/// Where an open tracker keeps what peers offer, beyond its own end. Calls block, one at a time.
class TrackerState {
 public:
  virtual ~TrackerState() = default;
  virtual Result<std::vector<RememberedPeer>> load() = 0;
  /// All of these or, where it fails, none.
  virtual Result<> write(std::span<const StateChange> changes) = 0;
};

// ---- names --------------------------------------------------------------------------------------------

/// Who offers something under which name, so that one name is found among millions. One strand.
class NameIndex {
 public:
  void add(const std::string& name, PeerId peer);
  void remove(const std::string& name, PeerId peer);

  /// Calls `visit` with names that `pattern` may mean, in order, from `from` on, and who offers them, until it returns false. Looks at
  /// `most` names; returns the last one that it looked at, or nothing at the end.
  using Visit = std::function<bool(const std::string& name, std::span<const PeerId> offered_by)>;
  std::optional<std::string> visit(std::string_view pattern, std::string_view from, std::size_t most, const Visit& visit) const;

 private:
  using Names = std::map<std::string, std::vector<PeerId>, std::less<>>;
  std::vector<Names::const_iterator> spelled(std::string_view name) const;

  Names names_;
  std::unordered_multimap<std::size_t, Names::const_iterator> by_last_part_;  ///< By hash; only names of several parts.
};

// ---- the registry -------------------------------------------------------------------------------------

/// What the tracker knows. Values in, values out: no IO, no clock but the instants that are passed in. One strand.
///
/// All that members have to learn has a revision; a session reads on from the one that it has reached, as fast as its peer
/// takes it, so nothing queues up for a slow one.
class Registry {
 public:
  struct Options {
    std::uint32_t expect = 0;                      ///< The size of a closed swarm; 0: open.
    Nanoseconds grace = std::chrono::seconds(30);  ///< How long a member may be gone before it is given up.
    std::uint64_t epoch = 0;
    bool keeps_changes = false;  ///< For take_changes.
  };
  explicit Registry(Options options);

  /// The swarm clock: 0 at the first registration, and before it.
  Nanoseconds clock(Instant now) const;
  /// It begins for others than members, too, unless it did before. What they remember of another epoch counts as in Register.
  void begin_clock(std::uint64_t last_epoch, std::int64_t last_clock_ns, Instant now);
  std::uint64_t epoch() const { return options_.epoch; }
  std::uint32_t expect() const { return options_.expect; }

  /// A peer registers, or comes back under its name. `session` is a number that tells its connection from others.
  struct Admission {
    PeerId peer;
    std::optional<std::uint64_t> replaced_session;  ///< An older connection of the same process, to be closed.
    bool has_returned = false;
  };
  /// Why it may not, as `refused`, and what to say in the Refusal.
  struct Denial : Error {
    RefusalReason reason = RefusalReason::other;
  };
  /// The number of whoever had that name last; it keeps it. Nothing where nobody had.
  std::optional<PeerId> peer_named(const std::string& id) const;
  tl::expected<Admission, Denial> admit(const Hello& hello, const Register& request, const Vantage& seen, std::uint64_t session,
                                        Instant now);

  /// A member wants to know of at least so many others that are here; returns those that it was introduced to, all of them.
  Result<std::vector<RosterEntry>> introduce(PeerId peer, std::size_t others);

  /// The steps of a member. Each fails when the message makes no sense.
  Result<> offer(PeerId peer, const Offer& offer, Instant now);
  Result<> withdraw(PeerId peer, const Withdraw& names, Instant now);
  Result<> offer_end(PeerId peer, Instant now);
  Result<> progress(PeerId peer, const Progress& progress);
  Result<> complete(PeerId peer, const Complete& complete, Instant now);
  /// The connection `session` of a member ended; with `left` it said goodbye. Older connections change nothing.
  void gone(PeerId peer, std::uint64_t session, bool left, Instant now);
  /// Gives up members that have been gone for longer than the grace. To be called about once a second.
  void expire(Instant now);
  /// Introduces those to each other that know fewer than is usual. To be called about once a second.
  void even_out();

  /// The next news for a member that has reached `revision`, at most about `max_bytes` of them, and the new revision.
  /// Nothing where there is none, or as long as not all peers of a closed swarm are here. The roster is of those only that the member
  /// was introduced to, and of itself; in a closed swarm nobody is told of it before all have offered.
  struct News {
    std::vector<Message> messages;
    std::uint64_t revision = 0;
  };
  std::optional<News> news_for(PeerId peer, std::uint64_t revision, std::size_t max_bytes) const;
  std::uint64_t revision() const { return revision_; }
  /// Of the last news about files: whoever is complete up to it is done.
  std::uint64_t catalogue_revision() const { return catalogue_revision_; }
  bool has_begun() const { return has_begun_; }
  std::size_t here() const { return here_; }  ///< Members that are.

  /// Whom what happened since the last call is news for.
  struct Concerned {
    bool all = false;
    std::vector<std::uint64_t> sessions;  ///< Of members, where not all; one may stand there twice.
  };
  Concerned take_concerned();

  /// Whose files match `pattern` (see Find), in order of name, each with at most kMaxHolders of its holders, the owners
  /// first; `from` continues a listing at that place.
  using Cursor = std::pair<std::string, Sha256Digest>;  ///< A name and content.
  struct Listing {
    std::vector<FoundEntry> entries;
    std::optional<Cursor> next;  ///< Where to go on; nothing at the end. It may be short of entries before that.
  };
  Listing find(std::string_view pattern, const Cursor& from, std::size_t max_bytes) const;
  /// The same, with all that may have it: also who said so in an earlier run and has not confirmed it. Those that are down are left out;
  /// those that are gone without a goodbye are not, until they are set down.
  Listing candidates(std::string_view pattern, const Cursor& from, std::size_t max_bytes) const;
  /// Those, as they are reached from `reader`.
  std::vector<RosterEntry> roster(std::span<const FoundEntry> holders_of, const Vantage& reader = {}) const;

  /// Takes over what an earlier run knew, as claims to be confirmed: nobody is told of them before their peers are back, and they are
  /// forgotten where those do not come within the grace. At the beginning.
  void restore(std::vector<RememberedPeer> peers, Instant now);
  /// What is to be kept since the last call; nothing without keeps_changes.
  std::vector<StateChange> take_changes() { return std::exchange(changes_, {}); }
  std::size_t changes() const { return changes_.size(); }
  /// A peer did not answer, or it is heard of again.
  void set_down(PeerId peer, bool is_down);
  bool is_down(PeerId peer) const;
  /// The entries that it offers now.
  std::uint64_t offered_by(PeerId peer) const;
  std::optional<RosterEntry> find_peer(PeerId peer, const Vantage& reader = {}) const;
  /// How a member that is here came; null for any other.
  const Vantage* vantage_of(PeerId peer) const;

  /// The outcome, once a closed swarm is over.
  const std::optional<SwarmComplete>& outcome() const { return outcome_; }

  struct Summary {
    std::size_t here = 0;
    std::size_t members = 0;
    std::size_t complete = 0;
    std::uint64_t files = 0;
    std::uint64_t bytes = 0;
    std::uint64_t bytes_have = 0;
    std::uint64_t bytes_wanted = 0;
  };
  Summary summary() const;
  /// The member's name, for logs.
  std::string_view name_of_peer(PeerId peer) const;

 private:
  struct Member {
    PeerId peer;
    std::string id;
    std::uint64_t instance = 0;
    std::uint64_t session = 0;
    Whereabouts where;
    Appetite appetite = Appetite::nothing;
    bool is_here = false;
    bool has_offered = false;  ///< OfferEnd came since it registered.
    bool is_complete = false;
    bool is_given_up = false;
    bool was_done = false;  ///< When it left: it is no failure that it is gone.
    std::uint64_t complete_revision = 0;
    std::uint32_t failed = 0;
    std::uint64_t bytes_fetched = 0;
    std::uint64_t bytes_have = 0;
    std::uint64_t bytes_wanted = 0;
    std::uint64_t upload_rate = 0;  ///< Bytes a second; 0 when unknown.
    std::uint64_t download_rate = 0;
    std::optional<Instant> gone_since;
    std::uint64_t changed = 0;               ///< The revision at which its place in the roster last changed.
    std::map<PeerId, std::uint64_t> others;  ///< Whom it was introduced to, and at which revision.
    std::map<std::string, FileEntry, std::less<>> offers;
    std::unordered_map<Sha256Digest, std::uint32_t> names_of;  ///< How many of its offers have that content.
    std::set<std::string> unconfirmed;                         ///< Offered before it returned, and not again yet.
    std::map<std::string, FileEntry, std::less<>> remembered;  ///< Offered in an earlier run of the tracker, and not again yet.
    bool is_down = false;                                      ///< It did not answer, and was not heard of since.
    bool is_kept = false;                                      ///< What it offers is known to the state.
    bool is_claim = false;                                     ///< Known from an earlier run only: no member before it comes.
  };
  struct OfferNews {
    PeerId owner;
    std::string name;
  };
  struct RetractNews {
    PeerId owner;
    std::string name;
    bool lost = false;
  };
  using Item = std::variant<OfferNews, RetractNews>;
  struct Batch;
  struct RosterItem {
    std::uint64_t revision = 0;
    PeerId peer;
  };

  Member* member(PeerId peer);
  const Member* member(PeerId peer) const;
  Member& enlist(const std::string& id);
  std::optional<Denial> objection_to(const Hello& hello, const Register& request) const;
  std::optional<Denial> objection_to_size(std::uint32_t expect) const;
  std::vector<PeerId> holders_of(const FileEntry& entry) const;
  RosterEntry roster_entry(const Member& member, const Vantage& reader) const;
  void tell(Item item);
  void tell_of(Member& member);
  void introduce(const std::vector<Introductions::Pair>& pairs);
  void begin();
  std::vector<RosterItem> roster_news(const Member& member, std::uint64_t revision) const;
  void add_item(Batch& batch, PeerId reader, std::uint64_t revision, const Item& item) const;
  void compact();
  void retract(Member& member, const std::string& name, bool lost);
  void drop_name(Member& member, const Sha256Digest& root, bool is_file_gone);
  void give_up(Member& member);
  void retract_lost(Member& member);
  bool is_held(const FileEntry& entry) const;
  bool is_done(const Member& member) const;
  void set_present(Member& member, bool is_here, bool has_offered);
  void update(Instant now);
  double percent_of_lower_bound(Nanoseconds total) const;
  void keep(StateChange change);
  void note_member(Member& member);
  void note_offered(Member& member, const FileEntry& entry);
  void note_gone(Member& member, const std::string& name);
  void note_given_up(Member& member);
  void forget_remembered(Member& member);
  static bool is_asked(const Member& member);
  bool may_have(const Member& member, const FileEntry& entry, bool is_sure) const;
  std::vector<PeerId> candidates_for(const FileEntry& entry, std::span<const PeerId> offered_by) const;
  using Holders = std::function<std::vector<PeerId>(const FileEntry& entry, std::span<const PeerId> offered_by)>;
  Listing list(std::string_view pattern, const Cursor& from, std::size_t max_bytes, bool with_remembered, const Holders& holders) const;

  Options options_;
  std::optional<Instant> clock_zero_;
  std::optional<Instant> begun_at_;  ///< The first registration, or what that peer remembered of it.
  std::vector<Member> members_;      ///< By PeerId.
  std::unordered_map<std::string, PeerId> by_id_;
  Introductions introductions_;
  Concerned concerned_;
  std::map<std::uint64_t, Item> news_;  ///< Of files, by revision.
  std::uint64_t revision_ = 0;
  std::uint64_t catalogue_revision_ = 0;                                      ///< Of the last news about files.
  std::size_t live_news_ = 0;                                                 ///< About as many of the news are not superseded.
  std::unordered_map<Sha256Digest, std::map<PeerId, std::uint32_t>> counts_;  ///< Chunks had, by content and peer.
  std::size_t here_ = 0;                                                      ///< Members that are.
  std::size_t ready_ = 0;                                                     ///< Members that are here and have offered.
  bool has_begun_ = false;
  std::optional<Nanoseconds> last_complete_;
  std::optional<SwarmComplete> outcome_;
  NameIndex names_;
  std::vector<StateChange> changes_;
};

// ---- asking peers -------------------------------------------------------------------------------------

/// Asks those who may have a file before it says who has it. On the tracker's strand.
class Locator {
 public:
  /// Hands a message to a peer's session; false where it has none.
  using Send = std::function<bool(PeerId peer, Message message)>;
  Locator(World& world, Registry& registry, TaskGroup& tasks, Executor strand, Send send);

  static constexpr Nanoseconds kPatience = std::chrono::milliseconds(500);  ///< With who is asked; all at once.

  /// The entries that `pattern` means from `from` on, with those who have just said that they have them, as they are reached from `reader`.
  /// Who does not answer in time is down, and is not asked again before it is heard of.
  struct Page {
    std::vector<LocatedEntry> entries;
    std::uint32_t asked = 0;
    std::uint32_t silent = 0;
    std::vector<Holder> missing;  ///< Some of those, at most kMaxMissing.
    std::optional<Registry::Cursor> next;
  };
  Task<Page> locate(std::string pattern, Registry::Cursor from, Vantage reader);

  void on_reply(PeerId peer, const ProbeReply& reply);
  /// Its connection ended: it is not waited for.
  void on_gone(PeerId peer);

 private:
  struct Round;
  void ask(const std::shared_ptr<Round>& round, const Registry::Listing& listing);
  Task<> end_in_time(std::shared_ptr<Round> round);

  World& world_;
  Registry& registry_;
  TaskGroup& tasks_;
  Executor strand_;
  Send send_;
  std::uint32_t next_probe_ = 1;
  std::map<std::uint32_t, std::pair<PeerId, std::shared_ptr<Round>>> waiting_;  ///< By number of the probe.
};

struct TrackerOptions {
  Endpoint listen{"127.0.0.1", 5555};
  std::uint32_t expect = 0;
  Nanoseconds grace = std::chrono::seconds(30);
  std::shared_ptr<RecordFolder> records;  ///< Where the table of timestamps goes; null for none.
  std::shared_ptr<TrackerState> state;    ///< Of an open tracker; null: it knows nothing after its end.
  bool keeps_topology = false;            ///< Whether the records are to say who is in the overlay, too.
};

/// A roster in as few messages as it takes, none of them too long for a frame.
std::vector<Message> split_roster(std::vector<RosterEntry> peers);

/// Runs a tracker until a closed swarm is over or `stop` is notified; an open one only stops. Prints the address that it
/// listens on, and the total swarm time. Fails where it cannot listen.
Task<Result<ExitCode>> run_tracker(World& world, Report& report, TrackerOptions options, Signal& stop);

}  // namespace shoal

// ---- inside the tracker -------------------------------------------------------------------------------

namespace shoal {

/// Brings what the registry has learned to the state, in batches, while the tracker goes on. On the tracker's strand, but for is_behind.
class StateKeeper {
 public:
  StateKeeper(World& world, Report& report, Registry& registry, std::shared_ptr<TrackerState> state)
      : world_(world), report_(report), registry_(registry), state_(std::move(state)) {}

  /// Has the registry know what an earlier run knew.
  Task<Result<>> load();
  /// The registry may have changed.
  void wake();
  Task<> keep_up();
  /// Waits until what was learned so far is kept.
  Task<> settle();
  /// Keeps what is left, once no task runs any more.
  Task<> finish();
  /// So much waits to be kept that who brings more is to wait. Any thread.
  bool is_behind() const { return is_behind_; }

 private:
  Task<> write_batch();

  World& world_;
  Report& report_;
  Registry& registry_;
  std::shared_ptr<TrackerState> state_;  ///< Null where there is none, or it has failed.
  Signal changed_;
  std::uint64_t done_ = 0;  ///< Changes that were kept, or given up.
  std::uint64_t in_hand_ = 0;
  std::atomic<bool> is_behind_{false};
};

}  // namespace shoal
