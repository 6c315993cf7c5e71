/// Inside shoal.peer: the node's state and what happens to it. All of it belongs to the node's strand, except where a
/// member says otherwise; sessions reach it by `in_node`.
module;

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/post.hpp>
#include <tl/expected.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <variant>
#include <vector>

module shoal.peer:node;

import :api;
import :overlay;
import :subflows;

import shoal.base;
import shoal.bundle;
import shoal.clock;
import shoal.digest;
import shoal.manifest;
import shoal.report;
import shoal.schedule;
import shoal.wire;
import shoal.world;

namespace shoal {

using ContentIndex = Index<struct ContentTag>;  ///< A content in the node's table; also its handle on the wire.

inline constexpr std::uint32_t kMostWrongChunks = 3;  ///< A peer that sends this many is dropped.
inline constexpr std::size_t kMostNeighbours = 128;
inline constexpr std::uint64_t kMostSlots = std::uint64_t{1} << 28;  ///< Chunks of all contents together: 64 TiB.
inline constexpr std::size_t kFilesTogether = 512;                   ///< Of our own, taken in or offered at a time.
inline constexpr std::uint32_t kSmallChunk = 64 * 1024;              ///< At most: it is asked for, and goes out, together with others.
inline constexpr std::size_t kMostOpenContents = 96;                 ///< Contents of several chunks that are fetched at once.
inline constexpr std::uint64_t kBufferBytes = 40 * kMiB;             ///< Received data that is not on disk yet.
inline constexpr std::uint64_t kMostStoring = 4;        ///< Chunks that the workers are given at a time, to be verified and written.
inline constexpr std::uint64_t kMostUnpublished = 384;  ///< Small files that are whole and wait for their names.

// ---- buffers ------------------------------------------------------------------------------------------

/// Buffers of a whole chunk, kept for the next one: fresh pages from the system cost more than the copy into them. Any thread.
class BufferPool {
 public:
  using Bytes = std::unique_ptr<std::byte[]>;
  Bytes take();
  void give_back(Bytes bytes);

 private:
  std::mutex mutex_;
  std::vector<Bytes> free_;
};

/// Bytes of one chunk, with the share of the node's budget that they take.
class ChunkBuffer {
 public:
  ChunkBuffer() = default;
  ChunkBuffer(std::shared_ptr<BufferPool> pool, std::uint32_t size, Budget::Share share);
  ChunkBuffer(ChunkBuffer&&) noexcept = default;
  ChunkBuffer& operator=(ChunkBuffer&& other) noexcept;
  ~ChunkBuffer() { release(); }

  std::uint32_t size() const { return size_; }
  std::span<std::byte> span() { return {bytes_.get(), size_}; }
  std::span<const std::byte> span() const { return {bytes_.get(), size_}; }

 private:
  void release();

  std::shared_ptr<BufferPool> pool_;
  BufferPool::Bytes bytes_;
  std::uint32_t size_ = 0;
  Budget::Share share_;
};

// ---- contents -----------------------------------------------------------------------------------------

/// A name that a content is to be published under.
struct Target {
  EntryPtr entry;  ///< With the name that it gets here.
  std::string owner;
  bool is_publishing = false;  ///< Verified, and handed on.
  bool is_early = false;       ///< It is handed on before its MD5 is known, ...
  bool is_named = false;       ///< ... and has its name.
  bool is_published = false;
  bool is_failed = false;
  bool is_lost = false;  ///< Its owner is gone for good.
};
/// Whether it is still to be fetched, or verified.
inline bool is_open(const Target& target) { return !target.is_published && !target.is_failed && !target.is_publishing; }

/// All that was asked for at once: by one command, or by one round of questions.
struct AskedTogether {
  std::uint64_t files = 0;
  std::uint64_t chunks = 0;
};

/// What a command wants of a content, and how it goes.
struct Asked {
  LocatedFile file;
  AskedTogether together;                     ///< With which others.
  std::optional<std::string> only;            ///< The one peer that it may come from.
  std::set<std::string> excluded;             ///< Peers that sent something wrong, or could not be reached.
  std::uint32_t wrong = 0;                    ///< Chunks that were not what they should be.
  std::map<std::string, std::uint64_t> from;  ///< Bytes, by peer.
  std::optional<Error> failure;
  bool is_published = false;
  bool is_awaited = true;  ///< A command waits for it, and tells of its failure.
  Instant last_hope{};     ///< When there was a source to fetch it from, or it was begun.
  Instant last_bytes{};    ///< When one of those sent anything, or it was begun, or turned to another.
};

enum class Stage : std::uint8_t {
  known,     ///< Somebody has it; we do not want it.
  wanted,    ///< Wanted, and not begun.
  opening,   ///< Its hashes are being fetched, and what an earlier run left is being verified.
  fetching,  ///< Its chunks are asked for.
  checking,  ///< All chunks are here; the MD5 is not confirmed yet, or it is being published.
  complete,  ///< Published, or one of our own.
  failed,
};

/// What only a content of several chunks needs.
struct Chunks {
  std::vector<Sha256Digest> gathered;  ///< Hashes, as far as spans came.
  std::vector<bool> spans;             ///< Which spans are in `gathered`.

