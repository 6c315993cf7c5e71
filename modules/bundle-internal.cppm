/// Inside shoal.bundle: the connections of a bundle, what waits at each, and what came.
module;

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <variant>
#include <vector>

module shoal.bundle:internal;

import :order;
import shoal.base;
import shoal.wire;
import shoal.world;

namespace shoal {

/// A frame with bytes of a chunk, and its number.
struct OutgoingFrame {
  std::uint64_t number = 0;
  OutgoingChunk chunk;
};
using OutgoingFrames = std::vector<OutgoingFrame>;  ///< With consecutive numbers, to be written together.

inline ChunkRef ref_of(const OutgoingFrame& frame) { return {frame.chunk.header.handle, frame.chunk.header.chunk}; }

/// One that came, whole.
struct IncomingFrame {
  ChunkHeader header;
  std::unique_ptr<std::byte[]> bytes;
};

/// One connection of a bundle. All of it belongs to the bundle's strand, but for what is const and the signals.
struct Subflow {
  Subflow(std::uint32_t n, std::shared_ptr<Link> l, std::shared_ptr<void> p) : number(n), link(std::move(l)), place(std::move(p)) {}

  const std::uint32_t number;
  const std::shared_ptr<Link> link;
  std::shared_ptr<void> place;  ///< While its socket is in use.

  // Sending.
  std::deque<Message> control;            ///< Of the first only.
  std::deque<OutgoingFrames> waiting;     ///< To be written.
  std::deque<OutgoingFrame> unconfirmed;  ///< Written or being written, in this order, and not known to have come.
  std::uint64_t load = 0;                 ///< Bytes of those and of what waits.
  std::uint64_t confirmed = 0;            ///< Frames.
  std::uint64_t next_out = 0;             ///< The number that the other side takes the next frame to have; 0 stands for none.
  bool is_writing = false;
  Instant last_confirmed{};  ///< Or when the first of `unconfirmed` was written.
  Signal work;

  // Receiving.
  std::optional<std::uint64_t> next_in;  ///< The number of the next frame; none before the other side has begun.
  std::uint64_t arrived = 0;             ///< Frames with a number.
  std::uint64_t undelivered = 0;         ///< Bytes that the session has not taken.
  Signal room;

  // The end.
  Instant last_moved{};        ///< When enough had been taken to be written, or had come, since the last time.
  std::uint64_t moved = 0;     ///< Bytes since then.
  bool is_over = false;        ///< Closed, or about to be.
  bool has_reader = true;      ///< While it has, something may still come.
  bool is_given_back = false;  ///< The other side takes nothing more from it, and what did not come was placed elsewhere.

  bool is_first() const { return number == 0; }
};
using SubflowPtr = std::shared_ptr<Subflow>;

/// What a writer has to do next.
struct Work {
  std::vector<Message> messages;
  OutgoingFrames frames;
};
struct NoWork {};
struct NoMoreWork {};
using NextWork = std::variant<Work, NoWork, NoMoreWork>;

/// What the session receives next, and by which connection it came.
struct Ready {
  SubflowPtr flow;
  std::variant<Message, IncomingFrame> what;
  std::uint64_t size = 0;  ///< Bytes that it counts as.
};

/// A small one takes more here than it did on the wire.
inline std::uint64_t size_in_memory(std::uint64_t on_the_wire) { return std::max<std::uint64_t>(on_the_wire, sizeof(Ready)); }

/// One that waits until all frames below `barrier` came.
struct Held {
  Ready ready;
  std::uint64_t barrier = 0;
};

/// The connections of one bundle, and what is known of their frames. On the bundle's strand.
class Flows : public std::enable_shared_from_this<Flows> {
 public:
  explicit Flows(Executor strand) : strand_(std::move(strand)) {}

  const Executor& strand() const { return strand_; }
  bool is_begun() const { return !flows_.empty(); }
  bool is_over() const { return failure_.has_value(); }
  Failure failure() const { return Failure(*failure_); }
  void begin(World& world, TaskGroup& tasks, std::shared_ptr<Link> first, Nanoseconds idle);
  /// Whether a connection of that number may be added now.
  Result<> check_new(std::uint32_t number) const;
  Result<> add(std::uint32_t number, std::shared_ptr<Link> link, std::shared_ptr<void> place);
  void remove_one();
  std::size_t in_use() const;
  std::size_t carriers() const;
  std::uint64_t bytes_moved() const { return bytes_moved_; }
  /// The end of all of them.
  void fail_all(const Error& why);

  // ---- what the session sends: src/bundle/sending.cpp

