/// Many nodes of the overlay in one thread and in virtual time: their trees, their searches, and a tracker. Links deliver in order, each
/// message after a delay of its own; machines crash, fall silent, and are parted. Include this last: it imports modules.
#pragma once

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <queue>
#include <random>
#include <set>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <tl/expected.hpp>

import shoal.base;
import shoal.tree;
import shoal.wire;

namespace shoal::test {

using namespace std::chrono_literals;

class TreeNetwork {
 public:
  using HostIndex = std::size_t;

  struct Found {
    std::optional<SearchAnswer> last;  ///< Nothing as long as it goes on.
    std::vector<Hit> hits;
    std::vector<OverlayNode> nodes;
  };

  explicit TreeNetwork(std::uint64_t seed, std::size_t max_links = 2) : words_(seed), max_links_(max_links) {}

  // ---- what a test does ----

  /// A new node, which comes at once; `join` names one that it begins with.
  HostIndex add(std::optional<HostIndex> join = std::nullopt) {
    hosts_.push_back(std::make_unique<Host>());
    const HostIndex index = hosts_.size() - 1;
    start(index, join);
    return index;
  }
  /// Ends without a word; its neighbours see their connections reset, unless it `falls_silent`.
  void crash(HostIndex index, bool falls_silent = false) {
    Host& host = *hosts_[index];
    host.is_up = false;
    host.is_silent = falls_silent;
    ++host.life;
    // The tracker sees a connection that ended; that one is silent takes it longer.
    after(falls_silent ? Nanoseconds(4s) : delay(), [this, session = host.session] { census.leave(session); });
    if (!falls_silent)
      for (const auto& [link, far] : host.far) cut(far);
    host.far.clear();
  }
  void leave(HostIndex index) {
    Host& host = *hosts_[index];
    host.tree->leave();
    carry_out(index);
    crash(index);
  }
  void part(HostIndex index, int side) {
    hosts_[index]->side = side;
    meet_tracker(index);
  }
  void heal() {
    for (HostIndex index = 0; index < hosts_.size(); ++index) part(index, 0);
  }
  void set_tracker(bool is_there) {
    is_tracker_there_ = is_there;
    if (!is_there) census = Census();
    for (HostIndex index = 0; index < hosts_.size(); ++index) meet_tracker(index);
  }
  void run(Nanoseconds duration) {
    const Instant end = now_ + duration;
    while (!events_.empty() && events_.top().at <= end) {
      const Event event = events_.top();
      events_.pop();
      now_ = event.at;
      event.what();
    }
    now_ = end;
  }
  /// Until it is one tree; how long that took, or nothing within `most`.
  std::optional<Nanoseconds> run_until_one(Nanoseconds most) {
    const Instant begun = now_;
    while (now_ - begun < most) {
      if (problem().empty()) return now_ - begun;
      run(100ms);
    }
    return std::nullopt;
  }
  /// A search from a node. Look at what is returned after run().
  std::shared_ptr<Found> search(HostIndex index, std::string pattern, Nanoseconds timeout = 10s, std::uint32_t hops = Searches::kMostHops) {
    return ask(index, Asker::self, {words_(), SearchKind::files, std::move(pattern), 0, hops, millis(timeout)});
  }
  std::shared_ptr<Found> list(HostIndex index, Nanoseconds timeout = 10s) {
    return ask(index, Asker::self, {words_(), SearchKind::nodes, {}, 0, Searches::kMostHops, millis(timeout)});
  }
  std::shared_ptr<Found> ask(HostIndex index, Asker asker, const Search& search) {
    Host& host = *hosts_[index];
    const LinkIndex client = host.tree->new_link();
    auto found = std::make_shared<Found>();
    host.clients[client] = found;
    const auto branches = host.tree->links();
    static_cast<void>(host.searches->on_search(client, asker, search, branches, host.tree->is_settled(), now_));
    carry_out(index);
    return found;
  }
  /// A message from one node to its neighbour that its own tree and searches know nothing of.
  void forge(HostIndex from, HostIndex to, const Message& message) {
    for (const auto& [link, far] : hosts_[from]->far)
      if (far.host == to) return send(from, link, message);
  }

