// Where a peer is told that others are: by what they said, how they came, and how it came itself.
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <tl/expected.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

#include "registry_client.hpp"

import shoal.base;
import shoal.digest;
import shoal.manifest;
import shoal.tracker;
import shoal.wire;

using namespace shoal;
using namespace shoal::test;

namespace {

constexpr std::size_t kPlenty = 1 << 20;
const Instant kNow{std::chrono::hours(1)};

const Vantage kByLoopback{"127.0.0.1", "127.0.0.1"};
const Vantage kByLoopback6{"::1", "::1"};
const Vantage kByOwnAddress{"10.77.0.1", "10.77.0.1"};  // from the tracker's machine, by its address in the network
const Vantage kSecond{"10.77.0.2", "10.77.0.1"};
const Vantage kThird{"10.77.0.3", "10.77.0.1"};
const Vantage kOtherNet{"10.88.0.2", "10.88.0.1"};  // the tracker's machine is in two networks
const Vantage kOver6{"2001:db8::2", "2001:db8::1"};

Endpoint at(const std::string& said, const Vantage& peer, const Vantage& reader) { return address_for({said, 7000, peer}, reader); }

}  // namespace

TEST_CASE("Who listens everywhere is told at the address that the tracker sees") {
  const std::string everywhere = GENERATE(as<std::string>{}, "", "0.0.0.0", "::");
  for (const Vantage& reader : {kByLoopback, kByOwnAddress, kThird, kOtherNet}) {
    CHECK(at(everywhere, kSecond, reader) == Endpoint{"10.77.0.2", 7000});
    CHECK(at(everywhere, kOver6, reader) == Endpoint{"2001:db8::2", 7000});
  }
}

TEST_CASE("Who listens everywhere on the tracker's machine is told at the tracker's address that the other came to") {
  const std::string everywhere = GENERATE(as<std::string>{}, "", "0.0.0.0", "::");
  for (const Vantage& local : {kByLoopback, kByLoopback6}) {
    CHECK(at(everywhere, local, kSecond) == Endpoint{"10.77.0.1", 7000});
    CHECK(at(everywhere, local, kOtherNet) == Endpoint{"10.88.0.1", 7000});
    CHECK(at(everywhere, local, kOver6) == Endpoint{"2001:db8::1", 7000});
    for (const Vantage& neighbour : {kByLoopback, kByLoopback6, kByOwnAddress})
      CHECK(at(everywhere, local, neighbour) == Endpoint{local.remote, 7000});
  }
}

TEST_CASE("Who listens on loopback is reached from its own machine, and from no other") {
  for (const std::string loopback : {"127.0.0.1", "::1", "127.0.0.9"}) {
    CHECK(at(loopback, kByLoopback, kByLoopback) == Endpoint{loopback, 7000});
    CHECK(at(loopback, kByLoopback, kByOwnAddress) == Endpoint{loopback, 7000});
    CHECK(at(loopback, kByOwnAddress, kByLoopback) == Endpoint{loopback, 7000});
    CHECK(at(loopback, kThird, kThird) == Endpoint{loopback, 7000});
    CHECK(at(loopback, kThird, kSecond) == Endpoint{"10.77.0.3", 0});
    CHECK(at(loopback, kThird, kByLoopback) == Endpoint{"10.77.0.3", 0});
    CHECK(at(loopback, kByLoopback, kSecond).port == 0);
  }
}

TEST_CASE("An address that a peer gives is passed on as it is") {
  for (const std::string said : {"10.77.0.9", "2001:db8::9", "rack9.example"})
    for (const Vantage& reader : {kByLoopback, kSecond, kOver6}) {
      CHECK(at(said, kThird, reader) == Endpoint{said, 7000});
      CHECK(at(said, kByLoopback, reader) == Endpoint{said, 7000});
    }
}

TEST_CASE("The name of an interface is kept on the machine that calls it so, and told to no other") {
  const Vantage linked{"fe80::2%br0", "fe80::1%br0"};
  const Vantage other{"fe80::3%br0", "fe80::1%br0"};
  CHECK(at("", linked, other) == Endpoint{"fe80::2", 7000});
  CHECK(at("", kByLoopback, other) == Endpoint{"fe80::1", 7000});
  CHECK(at("fe80::2%eth0", linked, other) == Endpoint{"fe80::2", 7000});
  CHECK(at("", linked, kByLoopback) == Endpoint{"fe80::2%br0", 7000});
  CHECK(at("fe80::2%eth0", linked, kByLoopback) == Endpoint{"fe80::2%br0", 7000});
}

TEST_CASE("A reader of whom nothing is known is told what was said or seen") {
  CHECK(at("", kSecond, {}) == Endpoint{"10.77.0.2", 7000});
  CHECK(at("", kByLoopback, {}) == Endpoint{"127.0.0.1", 7000});
}

TEST_CASE("The registry tells each reader the addresses that are good for it") {
  Registry registry({.epoch = 42});
  const auto join = [&](const std::string& id, const std::string& said, const Vantage& seen) {
    Hello hello;
    hello.id = id;
    hello.instance = 1;
    const auto admission = registry.admit(hello, Register{said, 7000, Appetite::nothing, 0, 0, 0}, seen, 1, kNow);
    REQUIRE(admission.has_value());
    return admission->peer;
  };
  const PeerId share = join("share", "", kByLoopback);
  const PeerId hidden = join("hidden", "127.0.0.1", kThird);
  const PeerId near = join("near", "", kByLoopback);
  const PeerId far = join("far", "", kSecond);
  const auto address = [&](PeerId reader, PeerId peer) {
    RegistryClient client(reader);
    client.read_all(registry, kPlenty);
    return to_string({client.roster.at(peer).host, client.roster.at(peer).port});
  };
  CHECK(address(near, share) == "127.0.0.1:7000");
  CHECK(address(far, share) == "10.77.0.1:7000");
  CHECK(address(far, hidden) == "10.77.0.3:0");
  CHECK(address(hidden, far) == "10.77.0.2:7000");

  FileEntry entry;
  entry.name = "x";
  entry.size = 5;
  entry.root.bytes.fill(1);
  REQUIRE(registry.offer(share, Offer{{entry}}, kNow).has_value());
  const auto found = registry.find("x", {}, kPlenty);
  CHECK(registry.roster(found.entries, kOtherNet).front().host == "10.88.0.1");
  CHECK(registry.roster(found.entries, kByLoopback).front().host == "127.0.0.1");
  CHECK(registry.find_peer(share, kSecond)->host == "10.77.0.1");

  REQUIRE(registry.vantage_of(far) != nullptr);
  CHECK(registry.vantage_of(far)->remote == "10.77.0.2");
  registry.gone(far, 1, true, kNow);
  CHECK(registry.vantage_of(far) == nullptr);
  CHECK(registry.vantage_of(PeerId(77)) == nullptr);
}
