#include <rapidcheck.h>

#include <fmt/core.h>
#include <catch2/catch_test_macros.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

import shoal.base;
import shoal.digest;
import shoal.manifest;
import shoal.wire;

using namespace shoal;

namespace {

using ByteVector = std::vector<std::byte>;

// RC_ASSERT takes an expression apart: && and || in it need parentheses of their own to stop early.

// ---- values of any type that travels, from its field list ---------------------------------------------

template <class T>
T pick();

std::uint8_t last_of(Role) { return 4; }
std::uint8_t last_of(ReferReason) { return 5; }
std::uint8_t last_of(Judgement) { return 4; }
std::uint8_t last_of(SearchKind) { return 1; }
std::uint8_t last_of(EntryKind) { return 1; }
std::uint8_t last_of(Appetite) { return 1; }
std::uint16_t last_of(RefusalReason) { return 6; }

template <class List>
List pick_list() {
  List list;
  const auto count = *rc::gen::inRange(0, 5);
  for (int i = 0; i < count; ++i) list.push_back(pick<typename List::value_type>());
  return list;
}

template <class T>
T pick_record() {
  T record;
  std::apply([&](auto... field) { ((record.*field = pick<std::remove_cvref_t<decltype(record.*field)>>()), ...); }, codec::field_list<T>());
  return record;
}

/// Any word, and the ends of each width more often than by chance.
std::uint64_t pick_word() {
  return *rc::gen::oneOf(rc::gen::arbitrary<std::uint64_t>(), rc::gen::element<std::uint64_t>(0, ~0ull, 1ull << 63, 1ull << 31));
}

template <class D>
D pick_digest() {
  D digest;
  std::uint64_t word = pick_word();
  for (auto& byte : digest.bytes) byte = static_cast<std::uint8_t>((word = word * 31 + 7) >> 16);
  return digest;
}

template <class T>
T pick() {
  if constexpr (std::is_enum_v<T>)
    return static_cast<T>(pick_word() % (last_of(T{}) + 1u));
  else if constexpr (std::is_same_v<T, bool>)
    return pick_word() % 2 == 1;
  else if constexpr (std::is_integral_v<T>)
    return static_cast<T>(pick_word());
  else if constexpr (codec::kIsIndex<T>)
    return T(pick<std::uint32_t>());
  else if constexpr (codec::kIsDigest<T>)
    return pick_digest<T>();
  else if constexpr (codec::kIsList<T>)
    return pick_list<T>();
  else
    return pick_record<T>();
}

bool same_fields(const Message& left, const Message& right) {
  const auto same = [&]<class M>(const M& message) {
    const M* other = std::get_if<M>(&right);
    return other != nullptr &&
           std::apply([&](auto... field) { return ((message.*field == other->*field) && ...); }, codec::field_list<M>());
  };
  return std::visit(same, left);
}

/// One kind of message: what a property runs over.
struct Kind {
  MessageType type;
  Message (*pick)();
};

template <class... M>
std::vector<Kind> kinds_of(std::type_identity<std::variant<M...>>) {
  return {Kind{M::kType, [] { return Message(pick<M>()); }}...};
}

const std::vector<Kind> kKinds = kinds_of(std::type_identity<MessageKinds>{});

/// Runs a property for each kind of message by itself.
void check_each_kind(const char* text, const std::function<void(const Kind&)>& property) {
  for (const Kind& kind : kKinds) REQUIRE(rc::check(fmt::format("{} ({})", text, name_of(kind.type)), [&] { property(kind); }));
}

ByteVector encoded(const Message& message) {
  ByteVector out;
  RC_ASSERT(encode(message, out).has_value());
  return out;
}

std::span<const std::byte> payload_of(const ByteVector& frame) { return std::span(frame).subspan(kFrameHeader); }

ByteVector pick_bytes(std::size_t limit) {
  const auto bytes =
      *rc::gen::container<std::vector<std::uint8_t>>(*rc::gen::inRange<std::size_t>(0, limit), rc::gen::arbitrary<std::uint8_t>());
  ByteVector out(bytes.size());
  std::ranges::transform(bytes, out.begin(), [](std::uint8_t byte) { return std::byte{byte}; });
  return out;
}

// ---- a connection that gives its bytes in pieces ------------------------------------------------------

/// Everything that a reader makes of `stream`, written out so that two readings can be compared. `piece` says how many
/// bytes the next read may bring.
template <class Piece>
std::string read_all(std::span<const std::byte> stream, bool is_established, Piece piece) {
  FrameReader reader;
  if (is_established) reader.established();
  std::string log;
  const auto from_stream = [&](std::span<std::byte> out) {
    const auto n = std::min({out.size(), stream.size(), std::size_t{piece()}});
    std::ranges::copy(stream.first(n), out.begin());
    stream = stream.subspan(n);
    return n;
  };
  const auto log_bytes = [&](std::span<const std::byte> bytes) {
    for (const std::byte byte : bytes) log += static_cast<char>(byte);
  };
  for (;;) {
    auto incoming = reader.next();
    if (!incoming) return log + "failed: " + incoming.error().message();
    if (!incoming->has_value()) {
      if (stream.empty()) return log + fmt::format("end, {} skipped", reader.skipped());
      const auto space = reader.prepare();
      if (space.empty()) return log + "no room";
      reader.commit(from_stream(space));
      continue;
    }
    ByteVector frame;
    if (const auto* message = std::get_if<Message>(&**incoming)) {
      if (!encode(*message, frame)) return log + "cannot encode";
      log_bytes(frame);
      continue;
    }
    encode(std::get<ChunkHeader>(**incoming), frame);
    log_bytes(frame);
    while (reader.payload_left() > 0) {
      ByteVector data(std::min<std::size_t>(reader.payload_left(), std::size_t{piece()}));
      std::size_t n = reader.take_payload(data);
      if (n == 0 && stream.empty()) return log + "end within a chunk";
      if (n == 0) reader.payload_read(n = from_stream(data));
      log_bytes(std::span(data).first(n));
    }
  }
}

std::string read_at_once(std::span<const std::byte> stream, bool is_established) {
  return read_all(stream, is_established, [] { return std::size_t{1} << 30; });
}

std::string read_in_pieces(std::span<const std::byte> stream, bool is_established, std::uint64_t seed) {
  return read_all(stream, is_established, [seed]() mutable {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return static_cast<std::size_t>(1 + (seed >> 33) % (seed >> 40 & 1 ? 5 : 3000));
  });
}

void append_frame(ByteVector& stream) {
  const auto what = *rc::gen::inRange(0, 8);
  if (what == 0) {
    const ByteVector data = pick_bytes(3000);
    encode(ChunkHeader{.handle = 1, .chunk = 2, .offset = 3, .length = static_cast<std::uint32_t>(data.size() + 1)}, stream);
    stream.push_back(std::byte{0x5a});
    stream.insert(stream.end(), data.begin(), data.end());
  } else if (what == 1) {
    const ByteVector fields = pick_bytes(3000);
    codec::Appender sink{stream};
    codec::write(sink, static_cast<std::uint32_t>(fields.size() + 2));
    codec::write(sink, std::uint16_t{999});
    sink.append(fields);
  } else {
    RC_ASSERT(encode(kKinds[*rc::gen::inRange<std::size_t>(0, kKinds.size())].pick(), stream).has_value());
  }
}

ByteVector pick_stream() {
  ByteVector stream;
  const auto frames = *rc::gen::inRange(0, 12);
  for (int i = 0; i < frames; ++i) append_frame(stream);
  return stream;
}

}  // namespace

