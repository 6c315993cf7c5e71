// What this peer is asked, by the tracker and by whoever connects to ask.
module;

#include <fmt/core.h>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/this_coro.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

module shoal.peer;

import :node;
import shoal.base;
import shoal.manifest;
import shoal.schedule;
import shoal.wire;
import shoal.world;

namespace asio = boost::asio;
using namespace std::chrono_literals;

namespace shoal {
namespace {

constexpr Nanoseconds kQuestionTimeout = 5s;
constexpr Nanoseconds kRefusalLinger = 100ms;  // closing at once could lose the answer

/// The file that a wanted content would be served from.
EntryPtr served_for(const Node& node, const Wanted& wanted) {
  if (const auto own = node.own.find(wanted.name); own != node.own.end() && (*own)->root == wanted.root && (*own)->size == wanted.size)
    return *own;
  const auto known = node.by_root.find({wanted.root, wanted.size});
  if (known == node.by_root.end()) return nullptr;
  const Content& content = *node.contents[known->second.value];
  return has_all(content) ? content.served_as : nullptr;
}

/// On a worker: whether it is still there, and what it was.
bool is_there(Storage& storage, const FileEntry& entry) {
  if (chunk_count(entry.size) == 0) return storage.exists(entry.name);
  return storage.open(entry).has_value();
}

/// While it is being answered, whoever asks does not give way to others that connect.
class Busy {
 public:
  Busy(const World& world, PeerSession& session) : world_(world), session_(session) { session_.guest_since = Instant::max(); }
  ~Busy() { session_.guest_since = world_.now(); }
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;

 private:
  const World& world_;
  PeerSession& session_;
};

}  // namespace

Task<> answer_probe(Node& node, Probe probe) {
  std::vector<EntryPtr> served;
  served.reserve(probe.wanted.size());
  for (const Wanted& wanted : probe.wanted) served.push_back(served_for(node, wanted));
  ProbeReply reply{probe.probe, 0, std::vector<std::uint8_t>((served.size() + 7) / 8)};
  co_await run_on(node.world.workers(), [&] {
    for (std::size_t i = 0; i < served.size(); ++i)
      if (served[i] && is_there(node.storage, *served[i])) reply.bits[i / 8] |= static_cast<std::uint8_t>(1U << i % 8);
  });
  reply.load = load_of(node);
  tell_tracker(node, std::move(reply));
}

Task<> answer_questions(Node& node, SessionPtr session) {
  Link& link = *session->link;
  const Nanoseconds latency = co_await in_node(node, [&] { return emulated_latency(node, *session); });
  for (;;) {
    const Incoming incoming = co_await step(link.receive(kQuestionTimeout));
    const auto* message = std::get_if<Message>(&incoming);
    if (message && std::holds_alternative<Leave>(*message)) co_return;
    const Busy busy(node.world, *session);
    if (const auto* search = message ? std::get_if<Search>(message) : nullptr; search && node.overlay) {
      if (co_await node.overlay->answer(link, *search)) continue;
      session->guest_since = node.world.now();
      co_await node.world.sleep(kRefusalLinger);
      co_return;  // so that who asks on and on has to connect again for each
    }
    const auto* request = message ? std::get_if<LoadRequest>(message) : nullptr;
    if (!request) throw StepFailed(unexpected_message(incoming, MessageType::load_request));
    if (latency > Nanoseconds::zero()) co_await node.world.sleep(2 * latency);  // there and back
    co_await step(send(link, LoadReply{request->query, co_await in_node(node, [&] { return load_of(node); })}));
  }
}

}  // namespace shoal
