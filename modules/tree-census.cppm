/// What the tracker knows of the overlay, and how a tree is drawn.
module;

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

export module shoal.tree:census;

import shoal.base;
import shoal.wire;

export namespace shoal {

/// Who is in the overlay, as the tracker is told: gives numbers, and says whom to ask for a place. A session is whatever the caller
/// numbers its connections by. One strand.
class Census {
 public:
  using SessionNumber = std::uint64_t;

  /// A node comes, or comes back to a tracker that started anew; where its process has an older session, that has left before. Of several
  /// with one nonce the first counts as the node. Returns who has to be told of a new number because a node that had it
  /// longer is back.
  std::optional<SessionNumber> join(SessionNumber session, std::string id, const OverlayJoin& join);
  void set_links(SessionNumber session, const OverlayLinks& links);
  /// Nothing where it never came.
  void leave(SessionNumber session);

  std::uint32_t number_of(SessionNumber session) const;
  NodeKey key_of(SessionNumber session) const;
  /// Whether the node that asks reaches that one.
  using Reaches = std::function<bool(SessionNumber)>;
  /// Whom to ask for a link, the best first: nodes of the oldest tree; none where that is its own, or it is the first. Who asks again and
  /// again is not taken in there, and hears of other trees, too.
  std::vector<SessionNumber> entries_for(SessionNumber session, Instant now, const Reaches& reaches = is_reached);
  static bool is_reached(SessionNumber /*session*/) { return true; }

  struct Seen {
    SessionNumber session = 0;
    OverlayNode node;  ///< Without its address.
  };
  /// All, by number. A link counts where both sides tell of it.
  std::vector<Seen> nodes() const;
  std::size_t size() const { return members_.size(); }

 private:
  struct Member {
    NodeKey key;
    std::string id;
    std::uint32_t max_links = 2;
    bool is_linked = false;  ///< It had a place before it came.
    std::optional<OverlayLinks> links;
    std::vector<std::uint64_t> linked;          ///< The nonces in that, in order, each once.
    std::size_t confirmed = 0;                  ///< Of these, who tell of it as well.
    bool is_below = false;                      ///< The first, which is its parent where it is not the root, does.
    std::map<std::uint64_t, Instant> promised;  ///< Who was told to ask it, by nonce, and when.
    std::size_t unkept = 0;                     ///< So many of these in a row did not get linked to it.
    std::size_t asked = 0;                      ///< So often it was told whom to ask since it was last a child.
  };
  /// Into a tree, by a node of it; the better one is less.
  struct Way {
    bool is_doubtful = false;  ///< Its parent knows nothing of it, or nobody who was told to ask it got linked.
    bool is_full = false;
    bool is_promised = false;  ///< As many as it has room for were told to ask it.
    std::uint32_t depth = 0;
    std::size_t promised = 0;
    SessionNumber session = 0;
    friend auto operator<=>(const Way&, const Way&) = default;
  };
  std::uint32_t free_number() const;
  void give_number(SessionNumber session, Member& member, std::uint32_t number);
  bool is_itself(SessionNumber session, const Member& member) const;
  void confirm_links(SessionNumber session, Member& member, bool is_told);
  std::vector<SessionNumber> trees_for(SessionNumber session) const;
  std::optional<SessionNumber> target_for(SessionNumber session) const;
  std::size_t room_of(Member& member, Instant now) const;
  std::vector<Way> ways_into(const NodeKey& root, SessionNumber asker, Instant now);

  std::map<SessionNumber, Member> members_;
  std::map<std::uint64_t, SessionNumber> by_nonce_;
  std::map<std::uint32_t, SessionNumber> by_number_;
  std::uint32_t last_number_ = 0;
};

// ---- pictures -----------------------------------------------------------------------------------------

/// What nodes tell of themselves may be made up: keeps of each node what came first, and a link of two that are known where both tell of
/// it.
void keep_confirmed(std::vector<OverlayNode>& nodes);

/// `s1:  s2 s3`, a line a node.
std::string topology_text(std::span<const OverlayNode> nodes);
/// The tree, or trees, drawn with names and addresses; a line a node.
std::vector<std::string> draw_topology(std::span<const OverlayNode> nodes);
/// For Graphviz.
std::string topology_dot(std::span<const OverlayNode> nodes);

}  // namespace shoal
