/// Inside shoal.tracker: the clock peers, who are apart from the swarm, and the table of their exchanges.
module;

#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

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
#include <unordered_map>
#include <vector>

module shoal.tracker:clock;

import :addresses;
import shoal.base;
import shoal.clock;
import shoal.report;
import shoal.wire;
import shoal.world;

namespace shoal {

/// Serves clock peers. Any thread: a session stays on its link's strand, and what sessions share is behind one short lock.
class ClockBoard {
 public:
  /// `records` may be null: no table then. `clock` is the swarm clock, from any thread.
  ClockBoard(World& world, Report& report, std::shared_ptr<RecordFolder> records, std::uint64_t epoch, std::function<Nanoseconds()> clock);

  /// Answers ticks that come as datagrams to `at`, where that can be had; else they come by the connections only. Before the first serve().
  void open_datagrams(const Endpoint& at, TaskGroup& tasks);
  /// A clock peer's connection, from its ClockJoin on. Returns when it has said goodbye; throws where the connection ends otherwise.
  Task<> serve(std::shared_ptr<Link> link, Hello hello, ClockJoin join);
  /// Writes the table and gives up who has been gone for too long, until cancelled.
  Task<> keep();
  /// Writes what is left.
  Task<> finish();

 private:
  struct Member {
    std::uint64_t instance = 0;
    std::shared_ptr<Link> link;
    Whereabouts where;
    bool is_here = false;
    Instant gone_since;
  };
  /// A table, from the first clock peer to the last.
  struct Run {
    TimeTable table;
    Nanoseconds asked_for{0};
    bool is_over = false;
    bool has_failed = false;
    bool is_dropping = false;          ///< Rows come faster than they can be written.
    std::unique_ptr<RecordFile> file;  ///< Only keep() and finish() touch it.
  };
  /// One connection.
  struct Seat {
    std::string id;
    std::shared_ptr<Link> link;
    std::shared_ptr<Run> run;  ///< Null where nothing is recorded.
    std::string from_peer;     ///< The middle of its rows.
    std::string to_peer;
    std::uint64_t token = 0;  ///< What its datagrams carry.
    NumberWindow ticks;       ///< That came as datagrams. Under the lock.
  };
  using SeatPtr = std::shared_ptr<Seat>;
  /// Ticks of one seat that were answered.
  struct Answered {
    SeatPtr seat;
    std::int64_t date_us = 0;
  };

  Result<SeatPtr> admit(const std::shared_ptr<Link>& link, const Hello& hello, const ClockJoin& join);
  std::string free_number() const;
  std::shared_ptr<Run> current_run(Nanoseconds asked_for);
  Task<> answer(SeatPtr seat);
  Task<> answer_datagrams(std::shared_ptr<DatagramSocket> socket);
  SeatPtr seat_of(const Tick& tick);
  void record(std::span<const Answered> ticks, std::int64_t answered_us);
  void list(std::uint32_t query, const Vantage& reader, std::vector<Message>& answers) const;
  void part(const Seat& seat, bool has_left);
  void expire();
  Task<bool> flush();
  Result<> write(Run& run, const std::string& rows);

  World& world_;
  Report& report_;
  std::shared_ptr<RecordFolder> records_;
  std::uint64_t epoch_;
  std::function<Nanoseconds()> clock_;
  Signal joined_;
  std::uint16_t datagram_port_ = 0;

  mutable std::mutex mutex_;  ///< Guards what follows.
  std::map<std::string, Member> members_;
  std::unordered_map<std::uint64_t, SeatPtr> seats_;  ///< By token.
  std::size_t here_ = 0;
  std::list<std::shared_ptr<Run>> runs_;  ///< The oldest first; the last one may be going on.
  std::string spare_;
  std::optional<std::int64_t> zero_date_;  ///< When the swarm clock was 0.
};

}  // namespace shoal
