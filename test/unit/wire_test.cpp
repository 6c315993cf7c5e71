#include <fmt/core.h>
#include <catch2/catch_test_macros.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
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

/// `0a ff`: two bytes.
ByteVector bytes_of(std::string_view hex) {
  const auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
  ByteVector bytes;
  for (std::size_t i = 0; i + 1 < hex.size(); ++i)
    if (hex[i] != ' ') {
      bytes.push_back(static_cast<std::byte>(digit(hex[i]) * 16 + digit(hex[i + 1])));
      ++i;
    }
  return bytes;
}

std::string hex_of(std::span<const std::byte> bytes) {
  std::string hex;
  for (const std::byte byte : bytes) hex += fmt::format("{}{:02x}", hex.empty() ? "" : " ", std::to_integer<unsigned>(byte));
  return hex;
}

ByteVector encoded(const Message& message) {
  ByteVector out;
  REQUIRE(encode(message, out).has_value());
  return out;
}

ByteVector encoded_chunk(const ChunkHeader& header) {
  ByteVector out;
  encode(header, out);
  return out;
}

ByteVector payload_of(const Message& message) {
  ByteVector frame = encoded(message);
  frame.erase(frame.begin(), frame.begin() + kFrameHeader);
  return frame;
}

/// A frame of any type and length, its fields all `fill`.
ByteVector frame_of(std::uint16_t type, std::size_t payload_size, std::byte fill = std::byte{0}) {
  ByteVector frame;
  codec::Appender sink{frame};
  codec::write(sink, static_cast<std::uint32_t>(payload_size + sizeof type));
  codec::write(sink, type);
  frame.resize(kFrameHeader + payload_size, fill);
  return frame;
}

void append(ByteVector& to, const ByteVector& bytes) { to.insert(to.end(), bytes.begin(), bytes.end()); }

/// Puts bytes into a reader that has been drained, as a connection would.
void feed(FrameReader& reader, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const auto space = reader.prepare();
    REQUIRE_FALSE(space.empty());
    const std::size_t n = std::min(space.size(), bytes.size());
    std::ranges::copy(bytes.first(n), space.begin());
    reader.commit(n);
    bytes = bytes.subspan(n);
  }
}

FrameReader established_reader() {
  FrameReader reader;
  reader.established();
  return reader;
}

/// The next message has to be an `M`.
template <class M>
M expect(FrameReader& reader) {
  auto incoming = reader.next();
  REQUIRE(incoming.has_value());
  REQUIRE(incoming->has_value());
  if constexpr (std::is_same_v<M, ChunkHeader>)
    return std::get<ChunkHeader>(**incoming);
  else
    return std::get<M>(std::get<Message>(**incoming));
}

bool has_nothing(FrameReader& reader) {
  const auto incoming = reader.next();
  return incoming.has_value() && !incoming->has_value();
}

std::error_code failure_after(FrameReader reader, std::span<const std::byte> bytes) {
  feed(reader, bytes);
  const auto incoming = reader.next();
  return incoming ? std::error_code{} : incoming.error().code;
}

std::error_code decode_failure(MessageType type, std::span<const std::byte> payload) {
  const auto message = decode(type, payload);
  return message ? std::error_code{} : message.error().code;
}

template <class M>
std::optional<M> decoded(std::span<const std::byte> payload) {
  auto message = decode(M::kType, payload);
  if (!message || !message->has_value()) return std::nullopt;
  return std::get<M>(std::move(**message));
}

template <std::size_t N, class Tag>
void fill(Digest<N, Tag>& digest, std::uint8_t first) {
  for (auto& byte : digest.bytes) byte = first++;
}

FileEntry sample_entry() {
  FileEntry entry{.name = "a/b", .kind = EntryKind::file, .size = 0x1122, .mtime_ns = -2, .executable = true, .md5 = {}, .root = {}};
  fill(entry.md5, 0x10);
  fill(entry.root, 0x80);
  return entry;
}

}  // namespace

// ---- the format ---------------------------------------------------------------------------------------

TEST_CASE("A hello keeps its bytes") {
  const Hello hello{
      .magic = kMagic, .version = 1, .oldest = 1, .features = 0, .role = Role::peer_to_peer, .id = "mars", .instance = 0x0102030405060708};
  CHECK(hex_of(encoded(hello)) ==
        "23 00 00 00 01 00 "
        "53 48 41 4c 01 00 01 00 00 00 00 00 00 00 00 00 01 04 00 00 00 6d 61 72 73 08 07 06 05 04 03 02 01");
}

