module;

#include <fmt/core.h>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <variant>
#include <vector>

module shoal.peer;

import :clock;
import :node;
import shoal.base;
import shoal.clock;
import shoal.manifest;
import shoal.report;
import shoal.wire;
import shoal.world;

using namespace std::chrono_literals;

namespace shoal {
namespace {

constexpr Nanoseconds kConnectPatience = 5s;
constexpr Nanoseconds kIdlePatience = 8s;
constexpr Nanoseconds kPingAfter = 2s;  // of silence
constexpr Nanoseconds kFirstBackoff = 100ms;
constexpr Nanoseconds kLongestBackoff = 1s;
constexpr Nanoseconds kAnswerPatience = 1s;  // for the answers to the last ticks
constexpr Nanoseconds kChoreEvery = 100ms;
constexpr Nanoseconds kGranule = 250us;  // ticks that are due within it share a wake-up
constexpr std::size_t kFewPeers = 16;
constexpr std::size_t kMostPending = 4 * kMiB;
constexpr Nanoseconds kProbeEvery = 1s;        // whether datagrams get through
constexpr Nanoseconds kDatagramPatience = 1s;  // without an answer to any, before they are given up
constexpr std::int64_t kDatagramsInVain = 3;   // and at least so many of them

// ---- ticks --------------------------------------------------------------------------------------------

void add_row(ClockPeerState& peer, const std::string& between, std::int64_t date_us) {
  if (peer.run.options.wait_sync || peer.has_table_failed) return;
  if (peer.table.pending() < kMostPending) return peer.table.add(between, date_us);
  peer.has_table_failed = true;
  peer.run.report.warn(fmt::format("peer {}: its table ends here: the disk is too slow for it", peer.id));
}

bool send_tick(ClockPeerState& peer, Tick tick) {
  if (!peer.link) return false;
  if (!peer.uses_datagrams) return say(peer, tick);
  tick.token = peer.token;
  const Datagram datagram{{}, tick};
  peer.datagrams->send(std::span(&datagram, 1));
  return true;
}

/// The tick that is due, if one is. It is sent, or it is missed.
void tick(ClockPeerState& peer, Instant now) {
  if (!peer.schedule || peer.has_ticked) return;
  const auto due = peer.schedule->take(now);
  if (!due) return;
  const Instant sent = peer.run.world.now();
  const std::int64_t date_us = peer.run.world.wall_clock_ns() / 1000;
  if (!send_tick(peer, {due->number, sent.time_since_epoch().count(), date_us})) return peer.schedule->miss();
  peer.record.on_sent(due->number, due->at, sent);
  add_row(peer, peer.to_tracker, date_us);
}

void on_tock(ClockPeerState& peer, const Tock& tock, std::int64_t received) {
  const Exchange exchange{tock.t1, tock.t2, tock.t3, received};
  if (peer.estimator.add(exchange) == ClockEstimator::Added::refused) return;
  const auto estimate = *peer.estimator.at(received);
  peer.record.on_answer(exchange, estimate, peer.run.zero_date - peer.zero_date_ns);
  if (peer.index == 0) peer.run.clock.sample(exchange);
  add_row(peer, peer.from_tracker, tock.date_us);
  if (!peer.run.options.wait_sync || estimate.bound > *peer.run.options.wait_sync) return;
  peer.is_in_sync = true;
  peer.has_ticked = true;
  peer.ticked.notify();
}

// ---- a session with the tracker -----------------------------------------------------------------------

ClockJoin joining(const ClockPeerState& peer) {
  const ClockOptions& options = peer.run.options;
  ClockJoin join;
  join.id = peer.id;
  join.host = peer.listener ? host_to_tell(peer.listener->local()) : std::string();
  join.port = peer.listener ? peer.listener->local().port : 0;
  join.is_recorded = !options.wait_sync;
  join.interval_ns = options.interval.count();
  join.duration_ns = options.duration.count();
  join.last_epoch = peer.epoch;
  const std::int64_t now = peer.run.world.now().time_since_epoch().count();
  if (const auto estimate = peer.estimator.at(now)) join.last_clock_ns = now - estimate->offset_ns;
  return join;
}

Task<ClockJoined> join_tracker(ClockPeerState& peer, Link& link) {
  Hello hello;
  hello.id = peer.id.empty() ? "clock" : peer.id;
  hello.instance = peer.instance;
  co_await step(send(link, std::move(hello)));
  co_await step(receive<Welcome>(link, kIdlePatience));
  link.established();
  co_await step(send(link, joining(peer)));
  ClockJoined joined = co_await step(receive<ClockJoined>(link, kIdlePatience));
  const auto id_is_one_part = joined.id.find('/') == std::string::npos && check_name(joined.id);
  if (!id_is_one_part) throw StepFailed(Error{make_error_code(Errc::unsafe_name), "the name that the tracker gave", {}});
  peer.id = joined.id;
  peer.zero_date_ns = joined.zero_date_ns;
  if (std::exchange(peer.epoch, joined.epoch) != joined.epoch) {
    peer.estimator.restart();
    if (peer.index == 0) peer.run.clock.restart();
  }
  co_return joined;
}

void on_joined(ClockPeerState& peer, const std::shared_ptr<Link>& link) {
  ClockRun& run = peer.run;
  peer.link = link;
  peer.to_tracker = TimeTable::between(link->local(), link->remote());
  peer.from_tracker = TimeTable::between(link->remote(), link->local());
  if (!peer.schedule) peer.schedule.emplace(run.first_tick(peer.index, run.world.now()), run.options.interval, run.options.duration);
  if (run.is_lost_told.exchange(false)) run.report.note(fmt::format("the tracker at {} is there", to_string(run.options.tracker)));
  run.report.event("clock_joined", {{"peer", peer.id}, {"tracker", to_string(run.options.tracker)}, {"epoch", peer.epoch}});
}

/// All that the tracker says, until the connection ends.
Task<> hear_tracker(ClockPeerState& peer, std::shared_ptr<Link> link) {
  std::vector<Incoming> incoming;
  for (;;) {
    co_await step(link->receive_all(incoming, kIdlePatience));
    const std::int64_t received = peer.run.world.now().time_since_epoch().count();
    for (const Incoming& each : incoming) {
      const auto* message = std::get_if<Message>(&each);
      if (const auto* tock = message ? std::get_if<Tock>(message) : nullptr)
        on_tock(peer, *tock, received);
      else if (const auto* list = message ? std::get_if<ClockPeers>(message) : nullptr)
        on_clock_list(peer, *list);
      else if (!message || !std::holds_alternative<Pong>(*message))
        throw StepFailed(unexpected_message(each, MessageType::tock));
    }
  }
}

/// What comes as datagrams, until the socket is closed.
Task<> hear_datagrams(ClockPeerState& peer, std::shared_ptr<DatagramSocket> socket) {
  std::vector<Datagram> incoming;
  while (co_await socket->receive(incoming)) {
    const Instant now = peer.run.world.now();
    for (const Datagram& datagram : incoming) {
      const auto* tock = std::get_if<Tock>(&datagram.message);
      if (!tock || peer.datagrams != socket) continue;
      peer.last_heard = now;
      if (tock->number == kProbeTick)
        peer.uses_datagrams = true;
      else if (peer.heard.take(tock->number))
        on_tock(peer, *tock, now.time_since_epoch().count());
    }
  }
}

void open_datagrams(ClockPeerState& peer, const ClockJoined& joined) {
  if (joined.datagram_port == 0) return;
  auto socket = peer.run.world.connect_datagrams({peer.link->remote().host, joined.datagram_port}, peer.strand);
  if (!socket) return peer.run.report.debug(socket.error().message());
  peer.datagrams = std::move(*socket);
  peer.token = joined.token;
  peer.run.tasks.spawn(peer.strand, "datagrams", hear_datagrams(peer, peer.datagrams));
  look_after_datagrams(peer, peer.run.world.now());
}

void close_datagrams(ClockPeerState& peer) {
  if (peer.datagrams) std::exchange(peer.datagrams, nullptr)->close();
  peer.uses_datagrams = false;
  peer.last_probe = {};
}

/// One connection, from greeting to end; says whether it had joined.
Task<bool> be_member(ClockPeerState& peer, std::shared_ptr<Link> link, Budget::Share share, Error& why) {
  bool has_joined = false;
  try {
    const ClockJoined joined = co_await join_tracker(peer, *link);
    share = {};
    has_joined = true;
    on_joined(peer, link);
    open_datagrams(peer, joined);
    co_await hear_tracker(peer, link);
  } catch (const StepFailed& failed) {
    why = failed.error();
  }
  if (peer.link == link) {
    peer.link.reset();
    close_datagrams(peer);
  }
  link->close();
  co_return has_joined;
}

/// Whether to go on trying; tells of it, once for all peers.
bool is_worth_trying(ClockPeerState& peer, bool was_there, Instant since, const Error& why) {
  ClockRun& run = peer.run;
  const std::string where = to_string(run.options.tracker);
  const bool is_sync_over = run.options.wait_sync && (was_there || run.world.now() - since >= run.options.duration);
  const bool is_too_late = !was_there && run.options.wait && run.world.now() - since >= *run.options.wait;
  if (is_refused_for_good(why) || (is_refusal(why) && !was_there)) {
    run.give_up(tracker_refuses(run.options.tracker, why));
    return false;
  }
  if (is_sync_over || is_too_late) {
    run.give_up(was_there ? Error{why.code, fmt::format("lost the tracker at {}", where), why.advice}
                          : no_tracker(run.options.tracker, why));
    return false;
  }
  if (run.is_lost_told.exchange(true)) return true;
  run.report.note(fmt::format("{} the tracker at {}: {}; trying again", was_there ? "lost" : "waiting for", where, reason_text(why)));
  run.report.event("waiting", {{"tracker", where}, {"why", reason_text(why)}});
  return true;
}

}  // namespace

bool say(ClockPeerState& peer, Message message) {
  if (!peer.link) return false;
  const auto said = peer.link->send_now(std::span(&message, 1));
  if (!said) peer.link->close();  // its reader takes it from here
  if (!said || !*said) return false;
  peer.last_said = peer.run.world.now();
  return true;
}

void look_after_datagrams(ClockPeerState& peer, Instant now) {
  if (!peer.link || !peer.datagrams) return;
  const Nanoseconds patience = std::max(kDatagramPatience, kDatagramsInVain * peer.run.options.interval);
  if (peer.uses_datagrams && now - peer.last_heard > patience) peer.uses_datagrams = false;
  if (peer.uses_datagrams || now - peer.last_probe < kProbeEvery) return;
  peer.last_probe = now;
  const Datagram probe{{}, Tick{kProbeTick, now.time_since_epoch().count(), 0, peer.token}};
  peer.datagrams->send(std::span(&probe, 1));
}

Task<> follow_clock_tracker(ClockPeerState& peer) {
  ClockRun& run = peer.run;
  Instant since = run.world.now();
  Nanoseconds backoff = kFirstBackoff;
  bool was_there = false;
  while (!peer.is_over) {
    Budget::Share share = co_await run.connections.take(1);
    auto link = co_await run.world.connect(run.options.tracker, peer.strand, kConnectPatience);
    Error why;
    if (!link) {
      why = link.error();
      share = {};
    } else if (co_await be_member(peer, std::move(*link), std::move(share), why)) {
      was_there = true;
      since = run.world.now();
      backoff = kFirstBackoff;
    }
    if (peer.is_over) co_return;
    if (!is_worth_trying(peer, was_there, since, why)) co_return;
    const auto jitter = Nanoseconds(run.world.random() % static_cast<std::uint64_t>(backoff.count() / 4 + 1));
    co_await run.world.sleep(backoff + jitter);
    backoff = std::min(backoff * 2, kLongestBackoff);
  }
}

// ---- the crew's work ----------------------------------------------------------------------------------

Task<> keep_ticking(ClockRun& run, Crew& crew) {
  const auto interval = run.options.interval;
  const auto granule = std::min(kGranule, interval / 20);
  std::int64_t round = 0;
  std::size_t place = 0;
  const auto due = [&] { return run.begin + interval * round + run.phase(crew.peers[place]->index); };
  for (;;) {
    const Instant now = run.world.now();
    if (now - due() >= TickSchedule::kMostLate) round += (now - due()) / interval;  // what is missed is not visited one by one
    while (due() <= now) {
      tick(*crew.peers[place], now);
      if (++place == crew.peers.size()) {
        place = 0;
        ++round;
      }
    }
    co_await run.world.sleep(std::max(due() - run.world.now(), granule));
  }
}

namespace {

/// Whether the last tick was answered, or nobody waits for that any more.
void look_at_end(ClockPeerState& peer, Instant now) {
  if (!peer.schedule || peer.has_ticked || now < peer.schedule->end()) return;
  const bool is_answered = peer.record.answered() >= peer.record.sent();
  if (peer.link && !is_answered && now < peer.schedule->end() + kAnswerPatience) return;
  peer.schedule->close();
  if (!peer.run.options.wait_sync) peer.table.close(peer.run.options.duration);
  peer.has_ticked = true;
  peer.ticked.notify();
}

/// Rows on their way to a file.
struct Writing {
  ClockPeerState* peer = nullptr;
  std::string rows;
  Result<> result;
};

/// On a worker.
void write_rows(ClockRun& run, std::vector<Writing>& writings) {
  for (auto& [peer, rows, result] : writings) {
    if (!peer->file) {
      auto file = run.records.create(TimeTable::file_of(peer->id));
      if (!file) {
        result = Failure(std::move(file).error());
        continue;
      }
      peer->file = std::move(*file);
    }
    result = peer->file->append(std::as_bytes(std::span(rows)));
  }
}

void on_table_failure(ClockPeerState& peer, const Error& error) {
  peer.has_table_failed = true;
  if (!peer.run.is_disk_failure_told.exchange(true)) {
    peer.run.report.warn(fmt::format("peer {}: its table ends here: {}", peer.id, error.message()));
    const std::lock_guard lock(peer.run.mutex);
    if (!peer.run.failure) peer.run.failure = error;
  }
}

/// Each table is written about once a second, and at once when it is whole; where there are few, ten times a second.
bool is_to_be_written(const ClockPeerState& peer, std::uint64_t chore, std::size_t peers) {
  if (peer.id.empty() || peer.has_table_failed || peer.table.pending() == 0) return false;
  return peer.has_ticked || peers <= kFewPeers || (chore + peer.index) % 10 == 0 || peer.table.pending() >= 64 * kKiB;
}

Task<> write_tables(ClockRun& run, Crew& crew, std::uint64_t chore) {
  std::vector<Writing> writings;
  for (ClockPeerState* peer : crew.peers)
    if (is_to_be_written(*peer, chore, crew.peers.size())) writings.push_back({peer, peer->table.take(), {}});
  if (!writings.empty()) co_await run_on(run.world.workers(), [&] { write_rows(run, writings); });
  for (const auto& [peer, rows, result] : writings)
    if (!result) on_table_failure(*peer, result.error());
  for (ClockPeerState* peer : crew.peers) {
    if (!peer->has_ticked || peer->is_table_whole || (!peer->has_table_failed && peer->table.pending() > 0)) continue;
    peer->is_table_whole = true;
    peer->written.notify();
  }
}

}  // namespace

Task<> keep_crew(ClockRun& run, Crew& crew) {
  for (std::uint64_t chore = 0;; ++chore) {
    co_await run.world.sleep(kChoreEvery);
    const Instant now = run.world.now();
    for (ClockPeerState* peer : crew.peers) {
      look_at_end(*peer, now);
      if (!peer->has_ticked) look_after_datagrams(*peer, now);
      if (peer->link && now - peer->last_said > kPingAfter) say(*peer, Ping{now.time_since_epoch().count()});
      if (peer->is_exchanging) look_after_exchange(*peer);
    }
    if (!run.options.wait_sync) co_await write_tables(run, crew, chore);
  }
}

}  // namespace shoal
