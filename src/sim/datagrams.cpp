module;

#include <fmt/core.h>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

module shoal.sim;

import :internal;
import shoal.base;
import shoal.wire;
import shoal.world;

namespace shoal::sim {
namespace {

constexpr std::size_t kMostWaiting = 512;  // about what a system keeps for a socket

struct Place {
  std::uint32_t host = 0;
  std::uint16_t port = 0;
};

/// Where an address is; nothing where it is none of ours.
std::optional<Place> place_of(const DatagramAddress& address) {
  Place place;
  if (address.size != sizeof place.host + sizeof place.port) return std::nullopt;
  std::memcpy(&place.host, address.bytes.data(), sizeof place.host);
  std::memcpy(&place.port, address.bytes.data() + sizeof place.host, sizeof place.port);
  return place;
}

class SimDatagrams final : public DatagramSocket {
 public:
  SimDatagrams(Network& network, std::shared_ptr<Postbox> postbox) : network_(network), postbox_(std::move(postbox)) {}
  ~SimDatagrams() override { close(); }

  Task<Result<>> receive(std::vector<Datagram>& out) override {
    const auto postbox = postbox_;
    while (!postbox->is_closed && postbox->waiting.empty()) co_await postbox->arrived.wait();
    if (postbox->is_closed) co_return fail(Errc::closed, "cannot receive");
    out = std::exchange(postbox->waiting, {});
    co_return Result<>{};
  }

  void send(std::span<const Datagram> datagrams) override {
    if (postbox_->is_closed) return;
    for (const Datagram& datagram : datagrams) network_.post(*postbox_, postbox_->other.value_or(datagram.peer), datagram.message);
  }

  Endpoint local() const override { return {network_.port(postbox_->host).address, postbox_->port}; }

  void close() override {
    if (std::exchange(postbox_->is_closed, true)) return;
    auto& postboxes = network_.port(postbox_->host).postboxes;
    if (const auto known = postboxes.find(postbox_->port); known != postboxes.end() && known->second == postbox_) postboxes.erase(known);
    postbox_->arrived.notify();
  }

 private:
  Network& network_;
  std::shared_ptr<Postbox> postbox_;
};

}  // namespace

DatagramAddress datagram_address(HostId host, std::uint16_t port) {
  DatagramAddress address;
  std::memcpy(address.bytes.data(), &host.value, sizeof host.value);
  std::memcpy(address.bytes.data() + sizeof host.value, &port, sizeof port);
  address.size = sizeof host.value + sizeof port;
  return address;
}

std::unique_ptr<DatagramSocket> make_sim_datagrams(Network& network, std::shared_ptr<Postbox> postbox) {
  return std::make_unique<SimDatagrams>(network, std::move(postbox));
}

void Network::post(const Postbox& from, const DatagramAddress& address, Message message) {
  const auto place = place_of(address);
  if (!place || place->host >= ports_.size()) return;
  const HostId to(place->host);
  ++traffic_.datagrams;
  if (!is_reachable(from.host, to) || random_.is_true(port(from.host).options.datagram_loss)) return;
  if (const Route* const between = route(from.host, to); between && random_.is_true(between->link.loss)) return;
  Datagram datagram{datagram_address(from.host, from.port), std::move(message)};
  loop_.at(loop_.now() + latency(from.host, to) + draw_jitter(from.host),
           [this, to, to_port = place->port, datagram = std::move(datagram)]() mutable { drop_in(to, to_port, std::move(datagram)); });
}

void Network::drop_in(HostId host, std::uint16_t to_port, Datagram datagram) {
  Port& at = port(host);
  const auto known = at.postboxes.find(to_port);
  if (!at.is_on || known == at.postboxes.end()) return;
  Postbox& postbox = *known->second;
  if (postbox.waiting.size() >= kMostWaiting || (postbox.other && *postbox.other != datagram.peer)) return;
  postbox.waiting.push_back(std::move(datagram));
  postbox.arrived.notify();
}

Result<std::unique_ptr<DatagramSocket>> SimWorld::open_postbox(std::uint16_t at, std::optional<DatagramAddress> other) {
  if (is_fenced_) return fail(Errc::interrupted, "cannot take datagrams");
  Port& port = network_.port(host_);
  auto postbox = std::make_shared<Postbox>();
  postbox->host = host_;
  postbox->port = at != 0 ? at : port.next_port++;
  postbox->other = other;
  if (!port.postboxes.emplace(postbox->port, postbox).second)
    return fail(std::make_error_code(std::errc::address_in_use), fmt::format("cannot take datagrams at port {}", postbox->port));
  return make_sim_datagrams(network_, std::move(postbox));
}

Result<std::unique_ptr<DatagramSocket>> SimWorld::open_datagrams(const Endpoint& at, Executor) {
  return open_postbox(at.port, std::nullopt);
}

Result<std::unique_ptr<DatagramSocket>> SimWorld::connect_datagrams(const Endpoint& to, Executor) {
  const auto there = network_.find(to.host);
  if (!there) return fail(Errc::closed, fmt::format("cannot send datagrams to {}", to_string(to)));
  return open_postbox(0, datagram_address(*there, to.port));
}

}  // namespace shoal::sim