TEST_CASE("An offer keeps its bytes, and so does the file entry in it") {
  CHECK(hex_of(encoded(Offer{{sample_entry()}})) ==
        "4f 00 00 00 12 00 01 00 00 00 "
        "03 00 00 00 61 2f 62 00 22 11 00 00 00 00 00 00 fe ff ff ff ff ff ff ff 01 "
        "10 11 12 13 14 15 16 17 18 19 1a 1b 1c 1d 1e 1f "
        "80 81 82 83 84 85 86 87 88 89 8a 8b 8c 8d 8e 8f 90 91 92 93 94 95 96 97 98 99 9a 9b 9c 9d 9e 9f");
}

TEST_CASE("A request keeps its bytes") {
  CHECK(hex_of(encoded(Request{{{7, 258}, {8, 0}}})) == "16 00 00 00 33 00 02 00 00 00 07 00 00 00 02 01 00 00 08 00 00 00 00 00 00 00");
}

TEST_CASE("A roster keeps its bytes") {
  CHECK(hex_of(encoded(Roster{{{PeerId(3), "p", "::1", 5555, true, false}}})) ==
        "1a 00 00 00 15 00 01 00 00 00 03 00 00 00 01 00 00 00 70 03 00 00 00 3a 3a 31 b3 15 01 00");
}

TEST_CASE("The head of a chunk keeps its bytes, and its length counts the data that follows") {
  CHECK(hex_of(encoded_chunk({.handle = 1, .chunk = 2, .offset = 0x4000, .length = 0x10000})) ==
        "0e 00 01 00 36 00 01 00 00 00 02 00 00 00 00 40 00 00");
}

TEST_CASE("A tick and a tock keep their bytes") {
  CHECK(hex_of(encoded(Tick{1, 2, 3, 4})) ==
        "22 00 00 00 22 00 01 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00 04 00 00 00 00 00 00 00");
  CHECK(hex_of(encoded(Tock{1, 2, 3, 4, -1})) ==
        "2a 00 00 00 23 00 01 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00 03 00 00 00 00 00 00 00 "
        "04 00 00 00 00 00 00 00 ff ff ff ff ff ff ff ff");
}

TEST_CASE("What is said of several connections keeps its bytes") {
  CHECK(hex_of(encoded(Joinable{{1, 2}, 8})) == "16 00 00 00 40 00 01 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00 08 00 00 00");
  CHECK(hex_of(encoded(Join{{1, 2}, 3})) == "16 00 00 00 41 00 01 00 00 00 00 00 00 00 02 00 00 00 00 00 00 00 03 00 00 00");
  CHECK(hex_of(encoded(Placed{258})) == "0a 00 00 00 42 00 02 01 00 00 00 00 00 00");
  CHECK(hex_of(encoded(Arrived{3, 258, true})) == "0f 00 00 00 43 00 03 00 00 00 02 01 00 00 00 00 00 00 01");
  CHECK(hex_of(encoded(After{258})) == "0a 00 00 00 44 00 02 01 00 00 00 00 00 00");
}

TEST_CASE("What nodes of the overlay say keeps its bytes") {
  CHECK(hex_of(encoded(OverlayJoin{{2, 3}, "h", 4, 5, true})) ==
        "1a 00 00 00 48 00 02 00 00 00 03 00 00 00 00 00 00 00 01 00 00 00 68 04 00 05 00 00 00 01");
  CHECK(hex_of(encoded(Attach{{{2, 3}, "h", 4}, {1, 9}, true}))
            .starts_with("22 00 00 00 50 00 02 00 00 00 03 00 00 00 00 00 00 00 01 00 00 00 68 04 00"));
  CHECK(hex_of(encoded(Refer{ReferReason::full, {}})) == "07 00 00 00 52 00 01 00 00 00 00");
  CHECK(hex_of(encoded(Verified{1, Judgement::older, 6})) == "0f 00 00 00 55 00 01 00 00 00 00 00 00 00 04 06 00 00 00");
  CHECK(hex_of(encoded(Search{7, SearchKind::nodes, "", 1, 2, 3})) ==
        "1b 00 00 00 58 00 07 00 00 00 00 00 00 00 01 00 00 00 00 01 00 00 00 02 00 00 00 03 00 00 00");
}

