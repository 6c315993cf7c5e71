// The nodes that a node of the overlay heard of, kept for later runs.
module;

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

module shoal.peer;

import :node;
import :overlay;
import shoal.base;
import shoal.tree;
import shoal.wire;
import shoal.world;

using namespace std::chrono_literals;

namespace shoal {
namespace {

constexpr Nanoseconds kLook = 100ms;
constexpr Nanoseconds kKeepEvery = 5s;

}  // namespace

/// As soon as it is in the tree, then now and then. That it leaves is seen to by whoever has it leave.
Task<> Overlay::keep_contacts() {
  Instant next = now() + kKeepEvery;
  for (bool was_linked = false;;) {
    co_await world_.sleep(kLook);
    const bool is_first = !was_linked && !tree_.links().empty();
    was_linked |= is_first;
    if (!is_first && now() < next) continue;
    next = now() + kKeepEvery;
    co_await remember(contacts_to_keep());
  }
}

/// None where nothing is to be written, or something is just now. On the strand.
std::vector<Endpoint> Overlay::contacts_to_keep() {
  std::vector<Endpoint> contacts;
  for (const Contact& contact : tree_.contacts()) contacts.push_back({contact.host, contact.port});
  if (!options_.remember || is_keeping_ || contacts.empty() || contacts == told_contacts_) return {};
  is_keeping_ = true;
  told_contacts_ = contacts;
  return contacts;
}

Task<> Overlay::remember(std::vector<Endpoint> contacts) {
  if (contacts.empty()) co_return;
  co_await run_on(world_.workers(), [&] { options_.remember(contacts); });
  co_await run_on(strand_, [this] { is_keeping_ = false; });
}

}  // namespace shoal
