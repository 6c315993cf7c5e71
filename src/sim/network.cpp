module;

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

module shoal.sim;

import :internal;
import shoal.base;
import shoal.world;

namespace shoal::sim {

Nanoseconds time_for(std::uint64_t bytes, double rate) {
  return rate > 0 ? Nanoseconds(static_cast<std::int64_t>(static_cast<double>(bytes) / rate * 1e9)) : Nanoseconds::zero();
}

// ---- connections --------------------------------------------------------------------------------------

Connection::Connection(Network& network, HostId from, HostId to) : network_(network), number_(network.next_number()) {
  pipes_[0].from = pipes_[1].to = from;
  pipes_[0].to = pipes_[1].from = to;
  for (Pipe& pipe : pipes_)
    if (const Tcp& tcp = network.port(pipe.from).options.tcp; tcp.control != CongestionControl::none)
      pipe.congestion.emplace(tcp.control, network.round_trip(from, to));
  ++network.traffic().connections;
}

Connection::~Connection() {
  for (Pipe& each : pipes_)
    while (each.first) each.first = std::move(each.first->next);  // not one within the other
}

void Connection::say(int by, std::unique_ptr<Frame> frame, std::uint64_t bytes) {
  Pipe& out = pipe(by);
  out.queued += bytes;
  frame->end = out.queued;
  Frame* const last = frame.get();
  (out.last ? out.last->next : out.first) = std::move(frame);
  out.last = last;
  network_.offer(shared_from_this(), by);
}

void Connection::close(int by, bool is_silent) {
  Side& ours = side(by);
  if (ours.is_closed) return;
  ours.is_closed = true;
  network_.loop().cancel(ours.watch);
  network_.port(host(by)).connections.erase(number_);
  ours.readable.notify();
  ours.writable.notify();
  if (is_silent || ours.is_reset) return;
  Pipe& in = pipe(1 - by);
  if (in.taken < in.arrived) return reset(1 - by);  // as TCP does where something was not read
  constexpr std::uint64_t kFinBytes = 40;
  auto fin = std::make_unique<Frame>();
  fin->kind = Frame::Kind::fin;
  say(by, std::move(fin), kFinBytes);
}

void Connection::reset(int other) {
  const HostId from = host(1 - other);
  if (!network_.is_reachable(from, host(other))) return;
  network_.loop().at(network_.loop().now() + network_.latency(from, host(other)),
                     [self = shared_from_this(), other] { self->reset_now(other); });
}

void Connection::reset_now(int by) {
  Side& hit = side(by);
  if (hit.is_closed || hit.is_reset) return;
  hit.is_reset = true;
  hit.readable.notify();
  hit.writable.notify();
}

void Connection::watch(int by) {
  Side& ours = side(by);
  const Nanoseconds never = Nanoseconds::max();
  const Nanoseconds next = std::min(ours.read_until.value_or(never), ours.write_until.value_or(never));
  if (ours.is_closed || next == never || (ours.watch.use != 0 && ours.watch_at <= next)) return;
  network_.loop().cancel(ours.watch);
  ours.watch_at = next;
  ours.watch = network_.loop().at(next, [weak = weak_from_this(), by] {
    if (const auto self = weak.lock()) self->on_watch(by);
  });
}

void Connection::on_watch(int by) {
  Side& ours = side(by);
  ours.watch = {};
  if (network_.port(host(by)).is_paused) return;  // nobody is there to notice
  const Nanoseconds now = network_.loop().now();
  const auto is_late = [now](const std::optional<Nanoseconds>& until) { return until && *until <= now; };
  if (!is_late(ours.read_until) && !is_late(ours.write_until)) return watch(by);
  ours.has_expired = true;
  close(by);
}

void Connection::watch_again(int by) {
  network_.loop().ready([weak = weak_from_this(), by] {
    if (const auto self = weak.lock(); self && !self->side(by).is_closed) self->on_watch(by);
  });
}

// ---- hosts --------------------------------------------------------------------------------------------

Network::Network(Loop& loop, const Options& options) : loop_(loop), options_(options), random_(Random::mix(options.seed ^ 0x6E6574)) {}

HostId Network::add(const HostOptions& options) {
  const HostId id(static_cast<std::uint32_t>(ports_.size()));
  auto port = std::make_unique<Port>();
  port->options = options;
  port->address = fmt::format("10.{}.{}.{}", id.value >> 16 & 255, id.value >> 8 & 255, id.value & 255);
  by_address_.emplace(port->address, id);
  ports_.push_back(std::move(port));
  return id;
}

std::optional<HostId> Network::find(const std::string& address) const {
  const auto known = by_address_.find(address);
  return known == by_address_.end() ? std::nullopt : std::optional(known->second);
}

bool Network::is_reachable(HostId from, HostId to) const {
  return port(from).island == port(to).island && port(from).is_on && port(to).is_on && !port(from).is_mute;
}

Nanoseconds Network::latency(HostId from, HostId to) const {
  if (from == to) return Nanoseconds(20'000);
  const Route* const between = route(from, to);
  return port(from).options.latency + port(to).options.latency + (between ? between->link.latency : Nanoseconds::zero());
}

Route* Network::route(HostId from, HostId to) {
  const std::pair sites(port(from).options.site, port(to).options.site);
  if (sites.first == sites.second) return nullptr;
  const auto known = routes_.find(sites);
  return known == routes_.end() ? nullptr : &known->second;
}

std::uint64_t Network::crossed(SiteId from, SiteId to) const {
  const auto known = routes_.find({from, to});
  return known == routes_.end() ? 0 : known->second.crossed;
}

Nanoseconds Network::draw_jitter(HostId from) {
  const Nanoseconds most = port(from).options.jitter;
  return Nanoseconds(most > Nanoseconds::zero() ? random_.below(static_cast<std::uint64_t>(most.count()) + 1) : 0);
}

void Network::partition(std::span<const HostId> hosts) {
  for (const HostId host : hosts) port(host).island = 1;
}

void Network::heal() {
  for (const auto& each : ports_) {
    each->island = 0;
    each->is_mute = false;
  }
  offer_all();
}

void Network::resume(HostId host) {
  port(host).is_paused = false;
  for (const auto& [number, end] : port(host).connections)
    if (const auto connection = end.first.lock()) {
      connection->watch_again(end.second);
      offer(connection, 1 - end.second);  // it reads again
    }
}

/// What waited because the way was cut goes on.
void Network::offer_all() {
  for (const auto& each : ports_)
    for (const auto& [number, end] : each->connections)
      if (const auto connection = end.first.lock()) offer(connection, end.second);
}

void Network::shut(HostId host, bool is_silent) {
  Port& gone = port(host);
  gone.is_on = !is_silent;
  gone.is_paused = false;
  for (const auto& [number, listener] : gone.listeners) {
    listener->is_closed = true;
    listener->arrived.notify();
    for (const auto& [connection, remote] : listener->waiting) connection->close(1, is_silent);
  }
  gone.listeners.clear();
  for (const auto& [number, postbox] : std::exchange(gone.postboxes, {})) {
    postbox->is_closed = true;
    postbox->arrived.notify();
  }
  const auto open = gone.connections;  // they leave it as they close
  for (const auto& [number, end] : open)
    if (const auto connection = end.first.lock()) connection->close(end.second, is_silent);
}

void Network::turn_on(HostId host) {
  port(host).is_on = true;
  offer_all();
  // It answers what is sent again and again to connections that it has forgotten.
  for (const auto& each : ports_)
    for (const auto& [number, end] : each->connections) {
      const auto connection = end.first.lock();
      if (!connection) continue;
      const Pipe& pipe = connection->pipe(end.second);
      if (pipe.to == host && connection->side(1 - end.second).is_closed && pipe.queued > pipe.sent) connection->reset(end.second);
    }
}

// ---- the way of the bytes -----------------------------------------------------------------------------

std::uint64_t Network::sendable(Pipe& pipe) const {
  if (!is_reachable(pipe.from, pipe.to)) return 0;
  if (pipe.congestion) return tcp_sendable(pipe);
  const double rate = std::max(port(pipe.from).options.up, port(pipe.to).options.down);
  const Nanoseconds round_trip = 2 * latency(pipe.from, pipe.to);
  const auto under_way = static_cast<std::uint64_t>(rate * Seconds(round_trip).count());
  const bool is_read = pipe.wanted > 0 && !port(pipe.to).is_paused;
  if (is_reachable(pipe.to, pipe.from)) pipe.acked = is_read ? pipe.arrived : pipe.taken;
  const std::uint64_t room = options_.window + under_way;
  const std::uint64_t used = pipe.sent - pipe.acked;
  return used >= room ? 0 : std::min(pipe.queued - pipe.sent, room - used);
}

void Network::offer(const ConnectionPtr& connection, int side) {
  Pipe& pipe = connection->pipe(side);
  if (pipe.unsaid) acknowledge_unsaid(connection, side);
  if (pipe.is_in_turn || pipe.queued == pipe.sent || sendable(pipe) == 0) return;
  pipe.is_in_turn = true;
  port(pipe.from).turns.emplace_back(connection, side);
  start_uplink(pipe.from);
}

void Network::start_uplink(HostId host) {
  Port& up = port(host);
  while (!up.is_sending && !up.turns.empty()) {
    const auto [connection, side] = std::move(up.turns.front());
    up.turns.pop_front();
    Pipe& pipe = connection->pipe(side);
    pipe.is_in_turn = false;
    const std::uint64_t bytes = std::min<std::uint64_t>(sendable(pipe), options_.quantum);
    if (bytes == 0) continue;
    up.is_sending = true;
    send_burst(connection, side, bytes);
    if (pipe.queued > pipe.sent) {
      pipe.is_in_turn = true;
      up.turns.emplace_back(connection, side);
    }
  }
}

void Network::send_burst(const ConnectionPtr& connection, int side, std::uint64_t bytes) {
  Pipe& pipe = connection->pipe(side);
  const HostOptions& from = port(pipe.from).options;
  const Nanoseconds now = loop_.now();
  const Nanoseconds out_at = now + time_for(bytes, from.up);
  const Nanoseconds way = latency(pipe.from, pipe.to) + draw_jitter(pipe.from);
  pipe.sent += bytes;
  Side& ours = connection->side(side);
  if (pipe.has_waiting_writer) {
    if (ours.write_until) ours.write_until = now + kSendPatience;
    if (pipe.queued - pipe.sent < pipe.unsent_limit) ours.writable.notify();
  }
  loop_.at(out_at, [this, host = pipe.from] {
    port(host).is_sending = false;
    start_uplink(host);
  });
  if (pipe.congestion || route(pipe.from, pipe.to))
    return launch({connection, side, static_cast<std::uint32_t>(bytes), now, out_at - now}, way);
  // One connection's bytes do not overtake each other.
  const Nanoseconds arrives_at = std::max(now + way, pipe.last_arrival);
  pipe.last_arrival = arrives_at;
  const Nanoseconds whole_at = arrives_at + (out_at - now);
  loop_.at(arrives_at, [this, connection = connection, side, bytes = static_cast<std::uint32_t>(bytes), whole_at] {
    on_burst(connection, side, bytes, whole_at);
  });
}

/// The first bytes of a burst reach the receiver's downlink, the last ones by `whole_at`.
void Network::on_burst(const ConnectionPtr& connection, int side, std::uint64_t bytes, Nanoseconds whole_at) {
  Port& to = port(connection->pipe(side).to);
  to.down_free = std::max(to.down_free, loop_.now()) + time_for(bytes, to.options.down);
  const Nanoseconds through_at = std::max(to.down_free, whole_at);
  if (through_at <= loop_.now()) return deliver(connection, side, bytes);
  loop_.at(through_at, [this, connection = connection, side, bytes] { deliver(connection, side, bytes); });
}

void Network::deliver(const ConnectionPtr& connection, int side, std::uint64_t bytes) {
  Pipe& pipe = connection->pipe(side);
  pipe.arrived += bytes;
  Side& receiver = connection->side(1 - side);
  if (receiver.is_closed) {
    if (pipe.first && pipe.last->kind != Frame::Kind::fin) connection->reset(side);
    return;
  }
  if (pipe.wanted == 0) return;
  if (receiver.patience > Nanoseconds::zero()) receiver.read_until = loop_.now() + receiver.patience;
  if (pipe.arrived >= pipe.wanted) receiver.readable.notify();
  offer(connection, side);
}

}  // namespace shoal::sim