TEST_CASE("A reason to refer that only a later version knows is some other reason") {
  const auto decoded = decode(MessageType::refer, payload_of(Refer{static_cast<ReferReason>(99), {}}));
  REQUIRE((decoded && *decoded));
  CHECK(std::get<Refer>(**decoded).reason == ReferReason::other);
}

TEST_CASE("An empty list and an empty text are a count of zero") { CHECK(hex_of(encoded(Offer{})) == "06 00 00 00 12 00 00 00 00 00"); }

TEST_CASE("Every message has a name of its own") {
  std::vector<std::string_view> names;
  [&]<class... M>(std::type_identity<std::variant<M...>>) {
    (names.push_back(name_of(M::kType)), ...);
  }(std::type_identity<MessageKinds>{});
  names.push_back(name_of(MessageType::chunk));
  names.push_back(name_of(MessageType{999}));
  std::ranges::sort(names);
  CHECK(std::ranges::adjacent_find(names) == names.end());
}

// ---- encoding -----------------------------------------------------------------------------------------

TEST_CASE("A message of exactly the control limit is encoded") {
  Refusal refusal;
  refusal.text.resize(kControlLimit - encoded_size(refusal));
  CHECK(encoded(refusal).size() == kControlLimit);
}

TEST_CASE("A message over the control limit is refused, and nothing is appended") {
  Refusal refusal;
  refusal.text.resize(kControlLimit - encoded_size(refusal) + 1);
  ByteVector out(3);
  const auto result = encode(refusal, out);
  CHECK((!result && result.error().code == Errc::too_large && out.size() == 3));
}

TEST_CASE("Encoding appends to what is there") {
  ByteVector out = bytes_of("aa");
  REQUIRE(encode(Leave{7}, out).has_value());
  CHECK(hex_of(out) == "aa 03 00 00 00 06 00 07");
}

TEST_CASE("The sizes of elements add up to the size of the message") {
  const FileEntry entry = sample_entry();
  const FoundEntry found{entry, {PeerId(1), PeerId(2)}};
  const Holding holding{.handle = 1, .root = entry.root, .size = 9, .is_complete = false, .first_chunk = 0, .bits = {1, 2, 3}};
  const Offered offered{PeerId(4), entry};
  CHECK(encoded_size(Offer{{entry, entry}}) == encoded_size(Offer{}) + 2 * encoded_size(entry));
  CHECK(encoded_size(Found{0, true, {found}}) == encoded_size(Found{}) + encoded_size(found));
  CHECK(encoded_size(Inventory{{holding}}) == encoded_size(Inventory{}) + encoded_size(holding));
  CHECK(encoded_size(Catalogue{0, {offered}, {}}) == encoded_size(Catalogue{}) + encoded_size(offered));
}

// ---- decoding -----------------------------------------------------------------------------------------

TEST_CASE("A file entry comes out as it went in") {
  const auto offer = decoded<Offer>(payload_of(Offer{{sample_entry()}}));
  REQUIRE(offer.has_value());
  CHECK(offer->entries == std::vector{sample_entry()});
}

TEST_CASE("A text may hold any bytes") {
  const std::string text("\0\xff\x80\n", 4);
  const auto find = decoded<Find>(payload_of(Find{1, text}));
  CHECK((find && find->pattern == text));
}

TEST_CASE("Bytes after the last known field are ignored") {
  ByteVector payload = payload_of(Ping{42});
  append(payload, bytes_of("01 02 03"));
  const auto ping = decoded<Ping>(payload);
  CHECK((ping && ping->t1 == 42));
}

TEST_CASE("A type that nobody knows decodes to nothing") {
  const auto message = decode(MessageType{999}, bytes_of("01 02"));
  CHECK((message.has_value() && !message->has_value()));
}

TEST_CASE("A missing field is malformed, and the failure names it") {
  ByteVector payload = payload_of(Welcome{});
  payload.pop_back();
  const auto message = decode(MessageType::welcome, payload);
  REQUIRE_FALSE(message.has_value());
  CHECK(message.error().message() == "field 4 of a welcome message: malformed data");
}

TEST_CASE("A boolean other than 0 and 1 is malformed") {
  ByteVector payload = payload_of(Subscribe{});
  payload[0] = std::byte{2};
  CHECK(decode_failure(MessageType::subscribe, payload) == Errc::malformed);
}

TEST_CASE("An unknown role is malformed") {
  CHECK(decode_failure(MessageType::hello, payload_of(Hello{.role = Role{5}, .id = {}})) == Errc::malformed);
}