  /// A node ends its connections with another, which its own tree and searches know nothing of.
  void shut(HostIndex from, HostIndex to) {
    std::vector<LinkIndex> links;
    for (const auto& [link, far] : hosts_[from]->far)
      if (far.host == to) links.push_back(link);
    for (const LinkIndex link : links) close(from, link);
  }

  // ---- what it sees ----

  /// Why those that are up, and not hostile, are not one tree within the limits; empty where they are.
  std::string problem(int side = 0) const {
    std::vector<HostIndex> up;
    std::size_t ends = 0;
    for (HostIndex index = 0; index < hosts_.size(); ++index) {
      if (!hosts_[index]->is_up || hosts_[index]->side != side || hostile.contains(index)) continue;
      up.push_back(index);
      const auto others = neighbours(index);
      if (others.size() > max_links_) return fmt::format("node {} has {} links", index, others.size());
      for (const HostIndex other : others)
        if (!neighbours(other).contains(index)) return fmt::format("node {} is linked to {}, and not the other way", index, other);
      ends += others.size();
    }
    if (up.empty()) return {};
    if (ends != 2 * (up.size() - 1)) return fmt::format("{} nodes have {} links", up.size(), ends / 2);
    if (reached_from(up.front()).size() != up.size())
      return fmt::format("{} of {} nodes are reached", reached_from(up.front()).size(), up.size());
    return {};
  }
  /// Whether any node is its own ancestor now.
  bool has_circle() const {
    for (HostIndex first = 0; first < hosts_.size(); ++first) {
      std::optional<HostIndex> at = parent_of(first);
      for (std::size_t steps = 0; at && *at != first && steps < hosts_.size(); ++steps) at = parent_of(*at);
      if (at == first) return true;
    }
    return false;
  }
  std::set<HostIndex> neighbours(HostIndex index) const {
    std::set<HostIndex> others;
    for (const auto& [link, far] : hosts_[index]->far)
      if (hosts_[index]->tree->is_linked(link) && !hostile.contains(far.host)) others.insert(far.host);
    return others;
  }
  /// How many links to the farthest node.
  std::size_t eccentricity(HostIndex from) const {
    std::size_t most = 0;
    for (const auto& [index, distance] : reached_from(from)) most = std::max(most, distance);
    return most;
  }
  std::size_t up() const {
    return static_cast<std::size_t>(std::ranges::count_if(hosts_, [](const auto& host) { return host->is_up; }));
  }
  std::size_t size() const { return hosts_.size(); }
  bool is_up(HostIndex index) const { return hosts_[index]->is_up; }
  TreeNode& tree(HostIndex index) { return *hosts_[index]->tree; }
  Searches& searches(HostIndex index) { return *hosts_[index]->searches; }
  std::uint64_t random() { return words_(); }
  Instant now() const { return now_; }
  static Endpoint address(HostIndex index) { return {"10.0.0.1", static_cast<std::uint16_t>(1 + index)}; }

  Census census;
  std::function<bool(HostIndex, const std::string&)> has_file = [](HostIndex, const std::string&) { return false; };
  /// Takes a message away from `to`, which then behaves as the test wants.
  std::function<bool(HostIndex from, HostIndex to, const Message&)> swallow;
  std::set<HostIndex> deaf;              ///< They take no connections.
  std::set<HostIndex> hostile;           ///< Their links do not count.
  Nanoseconds longest_delay = 5ms;       ///< Of a message.
  std::uint64_t lost_in_a_thousand = 0;  ///< Messages.
  std::size_t most_links = 0;            ///< That any node had at any time.
  std::size_t searches_sent = 0;
  std::size_t last_answers = 0;
  std::size_t dials = 0;
  std::vector<std::pair<HostIndex, std::string>> warnings;

