module;

#include <fmt/core.h>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/this_coro.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <variant>
#include <vector>

module shoal.peer;

import :node;
import shoal.base;
import shoal.clock;
import shoal.manifest;
import shoal.report;
import shoal.wire;
import shoal.world;

namespace asio = boost::asio;
using namespace std::chrono_literals;

namespace shoal {
namespace {

constexpr Nanoseconds kConnectPatience = 5s;
constexpr Nanoseconds kGreetingPatience = 5s;  // whoever listens there and says nothing is no tracker
constexpr Nanoseconds kIdlePatience = 15s;
constexpr Nanoseconds kFirstBackoff = 100ms;
constexpr Nanoseconds kLongestBackoff = 1s;
constexpr Nanoseconds kPingInterval = 1s;
constexpr Nanoseconds kMoreToOffer = 1ms;  // until more of the folder is taken in
constexpr int kQuickPings = 6;             // at first, for a clock that is good at once
constexpr Nanoseconds kComingIn = 5s;
constexpr int kMostRefusals = 20;  // a connection of ours that died may still be known as here

using TrackerLinkPtr = std::shared_ptr<TrackerLink>;

// ---- one session --------------------------------------------------------------------------------------

Task<> write_to(TrackerLinkPtr tracker) {
  while (!tracker->is_over) {
    if (tracker->outbox.is_empty())
      co_await tracker->outbox.wait_for_work();
    else
      co_await step(tracker->link->send(tracker->outbox.take_now(kControlLimit)));
  }
}

Task<> ping_regularly(Node& node, TrackerLinkPtr tracker) {
  for (int sent = 0; !tracker->is_over; ++sent) {
    tracker->outbox.push(Ping{node.world.now().time_since_epoch().count()});
    co_await node.world.sleep(sent < kQuickPings ? 20ms : kPingInterval);
  }
}

Register registration(const Node& node) {
  Register request;
  request.host = host_to_tell(node.listening);
  request.port = node.listening.port;
  request.appetite = node.options.appetite;
  request.expect = node.options.expect;
  request.last_epoch = node.epoch;
  request.last_clock_ns = node.clock.is_set() ? node.clock.at(node.world.now()).count() : 0;
  return request;
}

/// What comes next of what we offer. On the node's strand.
struct Slice {
  std::vector<FileEntry> entries;
  bool is_last = false;
};

Slice next_slice(const Node& node, const std::optional<std::string>& after) {
  Slice slice;
  auto own = after ? node.own.upper_bound(*after) : node.own.begin();
  for (; own != node.own.end() && slice.entries.size() < kFilesTogether; ++own) slice.entries.push_back(**own);
  slice.is_last = own == node.own.end() && !node.is_taking_in;
  return slice;
}

/// Says what we offer, as fast as the tracker takes it, in the order of the names, in which it is taken in, too.
Task<> announce(Node& node, TrackerLinkPtr tracker) {
  co_await run_on(node.strand, [&] {
    node.announced_epoch = node.epoch;
    node.is_announcing = true;
  });
  std::uint64_t count = 0;
  std::optional<std::string> last;
  for (bool is_all = false; !is_all && !tracker->is_over;) {
    Slice slice = co_await in_node(node, [&] { return next_slice(node, last); });
    is_all = slice.is_last;
    if (slice.entries.empty() && !is_all) co_await node.world.sleep(kMoreToOffer);
    if (slice.entries.empty()) continue;
    count += slice.entries.size();
    last = slice.entries.back().name;
    for (Message& offer : split_offers(std::move(slice.entries))) {
      co_await tracker->outbox.wait_for_room();
      tracker->outbox.push(std::move(offer));
    }
  }
  if (tracker->is_over) co_return;
  tracker->outbox.push(OfferEnd{count});
  co_await run_on(node.strand, [&] {
    if (node.tracker != tracker) return;
    node.is_announcing = false;
    report_progress(node);
  });
}

/// A session with the tracker, from the greeting to the end.
Task<> serve_tracker(Node& node, TrackerLinkPtr tracker, bool& was_registered) {
  const Executor strand = co_await asio::this_coro::executor;
  co_await greet_tracker(*tracker->link, node.options.id, node.instance, {registration(node)});
  const Registered registered = co_await step(receive<Registered>(*tracker->link, kIdlePatience));
  was_registered = true;
  node.clock.restart();
  const bool is_first = co_await in_node(node, [&] { return node.epoch == 0; });
  co_await run_on(node.strand, [&] { on_tracker_up(node, tracker, registered); });
  node.tasks.spawn(strand, "writer to the tracker", write_to(tracker));
  if (is_first || node.options.announces_again) node.tasks.spawn(strand, "announcing", announce(node, tracker));
  node.tasks.spawn(strand, "pings to the tracker", ping_regularly(node, tracker));
  for (bool is_taken_in = false;;) {
    const Incoming incoming = co_await step(tracker->link->receive(kIdlePatience));
    const auto* message = std::get_if<Message>(&incoming);
    if (!message) throw StepFailed(Error{make_error_code(Errc::out_of_order), "got a chunk from the tracker", {}});
    if (const auto* pong = std::get_if<Pong>(message)) {
      on_tracker_pong(node, *pong);
      continue;
    }
    // Others' files find their places among ours.
    while (!is_taken_in && std::holds_alternative<Catalogue>(*message)) {
      is_taken_in = co_await in_node(node, [&] { return !node.is_taking_in; });
      if (!is_taken_in) co_await node.world.sleep(kMoreToOffer);
    }
    unwrap(co_await in_node(node, [&] { return on_tracker_message(node, *message); }));
  }
}

// ---- again and again ----------------------------------------------------------------------------------

}  // namespace

Task<> back_off(Node& node, Trying& trying, Error why) {
  const std::string where = to_string(node.options.tracker);
  const bool is_refused = is_refusal(why);
  // A node that is in the overlay does without; one that was named to come in by gets a moment for that.
  const bool is_coming_in = node.overlay && node.options.overlay->join && node.world.now() - trying.since < kComingIn;
  const bool does_without = node.overlay && (node.overlay->link_count() > 0 || is_coming_in);
  const bool is_too_late = !trying.was_there && !does_without && node.options.wait && node.world.now() - trying.since >= *node.options.wait;
  if (is_refused && (is_refused_for_good(why) || ++trying.refusals > kMostRefusals)) {
    co_await run_on(node.strand, [&] { finish(node, Failure(tracker_refuses(node.options.tracker, why))); });
  } else if (!is_refused && is_too_late) {
    co_await run_on(node.strand, [&] { finish(node, Failure(no_tracker(node.options.tracker, why))); });
  } else if (!std::exchange(trying.was_told, true)) {
    const auto verb = trying.was_there ? "lost the tracker at" : "waiting for the tracker at";
    node.report.note(fmt::format("{} {}: {}; trying again", verb, where, reason_text(why)));
    node.report.event("waiting", {{"tracker", where}, {"why", reason_text(why)}});
  }
  const auto jitter = Nanoseconds(node.world.random() % static_cast<std::uint64_t>(trying.backoff.count() / 4 + 1));
  co_await node.world.sleep(trying.backoff + jitter);
  trying.backoff = std::min(trying.backoff * 2, kLongestBackoff);
}

Task<> follow_tracker(Node& node) {
  const Executor strand = co_await asio::this_coro::executor;
  Trying trying{node.world.now(), kFirstBackoff};
  for (;;) {
    std::optional<Error> why;
    auto link = co_await node.world.connect(node.options.tracker, strand, kConnectPatience);
    if (link) {
      auto tracker = std::make_shared<TrackerLink>(std::move(*link));
      bool was_registered = false;
      try {
        co_await serve_tracker(node, tracker, was_registered);
      } catch (const StepFailed& failed) {
        why = failed.error();
      }
      tracker->is_over = true;
      tracker->link->close();
      tracker->outbox.wake();
      co_await run_on(node.strand, [&] { on_tracker_down(node, tracker); });
      if (was_registered) trying = {node.world.now(), kFirstBackoff, 0, false, true};
      if (co_await in_node(node, [&] { return node.outcome.has_value(); })) co_return;  // it went because all is done
    } else {
      why = link.error();
    }
    co_await back_off(node, trying, why.value_or(Error{}));
  }
}

// ---- what a tracker says ------------------------------------------------------------------------------

Task<> greet_tracker(Link& link, std::string id, std::uint64_t instance, std::vector<Message> and_then) {
  Hello hello;
  hello.role = Role::peer_to_tracker;
  hello.id = std::move(id);
  hello.instance = instance;
  and_then.insert(and_then.begin(), std::move(hello));
  co_await step(link.send(std::move(and_then)));
  const Welcome welcome = co_await step(receive<Welcome>(link, kGreetingPatience));
  if (welcome.version < kOldestVersion || welcome.version > kProtocolVersion)
    throw StepFailed(Error{make_error_code(Errc::unsupported_version), "greeting the tracker", {}});
  link.established();
}

void on_tracker_pong(Node& node, const Pong& pong) {
  if (!round_trip(pong, node.world.now())) return;
  node.clock.sample({pong.t1, pong.t2, pong.t3, node.world.now().time_since_epoch().count()});
}

std::string reason_text(const Error& why) {
  const bool says_why = is_refusal(why) && !why.what.empty();
  return why.code && !says_why ? why.code.message() : why.what;
}

bool is_refusal(const Error& why) { return why.code == make_error_code(Errc::refused) || is_refused_for_good(why); }

bool is_refused_for_good(const Error& why) {
  return why.code == make_error_code(Errc::usage) || why.code == make_error_code(Errc::unsupported_version);
}

Error tracker_refuses(const Endpoint& where, const Error& why) {
  const auto end = std::min(why.what.find("; "), why.what.size());
  const auto advice = std::min(end + 2, why.what.size());
  return {why.code, fmt::format("the tracker at {} refuses: {}", to_string(where), why.what.substr(0, end)), why.what.substr(advice)};
}

Error no_tracker(const Endpoint& where, const Error& why) {
  return {why.code, fmt::format("no tracker at {}", to_string(where)), "start one with shoal-tracker, or say where it is with --tracker"};
}

}  // namespace shoal
