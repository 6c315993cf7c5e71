/// Hosts that are far from each other, as plain values: lines of a given rate, packets under way, and what becomes of each. It does no IO,
/// and is told the time.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <vector>

namespace farlink {

/// Time since any fixed moment; it never goes back.
using Instant = std::chrono::nanoseconds;
using Duration = std::chrono::nanoseconds;

/// A rate that is no limit, in bytes a second.
inline constexpr double kNoLimit = 0;

/// One direction of a host's link: a packet leaves after those before it, each at the rate of the line.
class Line {
 public:
  /// `most_wait`: a packet that would wait for longer than this before its first byte leaves is dropped.
  Line(double bytes_per_second, Duration most_wait)
      : ns_per_byte_(bytes_per_second > 0 ? 1e9 / bytes_per_second : 0), most_wait_(most_wait) {}

  /// A packet comes: the moment when its last byte will have left, or nothing where the queue is too long for it. Calls come in order of
  /// time.
  std::optional<Instant> admit(Instant now, std::size_t bytes);

 private:
  double ns_per_byte_;
  Duration most_wait_;
  Instant free_at_{};
};

/// A packet under way; its bytes are those of the ring that it is in, until it is removed from it.
struct Packet {
  Instant due;
  std::uint32_t to;
  std::span<const std::byte> bytes;
};

/// Packets in the order in which they are due, in memory of a fixed size.
class PacketRing {
 public:
  /// `capacity`: bytes, of packets and 16 for each of them.
  explicit PacketRing(std::size_t capacity);

  /// False where there is no room. `due` is not before that of the packet before it.
  bool push(Instant due, std::uint32_t to, std::span<const std::byte> bytes);
  bool is_empty() const { return used_ == 0; }
  /// The first packet; there has to be one.
  Packet front() const;
  void pop();

 private:
  struct Header;
  Header header_at(std::size_t at) const;
  void write_header(const Header& header);
  void advance_tail(std::size_t bytes);

  std::size_t capacity_, head_ = 0, tail_ = 0, used_ = 0;
  std::unique_ptr<std::byte[]> memory_;
};

struct Settings {
  std::vector<double> rates;  ///< Of each host's link, up and down, in bytes a second; kNoLimit where it has none.
  Duration delay{};           ///< One way.
  double loss = 0;            ///< The share of packets that are lost, from 0 to 1.
  Duration queue{};           ///< How long a packet waits at most for either line.
  std::uint64_t seed = 1;     ///< Of what is lost.
};

/// What became of all packets so far.
struct Counts {
  std::uint64_t delivered = 0, lost = 0, dropped = 0;
  std::uint64_t bytes_delivered = 0;
};

/// The way of a packet: its sender's line up, the delay, where it may be lost, and its receiver's line down.
class Network {
 public:
  explicit Network(const Settings& settings);

  /// A host sends a packet to another one. Both are below the number of rates.
  void send(Instant now, std::size_t from, std::size_t to, std::span<const std::byte> bytes);
  /// What has come across by now is lost, or waits for its receiver's line, in the order in which it came.
  void advance(Instant now);
  /// A packet that this host has received by now, if there is one. It has to be taken before the next one is asked for.
  std::optional<Packet> received(Instant now, std::size_t host) const;
  void take(std::size_t host);
  /// When there is something to do next; nothing while no packet is under way.
  std::optional<Instant> next() const;

  std::size_t hosts() const { return hosts_.size(); }
  const Counts& counts() const { return counts_; }

 private:
  struct Host {
    Line up, down;
    PacketRing crossing, arriving;
  };

  Host* first_to_cross(Instant now);
  void cross(const Packet& packet);
  bool is_lost();

  std::vector<Host> hosts_;
  Duration delay_;
  double loss_;
  std::mt19937_64 random_;
  Counts counts_;
};

}  // namespace farlink
