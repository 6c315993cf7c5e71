#include <catch2/catch_test_macros.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <random>
#include <span>
#include <vector>

#include "farlink/network.hpp"
#include "farlink/options.hpp"

using namespace farlink;
using namespace std::chrono_literals;

namespace {

constexpr double kMbit = 1e6 / 8;

std::vector<std::byte> packet_of(std::size_t bytes, std::uint8_t mark = 0) { return std::vector(bytes, std::byte{mark}); }

Settings two_hosts(double rate) { return {.rates = {rate, rate}, .delay = 25ms, .loss = 0, .queue = 50ms, .seed = 1}; }

/// So many packets of 1,000 bytes at once, marked by their number.
void send_at_once(Network& network, std::uint8_t count) {
  for (std::uint8_t each = 0; each < count; ++each) network.send(0ms, 0, 1, packet_of(1000, each));
}

struct Receipt {
  Instant at;
  std::uint8_t mark;
  std::size_t bytes;
};

/// What a host receives until nothing is under way, at the moments that the network names itself.
std::vector<Receipt> receive_all(Network& network, std::size_t host) {
  std::vector<Receipt> receipts;
  while (const auto next = network.next()) {
    network.advance(*next);
    for (std::size_t each = 0; each < network.hosts(); ++each) {
      while (const auto packet = network.received(*next, each)) {
        if (each == host) receipts.push_back({*next, std::to_integer<std::uint8_t>(packet->bytes[0]), packet->bytes.size()});
        network.take(each);
      }
    }
  }
  return receipts;
}

/// In the order of their marks, a millisecond apart.
void check_steady(const std::vector<Receipt>& receipts, std::size_t count, Instant first) {
  REQUIRE(receipts.size() == count);
  for (std::size_t each = 0; each < count; ++each) {
    CHECK(receipts[each].mark == each);
    CHECK(receipts[each].at == first + each * 1ms);
  }
}

}  // namespace

TEST_CASE("a line sends each packet after those before it, at its rate") {
  Line line(8 * kMbit, 1s);
  CHECK(line.admit(0ms, 1000) == 1ms);
  CHECK(line.admit(0ms, 2000) == 3ms);
  CHECK(line.admit(10ms, 1000) == 11ms);
}

TEST_CASE("a line without a limit sends at once") {
  Line line(kNoLimit, 0ms);
  CHECK(line.admit(5ms, 1'000'000) == 5ms);
  CHECK(line.admit(5ms, 1'000'000) == 5ms);
}

TEST_CASE("a packet that would wait for longer than the queue allows is dropped, and the next one may find room again") {
  Line line(8 * kMbit, 2ms);
  for (int each = 0; each < 3; ++each) CHECK(line.admit(0ms, 1000).has_value());
  CHECK_FALSE(line.admit(0ms, 1000).has_value());
  CHECK(line.admit(1ms, 1000) == 4ms);
}

