module;

#include <fmt/core.h>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/post.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <variant>
#include <vector>

module shoal.tracker;

import :clock;
import shoal.base;
import shoal.clock;
import shoal.report;
import shoal.wire;
import shoal.world;

namespace asio = boost::asio;
using namespace std::chrono_literals;

namespace shoal {
namespace {

constexpr Nanoseconds kIdlePatience = 15s;
constexpr Nanoseconds kRefusalLinger = 1s;
constexpr Nanoseconds kGrace = 10s;              // for a clock peer whose connection was lost
constexpr Nanoseconds kWriteEvery = 100ms;       // rows to the file
constexpr std::size_t kMostPending = 64 * kMiB;  // of rows that wait for the disk
constexpr int kDatagramSockets = 8;              // as each keeps only some hundred datagrams while the process is not on
constexpr const char* kTable = "serverTimeData.txt";
constexpr const char* kPrevious = "serverTimeData.previous.txt";

/// Why a peer may not join.
Result<> check_join(const ClockJoin& join) {
  if (!join.id.empty())
    if (auto named = check_peer_id(join.id); !named) return named;
  if (join.host.size() > kMaxHost) return fail(Errc::too_large, fmt::format("an address of {} bytes", join.host.size()));
  if (join.duration_ns < 0) return fail(Errc::malformed, "a duration below 0");
  return {};
}

}  // namespace

ClockBoard::ClockBoard(World& world, Report& report, std::shared_ptr<RecordFolder> records, std::uint64_t epoch,
                       std::function<Nanoseconds()> clock)
    : world_(world), report_(report), records_(std::move(records)), epoch_(epoch), clock_(std::move(clock)) {}

// ---- who is here --------------------------------------------------------------------------------------

/// The lowest number that nobody has. Under the lock.
std::string ClockBoard::free_number() const {
  for (std::size_t number = 0;; ++number)
    if (std::string id = std::to_string(number); !members_.contains(id)) return id;
}

/// The table that is being written, or a new one. Under the lock.
std::shared_ptr<ClockBoard::Run> ClockBoard::current_run(Nanoseconds asked_for) {
  if (!records_) return nullptr;
  if (runs_.empty() || runs_.back()->is_over) runs_.push_back(std::make_shared<Run>());
  runs_.back()->asked_for = std::max(runs_.back()->asked_for, asked_for);
  return runs_.back();
}

namespace {

Vantage vantage_of(const Link& link) { return {link.remote().host, link.local().host}; }

}  // namespace

Result<ClockBoard::SeatPtr> ClockBoard::admit(const std::shared_ptr<Link>& link, const Hello& hello, const ClockJoin& join) {
  if (auto checked = check_join(join); !checked) return Failure(std::move(checked).error());
  const std::lock_guard lock(mutex_);
  const auto seat = std::make_shared<Seat>();
  seat->id = join.id.empty() ? free_number() : join.id;
  seat->link = link;
  Member& member = members_[seat->id];
  if (member.is_here && member.instance != hello.instance)
    return fail(Errc::refused, fmt::format("a clock peer named '{}' is here already", seat->id), "choose another name with --id");
  if (member.is_here) asio::post(member.link->executor(), [old = member.link] { old->close(); });
  if (!member.is_here) ++here_;
  member = {hello.instance, link, {join.host, join.port, vantage_of(*link)}, true, {}};
  if (join.is_recorded) seat->run = current_run(Nanoseconds(join.duration_ns));
  seat->from_peer = TimeTable::between(link->remote(), link->local());
  seat->to_peer = TimeTable::between(link->local(), link->remote());
  if (datagram_port_ != 0) {
    seat->token = world_.random() | 1;
    seats_[seat->token] = seat;
  }
  if (!zero_date_) zero_date_ = world_.wall_clock_ns() - clock_().count();
  return seat;
}

/// The connection is over. One that was replaced changes nothing.
void ClockBoard::part(const Seat& seat, bool has_left) {
  {
    const std::lock_guard lock(mutex_);
    seats_.erase(seat.token);
    const auto found = members_.find(seat.id);
    if (found == members_.end() || found->second.link != seat.link) return;
    --here_;
    if (has_left) {
      members_.erase(found);
    } else {
      found->second.is_here = false;
      found->second.gone_since = world_.now();
      found->second.link.reset();
    }
  }
  report_.event("clock_left", {{"peer", seat.id}, {"clean", has_left}});
  expire();
}

/// When nobody is here, and nobody is waited for, all are forgotten and the table is over.
void ClockBoard::expire() {
  const Instant now = world_.now();
  const std::lock_guard lock(mutex_);
  if (here_ > 0) return;
  for (const auto& [id, member] : members_)
    if (now - member.gone_since < kGrace) return;
  members_.clear();
  if (runs_.empty() || runs_.back()->is_over) return;
  runs_.back()->table.close(runs_.back()->asked_for);
  runs_.back()->is_over = true;
}

void ClockBoard::list(std::uint32_t query, const Vantage& reader, std::vector<Message>& answers) const {
  std::vector<ClockPeer> peers;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, member] : members_) {
      if (member.where.port == 0) continue;
      Endpoint at = address_for(member.where, reader);
      peers.push_back({id, std::move(at.host), at.port, member.is_here});
    }
  }
  const ClockPeers blank{query, false, {}};
  auto parts = split(std::move(peers), &ClockPeers::peers, [](const ClockPeer& peer) { return encoded_size(peer); }, blank);
  if (parts.empty()) parts.push_back(blank);
  parts.back().is_last = true;
  for (ClockPeers& part : parts) answers.emplace_back(std::move(part));
}

