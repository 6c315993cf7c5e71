module;

#include <array>
#include <cstddef>
#include <type_traits>
#include <utility>
#include <variant>

module shoal.wire;

namespace shoal {
namespace {

using Make = MessageKinds (*)(void* message);

template <class... M>
constexpr std::array<Make, sizeof...(M)> makers(std::type_identity<std::variant<M...>>) {
  return {+[](void* message) { return MessageKinds(std::in_place_type<M>, std::move(*static_cast<M*>(message))); }...};
}
constexpr auto kMakers = makers(std::type_identity<MessageKinds>{});

}  // namespace

Message::Message() = default;
Message::Message(std::size_t kind, void* message) : MessageKinds(kMakers[kind](message)) {}
Message::Message(const Message&) = default;
Message::Message(Message&&) noexcept = default;
Message& Message::operator=(const Message&) = default;
Message& Message::operator=(Message&&) noexcept = default;
Message::~Message() = default;

}  // namespace shoal
