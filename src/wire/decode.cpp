module;

#include <fmt/core.h>

#include <cstddef>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <variant>

#include <tl/expected.hpp>

module shoal.wire;

namespace shoal {

template <>
bool codec::accept(Role& role) {
  return role <= Role::overlay;
}

template <>
bool codec::accept(EntryKind& kind) {
  return kind <= EntryKind::folder;
}

template <>
bool codec::accept(Appetite& appetite) {
  return appetite <= Appetite::everything;
}

/// A refusal for a reason that only a later version knows is a refusal all the same.
template <>
bool codec::accept(RefusalReason& reason) {
  if (reason > RefusalReason::wrong_role) reason = RefusalReason::other;
  return true;
}

/// What only a later version knows is, for us, some other reason.
template <>
bool codec::accept(ReferReason& reason) {
  if (reason > ReferReason::leaving) reason = ReferReason::other;
  return true;
}

template <>
bool codec::accept(Judgement& judgement) {
  if (judgement > Judgement::older) judgement = Judgement::other;
  return true;
}

template <>
bool codec::accept(SearchKind& kind) {
  return kind <= SearchKind::nodes;
}

namespace {

using Decoded = Result<std::optional<Message>>;

template <class M>
Decoded decode_as(std::span<const std::byte> payload) {
  M message;
  if (const std::size_t field = codec::read_message(payload, message); field != 0)
    return fail(Errc::malformed, fmt::format("field {} of a {} message", field, name_of(M::kType)));
  return std::optional<Message>(std::in_place, std::move(message));
}

template <class... M>
Decoded decode_one_of(std::type_identity<std::variant<M...>>, MessageType type, std::span<const std::byte> payload) {
  Decoded decoded;
  static_cast<void>(((M::kType == type && (decoded = decode_as<M>(payload), true)) || ...));
  return decoded;
}

}  // namespace

Result<std::optional<Message>> decode(MessageType type, std::span<const std::byte> payload) {
  return decode_one_of(std::type_identity<MessageKinds>{}, type, payload);
}

}  // namespace shoal
