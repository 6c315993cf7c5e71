// Questions: to the tracker, and to peers.
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
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

module shoal.peer;

import :node;
import shoal.base;
import shoal.manifest;
import shoal.schedule;
import shoal.wire;
import shoal.world;

namespace asio = boost::asio;
using namespace std::chrono_literals;

namespace shoal {
namespace {

constexpr Nanoseconds kPeerPatience = 1500ms;  // with a peer that is to be measured: two round trips, however far it is
constexpr Nanoseconds kLoadPatience = 5s;      // with one that the user asks for
constexpr Nanoseconds kTrackerPatience = 30s;  // with an answer in pages
constexpr Nanoseconds kGapPatience = 5s;       // with a tracker that is away
constexpr Nanoseconds kLinger = 100ms;         // a transfer goes on between two of its chunks
constexpr std::size_t kMostMeasured = 64;

}  // namespace

// ---- our load -----------------------------------------------------------------------------------------

std::uint32_t load_of(const Node& node) {
  const Instant now = node.world.now();
  std::uint32_t load = 0;
  for (const auto& [source, remote] : node.remotes) {
    const auto is_recent = [now](Instant last) { return last != Instant{} && now - last < kLinger; };
    if (!remote->outstanding.empty() || is_recent(remote->last_received)) ++load;
    if (remote->is_sending || node.queue.waiting(source) > 0 || is_recent(remote->last_served)) ++load;
  }
  return load;
}

// ---- peers that are asked -----------------------------------------------------------------------------

namespace {

struct PeerAnswer {
  std::uint32_t load = 0;
  Nanoseconds round_trip{0};
};

/// One question, on a connection of its own.
Task<Result<PeerAnswer>> ask_peer(World& world, std::string id, Endpoint peer, Nanoseconds patience) {
  const Executor strand = co_await asio::this_coro::executor;
  auto link = co_await world.connect(peer, strand, patience);
  if (!link) co_return Failure(std::move(link).error());
  Hello hello;
  hello.role = Role::question;
  hello.id = std::move(id);
  hello.instance = world.random() | 1;
  const Instant asked = world.now();
  if (auto sent = co_await (*link)->send({std::move(hello), LoadRequest{1}}); !sent) co_return Failure(std::move(sent).error());
  if (auto welcome = co_await receive<Welcome>(**link, patience); !welcome) co_return Failure(std::move(welcome).error());
  (*link)->established();
  const auto reply = co_await receive<LoadReply>(**link, patience);
  if (!reply) co_return Failure(reply.error());
  const PeerAnswer answer{reply->load, world.now() - asked};
  static_cast<void>(co_await send(**link, Leave{}));
  (*link)->close();
  co_return answer;
}

struct Measured {
  std::string id;
  Endpoint address;
  std::optional<PeerAnswer> answer;
};

Task<> measure_one(World& world, std::string id, Measured& measured) {
  auto answer = co_await ask_peer(world, std::move(id), measured.address, kPeerPatience);
  if (answer) measured.answer = *answer;
}

/// All at once.
Task<> measure(World& world, const std::string& id, std::vector<Measured>& peers) {
  TaskGroup tasks([](const std::string&, const Error&) {});
  for (Measured& measured : peers) tasks.spawn(make_strand(world), "measuring " + measured.id, measure_one(world, id, measured));
  co_await tasks.join();
}

}  // namespace

Task<Result<std::uint32_t>> ask_load(World& world, PeerOptions options, Endpoint peer) {
  auto answer = co_await ask_peer(world, options.id, peer, kLoadPatience);
  if (answer) co_return answer->load;
  co_return fail(answer.error().code, fmt::format("cannot ask the peer at {} for its load", to_string(peer)),
                 "shoal-peer find shows where peers listen");
}

// ---- where a file is ----------------------------------------------------------------------------------

namespace {

/// What is known of the way to other peers without asking them.
struct Ways {
  const PeerOptions& options;
  LatencyTable::Party self;
  std::function<std::optional<Nanoseconds>(const std::string& id)> latency;  ///< That was measured before.
  std::function<double(const std::string& id)> rate;
  bool knows_loads = true;  ///< The holders' loads were asked for just now.
};

Endpoint address_of(const Holder& holder) { return {holder.host, holder.port}; }

LocatedSource source_of(const Ways& ways, const Holder& holder) {
  LocatedSource source{holder, {holder.id, std::nullopt, holder.load, ways.rate(holder.id)}, LatencyFrom::nowhere};
  const auto from = [&](LatencyFrom where, std::optional<Nanoseconds> latency) {
    source.candidate.latency = latency;
    source.latency_from = latency ? where : LatencyFrom::nowhere;
  };
  if (holder.id == ways.self.id)
    from(LatencyFrom::self, Nanoseconds::zero());
  else if (!ways.options.latencies)
    from(LatencyFrom::measured, ways.latency(holder.id));
  else if (const auto named = ways.options.latencies->find(ways.self, {holder.id, address_of(holder)}))
    from(LatencyFrom::table, named);
  else
    from(LatencyFrom::assumed, ways.options.other_latency);
  return source;
}

/// Asks those of which not all is known.
Task<> measure_rest(World& world, const Ways& ways, std::vector<LocatedFile>& files) {
  std::map<std::string, std::vector<LocatedSource*>> unknown;
  for (LocatedFile& file : files)
    for (LocatedSource& source : file.sources)
      if ((source.latency_from == LatencyFrom::nowhere || !ways.knows_loads) && unknown.size() < kMostMeasured)
        unknown[source.holder.id].push_back(&source);
  if (unknown.empty()) co_return;
  std::vector<Measured> peers;
  for (const auto& [id, sources] : unknown) peers.push_back({id, address_of(sources.front()->holder), std::nullopt});
  co_await measure(world, ways.self.id, peers);
  for (const Measured& measured : peers) {
    if (!measured.answer) continue;
    for (LocatedSource* const source : unknown.at(measured.id)) {
      source->holder.load = source->candidate.load = measured.answer->load;
      if (source->latency_from != LatencyFrom::nowhere) continue;
      source->candidate.latency = measured.answer->round_trip / 2;
      source->latency_from = LatencyFrom::measured;
    }
  }
}

void order_sources(LocatedFile& file) {
  std::vector<Candidate> candidates;
  for (const LocatedSource& source : file.sources) candidates.push_back(source.candidate);
  std::vector<LocatedSource> ordered;
  for (const std::size_t i : rank(candidates, file.entry.size)) ordered.push_back(std::move(file.sources[i]));
  const auto self = std::ranges::find(ordered, LatencyFrom::self, &LocatedSource::latency_from);
  if (self != ordered.end()) std::rotate(ordered.begin(), self, std::next(self));
  file.sources = std::move(ordered);
}

LocatedFile file_of(const Ways& ways, FileEntry entry, const std::vector<Holder>& holders) {
  LocatedFile file{std::move(entry), {}};
  for (const Holder& holder : holders) file.sources.push_back(source_of(ways, holder));
  return file;
}

Task<LocateAnswer> weigh(World& world, Ways ways, Question question) {
  LocateAnswer answer{{}, question.asked, question.silent, std::move(question.missing), std::nullopt};
  for (LocatedEntry& entry : question.entries)
    if (check_entry(entry.entry)) answer.files.push_back(file_of(ways, std::move(entry.entry), entry.holders));
  co_await measure_rest(world, ways, answer.files);
  for (LocatedFile& file : answer.files) order_sources(file);
  co_return answer;
}

void take_answer(Question& question, Located located, const Link& tracker) {
  for (Holder& holder : located.missing) add_zone(holder.host, tracker);
  for (LocatedEntry& entry : located.entries)
    for (Holder& holder : entry.holders) add_zone(holder.host, tracker);
  question.asked += located.asked;
  question.silent += located.silent;
  question.missing.insert(question.missing.end(), located.missing.begin(), located.missing.end());
  question.entries.insert(question.entries.end(), located.entries.begin(), located.entries.end());
  question.is_answered = located.is_last;
}

}  // namespace

LatencyTable::Party party_of(const Node& node) { return {node.options.id, node.listening}; }

Nanoseconds emulated_latency(const Node& node, const PeerSession& session) {
  if (!node.options.emulates_latency || !node.options.latencies) return Nanoseconds::zero();
  const auto known = node.roster.find(session.id);
  const Endpoint address = known != node.roster.end() ? Endpoint{known->second.host, known->second.port} : session.link->remote();
  return node.options.latencies->find({session.id, address}, party_of(node)).value_or(node.options.other_latency);
}

Task<bool> wait_for(Node& node, std::function<bool()> is_true, Nanoseconds patience) {
  constexpr Nanoseconds kLook = 2ms;
  constexpr Nanoseconds kSoon = 500ms;
  constexpr Nanoseconds kSeldom = 10ms;
  const Instant begun = node.world.now();
  for (;;) {
    if (is_true()) co_return true;
    if (node.is_interrupted) throw StepFailed(Error{make_error_code(Errc::interrupted), "stopped", {}});
    const Nanoseconds waited = node.world.now() - begun;
    if (waited >= patience) co_return false;
    co_await node.world.sleep(waited < kSoon ? kLook : kSeldom);
  }
}

namespace {

/// Sends a question to the tracker, which may be away for a moment, and waits for the answer.
template <class M>
Task<Question> ask_tracker(Node& node, M message) {
  const auto question = std::make_shared<Question>();
  message.query = node.next_question++;
  const auto where = [&] { return to_string(node.options.tracker); };
  if (!co_await wait_for(node, [&] { return node.tracker != nullptr; }, kGapPatience))
    throw StepFailed(
        Error{make_error_code(Errc::timed_out), fmt::format("no tracker at {}", where()), "start it again; the peer goes on trying"});
  const std::shared_ptr<TrackerLink> asked = node.tracker;
  node.questions[message.query] = question;
  const std::uint32_t query = message.query;
  tell_tracker(node, std::move(message));
  bool is_answered = false;
  try {
    co_await wait_for(node, [&] { return question->is_answered || node.tracker != asked; }, kTrackerPatience);
    is_answered = question->is_answered;
  } catch (const StepFailed&) {
    node.questions.erase(query);
    throw;
  }
  node.questions.erase(query);
  if (is_answered) co_return std::move(*question);
  throw StepFailed(Error{make_error_code(Errc::closed), fmt::format("the tracker at {} did not answer", where()), "try again"});
}

}  // namespace

void on_confirmed(Node& node, const Confirmed& confirmed) {
  const auto asked = node.questions.find(confirmed.query);
  if (asked == node.questions.end()) return;
  asked->second->listed = confirmed.entries;
  asked->second->is_answered = true;
}

void on_located(Node& node, const Located& located) {
  const auto asked = node.questions.find(located.query);
  if (asked != node.questions.end() && node.tracker) take_answer(*asked->second, located, *node.tracker->link);
}

Task<std::uint64_t> confirm_list(Node& node) { co_return (co_await ask_tracker(node, Confirm{})).listed; }

Task<LocateAnswer> locate(Node& node, std::string pattern) {
  unwrap(check_pattern(pattern));
  auto elsewhere = co_await find_without_tracker(node, pattern);
  Question question;
  if (elsewhere)
    question.entries = std::move(elsewhere->entries);
  else
    question = co_await ask_tracker(node, Locate{0, std::move(pattern)});
  for (const LocatedEntry& entry : question.entries)
    if (const auto sound = check_entry(entry.entry); !sound) leave_out(node, sound.error());
  const auto latency = [&node](const std::string& id) -> std::optional<Nanoseconds> {
    const auto known = node.by_id.find(id);
    const auto round_trip = known == node.by_id.end() ? std::nullopt : node.remotes.at(known->second)->rate.round_trip();
    return round_trip ? std::optional(*round_trip / 2) : std::nullopt;
  };
  const auto rate = [&node](const std::string& id) { return measured_rate(node, id); };
  LocateAnswer answer = co_await weigh(node.world, {node.options, party_of(node), latency, rate}, std::move(question));
  if (elsewhere) answer.via_overlay = elsewhere->outcome;
  co_return answer;
}

double measured_rate(const Node& node, const std::string& id) {
  const auto known = node.by_id.find(id);
  if (known != node.by_id.end()) {
    const Remote& remote = *node.remotes.at(known->second);
    if (remote.bytes_received >= kChunkSize && remote.rate.rate() > 0) return remote.rate.rate();  // less tells the latency
  }
  const auto before = node.rates.find(id);
  return before == node.rates.end() ? 0 : before->second;
}

namespace {

/// The ways of somebody who knows nobody yet.
Ways unknown_ways(const PeerOptions& options, bool knows_loads) {
  const auto no_latency = [](const std::string&) { return std::optional<Nanoseconds>(); };
  const auto no_rate = [](const std::string&) { return 0.0; };
  return {options, {options.id, options.listen}, no_latency, no_rate, knows_loads};
}

/// The answer to one question on a connection that does not register.
Task<Question> take_located(Link& link) {
  Question question;
  while (!question.is_answered) take_answer(question, co_await step(receive<Located>(link, kTrackerPatience)), link);
  static_cast<void>(co_await send(link, Leave{}));
  link.close();
  co_return question;
}

}  // namespace

Task<std::vector<LocatedFile>> weigh_findings(World& world, const PeerOptions& options, std::vector<Finding> findings, bool is_for_one) {
  const Ways ways = unknown_ways(options, false);
  std::vector<LocatedFile> to_measure;
  std::vector<LocatedFile> files;
  for (Finding& finding : findings) {
    if (!check_entry(finding.entry)) continue;
    std::vector<Holder> holders;
    for (const RosterEntry& holder : finding.holders) holders.push_back({holder.peer, holder.id, holder.host, holder.port, 0});
    const bool is_choice = holders.size() > 1 && is_for_one;
    (is_choice ? to_measure : files).push_back(file_of(ways, std::move(finding.entry), holders));
  }
  co_await measure_rest(world, ways, to_measure);
  for (LocatedFile& file : to_measure) order_sources(file);
  std::ranges::move(to_measure, std::back_inserter(files));
  co_return files;
}

Task<Result<LocateAnswer>> locate_files(World& world, PeerOptions options, std::string pattern) {
  try {
    unwrap(check_pattern(pattern));
    const auto link = co_await reach_tracker(world, options, Locate{1, std::move(pattern)});
    Question question = co_await take_located(*link);
    co_return co_await weigh(world, unknown_ways(options, true), std::move(question));
  } catch (const StepFailed& failed) {
    co_return Failure(failed.error());
  }
}

}  // namespace shoal
