// Any bytes, as a connection (in both phases, whole and in pieces) and as the fields of each message.
#include <tl/expected.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <system_error>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "check.hpp"

import shoal.base;
import shoal.wire;

using namespace shoal;

namespace {

using Bytes = std::span<const std::byte>;
using ByteVector = std::vector<std::byte>;

// ---- the fields of a message --------------------------------------------------------------------------

/// Whether it has a field in which what we do not know becomes `other`.
bool is_lossy(MessageType type) { return type == MessageType::refusal || type == MessageType::refer || type == MessageType::verified; }

/// What was decoded is what its encoding says, and stands at the front of what it was decoded from.
void check_encoding(const Message& message, Bytes payload) {
  ByteVector frame;
  const auto result = encode(message, frame);
  check(result.has_value() == (encoded_size(message) <= kControlLimit), "encode fails just over the limit");
  check(frame.size() == (result ? encoded_size(message) : 0), "encoded_size is what encode appends");
  if (!result) return;
  const Bytes fields = Bytes(frame).subspan(kFrameHeader);
  check(is_lossy(type_of(message)) || std::ranges::equal(fields, payload.first(std::min(fields.size(), payload.size()))),
        "an encoding is what was decoded");
  const auto again = decode(type_of(message), fields);
  check(again && again->has_value(), "an encoding decodes");
}

void fuzz_decode(Bytes bytes) {
  const auto each = [&]<class... M>(std::type_identity<std::variant<M...>>) {
    const auto one = [&](MessageType type) {
      const auto message = decode(type, bytes);
      check(message || message.error().code == Errc::malformed, "decode fails only with malformed");
      check(!message || message->has_value(), "a known type is decoded");
      if (message) check_encoding(**message, bytes);
    };
    (one(M::kType), ...);
  };
  each(std::type_identity<MessageKinds>{});
}

void fuzz_datagram(Bytes bytes) {
  const auto message = decode_datagram(bytes);
  check(message || message.error().code == Errc::malformed, "a datagram fails only with malformed");
  if (!message || !*message) return;
  ByteVector frame;
  check(!encode(**message, frame) || frame.size() <= bytes.size(), "a datagram says no more than it has");
}

// ---- a connection -------------------------------------------------------------------------------------

/// What came of a connection; enough to tell two of them apart.
struct Reading {
  std::vector<std::size_t> frames;  ///< Type and size of each.
  std::uint64_t skipped = 0;
  bool has_failed = false;
  friend bool operator==(const Reading&, const Reading&) = default;
};

std::size_t read_some(Bytes& stream, std::span<std::byte> out, std::size_t piece) {
  const std::size_t n = std::min({stream.size(), out.size(), piece});
  std::ranges::copy(stream.first(n), out.begin());
  stream = stream.subspan(n);
  return n;
}

void take_data(FrameReader& reader, Bytes& stream, std::size_t piece) {
  ByteVector data(std::min<std::size_t>(piece, kChunkSize));
  while (reader.payload_left() > 0) {
    const std::span<std::byte> out = std::span(data).first(std::min<std::size_t>(data.size(), reader.payload_left()));
    if (reader.take_payload(out) > 0) continue;
    if (stream.empty()) return;
    reader.payload_read(read_some(stream, out, piece));
  }
}

Reading read_stream(Bytes stream, bool is_established, std::size_t piece) {
  FrameReader reader;
  if (is_established) reader.established();
  Reading reading;
  for (;;) {
    const auto incoming = reader.payload_left() > 0 ? Result<std::optional<Incoming>>(std::nullopt) : reader.next();
    reading.skipped = reader.skipped();
    reading.has_failed = !incoming.has_value();
    if (!incoming) return reading;
    if (incoming->has_value()) {
      const auto* message = std::get_if<Message>(&**incoming);
      reading.frames.push_back(message ? static_cast<std::size_t>(type_of(*message)) : 0);
      reading.frames.push_back(message ? encoded_size(*message) : std::get<ChunkHeader>(**incoming).length);
      if (!message) take_data(reader, stream, piece);
      continue;
    }
    if (stream.empty()) return reading;
    const auto space = reader.prepare();
    check(!space.empty(), "there is room to read into");
    reader.commit(read_some(stream, space, piece));
  }
}

void fuzz_reader(Bytes bytes, std::size_t piece) {
  for (const bool is_established : {false, true}) {
    const Reading whole = read_stream(bytes, is_established, bytes.size() + 1);
    check(read_stream(bytes, is_established, piece) == whole, "a reader makes the same of a stream however it is split");
  }
}

}  // namespace

/// The first byte says how long the pieces of the stream are.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const Bytes bytes = std::as_bytes(std::span(data, size));
  if (bytes.empty()) return 0;
  fuzz_reader(bytes.subspan(1), 1 + std::to_integer<std::size_t>(bytes[0]));
  fuzz_decode(bytes.subspan(1));
  fuzz_datagram(bytes.subspan(1));
  return 0;
}