  // The MD5 follows the chunks as far as they are here without a gap.
  Md5Stream md5;
  std::uint32_t md5_next = 0;  ///< Chunks before it are digested, ...
  std::uint32_t md5_end = 0;   ///< ... and those from there up to here can be.
  bool is_hashing = false;     ///< A worker has it in hand.
  Instant whole_since{};       ///< When the last of its chunks came.
};

struct Content {
  ContentIndex index;
  Sha256Digest root;
  std::uint64_t size = 0;
  std::uint32_t chunks = 0;
  Slot first;
  Stage stage = Stage::known;
  std::vector<Target> targets;

  EntryPtr served_as;  ///< The published file that its bytes are served from; or null.
  std::shared_ptr<PartialFile> partial;
  Budget::Share descriptor;         ///< Of the node's, while a small file is open.
  ChunkHashes hashes;               ///< All of them; null while incomplete, and for a single chunk.
  std::unique_ptr<Chunks> several;  ///< Null for a single chunk.
  std::uint32_t have = 0;           ///< Chunks that are here.
  bool is_count_told = true;        ///< Else it is in the node's counts_changed.
  std::optional<Md5Digest> md5_found;

  std::shared_ptr<Asked> asked;  ///< By a command.
  std::uint32_t life = 0;        ///< Counts how often it was begun anew.
  std::optional<Instant> began;  ///< For the event log and progress.
};

// ---- neighbours ---------------------------------------------------------------------------------------

/// A chunk that goes out: to be read from `source`, or from `served_as` once that is opened.
struct UploadJob {
  ChunkRef ref;
  Slot slot;
  std::uint32_t length = 0;
  std::uint64_t file_offset = 0;
  ContentIndex content;
  std::shared_ptr<const ChunkSource> source;
  EntryPtr served_as;
  bool is_sent = false;
  bool is_cancelled = false;  ///< The neighbour no longer wanted it.
  bool is_changed = false;    ///< The file is not what it was.
};

/// What the reader of a link may receive; on the link's strand.
struct Expected {
  Slot slot;
  std::uint32_t length = 0;
  std::uint32_t filled = 0;
  ChunkBuffer buffer;
  std::optional<Nanoseconds> begun = std::nullopt;  ///< When its first piece began to come, by `reading_time`.
  Nanoseconds moved{0};                             ///< When its last piece came, likewise.
};

/// A chunk that came in, whole.
struct Received {
  Slot slot;
  ChunkBuffer buffer;
};

/// The pings of a connection that are not answered yet: an answer to anything else tells nothing.
class Pings {
 public:
  Ping next(Instant now);
  /// How long it was on its way, and the answer; nothing where that is an answer to none of the last few, or makes no sense.
  std::optional<Nanoseconds> on_pong(const Pong& pong, Instant now);

 private:
  static constexpr std::size_t kMost = 8;
  std::deque<std::int64_t> sent_;
};

struct PeerSession;
using SessionPtr = std::shared_ptr<PeerSession>;

/// The same, with the session that it came by.
struct Arrival {
  SessionPtr session;
  Slot slot;
  ChunkBuffer buffer;
};

/// What a session received and the node has not taken yet: small chunks come faster than it is worth to call for each. Any thread.
class Inbox {
 public:
  /// Whether it was empty, so that the node has to be called.
  bool put(Received received);
  std::vector<Received> take();

 private:
  std::mutex mutex_;
  std::vector<Received> received_;
};

/// One link with another peer. Its members belong to the strand of its link, except those that are const.
struct PeerSession {
  PeerSession(std::shared_ptr<Link> l, bool initiated) : link(std::make_shared<Bundle>(std::move(l))), is_initiator(initiated) {}

  const std::shared_ptr<Bundle> link;
  const bool is_initiator;
  std::string id;                         ///< Set before the node learns of the session, and not changed again.
  std::uint64_t instance = 0;             ///< Likewise.
  std::optional<Source> source;           ///< Likewise.
  std::optional<std::string> attempt;     ///< What it is called in Node::connecting. On the node's strand.
  bool is_question = false;               ///< It has connected to ask, and is no neighbour. Likewise.
  bool is_node = false;                   ///< It has connected as a node of the overlay. Likewise.
  std::optional<std::size_t> roots_told;  ///< How many of the roots that we want were said along with our hello. Likewise.
  std::atomic<bool> is_guest{true};       ///< It has one of the places of those that are no neighbours. Any thread.
  std::atomic<Instant> guest_since{};     ///< When it last did something there. Likewise.
  bool is_subflow = false;                ///< Its connection has become part of another session. Likewise.
  Several several;
  Pings pings;
  Outbox outbox;
  std::deque<UploadJob> uploads;
  std::map<ChunkRef, std::shared_ptr<Expected>> expected;
  std::size_t begun_chunks = 0;             ///< Of `expected`, those with some bytes.
  bool is_held_up = false;                  ///< The reader waits for room in the node's buffers, ...
  Nanoseconds held_up{0};                   ///< ... and has so far for so long: nothing can come meanwhile.
  bool is_within_piece = false;             ///< The reader has the header of a piece, and waits for its bytes.
  std::set<ChunkRef> in_hand;               ///< What the writer is sending.
  std::set<ChunkRef> cancelled;             ///< Of those, what is no longer wanted.
  double upload_rate = 0;                   ///< Bytes a second, smoothed.
  std::uint32_t most_in_piece = kLeafSize;  ///< Bytes that the next piece of a chunk may have at most.
  bool is_over = false;
  Inbox inbox;

