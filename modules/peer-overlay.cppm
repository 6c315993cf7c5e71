/// Inside shoal.peer: a node of the overlay. It knows of the rest of the peer only how to look up what that has.
module;

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

module shoal.peer:overlay;

import :api;
import shoal.base;
import shoal.report;
import shoal.tree;
import shoal.wire;
import shoal.world;

namespace shoal {

/// What a node finds of its own, in parts; the last one says so.
using OverlayParts = std::function<void(SearchAnswer)>;
/// Looks up what the peer has of the files that a pattern means, a slice at a time. Both are called on `strand`: `is_wanted` before each
/// part, which need not come where it says no. Hits are without an address.
using OverlayLookUp = std::function<Task<>(std::string pattern, Executor strand, std::function<bool()> is_wanted, OverlayParts part)>;

/// Carries out what TreeNode and Searches decide. Its state belongs to a strand of its own; the functions may be called on any executor.
class Overlay {
 public:
  struct Self {
    Endpoint tracker;
    Endpoint listening;  ///< Without a host where that is every address.
    std::string id;
  };
  Overlay(World& world, Report& report, OverlayOptions options, Self self, OverlayLookUp look_up);

  /// Becomes a node. Its tasks are in `tasks`, which ends before this does.
  void start(TaskGroup& tasks);
  /// A connection of a node that was greeted, to its end. `on_attach` is called, on the link's strand, when it has said what it wants.
  Task<> serve(std::shared_ptr<Link> link, std::function<void()> on_attach);
  /// Answers a search of somebody who is no node, on the connection that it came by. False where it was refused.
  Task<bool> answer(Link& link, Search search);
  /// A search of our own. `on_answer` is called for each part, on the caller's executor. Resumes when it has ended.
  Task<Result<OverlaySearch>> search(SearchKind kind, std::string pattern, std::function<void(const SearchAnswer&)> on_answer);
  /// Hands the neighbours over to each other, and gives that a moment to get through.
  Task<> leave();
  /// Its number, 0 as long as it has none, and how many nodes it is linked to. Any thread.
  std::uint32_t number() const { return number_.load(std::memory_order_relaxed); }
  std::size_t link_count() const { return link_count_.load(std::memory_order_relaxed); }

 private:
  /// A connection with a node. Its outbox belongs to the strand of its link.
  struct NodeLink {
    explicit NodeLink(std::shared_ptr<Link> l) : link(std::move(l)) {}
    const std::shared_ptr<Link> link;
    Outbox outbox;
    bool is_ending = false;  ///< It is closed once what was sent is gone.
    bool is_over = false;
  };
  using NodeLinkPtr = std::shared_ptr<NodeLink>;
  using TrackerEnd = std::shared_ptr<NodeLink>;
  /// Whoever waits for the end of a search here.
  struct Client {
    std::deque<SearchAnswer> parts;
    Signal came;
    bool is_over = false;
  };
  using ClientPtr = std::shared_ptr<Client>;
  struct Wanted {
    std::uint64_t search = 0;
    SearchKind kind = SearchKind::files;
    std::string pattern;
  };

  Instant now() const { return world_.now(); }
  // overlay.cpp: the links
  void carry_out();
  void perform(TreeAction action);
  void send(LinkIndex link, Message message);
  void close(LinkIndex link);
  Task<> tick();
  Task<> dial(LinkIndex link, Endpoint to);
  void enlist(LinkIndex link, const NodeLinkPtr& node);
  Task<> write_to(NodeLinkPtr node);
  Task<> read_from(NodeLinkPtr node, LinkIndex link);
  void take(LinkIndex link, const Message& message);
  void forget(LinkIndex link);
  void tell_of_end(const Link& link, const Error& why);
  void tell_standing();
  void tell_join_failure(const Endpoint& to, const Error& why);
  // overlay_contacts.cpp: nodes for later runs
  Task<> keep_contacts();
  std::vector<Endpoint> contacts_to_keep();
  Task<> remember(std::vector<Endpoint> contacts);
  // overlay_tracker.cpp: the tracker
  Task<> follow_tracker();
  Task<> serve_tracker(TrackerEnd tracker, bool& was_there);
  Task<> ping_tracker(TrackerEnd tracker);
  // overlay_search.cpp: searches of ours, and what we have
  Task<Result<OverlaySearch>> follow_search(Asker asker, Search search, std::function<Task<>(SearchAnswer)> on_part);
  std::pair<LinkIndex, ClientPtr> begin_search(Asker asker, const Search& search);
  void end_client(LinkIndex link);
  Task<> look_up_in_turn();
  Task<> look_up_one(Wanted wanted);
  SearchAnswer own_node(std::uint64_t search) const;

  World& world_;
  Report& report_;
  const OverlayOptions options_;
  const Self self_;
  const OverlayLookUp look_up_;
  const Executor strand_;
  const std::uint64_t instance_;  ///< That the tracker is told: it tells a connection of ours from a namesake's.
  TaskGroup* tasks_ = nullptr;

  TreeNode tree_;
  Searches searches_;
  std::map<LinkIndex, NodeLinkPtr> links_;
  std::set<LinkIndex> dialling_;  ///< Connections that are not there yet, and still wanted.
  std::map<LinkIndex, ClientPtr> clients_;
  TrackerEnd tracker_;
  std::deque<Wanted> to_look_up_;
  Signal has_to_look_up_;
  std::vector<Endpoint> told_contacts_;
  bool is_keeping_ = false;  ///< They are being written.
  std::atomic<std::uint32_t> number_ = 0;
  std::atomic<std::size_t> link_count_ = 0;
  bool is_standing_told_ = false;
  bool is_join_failure_told_ = false;
};

Topology sorted_topology(Topology topology);

/// `not found anywhere (5 nodes asked)`.
std::string nowhere_text(std::uint32_t asked);

Search new_search(World& world, SearchKind kind, std::string pattern);

/// Says hello to a tracker, and at once what comes after it: a round trip is long where the tracker is far.
Task<> greet_tracker(Link& link, std::string id, std::uint64_t instance, std::vector<Message> and_then);

}  // namespace shoal
