module;

#include <fmt/core.h>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <limits>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

module shoal.tracker;

import :clock;
import :overlay;

namespace asio = boost::asio;
using namespace std::chrono_literals;

namespace shoal {
namespace {

constexpr Nanoseconds kGreetingPatience = 10s;    // for a stranger
constexpr Nanoseconds kIdlePatience = 15s;        // for a peer, which pings every few seconds
constexpr Nanoseconds kRefusalLinger = 1s;        // for a refusal to get through before the connection closes
constexpr Nanoseconds kFarewellPatience = 2s;     // for peers to hear that the swarm is over
constexpr std::size_t kNewsBytes = 256 * 1024;    // gathered at a time for one peer
constexpr std::size_t kMostSessions = 40'000;     // two of each peer, where it is in the overlay
constexpr std::size_t kMostQuestions = 16;        // of one peer, that are being answered
constexpr std::size_t kLocatedBytes = 48 * 1024;  // in one message
constexpr Nanoseconds kBreath = 5ms;              // for a reader that is ahead of the state
constexpr Nanoseconds kConnectBackEvery = 1s;     // at most; of one peer
constexpr Nanoseconds kSignOfLife = 1500ms;       // for a member whose name another asks for to answer
constexpr Nanoseconds kLookAgain = 10ms;          // whether it has

/// One connection. Its members belong to the strand of its link; `peer` is set before others learn of it.
struct Session {
  Session(std::shared_ptr<Link> l, std::uint64_t n) : link(std::move(l)), number(n), seen(link->remote().host, link->local().host) {}

  std::shared_ptr<Link> link;
  std::uint64_t number;
  const Vantage seen;
  Outbox outbox;
  std::optional<PeerId> peer;
  std::string id;
  std::uint64_t revision = 0;             ///< The news that it was sent.
  std::optional<std::uint64_t> begun_at;  ///< The revision of the catalogue that it was last sent whole.
  bool has_left = false;
  bool is_told_the_end = false;
  bool is_over = false;               ///< The reader has ended; the writer is to end, too.
  std::atomic<bool> is_down{false};   ///< It did not answer. Any thread.
  std::atomic<bool> is_asked{false};  ///< For a sign of life, which has not come. Any thread.
  std::size_t locating = 0;           ///< Questions that are being answered.
  Instant last_connect_back;          ///< When others were last told to connect to it.
};

using SessionPtr = std::shared_ptr<Session>;

/// The state of a running tracker; `registry` and `sessions` belong to `strand`.
struct Tracker {
  Tracker(World& w, Report& r, TrackerOptions o)
      : world(w),
        report(r),
        options(std::move(o)),
        strand(make_strand(w)),
        kept(w, std::make_unique<Registry>(Registry::Options{options.expect, options.grace, w.random() | 1, options.state != nullptr})),
        registry(*kept),
        keeper(w, r, registry, options.state),
        clock_board(w, r, options.records, registry.epoch(), [this] { return clock(); }),
        overlay_board(w, r, options.keeps_topology ? options.records : nullptr, strand, [this] { return clock(); }),
        tasks([this](const std::string& name, const Error& error) { on_failure(name, error); }),
        locator(w, registry, tasks, strand, [this](PeerId peer, Message message) { return send(peer, std::move(message)); }) {}

  /// To a member, if it has a session. On the strand.
  bool send(PeerId peer, Message message);

  static constexpr Instant::rep kNoClock = std::numeric_limits<Instant::rep>::min();

  /// The swarm clock, from any thread.
  Nanoseconds clock() const {
    const Instant::rep zero = clock_zero.load(std::memory_order_relaxed);
    return zero == kNoClock ? Nanoseconds::zero() : world.now().time_since_epoch() - Nanoseconds(zero);
  }

  void on_failure(const std::string& name, const Error& error) {
    report.debug_now_and_then(fmt::format("a task ended: {}", error.code.message()), fmt::format("{}: {}", name, error.message()));
  }