  // With an emulated latency, what came in waits for its time.
  using Late = std::variant<Message, Received>;
  Nanoseconds latency{0};
  std::deque<std::pair<Instant, Late>> late;
  Signal late_came;
};

struct Outstanding {
  Instant requested;
  Instant last_piece;  ///< When the last piece of it began to come; or `requested`.
  Instant expected_at;
  Instant deadline;
  Instant late_at;  ///< From then on its neighbour is late, though pieces of it come.
  std::uint32_t length = 0;
  bool has_begun = false;     ///< Its first bytes came: it is not taken back any more.
  bool is_cancelled = false;  ///< It was taken back, which is not confirmed yet.
  bool is_given_up = false;   ///< Its time ran out, or another copy came: not counted as in flight any more.
  bool is_cut_off = false;    ///< The neighbour was told that it is not to come at all.
};

/// What a neighbour has of a content that we know nothing of yet: no slots are given to what nobody offered.
struct Unplaced {
  std::uint32_t handle = 0;
  std::uint64_t size = 0;
  bool is_complete = false;
  std::vector<ChunkRun> runs;
};

/// Some of the contents, as bits: neighbours have most of them.
class ContentSet {
 public:
  bool contains(ContentIndex index) const { return index.value < bits_.size() && bits_[index.value]; }
  /// Both return whether that changed anything.
  bool insert(ContentIndex index);
  bool erase(ContentIndex index);

 private:
  std::vector<bool> bits_;
};

/// What a neighbour calls the contents.
class HandleTable {
 public:
  bool contains(ContentIndex index) const { return index.value < handles_.size() && handles_[index.value].has_value(); }
  /// Of one that it contains.
  std::uint32_t at(ContentIndex index) const { return handles_.at(index.value).value(); }
  /// Returns what stands there now: `handle`, or what stood there before.
  std::uint32_t try_set(ContentIndex index, std::uint32_t handle);
  void erase(ContentIndex index);

 private:
  std::vector<std::optional<std::uint32_t>> handles_;
};

/// A span of hashes that was asked for.
struct AskedHashes {
  Instant at;
  Source source;
};

/// What is known of reaching one peer; it is kept while we want to be connected with it.
struct Reach {
  Instant chosen;
  Instant next_try;
  Nanoseconds backoff;
  bool is_ours = true;  ///< We connect to it; else it connects to us, and we try where it does not.
};

/// Another peer, as the node sees it.
struct Remote {
  Source source;
  std::string id;
  SessionPtr session;
  Instant since{};  ///< When it became a neighbour.
  SourceRate rate;
  std::unordered_map<Sha256Digest, Unplaced> unplaced;
  std::unordered_map<std::uint32_t, Sha256Digest> unplaced_handles;
  std::size_t unplaced_runs = 0;
  bool has_let_go = false;  ///< There was more than is remembered.
  std::unordered_map<std::uint32_t, ContentIndex> their_handles;
  HandleTable handle_of;
  ContentSet complete;      ///< Contents that it has all of.
  std::set<Slot> withheld;  ///< What else it has, of contents that may not be fetched from it now.
  ContentSet introduced;    ///< Contents that we told it of.
  bool wants_everything = false;
  std::unordered_set<Sha256Digest> wanted_roots;
  std::map<Slot, Outstanding> outstanding;
  std::uint64_t awaited = 0;  ///< Bytes of those that are not given up.
  std::uint32_t wrong_chunks = 0;
  std::unordered_set<Slot> sent_away;  ///< What it asked for when others had to come first; once each.
  bool is_sending = false;             ///< Its writer has upload jobs of ours.
  Instant sending_since{};
  Instant last_served{};    ///< When something of it was asked for, or sent.
  Instant last_received{};  ///< When a chunk of it came.
  bool is_late = false;     ///< Something should have come long ago, and no chunk has come since: nobody else is spared for it.
  std::uint64_t bytes_received = 0;
  std::uint64_t bytes_sent = 0;
};

/// Whether it told us that it wants the content.
bool is_interested(const Remote& remote, const Content& content);

/// A chunk that a neighbour has, and would rather be asked for later.
struct Postponed {
  Instant until;
  Source source;
  Slot slot;
};

// ---- rates --------------------------------------------------------------------------------------------

/// Bytes a second now, and the most over any second.
class RateMeter {
 public:
  void add(Instant now, std::uint64_t bytes);
  double rate(Instant now) const;
  double peak() const { return peak_; }
  std::uint64_t total() const { return total_; }

 private:
  std::deque<std::pair<Instant, std::uint64_t>> recent_;
  std::uint64_t recent_bytes_ = 0;
  std::uint64_t total_ = 0;
  double peak_ = 0;
};

/// How long a ping and its answer were on their way; nothing when the answer makes no sense, or is older than anybody waits for.
std::optional<Nanoseconds> round_trip(const Pong& pong, Instant now);

/// The tracker's clock, as its answers tell it. Any thread. It never runs backwards, but for a tracker that started anew.
class SwarmClock {
 public:
  void sample(const Exchange& exchange);
  /// The tracker may have started anew, with another clock: what was known is good until its first answer, and no longer.
  void restart();
  bool is_set() const;
  Nanoseconds at(Instant now) const;
  /// How far at() may be off; nothing before the first answer.
  std::optional<Nanoseconds> bound_at(Instant now) const;

 private:
  struct Reading {
    Nanoseconds time{0};
    Nanoseconds bound{0};
  };
  std::optional<Reading> read(Instant now) const;

