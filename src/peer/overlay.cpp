// A node of the overlay: its connections with other nodes.
module;

#include <fmt/core.h>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/this_coro.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
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
#include <variant>
#include <vector>

module shoal.peer;

import :node;
import :overlay;
import shoal.base;
import shoal.report;
import shoal.tree;
import shoal.wire;
import shoal.world;

namespace asio = boost::asio;
using namespace std::chrono_literals;

namespace shoal {
namespace {

constexpr Nanoseconds kConnectTimeout = 2s;
constexpr Nanoseconds kGreetingTimeout = 5s;
constexpr Nanoseconds kIdleTimeout = 15s;
constexpr Nanoseconds kTick = 100ms;
constexpr Nanoseconds kLinger = 500ms;  // of a connection that is ended, for what was said last to get through
constexpr Nanoseconds kFarewell = 100ms;
constexpr std::size_t kMostUnsent = 8 * kMiB;  // to one neighbour

Hello hello_as_node(World& world, const std::string& id) {
  Hello hello;
  hello.role = Role::overlay;
  hello.id = id;
  hello.instance = world.random() | 1;
  return hello;
}

/// What a line about some node has in common with that about another.
std::string without_numbers(std::string line) {
  std::erase_if(line, [](char c) { return c >= '0' && c <= '9'; });
  return line;
}

}  // namespace

Overlay::Overlay(World& world, Report& report, OverlayOptions options, Self self, OverlayLookUp look_up)
    : world_(world),
      report_(report),
      options_(std::move(options)),
      self_(std::move(self)),
      look_up_(std::move(look_up)),
      strand_(make_strand(world)),
      instance_(world.random() | 1),
      tree_(
          {options_.max_links, world.random() | 1, self_.listening, options_.join}, [&world] { return world.random(); }, world.now()),
      searches_([&world] { return world.random(); }) {}

void Overlay::start(TaskGroup& tasks) {
  tasks_ = &tasks;
  tasks.spawn(strand_, "the overlay", tick());
  tasks.spawn(strand_, "looking up for the overlay", look_up_in_turn());
  tasks.spawn(make_strand(world_), "the overlay's tracker", follow_tracker());
  if (options_.remember) tasks.spawn(strand_, "keeping nodes", keep_contacts());
}

Task<> Overlay::tick() {
  for (;;) {
    tree_.tick(now());
    searches_.tick(now());
    carry_out();
    co_await world_.sleep(kTick);
  }
}

// ---- actions ------------------------------------------------------------------------------------------

void Overlay::carry_out() {
  for (;;) {
    TreeActions actions = tree_.take_actions();
    for (TreeAction& action : searches_.take_actions()) actions.push_back(std::move(action));
    if (actions.empty()) return tell_standing();
    for (TreeAction& action : actions) perform(std::move(action));
  }
}

/// Says once where this node is in the tree, and how others come in by it.
void Overlay::tell_standing() {
  const auto links = tree_.links();
  number_ = tree_.key().number;
  link_count_ = links.size();
  if (is_standing_told_ || !tree_.is_in() || tree_.key().number == 0) return;
  is_standing_told_ = true;
  const std::string to = links.empty() ? "the first node" : "linked to " + name_of(tree_.contacts().front());
  const Endpoint here{self_.listening.host.empty() ? "HOST" : self_.listening.host, self_.listening.port};
  report_.note(fmt::format("overlay: this is s{}, {}; --join {} brings others in", tree_.key().number, to, to_string(here)));
}

/// Of the node that was named to begin with, once.
void Overlay::tell_join_failure(const Endpoint& to, const Error& why) {
  if (to != options_.join || std::exchange(is_join_failure_told_, true)) return;
  report_.warn(fmt::format("overlay: cannot come in by {}: {}; trying again", to_string(to), reason_text(why)));
}

void Overlay::perform(TreeAction action) {
  if (auto* to = std::get_if<SendTo>(&action)) {
    send(to->link, std::move(to->message));
  } else if (auto* call = std::get_if<Dial>(&action)) {
    dialling_.insert(call->link);
    tasks_->spawn(make_strand(world_), "dialling a node", dial(call->link, std::move(call->to)));
  } else if (const auto* end = std::get_if<CloseLink>(&action)) {
    close(end->link);
  } else if (auto* tell = std::get_if<TellTracker>(&action)) {
    if (!tracker_) return;
    asio::post(tracker_->link->executor(),
               [tracker = tracker_, message = std::move(tell->message)]() mutable { tracker->outbox.push(std::move(message)); });
  } else if (auto* look = std::get_if<LookUp>(&action)) {
    to_look_up_.push_back({look->search, look->kind, std::move(look->pattern)});
    has_to_look_up_.notify();
  } else if (const auto* done = std::get_if<EndLookUp>(&action)) {
    std::erase_if(to_look_up_, [done](const Wanted& wanted) { return wanted.search == done->search; });
  } else if (const auto* warning = std::get_if<Warn>(&action)) {
    report_.warn(warning->text);
  } else if (const auto* remark = std::get_if<Remark>(&action)) {
    report_.debug_now_and_then(without_numbers(remark->text), remark->text);
  }
}

void Overlay::send(LinkIndex link, Message message) {
  if (const auto client = clients_.find(link); client != clients_.end()) {
    client->second->parts.push_back(std::get<SearchAnswer>(std::move(message)));
    return client->second->came.notify();
  }
  const auto known = links_.find(link);
  if (known == links_.end()) return;
  asio::post(known->second->link->executor(), [node = known->second, message = std::move(message)]() mutable {
    if (node->is_over || node->is_ending) return;
    node->outbox.push(std::move(message));
    if (node->outbox.bytes() > kMostUnsent) node->link->close();  // it does not take what it is sent
  });
}

/// Ends a connection when what was sent is gone.
void Overlay::close(LinkIndex link) {
  searches_.on_closed(link);
  dialling_.erase(link);
  const auto known = links_.find(link);
  if (known == links_.end()) return;
  const NodeLinkPtr node = known->second;
  links_.erase(known);
  asio::post(node->link->executor(), [node] {
    node->is_ending = true;
    node->outbox.wake();
  });
}

// ---- connections --------------------------------------------------------------------------------------

void Overlay::enlist(LinkIndex link, const NodeLinkPtr& node) { links_[link] = node; }

Task<> Overlay::dial(LinkIndex link, Endpoint to) {
  const Executor strand = co_await asio::this_coro::executor;
  auto connected = co_await world_.connect(to, strand, kConnectTimeout);
  NodeLinkPtr node;
  if (connected) {
    node = std::make_shared<NodeLink>(std::move(*connected));
    node->outbox.push(hello_as_node(world_, self_.id));
  }
  const bool is_wanted = co_await call_on(strand_, [&] {
    const bool is_still_wanted = dialling_.erase(link) > 0;
    if (!is_still_wanted) return false;
    if (node) {
      enlist(link, node);
      tree_.on_connected(link, now());
    } else {
      tree_.on_closed(link, now());
      tell_join_failure(to, connected.error());
    }
    carry_out();
    return node != nullptr;
  });
  if (!is_wanted) co_return;
  tasks_->spawn(strand, "writer to a node", write_to(node));
  std::optional<Error> why;
  try {
    const Welcome welcome = co_await step(receive<Welcome>(*node->link, kGreetingTimeout));
    if (welcome.version < kOldestVersion || welcome.version > kProtocolVersion)
      throw StepFailed(Error{make_error_code(Errc::unsupported_version), "greeting a node", {}});
    node->link->established();
    co_await read_from(node, link);
  } catch (const StepFailed& failed) {
    why = failed.error();
  }
  node->is_over = true;
  node->link->close();
  node->outbox.wake();
  co_await run_on(strand_, [&] {
    if (why && is_refusal(*why)) tell_join_failure(to, *why);
    forget(link);
  });
  if (why) tell_of_end(*node->link, *why);
}

Task<> Overlay::serve(std::shared_ptr<Link> accepted, std::function<void()> on_attach) {
  const auto node = std::make_shared<NodeLink>(std::move(accepted));
  node->link->established();
  const LinkIndex link = co_await call_on(strand_, [&] {
    const LinkIndex fresh = tree_.new_link();
    enlist(fresh, node);
    return fresh;
  });
  tasks_->spawn(node->link->executor(), "writer to a node", write_to(node));
  std::optional<Error> why;
  try {
    Message first(co_await step(receive<Attach>(*node->link, kGreetingTimeout)));
    on_attach();
    set_hosts(first, node->link->remote().host);
    co_await run_on(strand_, [&] {
      tree_.on_attach(link, std::get<Attach>(first), now());
      carry_out();
    });
    co_await read_from(node, link);
  } catch (const StepFailed& failed) {
    why = failed.error();
  }
  node->is_over = true;
  node->link->close();
  node->outbox.wake();
  co_await run_on(strand_, [&] { forget(link); });
  if (why) tell_of_end(*node->link, *why);
}

void Overlay::tell_of_end(const Link& link, const Error& why) {
  report_.debug_now_and_then(fmt::format("a node's connection: {}", why.code.message()),
                             fmt::format("overlay: {}: {}", to_string(link.remote()), why.message()));
}

/// The connection is over, whatever the tree thinks of it.
void Overlay::forget(LinkIndex link) {
  if (links_.erase(link) == 0) return;
  searches_.on_closed(link);
  tree_.on_closed(link, now());
  carry_out();
}

Task<> Overlay::write_to(NodeLinkPtr node) {
  try {
    while (!node->is_over) {
      if (!node->outbox.is_empty())
        co_await step(node->link->send(node->outbox.take_now(kControlLimit)));
      else if (node->is_ending)
        break;
      else
        co_await node->outbox.wait_for_work();
    }
    // Closing at once could reset the connection, and what was said last may be lost with that.
    if (!node->is_over) co_await world_.sleep(kLinger);
  } catch (const StepFailed&) {
  }
  node->link->close();
}

Task<> Overlay::read_from(NodeLinkPtr node, LinkIndex link) {
  for (;;) {
    Incoming incoming = co_await step(node->link->receive(kIdleTimeout));
    auto* message = std::get_if<Message>(&incoming);
    if (!message) throw StepFailed(Error{make_error_code(Errc::out_of_order), "got a chunk from a node", {}});
    if (std::holds_alternative<Leave>(*message)) co_return;
    set_hosts(*message, node->link->remote().host);
    co_await run_on(strand_, [&] { take(link, *message); });
  }
}

/// What a node sent. A failure ends its connection.
void Overlay::take(LinkIndex link, const Message& message) {
  if (!links_.contains(link)) return;  // it is being closed
  Result<> done;
  if (const auto* search = std::get_if<Search>(&message)) {
    const bool is_linked = tree_.is_linked(link);
    if (is_linked) tree_.on_heard(link, now());
    const auto branches = tree_.links();
    done = is_linked ? searches_.on_search(link, Asker::neighbour, *search, branches, tree_.is_settled(), now())
                     : fail(Errc::out_of_order, "got a search from a node that is no neighbour");
  } else if (const auto* answer = std::get_if<SearchAnswer>(&message)) {
    if (tree_.is_linked(link)) tree_.on_heard(link, now());
    searches_.on_answer(link, *answer, now());
  } else {
    done = tree_.on_message(link, message, now());
  }
  if (!done) {
    const auto node = links_.at(link);
    report_.warn_now_and_then(fmt::format("cut off: {}", done.error().code.message()),
                              fmt::format("overlay: {} is cut off: {}", to_string(node->link->remote()), done.error().message()));
    tree_.on_closed(link, now());
    close(link);
  }
  carry_out();
}

// ---- the rest -----------------------------------------------------------------------------------------

Task<> Overlay::leave() {
  co_await remember(co_await call_on(strand_, [this] { return contacts_to_keep(); }));
  const bool had_links = co_await call_on(strand_, [&] {
    const bool had = !tree_.links().empty();
    tree_.leave();
    carry_out();
    if (tracker_) {
      asio::post(tracker_->link->executor(), [tracker = tracker_] {
        tracker->outbox.push(Leave{});
        tracker->outbox.wake();
      });
    }
    return had;
  });
  if (had_links) co_await world_.sleep(kFarewell);
}

}  // namespace shoal
