#if defined(__linux__) && !defined(SHOAL_PORTABLE)
#define SHOAL_NET_LINUX 1
#endif
module;

#ifdef SHOAL_NET_LINUX
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>
#endif

#include <tl/expected.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

module shoal.net;

#ifdef SHOAL_NET_LINUX

import :tcp;
import shoal.base;
import shoal.world;

namespace shoal {
namespace {

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

void choose_congestion_control(int socket, const std::string& name) {
  if (!name.empty()) ::setsockopt(socket, IPPROTO_TCP, TCP_CONGESTION, name.data(), static_cast<socklen_t>(name.size()));
}

}  // namespace shoal

#endif
