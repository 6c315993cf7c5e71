/// Who asks whom for what, and who is served next. Plain values and functions over chunk numbers: no IO, no clock but
/// the instants that are passed in, no randomness but the generator that is passed in. docs/architecture.md says why
/// each rule is as it is; the figures behind them are in docs/decisions/.
///
/// All chunks of all files that a node knows are numbered in one flat space: a file takes a run of consecutive
/// slots. Everything below speaks of slots.
module;

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <tl/expected.hpp>

export module shoal.schedule;

export import :connections;
import shoal.base;

export namespace shoal {

using Slot = Index<struct SlotTag>;      ///< A chunk of some file, in the node's flat numbering.
using Source = Index<struct SourceTag>;  ///< A neighbour, in the node's numbering; numbers may be used again.

/// A source of random words; a node passes its World's, a test a seeded one.
using Random = std::function<std::uint64_t()>;

/// A set of slots, 64 to a word.
class SlotSet {
 public:
  /// Slots past a new end are forgotten.
  void resize(std::size_t slots);
  std::size_t size() const { return size_; }
  /// Slots past the end are not in the set.
  bool has(Slot slot) const;
  /// Both return whether that changed anything. `insert` takes slots within the size only.
  bool insert(Slot slot);
  bool erase(Slot slot);
  std::size_t count() const;
  std::span<const std::uint64_t> words() const { return words_; }

 private:
  std::size_t size_ = 0;
  std::vector<std::uint64_t> words_;
};

/// Which chunk to ask a neighbour for: the rarest that it has and we need, ties at random among the first 128 of them, the lower
/// the likelier.
///
/// A count a slot of the neighbours that have it, and eight bit-planes by rarity (counts 0-1, 2, 3, 4, 5-6, 7-10, 11-20, more),
/// so that a pick is an n-th bit of `plane & theirs & needed`, n drawn at random. How many such bits a neighbour has in
/// each plane and in each block of 4096 slots is counted, so "nothing" is O(1) and a pick skips empty blocks. A change
/// of a slot's standing (wanted, had, asked for, another plane) costs a bit test a neighbour, any other HAVE O(1). The counts
/// are nothing but the sum of the neighbours' sets and can be computed again from them (`is_consistent`).
///
/// Slots and sources that do not exist are the caller's error and are only asserted.
class Picker {
 public:
  Picker();
  ~Picker();
  Picker(Picker&&) noexcept;
  Picker& operator=(Picker&&) noexcept;

  /// Adds `chunks` slots that are not yet wanted; returns the first.
  Slot add_file(std::uint64_t chunks);
  std::size_t slots() const;

  /// A slot is needed when it is wanted, not had and not in flight.
  void want(Slot slot);
  void unwant(Slot slot);
  void set_have(Slot slot);
  /// Takes a have back: the file changed, or was lost.
  void clear_have(Slot slot);
  bool has(Slot slot) const;
  bool is_wanted(Slot slot) const;
  std::size_t missing() const;  ///< Slots that are wanted and not had.

  Source add_source();
  void remove_source(Source source);
  /// Idempotent: a HAVE told twice counts once. Returns whether it was news.
  bool source_has(Source source, Slot slot);
  void source_lost(Source source, Slot slot);
  bool knows(Source source, Slot slot) const;
  std::uint32_t availability(Slot slot) const;
  /// The first slot from `from` up to, not including, `end` that we have and no source does.
  std::optional<Slot> next_alone(Slot from, Slot end) const;
  /// Whether the source has anything that is wanted and not had, in flight or not.
  bool is_interesting(Source source) const;

  /// Marks `slot` as asked for once more (endgame asks twice) or once less.
  void begin(Slot slot);
  void end(Slot slot);
  std::uint32_t in_flight(Slot slot) const;