TEST_CASE("An unknown appetite is malformed") {
  CHECK(decode_failure(MessageType::register_peer, payload_of(Register{.host = {}, .appetite = Appetite{2}})) == Errc::malformed);
}

TEST_CASE("An unknown kind of entry is malformed") {
  FileEntry entry = sample_entry();
  entry.kind = EntryKind{2};
  CHECK(decode_failure(MessageType::offer, payload_of(Offer{{entry}})) == Errc::malformed);
}

TEST_CASE("An unknown reason for a refusal is some other reason") {
  const auto refusal = decoded<Refusal>(payload_of(Refusal{RefusalReason{99}, "because"}));
  CHECK((refusal && refusal->reason == RefusalReason::other && refusal->text == "because"));
}

TEST_CASE("A count that the bytes cannot hold is malformed, whatever its elements") {
  const ByteVector huge = bytes_of("ff ff ff ff 00 00 00 00");
  CHECK(decode_failure(MessageType::offer, huge) == Errc::malformed);
  CHECK(decode_failure(MessageType::withdraw, huge) == Errc::malformed);
  CHECK(decode_failure(MessageType::gone, huge) == Errc::malformed);
  CHECK(decode_failure(MessageType::request, bytes_of("02 00 00 00 01 00 00 00 01 00 00 00")) == Errc::malformed);
}

TEST_CASE("The shortest elements that fit a frame take little memory") {
  const std::size_t names = (kControlLimit - kFrameHeader - 4) / 4;
  const auto withdraw = decoded<Withdraw>(payload_of(Withdraw{std::vector<std::string>(names)}));
  REQUIRE(withdraw.has_value());
  CHECK(withdraw->names.capacity() * sizeof(std::string) <= kMiB);
}

TEST_CASE("An element has no room for unknown fields") {
  ByteVector payload = payload_of(Have{{{1, 2, 3}, {4, 5, 6}}});
  payload.insert(payload.begin() + 4 + 12, std::byte{9});
  const auto have = decoded<Have>(payload);
  CHECK((have && have->runs[1] != ChunkRun{4, 5, 6}));
}

// ---- messages that grow -------------------------------------------------------------------------------

namespace {

/// A message of version 1 as version 2 could have it.
struct Grown {
  std::uint16_t old = 0;
  std::uint32_t added = 77;
  std::string added_too = "default";
  static constexpr std::size_t kRequired = 1;
  static constexpr auto fields() { return std::tuple{&Grown::old, &Grown::added, &Grown::added_too}; }
};

}  // namespace

TEST_CASE("Fields that an older version does not send keep their defaults") {
  Grown grown;
  REQUIRE(codec::read_message(bytes_of("05 00"), grown) == 0);
  CHECK(std::tuple(grown.old, grown.added, grown.added_too) == std::tuple(5, 77u, "default"));
}

TEST_CASE("A version between the two sends some of the added fields") {
  Grown grown;
  REQUIRE(codec::read_message(bytes_of("05 00 06 00 00 00"), grown) == 0);
  CHECK(std::tuple(grown.old, grown.added, grown.added_too) == std::tuple(5, 6u, "default"));
}

TEST_CASE("An added field that is there has to be whole") {
  Grown grown;
  CHECK(codec::read_message(bytes_of("05 00 06 00 00"), grown) == 2);
}

TEST_CASE("A required field has to be there also where others need not be") {
  Grown grown;
  CHECK(codec::read_message(bytes_of("05"), grown) == 1);
}

// ---- the frame reader ---------------------------------------------------------------------------------

TEST_CASE("Nothing comes out of a reader that has nothing") {
  FrameReader reader;
  CHECK(has_nothing(reader));
}

TEST_CASE("Messages come out in order, one at a time") {
  FrameReader reader = established_reader();
  ByteVector stream = encoded(Ping{1});
  append(stream, encoded(Ping{2}));
  feed(reader, stream);
  CHECK((expect<Ping>(reader).t1 == 1 && expect<Ping>(reader).t1 == 2 && has_nothing(reader)));
}

TEST_CASE("A message that comes byte by byte comes out once, at its end") {
  FrameReader reader = established_reader();
  const ByteVector frame = encoded(Ping{9});
  for (const auto& byte : std::span(frame).first(frame.size() - 1)) {
    feed(reader, std::span(&byte, 1));
    REQUIRE(has_nothing(reader));
  }
  feed(reader, std::span(frame).last(1));
  CHECK(expect<Ping>(reader).t1 == 9);
}