  World& world;
  Report& report;
  TrackerOptions options;
  Executor strand;
  RunState<Registry> kept;
  Registry& registry;
  StateKeeper keeper;
  std::map<PeerId, SessionPtr> by_peer;
  std::map<std::uint64_t, SessionPtr> sessions;
  std::set<std::uint64_t> member_sessions;                                ///< Those of registered peers.
  std::map<PeerId, std::pair<std::uint64_t, std::uint32_t>> completions;  ///< Bytes and failed files, as told last.
  std::atomic<Instant::rep> clock_zero{kNoClock};                         ///< When the swarm clock was 0; any thread.
  std::uint64_t next_session = 1;
  ClockBoard clock_board;  ///< Any thread.
  OverlayBoard overlay_board;
  Signal over;
  TaskGroup tasks;
  Locator locator;
};

bool Tracker::send(PeerId peer, Message message) {
  const auto known = by_peer.find(peer);
  if (known == by_peer.end()) return false;
  asio::post(known->second->link->executor(),
             [session = known->second, message = std::move(message)]() mutable { session->outbox.push(std::move(message)); });
  return true;
}

/// Runs `f` on the tracker's strand, where the registry may be touched.
template <class F>
auto in_registry(Tracker& tracker, F f) {
  return call_on(tracker.strand, std::move(f));
}

/// Lets the sessions look for news that there is some for. On the tracker's strand.
void wake_concerned(Tracker& tracker) {
  const auto wake = [](const SessionPtr& session) { asio::post(session->link->executor(), [session] { session->outbox.wake(); }); };
  auto concerned = tracker.registry.take_concerned();
  if (concerned.all) {
    for (const auto& [number, session] : tracker.sessions) wake(session);
  } else {
    std::ranges::sort(concerned.sessions);
    const auto same = std::ranges::unique(concerned.sessions);
    concerned.sessions.erase(same.begin(), same.end());
    for (const auto number : concerned.sessions)
      if (const auto session = tracker.sessions.find(number); session != tracker.sessions.end()) wake(session->second);
  }
  if (tracker.registry.outcome()) tracker.over.notify();
}

// ---- what goes out ------------------------------------------------------------------------------------

struct Outgoing {
  std::vector<Message> messages;
  std::uint64_t revision = 0;
  std::optional<std::uint64_t> begun_at;  ///< The revision of the catalogue that is whole with this.
  bool ends = false;
};

/// What the registry has for a member. On the tracker's strand.
Outgoing gather(const Registry& registry, PeerId peer, std::uint64_t revision, std::optional<std::uint64_t> begun_at,
                bool is_told_the_end) {
  Outgoing out;
  out.revision = revision;
  auto news = registry.news_for(peer, revision, kNewsBytes);
  if (news) {
    out.messages = std::move(news->messages);
    out.revision = news->revision;
  }
  const bool is_under_way = registry.expect() == 0 || registry.has_begun();
  const bool is_all = !news || news->revision == registry.revision();
  if (is_under_way && is_all && begun_at != registry.catalogue_revision()) {
    out.begun_at = registry.catalogue_revision();
    out.messages.emplace_back(Begin{*out.begun_at, static_cast<std::uint32_t>(registry.here())});
  }
  if (registry.outcome() && !is_told_the_end) {
    out.ends = true;
    out.messages.emplace_back(*registry.outcome());
  }
  return out;
}

/// Answers first, then news, until the connection ends.
Task<> write_all(Tracker& tracker, SessionPtr session) {
  while (!session->is_over) {
    if (auto answers = session->outbox.take_now(kControlLimit); !answers.empty()) {
      co_await step(session->link->send(std::move(answers)));
      continue;
    }
    Outgoing out;
    if (session->peer) {
      out = co_await in_registry(tracker,
                                 [&tracker, peer = *session->peer, revision = session->revision, begun_at = session->begun_at,
                                  told = session->is_told_the_end] { return gather(tracker.registry, peer, revision, begun_at, told); });
    }
    if (out.messages.empty()) {
      co_await session->outbox.wait_for_work();
      continue;
    }
    session->revision = out.revision;
    session->is_told_the_end |= out.ends;
    if (out.begun_at) session->begun_at = out.begun_at;
    co_await step(session->link->send(std::move(out.messages)));
  }
}

/// The one writer of a connection. Where it fails, the reader learns so by itself, unless it waits for room.
Task<> write_to(Tracker& tracker, SessionPtr session) {
  try {
    co_await write_all(tracker, session);
  } catch (const StepFailed&) {
    session->outbox.close();
    throw;
  }
}

// ---- what comes in ------------------------------------------------------------------------------------

/// Answers a query in pieces, as fast as the peer takes them.
Task<> answer_find(Tracker& tracker, SessionPtr session, Find find) {
  for (std::optional<Registry::Cursor> from = Registry::Cursor{}; from;) {
    co_await session->outbox.wait_for_room();
    auto messages = co_await in_registry(tracker, [&] {
      auto listing = tracker.registry.find(find.pattern, *from, kControlLimit / 2);
      from = listing.next;
      auto out = split_roster(tracker.registry.roster(listing.entries, session->seen));
      out.emplace_back(Found{find.query, !listing.next, std::move(listing.entries)});
      return out;
    });
    for (auto& message : messages) session->outbox.push(std::move(message));
  }
}

Task<> answer_introduce(Tracker& tracker, SessionPtr session, Introduce introduce) {
  auto messages = co_await in_registry(tracker, [&] {
    auto known = tracker.registry.introduce(*session->peer, introduce.others);
    wake_concerned(tracker);
    return known ? split_roster(std::move(*known)) : std::vector<Message>();
  });
  for (auto& message : messages) session->outbox.push(std::move(message));
  session->outbox.push(Introduced{introduce.others});
}

/// In as few messages as it takes.
std::vector<Message> split_located(std::uint32_t query, Locator::Page page) {
  const Located blank{query, false, 0, 0, {}, {}};
  auto parts = split(
      std::move(page.entries), &Located::entries, [](const LocatedEntry& entry) { return encoded_size(entry); }, blank, kLocatedBytes);
  if (parts.empty()) parts.push_back(blank);
  parts.front().asked = page.asked;
  parts.front().silent = page.silent;
  parts.front().missing = std::move(page.missing);
  parts.back().is_last = !page.next;
  return to_messages(std::move(parts));
}

/// Who did not answer is heard of again with its next message.
void mark_silent(Tracker& tracker) {
  for (const auto& [peer, session] : tracker.by_peer)
    if (tracker.registry.is_down(peer)) session->is_down = true;
}

/// One page of an answer. On the tracker's strand.
Task<Locator::Page> locate_page(Tracker& tracker, std::string pattern, Registry::Cursor from, Vantage reader) {
  auto page = co_await tracker.locator.locate(std::move(pattern), std::move(from), std::move(reader));
  if (page.silent > 0) mark_silent(tracker);
  co_return page;
}

/// Answers a question in pieces. It is a task of its own, for the peer that asks may have to be asked as well.
Task<> answer_locate(Tracker& tracker, SessionPtr session, Locate locate) {
  for (std::optional<Registry::Cursor> from = Registry::Cursor{}; from && !session->is_over;) {
    co_await session->outbox.wait_for_room();
    auto page = co_await asio::co_spawn(tracker.strand, locate_page(tracker, locate.pattern, *from, session->seen),
                                        asio::use_awaitable_t<Executor>{});
    from = page.next;
    for (Message& message : split_located(locate.query, std::move(page))) session->outbox.push(std::move(message));
  }
  --session->locating;
}

void begin_locate(Tracker& tracker, SessionPtr session, const Locate& locate) {
  if (++session->locating > kMostQuestions) throw StepFailed(Error{make_error_code(Errc::too_large), "too many questions at once", {}});
  tracker.tasks.spawn(session->link->executor(), "locating for " + session->id, answer_locate(tracker, session, locate));
}

/// A session as the overlay sees it.
OverlayBoard::Connection connection_of(const SessionPtr& session) {
  return {session->number, session->link, {session, &session->outbox}, session->seen};
}

/// Says that all is taken in, once it is kept.
Task<> answer_confirm(Tracker& tracker, SessionPtr session, Confirm confirm) {
  if (!session->peer) throw StepFailed(Error{make_error_code(Errc::out_of_order), "got confirm before a registration", {}});
  co_await asio::co_spawn(tracker.strand, tracker.keeper.settle(), asio::use_awaitable_t<Executor>{});
  session->outbox.push(co_await in_registry(
      tracker, [&] { return Confirmed{confirm.query, tracker.registry.offered_by(*session->peer), tracker.registry.revision()}; }));
}

/// Has those connect to the sender that it cannot connect to. Somebody can be made to connect somewhere by it, so it is done seldom.
Task<> pass_on(Tracker& tracker, SessionPtr session, ConnectBack wish) {
  if (wish.peers.size() > kMaxConnectBack || wish.host.size() > kMaxHost)
    throw StepFailed(Error{make_error_code(Errc::too_large), "a connect back", {}});
  const Instant now = tracker.world.now();
  if (session->last_connect_back != Instant{} && now - session->last_connect_back < kConnectBackEvery) co_return;
  session->last_connect_back = now;
  const Whereabouts sender{std::move(wish.host), wish.port, session->seen};
  co_await run_on(tracker.strand, [&] {
    for (const PeerId peer : wish.peers) {
      const Vantage* reader = peer == session->peer ? nullptr : tracker.registry.vantage_of(peer);
      Endpoint at = reader ? address_for(sender, *reader) : Endpoint{};
      if (at.port != 0) tracker.send(peer, ConnectTo{session->id, std::move(at.host), at.port});
    }
  });
}

/// Peers say that they are complete for each revision of the catalogue; an event says what is new in that.
void tell_of_completion(Tracker& tracker, PeerId peer, const Complete& complete) {
  const std::pair told(complete.bytes_fetched, complete.failed);
  const auto [before, is_first] = tracker.completions.try_emplace(peer, told);
  if (!is_first && std::exchange(before->second, told) == told) return;
  tracker.report.event("complete", {{"peer", std::string(tracker.registry.name_of_peer(peer))},
                                    {"bytes", complete.bytes_fetched},
                                    {"failed", std::uint64_t{complete.failed}}});
}

/// A message of a member for the registry. On the tracker's strand.
Result<> apply(Tracker& tracker, PeerId peer, const Message& message) {
  Registry& registry = tracker.registry;
  const Instant now = tracker.world.now();
  const bool had_begun = registry.has_begun();
  Result<> result;
  if (const auto* offer = std::get_if<Offer>(&message))
    result = registry.offer(peer, *offer, now);
  else if (const auto* names = std::get_if<Withdraw>(&message))
    result = registry.withdraw(peer, *names, now);
  else if (std::holds_alternative<OfferEnd>(message))
    result = registry.offer_end(peer, now);
  else if (const auto* progress = std::get_if<Progress>(&message))
    result = registry.progress(peer, *progress);
  else if (const auto* complete = std::get_if<Complete>(&message))
    result = registry.complete(peer, *complete, now);
  else
    result = fail(Errc::out_of_order, fmt::format("got {} from a peer", name_of(type_of(message))));
  if (const auto* complete = std::get_if<Complete>(&message); complete && result) tell_of_completion(tracker, peer, *complete);
  if (!had_begun && registry.has_begun()) tracker.report.event("begin", {{"peers", std::uint64_t{registry.summary().here}}});
  tracker.keeper.wake();
  wake_concerned(tracker);
  return result;
}

Task<> handle(Tracker& tracker, SessionPtr session, Message message) {
  session->is_asked = false;
  if (session->is_down.exchange(false)) co_await run_on(tracker.strand, [&] { tracker.registry.set_down(*session->peer, false); });
  if (const auto* ping = std::get_if<Ping>(&message)) {
    const auto clock = tracker.clock().count();
    session->outbox.push(Pong{ping->t1, clock, clock});
  } else if (const auto* find = std::get_if<Find>(&message)) {
    co_await answer_find(tracker, session, *find);
  } else if (const auto* introduce = std::get_if<Introduce>(&message); introduce && session->peer) {
    co_await answer_introduce(tracker, session, *introduce);
  } else if (const auto* locate = std::get_if<Locate>(&message)) {
    begin_locate(tracker, session, *locate);
  } else if (const auto* list = std::get_if<OverlayList>(&message)) {
    co_await tracker.overlay_board.list(connection_of(session), *list);
  } else if (auto* wish = std::get_if<ConnectBack>(&message)) {
    co_await pass_on(tracker, session, std::move(*wish));
  } else if (const auto* confirm = std::get_if<Confirm>(&message)) {
    co_await answer_confirm(tracker, session, *confirm);
  } else if (const auto* reply = std::get_if<ProbeReply>(&message); reply && session->peer) {
    co_await run_on(tracker.strand, [&] { tracker.locator.on_reply(*session->peer, *reply); });
  } else if (std::holds_alternative<Leave>(message)) {
    session->has_left = true;
  } else if (session->peer) {
    unwrap(co_await in_registry(tracker, [&] { return apply(tracker, *session->peer, message); }));
  } else {
    throw StepFailed(
        Error{make_error_code(Errc::out_of_order), fmt::format("got {} before a registration", name_of(type_of(message))), {}});
  }
}

/// What the peer sent along with its hello is not read: closing at once would reset the connection, and the refusal may be lost with that.
Task<> refuse(World& world, SessionPtr session, RefusalReason reason, std::string text) {
  co_await session->link->send({Message(Refusal{reason, text})});
  co_await world.sleep(kRefusalLinger);
  throw StepFailed(Error{make_error_code(Errc::refused), std::move(text), {}});
}

/// Hello and Welcome. The writer is not there yet, so this sends by itself.
Task<Hello> greet(Tracker& tracker, SessionPtr session) {
  const Hello hello = co_await step(receive<Hello>(*session->link, kGreetingPatience));
  if (hello.magic != kMagic) throw StepFailed(Error{make_error_code(Errc::malformed), "not a shoal peer", {}});
  if (hello.version < kOldestVersion || hello.oldest > kProtocolVersion)
    co_await refuse(tracker.world, session, RefusalReason::version,
                    fmt::format("this tracker speaks protocol {} to {}", kOldestVersion, kProtocolVersion));
  if (hello.role != Role::peer_to_tracker)
    co_await refuse(tracker.world, session, RefusalReason::wrong_role, "this is a tracker, not a peer");
  if (auto named = check_peer_id(hello.id); !named)
    co_await refuse(tracker.world, session, RefusalReason::bad_register, named.error().message());
  session->id = hello.id;
  const auto version = std::min(hello.version, kProtocolVersion);
  co_await step(session->link->send({Message(Welcome{version, 0, "tracker", tracker.registry.epoch()})}));
  session->link->established();
  co_return hello;
}

struct Entry {
  tl::expected<Registry::Admission, Registry::Denial> admission;
  Registered registered;
  SessionPtr replaced;
};

/// Lets a peer in, or not. On the tracker's strand.
Entry enter(Tracker& tracker, const SessionPtr& session, const Hello& hello, const Register& request) {
  const Instant now = tracker.world.now();
  Entry entry{tracker.registry.admit(hello, request, session->seen, session->number, now), {}, nullptr};
  if (!entry.admission) return entry;
  const Nanoseconds clock = tracker.registry.clock(now);
  tracker.clock_zero = (now - clock).time_since_epoch().count();
  tracker.member_sessions.insert(session->number);
  tracker.by_peer[entry.admission->peer] = session;
  entry.registered = {entry.admission->peer, tracker.registry.epoch(), clock.count(), tracker.registry.expect(), session->seen.remote};
  if (entry.admission->replaced_session)
    if (const auto old = tracker.sessions.find(*entry.admission->replaced_session); old != tracker.sessions.end())
      entry.replaced = old->second;
  const Endpoint address{std::string(Whereabouts{request.host, request.port, session->seen}.plain_host()), request.port};
  tracker.report.event("registered", {{"peer", hello.id}, {"address", to_string(address)}});
  tracker.keeper.wake();
  wake_concerned(tracker);
  return entry;
}

/// The session of a member; null where there is none. On the tracker's strand.
SessionPtr session_of(const Tracker& tracker, PeerId peer) {
  const auto found = tracker.by_peer.find(peer);
  return found == tracker.by_peer.end() ? nullptr : found->second;
}

/// Waits until the member of this name shows that it is here, or turns out to be gone. A machine that lost its power, and is back, rejects
/// what comes over connections that it does not know any more, but only once something does: until then it would keep itself out.
Task<> wait_for_sign_of_life(Tracker& tracker, std::string id) {
  const std::optional<PeerId> peer = tracker.registry.peer_named(id);
  const SessionPtr member = peer ? session_of(tracker, *peer) : nullptr;
  if (!member || member->is_asked.exchange(true)) co_return;  // one question at a time
  asio::post(member->link->executor(), [member] { member->outbox.push(Probe{}); });
  const Instant deadline = tracker.world.now() + kSignOfLife;
  while (member->is_asked && session_of(tracker, *peer) == member && tracker.world.now() < deadline)
    co_await tracker.world.sleep(kLookAgain);
  member->is_asked = false;
}

/// Lets a peer in, unless another of its name is here, or something else is in its way.
Task<Entry> enter_or_replace(Tracker& tracker, SessionPtr session, Hello hello, Register request) {
  Entry entry = co_await in_registry(tracker, [&] { return enter(tracker, session, hello, request); });
  if (entry.admission || entry.admission.error().reason != RefusalReason::id_in_use) co_return entry;
  co_await asio::co_spawn(tracker.strand, wait_for_sign_of_life(tracker, hello.id), asio::use_awaitable_t<Executor>{});
  co_return co_await in_registry(tracker, [&] { return enter(tracker, session, hello, request); });
}

/// A connection for timestamps, to its end.
Task<> serve_clock_peer(Tracker& tracker, SessionPtr session, Hello hello, ClockJoin join) {
  co_await run_on(tracker.strand, [&] {
    const Instant now = tracker.world.now();
    tracker.registry.begin_clock(join.last_epoch, join.last_clock_ns, now);
    tracker.clock_zero = (now - tracker.registry.clock(now)).time_since_epoch().count();
  });
  co_await tracker.clock_board.serve(session->link, std::move(hello), std::move(join));
  session->has_left = true;
}

/// A node of the overlay, to the end of its connection.
Task<> serve_node(Tracker& tracker, SessionPtr session, Hello hello, OverlayJoin join) {
  if (tracker.options.expect != 0) {  // which a peer cannot know before it asks: no failure
    session->outbox.push(Refusal{RefusalReason::bad_register, "a closed swarm has no overlay"});
    co_await tracker.world.sleep(kRefusalLinger);
    session->has_left = true;
    co_return;
  }
  if (auto checked = check_join(join); !checked)
    co_await refuse(tracker.world, session, RefusalReason::bad_register, checked.error().message());
  co_await tracker.overlay_board.serve(connection_of(session), std::move(hello), std::move(join));
  session->has_left = true;
}

/// The first message after the greeting: a registration, timestamps, a place in the overlay, or a query that goes on without any.
Task<> register_peer(Tracker& tracker, SessionPtr session, Hello hello) {
  const Incoming incoming = co_await step(session->link->receive(kIdlePatience));
  const auto* first = std::get_if<Message>(&incoming);
  if (!first) throw StepFailed(Error{make_error_code(Errc::out_of_order), "got a chunk from a peer", {}});
  if (const auto* join = std::get_if<ClockJoin>(first)) co_return co_await serve_clock_peer(tracker, session, std::move(hello), *join);
  if (const auto* join = std::get_if<OverlayJoin>(first)) co_return co_await serve_node(tracker, session, std::move(hello), *join);
  const auto* request = std::get_if<Register>(first);
  if (!request) co_return co_await handle(tracker, session, *first);
  Entry entry = co_await enter_or_replace(tracker, session, hello, *request);
  if (entry.replaced) asio::post(entry.replaced->link->executor(), [old = entry.replaced] { old->link->close(); });
  if (!entry.admission) {
    const Registry::Denial& denial = entry.admission.error();
    session->outbox.push(Refusal{denial.reason, denial.what + "; " + denial.advice});
    session->outbox.wake();
    co_await tracker.world.sleep(kRefusalLinger);
    throw StepFailed(entry.admission.error());
  }
  tracker.report.note(fmt::format("{} {}", hello.id, entry.admission->has_returned ? "is back" : "registered"));
  session->outbox.push(entry.registered);
  session->peer = entry.admission->peer;
}

Task<> read_from(Tracker& tracker, SessionPtr session) {
  while (!session->has_left) {
    co_await session->outbox.wait_for_room();
    while (tracker.keeper.is_behind()) co_await tracker.world.sleep(kBreath);
    Incoming incoming = co_await step(session->link->receive(kIdlePatience));
    if (!std::holds_alternative<Message>(incoming))
      throw StepFailed(Error{make_error_code(Errc::out_of_order), "got a chunk from a peer", {}});
    co_await handle(tracker, session, std::get<Message>(std::move(incoming)));
  }
}

/// Forgets the session, and tells everyone where it was a member's. On the session's strand.
Task<> part(Tracker& tracker, SessionPtr session) {
  session->is_over = true;
  session->link->close();
  session->outbox.wake();
  co_await run_on(tracker.strand, [&] {
    tracker.sessions.erase(session->number);
    tracker.member_sessions.erase(session->number);
    if (!session->peer) return;
    tracker.completions.erase(*session->peer);
    if (const auto known = tracker.by_peer.find(*session->peer); known != tracker.by_peer.end() && known->second == session) {
      tracker.by_peer.erase(known);
      tracker.locator.on_gone(*session->peer);
    }
    tracker.registry.gone(*session->peer, session->number, session->has_left, tracker.world.now());
    tracker.report.event("left", {{"peer", session->id}, {"clean", session->has_left}});
    tracker.keeper.wake();
    wake_concerned(tracker);
  });
}

/// The same of somebody who is no member: anybody can be that, any number of times.
void log_end_of_stranger(Report& report, const std::string& who, const Error& error, bool is_over) {
  const std::string why = error.code.message();
  report.detail_now_and_then(why, "session_end", {{"peer", who}, {"why", error.message()}});
  if (is_over || error.code == make_error_code(Errc::closed))
    report.debug_now_and_then("connection closed", fmt::format("peer {}: connection closed", who));
  else if (error.code == std::errc::connection_reset)
    report.note_now_and_then("connection closed", fmt::format("peer {}: connection was forcibly closed", who));
  else
    report.warn_now_and_then(fmt::format("connection dropped: {}", why), fmt::format("peer {}: {}", who, error.message()));
}

/// Why a session ended, unless it ended in good order.
void log_end(Tracker& tracker, const Session& session, const Error& error) {
  const std::string who = session.id.empty() ? to_string(session.link->remote()) : session.id;
  if (!session.peer) return log_end_of_stranger(tracker.report, who, error, tracker.registry.outcome().has_value());
  tracker.report.detail("session_end", {{"peer", who}, {"why", error.message()}});
  if (tracker.registry.outcome() || error.code == make_error_code(Errc::closed)) {
    tracker.report.debug(fmt::format("peer {}: connection closed", who));
    return;
  }
  if (error.code == std::errc::connection_reset)
    tracker.report.note(fmt::format("peer {}: connection was forcibly closed", who));
  else
    tracker.report.warn(fmt::format("peer {}: {}", who, error.message()));
}

Task<> serve(Tracker& tracker, SessionPtr session) {
  std::optional<Error> failure;
  try {
    const Hello hello = co_await greet(tracker, session);
    tracker.tasks.spawn(session->link->executor(), "writer of " + session->id, write_to(tracker, session));
    co_await register_peer(tracker, session, hello);
    co_await read_from(tracker, session);
  } catch (const StepFailed& failed) {
    failure = failed.error();
  }
  if (failure) co_await run_on(tracker.strand, [&] { log_end(tracker, *session, *failure); });
  co_await part(tracker, session);
}

Task<> accept_peers(Tracker& tracker, std::shared_ptr<Listener> listener) {
  for (;;) {
    const Executor strand = make_strand(tracker.world);
    auto accepted = co_await listener->accept(strand);
    if (!accepted && accepted.error().code == make_error_code(Errc::closed)) co_return;  // by us
    std::shared_ptr<Link> link = unwrap(std::move(accepted));
    if (tracker.sessions.size() >= kMostSessions) continue;  // closes it
    auto session = std::make_shared<Session>(std::move(link), tracker.next_session++);
    tracker.sessions.emplace(session->number, session);
    tracker.tasks.spawn(strand, fmt::format("session {}", session->number), serve(tracker, session));
  }
}

/// Once a second: gives up who is gone for too long, introduces those that know few, and shows how far all are.
Task<> keep_house(Tracker& tracker) {
  for (;;) {
    co_await tracker.world.sleep(1s);
    tracker.registry.expire(tracker.world.now());
    tracker.registry.even_out();
    tracker.keeper.wake();
    wake_concerned(tracker);
    if (!tracker.report.wants_progress()) continue;
    const auto summary = tracker.registry.summary();
    if (summary.bytes_wanted == 0) continue;
    tracker.report.progress(
        {}, {fmt::format("{} of {} peers complete", summary.complete, summary.here), summary.bytes_have, summary.bytes_wanted, 0, 0});
  }
}

Task<> wait_for_stop(Tracker& tracker, Signal& stop, std::shared_ptr<bool> is_stopped) {
  co_await stop.wait();
  *is_stopped = true;
  tracker.over.notify();
}

/// Gives the peers time to hear the end and to leave.
Task<> say_farewell(Tracker& tracker) {
  const Instant deadline = tracker.world.now() + kFarewellPatience;
  while (!tracker.member_sessions.empty() && tracker.world.now() < deadline) co_await tracker.world.sleep(10ms);
}

ExitCode announce_outcome(Tracker& tracker, const SwarmComplete& outcome) {
  const auto seconds = Seconds(Nanoseconds(outcome.total_ns)).count();
  const auto peers = tracker.registry.summary().members;
  Fields fields{
      {"seconds", seconds}, {"bytes", outcome.bytes}, {"peers", std::uint64_t{peers}}, {"failed", std::uint64_t{outcome.failed.size()}}};
  tracker.report.end_progress();
  for (const auto& id : outcome.failed)
    tracker.report.warn(fmt::format("peer {}: did not get everything, or could not offer all that it has", id));
  const double percent = outcome.percent_of_bound_x100 / 100.0;
  if (percent > 0) fields.emplace_back("percent_of_bound", percent);
  tracker.report.event("swarm_complete", fields);
  const std::string bound = percent > 0 ? fmt::format(", {:.0f} % of the bound at the rates that were seen", percent) : std::string();
  tracker.report.print(fmt::format("total swarm time: {:.3f} s, {} peers, {} moved{}", seconds, peers, format_bytes(outcome.bytes), bound));
  return outcome.failed.empty() ? ExitCode::done : ExitCode::partial;
}

/// The end of a run. On the tracker's strand, where its sessions are.
Task<ExitCode> conclude(Tracker& tracker, std::shared_ptr<Listener> listener, std::shared_ptr<const bool> is_stopped) {
  co_await tracker.over.wait();
  ExitCode exit = ExitCode::interrupted;
  if (!*is_stopped && tracker.registry.outcome()) {
    exit = announce_outcome(tracker, *tracker.registry.outcome());
    co_await say_farewell(tracker);
  }
  tracker.overlay_board.freeze();
  listener->close();
  for (const auto& [number, session] : tracker.sessions) asio::post(session->link->executor(), [session] { session->link->close(); });
  co_return exit;
}

}  // namespace

Task<Result<ExitCode>> run_tracker(World& world, Report& report, TrackerOptions options, Signal& stop) {
  Tracker tracker(world, report, std::move(options));
  auto listening = world.listen(tracker.options.listen);
  if (!listening) co_return Failure(std::move(listening).error());
  const std::shared_ptr<Listener> listener = std::move(*listening);
  if (auto loaded = co_await asio::co_spawn(tracker.strand, tracker.keeper.load(), asio::use_awaitable_t<Executor>{}); !loaded)
    co_return Failure(std::move(loaded).error());
  co_await asio::co_spawn(tracker.strand, tracker.overlay_board.write(), asio::use_awaitable_t<Executor>{});
  const auto is_exact = [] { return 0.0; };  // it is the clock that others follow
  report.set_clock([&tracker] { return Seconds(tracker.clock()).count(); }, is_exact);
  report.print(fmt::format("tracker: listening on {}", to_string(listener->local())));
  report.event("listening", {{"address", to_string(listener->local())}});
  report.flush();
  tracker.clock_board.open_datagrams(listener->local(), tracker.tasks);
  const auto is_stopped = std::make_shared<bool>(false);  // whoever sets it may be the last to know of it
  tracker.tasks.spawn(tracker.strand, "accepting", accept_peers(tracker, listener));
  tracker.tasks.spawn(tracker.strand, "housekeeping", keep_house(tracker));
  tracker.tasks.spawn(tracker.strand, "the table of timestamps", tracker.clock_board.keep());
  tracker.tasks.spawn(tracker.strand, "the picture of the overlay", tracker.overlay_board.keep());
  tracker.tasks.spawn(tracker.strand, "keeping the state", tracker.keeper.keep_up());
  tracker.tasks.spawn(tracker.strand, "stop", wait_for_stop(tracker, stop, is_stopped));
  const ExitCode exit = co_await asio::co_spawn(tracker.strand, conclude(tracker, listener, is_stopped), asio::use_awaitable_t<Executor>{});
  tracker.tasks.cancel();
  co_await tracker.tasks.join();
  co_await asio::co_spawn(tracker.strand, tracker.keeper.finish(), asio::use_awaitable_t<Executor>{});
  co_await tracker.clock_board.finish();
  co_await asio::co_spawn(tracker.strand, tracker.overlay_board.write(), asio::use_awaitable_t<Executor>{});
  report.set_clock([end = Seconds(tracker.clock()).count()] { return end; }, is_exact);
  co_return exit;
}

}  // namespace shoal
