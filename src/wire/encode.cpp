module;

#include <fmt/core.h>

#include <cstddef>
#include <cstdint>
#include <variant>
#include <vector>

#include <tl/expected.hpp>

module shoal.wire;

namespace shoal {
namespace {

/// The length in a frame's header counts everything after itself.
constexpr std::size_t kLengthSize = sizeof(std::uint32_t);

void write_header(codec::Appender& sink, std::size_t frame_size, MessageType type) {
  codec::write(sink, static_cast<std::uint32_t>(frame_size - kLengthSize));
  codec::write(sink, type);
}

}  // namespace

Result<> encode(const Message& message, std::vector<std::byte>& out) {
  const std::size_t size = encoded_size(message);
  const MessageType type = type_of(message);
  if (size > kControlLimit) return fail(Errc::too_large, fmt::format("{} message of {} bytes", name_of(type), size));
  codec::Appender sink{out};
  write_header(sink, size, type);
  std::visit([&](const auto& fields) { codec::write(sink, fields); }, message);
  return {};
}

void encode(const ChunkHeader& header, std::vector<std::byte>& out) {
  codec::Appender sink{out};
  write_header(sink, kFrameHeader + codec::size_of(header) + header.length, ChunkHeader::kType);
  codec::write(sink, header);
}

std::size_t encoded_size(const Message& message) {
  return kFrameHeader + std::visit([](const auto& fields) { return codec::size_of(fields); }, message);
}

std::size_t encoded_size(const FileEntry& entry) { return codec::size_of(entry); }
std::size_t encoded_size(const Offered& offered) { return codec::size_of(offered); }
std::size_t encoded_size(const FoundEntry& found) { return codec::size_of(found); }
std::size_t encoded_size(const Holding& holding) { return codec::size_of(holding); }
std::size_t encoded_size(const ClockPeer& peer) { return codec::size_of(peer); }
std::size_t encoded_size(const LocatedEntry& located) { return codec::size_of(located); }
std::size_t encoded_size(const OverlayNode& node) { return codec::size_of(node); }
std::size_t encoded_size(const Hit& hit) { return codec::size_of(hit); }

}  // namespace shoal
