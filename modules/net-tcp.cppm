/// Inside shoal.net: one TCP connection, the pacing of uploads, and the system calls that differ between systems.
module;

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <tl/expected.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <vector>

module shoal.net:tcp;

import shoal.base;
import shoal.wire;
import shoal.world;

namespace shoal {

using Socket = boost::asio::ip::tcp::socket;

/// Spaces out file data over all links of a world. Any thread.
class Pacer {
 public:
  explicit Pacer(std::uint64_t bytes_per_second) : rate_(bytes_per_second) {}
  bool is_limiting() const { return rate_ > 0; }
  /// Books `bytes`; returns how long to wait before they may be sent.
  Nanoseconds book(std::uint64_t bytes);

 private:
  std::uint64_t rate_;
  std::mutex mutex_;
  std::chrono::steady_clock::time_point free_at_{};
};

struct TcpContext {
  std::shared_ptr<Pacer> pacer;
  std::string congestion;
};

/// Of a new socket, before its handshake.
void begin_congestion_control(int socket, const std::string& choice);
/// Of one whose distance is known.
void adapt_congestion_control(int socket, const std::string& choice, bool is_far);

std::unique_ptr<Link> make_tcp_link(Socket socket, const TcpContext& context);

/// The code of an Asio failure as sessions know it: an end of file is `closed`, and so is what waits while its socket is closed.
std::error_code plain_error(const boost::system::error_code& error);

// ---- the system: src/net/system_linux.cpp, or its portable twin ---------------------------------------

/// Sends `head` and then `length` bytes of the source, as much as fits without blocking. Returns the bytes that were sent,
/// of head and source together; 0 where the socket is full. Fails with `changed` where the source ended early.
Result<std::size_t> send_file(int socket, std::span<const std::byte> head, const ChunkSource& source, std::uint64_t offset,
                              std::size_t length);
/// Keeps at most about `bytes` unsent in the system's buffer, so that what is urgent does not queue up behind data.
void limit_unsent(int socket, std::uint32_t bytes);
/// Fails where the system does not have it, or not for us.
Result<> choose_congestion_control(int socket, const std::string& name);
/// The least round trip of a connection, as the system measures it; nothing while it has not, or cannot.
std::optional<Nanoseconds> least_round_trip(int socket);
/// Lets as much be under way as the system allows, where that is more than it gives by itself.
void enlarge_buffers(int socket);

}  // namespace shoal
