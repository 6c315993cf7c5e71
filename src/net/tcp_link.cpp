module;

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <variant>
#include <vector>

module shoal.net;

import :tcp;
import shoal.base;
import shoal.wire;
import shoal.world;

namespace asio = boost::asio;
using asio::ip::tcp;

namespace shoal {
namespace {

using SteadyTime = std::chrono::steady_clock::time_point;

constexpr asio::as_tuple_t<asio::use_awaitable_t<Executor>> kAsTuple{};

/// A connection that takes nothing at all for this long is dead.
constexpr Nanoseconds kSendPatience = std::chrono::seconds(30);
constexpr std::uint32_t kLeastUnsent = 16 * 1024;
constexpr Nanoseconds kFar = std::chrono::milliseconds(5);  // a round trip
constexpr Nanoseconds kFarthest =
    std::chrono::milliseconds(300);  // from here on several connections do not fill a fast line with what the system lets each have

/// Closes the socket when a read or a write makes no progress for too long. It sleeps until the earliest moment at which
/// that can be, rather than being set anew for each message.
struct Watch {
  struct Side {
    std::optional<SteadyTime> expires;  ///< Not set while nobody waits on this side.
  };
  Side reading;
  Side writing;
  std::optional<SteadyTime> wakes;  ///< Set while the timer runs.
  bool has_expired = false;
};

struct Connection : std::enable_shared_from_this<Connection> {
  explicit Connection(Socket s) : socket(std::move(s)), timer(socket.get_executor()) {}

  Socket socket;
  asio::steady_timer timer;
  Watch watch;
  bool is_closed = false;  ///< By us.

  void arm() {
    SteadyTime earliest = SteadyTime::max();
    for (const auto* side : {&watch.reading, &watch.writing})
      if (side->expires) earliest = std::min(earliest, *side->expires);
    if (earliest == SteadyTime::max() || (watch.wakes && *watch.wakes <= earliest)) return;
    watch.wakes = earliest;
    timer.expires_at(earliest);
    timer.async_wait([weak = weak_from_this()](boost::system::error_code error) {
      if (const auto alive = weak.lock()) alive->on_timer(error);
    });
  }

  void on_timer(boost::system::error_code error) {
    if (error) return;  // set anew, or closed
    watch.wakes.reset();
    const auto now = std::chrono::steady_clock::now();
    for (const auto* side : {&watch.reading, &watch.writing})
      if (side->expires && *side->expires <= now) return expire();
    arm();
  }

  void expire() {
    watch.has_expired = true;
    close();
  }

  void close() {
    is_closed = true;
    boost::system::error_code ignored;
    socket.shutdown(tcp::socket::shutdown_both, ignored);
    socket.close(ignored);
    timer.cancel();
  }
};

/// Holds one side of the watch while an operation waits.
class Waiting {
 public:
  Waiting(Connection& connection, Watch::Side& side, Nanoseconds limit) : connection_(connection), side_(side), limit_(limit) {
    progress();
  }
  ~Waiting() { side_.expires.reset(); }
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;

  void progress() {
    side_.expires = std::chrono::steady_clock::now() + limit_;
    connection_.arm();
  }

 private:
  Connection& connection_;
  Watch::Side& side_;
  Nanoseconds limit_;
};

class TcpLink final : public Link {
 public:
  TcpLink(Socket socket, const TcpContext& context)
      : connection_(std::make_shared<Connection>(std::move(socket))),
        pacer_(context.pacer),
        congestion_(context.congestion),
        remote_(remote_of(connection_->socket)) {
    boost::system::error_code ignored;
    connection_->socket.set_option(tcp::no_delay(true), ignored);
    connection_->socket.native_non_blocking(true, ignored);
    adapt_to_distance();
  }
  ~TcpLink() override { close(); }

