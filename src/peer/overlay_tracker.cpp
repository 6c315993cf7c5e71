// A node of the overlay: its connection with the tracker.
module;

#include <fmt/core.h>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/this_coro.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

module shoal.peer;

import :node;
import :overlay;
import shoal.base;
import shoal.report;
import shoal.tree;
import shoal.wire;
import shoal.world;

namespace asio = boost::asio;
using namespace std::chrono_literals;

namespace shoal {
namespace {

constexpr Nanoseconds kGreetingTimeout = 5s;
constexpr Nanoseconds kIdleTimeout = 15s;
constexpr Nanoseconds kPingInterval = 1s;  // it shows who is here within seconds
constexpr Nanoseconds kFirstBackoff = 100ms;
constexpr Nanoseconds kLongestBackoff = 1s;

}  // namespace

Task<> Overlay::ping_tracker(TrackerEnd tracker) {
  while (!tracker->is_over) {
    tracker->outbox.push(Ping{now().time_since_epoch().count()});
    co_await world_.sleep(kPingInterval);
  }
}

Task<> Overlay::serve_tracker(TrackerEnd tracker, bool& was_there) {
  const Executor strand = co_await asio::this_coro::executor;
  const OverlayJoin join = co_await call_on(strand_, [&] { return tree_.introduction(); });
  co_await greet_tracker(*tracker->link, self_.id, instance_, {join});
  OverlayPlace place = co_await step(receive<OverlayPlace>(*tracker->link, kIdleTimeout));
  was_there = true;
  tasks_->spawn(strand, "the overlay's writer to the tracker", write_to(tracker));
  tasks_->spawn(strand, "the overlay's pings to the tracker", ping_tracker(tracker));
  const auto on_place = [&](const OverlayPlace& given) {
    tree_.on_place(given, now());
    carry_out();
  };
  const auto fix_hosts = [&](OverlayPlace& given) {
    for (Contact& entry : given.entries) entry.host = with_zone_of(entry.host, tracker->link->remote().host);
  };
  fix_hosts(place);
  co_await run_on(strand_, [&] {
    tracker_ = tracker;
    tree_.on_tracker(true, now());
    on_place(place);
  });
  for (;;) {
    Incoming incoming = co_await step(tracker->link->receive(kIdleTimeout));
    auto* message = std::get_if<Message>(&incoming);
    auto* given = message ? std::get_if<OverlayPlace>(message) : nullptr;
    if (given) {
      fix_hosts(*given);
      co_await run_on(strand_, [&] { on_place(*given); });
    } else if (!message || !std::holds_alternative<Pong>(*message)) {
      throw StepFailed(unexpected_message(incoming, MessageType::overlay_place));
    }
  }
}

/// Keeps a connection with the tracker. The peer's own one says what there is to say about a tracker that is away.
Task<> Overlay::follow_tracker() {
  const Executor strand = co_await asio::this_coro::executor;
  Nanoseconds backoff = kFirstBackoff;
  for (;;) {
    std::optional<Error> why;
    if (auto link = co_await world_.connect(self_.tracker, strand, kGreetingTimeout)) {
      const auto tracker = std::make_shared<NodeLink>(std::move(*link));
      bool was_there = false;
      try {
        co_await serve_tracker(tracker, was_there);
      } catch (const StepFailed& failed) {
        why = failed.error();
      }
      tracker->is_over = true;
      tracker->link->close();
      tracker->outbox.wake();
      co_await run_on(strand_, [&] {
        tracker_.reset();
        tree_.on_tracker(false, now());
      });
      if (was_there) backoff = kFirstBackoff;
    }
    if (why && is_refused_for_good(*why)) {  // a closed swarm has none
      report_.debug(fmt::format("overlay: {}", why->message()));
      co_return;
    }
    co_await world_.sleep(backoff + Nanoseconds(world_.random() % static_cast<std::uint64_t>(backoff.count() / 4)));
    backoff = std::min(backoff * 2, kLongestBackoff);
  }
}

}  // namespace shoal
