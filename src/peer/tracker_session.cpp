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
constexpr Nanoseconds kPollInterval = 2s;
constexpr Nanoseconds kSearchAgain = 10s;  // through the overlay, for others that have it
constexpr Nanoseconds kMoreToOffer = 1ms;  // until more of the folder is taken in
constexpr int kQuickPings = 6;             // at first, for a clock that is good at once
constexpr int kMostRefusals = 20;          // a connection of ours that died may still be known as here

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

void on_pong(Node& node, const Pong& pong) {
  if (!round_trip(pong, node.world.now())) return;
  node.clock.sample({pong.t1, pong.t2, pong.t3, node.world.now().time_since_epoch().count()});
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
      on_pong(node, *pong);
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

/// How often, how long, and what was said about it.
struct Trying {
  Instant since;
  Nanoseconds backoff = kFirstBackoff;
  int refusals = 0;
  bool was_told = false;
  bool was_there = false;  ///< There was a session before.
};

/// Waits before the next try; ends the run where there is to be none.
Task<> back_off(Node& node, Trying& trying, Error why) {
  const std::string where = to_string(node.options.tracker);
  const bool is_refused = is_refusal(why);
  const bool is_too_late = !trying.was_there && node.options.wait && node.world.now() - trying.since >= *node.options.wait;
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

}  // namespace

Task<> follow_tracker(Node& node) {
  const Executor strand = co_await asio::this_coro::executor;
  Trying trying{node.world.now()};
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

// ---- queries ------------------------------------------------------------------------------------------

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

Task<std::unique_ptr<Link>> reach_tracker(World& world, const PeerOptions& options, Message question) {
  const Executor strand = co_await asio::this_coro::executor;
  const Instant since = world.now();
  for (;;) {
    Error why;
    try {
      std::unique_ptr<Link> link = unwrap(co_await world.connect(options.tracker, strand, kConnectPatience));
      co_await greet_tracker(*link, options.id, world.random() | 1, {question});
      co_return link;
    } catch (const StepFailed& failed) {
      why = failed.error();
    }
    if (is_refusal(why)) throw StepFailed(why);
    if (options.wait && world.now() - since >= *options.wait) throw StepFailed(no_tracker(options.tracker, why));
    co_await world.sleep(kFirstBackoff);
  }
}

namespace {

/// What is answered to one question, on a link where it was asked. Pings may be answered before.
Task<std::vector<Finding>> take_answer(Link& link, std::uint32_t query, std::function<void(const Pong&)> on_pong) {
  std::map<PeerId, RosterEntry> roster;
  std::vector<Finding> findings;
  for (;;) {
    const Incoming incoming = co_await step(link.receive(kIdlePatience));
    const auto* message = std::get_if<Message>(&incoming);
    if (const auto* pong = message ? std::get_if<Pong>(message) : nullptr; pong && on_pong) {
      on_pong(*pong);
      continue;
    }
    if (const auto* peers = message ? std::get_if<Roster>(message) : nullptr) {
      for (const auto& entry : peers->peers) add_zone((roster[entry.peer] = entry).host, link);
      continue;
    }
    const auto* found = message ? std::get_if<Found>(message) : nullptr;
    if (!found || found->query != query) throw StepFailed(unexpected_message(incoming, MessageType::found));
    for (const auto& entry : found->entries) {
      Finding finding{entry.entry, {}};
      for (const PeerId holder : entry.holders)
        if (roster.contains(holder)) finding.holders.push_back(roster.at(holder));
      findings.push_back(std::move(finding));
    }
    if (found->is_last) co_return findings;
  }
}

/// A question for each pattern, numbered from 1 on.
std::vector<Message> questions_for(const std::vector<std::string>& patterns) {
  std::vector<Message> questions;
  for (const std::string& pattern : patterns) questions.emplace_back(Find{static_cast<std::uint32_t>(questions.size() + 1), pattern});
  return questions;
}

/// A few pings for the swarm clock, and the first questions.
std::vector<Message> first_questions(const World& world, const std::vector<std::string>& patterns) {
  std::vector<Message> messages(kQuickPings, Ping{world.now().time_since_epoch().count()});
  std::ranges::move(questions_for(patterns), std::back_inserter(messages));
  return messages;
}

Task<> take_finding(Node& node, Finding finding) {
  const std::string owner = finding.holders.empty() ? std::string("somebody") : finding.holders.front().id;
  if (!check_entry(finding.entry))
    co_return co_await run_on(node.strand, [&] { on_offered(node, owner, finding.entry); });  // which refuses it
  co_await look_at_folder(node, owner, finding.entry);
  co_await run_on(node.strand, [&] {
    for (const auto& holder : finding.holders) on_roster(node, holder);
    if (finding.holders.empty())
      refute_known(node, owner, finding.entry);
    else
      on_offered(node, owner, finding.entry);
    connect_missing(node);
  });
}

/// What one round of questions found.
Task<> take_findings(Node& node, std::vector<Finding> all) {
  co_await choose_sources(node, all);
  for (auto& finding : all) co_await take_finding(node, std::move(finding));
  co_await run_on(node.strand, [&] {
    node.has_begun = true;
    check_done(node);
  });
}

/// The answers to one round of questions. Fails with `not_found` where a pattern means nothing.
Task<> take_answers(Node& node, Link& link, const std::vector<std::string>& patterns, bool is_first) {
  std::uint32_t query = 0;
  std::vector<Finding> all;
  for (const auto& pattern : patterns) {
    auto findings = co_await take_answer(link, ++query, [&node](const Pong& pong) { on_pong(node, pong); });
    const bool is_had = std::ranges::any_of(findings, [](const Finding& finding) { return !finding.holders.empty(); });
    if (is_first && findings.empty())
      throw StepFailed(
          Error{make_error_code(Errc::not_found), fmt::format("nobody offers '{}'", pattern), "shoal-peer ls shows what there is"});
    if (is_first && !is_had) node.report.note(fmt::format("'{}' is known, but nobody who is here has all of it; waiting", pattern));
    std::ranges::move(findings, std::back_inserter(all));
  }
  co_await take_findings(node, std::move(all));
}

}  // namespace

namespace {

/// Where the tracker is away, and there are nodes of the overlay to ask: what these find is fetched from them. Whether all was found.
Task<bool> take_from_overlay(Node& node, const std::vector<std::string>& patterns, Instant& next_search) {
  if (!node.options.overlay || node.world.now() < next_search) co_return false;
  next_search = node.world.now() + kPollInterval;
  std::vector<Finding> all;
  for (const std::string& pattern : patterns) {
    std::vector<Hit> hits;
    const auto outcome = co_await search_overlay(node.world, node.options, pattern, [&hits](const Hit& hit) { hits.push_back(hit); });
    if (!outcome) co_return false;
    if (hits.empty() && outcome->missing == 0)
      co_await run_on(node.strand, [&] {
        finish(node, fail(Errc::not_found, fmt::format("'{}': not found anywhere ({} nodes asked)", pattern, outcome->asked)));
      });
    if (hits.empty()) co_return false;
    std::ranges::move(findings_of(hits), std::back_inserter(all));
  }
  node.report.note(fmt::format("no tracker at {}: found through the overlay", to_string(node.options.tracker)));
  co_await take_findings(node, std::move(all));
  next_search = node.world.now() + kSearchAgain;
  co_return true;
}

}  // namespace

Task<> follow_findings(Node& node, std::vector<std::string> patterns) {
  const Executor strand = co_await asio::this_coro::executor;
  Trying trying{node.world.now()};
  bool is_first = true;
  Instant next_search = node.world.now();
  InVain in_vain;
  for (;;) {
    std::optional<Error> why;
    auto link = co_await node.world.connect(node.options.tracker, strand, kConnectPatience);
    if (!link) {
      is_first &= !co_await take_from_overlay(node, patterns, next_search);
      co_await back_off(node, trying, link.error());
      continue;
    }
    try {
      co_await greet_tracker(**link, node.options.id, node.instance, first_questions(node.world, patterns));
      for (;;) {
        co_await take_answers(node, **link, patterns, std::exchange(is_first, false));
        trying = {node.world.now(), kFirstBackoff, 0, false, true};
        co_await call_unreached(node, **link, in_vain);
        co_await node.world.sleep(kPollInterval);
        co_await step((*link)->send(questions_for(patterns)));
      }
    } catch (const StepFailed& failed) {
      why = failed.error();
    }
    if (why->code == make_error_code(Errc::not_found)) co_return co_await run_on(node.strand, [&] { finish(node, Failure(*why)); });
    co_await back_off(node, trying, *why);
  }
}

Task<Result<std::vector<Finding>>> find_files(World& world, PeerOptions options, std::string pattern) {
  try {
    const auto link = co_await reach_tracker(world, options, Find{1, std::move(pattern)});
    co_return co_await take_answer(*link, 1, nullptr);
  } catch (const StepFailed& failed) {
    co_return Failure(failed.error());
  }
}

}  // namespace shoal
