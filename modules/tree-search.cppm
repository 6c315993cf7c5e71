/// How a search spreads over the tree and ends, as one node sees it.
module;

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

export module shoal.tree:search;

import :actions;
import shoal.base;
import shoal.manifest;
import shoal.wire;

export namespace shoal {

/// Who sends a search.
enum class Asker : std::uint8_t { neighbour, stranger, self };

/// How much of a search's room it takes: 1, and more where it is long.
std::size_t room_of(const Hit& hit);
std::size_t room_of(const OverlayNode& node);

/// What of the answers to one search is taken, whoever sends them: what answers it, and could be meant.
class SearchSieve {
 public:
  SearchSieve(SearchKind kind, std::string pattern);
  /// Drops the rest. A last answer that tells of no node is one of a branch that is missing: whoever sends it is a node itself.
  void sift(SearchAnswer& answer);
  SearchKind kind() const { return kind_; }

 private:
  bool is_meant(const Hit& hit);

  SearchKind kind_;
  std::size_t pattern_bytes_;
  EntryPattern pattern_;
  std::size_t work_left_;  ///< To compare names with the pattern: both may be long.
  bool is_cut_ = false;
};

/// The searches that are under way at one node: each is asked on in all branches but the one that it came from, and answered when
/// these have answered, or ran out of time. A search of who is no neighbour has a number of this node's here, which nobody can take before
/// it comes. One strand.
class Searches {
 public:
  explicit Searches(RandomWords random) : random_(std::move(random)) {}

  static constexpr std::size_t kMostOfNeighbour = 32;  ///< Under way at a time; more are refused.
  static constexpr std::size_t kMostOfStrangers = 8;   ///< All of them together.
  static constexpr std::size_t kMostOfSelf = 64;
  static constexpr double kRate = 50;             ///< A second, of one neighbour, in the long run; ...
  static constexpr double kBurst = 100;           ///< ... and so many at once.
  static constexpr std::size_t kFlood = 1000;     ///< So many refused within kFloodTime: it is cut off.
  static constexpr std::size_t kMostHits = 2000;  ///< Of one search, as `room_of` counts them; likewise:
  static constexpr std::size_t kMostFoundNodes = 20'000;
  static constexpr std::size_t kMostHeld = 100'000;  ///< Of all searches, that wait for other branches.
  static constexpr std::size_t most_of(SearchKind kind) { return kind == SearchKind::files ? kMostHits : kMostFoundNodes; }
  static constexpr std::uint32_t kMostHops = 20'000;
  static constexpr std::uint32_t kMostMilliseconds = 60'000;

  /// A search of somebody: `from` is a neighbour, or whoever asks, who is answered like one. `is_whole`: the node is not cut off from
  /// others. A failure: it is no search, or a flood.
  Result<> on_search(LinkIndex from, Asker asker, const Search& search, std::span<const LinkIndex> branches, bool is_whole, Instant now);
  /// What this node has itself, in one or more parts.
  void on_looked_up(std::uint64_t search, SearchAnswer found, Instant now);
  void on_answer(LinkIndex from, SearchAnswer answer, Instant now);
  /// A neighbour is gone, or whoever asked.
  void on_closed(LinkIndex link);
  void tick(Instant now);

  TreeActions take_actions() { return std::exchange(actions_, {}); }
  std::size_t under_way() const { return searches_.size(); }
  bool is_under_way(std::uint64_t search) const { return searches_.contains(search); }

 private:
  /// A branch that has not answered, or this node itself.
  struct Source {
    Instant heard;          ///< When anything came of it last.
    std::size_t taken = 0;  ///< Room, by what was passed on of it.
  };
  struct UnderWay {
    UnderWay(LinkIndex f, Asker a, const Search& search) : from(f), asker(a), asked_as(search.id), sieve(search.kind, search.pattern) {}

    LinkIndex from;
    Asker asker;
    std::uint64_t asked_as;  ///< What it is called where it came from.
    SearchSieve sieve;
    Instant deadline;
    std::map<LinkIndex, Source> waiting;
    Source own;
    std::size_t sources = 1;  ///< In the beginning.
    Instant told;             ///< When whoever asked was told anything last.
    bool is_looking_up = true;
    std::uint32_t hops = 0;
    std::uint32_t nodes = 1;
    std::uint32_t missing = 0;
    std::size_t taken = 0;  ///< Room.
    bool is_cut = false;
    std::vector<OverlayNode> gathered;  ///< They are not shown one by one: they wait for others.
    // What a source brings beyond its share waits for what the others leave:
    std::vector<Hit> held_hits;
    std::vector<OverlayNode> held_nodes;
    std::size_t held = 0;  ///< Room.

    std::size_t active() const { return waiting.size() + (is_looking_up ? 1 : 0); }
  };
  struct Sender {
    std::size_t under_way = 0;
    double tokens = kBurst;
    Instant at;
    std::size_t refused = 0;
    Instant refused_since;
    bool was_told = false;
  };
  using Entry = std::map<std::uint64_t, UnderWay>::iterator;

  bool take_token(Sender& sender, Instant now);
  Result<> refuse(LinkIndex from, Sender& sender, std::uint64_t id, Instant now);
  bool has_place(const Sender& sender, Asker asker) const;
  template <class T>
  std::vector<T> take_share(UnderWay& search, Source& source, std::vector<T> found, std::vector<T>& held);
  template <class T>
  std::vector<T> take_held(UnderWay& search, std::vector<T>& held);
  void pass_on(UnderWay& search, Source& source, SearchAnswer answer);
  void pass_on_held(UnderWay& search);
  void send_parts(UnderWay& search, std::vector<Hit> hits, std::vector<OverlayNode> nodes);
  void send_gathered(UnderWay& search);
  void give_up_silent(UnderWay& search, Instant now);
  void go_on(Entry search);
  void end(Entry search);
  std::uint64_t fresh_id();
  void remember(std::uint64_t id, Instant until);

  RandomWords random_;
  std::map<std::uint64_t, UnderWay> searches_;
  std::map<LinkIndex, Sender> senders_;
  Sender strangers_;  ///< They share one rate.
  std::size_t of_strangers_ = 0;
  std::size_t of_self_ = 0;
  std::size_t held_ = 0;                    ///< Room, in all of them.
  std::map<std::uint64_t, Instant> ended_;  ///< Not to be taken up again.
  std::deque<std::uint64_t> ended_order_;
  TreeActions actions_;
};

}  // namespace shoal