 private:
  struct Far {
    HostIndex host = 0;
    LinkIndex link;
    std::uint64_t life = 0;  ///< Of that host, when the link began.
  };
  struct Host {
    std::unique_ptr<TreeNode> tree;
    std::unique_ptr<Searches> searches;
    std::map<LinkIndex, Far> far;
    std::map<LinkIndex, Instant> arrives;  ///< When the last message of that link will.
    Instant arrives_at_tracker{};
    std::map<LinkIndex, std::shared_ptr<Found>> clients;
    bool is_up = true;
    bool is_silent = false;
    int side = 0;
    std::uint64_t life = 0;
    std::uint64_t session = 0;
    bool is_registered = false;
  };
  struct Event {
    Instant at;
    std::uint64_t order;
    std::function<void()> what;
    bool operator<(const Event& other) const { return std::pair(at, order) > std::pair(other.at, other.order); }
  };

  static std::uint32_t millis(Nanoseconds duration) {
    return static_cast<std::uint32_t>(std::chrono::duration_cast<Milliseconds>(duration).count());
  }
  Nanoseconds delay() { return 200us + Nanoseconds(words_() % static_cast<std::uint64_t>(longest_delay.count())); }
  void after(Nanoseconds wait, std::function<void()> what) { events_.push({now_ + wait, ++order_, std::move(what)}); }

  void start(HostIndex index, std::optional<HostIndex> join) {
    Host& host = *hosts_[index];
    TreeNode::Options options{max_links_, words_() | 1, address(index), std::nullopt};
    if (join) options.join = address(*join);
    host.tree = std::make_unique<TreeNode>(options, [this] { return words_(); }, now_);
    host.searches = std::make_unique<Searches>([this] { return words_(); });
    meet_tracker(index);
    tick(index);
  }
  void tick(HostIndex index) {
    Host& host = *hosts_[index];
    if (!host.is_up) return;
    host.tree->tick(now_);
    host.searches->tick(now_);
    carry_out(index);
    after(100ms, [this, index] { tick(index); });
  }

  // ---- the tracker ----

  /// Has a connection with it, or not.
  void meet_tracker(HostIndex index) {
    Host& host = *hosts_[index];
    const bool may = host.is_up && is_tracker_there_ && host.side == 0;
    if (may == host.is_registered) return;
    host.is_registered = may;
    if (!may) {
      census.leave(host.session);
      host.tree->on_tracker(false, now_);
      return carry_out(index);
    }
    after(delay(), [this, index] {
      Host& comer = *hosts_[index];
      if (!comer.is_up || !comer.is_registered) return;
      comer.session = ++last_session_;
      const auto renumbered = census.join(comer.session, fmt::format("h{}", index), comer.tree->introduction());
      place(index);
      if (renumbered)
        for (HostIndex other = 0; other < hosts_.size(); ++other)
          if (hosts_[other]->session == *renumbered) place(other);
      comer.tree->on_tracker(true, now_);
      carry_out(index);
    });
  }
  void place(HostIndex index) {
    const auto session = hosts_[index]->session;
    OverlayPlace place{census.number_of(session), {}};
    for (const auto entry : census.entries_for(session, now_))
      for (HostIndex other = 0; other < hosts_.size(); ++other)
        if (hosts_[other]->session == entry) place.entries.push_back({census.key_of(entry), address(other).host, address(other).port});
    after(delay(), [this, index, place] {
      if (!hosts_[index]->is_up || !hosts_[index]->is_registered) return;
      hosts_[index]->tree->on_place(place, now_);
      carry_out(index);
    });
  }
  void tell_tracker(HostIndex index, const Message& message) {
    if (!hosts_[index]->is_registered) return;
    Instant& arrives = hosts_[index]->arrives_at_tracker;
    arrives = std::max(now_ + delay(), arrives + 1ns);
    after(arrives - now_, [this, index, message, session = hosts_[index]->session] {
      if (!hosts_[index]->is_up || hosts_[index]->session != session) return;
      if (const auto* links = std::get_if<OverlayLinks>(&message))
        census.set_links(session, *links);
      else
        place(index);
    });
  }