  /// While a send from before the beginning is not over, the first connection has a writer already.
  void begin_direct() { ++direct_; }
  void end_direct();
  /// Queues it; what `written()` has to reach for it to be written.
  std::uint64_t push_control(Message message);
  std::uint64_t written() const { return control_written_; }
  bool is_first_idle() const { return is_free(*flows_.front()); }
  /// Has these, of one file or small, go out by one connection, and returns when any can take more.
  Task<Result<>> place_when_free(std::vector<OutgoingChunk> chunks);
  /// Whoever sends waits for this; there is one.
  Signal& sender() { return sender_; }

  // ---- what the session receives: src/bundle/receiving.cpp

  std::optional<Ready> take_ready();
  void release(Subflow& flow, std::uint64_t bytes);
  /// The frame whose bytes are read next.
  Incoming open(Ready frame);
  Result<> read_opened(std::span<std::byte> out);
  Signal& receiver() { return receiver_; }

  // ---- what readers and writers tell: src/bundle/running.cpp

  Result<> on_received(const SubflowPtr& flow, Message message);
  Result<> on_received(const SubflowPtr& flow, IncomingFrame frame);
  bool is_full(const Subflow& flow) const;
  void on_read_end(const SubflowPtr& flow, const Error& why);
  NextWork next_work(Subflow& flow);
  void on_written(const SubflowPtr& flow, std::uint64_t bytes, const Result<>& result);
  /// Closes what has confirmed nothing, or carried nothing, for too long.
  void close_stalled();

 private:
  void count_moved(Subflow& flow, std::uint64_t bytes);
  bool is_free(const Subflow& flow) const;
  bool has_control(const Subflow& flow) const;
  SubflowPtr next_free() const;
  SubflowPtr flow_for(const ChunkHeader& header) const;
  void place(const SubflowPtr& flow, std::vector<OutgoingChunk> chunks);
  void queue_up(Subflow& flow, OutgoingFrames frames);
  SubflowPtr least_loaded() const;
  SubflowPtr find(std::uint32_t number) const;
  Work take_control(Subflow& flow);
  Work take_frames(Subflow& flow);
  void start(const SubflowPtr& flow, Nanoseconds idle);
  void close(Subflow& flow);
  void settle(const SubflowPtr& flow);
  void on_arrived(const Arrived& arrived);
  void give_back_unknown(std::uint32_t number);
  void tell(const Arrived& arrived);
  std::vector<Message> take_news();
  void place_again(Subflow& flow);
  void confirm(Subflow& flow, std::uint64_t frames);
  void tell_arrived(const Subflow& flow);
  Result<> deliver(const SubflowPtr& flow, Message message);
  void push_ready(Ready ready);
  void release_held();

  const Executor strand_;
  World* world_ = nullptr;
  TaskGroup* tasks_ = nullptr;
  std::vector<SubflowPtr> flows_;  ///< The first, then the others as they came.
  UsedNumbers used_;
  std::deque<Instant> closed_;  ///< When the last few further ones were.
  std::optional<Error> failure_;
  std::uint64_t bytes_moved_ = 0;

  // Sending.
  int direct_ = 0;
  Departures departures_;
  std::size_t turn_ = 0;  ///< Whose it is among those that are free.
  std::uint64_t control_pushed_ = 0;
  std::uint64_t control_taken_ = 0;
  std::uint64_t control_written_ = 0;
  std::vector<Arrived> news_;  ///< Of each connection the newest that the first does not carry yet; before all other control messages.
  struct Begun {
    ChunkRef ref;
    std::uint32_t end = 0;  ///< Of its bytes so far.
    SubflowPtr flow;
  };
  std::optional<Begun> begun_;  ///< The chunk that was placed last.
  Signal sender_;

  // Receiving.
  Arrivals arrivals_;
  std::deque<Ready> ready_;
  std::uint64_t barrier_ = 0;  ///< What comes now waits until all frames below it came.
  std::deque<Held> held_;
  std::optional<Ready> opened_;
  std::uint64_t read_ = 0;  ///< Of its bytes.
  std::uint64_t held_bytes_ = 0;
  Signal receiver_;
};
using FlowsPtr = std::shared_ptr<Flows>;

/// The coroutines of one connection, on its strand.
Task<> read_subflow(FlowsPtr flows, SubflowPtr flow, Nanoseconds idle);
Task<> write_subflow(FlowsPtr flows, SubflowPtr flow);
/// Looks for stalled connections now and then, on the bundle's strand.
Task<> watch_subflows(World& world, FlowsPtr flows);

}  // namespace shoal
