// Questions to the tracker by who does not register, and what a get does with the answers.
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
import :overlay;
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
constexpr Nanoseconds kIdlePatience = 15s;
constexpr Nanoseconds kFirstBackoff = 100ms;
constexpr Nanoseconds kPollInterval = 2s;
constexpr Nanoseconds kSearchAgain = 10s;  // through the overlay, for others that have it
constexpr int kQuickPings = 6;             // for a clock that is good at once

}  // namespace

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
    auto findings = co_await take_answer(link, ++query, [&node](const Pong& pong) { on_tracker_pong(node, pong); });
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

/// What anybody says that it has, and nobody sends, is not waited for once another content of that name is here.
void drop_doubtful(Node& node, const std::vector<Finding>& all) {
  const auto content_of = [&node](const FileEntry& entry) {
    const auto known = node.by_root.find({entry.root, entry.size});
    return known == node.by_root.end() ? nullptr : find_content(node, known->second);
  };
  const auto is_here = [&](const std::string& name) {
    return std::ranges::any_of(all, [&](const Finding& finding) {
      const Content* const content = finding.entry.name == name ? content_of(finding.entry) : nullptr;
      return content && content->stage == Stage::complete;
    });
  };
  for (const Finding& finding : all) {
    Content* const content = content_of(finding.entry);
    if (!content || content->stage == Stage::complete || content->have > 0 || has_holder(node, *content) || !is_here(finding.entry.name))
      continue;
    for (Target& target : content->targets)
      if (is_open(target))
        fail_target(node, *content, target,
                    {make_error_code(Errc::partial),
                     fmt::format("{}: {} says that it has it, and does not send it", finding.entry.name, target.owner),
                     "another content of that name is here"});
  }
  check_done(node);
}

/// What all of these mean, as the overlay has it; nothing where it cannot be asked, or has not all of it.
Task<std::optional<std::vector<Finding>>> search_all(Node& node, const std::vector<std::string>& patterns, bool is_first) {
  std::vector<Finding> all;
  for (const std::string& pattern : patterns) {
    std::vector<Hit> hits;
    const auto outcome = co_await search_overlay(node.world, node.options, pattern, [&hits](const Hit& hit) { hits.push_back(hit); });
    if (!outcome) co_return std::nullopt;
    if (hits.empty() && outcome->missing == 0 && is_first)
      co_await run_on(node.strand,
                      [&] { finish(node, fail(Errc::not_found, fmt::format("'{}': {}", pattern, nowhere_text(outcome->asked)))); });
    if (hits.empty()) co_return std::nullopt;
    std::ranges::move(findings_of(hits), std::back_inserter(all));
  }
  co_return all;
}

/// Where the tracker is away, and there are nodes of the overlay to ask: what these find is fetched from them. Whether all was found.
Task<bool> take_from_overlay(Node& node, const std::vector<std::string>& patterns, bool is_first, Instant& next_search) {
  if (!node.options.overlay || node.world.now() < next_search) co_return false;
  next_search = node.world.now() + kPollInterval;
  auto all = co_await search_all(node, patterns, is_first);
  if (!all) co_return false;
  if (is_first) node.report.note(fmt::format("no tracker at {}: found through the overlay", to_string(node.options.tracker)));
  co_await take_findings(node, *all);
  if (!is_first) co_await run_on(node.strand, [&] { drop_doubtful(node, *all); });
  next_search = node.world.now() + kSearchAgain;
  co_return true;
}

}  // namespace

Task<> follow_findings(Node& node, std::vector<std::string> patterns) {
  const Executor strand = co_await asio::this_coro::executor;
  Trying trying{node.world.now(), kFirstBackoff};
  bool is_first = true;
  Instant next_search = node.world.now();
  InVain in_vain;
  for (;;) {
    std::optional<Error> why;
    auto link = co_await node.world.connect(node.options.tracker, strand, kConnectPatience);
    if (!link) {
      if (co_await take_from_overlay(node, patterns, is_first, next_search)) {
        is_first = false;
        trying.was_told = trying.was_there = true;  // it does without the tracker
      }
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
    unwrap(check_pattern(pattern));
    const auto link = co_await reach_tracker(world, options, Find{1, std::move(pattern)});
    co_return co_await take_answer(*link, 1, nullptr);
  } catch (const StepFailed& failed) {
    co_return Failure(failed.error());
  }
}

}  // namespace shoal