  // ---- links ----

  std::optional<HostIndex> parent_of(HostIndex index) const {
    const Host& host = *hosts_[index];
    const auto parent = host.is_up ? host.tree->parent() : std::nullopt;
    const auto far = parent ? host.far.find(*parent) : host.far.end();
    return far == host.far.end() ? std::nullopt : std::optional(far->second.host);
  }
  bool can_reach(HostIndex a, HostIndex b) const { return hosts_[a]->side == hosts_[b]->side; }

  void dial(HostIndex from, const Dial& dial) {
    ++dials;
    const HostIndex to = dial.to.port - 1U;
    const auto life = hosts_[from]->life;
    const bool is_lost = to >= hosts_.size() || hosts_[to]->is_silent || deaf.contains(to) || !can_reach(from, to);
    after(is_lost ? Nanoseconds(2s) : delay(), [this, from, to, dial, life, is_lost] {
      Host& caller = *hosts_[from];
      if (!caller.is_up || caller.life != life) return;
      if (is_lost || !hosts_[to]->is_up || !can_reach(from, to)) {
        caller.tree->on_closed(dial.link, now_);
        return carry_out(from);
      }
      Host& called = *hosts_[to];
      const LinkIndex link = called.tree->new_link();
      caller.far[dial.link] = {to, link, called.life};
      called.far[link] = {from, dial.link, caller.life};
      if (closed_early_.erase({from, dial.link.value}) > 0) {
        caller.far.erase(dial.link);
        called.far.erase(link);
        return;
      }
      caller.tree->on_connected(dial.link, now_);
      carry_out(from);
    });
  }
  void send(HostIndex from, LinkIndex link, const Message& message) {
    Host& sender = *hosts_[from];
    if (const auto client = sender.clients.find(link); client != sender.clients.end()) return take(*client->second, message);
    const auto known = sender.far.find(link);
    if (known == sender.far.end()) return;
    if (std::holds_alternative<Search>(message)) ++searches_sent;
    if (const auto* answer = std::get_if<SearchAnswer>(&message); answer && answer->is_last) ++last_answers;
    const Far far = known->second;
    Instant& arrives = sender.arrives[link];
    arrives = std::max(now_ + delay(), arrives + 1ns);
    after(arrives - now_, [this, from, far, message] {
      Host& receiver = *hosts_[far.host];
      if (!receiver.is_up || receiver.life != far.life || !can_reach(from, far.host) || !receiver.far.contains(far.link)) return;
      if (swallow && swallow(from, far.host, message)) return;
      if (lost_in_a_thousand > 0 && words_() % 1000 < lost_in_a_thousand) return;
      receive(far.host, far.link, message);
    });
  }
  void receive(HostIndex index, LinkIndex link, const Message& message) {
    Host& host = *hosts_[index];
    bool is_good = true;
    if (const auto* attach = std::get_if<Attach>(&message)) {
      host.tree->on_attach(link, *attach, now_);
    } else if (const auto* search = std::get_if<Search>(&message)) {
      const auto branches = host.tree->links();
      is_good = host.searches->on_search(link, Asker::neighbour, *search, branches, host.tree->is_settled(), now_).has_value();
      if (!is_good) host.tree->on_closed(link, now_);
    } else if (const auto* answer = std::get_if<SearchAnswer>(&message)) {
      host.searches->on_answer(link, *answer, now_);
    } else {
      is_good = host.tree->on_message(link, message, now_).has_value();
    }
    if (!is_good) {
      warnings.emplace_back(index, "cut off");
      close(index, link);
    }
    carry_out(index);
  }
  void close(HostIndex index, LinkIndex link) {
    Host& host = *hosts_[index];
    host.searches->on_closed(link);
    const auto known = host.far.find(link);
    if (known == host.far.end()) {
      closed_early_.insert({index, link.value});
      return;
    }
    const Far far = known->second;
    const Instant last = host.arrives[link];
    host.far.erase(known);
    host.arrives.erase(link);
    after(std::max(last - now_, Nanoseconds::zero()) + delay(), [this, index, far] {
      if (can_reach(index, far.host)) tell_closed(far);
    });
  }
  /// The other end of a connection finds it reset.
  void cut(const Far& far) {
    after(delay(), [this, far] { tell_closed(far); });
  }
  void tell_closed(const Far& far) {
    Host& host = *hosts_[far.host];
    if (!host.is_up || host.life != far.life || host.far.erase(far.link) == 0) return;
    host.arrives.erase(far.link);
    host.searches->on_closed(far.link);
    host.tree->on_closed(far.link, now_);
    carry_out(far.host);
  }

