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

/// What is taken of the answers to one search: what was asked for, makes sense, and is no more than a search may bring. One strand.
class SearchFilter {
 public:
  SearchFilter(std::uint64_t id, SearchKind kind, const std::string& pattern);
  explicit SearchFilter(const Search& search) : SearchFilter(search.id, search.kind, search.pattern) {}

  /// Drops from a part what is not to be taken. A failure: it is no answer to this search.
  Result<> take(SearchAnswer& part);
  /// More than may come has come: nothing that follows is taken.
  bool is_full() const { return is_full_; }

 private:
  bool is_wanted(const Hit& hit) const;
  static bool is_wanted(const OverlayNode& node);

  std::uint64_t id_;
  SearchKind kind_;
  EntryPattern pattern_;
  std::size_t hits_ = 0;  ///< That came, taken or not.
  std::size_t nodes_ = 0;
  std::size_t links_ = 0;
  bool is_full_ = false;
};

/// The searches that are under way at one node: each is asked on in all branches but the one that it came from, and answered when
/// these have answered, or ran out of time. One strand.
class Searches {
 public:
  explicit Searches(RandomWords random) : random_(std::move(random)) {}

  static constexpr std::size_t kMostOfNeighbour = 32;  ///< Under way at a time; more are refused.
  static constexpr std::size_t kMostOfStrangers = 8;   ///< All of them together.
  static constexpr std::size_t kMostOfSelf = 64;
  static constexpr double kRate = 50;             ///< A second, of one neighbour, in the long run; ...
  static constexpr double kBurst = 100;           ///< ... and so many at once.
  static constexpr std::size_t kFlood = 1000;     ///< So many refused within kFloodTime: it is cut off.
  static constexpr std::size_t kMostHits = 2000;  ///< Of one search.
  static constexpr std::size_t kMostFoundNodes = 40'000;
  static constexpr std::size_t kOwnHits = 200;  ///< Of a node itself; the others are shared out among its branches, so that none takes all.
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
  struct Branch {
    Instant heard;     ///< When anything came of it last.
    std::size_t hits;  ///< So many more may come of it; ...
    std::size_t nodes;
  };
  struct UnderWay {
    explicit UnderWay(const Search& search) : hops(search.hops), filter(search) {}

    LinkIndex from;
    Asker asker = Asker::neighbour;
    Instant deadline;
    std::map<LinkIndex, Branch> waiting;
    Instant told;  ///< When whoever asked was told anything last.
    bool is_looking_up = true;
    std::uint32_t hops = 0;
    std::uint32_t nodes = 0;
    std::uint32_t missing = 0;
    bool is_cut = false;
    std::vector<OverlayNode> gathered = {};  ///< They are not shown one by one: they wait for others.
    SearchFilter filter;
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
  void send_parts(UnderWay& search, SearchAnswer answer);
  void send_gathered(std::uint64_t id, UnderWay& search);
  void give_up_silent(UnderWay& search, Instant now);
  void end_if_done(Entry search);
  void end(Entry search);
  void remember(std::uint64_t id, Instant until);

  RandomWords random_;
  std::map<std::uint64_t, UnderWay> searches_;
  std::map<LinkIndex, Sender> senders_;
  Sender strangers_;  ///< They share one rate.
  std::size_t of_strangers_ = 0;
  std::size_t of_self_ = 0;
  std::map<std::uint64_t, Instant> ended_;  ///< Not to be taken up again.
  std::deque<std::uint64_t> ended_order_;
  TreeActions actions_;
};

}  // namespace shoal
