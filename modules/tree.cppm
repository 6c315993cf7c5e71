/// The overlay: a tree that forms by referral. Who is linked to whom, and how a search spreads and ends. No IO: events go in, each with the
/// time, and actions come out.
///
/// Each node has a parent, but one: the root. A node without a parent is the root of a tree of its own, and asks a node of an older tree
/// to become its child there; one that has no room refers it to its neighbours. So a link is only ever made by a root, and it is made to
/// another tree: whoever comes with children of its own is let in by the root of that tree, which is asked along the parents, and while a
/// root waits for such an answer it lets in nobody. That keeps circles out however joins, losses and messages cross (docs/decisions/0040).
module;

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <tl/expected.hpp>

export module shoal.tree;

export import :actions;
export import :census;
export import :doubts;
export import :search;
import shoal.base;
import shoal.wire;

export namespace shoal {

/// A node's place in the tree. One strand.
class TreeNode {
 public:
  struct Options {
    std::size_t max_links = 2;     ///< At least 2.
    std::uint64_t nonce = 0;       ///< Random, not 0.
    Endpoint address;              ///< Where it takes links; without a host where others see that.
    std::optional<Endpoint> join;  ///< A node to begin with, where there is one that is known.
  };
  TreeNode(Options options, RandomWords random, Instant now);

  // ---- what happens ----

  /// The connection with the tracker is there, or is lost.
  void on_tracker(bool is_there, Instant now);
  void on_place(const OverlayPlace& place, Instant now);
  /// What was dialled is connected.
  void on_connected(LinkIndex link, Instant now);
  /// Somebody connected, and wants to be a child. Its address is one that is reached from here.
  void on_attach(LinkIndex link, const Attach& attach, Instant now);
  /// What came by a link, or in answer to a Dial. A failure: it is to be closed, and is gone already as far as the tree is concerned.
  Result<> on_message(LinkIndex link, const Message& message, Instant now);
  void on_closed(LinkIndex link, Instant now);
  /// Something else came by a link, which shows that it lives.
  void on_heard(LinkIndex link, Instant now);
  /// Several times a second.
  void tick(Instant now);
  /// Says goodbye: the neighbours are handed over to each other. Nobody is let in from here on.
  void leave();

  /// What is to be done since the last call.
  TreeActions take_actions() { return std::exchange(actions_, {}); }

  // ---- what it knows ----

  LinkIndex new_link() { return LinkIndex(++last_link_); }
  const NodeKey& key() const { return key_; }
  const NodeKey& root() const { return root_; }
  std::uint32_t depth() const { return depth_; }
  std::optional<LinkIndex> parent() const { return parent_; }
  bool is_in() const { return is_in_; }
  bool is_linked(LinkIndex link) const { return links_.contains(link); }
  /// A search that goes from here into all branches reaches all nodes, as far as it knows: it is not cut off from others.
  bool is_settled() const;
  std::vector<LinkIndex> links() const;
  std::vector<NodeKey> neighbours() const;  ///< The parent first.
  std::vector<Contact> contacts() const;    ///< Neighbours and others that it knows, at most kMaxContacts.
  OverlayJoin introduction() const;         ///< What the tracker is told first.

 private:
  struct Neighbour {
    Neighbour() = default;
    Neighbour(Contact c, Instant now) : contact(std::move(c)), since(now), heard(now) {}