  /// The slot to ask `source` for, or nothing when it has nothing that is needed. `in_order` breaks ties by the
  /// lowest slot instead of at random: better for disk and MD5 when nobody else is waiting for variety. At random, files of 64 MiB and more
  /// go side by side, four at a time, so that their MD5s can (docs/decisions/0022). Ties are drawn over `spread` slots at least: far
  /// neighbours are asked long before they answer, and others that draw from the same few would ask for what is promised
  /// (docs/decisions/0028).
  std::optional<Slot> pick(Source source, const Random& random, bool in_order, std::size_t spread = 0) const;
  /// The first slot from `from` on, then from the lowest, that `source` has, that is needed and that `may` lets pass, of the rarest of
  /// them; nothing also where it is not among the first 4096 that are looked at.
  std::optional<Slot> pick_where(Source source, Slot from, const std::function<bool(Slot)>& may) const;
  /// Has picks at random begin elsewhere from now on: anywhere in what the next pick for `source` is made from. What is below comes last.
  /// So peers that want the same keep out of each other's way (docs/decisions/0027).
  void begin_elsewhere(Source source, const Random& random);

  /// Recomputes counts and planes from the neighbours' sets and compares; for tests.
  bool is_consistent() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// The best of what was seen lately: of the current span of time, and of the one before it.
template <class T, class Better>
class RecentBest {
 public:
  explicit RecentBest(Nanoseconds span) : span_(span) {}
  void set_span(Nanoseconds span) { span_ = span; }
  void add(Instant now, T value) {
    if (current_ && now - began_ >= span_) {
      before_ = now - began_ < 2 * span_ ? current_ : std::nullopt;
      current_.reset();
    }
    if (!current_) began_ = now;
    if (!current_ || Better()(value, *current_)) current_ = value;
  }
  std::optional<T> get() const { return before_ && (!current_ || Better()(*before_, *current_)) ? before_ : current_; }

 private:
  Nanoseconds span_;
  Instant began_{};
  std::optional<T> current_;
  std::optional<T> before_;
};

/// How many neighbours a peer asks: just one, few, or so many that the others fill the gaps of each.
enum class Company : std::uint8_t { alone, few, many };

/// How fast a neighbour delivers, and how much to ask of it at once: a window in time, not in count.
///
/// On a short way (a round trip below 5 ms): clamp(ceil(rate * (minimum RTT + 8 ms) / chunk) + 1, 2, 64) chunks; 2 while there is no rate.
/// The one more is for the chunk on the wire. It is left out for one of many sources: there the others fill the gap between two chunks, and
/// what is asked for too early is out of reach for a neighbour that could give it sooner (docs/decisions/0008).
///
/// On a long way the window has to find the rate, which it limits itself: so it is twice what the best rate of delivery brings in a round
/// trip, and up to 2.5 times that as long as it grows. The rate of delivery is what came between a request and its answer, over that time;
/// the best of this round trip and the last counts, as BBR has it. Of the only neighbour it is four times that and four chunks, so that TCP
/// alone is the limit (docs/decisions/0028).
class SourceRate {
 public:
  /// A request of `bytes` was sent at `now`.
  void on_request(Instant now, std::uint64_t bytes);
  /// The answer to a request that was sent at `requested` is whole at `now`. Updates rate and minimum RTT.
  void on_answer(Instant requested, Instant now, std::uint64_t bytes);
  /// A request ended without an answer: it was rejected or given up.
  void on_dropped(Instant now, std::uint64_t bytes);
  /// A round trip that was measured by a ping; it bounds the minimum RTT.
  void on_round_trip(Instant now, Nanoseconds rtt);

  std::uint64_t outstanding() const { return outstanding_; }
  std::uint64_t window(Company company = Company::few) const;
  /// Always when nothing is outstanding, else while `bytes` more stay within the window.
  bool has_room(std::uint64_t bytes, Company company = Company::few) const;
  /// Bytes a second over about the last second of being busy; 0 before the first answer. Less than a chunk
  /// under way tells the latency rather than the rate, and counts only until there is something better.
  double rate() const { return rate_; }
  /// The least of the last 10 to 20 s.
  std::optional<Nanoseconds> round_trip() const;
  /// Bytes that are on their way at the best rate of delivery; 0 on a short way.
  std::uint64_t under_way() const;
  /// When an answer to a request of `bytes` made now is to be expected: (outstanding + bytes) / rate, plus the
  /// minimum RTT. A second and five round trips before there is a rate.
  Nanoseconds expected(std::uint64_t bytes) const;
  /// How long to wait for an answer before asking elsewhere: three times the expected time, but 2 to 30 s.
  /// An answer that comes later is taken all the same.
  Nanoseconds patience(std::uint64_t bytes) const;

