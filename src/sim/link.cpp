module;

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <system_error>
#include <utility>
#include <variant>
#include <vector>

module shoal.sim;

import :internal;
import shoal.base;
import shoal.wire;
import shoal.world;

namespace shoal::sim {
namespace {

std::uint64_t head_size() {
  std::vector<std::byte> head;
  encode(ChunkHeader{}, head);
  return head.size();
}

/// A liar's version of a message.
void tamper(Message& message, const Lies& lies, Random& random) {
  if (auto* reply = std::get_if<HashReply>(&message); reply && !reply->hashes.empty() && random.is_true(lies.hashes))
    reply->hashes[random.below(reply->hashes.size())].bytes[0] ^= 1;
  auto* inventory = std::get_if<Inventory>(&message);
  if (!inventory || !random.is_true(lies.haves)) return;
  for (Holding& holding : inventory->holdings) {
    holding.is_complete = true;
    holding.bits.clear();
  }
}

/// A liar's way not to answer: it never heard of what it was asked for.
void overhear(Message& message, const Lies& lies, Random& random) {
  if (auto* request = std::get_if<Request>(&message); request && lies.silence > 0)
    std::erase_if(request->chunks, [&](const ChunkRef&) { return random.is_true(lies.silence); });
}

/// A receive that waits: what it waits for, and until when.
class Reading {
 public:
  Reading(Connection& connection, int side, Nanoseconds limit, bool is_payload)
      : connection_(connection), in_(connection.pipe(1 - side)), side_(connection.side(side)) {
    side_.read_until = connection.network().loop().now() + limit;
    if (is_payload) side_.patience = limit;
    connection.watch(side);
  }
  ~Reading() {
    in_.wanted = 0;
    side_.read_until.reset();
    side_.patience = Nanoseconds::zero();
  }
  Reading(const Reading&) = delete;
  Reading& operator=(const Reading&) = delete;

  Task<> until(std::uint64_t position, int sender) {
    in_.wanted = position;
    connection_.network().offer(connection_.shared_from_this(), sender);
    co_await side_.readable.wait();
    in_.wanted = 0;
  }

 private:
  Connection& connection_;
  Pipe& in_;
  Side& side_;
};

/// A send that waits for room.
class Writing {
 public:
  Writing(Connection& connection, int side) : out_(connection.pipe(side)), side_(connection.side(side)) {
    out_.has_waiting_writer = true;
    side_.write_until = connection.network().loop().now() + kSendPatience;
    connection.watch(side);
  }
  ~Writing() {
    out_.has_waiting_writer = false;
    side_.write_until.reset();
  }
  Writing(const Writing&) = delete;
  Writing& operator=(const Writing&) = delete;

 private:
  Pipe& out_;
  Side& side_;
};

class SimLink final : public Link {
 public:
  SimLink(ConnectionPtr connection, int side, Endpoint local, Endpoint remote, Executor strand)
      : connection_(std::move(connection)), side_(side), local_(std::move(local)), remote_(std::move(remote)), strand_(std::move(strand)) {
    if (network().options().messages == Messages::encoded) reader_.emplace();
  }
  ~SimLink() override { close(); }

  Task<Result<Incoming>> receive(Nanoseconds idle) override;
  Task<Result<>> receive_payload(std::span<std::byte> out) override;
  Result<bool> send_now(std::span<const Message> messages) override;
  Task<Result<>> send(std::vector<Message> messages) override;
  Task<Result<>> send_chunk(ChunkHeader header, std::shared_ptr<const ChunkSource> source, std::uint64_t file_offset) override;
  void established() override {
    if (reader_) reader_->established();
  }
  void close() override { connection_->close(side_); }
  Endpoint remote() const override { return remote_; }
  Endpoint local() const override { return local_; }
  Executor executor() const override { return strand_; }
  std::optional<Nanoseconds> round_trip() const override {
    return 2 * network().latency(connection_->host(side_), connection_->host(1 - side_));
  }