    Contact contact;
    Around around;               ///< What it said last.
    Instant since;               ///< The link is there.
    Instant heard;               ///< When anything came of it.
    Instant told;                ///< When it was last told what is around.
    Instant next_probe{};        ///< Not before, where it is a child.
    std::uint32_t referred = 0;  ///< Nodes that were referred to it since.
    std::uint32_t told_room_depth = 0;
    bool is_news = false;          ///< It is to be told again, soon.
    std::uint32_t news = 0;        ///< So often it was, since then.
    std::uint32_t asked_root = 0;  ///< Questions to the root of it, since then.
    Instant news_since{};
  };
  /// Somebody who wants to be a child, and waits for the root's word.
  struct Entrant {
    Attach attach;
    std::uint64_t request = 0;
    Instant deadline;
  };
  struct Sample {
    std::uint64_t seed = 0;
    std::uint64_t hash = 0;
    Contact contact;
  };
  struct Relayed {
    LinkIndex from;
    Instant deadline;
  };
  struct Candidate {
    Contact contact;
    std::optional<Endpoint> by = {};  ///< Who named it, where that was a node that was asked.
  };
  /// Looks for a parent, one node after the other.
  struct Attempt {
    std::deque<Candidate> to_ask;  ///< The next first.
    std::vector<Candidate> again;  ///< Those that were busy.
    std::set<Endpoint> asked;
    std::map<Endpoint, int> misled;  ///< So often in vain, by whom each of those named.
    int in_vain = 0;
    std::optional<LinkIndex> link;  ///< With the one that is asked now, ...
    Candidate at;                   ///< ... which is this.
    Instant deadline;               ///< For its answer.
    bool has_asked = false;         ///< It is connected, and was sent the question.
    bool may_ask_root = false;      ///< Its root has to be asked, which takes long where that is far.
    bool is_at_root = false;        ///< It has asked its root.
    bool is_at_itself = false;      ///< This node came to itself meanwhile: that is its own address.
    Instant next_round;             ///< When those that were busy are asked again.
    int rounds = 0;
    std::size_t referrals = 0;
  };

  /// Asks a child for a place, to see whether that takes connections.
  struct Probe {
    LinkIndex child;
    Instant deadline;
  };
  using Probes = std::map<LinkIndex, Probe>;
  struct Referred {
    std::uint64_t nonce = 0;
    Instant at;
  };

  static constexpr Nanoseconds kFirstBackoff{200'000'000};

  /// For a question to the root of a tree from so far below it, and the answer.
  static Nanoseconds time_to_root(std::uint32_t depth) {
    return std::chrono::seconds(2) + std::min(depth, 2000U) * std::chrono::milliseconds(20);
  }

  bool is_root() const { return !parent_; }
  /// It waits for an answer that may make it a child: until then it lets in nobody.
  bool is_asking() const { return attempt_ && attempt_->has_asked; }
  bool has_room() const { return links_.size() + entrants_.size() < options_.max_links; }
  bool is_child(LinkIndex link) const { return links_.contains(link) && link != parent_; }
  bool has_children() const { return links_.size() > (parent_ ? 1U : 0U) || !entrants_.empty(); }
  Contact self() const { return {key_, options_.address.host, options_.address.port}; }
  const Contact* linked_as(std::uint64_t nonce) const;

  // joining.cpp: how a root finds a parent
  void look_for_parent(Instant now);
  std::vector<Contact> candidates(Instant now) const;
  void begin_attempt(std::vector<Contact> first, Instant now);
  void ask_next(Instant now);
  void ask(Candidate candidate, Instant now);
  void ask_in_vain(Vain why, Instant now);
  bool is_no_use(const Contact& contact, Instant now) const;
  void stand_alone();
  void on_attached(const Attached& attached, Instant now);
  void on_refer(const Refer& refer, Instant now);
  void end_attempt(bool has_failed, Instant now);
  void shed_child();
  void ask_tracker(Instant now, Nanoseconds at_most_every = Nanoseconds::zero());

  // entering.cpp: how others become children
  void refer(LinkIndex link, ReferReason reason, std::vector<Contact> to = {});
  std::vector<Contact> rooms_for(const Attach& attach);
  void drop_if_silent(const NodeKey& lost, Instant now);
  void admit(LinkIndex link, const Contact& child, std::uint32_t number, Instant now);
  std::pair<Judgement, std::uint32_t> judge(const Contact& origin, bool has_children, Instant now);
  void on_verify(LinkIndex link, const Verify& verify, Instant now);
  void on_verified(const Verified& verified, Instant now);
  void settle_entrant(LinkIndex link, Judgement judgement, std::uint32_t number, Instant now);

