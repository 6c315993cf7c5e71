/// Inside shoal.net: a UDP socket, and the system calls that take many datagrams at once where the system has such.
module;

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/ip/udp.hpp>
#include <tl/expected.hpp>

#include <array>
#include <cstddef>
#include <memory>
#include <span>

module shoal.net:udp;

import shoal.base;
import shoal.world;

namespace shoal {

/// The largest datagram that is sent or understood: what is small is meant to go so.
inline constexpr std::size_t kMaxDatagram = 256;

struct RawDatagram {
  DatagramAddress peer;
  std::size_t size = 0;
  std::array<std::byte, kMaxDatagram> bytes;
};

/// For everyone's, at a port that other sockets may share.
Result<std::unique_ptr<DatagramSocket>> open_udp_socket(const Endpoint& at, Executor strand);
/// For those of one other.
Result<std::unique_ptr<DatagramSocket>> connect_udp_socket(const Endpoint& to, Executor strand);

// ---- the system: src/net/system_linux.cpp, or its portable twin ---------------------------------------

/// Takes what is there without waiting; returns how many of `batch` were filled. What was refused on the way counts as nothing.
Result<std::size_t> receive_datagrams(int socket, std::span<RawDatagram> batch);
/// Sends without waiting, to `peer` or, where that is empty, to whom the socket is connected with. What does not fit is lost.
void send_datagrams(int socket, std::span<RawDatagram> batch);
/// Has the system keep as many unread datagrams as it is willing to.
void enlarge_receive_buffer(int socket);
/// Lets other sockets have the same port, where each sender's datagrams go to the same one of them; without effect elsewhere.
void share_port(int socket);

}  // namespace shoal