  mutable std::mutex mutex_;
  ClockEstimator estimator_;
  bool is_set_ = false;
  bool is_stale_ = false;
  mutable std::optional<Nanoseconds> told_;
};

// ---- the node -----------------------------------------------------------------------------------------

using ContentKey = std::pair<Sha256Digest, std::uint64_t>;  ///< Root and size.
struct ContentKeyHash {
  std::size_t operator()(const ContentKey& key) const { return std::hash<Sha256Digest>()(key.first); }
};

/// A connection to the tracker; on its link's strand, but for what is const.
struct TrackerLink {
  explicit TrackerLink(std::shared_ptr<Link> l) : link(std::move(l)) {}
  const std::shared_ptr<Link> link;
  Outbox outbox;
  bool is_over = false;
};

/// A question to the tracker that is not answered yet.
struct Question {
  std::vector<LocatedEntry> entries;
  std::uint32_t asked = 0;
  std::uint32_t silent = 0;
  std::vector<Holder> missing;
  std::uint64_t listed = 0;
  bool is_answered = false;
};

/// Orders entries by name, and finds them by it.
struct ByName {
  using is_transparent = void;
  static std::string_view name_of(const EntryPtr& entry) { return entry->name; }
  static std::string_view name_of(std::string_view name) { return name; }
  bool operator()(const auto& a, const auto& b) const { return name_of(a) < name_of(b); }
};

struct ToPublish {
  ContentIndex content;
  std::size_t target = 0;

  friend auto operator<=>(const ToPublish&, const ToPublish&) = default;
};

/// A small file under a further name, which was written when its bytes came, and waits for that name.
struct FurtherFile {
  std::shared_ptr<PartialFile> partial;
  Budget::Share descriptor;
};

/// What cannot be read, may not travel, or is refused. A run that leaves anything out has done a part of its work only. On the node's
/// strand.
class LeftOut {
 public:
  /// What the folder has of it now, as it was looked at as a whole. Returns what was not told of before.
  std::vector<Error> set_own(std::vector<Error> problems);
  /// One file of ours more. Whether it was not told of before.
  bool add_file(const std::string& name, const Error& problem);
  /// That file was taken after all, or is gone.
  void forget_file(const std::string& name) { files_.erase(name); }
  /// One thing of others more. Whether it was not told of before.
  bool add(const Error& problem);
  /// Whether the folder had something when it was looked at as a whole.
  bool has_own() const { return !own_.empty(); }
  std::size_t count() const { return own_.size() + files_.size() + others_.size(); }

 private:
  static constexpr std::size_t kMostOthers = 10'000;  // peers could offer nonsense for ever
  bool is_told(const std::string& message) const;

  std::set<std::string> own_;
  std::map<std::string, std::string> files_;  ///< By name: of single files since then.
  std::set<std::string> others_;
};

/// The state of a running peer. Plain data: what happens to it is in the functions below, by subject.
struct Node {
  Node(World& world, Report& report, Storage& storage, PeerOptions options);

  World& world;
  Report& report;
  Storage& storage;
  const PeerOptions options;
  const Executor strand;
  const std::uint64_t instance;                                                    ///< Of this run; tells a reconnection from a namesake.
  SwarmClock clock;                                                                ///< Any thread.
  Budget buffers{kBufferBytes};                                                    ///< Any thread.
  const std::shared_ptr<BufferPool> buffer_pool = std::make_shared<BufferPool>();  ///< Any thread.
  Budget storing{kMostStoring};          ///< Whatever else a worker is for, an MD5 above all, waits behind few chunks. Any thread.
  Budget descriptors{kMostUnpublished};  ///< One a fetched small file that is not published yet. Any thread.
  Subflows subflows;                     ///< Any thread.
  TaskGroup tasks;                       ///< Any thread.

  // The folder.
  Names names;
  std::vector<std::unique_ptr<Content>> contents;  ///< By ContentIndex.
  std::unordered_map<ContentKey, ContentIndex, ContentKeyHash> by_root;
  std::vector<ContentIndex> content_by_slot;
  std::set<EntryPtr, ByName> own;    ///< What we offer.
  std::deque<ContentIndex> to_open;  ///< Wanted contents of several chunks that some neighbour has.
  std::size_t open_contents = 0;
  std::unordered_set<ContentIndex> fetching;  ///< Contents of several chunks that are asked for now.
  bool has_lost = false;                      ///< A target was ever lost.
  std::size_t unfinished = 0;                 ///< Targets that are wanted, and neither published nor failed.
  std::size_t failed_targets = 0;
  LeftOut left_out;
  ExitCode failure = ExitCode::partial;  ///< What targets failed of: checksum where one did of that.
  std::uint64_t files_published = 0;
  std::vector<ContentIndex> to_follow;  ///< Contents with chunks for their MD5, which no worker has in hand.
  std::size_t followers = 0;            ///< Tasks that hand them to workers.
  std::deque<Arrival> to_store;         ///< Contents of one chunk, which no worker has in hand.
  std::uint64_t to_store_bytes = 0;     ///< Of them.
  std::size_t storers = 0;              ///< Tasks that hand them to workers.
  std::deque<ToPublish> to_publish;
  std::map<ToPublish, FurtherFile> further_files;
  Signal publish_signal;
  std::map<std::pair<ContentIndex, std::uint32_t>, AskedHashes> hash_requests;  ///< By content and span.