  // probing.cpp: whether others reach the children
  bool is_place_cleared(std::uint64_t nonce, Instant now);
  bool is_place_for(const Contact& contact, Instant now) const;
  void probe_children(Instant now);
  bool is_probe_connected(LinkIndex link, Instant now);
  bool is_probe_answered(LinkIndex link, const Message& message, Instant now);
  bool is_probe_closed(LinkIndex link, Instant now);
  void end_probe(Probes::iterator probe, bool is_good, Instant now);
  void end_late_probes(Instant now);

  // linked.cpp: while a link lasts
  Around around_for(LinkIndex link);
  std::vector<Contact> known_for(LinkIndex link);
  void sample(const std::vector<Contact>& contacts);
  std::uint32_t room_depth_for(LinkIndex link) const;
  static void begin_second(Neighbour& neighbour, Instant now);
  void tell_news(LinkIndex link, Instant now);
  void spread_news(Instant now, std::optional<LinkIndex> from = std::nullopt);
  void tell_around(LinkIndex link, Instant now);
  void tell_children(Instant now);
  Result<> on_around(LinkIndex link, const Around& around, Instant now);
  void on_detach(LinkIndex link, const Detach& detach, Instant now);
  void lose(LinkIndex link, Instant now, std::optional<Vain> why = std::nullopt);
  void become_root(const NodeKey& lost, Instant now);
  void remember(const std::vector<Contact>& contacts);
  void tell_tracker_links();
  std::uint32_t next_number();

  Options options_;
  RandomWords random_;
  NodeKey key_;
  bool is_in_ = false;  ///< It is in the tree: linked, or told that it is the first, or left over of one.
  bool is_leaving_ = false;
  bool is_tracker_there_ = false;
  std::uint32_t last_link_ = 0;

  std::map<LinkIndex, Neighbour> links_;
  std::optional<LinkIndex> parent_;
  std::map<LinkIndex, Entrant> entrants_;
  std::map<std::uint64_t, Relayed> relayed_;  ///< Questions to the root, by their number.

  NodeKey root_;
  std::uint64_t sequence_ = 1;      ///< The root's count, as far as it came.
  Instant sequence_at_;             ///< When it last moved.
  std::uint64_t own_sequence_ = 1;  ///< Of this node as a root.
  std::uint32_t depth_ = 0;
  std::uint32_t last_number_ = 0;  ///< The highest that it gave, or heard of.

  std::optional<Attempt> attempt_;
  Instant next_look_;  ///< When a root looks for an older tree again.
  Nanoseconds backoff_;
  int failures_ = 0;       ///< Attempts since the parent was lost.
  Instant asked_tracker_;  ///< Last.
  NodeKey lost_;           ///< The parent that it had.
  bool was_root_lost_ = false;
  bool is_heir_ = false;           ///< The parent leaves, and said that this is the root then.
  std::vector<Contact> hints_;     ///< Whom the parent, when it left, said to ask.
  std::vector<Contact> entries_;   ///< Whom the tracker, or a younger node, said to ask.
  std::deque<Contact> known_;      ///< Whom the parent said to ask where it is lost, the best first.
  std::array<Sample, 32> sample_;  ///< Some of all that were heard of.
  bool was_warned_ = false;
  Doubts doubts_;     ///< Of those that were asked for a place.
  Doubts unreached_;  ///< Of those that had one, and gave way.
  Probes probes_;
  std::deque<Referred> referred_;  ///< Who was sent on to the children, the last ones.
  Referred cleared_for_;           ///< Who gets the place of a child that gives way, and when it came.
  bool is_shut_out_ = false;       ///< There are others, and none of them took it in.
  bool has_tracker_news_ = false;  ///< It is to be told what changed, soon.

  std::optional<OverlayLinks> told_links_;
  TreeActions actions_;
};

}  // namespace shoal
