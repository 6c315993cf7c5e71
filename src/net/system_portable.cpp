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
#include <span>
#include <string>
#include <vector>

module shoal.net;

#ifdef SHOAL_NET_PORTABLE

import :tcp;
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

void limit_unsent(int, std::uint32_t) {}
void choose_congestion_control(int, const std::string&) {}

}  // namespace shoal

#endif