TEST_CASE("A message of the control limit passes through the buffer whole") {
  FrameReader reader = established_reader();
  Refusal refusal;
  refusal.text.resize(kControlLimit - encoded_size(refusal), 'x');
  ByteVector stream = encoded(Ping{1});
  append(stream, encoded(refusal));
  feed(reader, std::span(stream).first(20));
  expect<Ping>(reader);
  feed(reader, std::span(stream).subspan(20));
  CHECK(expect<Refusal>(reader).text == refusal.text);
}

TEST_CASE("Unknown types are skipped and counted") {
  FrameReader reader = established_reader();
  ByteVector stream = frame_of(999, 0);
  append(stream, frame_of(1000, 50000));
  append(stream, encoded(Ping{5}));
  for (auto rest = std::span<const std::byte>(stream); !rest.empty(); rest = rest.subspan(std::min<std::size_t>(rest.size(), 10000))) {
    feed(reader, rest.first(std::min<std::size_t>(rest.size(), 10000)));
    if (rest.size() > 10000) REQUIRE(has_nothing(reader));
  }
  CHECK((expect<Ping>(reader).t1 == 5 && reader.skipped() == 2));
}

TEST_CASE("What is skipped is not kept") {
  FrameReader reader = established_reader();
  const ByteVector frame = frame_of(999, 60000);
  feed(reader, std::span(frame).first(16000));
  REQUIRE(has_nothing(reader));
  const auto empty_again = reader.prepare().size();
  CHECK(empty_again == FrameReader().prepare().size());
}

TEST_CASE("A datagram is one whole frame") {
  std::vector<std::byte> frame;
  REQUIRE(encode(Tick{7, 8, 9, 10}, frame));
  const auto message = decode_datagram(frame);
  REQUIRE((message && *message));
  const auto& tick = std::get<Tick>(**message);
  CHECK((tick.number == 7 && tick.t1 == 8 && tick.date_us == 9 && tick.token == 10));
  for (std::size_t size = 0; size < frame.size(); ++size) {
    const auto part = decode_datagram(std::span(frame).first(size));
    REQUIRE_FALSE(part);
    CHECK(part.error().code == make_error_code(Errc::malformed));
  }
  frame.push_back(std::byte{0});
  CHECK_FALSE(decode_datagram(frame));
}

TEST_CASE("A datagram of a type that we do not know is nothing") {
  const std::vector<std::byte> frame{std::byte{2}, std::byte{0}, std::byte{0}, std::byte{0}, std::byte{0xFF}, std::byte{0xFF}};
  const auto message = decode_datagram(frame);
  REQUIRE(message);
  CHECK_FALSE(*message);
}

TEST_CASE("Before the greeting only hello, welcome and refusal come through") {
  FrameReader reader;
  feed(reader, encoded(Hello{}));
  feed(reader, encoded(Welcome{}));
  feed(reader, encoded(Refusal{}));
  expect<Hello>(reader);
  expect<Welcome>(reader);
  expect<Refusal>(reader);
  CHECK(has_nothing(reader));
}

TEST_CASE("Before the greeting any other message is out of order, known or not") {
  CHECK(failure_after(FrameReader{}, encoded(Ping{})) == Errc::out_of_order);
  CHECK(failure_after(FrameReader{}, frame_of(999, 3)) == Errc::out_of_order);
  CHECK(failure_after(FrameReader{}, encoded_chunk({.handle = 0, .chunk = 0, .offset = 0, .length = 1})) == Errc::out_of_order);
}

TEST_CASE("What follows a hello waits until it is answered") {
  FrameReader reader;
  ByteVector stream = encoded(Hello{});
  append(stream, encoded(Ping{3}));
  feed(reader, stream);
  expect<Hello>(reader);
  reader.established();
  CHECK(expect<Ping>(reader).t1 == 3);
}

TEST_CASE("A limit holds as soon as the header is there, and for the whole frame") {
  const auto head = [](MessageType type, std::size_t frame_size) {
    ByteVector frame = frame_of(static_cast<std::uint16_t>(type), frame_size - kFrameHeader);
    frame.resize(kFrameHeader);
    return frame;
  };
  CHECK(failure_after(FrameReader{}, head(MessageType::hello, kGreetingLimit)) == std::error_code{});
  CHECK(failure_after(FrameReader{}, head(MessageType::hello, kGreetingLimit + 1)) == Errc::too_large);
  CHECK(failure_after(established_reader(), head(MessageType::offer, kControlLimit)) == std::error_code{});
  CHECK(failure_after(established_reader(), head(MessageType::offer, kControlLimit + 1)) == Errc::too_large);
  CHECK(failure_after(established_reader(), head(MessageType{999}, kControlLimit + 1)) == Errc::too_large);
  CHECK(failure_after(established_reader(), head(MessageType::chunk, kDataLimit)) == std::error_code{});
  CHECK(failure_after(established_reader(), head(MessageType::chunk, kDataLimit + 1)) == Errc::too_large);
}

