/// How packets queue, travel and get lost between hosts that are far from each other.
#include "network.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace farlink {
namespace {

constexpr std::size_t kAlignment = 16;
/// Stands for a length where the rest of the memory is left unused, as the packet did not fit before its end.
constexpr std::uint32_t kWrap = ~std::uint32_t{0};

std::size_t aligned(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

/// Room for what a line of this rate can have under way for so long, also if all of it is the smallest packets: 20 bytes take 48.
std::size_t ring_capacity(double rate, Duration time) {
  constexpr double kLeast = 1 << 20, kMost = 512 << 20, kUnlimited = 64 << 20;
  if (rate == kNoLimit) return static_cast<std::size_t>(kUnlimited);
  return static_cast<std::size_t>(std::min(kMost, kLeast + 2.5 * rate * std::chrono::duration<double>(time).count()));
}

}  // namespace

std::optional<Instant> Line::admit(Instant now, std::size_t bytes) {
  const Instant start = std::max(now, free_at_);
  if (start - now > most_wait_) return std::nullopt;
  free_at_ = start + Duration(std::llround(static_cast<double>(bytes) * ns_per_byte_));
  return free_at_;
}

struct PacketRing::Header {
  std::int64_t due;
  std::uint32_t to, length;
};

PacketRing::PacketRing(std::size_t capacity)
    : capacity_(std::max(aligned(capacity), kAlignment)), memory_(std::make_unique_for_overwrite<std::byte[]>(capacity_)) {
  static_assert(sizeof(Header) == kAlignment);
}

PacketRing::Header PacketRing::header_at(std::size_t at) const {
  Header header;
  std::memcpy(&header, &memory_[at], sizeof(header));
  return header;
}

void PacketRing::write_header(const Header& header) { std::memcpy(&memory_[tail_], &header, sizeof(header)); }

void PacketRing::advance_tail(std::size_t bytes) {
  used_ += bytes;
  tail_ = (tail_ + bytes) % capacity_;
}

bool PacketRing::push(Instant due, std::uint32_t to, std::span<const std::byte> bytes) {
  if (is_empty()) head_ = tail_ = 0;  // memory that was just used is nearer than that behind it
  const std::size_t needed = sizeof(Header) + aligned(bytes.size());
  const std::size_t rest = capacity_ - tail_;
  if (used_ + needed + (rest < needed ? rest : 0) > capacity_) return false;
  if (rest < needed) {
    write_header({0, 0, kWrap});
    advance_tail(rest);
  }
  write_header({due.count(), to, static_cast<std::uint32_t>(bytes.size())});
  std::memcpy(&memory_[tail_] + sizeof(Header), bytes.data(), bytes.size());
  advance_tail(needed);
  return true;
}

Packet PacketRing::front() const {
  std::size_t at = head_;
  if (header_at(at).length == kWrap) at = 0;
  const Header header = header_at(at);
  return {Instant(header.due), header.to, {&memory_[at] + sizeof(Header), header.length}};
}

void PacketRing::pop() {
  if (header_at(head_).length == kWrap) {
    used_ -= capacity_ - head_;
    head_ = 0;
  }
  const std::size_t bytes = sizeof(Header) + aligned(header_at(head_).length);
  used_ -= bytes;
  head_ = (head_ + bytes) % capacity_;
}

Network::Network(const Settings& settings) : delay_(settings.delay), loss_(settings.loss), random_(settings.seed) {
  hosts_.reserve(settings.rates.size());
  for (const double rate : settings.rates) {
    hosts_.push_back({Line(rate, settings.queue), Line(rate, settings.queue),
                      PacketRing(ring_capacity(rate, settings.delay + settings.queue)), PacketRing(ring_capacity(rate, settings.queue))});
  }
}

void Network::send(Instant now, std::size_t from, std::size_t to, std::span<const std::byte> bytes) {
  Host& sender = hosts_[from];
  const auto left = sender.up.admit(now, bytes.size());
  if (!left || !sender.crossing.push(*left + delay_, static_cast<std::uint32_t>(to), bytes)) ++counts_.dropped;
}

void Network::advance(Instant now) {
  while (Host* sender = first_to_cross(now)) {
    const Packet packet = sender->crossing.front();
    if (is_lost()) {
      ++counts_.lost;
    } else {
      cross(packet);
    }
    sender->crossing.pop();
  }
}

/// Of the packets that are across by now, each host's first is its earliest.
Network::Host* Network::first_to_cross(Instant now) {
  Host* first = nullptr;
  Instant earliest = now;
  for (Host& host : hosts_) {
    if (host.crossing.is_empty()) continue;
    const Instant due = host.crossing.front().due;
    if (first ? due < earliest : due <= now) {
      first = &host;
      earliest = due;
    }
  }
  return first;
}

/// The moment that counts is when it came, not when somebody looked.
void Network::cross(const Packet& packet) {
  Host& receiver = hosts_[packet.to];
  const auto here = receiver.down.admit(packet.due, packet.bytes.size());
  if (!here || !receiver.arriving.push(*here, packet.to, packet.bytes)) ++counts_.dropped;
}

bool Network::is_lost() { return loss_ > 0 && std::uniform_real_distribution(0.0, 1.0)(random_) < loss_; }

std::optional<Packet> Network::received(Instant now, std::size_t host) const {
  const PacketRing& ring = hosts_[host].arriving;
  if (ring.is_empty() || ring.front().due > now) return std::nullopt;
  return ring.front();
}

void Network::take(std::size_t host) {
  ++counts_.delivered;
  counts_.bytes_delivered += hosts_[host].arriving.front().bytes.size();
  hosts_[host].arriving.pop();
}

std::optional<Instant> Network::next() const {
  std::optional<Instant> earliest;
  for (const Host& host : hosts_) {
    for (const PacketRing* ring : {&host.crossing, &host.arriving}) {
      if (!ring->is_empty()) earliest = std::min(earliest.value_or(Instant::max()), ring->front().due);
    }
  }
  return earliest;
}

}  // namespace farlink
