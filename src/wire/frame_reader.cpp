module;

#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <variant>

#include <tl/expected.hpp>

module shoal.wire;

namespace shoal {
namespace {

using Next = Result<std::optional<Incoming>>;

/// What a read past the buffered bytes may bring. It is little, so that most of a chunk's data is read straight to
/// where it belongs and not copied from here.
constexpr std::size_t kReadAhead = 16 * 1024;

/// A frame without file data has to fit into the buffer whole.
constexpr std::size_t kBufferLimit = kControlLimit;

constexpr std::size_t kTypeSize = sizeof(MessageType);
constexpr std::size_t kChunkFields = codec::min_size<ChunkHeader>();

/// What stands before every frame. `length` counts the type and all that follows it.
struct FrameHeader {
  std::uint32_t length = 0;
  MessageType type{};

  std::size_t frame_size() const { return sizeof length + length; }
};

std::optional<FrameHeader> peek_header(std::span<const std::byte> bytes) {
  if (bytes.size() < kFrameHeader) return std::nullopt;
  FrameHeader header;
  std::uint16_t type = 0;
  if (!codec::read(bytes, header.length) || !codec::read(bytes, type)) return std::nullopt;
  header.type = MessageType{type};
  return header;
}

template <class... M>
bool is_one_of(std::type_identity<std::variant<M...>>, MessageType type) {
  return ((M::kType == type) || ...);
}

bool is_known(MessageType type) { return is_one_of(std::type_identity<MessageKinds>{}, type); }

bool is_greeting(MessageType type) { return type == MessageType::hello || type == MessageType::welcome || type == MessageType::refusal; }

std::size_t frame_limit(MessageType type, bool is_established) {
  if (!is_established) return kGreetingLimit;
  return type == MessageType::chunk ? kDataLimit : kControlLimit;
}

/// All that can be said of a frame before the rest of it is there.
Result<> check_header(const FrameHeader& header, bool is_established) {
  const auto number = static_cast<unsigned>(header.type);
  if (header.length < kTypeSize) return fail(Errc::malformed, fmt::format("frame with a length of {}", header.length));
  if (header.frame_size() > frame_limit(header.type, is_established))
    return fail(Errc::too_large, fmt::format("frame of {} bytes of type {} ({})", header.frame_size(), number, name_of(header.type)));
  if (!is_established && !is_greeting(header.type))
    return fail(Errc::out_of_order, fmt::format("message of type {} ({}) before the greeting", number, name_of(header.type)));
  if (header.type == MessageType::chunk && header.length <= kTypeSize + kChunkFields)
    return fail(Errc::malformed, "chunk message without data");
  return {};
}

}  // namespace

Result<std::optional<Message>> decode_datagram(std::span<const std::byte> datagram) {
  const auto header = peek_header(datagram);
  if (!header || header->length < kTypeSize || header->frame_size() != datagram.size())
    return fail(Errc::malformed, fmt::format("datagram of {} bytes", datagram.size()));
  return decode(header->type, datagram.subspan(kFrameHeader));
}

FrameReader::FrameReader() = default;

std::span<const std::byte> FrameReader::unread() const { return std::span(buffer_).subspan(begin_, end_ - begin_); }

std::span<std::byte> FrameReader::prepare() {
  if (failure_) begin_ = end_;
  if (begin_ > 0) {
    std::ranges::copy(unread(), buffer_.begin());
    end_ -= std::exchange(begin_, 0);
  }
  const std::size_t limit = std::min(kBufferLimit, end_ + kReadAhead);
  if (buffer_.size() < limit) buffer_.resize(limit);
  return std::span(buffer_).subspan(end_, limit - end_);
}

void FrameReader::commit(std::size_t n) { end_ = std::min(end_ + n, buffer_.size()); }

Next FrameReader::next() {
  if (failure_) return Failure(*failure_);
  Next frame = next_frame();
  if (!frame) failure_ = frame.error();
  return frame;
}

Next FrameReader::next_frame() {
  if (payload_left_ > 0) return fail(Errc::out_of_order, "the next message, before the data of the last was taken");
  while (skip_unknown()) {
    const auto header = peek_header(unread());
    if (!header) return std::nullopt;
    if (auto checked = check_header(*header, is_established_); !checked) return Failure(std::move(checked).error());
    if (header->type == MessageType::chunk) return chunk_frame(header->length);
    if (is_known(header->type)) return message_frame(header->type, header->length);
    ++skipped_;
    begin_ += kFrameHeader;
    skip_left_ = header->length - kTypeSize;
  }
  return std::nullopt;
}

Next FrameReader::chunk_frame(std::uint32_t length) {
  if (unread().size() < kFrameHeader + kChunkFields) return std::nullopt;
  auto bytes = unread().subspan(kFrameHeader);
  ChunkHeader header;
  if (!codec::read(bytes, header)) return fail(Errc::malformed, "head of a chunk message");
  header.length = length - static_cast<std::uint32_t>(kTypeSize + kChunkFields);
  if (header.length > kChunkSize || header.offset > kChunkSize - header.length)
    return fail(Errc::malformed, fmt::format("chunk message with {} bytes from {} on", header.length, header.offset));
  begin_ += kFrameHeader + kChunkFields;
  payload_left_ = header.length;
  return Incoming(header);
}

Next FrameReader::message_frame(MessageType type, std::uint32_t length) {
  const std::size_t payload_size = length - kTypeSize;
  if (unread().size() < kFrameHeader + payload_size) return std::nullopt;
  auto message = decode(type, unread().subspan(kFrameHeader, payload_size));
  if (!message) return Failure(std::move(message).error());
  begin_ += kFrameHeader + payload_size;
  return Incoming(std::move(message->value()));
}

/// Drops what is there of a frame of an unknown type; whether all of it was.
bool FrameReader::skip_unknown() {
  const std::size_t n = std::min<std::size_t>(skip_left_, unread().size());
  begin_ += n;
  skip_left_ -= static_cast<std::uint32_t>(n);
  return skip_left_ == 0;
}

std::size_t FrameReader::take_payload(std::span<std::byte> out) {
  const std::size_t n = std::min({out.size(), unread().size(), std::size_t{payload_left_}});
  std::ranges::copy(unread().first(n), out.begin());
  begin_ += n;
  payload_left_ -= static_cast<std::uint32_t>(n);
  return n;
}

void FrameReader::payload_read(std::size_t n) { payload_left_ -= static_cast<std::uint32_t>(std::min<std::size_t>(n, payload_left_)); }

}  // namespace shoal