  // Neighbours.
  Picker picker;
  Instant moved_on{};  ///< When its picks last began elsewhere.
  UploadQueue queue;
  FirstCopies first_copies;
  Crossing crossing;
  std::deque<Postponed> postponed;  ///< The soonest first.
  std::unordered_map<Source, std::unique_ptr<Remote>> remotes;
  std::map<std::string, Source> by_id;
  std::vector<Slot> fresh_haves;                            ///< Not told yet.
  std::optional<double> batch_seconds;                      ///< Smoothed time that a batch of uploads takes.
  std::set<std::pair<std::string, std::uint64_t>> dropped;  ///< Name and instance of who sent too many wrong chunks.
  std::unordered_set<std::string> connecting;               ///< Attempts that have not come to a neighbour, or to an end.

  // The tracker.
  std::shared_ptr<TrackerLink> tracker;
  std::map<std::string, RosterEntry> roster;  ///< By name.
  bool has_roster_news = false;
  std::map<std::string, Reach> reaches;  ///< Whom we want to be connected with, by name.
  std::size_t others_wanted = 0;         ///< So many others the tracker was asked for; 0: those that it chose will do.
  std::size_t introduced = 0;            ///< So many of them it told of.
  Instant last_chunk{};                  ///< Or when more neighbours were last looked for.
  std::unordered_map<PeerId, std::string> peer_names;
  std::optional<PeerId> self;
  std::uint64_t epoch = 0;
  std::uint32_t expect = 0;
  Endpoint listening;
  std::uint64_t revision = 0;  ///< Of the catalogue, as far as it came.
  bool has_begun = false;
  std::optional<std::uint64_t> complete_told;
  std::vector<ContentIndex> counts_changed;  ///< Contents of which more is here than the tracker was told.
  Instant last_report{};

  // The catalogue.
  std::map<std::uint32_t, std::shared_ptr<Question>> questions;
  std::uint32_t next_question = 1;
  bool is_taking_in = false;                     ///< What the scan found is becoming what we offer.
  bool is_announcing = false;                    ///< All that we offer is being sent.
  std::uint64_t announced_epoch = 0;             ///< Of the tracker that knows what we offer.
  std::atomic<bool> is_interrupted{false};       ///< The command that runs is to stop. Any thread.
  bool is_listing = false;                       ///< The folder is being compared with what is offered.
  std::multiset<std::string> called;             ///< Peers that we want to be connected with, for what they have; once for each file.
  std::unordered_set<Sha256Digest> asked_roots;  ///< Contents that commands want; neighbours tell us of no others.
  std::vector<ContentIndex> chosen;              ///< Contents whose sources were chosen for no command.
  std::map<std::string, double> rates;           ///< That were measured, by peer.
  std::map<std::string, Choice> choices;         ///< By name.
  std::unique_ptr<FolderWatch> watch;
  FolderChanges changes;
  Instant last_change{};
  Signal has_changes;

  std::unique_ptr<Overlay> overlay;  ///< Its own state, on its own strand. Null where it is no node.

  // Figures.
  RateMeter down;
  RateMeter up;
  std::uint64_t bytes_wanted = 0;  ///< Of all contents that were ever wanted.
  std::uint64_t bytes_have = 0;    ///< Of those.
  std::uint64_t bytes_fetched = 0;
  std::uint64_t bytes_wasted = 0;  ///< Received twice, or wrong.

