/// How a record stands in bytes, driven by nothing but its field list. The rules are at the head of shoal.wire.
/// Exported so that tests can drive it with records and generators of their own.
module;

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

export module shoal.wire:codec;

import shoal.base;
import shoal.digest;
import shoal.manifest;

export namespace shoal::codec {

using Bytes = std::span<const std::byte>;

/// The fields of `T` in the order in which they travel, as a tuple of pointers to members.
template <class T>
constexpr auto field_list() {
  if constexpr (std::is_same_v<T, FileEntry>)
    return std::tuple{&FileEntry::name,       &FileEntry::kind, &FileEntry::size, &FileEntry::mtime_ns,
                      &FileEntry::executable, &FileEntry::md5,  &FileEntry::root};
  else
    return T::fields();
}

template <class T>
inline constexpr std::size_t kFieldCount = std::tuple_size_v<decltype(field_list<T>())>;

/// How many fields of a message every version sends; the rest keep their defaults where an older one stops.
template <class T>
constexpr std::size_t required_fields() {
  if constexpr (requires { T::kRequired; })
    return T::kRequired;
  else
    return kFieldCount<T>;
}

/// Whether a value from outside means something here; may put another in its place. Specialised, where messages are
/// decoded, for each enumeration that travels.
template <class Enum>
bool accept(Enum& value);

template <class T>
inline constexpr bool kIsIndex = false;
template <class Tag>
inline constexpr bool kIsIndex<Index<Tag>> = true;

template <class T>
inline constexpr bool kIsDigest = false;
template <std::size_t N, class Tag>
inline constexpr bool kIsDigest<Digest<N, Tag>> = true;

template <class T>
inline constexpr bool kIsList = std::is_same_v<T, std::string>;
template <class Element>
inline constexpr bool kIsList<std::vector<Element>> = true;

// ---- writing ------------------------------------------------------------------------------------------

/// Counts what would be written. Sizes come from the same walk as the bytes, so that they cannot differ.
struct Counter {
  std::size_t size = 0;
  void append(Bytes bytes) { size += bytes.size(); }
};

struct Appender {
  std::vector<std::byte>& out;
  void append(Bytes bytes) { out.insert(out.end(), bytes.begin(), bytes.end()); }
};

template <std::integral T>
constexpr std::array<std::byte, sizeof(T)> to_little_endian(T value) {
  std::array<std::byte, sizeof(T)> bytes{};
  for (std::size_t i = 0; i < sizeof(T); ++i)
    bytes[i] = static_cast<std::byte>(static_cast<std::make_unsigned_t<T>>(value) >> (8 * i) & 0xff);
  return bytes;
}

template <class Sink, class T>
void write(Sink& sink, const T& value);

template <class Sink, class List>
void write_list(Sink& sink, const List& list) {
  write(sink, static_cast<std::uint32_t>(list.size()));
  if constexpr (std::is_same_v<List, std::string>)
    sink.append(std::as_bytes(std::span(list)));
  else
    for (const auto& element : list) write(sink, element);
}

template <class Sink, class T>
void write(Sink& sink, const T& value) {
  if constexpr (std::is_same_v<T, bool>)
    write(sink, static_cast<std::uint8_t>(value ? 1 : 0));
  else if constexpr (std::is_enum_v<T>)
    write(sink, static_cast<std::underlying_type_t<T>>(value));
  else if constexpr (std::is_integral_v<T>)
    sink.append(to_little_endian(value));
  else if constexpr (kIsIndex<T>)
    write(sink, value.value);
  else if constexpr (kIsDigest<T>)
    sink.append(std::as_bytes(std::span(value.bytes)));
  else if constexpr (kIsList<T>)
    write_list(sink, value);
  else
    std::apply([&](auto... field) { (write(sink, value.*field), ...); }, field_list<T>());
}

template <class T>
std::size_t size_of(const T& value) {
  Counter counter;
  write(counter, value);
  return counter.size;
}

// ---- reading ------------------------------------------------------------------------------------------

/// The bytes of the shortest `T`: what bounds a count before anything is reserved for it.
template <class T>
constexpr std::size_t min_size() {
  if constexpr (std::is_integral_v<T> || std::is_enum_v<T>)
    return sizeof(T);
  else if constexpr (kIsIndex<T> || kIsList<T>)
    return sizeof(std::uint32_t);
  else if constexpr (kIsDigest<T>)
    return sizeof(T::bytes);
  else
    return std::apply([](auto... field) { return (min_size<std::remove_cvref_t<decltype(std::declval<T&>().*field)>>() + ...); },
                      field_list<T>());
}

/// Reads a `T` off the front of `rest`; false when what stands there is not one. `value` is then of no use.
template <class T>
[[nodiscard]] bool read(Bytes& rest, T& value);

inline Bytes take(Bytes& rest, std::size_t size) {
  const Bytes front = rest.first(size);
  rest = rest.subspan(size);
  return front;
}

template <std::integral T>
bool read_integer(Bytes& rest, T& value) {
  if (rest.size() < sizeof(T)) return false;
  std::make_unsigned_t<T> word = 0;
  std::size_t shift = 0;
  for (const std::byte byte : take(rest, sizeof(T))) {
    word = static_cast<std::make_unsigned_t<T>>(word | std::to_integer<std::make_unsigned_t<T>>(byte) << shift);
    shift += 8;
  }
  value = static_cast<T>(word);
  return true;
}

inline bool read_bool(Bytes& rest, bool& value) {
  std::uint8_t byte = 0;
  if (!read_integer(rest, byte) || byte > 1) return false;
  value = byte == 1;
  return true;
}

template <class Enum>
bool read_enum(Bytes& rest, Enum& value) {
  std::underlying_type_t<Enum> number = 0;
  if (!read_integer(rest, number)) return false;
  value = static_cast<Enum>(number);
  return accept(value);
}

template <class D>
bool read_digest(Bytes& rest, D& value) {
  if (rest.size() < sizeof value.bytes) return false;
  std::ranges::transform(take(rest, sizeof value.bytes), value.bytes.begin(), std::to_integer<std::uint8_t>);
  return true;
}

template <class Element>
bool read_elements(Bytes& rest, std::uint32_t count, std::vector<Element>& list) {
  if (count > rest.size() / min_size<Element>()) return false;
  list.clear();
  list.reserve(count);
  for (std::uint32_t i = 0; i < count; ++i)
    if (!read(rest, list.emplace_back())) return false;
  return true;
}

inline bool read_elements(Bytes& rest, std::uint32_t count, std::string& text) {
  if (count > rest.size()) return false;
  text.resize(count);
  std::ranges::transform(take(rest, count), text.begin(), std::to_integer<char>);
  return true;
}

template <class List>
bool read_list(Bytes& rest, List& list) {
  std::uint32_t count = 0;
  return read_integer(rest, count) && read_elements(rest, count, list);
}

template <class T>
bool read(Bytes& rest, T& value) {
  if constexpr (std::is_same_v<T, bool>)
    return read_bool(rest, value);
  else if constexpr (std::is_enum_v<T>)
    return read_enum(rest, value);
  else if constexpr (std::is_integral_v<T>)
    return read_integer(rest, value);
  else if constexpr (kIsIndex<T>)
    return read_integer(rest, value.value);
  else if constexpr (kIsDigest<T>)
    return read_digest(rest, value);
  else if constexpr (kIsList<T>)
    return read_list(rest, value);
  else
    return std::apply([&](auto... field) { return (read(rest, value.*field) && ...); }, field_list<T>());
}

/// Reads a whole message: fields past the required ones may be missing, and bytes past the last are ignored. Returns the
/// number, from 1 on, of the field that is not there or is none; 0 when all is well.
template <class M>
[[nodiscard]] std::size_t read_message(Bytes rest, M& message) {
  constexpr auto fields = field_list<M>();
  std::size_t bad_field = 0;
  const auto read_field = [&]<std::size_t I>(std::integral_constant<std::size_t, I>) {
    if (rest.empty() && I >= required_fields<M>()) return false;
    if (read(rest, message.*std::get<I>(fields))) return true;
    bad_field = I + 1;
    return false;
  };
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    static_cast<void>((read_field(std::integral_constant<std::size_t, I>{}) && ...));
  }(std::make_index_sequence<kFieldCount<M>>{});
  return bad_field;
}

}  // namespace shoal::codec