// ---- ticks --------------------------------------------------------------------------------------------

void ClockBoard::record(std::span<const Answered> ticks, std::int64_t answered_us) {
  if (ticks.empty()) return;
  const std::lock_guard lock(mutex_);
  for (const auto& [seat, date_us] : ticks) {
    if (!seat->run || seat->run->is_over || seat->run->has_failed) continue;
    TimeTable& table = seat->run->table;
    if (table.pending() > kMostPending) {
      seat->run->is_dropping = true;
      continue;
    }
    table.add(seat->from_peer, date_us);
    table.add(seat->to_peer, answered_us);
  }
}

/// Answers all that comes, until the peer leaves. Ticks that are there together share a write.
Task<> ClockBoard::answer(SeatPtr seat) {
  std::vector<Incoming> incoming;
  std::vector<Message> answers;
  std::vector<Answered> ticks;
  for (;;) {
    co_await step(seat->link->receive_all(incoming, kIdlePatience));
    const std::int64_t received = clock_().count();
    const std::int64_t date_us = world_.wall_clock_ns() / 1000;
    answers.clear();
    ticks.clear();
    bool has_left = false;
    for (const Incoming& each : incoming) {
      const auto* message = std::get_if<Message>(&each);
      if (const auto* tick = message ? std::get_if<Tick>(message) : nullptr) {
        answers.emplace_back(Tock{tick->number, tick->t1, received, 0, date_us});
        ticks.push_back({seat, tick->date_us});
      } else if (const auto* ping = message ? std::get_if<Ping>(message) : nullptr) {
        answers.emplace_back(Pong{ping->t1, received, received});
      } else if (const auto* query = message ? std::get_if<ClockList>(message) : nullptr) {
        list(query->query, vantage_of(*seat->link), answers);
      } else if (message && std::holds_alternative<Leave>(*message)) {
        has_left = true;
      } else {
        throw StepFailed(unexpected_message(each, MessageType::tick));
      }
    }
    const std::int64_t answered = clock_().count();
    for (Message& message : answers)
      if (auto* tock = std::get_if<Tock>(&message)) tock->t3 = answered;
    if (!answers.empty() && !unwrap(seat->link->send_now(answers))) co_await step(seat->link->send(std::move(answers)));
    record(ticks, date_us);
    if (has_left) co_return;
  }
}

// ---- ticks that come as datagrams ---------------------------------------------------------------------

void ClockBoard::open_datagrams(const Endpoint& at, TaskGroup& tasks) {
  for (int i = 0; i < kDatagramSockets; ++i) {
    const Executor strand = make_strand(world_);
    auto socket = world_.open_datagrams(at, strand);
    if (!socket && datagram_port_ == 0) return report_.debug(socket.error().message());
    if (!socket) return;  // this system shares no ports
    datagram_port_ = at.port;
    tasks.spawn(strand, "ticks by datagrams", answer_datagrams(std::move(*socket)));
  }
}

/// Whose it is; null where that is nobody's, or it came before. Under the lock.
ClockBoard::SeatPtr ClockBoard::seat_of(const Tick& tick) {
  const auto found = seats_.find(tick.token);
  if (found == seats_.end()) return nullptr;
  if (tick.number != kProbeTick && !found->second->ticks.take(tick.number)) return nullptr;
  return found->second;
}

