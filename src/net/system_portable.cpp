// The portable twin of system_linux.cpp.
#if !defined(__linux__) || defined(SHOAL_PORTABLE)
#define SHOAL_NET_PORTABLE 1
#endif
module;

#include <sys/socket.h>

#include <tl/expected.hpp>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

module shoal.net;

#ifdef SHOAL_NET_PORTABLE

import :tcp;
import :udp;
import shoal.base;
import shoal.world;

namespace shoal {
namespace {

#ifdef MSG_NOSIGNAL
constexpr int kSendFlags = MSG_NOSIGNAL;
#else
constexpr int kSendFlags = 0;
#endif

constexpr std::size_t kBlock = 128 * 1024;

Result<std::size_t> send_some(int socket, std::span<const std::byte> data) {
  const ssize_t n = ::send(socket, data.data(), data.size(), kSendFlags);
  if (n >= 0) return static_cast<std::size_t>(n);
  if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) return std::size_t{0};
  return fail_errno("cannot send");
}

}  // namespace

Result<std::size_t> send_file(int socket, std::span<const std::byte> head, const ChunkSource& source, std::uint64_t offset,
                              std::size_t length) {
  thread_local std::vector<std::byte> block(kBlock + 64);
  const std::size_t part = std::min(length, block.size() - head.size());
  std::ranges::copy(head, block.begin());
  const std::span<std::byte> filled(block.data(), head.size() + part);
  if (const auto read = source.read(offset, filled.subspan(head.size())); !read) return Failure(read.error());
  return send_some(socket, filled);
}

Result<std::size_t> receive_datagrams(int socket, std::span<RawDatagram> batch) {
  std::size_t count = 0;
  for (RawDatagram& raw : batch) {
    socklen_t length = static_cast<socklen_t>(raw.peer.bytes.size());
    const ssize_t n =
        ::recvfrom(socket, raw.bytes.data(), raw.bytes.size(), 0, reinterpret_cast<sockaddr*>(raw.peer.bytes.data()), &length);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR || errno == ECONNREFUSED)) break;
    if (n < 0) return count > 0 ? Result<std::size_t>(count) : fail_errno("cannot receive");
    raw.size = static_cast<std::size_t>(n);
    raw.peer.size = static_cast<std::uint8_t>(length);
    ++count;
  }
  return count;
}

void send_datagrams(int socket, std::span<RawDatagram> batch) {
  for (const RawDatagram& raw : batch) {
    const auto* to = raw.peer.size > 0 ? reinterpret_cast<const sockaddr*>(raw.peer.bytes.data()) : nullptr;
    if (::sendto(socket, raw.bytes.data(), raw.size, kSendFlags, to, raw.peer.size) < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
      return;
  }
}

void enlarge_receive_buffer(int socket) {
  for (int bytes = 4 * 1024 * 1024; bytes >= 256 * 1024; bytes /= 2)  // some systems refuse more than they allow
    if (::setsockopt(socket, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes) == 0) return;
}

void share_port(int) {}

void limit_unsent(int, std::uint32_t) {}
Result<> choose_congestion_control(int, const std::string&) { return {}; }
std::optional<Nanoseconds> least_round_trip(int) { return std::nullopt; }
void enlarge_buffers(int) {}

}  // namespace shoal

#endif
