module;

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

module shoal.sim;

import :internal;
import shoal.base;
import shoal.world;

namespace shoal::sim {
namespace {

/// What a sender puts together before it sends, where that is less than a turn of the uplink: an eighth of what it may have under way.
constexpr std::uint64_t kParts = 8;

}  // namespace

// ---- sending ------------------------------------------------------------------------------------------

std::uint64_t Network::tcp_sendable(const Pipe& pipe) const {
  const std::uint64_t waiting = pipe.queued - pipe.sent;
  const std::uint64_t buffer = port(pipe.to).options.tcp.receive_buffer;
  const bool is_read = pipe.wanted > 0 && !port(pipe.to).is_paused;
  const std::uint64_t unread = is_read ? 0 : std::min(pipe.arrived - pipe.taken, buffer);
  const std::uint64_t most = std::min(port(pipe.from).options.tcp.send_buffer, buffer - unread);
  const std::uint64_t under_way = pipe.sent - pipe.acked;
  const std::uint64_t allowed = pipe.congestion->allowed(loop_.now());
  const std::uint64_t room = std::min(most - std::min(most, under_way), allowed);
  // Else what an acknowledgement lets go would get smaller with each round trip.
  const std::uint64_t holds = std::min({allowed + pipe.congestion->in_flight(), port(pipe.from).options.tcp.send_buffer, buffer});
  const std::uint64_t least = std::min({waiting, std::uint64_t{options_.quantum}, holds / kParts});
  return room < std::max<std::uint64_t>(least, 1) ? 0 : std::min(waiting, room);
}

void Network::launch(Burst burst, Nanoseconds way) {
  Pipe& pipe = burst.connection->pipe(burst.side);
  if (pipe.congestion) {
    pipe.congestion->on_sent(loop_.now(), burst.bytes);
    burst.is_lossy = is_lost(pipe, burst.bytes);
  }
  Route* const between = route(pipe.from, pipe.to);
  if (!between) return arrive(std::move(burst), loop_.now() + way);
  const Nanoseconds until_link = way - between->link.latency - port(pipe.to).options.latency;
  loop_.at(loop_.now() + until_link, [this, between, burst = std::move(burst)]() mutable { cross(std::move(burst), *between); });
}

/// Whether any of so many bytes is lost.
bool Network::is_lost(const Pipe& pipe, std::uint64_t bytes) {
  const double loss = loss_between(pipe.from, pipe.to);
  if (loss <= 0) return false;
  const auto segments = static_cast<double>((bytes + kSegment - 1) / kSegment);
  return random_.is_true(1 - std::pow(1 - loss, segments));
}

double Network::loss_between(HostId from, HostId to) const {
  const Route* const between = route(from, to);
  return 1 - (1 - port(from).options.tcp.loss) * (1 - (between ? between->link.loss : 0));
}

/// A burst comes to the link between two sites.
void Network::cross(Burst burst, Route& route) {
  const Nanoseconds now = loop_.now();
  const Pipe& pipe = burst.connection->pipe(burst.side);
  const Nanoseconds begins = std::max(route.free_at, now);
  const Nanoseconds takes = time_for(burst.bytes, route.link.rate);
  const double waiting = Seconds(begins - now).count() * route.link.rate;
  if (pipe.congestion && waiting + burst.bytes > static_cast<double>(route.link.queue)) burst.is_lossy = true;
  route.free_at = begins + takes;
  burst.span = std::max(burst.span, takes);
  arrive(std::move(burst), begins + route.link.latency + port(pipe.to).options.latency);
}

// ---- coming in ----------------------------------------------------------------------------------------

void Network::arrive(Burst burst, Nanoseconds at) {
  Pipe& pipe = burst.connection->pipe(burst.side);
  pipe.last_arrival = std::max(pipe.last_arrival, at);
  loop_.at(pipe.last_arrival, [this, burst = std::move(burst)]() mutable { pass_downlink(std::move(burst)); });
}

void Network::pass_downlink(Burst burst) {
  Port& to = port(burst.connection->pipe(burst.side).to);
  to.down_free = std::max(to.down_free, loop_.now()) + time_for(burst.bytes, to.options.down);
  const Nanoseconds through_at = std::max(to.down_free, loop_.now() + burst.span);
  loop_.at(through_at, [this, burst = std::move(burst)] { take_in(burst); });
}

/// The receiver's system has a burst, and its process once nothing before it is missing.
void Network::take_in(const Burst& burst) {
  Pipe& pipe = burst.connection->pipe(burst.side);
  if (burst.is_lossy) pipe.held_until = std::max(pipe.held_until, loop_.now() + repair_time(pipe));
  if (pipe.held_until <= loop_.now()) {
    deliver(burst.connection, burst.side, burst.bytes);
    return acknowledge(burst);
  }
  acknowledge(burst);
  loop_.at(pipe.held_until, [this, connection = burst.connection, side = burst.side, bytes = burst.bytes] {
    deliver(connection, side, bytes);
    acknowledge({connection, side, 0, loop_.now()});
  });
}

/// From where a segment is missed until it is there.
Nanoseconds Network::repair_time(const Pipe& pipe) {
  const Nanoseconds round = round_trip(pipe.from, pipe.to);
  const double loss = loss_between(pipe.from, pipe.to);
  Nanoseconds time = round;
  while (random_.is_true(loss)) time += round;
  return time;
}

// ---- acknowledgements ---------------------------------------------------------------------------------

void Network::acknowledge(const Burst& burst) {
  Pipe& pipe = burst.connection->pipe(burst.side);
  if (!pipe.congestion) return;
  if (!is_reachable(pipe.to, pipe.from)) {
    pipe.unsaid = pipe.unsaid.value_or(0) + burst.bytes;
    return;
  }
  loop_.at(loop_.now() + latency(pipe.to, pipe.from), [this, burst, in_order = pipe.arrived] { on_acknowledged(burst, in_order); });
}

/// What could not be told before is told as soon as somebody looks.
void Network::acknowledge_unsaid(const ConnectionPtr& connection, int side) {
  Pipe& pipe = connection->pipe(side);
  if (!is_reachable(pipe.to, pipe.from)) return;
  acknowledge({connection, side, static_cast<std::uint32_t>(*std::exchange(pipe.unsaid, std::nullopt)), loop_.now()});
}

void Network::on_acknowledged(const Burst& burst, std::uint64_t in_order) {
  Pipe& pipe = burst.connection->pipe(burst.side);
  pipe.acked = std::max(pipe.acked, in_order);
  if (burst.bytes > 0) pipe.congestion->on_acked(loop_.now(), burst.sent_at, burst.bytes);
  if (burst.is_lossy) pipe.congestion->on_lost(loop_.now(), burst.sent_at);
  offer(burst.connection, burst.side);
}

}  // namespace shoal::sim
