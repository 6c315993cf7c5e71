/// The tracker: who is in the swarm, who offers what, how far everyone is, and the common clock. It holds no files.
module;

#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
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
  tl::expected<Admission, Denial> admit(const Hello& hello, const Register& request, const std::string& seen_host, std::uint64_t session,
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

  /// The next news for a member that has reached `revision`, at most about `max_bytes` of them, and the new revision.
  /// Nothing where there is none, or as long as a closed swarm waits for its peers. The roster is of those only that the
  /// member was introduced to, and of itself.
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
  struct Listing {
    std::vector<FoundEntry> entries;
    std::optional<std::size_t> next;  ///< Where to go on; nothing at the end.
  };
  Listing find(std::string_view pattern, std::size_t from, std::size_t max_bytes) const;
  std::vector<RosterEntry> roster(std::span<const FoundEntry> holders_of) const;

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
    std::string host;
    std::uint16_t port = 0;
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
  std::vector<PeerId> holders_of(const FileEntry& entry) const;
  RosterEntry roster_entry(const Member& member) const;
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
};

struct TrackerOptions {
  Endpoint listen{"127.0.0.1", 5555};
  std::uint32_t expect = 0;
  Nanoseconds grace = std::chrono::seconds(30);
  std::shared_ptr<RecordFolder> records;  ///< Where the table of timestamps goes; null for none.
};

/// A roster in as few messages as it takes, none of them too long for a frame.
std::vector<Message> split_roster(std::vector<RosterEntry> peers);

/// Runs a tracker until a closed swarm is over or `stop` is notified; an open one only stops. Prints the address that it
/// listens on, and the total swarm time. Fails where it cannot listen.
Task<Result<ExitCode>> run_tracker(World& world, Report& report, TrackerOptions options, Signal& stop);

}  // namespace shoal
