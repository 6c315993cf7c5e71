/// The messages of the overlay: of a node and the tracker, of two nodes that are linked or are about to be, and of searches.
module;

#include <compare>
#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

export module shoal.wire:overlay;

import :codec;
import :types;
import shoal.base;
import shoal.manifest;

export namespace shoal {

/// A node of the overlay. The lower number is the older node; the nonce, random at each start, tells apart nodes of one number.
struct NodeKey {
  std::uint32_t number = 0;  ///< `s1` is 1; 0: it has none yet.
  std::uint64_t nonce = 0;   ///< 0: nobody.
  static constexpr auto fields() { return std::tuple{&NodeKey::number, &NodeKey::nonce}; }
  friend auto operator<=>(const NodeKey&, const NodeKey&) = default;
};

/// A node, and where it takes connections. An empty host, or one of a single machine, is the sender's machine (`set_hosts` in shoal.tree).
struct Contact {
  NodeKey key;
  std::string host;
  std::uint16_t port = 0;
  static constexpr auto fields() { return std::tuple{&Contact::key, &Contact::host, &Contact::port}; }
  friend bool operator==(const Contact&, const Contact&) = default;
};

inline constexpr std::size_t kMaxContacts = 32;  ///< In one message.

// ---- node and tracker ---------------------------------------------------------------------------------
//
// A connection of its own: its first message after the greeting is an OverlayJoin in place of a Register.

struct OverlayJoin {
  static constexpr auto kType = MessageType::overlay_join;
  NodeKey key;       ///< Its number where it has one.
  std::string host;  ///< As in Register.
  std::uint16_t port = 0;
  std::uint32_t max_links = 0;
  bool is_linked = false;  ///< It has neighbours, or was told before that it is the first: its number is older than one given anew.
  static constexpr auto fields() {
    return std::tuple{&OverlayJoin::key, &OverlayJoin::host, &OverlayJoin::port, &OverlayJoin::max_links, &OverlayJoin::is_linked};
  }
};

/// Answers OverlayJoin and OverlayAsk; comes unasked where the number changes.
struct OverlayPlace {
  static constexpr auto kType = MessageType::overlay_place;
  std::uint32_t number = 0;
  std::vector<Contact> entries;  ///< Nodes of the oldest tree, to link to; none where that is the receiver's own.
  static constexpr auto fields() { return std::tuple{&OverlayPlace::number, &OverlayPlace::entries}; }
};

/// Whom the sender is linked to, after each change.
struct OverlayLinks {
  static constexpr auto kType = MessageType::overlay_links;
  NodeKey root;                ///< Of its tree.
  std::uint32_t depth = 0;     ///< Its own below that.
  std::vector<NodeKey> links;  ///< Where it is not the root, its parent first.
  static constexpr auto fields() { return std::tuple{&OverlayLinks::root, &OverlayLinks::depth, &OverlayLinks::links}; }
};

/// Asks for nodes to link to, or whether there is an older tree.
struct OverlayAsk {
  static constexpr auto kType = MessageType::overlay_ask;
  NodeKey root;  ///< Of the tree that the sender is in.
  static constexpr auto fields() { return std::tuple{&OverlayAsk::root}; }
};

/// Asks for all nodes; without an OverlayJoin, too.
struct OverlayList {
  static constexpr auto kType = MessageType::overlay_list;
  std::uint32_t query = 0;
  static constexpr auto fields() { return std::tuple{&OverlayList::query}; }
};

struct OverlayNode {
  NodeKey key;
  std::string id;  ///< What its peer is called.
  std::string host;
  std::uint16_t port = 0;
  std::vector<NodeKey> links;
  static constexpr auto fields() {
    return std::tuple{&OverlayNode::key, &OverlayNode::id, &OverlayNode::host, &OverlayNode::port, &OverlayNode::links};
  }
  friend bool operator==(const OverlayNode&, const OverlayNode&) = default;
};

struct OverlayNodes {
  static constexpr auto kType = MessageType::overlay_nodes;
  std::uint32_t query = 0;
  bool is_last = true;  ///< No more of this list follows.
  std::vector<OverlayNode> nodes;
  static constexpr auto fields() { return std::tuple{&OverlayNodes::query, &OverlayNodes::is_last, &OverlayNodes::nodes}; }
};

// ---- node and node ------------------------------------------------------------------------------------

/// Follows the hello: the sender, whose tree has it as its root, wants to be a child of the receiver.
struct Attach {
  static constexpr auto kType = MessageType::attach;
  Contact self;               ///< A number of 0: it wants one.
  NodeKey lost;               ///< The parent that it lost; a nonce of 0: none.
  bool has_children = false;  ///< A tree comes with it, which the receiver must not be in.
  static constexpr auto fields() { return std::tuple{&Attach::self, &Attach::lost, &Attach::has_children}; }
};

/// The answer: it is one, and the connection their link.
struct Attached {
  static constexpr auto kType = MessageType::attached;
  NodeKey self;              ///< Of the sender.
  std::uint32_t number = 0;  ///< Of the receiver: its own, or the one that it is given.
  NodeKey root;              ///< Of the tree that it is in now.
  std::uint64_t sequence = 0;
  std::uint32_t depth = 0;  ///< Of the sender.
  static constexpr auto fields() {
    return std::tuple{&Attached::self, &Attached::number, &Attached::root, &Attached::sequence, &Attached::depth};
  }
};

enum class ReferReason : std::uint8_t {
  other = 0,
  full = 1,       ///< It has as many links as it may.
  busy = 2,       ///< It, or the root of its tree, is changing its own place: to be asked again.
  same_tree = 3,  ///< It is in the tree of the asker.
  older = 4,      ///< The asker's root is older than its own, which has learned of the asker and will come to it.
  leaving = 5,
};

/// The answer: it is none, and may ask these, the best first. The connection is over.
struct Refer {
  static constexpr auto kType = MessageType::refer;
  ReferReason reason = ReferReason::other;
  std::vector<Contact> to;  ///< At most kMaxContacts.
  static constexpr auto fields() { return std::tuple{&Refer::reason, &Refer::to}; }
};

/// The sender ends this link. A receiver that loses its parent by it may ask these, the best first.
struct Detach {
  static constexpr auto kType = MessageType::detach;
  bool is_heir = false;     ///< The receiver is the root from now on: the others are told to come to it.
  std::vector<Contact> to;  ///< At most kMaxContacts.
  static constexpr auto fields() { return std::tuple{&Detach::is_heir, &Detach::to}; }
};

/// From child to parent up to the root: may `origin`, with the tree below it, become a node of this one?
struct Verify {
  static constexpr auto kType = MessageType::verify;
  std::uint64_t request = 0;
  Contact origin;
  bool has_children = false;
  static constexpr auto fields() { return std::tuple{&Verify::request, &Verify::origin, &Verify::has_children}; }
};

enum class Judgement : std::uint8_t { other = 0, yes = 1, busy = 2, same_tree = 3, older = 4 };

/// The root's answer, back the same way.
struct Verified {
  static constexpr auto kType = MessageType::verified;
  std::uint64_t request = 0;
  Judgement judgement = Judgement::other;
  std::uint32_t number = 0;  ///< For an origin that had none.
  static constexpr auto fields() { return std::tuple{&Verified::request, &Verified::judgement, &Verified::number}; }
};

inline constexpr std::uint32_t kNoRoom = 0xffffffff;  ///< In Around::room_depth.

/// Between the nodes of a link, once a second and when the sender's root or depth changes: shows that it lives, and what lies behind it.
struct Around {
  static constexpr auto kType = MessageType::around;
  NodeKey root;                ///< Of the sender's tree.
  std::uint64_t sequence = 0;  ///< The root counts; what stands still is cut off from it.
  std::uint32_t depth = 0;     ///< Of the sender.
  // Of all nodes that are reached through the sender, with itself:
  std::uint32_t nodes = 0;
  std::uint32_t room_depth = kNoRoom;  ///< Depth of the highest with room for one more link.
  std::uint32_t highest = 0;           ///< The highest number.
  std::vector<Contact> known;          ///< Others to ask where the sender is lost, the best first; at most kMaxContacts.
  static constexpr auto fields() {
    return std::tuple{&Around::root,       &Around::sequence, &Around::depth, &Around::nodes,
                      &Around::room_depth, &Around::highest,  &Around::known};
  }
};

// ---- searches -----------------------------------------------------------------------------------------

enum class SearchKind : std::uint8_t {
  files = 0,  ///< Which files are called so.
  nodes = 1,  ///< Which nodes there are.
};

/// From a node to its neighbours, and by these to all of theirs but the one that it came from. The first one may come from anybody who
/// asks.
struct Search {
  static constexpr auto kType = MessageType::search;
  std::uint64_t id = 0;  ///< Random.
  SearchKind kind = SearchKind::files;
  std::string pattern;          ///< As in Find; of no meaning for nodes.
  std::uint32_t hops = 0;       ///< Links between who asked first and the receiver.
  std::uint32_t hops_left = 0;  ///< So many more it may travel.
  std::uint32_t left_ms = 0;    ///< The answer is waited for so long.
  static constexpr auto fields() {
    return std::tuple{&Search::id, &Search::kind, &Search::pattern, &Search::hops, &Search::hops_left, &Search::left_ms};
  }
};

/// A file that a node has.
struct Hit {
  FileEntry entry;
  std::string id;  ///< What the peer is called that has it.
  std::string host;
  std::uint16_t port = 0;
  std::uint32_t load = 0;  ///< Transfers that it is in.
  std::uint32_t hops = 0;  ///< Links between it and who asked first.
  static constexpr auto fields() { return std::tuple{&Hit::entry, &Hit::id, &Hit::host, &Hit::port, &Hit::load, &Hit::hops}; }
  friend bool operator==(const Hit&, const Hit&) = default;
};

/// Goes back the way that the search came: hits at once, the last one when all branches behind the sender have answered or run out of time.
/// Once a second at least something comes, if only that it goes on.
struct SearchAnswer {
  static constexpr auto kType = MessageType::search_answer;
  std::uint64_t id = 0;
  bool is_last = false;
  std::uint32_t nodes = 0;    ///< In the last: nodes that were asked, and answered.
  std::uint32_t missing = 0;  ///< In the last: branches that did not answer, or were not to be asked.
  bool is_cut = false;        ///< There are more hits than are sent.
  std::vector<Hit> hits;
  std::vector<OverlayNode> found_nodes;
  static constexpr auto fields() {
    return std::tuple{&SearchAnswer::id,     &SearchAnswer::is_last, &SearchAnswer::nodes,      &SearchAnswer::missing,
                      &SearchAnswer::is_cut, &SearchAnswer::hits,    &SearchAnswer::found_nodes};
  }
};

}  // namespace shoal