 private:
  void measure(Instant now, std::uint64_t bytes);
  void learn_delivery(Instant requested, Instant now);
  void learn_growth(Instant now);
  double far_window(Company company) const;
  double best_rate() const;
  bool is_far() const;

  /// How much had come at a moment.
  struct Mark {
    Instant at;
    std::uint64_t delivered;
  };

  std::uint64_t outstanding_ = 0;
  std::uint64_t most_outstanding_ = 0;  ///< Since the last measurement.
  Instant measured_until_{};
  bool is_measured_ = false;
  double recent_bytes_ = 0;
  double recent_seconds_ = 0;
  double rate_ = 0;
  RecentBest<Nanoseconds, std::less<>> min_rtt_{std::chrono::seconds(10)};
  std::uint64_t delivered_ = 0;
  std::deque<Mark> marks_;  ///< When something was asked for. The oldest first; as far back as anything is outstanding.
  RecentBest<double, std::greater<>> delivery_{Nanoseconds(0)};
  std::deque<Mark> deliveries_;  ///< When something came. The oldest first; two round trips and some chunks back.
  double recent_ = 0;            ///< Rate of delivery of the last round trip, ...
  double growth_ = 2;            ///< ... and by how much it is that of the one before.
  double grown_to_ = 0;          ///< The rate when it last grew by a quarter, ...
  Instant grown_at_{};           ///< ... and when that was.
  bool is_growing_ = true;
};

/// Which of several sources to take: src/schedule/choice.cpp.
struct Candidate {
  std::string name;
  std::optional<Nanoseconds> latency;  ///< One way; nothing where it could not be reached.
  std::uint32_t load = 0;              ///< Transfers that it is in.
  double rate = 0;                     ///< Bytes a second that were measured in a transfer; 0: none was.
};
/// Latency in milliseconds + 10 × load: the lowest is best. Infinite without a latency.
double score_of(const Candidate& candidate);
/// All of them, the best first, for a file of `bytes`: by the time that it is expected to take. A measured rate says that by itself; where
/// there is none, the rate is taken to be the mean of the measured ones, and the score is added. So without any rate the scores decide.
std::vector<std::size_t> rank(std::span<const Candidate> candidates, std::uint64_t bytes);

/// Latencies of pairs, as a file gives them: a line `A B MS` each, with names or addresses (`host` or `host:port`), `#` for comments. A
/// line is about both directions, unless another is about the reverse.
class LatencyTable {
 public:
  /// Fails with `usage` and the number of the line.
  static Result<LatencyTable> parse(std::string_view text);
  struct Party {
    std::string id;
    Endpoint address;
  };
  /// From one to the other; nothing where the table does not name the pair.
  std::optional<Nanoseconds> find(const Party& from, const Party& to) const;
  bool is_empty() const { return pairs_.empty(); }

 private:
  std::map<std::pair<std::string, std::string>, Nanoseconds> pairs_;
};

/// A request that is under way, as the endgame sees it.
struct InFlight {
  Slot slot;
  Source source;
  Instant expected_at;  ///< When its answer should be whole.
};

/// The endgame: a source with room and nothing fresh to ask for may duplicate a slot that is in flight once, from
/// another source, if it has it and expects to deliver in less than half of the time that the other still needs.
/// Of all such, the one with the largest time left, the first of equals; one that is late is expected to take as long
/// again as it is late. `has` says whether the idle source has a slot, `copies` how
/// often a slot is in flight already (2 is the most).
std::optional<InFlight> pick_duplicate(std::span<const InFlight> in_flight, Source idle, Instant now, Nanoseconds idle_expected,
                                       const std::function<bool(Slot)>& has, const std::function<std::uint32_t(Slot)>& copies);

/// A neighbour says HAVE for a slot that is asked, once, of another and has not begun to arrive: whether to take that
/// request back and ask the newcomer (which must have room). It is so when the newcomer, with this chunk on top, would be
/// through before the other is even without it; rates count when both are known. Without this, requests for what an
/// uploader has sent already starve in its queue while the new holders idle: 16 peers reach 70 % of the bound instead
/// of 91 (test/unit/schedule_rounds_test.cpp, window 16). And where nothing is asked of the newcomer, one in `holders`, which
/// are the neighbours that have the slot by now, turns to it: so those who wait spread evenly over all that can serve them
/// (docs/decisions/0018).
bool should_ask_instead(const SourceRate& asked, const SourceRate& newcomer, std::uint32_t holders, const Random& random);

/// Which waiting request to serve next: chunks that we never sent first, then those that no neighbour has, then those that one has,
/// then the oldest. What no neighbour has goes to the one that was given the fewest chunks (docs/decisions/0018). Common chunks are
/// alike: else whoever is behind the others, and asks for what all have, waits longest wherever it asks, and gets further behind
/// (docs/decisions/0014). The caller drops what the neighbour has got meanwhile, by `cancel` when it says HAVE.
///
/// A line a neighbour, in that order as it was when each place was given; a place that has become worse is noticed
/// when it reaches the head, so `next` looks at one request a neighbour, and the order is exact while availability
/// only rises. After `remove` and `unsend` all places are given anew; where a neighbour merely takes a chunk back, that
/// chunk keeps its place.
class UploadQueue {
 public:
  UploadQueue();
  ~UploadQueue();
  UploadQueue(UploadQueue&&) noexcept;
  UploadQueue& operator=(UploadQueue&&) noexcept;