TEST_CASE("Every message comes out of decode as it went into encode") {
  check_each_kind("decode(encode(m)) is m", [](const Kind& kind) {
    const Message message = kind.pick();
    const ByteVector frame = encoded(message);
    const auto decoded = decode(kind.type, payload_of(frame));
    RC_ASSERT((decoded.has_value() && decoded->has_value()));
    RC_ASSERT(same_fields(**decoded, message));
  });
}

TEST_CASE("The encoded size of every message is what encode appends") {
  check_each_kind("encoded_size(m) is right", [](const Kind& kind) {
    const Message message = kind.pick();
    RC_ASSERT(encoded(message).size() == encoded_size(message));
  });
}

TEST_CASE("Every message that is cut short is malformed") {
  check_each_kind("no prefix decodes", [](const Kind& kind) {
    const ByteVector frame = encoded(kind.pick());
    const auto payload = payload_of(frame);
    for (std::size_t size = 0; size < payload.size(); ++size) {
      const auto decoded = decode(kind.type, payload.first(size));
      RC_ASSERT((!decoded && decoded.error().code == Errc::malformed));
    }
  });
}

TEST_CASE("Every message with more behind it is the same message") {
  check_each_kind("trailing bytes change nothing", [](const Kind& kind) {
    const Message message = kind.pick();
    ByteVector frame = encoded(message);
    const ByteVector more = pick_bytes(50);
    const ByteVector plain = frame;
    frame.insert(frame.end(), more.begin(), more.end());
    const auto decoded = decode(kind.type, payload_of(frame));
    RC_ASSERT((decoded.has_value() && decoded->has_value()));
    RC_ASSERT(encoded(**decoded) == plain);
  });
}

TEST_CASE("Random fields decode to a message or are malformed, for every type") {
  check_each_kind("nothing else happens", [](const Kind& kind) {
    const ByteVector payload = pick_bytes(300);
    const auto decoded = decode(kind.type, payload);
    if (decoded) RC_ASSERT(type_of(decoded->value()) == kind.type);
    if (!decoded) RC_ASSERT(decoded.error().code == Errc::malformed);
  });
}

TEST_CASE("A message with damaged bytes decodes to a message or is malformed, for every type") {
  check_each_kind("nothing else happens", [](const Kind& kind) {
    ByteVector frame = encoded(kind.pick());
    for (int i = 0; i < 3; ++i) frame[*rc::gen::inRange<std::size_t>(kFrameHeader, frame.size())] = std::byte{pick<std::uint8_t>()};
    const auto decoded = decode(kind.type, payload_of(frame));
    RC_ASSERT((decoded || decoded.error().code == Errc::malformed));
  });
}

TEST_CASE("A reader makes the same of a stream however it is split") {
  REQUIRE(rc::check("messages, chunks and unknown frames", [] {
    const ByteVector stream = pick_stream();
    RC_ASSERT(read_in_pieces(stream, true, pick<std::uint64_t>()) == read_at_once(stream, true));
  }));
}

TEST_CASE("A reader makes the same of a damaged stream however it is split") {
  REQUIRE(rc::check("with some bytes changed, and either phase", [] {
    ByteVector stream = pick_stream();
    for (int i = 0; i < 3 && !stream.empty(); ++i)
      stream[*rc::gen::inRange<std::size_t>(0, stream.size())] = std::byte{pick<std::uint8_t>()};
    const bool is_established = pick<bool>();
    RC_ASSERT(read_in_pieces(stream, is_established, pick<std::uint64_t>()) == read_at_once(stream, is_established));
  }));
}

TEST_CASE("Random bytes never harm a reader") {
  REQUIRE(rc::check("any bytes, any phase", [] {
    const ByteVector stream = pick_bytes(2000);
    const bool is_established = pick<bool>();
    RC_ASSERT(read_in_pieces(stream, is_established, pick<std::uint64_t>()) == read_at_once(stream, is_established));
  }));
}