TEST_CASE("a line keeps its rate over a million packets") {
  Line line(300 * kMbit, 3600s);
  std::optional<Instant> last;
  for (int each = 0; each < 1'000'000; ++each) last = line.admit(0ms, 1499);
  const auto exact = std::chrono::nanoseconds(std::int64_t{1'499'000'000} * 8 * 10 / 3);
  CHECK(*last - exact < 1ms);
  CHECK(exact - *last < 1ms);
}

TEST_CASE("a ring gives packets back in order, whatever their sizes, and refuses what it has no room for") {
  PacketRing ring(4096);
  std::mt19937 random(7);
  std::deque<std::pair<std::size_t, std::uint8_t>> model;
  std::uint8_t mark = 0;
  std::size_t refused = 0;
  for (int step = 0; step < 20'000; ++step) {
    if (random() % 100 < 55) {
      const std::size_t bytes = 1 + random() % 1500;
      if (ring.push(Instant(step), mark, packet_of(bytes, mark))) {
        model.emplace_back(bytes, mark++);
      } else {
        ++refused;
        REQUIRE(!model.empty());
      }
    } else if (!model.empty()) {
      const Packet packet = ring.front();
      REQUIRE(packet.bytes.size() == model.front().first);
      REQUIRE(packet.to == model.front().second);
      REQUIRE(packet.bytes.back() == std::byte{model.front().second});
      ring.pop();
      model.pop_front();
    }
    REQUIRE(ring.is_empty() == model.empty());
  }
  CHECK(refused > 0);
}

TEST_CASE("a ring has room for all that it was made for") {
  PacketRing ring(10 * (1504 + 16));
  for (int each = 0; each < 10; ++each) CHECK(ring.push(Instant(each), 0, packet_of(1500)));
  CHECK_FALSE(ring.push(Instant(10), 0, packet_of(1500)));
  ring.pop();
  CHECK(ring.push(Instant(11), 0, packet_of(1500)));
}

TEST_CASE("a packet takes its line up, the delay, and its line down") {
  Network network(two_hosts(8 * kMbit));
  network.send(0ms, 0, 1, packet_of(1000));
  const auto receipts = receive_all(network, 1);
  REQUIRE(receipts.size() == 1);
  CHECK(receipts[0].at == 27ms);
  CHECK(network.counts().delivered == 1);
  CHECK(network.counts().bytes_delivered == 1000);
}

TEST_CASE("what one host sends comes in order, at the rate of the link") {
  Network network(two_hosts(8 * kMbit));
  send_at_once(network, 40);
  check_steady(receive_all(network, 1), 40, 27ms);
}

TEST_CASE("two senders share their receiver's line, in the order in which their packets come") {
  Settings settings{.rates = {kNoLimit, kNoLimit, 8 * kMbit}, .delay = 10ms, .loss = 0, .queue = 50ms, .seed = 1};
  Network network(settings);
  for (std::uint8_t each = 0; each < 10; ++each) {
    network.send(each * 100us, each % 2, 2, packet_of(1000, each));
  }
  check_steady(receive_all(network, 2), 10, 11ms);
}

TEST_CASE("the times of packets do not depend on when somebody looks") {
  Network network(two_hosts(8 * kMbit));
  send_at_once(network, 3);
  network.advance(26500us);  // the first is across, late: since 26 ms
  CHECK(network.next() == 27ms);
  CHECK_FALSE(network.received(26900us, 1).has_value());
  CHECK(network.received(27ms, 1).has_value());
}

TEST_CASE("more than a link takes is dropped at its queue, and no more than that") {
  Network network(two_hosts(8 * kMbit));
  send_at_once(network, 100);
  CHECK(receive_all(network, 1).size() == 51);  // 50 ms of them wait, and one is being sent
  CHECK(network.counts().dropped == 49);
}

TEST_CASE("a queue of the smallest packets is bounded by its time as well, and none of them is refused for want of memory") {
  Network network(two_hosts(100 * kMbit));
  const std::size_t most = 50'000'000 / 1600 + 1;  // 20 bytes take 1.6 us
  for (std::size_t each = 0; each < most; ++each) network.send(0ms, 0, 1, packet_of(20));
  CHECK(network.counts().dropped == 0);
  network.send(0ms, 0, 1, packet_of(20));
  CHECK(network.counts().dropped == 1);
  CHECK(receive_all(network, 1).size() == most);
}

TEST_CASE("the share of packets that is lost is the one that was asked for, and a seed loses the same ones again") {
  Settings settings = two_hosts(kNoLimit);
  settings.loss = 0.1;
  std::vector<std::vector<Receipt>> both;
  for (int turn = 0; turn < 2; ++turn) {
    Network network(settings);
    for (int each = 0; each < 20'000; ++each) network.send(each * 10us, 0, 1, packet_of(100, static_cast<std::uint8_t>(each)));
    both.push_back(receive_all(network, 1));
    CHECK(network.counts().lost + both.back().size() == 20'000);
  }
  CHECK(both[0].size() > 17'800);
  CHECK(both[0].size() < 18'200);
  REQUIRE(both[0].size() == both[1].size());
  for (std::size_t each = 0; each < both[0].size(); ++each) REQUIRE(both[0][each].at == both[1][each].at);
}

TEST_CASE("far_link reads rates as tc writes them") {
  CHECK(parse_rate("500mbit") == 62.5e6);
  CHECK(parse_rate("1gbit") == 125e6);
  CHECK(parse_rate("1.5mbit") == 187.5e3);
  CHECK(parse_rate("none") == kNoLimit);
  for (const char* wrong : {"", "500", "mbit", "-1mbit", "0mbit", "1 mbit", "1mbits", "infmbit", "nanmbit", "0x10mbit"})
    CHECK_FALSE(parse_rate(wrong));
}

TEST_CASE("far_link reads times and percentages") {
  CHECK(parse_duration("25ms") == 25ms);
  CHECK(parse_duration("0.5ms") == 500us);
  CHECK(parse_duration("1s") == 1s);
  for (const char* wrong : {"", "25", "-1ms", "61s", "ms", "1m"}) CHECK_FALSE(parse_duration(wrong));
  CHECK(parse_percent("0%") == 0.0);
  CHECK(parse_percent("50") == 0.5);
  for (const char* wrong : {"", "100%", "-1%", "%", "1%%"}) CHECK_FALSE(parse_percent(wrong));
}
