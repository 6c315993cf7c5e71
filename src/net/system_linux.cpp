#if defined(__linux__) && !defined(SHOAL_PORTABLE)
#define SHOAL_NET_LINUX 1
#endif
module;

#ifdef SHOAL_NET_LINUX
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>
#endif

#include <tl/expected.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <optional>
#include <span>
#include <string>

module shoal.net;

#ifdef SHOAL_NET_LINUX

import :tcp;
import :udp;
import shoal.base;
import shoal.world;

namespace shoal {
namespace {

constexpr std::size_t kAtOnce = 64;              // datagrams, in one call
constexpr int kMostBuffer = 64 * 1024 * 1024;    // of a connection: 2.5 Gbit a second at 200 ms
constexpr int kReceiveBuffer = 4 * 1024 * 1024;  // as the system counts: some hundred bytes a datagram, however small

/// What a call for several datagrams takes.
class Headers {
 public:
  explicit Headers(std::span<RawDatagram> batch) : batch_(batch.first(std::min(batch.size(), kAtOnce))) {
    for (std::size_t i = 0; i < batch_.size(); ++i) {
      RawDatagram& raw = batch_[i];
      ranges_[i] = {raw.bytes.data(), raw.size};
      msghdr& header = headers_[i].msg_hdr;
      header = {};
      header.msg_iov = &ranges_[i];
      header.msg_iovlen = 1;
      header.msg_name = raw.peer.size > 0 ? raw.peer.bytes.data() : nullptr;
      header.msg_namelen = raw.peer.size;
    }
  }

  mmsghdr* data() { return headers_.data(); }
  unsigned size() const { return static_cast<unsigned>(batch_.size()); }
  const mmsghdr& operator[](std::size_t i) const { return headers_[i]; }

 private:
  std::span<RawDatagram> batch_;
  std::array<iovec, kAtOnce> ranges_;
  std::array<mmsghdr, kAtOnce> headers_;
};

/// The last number in a file of the system; 0 where there is none.
std::int64_t last_number_in(const char* path) {
  std::ifstream file(path);
  std::int64_t last = 0;
  for (std::int64_t number = 0; file >> number;) last = number;
  return last;
}

/// The size to ask for; 0: none.
int useful_buffer(const char* most_allowed, const char* tuned) {
  const std::int64_t allowed = std::min<std::int64_t>(last_number_in(most_allowed), kMostBuffer);
  return 2 * allowed > last_number_in(tuned) ? static_cast<int>(allowed) : 0;
}

bool is_full() { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

}  // namespace

Result<std::size_t> send_file(int socket, std::span<const std::byte> head, const ChunkSource& source, std::uint64_t offset,
                              std::size_t length) {
  std::size_t sent = 0;
  if (!head.empty()) {
    const ssize_t n = ::send(socket, head.data(), head.size(), MSG_NOSIGNAL | (length > 0 ? MSG_MORE : 0));
    if (n < 0) return is_full() ? Result<std::size_t>(0) : fail_errno("cannot send");
    sent = static_cast<std::size_t>(n);
    if (sent < head.size()) return sent;
  }
  auto position = static_cast<off_t>(offset);
  std::size_t left = length;
  while (left > 0) {
    const ssize_t n = ::sendfile(socket, source.descriptor(), &position, left);
    if (n == 0) return sent > 0 ? Result<std::size_t>(sent) : fail(Errc::changed, "a file became shorter while it was sent");
    if (n < 0) return is_full() || sent > 0 ? Result<std::size_t>(sent) : fail_errno("cannot send a file");
    sent += static_cast<std::size_t>(n);
    left -= static_cast<std::size_t>(n);
  }
  return sent;
}

void limit_unsent(int socket, std::uint32_t bytes) {
  const int value = static_cast<int>(bytes);
  ::setsockopt(socket, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &value, sizeof value);
}

Result<std::size_t> receive_datagrams(int socket, std::span<RawDatagram> batch) {
  for (RawDatagram& raw : batch) {
    raw.size = raw.bytes.size();
    raw.peer.size = static_cast<std::uint8_t>(raw.peer.bytes.size());
  }
  Headers headers(batch);
  const int n = ::recvmmsg(socket, headers.data(), headers.size(), MSG_DONTWAIT, nullptr);
  if (n < 0) return is_full() || errno == ECONNREFUSED ? Result<std::size_t>(0) : fail_errno("cannot receive");
  for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
    batch[i].size = headers[i].msg_len;
    batch[i].peer.size = static_cast<std::uint8_t>(headers[i].msg_hdr.msg_namelen);
  }
  return static_cast<std::size_t>(n);
}

void send_datagrams(int socket, std::span<RawDatagram> batch) {
  while (!batch.empty()) {
    Headers headers(batch);
    const int n = ::sendmmsg(socket, headers.data(), headers.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && is_full()) return;
    batch = batch.subspan(n > 0 ? static_cast<std::size_t>(n) : 1);  // one that cannot be sent keeps the others from nothing
  }
}

void enlarge_receive_buffer(int socket) {
  const int bytes = kReceiveBuffer;
  if (::setsockopt(socket, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes) != 0)
    ::setsockopt(socket, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
}

void share_port(int socket) {
  const int is_shared = 1;
  ::setsockopt(socket, SOL_SOCKET, SO_REUSEPORT, &is_shared, sizeof is_shared);
}

Result<> choose_congestion_control(int socket, const std::string& name) {
  if (::setsockopt(socket, IPPROTO_TCP, TCP_CONGESTION, name.data(), static_cast<socklen_t>(name.size())) == 0) return {};
  return fail_errno("cannot choose a congestion control");
}

std::optional<Nanoseconds> least_round_trip(int socket) {
  tcp_info info{};
  socklen_t size = sizeof info;
  if (::getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return std::nullopt;
  const bool is_known = size >= offsetof(tcp_info, tcpi_min_rtt) + sizeof info.tcpi_min_rtt && info.tcpi_min_rtt != ~0U;
  if (!is_known || info.tcpi_min_rtt == 0) return std::nullopt;
  return std::chrono::microseconds(info.tcpi_min_rtt);
}

/// A size of our own ends the system's tuning, so it is only set where it is more than tuning may come to. The system doubles what is set,
/// for its own use; what tuning may come to has that in it already.
void enlarge_buffers(int socket) {
  static const int send = useful_buffer("/proc/sys/net/core/wmem_max", "/proc/sys/net/ipv4/tcp_wmem");
  static const int receive = useful_buffer("/proc/sys/net/core/rmem_max", "/proc/sys/net/ipv4/tcp_rmem");
  if (send > 0) ::setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &send, sizeof send);
  if (receive > 0) ::setsockopt(socket, SOL_SOCKET, SO_RCVBUF, &receive, sizeof receive);
}

}  // namespace shoal

#endif