  /// At most `kMaxWaiting` requests a neighbour wait; one more is refused (false). Asking again is no news (true).
  static constexpr std::size_t kMaxWaiting = 2048;
  bool add(Source to, Slot slot);
  /// Whether `add` would take it.
  bool has_room(Source to, Slot slot) const;
  /// Returns whether it was still waiting.
  bool cancel(Source to, Slot slot);
  /// The neighbour is gone: all of its requests are dropped.
  void remove(Source to);
  std::size_t waiting(Source to) const;
  std::size_t waiting() const;

  struct Serve {
    Source to;
    Slot slot;
  };
  /// The next request to serve among the neighbours for which `is_ready` holds, taken out of the queue and counted as
  /// sent; nothing when none waits. `availability` is how many neighbours have a slot.
  std::optional<Serve> next(const std::function<bool(Source)>& is_ready, const std::function<std::uint32_t(Slot)>& availability);
  /// A served slot did not get through (the connection closed): it counts as not sent.
  void unsend(Slot slot);
  std::uint32_t times_sent(Slot slot) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// How much of the uplink a neighbour takes that is sent to, by the round trip to it and how long an upload usually takes, and how much
/// there is. Three that are near: a chunk that is out soon can be passed on soon, but who receives from others besides takes only a part of
/// what the uplink could send (docs/decisions/0013). Six that are far, and 24 from 100 ms on: a connection takes round trips to find its
/// rate, anew after each pause. Where an upload takes more than 16 round trips anyhow, nobody counts as far (docs/decisions/0028).
inline constexpr std::uint32_t kUplinkShares = 24;
std::uint32_t upload_shares(Nanoseconds round_trip, Seconds an_upload);

/// What nobody else has leaves once before it leaves twice: while a neighbour is getting the first copy of a chunk, the
/// others that ask for it are sent away to ask for something else. They get it from that neighbour afterwards. It is
/// super-seeding (BEP 16) without its waiting: a copy is promised to whoever asks first. Without it a source's queue
/// fills with requests for what it sent to others, and it sends 25 % of its file twice (docs/decisions/0006).
class FirstCopies {
 public:
  /// A promise that has not come true after this long, and two round trips to whom it was made, holds nobody up any more.
  static constexpr Nanoseconds kPatience = std::chrono::seconds(1);
  /// Whatever whom it was made to has others believe of its way, that is no longer a round trip than this.
  static constexpr Nanoseconds kLongestWay = std::chrono::seconds(1);
  /// Whether `asker` may have `slot`, which nobody else has; then it is promised to it. Asking again does not make the time longer, and
  /// neither does taking it back before: else whoever asks for ever, and never gets it, would keep it from all others.
  bool promise(Slot slot, Source asker, Instant now, Nanoseconds round_trip = Nanoseconds(0));
  /// The same when the chunk goes out: once, the time counts from here on.
  bool serve(Slot slot, Source asker, Instant now, Nanoseconds round_trip = Nanoseconds(0));
  bool is_promised(Slot slot) const;
  /// Somebody has it: no promise is needed any more.
  void keep(Slot slot);
  /// `asker` does not want it any more.
  void withdraw(Slot slot, Source asker);
  /// The neighbour is gone.
  void remove(Source asker);