 private:
  Network& network() const { return connection_->network(); }
  Pipe& in() { return connection_->pipe(1 - side_); }
  Pipe& out() { return connection_->pipe(side_); }
  Side& ours() { return connection_->side(side_); }
  bool is_dead() { return ours().is_closed || ours().is_reset; }
  Failure failure(const char* what);
  Result<> say(Message message);
  Task<Result<>> wait_for_room();
  Task<> take_time(std::uint64_t bytes);
  Result<Incoming> take_frame();
  Result<Incoming> read_frame(Frame& frame);
  std::unique_ptr<Frame> pop();
  void let_more_come(std::uint64_t taken);

  ConnectionPtr connection_;
  int side_;
  Endpoint local_;
  Endpoint remote_;
  Executor strand_;
  std::optional<FrameReader> reader_;
  Nanoseconds idle_{15'000'000'000};
  std::unique_ptr<Frame> chunk_;  ///< Whose bytes are being received.
  std::uint32_t chunk_left_ = 0;
};

Failure SimLink::failure(const char* what) {
  if (ours().has_expired) return fail(Errc::timed_out, what);
  if (ours().is_closed) return fail(Errc::closed, what);
  return fail(std::make_error_code(std::errc::connection_reset), what);
}

// ---- receiving ----------------------------------------------------------------------------------------

Task<Result<Incoming>> SimLink::receive(Nanoseconds idle) {
  idle_ = idle;
  std::optional<Reading> reading;
  std::uint64_t needed = 0;
  for (;;) {
    if (is_dead()) co_return failure("cannot receive");
    const Frame* next = in().first.get();
    needed = in().taken + 1;
    if (next) needed = next->kind == Frame::Kind::chunk ? next->end - std::get<ChunkHeader>(next->what).length : next->end;
    if (next && in().arrived >= needed) break;
    if (!reading) reading.emplace(*connection_, side_, idle, false);
    co_await reading->until(needed, 1 - side_);
  }
  reading.reset();
  co_await take_time(needed - in().taken);
  if (is_dead()) co_return failure("cannot receive");
  co_return take_frame();
}

/// A slow reader takes its time, while the window stays as it is.
Task<> SimLink::take_time(std::uint64_t bytes) {
  const double rate = network().port(connection_->host(side_)).options.reads;
  if (rate <= 0) co_return;
  const Nanoseconds time(static_cast<std::int64_t>(static_cast<double>(bytes) / rate * 1e9));
  co_await sleep_until(network().loop(), network().loop().now() + time);
}

std::unique_ptr<Frame> SimLink::pop() {
  std::unique_ptr<Frame> frame = std::move(in().first);
  in().first = std::move(frame->next);
  if (!in().first) in().last = nullptr;
  return frame;
}

void SimLink::let_more_come(std::uint64_t taken) {
  in().taken = taken;
  network().offer(connection_, 1 - side_);
}

Result<Incoming> SimLink::take_frame() {
  const Lies& lies = network().port(connection_->host(side_)).options.lies;
  if (in().first->kind == Frame::Kind::fin) return fail(Errc::closed, "cannot receive");
  std::unique_ptr<Frame> frame = pop();
  auto incoming = read_frame(*frame);
  if (!incoming) return incoming;
  if (const auto* header = std::get_if<ChunkHeader>(&*incoming)) {
    let_more_come(frame->end - header->length);
    chunk_left_ = header->length;
    chunk_ = std::move(frame);
  } else {
    overhear(std::get<Message>(*incoming), lies, network().random());
    network().loop().note(static_cast<std::uint64_t>(type_of(std::get<Message>(*incoming))) << 40 ^ connection_->number() << 8 ^
                          frame->end);
    let_more_come(frame->end);
  }
  return incoming;
}

/// With encoded messages, a frame comes through the reader that sockets have.
Result<Incoming> SimLink::read_frame(Frame& frame) {
  if (!reader_) return std::move(frame.what);
  std::span<const std::byte> rest = frame.encoded;
  for (;;) {
    auto next = reader_->next();
    if (!next) return Failure(std::move(next).error());
    if (*next) {
      if (const auto* header = std::get_if<ChunkHeader>(&**next)) reader_->payload_read(header->length);
      return std::move(**next);
    }
    const auto space = reader_->prepare();
    const std::size_t part = std::min(space.size(), rest.size());
    if (part == 0) return fail(Errc::malformed, "a frame that its reader does not take");
    std::ranges::copy(rest.first(part), space.begin());
    reader_->commit(part);
    rest = rest.subspan(part);
  }
}

Task<Result<>> SimLink::receive_payload(std::span<std::byte> out) {
  const std::uint64_t needed = in().taken + out.size();
  if (in().arrived < needed) {
    Reading reading(*connection_, side_, idle_, true);
    while (!is_dead() && in().arrived < needed) co_await reading.until(needed, 1 - side_);
  }
  co_await take_time(out.size());
  if (is_dead() || !chunk_ || out.size() > chunk_left_) co_return failure("cannot receive");
  const std::uint32_t length = std::get<ChunkHeader>(chunk_->what).length;
  if (!chunk_->source->read(chunk_->offset + (length - chunk_left_), out)) std::ranges::fill(out, std::byte{0});
  if (chunk_->is_wrong && chunk_left_ == length) out[0] ^= std::byte{0xFF};
  chunk_left_ -= static_cast<std::uint32_t>(out.size());
  if (chunk_left_ == 0) chunk_.reset();
  let_more_come(needed);
  co_return Result<>{};
}

// ---- sending ------------------------------------------------------------------------------------------

Task<Result<>> SimLink::wait_for_room() {
  if (!is_dead() && out().queued - out().sent >= out().unsent_limit) {
    const Writing writing(*connection_, side_);
    while (!is_dead() && out().queued - out().sent >= out().unsent_limit) co_await ours().writable.wait();
  }
  if (is_dead()) co_return failure("cannot send");
  co_return Result<>{};
}

Task<Result<>> SimLink::send(std::vector<Message> messages) {
  if (auto room = co_await wait_for_room(); !room) co_return room;
  for (Message& message : messages)
    if (auto said = say(std::move(message)); !said) co_return said;
  co_return Result<>{};
}

Result<bool> SimLink::send_now(std::span<const Message> messages) {
  if (is_dead()) return failure("cannot send");
  if (out().queued - out().sent >= out().unsent_limit) return false;
  for (const Message& message : messages)
    if (auto said = say(message); !said) return Failure(std::move(said).error());
  return true;
}

/// Puts one message on its way.
Result<> SimLink::say(Message message) {
  tamper(message, network().port(connection_->host(side_)).options.lies, network().random());
  auto frame = std::make_unique<Frame>();
  std::uint64_t size = 0;
  if (reader_) {
    if (auto encoded = encode(message, frame->encoded); !encoded) return encoded;
    size = frame->encoded.size();
  } else {
    size = encoded_size(message);
    frame->what = std::move(message);
  }
  ++network().traffic().messages;
  network().traffic().control_bytes += size;
  connection_->say(side_, std::move(frame), size);
  return {};
}

Task<Result<>> SimLink::send_chunk(ChunkHeader header, std::shared_ptr<const ChunkSource> source, std::uint64_t file_offset) {
  static const std::uint64_t head = head_size();
  if (auto unchanged = source->check(); !unchanged) co_return unchanged;
  out().unsent_limit = std::clamp(header.length, kLeafSize, kChunkSize / 2);
  if (auto room = co_await wait_for_room(); !room) co_return room;
  auto frame = std::make_unique<Frame>();
  frame->kind = Frame::Kind::chunk;
  if (reader_) encode(header, frame->encoded);
  frame->what = header;
  frame->source = std::move(source);
  frame->offset = file_offset;
  frame->is_wrong = network().random().is_true(network().port(connection_->host(side_)).options.lies.chunks);
  ++network().traffic().pieces;
  network().traffic().control_bytes += head;
  network().traffic().data_bytes += header.length;
  if (Route* const between = network().route(out().from, out().to)) between->crossed += header.length;
  connection_->say(side_, std::move(frame), head + header.length);
  co_return co_await wait_for_room();
}

}  // namespace

std::unique_ptr<Link> make_sim_link(ConnectionPtr connection, int side, Endpoint local, Endpoint remote, Executor strand) {
  return std::make_unique<SimLink>(std::move(connection), side, std::move(local), std::move(remote), std::move(strand));
}

}  // namespace shoal::sim