Task<> ClockBoard::answer_datagrams(std::shared_ptr<DatagramSocket> socket) {
  std::vector<Datagram> incoming;
  std::vector<Datagram> answers;
  std::vector<Answered> ticks;
  for (;;) {
    co_await step(socket->receive(incoming));
    const std::int64_t received = clock_().count();
    const std::int64_t date_us = world_.wall_clock_ns() / 1000;
    answers.clear();
    ticks.clear();
    {
      const std::lock_guard lock(mutex_);
      for (const Datagram& datagram : incoming) {
        const auto* tick = std::get_if<Tick>(&datagram.message);
        SeatPtr seat = tick ? seat_of(*tick) : nullptr;
        if (!seat) continue;
        answers.push_back({datagram.peer, Tock{tick->number, tick->t1, received, 0, date_us}});
        if (tick->number != kProbeTick) ticks.push_back({std::move(seat), tick->date_us});
      }
    }
    const std::int64_t answered = clock_().count();
    for (Datagram& answer : answers) std::get<Tock>(answer.message).t3 = answered;
    socket->send(answers);
    record(ticks, date_us);
  }
}

Task<> ClockBoard::serve(std::shared_ptr<Link> link, Hello hello, ClockJoin join) {
  auto admitted = admit(link, hello, join);
  if (!admitted) {
    const bool is_taken = admitted.error().code == make_error_code(Errc::refused);
    const auto reason = is_taken ? RefusalReason::id_in_use : RefusalReason::bad_register;
    co_await link->send({Message(Refusal{reason, admitted.error().message()})});
    co_await world_.sleep(kRefusalLinger);
    throw StepFailed(std::move(admitted).error());
  }
  joined_.notify();
  const Seat& seat = **admitted;
  bool has_left = false;
  std::optional<Error> failure;
  try {
    report_.event("clock_joined", {{"peer", seat.id}, {"address", to_string(link->remote())}});
    co_await step(send(*link, ClockJoined{seat.id, epoch_, clock_().count(), *zero_date_, datagram_port_, seat.token}));
    co_await answer(*admitted);
    has_left = true;
  } catch (const StepFailed& failed) {
    failure = failed.error();
  } catch (...) {  // it was cancelled
    part(seat, false);
    throw;
  }
  part(seat, has_left);
  if (failure) throw StepFailed(std::move(*failure));
}

// ---- the file -----------------------------------------------------------------------------------------

/// On a worker.
Result<> ClockBoard::write(Run& run, const std::string& rows) {
  if (!run.file) {
    const auto moved = records_->rename(kTable, kPrevious);
    if (!moved && moved.error().code != std::errc::no_such_file_or_directory) return moved;
    auto file = records_->create(kTable);
    if (!file) return Failure(std::move(file).error());
    run.file = std::move(*file);
  }
  return run.file->append(std::as_bytes(std::span(rows)));
}

/// Writes the rows that wait. Returns whether there is anything left to do.
Task<bool> ClockBoard::flush() {
  for (;;) {
    std::shared_ptr<Run> run;
    std::string rows;
    bool is_over = false;
    bool is_dropping = false;
    {
      const std::lock_guard lock(mutex_);
      if (runs_.empty()) co_return here_ > 0 || !members_.empty();
      run = runs_.front();
      is_over = run->is_over;
      is_dropping = std::exchange(run->is_dropping, false);
      rows = run->table.take(std::move(spare_));
      if (is_over) runs_.pop_front();
    }
    if (is_dropping) report_.warn(fmt::format("{}: rows are left out, the disk is too slow for them", kTable));
    if (!rows.empty() && !run->has_failed) {
      const auto written = co_await offload(world_, [&] { return write(*run, rows); });
      if (!written) {
        report_.lose(written.error(), fmt::format("the table of timestamps ends here: {}", written.error().message()));
        const std::lock_guard lock(mutex_);
        run->has_failed = true;
      }
    }
    {
      const std::lock_guard lock(mutex_);
      spare_ = std::move(rows);
    }
    if (!is_over) co_return true;
  }
}

Task<> ClockBoard::keep() {
  for (;;) {
    co_await joined_.wait();
    do {
      co_await world_.sleep(kWriteEvery);
      expire();
    } while (co_await flush());
  }
}

Task<> ClockBoard::finish() { co_await flush(); }

}  // namespace shoal