 private:
  struct Promise {
    Source to;
    std::optional<Instant> until;  ///< Nothing where it is not wanted any more; who it was made to is remembered.
    bool was_served = false;
  };
  std::unordered_map<Slot, Promise> promises_;
};

/// How many neighbours each of `members` peers keeps: everyone in a small swarm, and about 2 log2 of their number in a large one.
/// More would divide each uplink among more chunks at a time, which then take longer from one peer to the next; fewer would
/// have nothing new for each other too often (docs/decisions/0008).
std::size_t usual_degree(std::size_t members);
/// Whom the member at place i of a ring of `members` connects to, so that everyone has `degree` neighbours: those at i + each of
/// these. The steps grow like powers, so that few lead from anyone to anyone. Half of the neighbours connect to us.
std::vector<std::size_t> ring_steps(std::size_t members, std::size_t degree);

/// Near and far: src/schedule/near_far.cpp. What is far from several that are near each other should cross to them once, and not once for
/// each (docs/decisions/0032). So each of them brings a share of it, and gets the rest from the others.
///
/// Whether a neighbour is far, where the nearest has a round trip of `nearest`: 50 ms or more, and eight times as much or more. Less is
/// made by queues, too.
bool is_far(Nanoseconds round_trip, Nanoseconds nearest);
/// A number for a name that is the same at every peer.
std::uint64_t key_of(std::string_view name);
/// Whether `us` is to bring a chunk, of us and those near us that lack it as well: all of these come to the same answer without a word, as
/// far as they know each other, and one that comes or goes changes only its own share (rendezvous hashing; Thaler and Ravishankar 1998).
bool is_ours_to_bring(std::uint64_t chunk, std::uint64_t us, std::span<const std::uint64_t> near);
/// Whether one that is near, and has the chunk, is to be asked rather than one that is far: unless that one would be through in less than
/// half of the time.
bool is_better_near(const SourceRate& near, const SourceRate& far, std::uint64_t bytes);

/// When a peer that has brought its share goes on with the others': not as long as they do bring it, but no longer than twice what it would
/// take the peer by itself, or 10 s.
class Crossing {
 public:
  static constexpr Nanoseconds kHold = std::chrono::seconds(1);
  static constexpr Nanoseconds kLongestHold = std::chrono::seconds(10);
  static constexpr Nanoseconds kLookAgain = std::chrono::milliseconds(10);
  /// Whether to look for something now: not again right after there was nothing.
  bool may_look(Instant now) const { return now >= look_at_; }
  void on_found() { idle_since_.reset(); }
  /// Nothing of ours is left; all that others are to bring would take us `alone`.
  void on_nothing(Instant now, Nanoseconds alone);
  /// Someone near has something that we do not have.
  void on_news(Instant now) { news_at_ = now; }
  bool may_bring_others(Instant now) const;

 private:
  Instant look_at_{};
  Instant news_at_{};
  std::optional<Instant> idle_since_;
  Instant at_last_{};  ///< Then it goes on, whatever the others do.
};

/// The least expected time over the sources; before there is a rate, the score latency_ms + 10 * load decides.
struct SourceScore {
  Source source;
  double rate = 0;  ///< Bytes a second, 0 when unknown.
  std::uint64_t outstanding = 0;
  double latency_ms = 0;
  std::uint32_t load = 0;
};
/// The index of the best of `sources` for `bytes` more, or nothing when there is none. A source with a rate is
/// preferred to one without.
std::optional<std::size_t> best_source(std::span<const SourceScore> sources, std::uint64_t bytes);

// ---- bounds -------------------------------------------------------------------------------------------

/// A peer of a swarm, for the lower bound: what it offers that others lack, and its rates in bytes a second (0 = unlimited).
struct BoundPeer {
  std::uint64_t offers = 0;  ///< Bytes that only it has at the start.
  std::uint64_t lacks = 0;   ///< Bytes that it has to receive.
  double upload = 0;
  double download = 0;
};

/// No swarm can be faster: max over peers of offers/upload and lacks/download, and the sum of all that is lacked over the sum of
/// all uploads. Nothing when no rate is known at all.
std::optional<Seconds> lower_bound(std::span<const BoundPeer> peers);
/// 100 * bound / taken; 0 when nothing was taken.
double percent_of_bound(Seconds bound, Seconds taken);

}  // namespace shoal