  Task<Result<Incoming>> receive(Nanoseconds idle) override;
  Task<Result<>> receive_all(std::vector<Incoming>& out, Nanoseconds idle) override;
  Task<Result<>> receive_payload(std::span<std::byte> out) override;
  Result<bool> send_now(std::span<const Message> messages) override;
  Task<Result<>> send(std::vector<Message> messages) override;
  Task<Result<>> send_chunk(ChunkHeader header, std::shared_ptr<const ChunkSource> source, std::uint64_t file_offset) override;
  Task<Result<std::size_t>> send_chunks(std::vector<OutgoingChunk> chunks) override;
  void established() override {
    reader_.established();
    adapt_to_distance();
  }
  void close() override { connection_->close(); }
  Endpoint remote() const override { return remote_; }
  Endpoint local() const override {
    boost::system::error_code ignored;
    return plain_endpoint(connection_->socket.local_endpoint(ignored));
  }
  Executor executor() const override { return connection_->socket.get_executor(); }
  std::optional<Nanoseconds> round_trip() const override { return least_round_trip(connection_->socket.native_handle()); }

 private:
  static Endpoint remote_of(const Socket& socket) {
    boost::system::error_code ignored;
    return plain_endpoint(socket.remote_endpoint(ignored));
  }
  static Endpoint plain_endpoint(const tcp::endpoint& endpoint) {
    auto address = endpoint.address();
    if (address.is_v6() && address.to_v6().is_v4_mapped()) address = asio::ip::make_address_v4(asio::ip::v4_mapped, address.to_v6());
    return {address.to_string(), endpoint.port()};
  }

  Failure failure(boost::system::error_code error, const char* what) const;
  Result<> write_some(std::vector<std::byte>& data);
  Task<Result<>> write_all(std::span<const std::byte> data);
  Task<Result<>> write_file(std::span<const std::byte> head, const ChunkSource& source, std::uint64_t offset, std::size_t length);
  Task<Result<>> write_zeros(std::size_t length);
  Task<Result<>> wait_writable();
  Result<> append(const OutgoingChunk& chunk);
  Task<> pace(std::uint64_t bytes);
  void limit_unsent_to(std::uint32_t piece);
  void adapt_to_distance();