TEST_CASE("A frame too short to have a type is malformed") {
  CHECK(failure_after(established_reader(), bytes_of("01 00 00 00 04 00")) == Errc::malformed);
}

TEST_CASE("A failure is for good, and there is still room to read into") {
  FrameReader reader;
  feed(reader, encoded(Ping{}));
  REQUIRE_FALSE(reader.next().has_value());
  reader.established();
  REQUIRE_FALSE(reader.prepare().empty());
  feed(reader, encoded(Ping{}));
  const auto again = reader.next();
  CHECK((!again && again.error().code == Errc::out_of_order));
}

// ---- chunks -------------------------------------------------------------------------------------------

TEST_CASE("A chunk's data is taken from the buffer, and the rest is read past it") {
  FrameReader reader = established_reader();
  ByteVector stream = encoded_chunk({.handle = 1, .chunk = 2, .offset = 3, .length = 1000});
  stream.resize(stream.size() + 100, std::byte{0xab});
  feed(reader, stream);
  REQUIRE(expect<ChunkHeader>(reader) == ChunkHeader{.handle = 1, .chunk = 2, .offset = 3, .length = 1000});
  ByteVector data(1000);
  const std::size_t taken = reader.take_payload(data);
  reader.payload_read(900);
  feed(reader, encoded(Ping{8}));
  CHECK((taken == 100 && data[99] == std::byte{0xab} && reader.payload_left() == 0 && expect<Ping>(reader).t1 == 8));
}

TEST_CASE("A chunk's data may be taken in small pieces and ends where the next frame begins") {
  FrameReader reader = established_reader();
  ByteVector stream = encoded_chunk({.handle = 1, .chunk = 0, .offset = 0, .length = 10});
  append(stream, bytes_of("00 01 02 03 04 05 06 07 08 09"));
  append(stream, encoded(Ping{8}));
  feed(reader, stream);
  expect<ChunkHeader>(reader);
  ByteVector data;
  ByteVector piece(3);
  while (const std::size_t n = reader.take_payload(piece))
    data.insert(data.end(), piece.begin(), piece.begin() + static_cast<std::ptrdiff_t>(n));
  CHECK((hex_of(data) == "00 01 02 03 04 05 06 07 08 09" && expect<Ping>(reader).t1 == 8));
}

TEST_CASE("Most of a chunk is read past the buffer") {
  FrameReader reader;
  CHECK(reader.prepare().size() * 8 <= kChunkSize);
}

TEST_CASE("The next message may not be asked for before a chunk's data is taken") {
  FrameReader reader = established_reader();
  feed(reader, encoded_chunk({.handle = 1, .chunk = 0, .offset = 0, .length = 10}));
  expect<ChunkHeader>(reader);
  const auto next = reader.next();
  CHECK((!next && next.error().code == Errc::out_of_order));
}

TEST_CASE("A whole chunk, and a piece at the end of one, are good") {
  CHECK(failure_after(established_reader(), encoded_chunk({.handle = 0, .chunk = 0, .offset = 0, .length = kChunkSize})) ==
        std::error_code{});
  CHECK(failure_after(established_reader(), encoded_chunk({.handle = 0, .chunk = 0, .offset = kChunkSize - 1, .length = 1})) ==
        std::error_code{});
}

TEST_CASE("A chunk without data, without its fields or past its end is malformed") {
  CHECK(failure_after(established_reader(), encoded_chunk({.handle = 0, .chunk = 0, .offset = 0, .length = 0})) == Errc::malformed);
  CHECK(failure_after(established_reader(), frame_of(54, 11)) == Errc::malformed);
  CHECK(failure_after(established_reader(), encoded_chunk({.handle = 0, .chunk = 0, .offset = 1, .length = kChunkSize})) ==
        Errc::malformed);
  CHECK(failure_after(established_reader(), encoded_chunk({.handle = 0, .chunk = 0, .offset = 0xffffffff, .length = 1})) ==
        Errc::malformed);
}