  // ---- actions ----

  void carry_out(HostIndex index) {
    Host& host = *hosts_[index];
    most_links = std::max(most_links, host.tree->neighbours().size());
    for (;;) {
      TreeActions actions = host.tree->take_actions();
      for (auto& action : host.searches->take_actions()) actions.push_back(std::move(action));
      if (actions.empty()) break;
      for (const TreeAction& action : actions) perform(index, action);
    }
    most_links = std::max(most_links, host.tree->neighbours().size());
  }
  void perform(HostIndex index, const TreeAction& action) {
    Host& host = *hosts_[index];
    if (const auto* to = std::get_if<SendTo>(&action)) {
      send(index, to->link, to->message);
    } else if (const auto* call = std::get_if<Dial>(&action)) {
      dial(index, *call);
    } else if (const auto* end = std::get_if<CloseLink>(&action)) {
      close(index, end->link);
    } else if (const auto* tell = std::get_if<TellTracker>(&action)) {
      tell_tracker(index, tell->message);
    } else if (const auto* look = std::get_if<LookUp>(&action)) {
      SearchAnswer found{look->search, true, 0, 0, false, {}, {}};
      if (look->kind == SearchKind::nodes) {
        found.found_nodes.push_back(
            {host.tree->key(), fmt::format("h{}", index), address(index).host, address(index).port, host.tree->neighbours()});
      } else if (has_file(index, look->pattern)) {
        Hit hit;
        hit.entry.name = look->pattern;
        hit.entry.size = 1;
        hit.port = address(index).port;
        hit.id = fmt::format("h{}", index);
        found.hits.push_back(hit);
      }
      host.searches->on_looked_up(look->search, std::move(found), now_);
    } else if (const auto* warn = std::get_if<Warn>(&action)) {
      warnings.emplace_back(index, warn->text);
    }
  }
  static void take(Found& found, const Message& message) {
    const auto& answer = std::get<SearchAnswer>(message);
    found.hits.insert(found.hits.end(), answer.hits.begin(), answer.hits.end());
    found.nodes.insert(found.nodes.end(), answer.found_nodes.begin(), answer.found_nodes.end());
    if (answer.is_last) found.last = answer;
  }

  std::map<HostIndex, std::size_t> reached_from(HostIndex from) const {
    std::map<HostIndex, std::size_t> reached{{from, 0}};
    std::queue<HostIndex> waiting;
    for (waiting.push(from); !waiting.empty(); waiting.pop())
      for (const HostIndex other : neighbours(waiting.front()))
        if (reached.try_emplace(other, reached.at(waiting.front()) + 1).second) waiting.push(other);
    return reached;
  }

  std::mt19937_64 words_;
  std::size_t max_links_;
  Instant now_{};
  std::uint64_t order_ = 0;
  std::priority_queue<Event> events_;
  std::vector<std::unique_ptr<Host>> hosts_;
  std::set<std::pair<HostIndex, std::uint32_t>> closed_early_;
  bool is_tracker_there_ = true;
  std::uint64_t last_session_ = 0;
};

}  // namespace shoal::test