  // The end.
  bool ends_when_done = false;  ///< A get: it is over when all targets are.
  std::optional<Result<ExitCode>> outcome;
  std::optional<Nanoseconds> swarm_time;
  double percent_of_bound = 0;
  Signal finished;
};

/// Runs `f` on the node's strand.
template <class F>
auto in_node(Node& node, F f) {
  return call_on(node.strand, std::move(f));
}

/// Ends the run with an outcome; the first call counts.
void finish(Node& node, Result<ExitCode> outcome);

/// Runs `f` on the node's strand, later. What it throws is no peer's doing that we know of, and ends the run.
template <class F>
void post_to(Node& node, F f) {
  boost::asio::post(node.strand, [&node, f = std::move(f)]() mutable {
    try {
      f();
    } catch (const std::exception& failed) {
      finish(node, fail(std::error_code(), failed.what()));
    }
  });
}

// ---- the folder: src/peer/contents.cpp, targets.cpp ---------------------------------------------------

void add_own(Node& node, StoredFile file);
/// Names that are one name in the folder count as one from here on. Before anybody's files are given names in it.
void learn_folding(Node& node);
/// Says what is left out, where that is news: src/peer/left_out.cpp.
void leave_out(Node& node, const Error& problem);
/// The same for one file of ours, until it is taken or gone.
void leave_out_file(Node& node, const std::string& name, const Error& problem);
/// Whether nothing can be read of a file because it is gone, or is something else than a file.
bool is_no_file(const Error& why);
void leave_out_own(Node& node, std::vector<Error> problems);
/// Names::place, with what is in the folder left alone.
std::optional<Names::Place> place_offer(Node& node, const std::string& owner, const FileEntry& entry);
/// Somebody offers a file; `owner` is a peer's name. Bad entries are left out.
void on_offered(Node& node, const std::string& owner, const FileEntry& entry);
void on_retracted(Node& node, const std::string& owner, const std::string& name, bool lost);
/// A file of ours is no longer what it was: it is taken back, digested again, and offered anew.
void on_changed(Node& node, ContentIndex index, const FileEntry& entry);

Content& content_of(Node& node, const Sha256Digest& root, std::uint64_t size);
Content* find_content(Node& node, ContentIndex index);
Content& content_at(Node& node, Slot slot);
inline std::uint32_t chunk_of(const Content& content, Slot slot) { return slot.value - content.first.value; }
inline Slot slot_of(const Content& content, std::uint32_t chunk) { return Slot(content.first.value + chunk); }
inline bool has_all(const Content& content) { return content.have == content.chunks; }
/// The hash that chunk `chunk` has to have. Its span must have come.
const Sha256Digest& hash_of(const Content& content, std::uint32_t chunk);
/// The tracker is to be told how many chunks of it are here.
void note_count(Node& node, Content& content);
/// Takes a chunk that is verified and written into account.
void mark_have(Node& node, Content& content, std::uint32_t chunk);

/// Forgets what is here of a content.
void begin_anew(Node& node, Content& content);

/// Wants `content` under one more name.
void want(Node& node, Content& content, Target target);
/// Does for its open targets what is due where the content stands.
void take_up(Node& node, Content& content);
/// Somebody offers a content that we know: what was given up of it because nobody was left who had it, is wanted again.
void want_again(Node& node, const FileEntry& entry);
/// Whether a neighbour has any of it.
bool has_holder(const Node& node, const Content& content);
/// Begins wanted contents, as many as may be open at once. What nobody has is left out; it is queued again when somebody does.
void open_contents(Node& node);
void on_hashes_complete(Node& node, Content& content);
void on_all_chunks(Node& node, Content& content);
void fail_target(Node& node, Content& content, Target& target, const Error& error);
/// Does without what `owner` offered as `name` before: it has a newer one.
void drop_outdated(Node& node, const std::string& owner, const std::string& name);
/// Looks for targets that nobody is left to have the bytes of.
void give_up_lost(Node& node);
/// Says so where everything is done that can be.
void check_done(Node& node);

Task<> open_content(Node& node, ContentIndex index);
Task<> publish_contents(Node& node);
Task<> digest_again(Node& node, FileEntry entry);

// ---- MD5: src/peer/following.cpp, confirming.cpp -----------------------------------------------------

/// The MD5 of a content was found: what waits for it is published, or has failed.
void on_md5(Node& node, Content& content, const Md5Digest& md5);
/// The failure where a content is here that has another MD5 than `owner` says.
std::optional<Error> wrong_md5_here(const Node& node, const std::string& owner, const FileEntry& offered);
/// Makes that a failure of the run, and says it once.
void refute_known(Node& node, const std::string& owner, const FileEntry& offered);
/// All chunks of a content are here, whose MD5 is not: where that may come later, it gets its first name.
void publish_early(Node& node, Content& content);
/// What came of a content cannot be read any more. Where somebody may have changed it, because it has its name, that name alone has failed.
void on_unread(Node& node, Content& content, const Error& why);
/// A name was given early.
void on_published_early(Node& node, Content& content, Target& target);
void report_published(const Node& node, const Content& content, const Target& target);
/// More chunks of a content came, so that its MD5 may go on.
void follow_md5(Node& node, Content& content);
/// Some may have waited long enough.
void follow_waiting(Node& node);
void forget_md5(Node& node, Content& content);

// ---- neighbours: src/peer/neighbours.cpp, inventory.cpp -----------------------------------------------

Remote* find_remote(Node& node, Source source);
/// The neighbour of this session; none once the session was replaced or has parted.
Remote* remote_of(Node& node, const SessionPtr& session);
/// Lets a session in; false where there is a better one with that peer, or there are too many.
bool admit(Node& node, const SessionPtr& session);
void part(Node& node, const SessionPtr& session, const std::optional<Error>& why);
/// A control message of a neighbour. A failure ends the session.
Result<> on_message(Node& node, const SessionPtr& session, const Message& message);
void tell(Remote& remote, Message message);

std::optional<ContentIndex> content_for(const Remote& remote, std::uint32_t handle);
/// What we want to hear of, in as few messages as it takes.
std::vector<Message> subscriptions(const Node& node);
void greet_with_inventory(Node& node, Remote& remote);
void on_subscribe(Node& node, Remote& remote, const Subscribe& subscribe);
Result<> on_inventory(Node& node, Remote& remote, const Inventory& inventory);
Result<> on_have(Node& node, Remote& remote, const Have& have);
void on_gone(Node& node, Remote& remote, const Gone& gone);
/// Tells neighbours of chunks that are new here and not known to be there.
void flush_haves(Node& node);
void introduce(Node& node, const Content& content);
/// A content became known: what neighbours said of it before counts now.
void place_holdings(Node& node, const Content& content);
void take_back(Node& node, const Content& content);
/// It has `slot`: the picker is told where it may be fetched from there, else that is kept for later. Whether the picker learnt of it.
bool learn_has(Node& node, Remote& remote, Slot slot);

// ---- hashes: src/peer/hashes.cpp ----------------------------------------------------------------------

void ask_for_hashes(Node& node, Content& content);
void on_hash_request(Node& node, Remote& remote, const HashRequest& request);
Result<> on_hash_reply(Node& node, Remote& remote, const HashReply& reply);

// ---- near and far: src/peer/crossing.cpp --------------------------------------------------------------

/// What to ask `remote` for next: as the picker has it, but of one that is far, only what nobody near has, and of that our share.
std::optional<Slot> pick_for(Node& node, const Remote& remote, const Random& random, bool in_order, std::size_t spread);
bool is_farther(const Remote& remote, const Remote& than);
/// Whether nobody could be so near that it is far.
bool is_near(const Remote& remote);

// ---- downloads: src/peer/downloads.cpp ----------------------------------------------------------------

/// Asks a neighbour for as much as its window holds.
void refill(Node& node, Remote& remote);
void refill_all(Node& node);
/// A piece of a chunk begins to come.
void on_piece(Node& node, const SessionPtr& session, Slot slot);
/// Takes what a session has received.
void take_arrivals(Node& node, const SessionPtr& session);
/// `remote` has got `slot`, which another was asked for: where it would be sooner there, the request is taken back, and when that
/// is confirmed the slot is free for `remote`. Asking it at once would often bring the chunk twice.
void ask_instead(Node& node, Remote& remote, Slot slot);
void on_reject(Node& node, Remote& remote, const Reject& reject);
/// Neighbours may be asked again for what they had us come back for later.
void resume_postponed(Node& node);
/// Requests that were not answered in time are made free for others.
void expire_requests(Node& node);
/// Neighbours with room and nothing fresh to ask for take over what waits elsewhere, and at the very end double what is slow.
void duplicate_slow(Node& node);
/// What `remote` was asked for is free for others, as if it had never been.
void release_requests(Node& node, Remote& remote);
/// Only those for one content, which it no longer has.
void release_requests(Node& node, Remote& remote, const Content& content);

// ---- storing: src/peer/storing.cpp --------------------------------------------------------------------

/// Has a chunk verified and written, and takes it into account.
void store(Node& node, Arrival arrival);

// ---- uploads: src/peer/uploads.cpp --------------------------------------------------------------------

Result<> on_request(Node& node, Remote& remote, const Request& request);
void on_cancel(Node& node, Remote& remote, const Cancel& cancel);
/// Gives idle writers something to send.
void serve_next(Node& node);
/// The writer of a session is done with its jobs; `unsent` it did not send.
void on_sent(Node& node, const SessionPtr& session, std::uint64_t bytes, std::vector<UploadJob> unsent);

// ---- the tracker: src/peer/membership.cpp -------------------------------------------------------------

void on_tracker_up(Node& node, std::shared_ptr<TrackerLink> link, const Registered& registered);
void on_tracker_down(Node& node, const std::shared_ptr<TrackerLink>& link);
Result<> on_tracker_message(Node& node, const Message& message);
void on_roster(Node& node, const RosterEntry& entry);
/// Asks the tracker to introduce us to so many others, at most kMostNeighbours, where it did not already.
void want_others(Node& node, std::size_t others);
/// How many others we were told of that are here.
std::size_t others_here(const Node& node);
void tell_tracker(Node& node, Message message);
void report_progress(Node& node);
std::vector<HaveCount> all_counts(const Node& node);

// ---- the catalogue: src/peer/asking.cpp, listing.cpp, fetching.cpp -----------------------------------

/// Transfers that we are in: one for each neighbour that we get something from, and one for each that we give something.
std::uint32_t load_of(const Node& node);
/// Waits for `is_true`; false when it did not come within `patience`. Throws `interrupted` when the command is to stop.
Task<bool> wait_for(Node& node, std::function<bool()> is_true, Nanoseconds patience);
Task<LocateAnswer> locate(Node& node, std::string pattern);
/// What was found, with its sources in their order; measured where each file comes from one of them. Any executor.
Task<std::vector<LocatedFile>> weigh_findings(World& world, const PeerOptions& options, std::vector<Finding> findings, bool is_for_one);
/// How many entries the tracker has of us, once it has taken in all that we said.
Task<std::uint64_t> confirm_list(Node& node);
/// Bytes a second that came from that peer; 0 where none was measured.
double measured_rate(const Node& node, const std::string& id);
/// What the tracker says about the catalogue: an answer, or a question.
void on_confirmed(Node& node, const Confirmed& confirmed);
void on_located(Node& node, const Located& located);
Task<> answer_probe(Node& node, Probe probe);
/// Answers whoever has connected to ask.
Task<> answer_questions(Node& node, SessionPtr session);
/// The latency from that peer to us, for what comes from it; 0 where none is emulated.
Nanoseconds emulated_latency(const Node& node, const PeerSession& session);
LatencyTable::Party party_of(const Node& node);

/// Says what we offer, in as few messages as it takes.
std::vector<Message> split_offers(std::vector<FileEntry> entries);
/// Compares a listing of the folder with what we offer, and makes it what we offer; says what is to be told.
struct ListNews {
  ListChange change;
  std::vector<FileEntry> fresh;
  std::vector<std::string> gone;
};
ListNews take_listing(Node& node, std::vector<StoredFile> files);
/// A file of ours is not there any more, or not what it was.
void forget_own(Node& node, const FileEntry& entry);
bool is_left_out(const Node& node, const std::string& name);
/// Makes what the scan found what we offer, then calls `begin`. The tracker hears of the first files while the others are taken in;
/// what it says of others' files waits until all are. Any executor.
Task<> take_in(Node& node, std::vector<StoredFile> files, std::function<void(Node&)> begin);
void start_watching(Node& node);
Task<> follow_folder(Node& node);
Task<ListChange> update_list(Node& node);

/// Fetches what `name` means, for a command.
Task<std::vector<Fetched>> download(Node& node, std::string name, bool from_one);
/// Why that would be, or was, fetched from where.
Task<std::vector<Choice>> explain(Node& node, std::string name);
/// Whether this content may be fetched from that peer.
bool may_fetch_from(const Content& content, const std::string& peer);
/// Has the picker know which neighbours a content may be fetched from, after that changed.
void apply_sources(Node& node, Content& content);
void on_asked_wrong(Node& node, Content& content, const std::string& from);
/// Chooses for run_get who may send what was found, and tells later rounds who else has it. Any executor.
Task<> choose_sources(Node& node, std::vector<Finding> findings);
/// Goes over to others where the chosen source does not come.
void look_after_chosen(Node& node);

// ---- the overlay: src/peer/overlay_node.cpp -----------------------------------------------------------

/// Where the options say so. Once it listens.
void start_overlay(Node& node);
/// Each content with all that have it; of one name, the one that most have first.
std::vector<Finding> findings_of(const std::vector<Hit>& hits);
struct FoundInOverlay {
  std::vector<Hit> hits;
  std::vector<LocatedEntry> entries;
  OverlaySearch outcome;
};
/// Where the tracker is away: what a search through the tree finds. Nothing where it is not, or there is no tree.
Task<std::optional<FoundInOverlay>> find_without_tracker(Node& node, std::string pattern);
Task<Result<OverlaySearch>> search_from(Node& node, std::string pattern, OnHit on_hit);
Task<Result<Topology>> topology_from(Node& node);

/// What is here already under a name that `entry` of `owner` could get is taken into account, before it is decided where things go.
Task<> look_at_folder(Node& node, std::string owner, FileEntry entry);

// ---- the run: src/peer/run.cpp ------------------------------------------------------------------------

/// A node that offers its folder, and does what `begin` starts.
Task<Result<PeerOutcome>> run_sharing(World& world, Report& report, Storage& storage, PeerOptions options, std::function<void(Node&)> begin,
                                      Signal& stop);
/// Every 10 ms while anything goes on, else every 250 ms.
void tick(Node& node);
Task<> keep_ticking(Node& node);
void draw_progress(Node& node);

// ---- sessions: src/peer/session.cpp, subflows.cpp, tracker_session.cpp, connecting.cpp ----------------

/// A session with a peer, from the greeting to the end.
Task<> serve_peer(Node& node, SessionPtr session);
/// Answers a hello, and ends the session.
Task<> refuse(World& world, PeerSession& session, RefusalReason reason, std::string text);
Task<> accept_peers(Node& node, std::shared_ptr<Listener> listener);
/// Keeps connections with the peers of the roster.
Task<> keep_connected(Node& node);
/// It is decided what becomes of a connection that we opened.
void end_attempt(Node& node, PeerSession& session);
/// Connects to those that we should be connected with, and are not.
void connect_missing(Node& node);
/// Lets the other side open further connections, where it is far away. Between two receives.
void offer_connections(Node& node, PeerSession& session);
/// From here on further connections are opened and closed as it takes. Between two receives.
void take_offer(Node& node, const SessionPtr& session, const Joinable& offer);
/// Makes a connection that was accepted part of the session whose secret it knows. Throws where it may not be that.
Task<> let_join(Node& node, PeerSession& session, const Hello& hello);
/// Those that we alone want to be connected with, and could not connect to so far: at most kMaxConnectBack.
std::vector<PeerId> unreached(const Node& node);
/// Has the tracker tell them to connect to us. Not often: it does not listen to that more than once a second.
ConnectBack connect_back(const Node& node, std::vector<PeerId> peers);
/// Sources that there was no connection with, however often it was tried.
struct InVain {
  std::map<std::string, int> tries;
  bool is_told = false;
};
/// The same on a connection with the tracker that is no member's. Says where that is in vain.
Task<> call_unreached(Node& node, Link& link, InVain& in_vain);
/// Somebody cannot connect to us, and wants to be connected with us.
void on_connect_to(Node& node, const ConnectTo& wish);
/// Gives what the tracker told the zone in which it is reached from here: a link-local address is at the interface that leads to the
/// tracker.
void add_zone(std::string& host, const Link& tracker);
/// The instance that other peers are told: they tell a restart by it. The one that the tracker is told opens our place there to whoever
/// knows it, and does not follow from this one.
std::uint64_t instance_for_peers(std::uint64_t instance_for_tracker);
/// What we tell others of where we listen: nothing where it is everywhere.
std::string host_to_tell(const Endpoint& listening);
/// How often, how long, and what was said about it.
struct Trying {
  Instant since;
  Nanoseconds backoff;
  int refusals = 0;
  bool was_told = false;
  bool was_there = false;  ///< There was a session before.
};

/// Waits before the next try; ends the run where there is to be none.
Task<> back_off(Node& node, Trying& trying, Error why);
void on_tracker_pong(Node& node, const Pong& pong);
/// Keeps a session with the tracker, for as long as the node runs.
Task<> follow_tracker(Node& node);
/// What to say where `why` kept us from a tracker at `where`.
Error no_tracker(const Endpoint& where, const Error& why);
/// In a few words, why it is tried again.
std::string reason_text(const Error& why);
/// Whether the tracker has refused us, and whether it will do so again.
bool is_refusal(const Error& why);
bool is_refused_for_good(const Error& why);
/// What to say where we do not ask it again: its words, with what it tells to do as the advice.
Error tracker_refuses(const Endpoint& where, const Error& why);
/// A connection to the tracker that has been greeted, was asked `question`, and does not register. Tries again until `options.wait` is
/// over; throws what the last try failed of, a refusal at once. Any executor, which becomes the link's.
Task<std::unique_ptr<Link>> reach_tracker(World& world, const PeerOptions& options, Message question);
/// Polls the tracker for what `patterns` name, without registering.
Task<> follow_findings(Node& node, std::vector<std::string> patterns);

}  // namespace shoal