  std::shared_ptr<Connection> connection_;
  std::shared_ptr<Pacer> pacer_;
  std::string congestion_;
  bool is_far_ = false;
  Endpoint remote_;
  FrameReader reader_;
  Nanoseconds idle_ = std::chrono::seconds(15);
  std::vector<std::byte> out_;
  std::vector<std::byte> unsent_;  ///< The rest of what send_now began.
  std::uint32_t unsent_limit_ = 0;
};

Failure TcpLink::failure(boost::system::error_code error, const char* what) const {
  if (connection_->watch.has_expired) return fail(Errc::timed_out, what);
  // Whatever the system says: another thread may try to write between the two steps of closing, and break the pipe.
  if (connection_->is_closed) return fail(Errc::closed, what);
  return fail(plain_error(error), what);
}

Task<Result<Incoming>> TcpLink::receive(Nanoseconds idle) {
  idle_ = idle;
  Waiting waiting(*connection_, connection_->watch.reading, idle);
  for (;;) {
    auto incoming = reader_.next();
    if (!incoming) co_return Failure(std::move(incoming).error());
    if (*incoming) co_return std::move(**incoming);
    const auto space = reader_.prepare();
    const auto [error, n] = co_await connection_->socket.async_read_some(asio::buffer(space.data(), space.size()), kAsTuple);
    if (error) co_return failure(error, "cannot receive");
    reader_.commit(n);
  }
}

/// Not by receive(): a coroutine more for each message is felt where there are tens of thousands a second.
Task<Result<>> TcpLink::receive_all(std::vector<Incoming>& out, Nanoseconds idle) {
  out.clear();
  idle_ = idle;
  Waiting waiting(*connection_, connection_->watch.reading, idle);
  for (;;) {
    auto incoming = reader_.next();
    if (!incoming && out.empty()) co_return Failure(std::move(incoming).error());
    if (!incoming) break;  // it comes again, with the next call
    if (*incoming) {
      out.push_back(std::move(**incoming));
      if (std::holds_alternative<Message>(out.back())) continue;
    }
    if (!out.empty()) break;
    const auto space = reader_.prepare();
    const auto [error, n] = co_await connection_->socket.async_read_some(asio::buffer(space.data(), space.size()), kAsTuple);
    if (error) co_return failure(error, "cannot receive");
    reader_.commit(n);
  }
  co_return Result<>{};
}

Task<Result<>> TcpLink::receive_payload(std::span<std::byte> out) {
  std::size_t filled = reader_.take_payload(out);
  if (filled == out.size()) co_return Result<>{};
  Waiting waiting(*connection_, connection_->watch.reading, idle_);
  while (filled < out.size()) {
    const auto rest = out.subspan(filled);
    const auto [error, n] = co_await connection_->socket.async_read_some(asio::buffer(rest.data(), rest.size()), kAsTuple);
    if (error) co_return failure(error, "cannot receive");
    reader_.payload_read(n);
    filled += n;
    waiting.progress();
  }
  co_return Result<>{};
}

Result<bool> TcpLink::send_now(std::span<const Message> messages) {
  if (!unsent_.empty()) {
    if (auto flushed = write_some(unsent_); !flushed) return Failure(std::move(flushed).error());
    if (!unsent_.empty()) return false;
  }
  out_.clear();
  for (const auto& message : messages)
    if (auto encoded = encode(message, out_); !encoded) return Failure(std::move(encoded).error());
  const std::size_t whole = out_.size();
  if (auto written = write_some(out_); !written) return Failure(std::move(written).error());
  if (out_.size() == whole) return false;
  if (!out_.empty()) unsent_ = out_;  // a frame that was begun has to be ended before anything else
  return true;
}

/// Writes what fits without waiting, and takes it off the front.
Result<> TcpLink::write_some(std::vector<std::byte>& data) {
  boost::system::error_code error;
  const std::size_t n = connection_->socket.write_some(asio::buffer(data.data(), data.size()), error);
  if (error && error != asio::error::would_block && error != asio::error::try_again) return failure(error, "cannot send");
  data.erase(data.begin(), data.begin() + static_cast<std::ptrdiff_t>(n));
  return {};
}

Task<Result<>> TcpLink::send(std::vector<Message> messages) {
  if (!unsent_.empty()) {
    if (auto flushed = co_await write_all(std::exchange(unsent_, {})); !flushed) co_return flushed;
  }
  out_.clear();
  for (const auto& message : messages)
    if (auto encoded = encode(message, out_); !encoded) co_return encoded;
  co_return co_await write_all(out_);
}

Task<Result<>> TcpLink::write_all(std::span<const std::byte> data) {
  Waiting waiting(*connection_, connection_->watch.writing, kSendPatience);
  while (!data.empty()) {
    const auto [error, n] = co_await connection_->socket.async_write_some(asio::buffer(data.data(), data.size()), kAsTuple);
    if (error) co_return failure(error, "cannot send");
    data = data.subspan(n);
    waiting.progress();
  }
  co_return Result<>{};
}

Task<Result<>> TcpLink::send_chunk(ChunkHeader header, std::shared_ptr<const ChunkSource> source, std::uint64_t file_offset) {
  if (auto unchanged = source->check(); !unchanged) co_return unchanged;
  if (pacer_->is_limiting()) co_await pace(header.length);
  limit_unsent_to(header.length);
  out_.clear();
  encode(header, out_);
  if (auto written = co_await write_file(out_, *source, file_offset, header.length); !written) co_return written;
  // Until most of it is on its way: what is begun meanwhile for others would only share the uplink with it.
  const Waiting waiting(*connection_, connection_->watch.writing, kSendPatience);
  co_return co_await wait_writable();
}

/// Many small sendfiles cost more than one write of everything, copies included.
Task<Result<std::size_t>> TcpLink::send_chunks(std::vector<OutgoingChunk> chunks) {
  out_.clear();
  std::size_t ready = 0;
  for (const OutgoingChunk& chunk : chunks) {
    const auto appended = append(chunk);
    if (!appended && appended.error().code == make_error_code(Errc::changed)) break;
    if (!appended) co_return Failure(appended.error());
    ++ready;
  }
  if (pacer_->is_limiting()) co_await pace(out_.size());
  limit_unsent_to(std::bit_ceil(static_cast<std::uint32_t>(out_.size())));
  if (auto written = co_await write_all(out_); !written) co_return Failure(written.error());
  co_return ready;
}

/// Puts the frame of a chunk behind what is to be sent; nothing of it where it fails.
Result<> TcpLink::append(const OutgoingChunk& chunk) {
  const std::size_t before = out_.size();
  encode(chunk.header, out_);
  const std::size_t head = out_.size();
  out_.resize(head + chunk.header.length);
  auto taken = chunk.source->check();
  if (taken) taken = chunk.source->read(chunk.file_offset, std::span(out_).subspan(head));
  if (!taken) out_.resize(before);
  return taken;
}

Task<Result<>> TcpLink::write_file(std::span<const std::byte> head, const ChunkSource& source, std::uint64_t offset, std::size_t length) {
  Waiting waiting(*connection_, connection_->watch.writing, kSendPatience);
  const std::size_t total = head.size() + length;
  std::size_t done = 0;
  while (done < total) {
    const std::size_t of_head = std::min(done, head.size());
    const std::size_t of_data = done - of_head;
    const auto sent = send_file(connection_->socket.native_handle(), head.subspan(of_head), source, offset + of_data, length - of_data);
    if (!sent && sent.error().code == make_error_code(Errc::changed)) {
      // The frame may have begun: end it as its header says. The receiver's hash refuses it, and the connection lives on.
      if (auto headed = co_await write_all(head.subspan(of_head)); !headed) co_return headed;
      if (auto filled = co_await write_zeros(length - of_data); !filled) co_return filled;
      co_return Failure(sent.error());
    }
    if (!sent) co_return Failure(sent.error());
    done += *sent;
    if (*sent > 0) waiting.progress();
    if (done < total)
      if (auto writable = co_await wait_writable(); !writable) co_return writable;
  }
  co_return Result<>{};
}

Task<Result<>> TcpLink::write_zeros(std::size_t length) {
  static constexpr std::array<std::byte, 16 * 1024> zeros{};
  while (length > 0) {
    const std::size_t part = std::min(length, zeros.size());
    if (auto sent = co_await write_all(std::span(zeros).first(part)); !sent) co_return sent;
    length -= part;
  }
  co_return Result<>{};
}

Task<Result<>> TcpLink::wait_writable() {
  const auto [error] = co_await connection_->socket.async_wait(tcp::socket::wait_write, kAsTuple);
  if (error) co_return failure(error, "cannot send");
  co_return Result<>{};
}

Task<> TcpLink::pace(std::uint64_t bytes) {
  const Nanoseconds delay = pacer_->book(bytes);
  if (delay <= Nanoseconds::zero()) co_return;
  asio::steady_timer timer(connection_->socket.get_executor(), delay);
  co_await timer.async_wait(kAsTuple);
}

void TcpLink::limit_unsent_to(std::uint32_t piece) {
  const std::uint32_t limit = std::clamp(piece, kLeastUnsent, kChunkSize / 2);
  if (limit == unsent_limit_) return;
  unsent_limit_ = limit;
  limit_unsent(connection_->socket.native_handle(), limit);
}

/// The handshake says how far it is; where it does not, or the two sides of it met a delay, the greeting does.
void TcpLink::adapt_to_distance() {
  const Nanoseconds round_trip = least_round_trip(connection_->socket.native_handle()).value_or(Nanoseconds::zero());
  const bool was_far = std::exchange(is_far_, round_trip >= kFar);
  if (was_far || !is_far_) return;
  adapt_congestion_control(connection_->socket.native_handle(), congestion_, is_far_);
  if (round_trip >= kFarthest) enlarge_buffers(connection_->socket.native_handle());
}

}  // namespace

std::error_code plain_error(const boost::system::error_code& error) {
  if (error == asio::error::eof || error == asio::error::operation_aborted || error == asio::error::bad_descriptor)
    return make_error_code(Errc::closed);
  if (error.category() == asio::error::get_netdb_category() || error.category() == asio::error::get_addrinfo_category())
    return std::make_error_code(std::errc::host_unreachable);  // a name that cannot be looked up
  return error;
}

std::unique_ptr<Link> make_tcp_link(Socket socket, const TcpContext& context) {
  return std::make_unique<TcpLink>(std::move(socket), context);
}

Nanoseconds Pacer::book(std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  const auto now = std::chrono::steady_clock::now();
  const auto start = std::max(now, free_at_);
  free_at_ = start + std::chrono::duration_cast<Nanoseconds>(Seconds(static_cast<double>(bytes) / static_cast<double>(rate_)));
  return start - now;
}

}  // namespace shoal
