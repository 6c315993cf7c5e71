"""Several connections of two peers: who may open them, and that a far pair does."""

import os
import pathlib
import struct
import subprocess
import unittest

import far_link
import shoal_wire as wire
from swarm_lab import MIB, PATIENCE, SLOWNESS, SystemTest, binary, random_bytes, wait_until

SUBFLOW = 3
SEVERAL_CONNECTIONS = 1
JOINABLE, JOIN = 64, 65


def hello(role, name, features):
    return wire.frame(wire.HELLO, wire.MAGIC + struct.pack("<HHQB", 1, 1, features, role) + wire.text(name) + struct.pack("<Q", 77))


def has_bbr():
    try:
        return "bbr" in pathlib.Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text(encoding="ascii").split()
    except OSError:
        return False


class Joining(SystemTest):
    """A peer on this machine, and strangers that speak the protocol by themselves."""

    def setUp(self):
        super().setUp()
        self.tracker = self.lab.tracker()
        self.share = self.lab.peer("a", "share", self.lab.make("a", {"file": random_bytes(MIB, "a")}), tracker=self.tracker)
        self.share.wait_for("registered")
        self.address = self.tracker.address_of("a")

    def connect(self):
        connection = wire.Connection.to(self.address, 5 * SLOWNESS)
        self.addCleanup(connection.close)
        return connection

    def test_who_does_not_know_the_secret_is_refused_in_words(self):
        for secret in (bytes(16), os.urandom(16), b"\xff" * 16):
            connection = self.connect()
            connection.send(hello(SUBFLOW, "stranger", SEVERAL_CONNECTIONS) + wire.frame(JOIN, secret + struct.pack("<I", 1)))
            self.assertIn(b"no session here has that secret", connection.receive_kind(wire.REFUSAL))
            self.assertTrue(connection.is_closed_by_peer())
        self.assertTrue(self.share.is_running())

    def test_who_does_not_know_of_further_connections_is_refused_in_words(self):
        for features in (0, 2):
            connection = self.connect()
            connection.send(hello(SUBFLOW, "stranger", features) + wire.frame(JOIN, bytes(16) + struct.pack("<I", 1)))
            self.assertIn(b"bit 0 of the features", connection.receive_kind(wire.REFUSAL))
            self.assertTrue(connection.is_closed_by_peer())
        self.assertTrue(self.share.is_running())

    def test_who_says_something_else_in_place_of_the_secret_is_dropped(self):
        for data in (wire.frame(wire.PING, bytes(8)), wire.frame(wire.REQUEST, struct.pack("<III", 1, 0, 0)), wire.frame(JOIN, bytes(7))):
            connection = self.connect()
            connection.send(hello(SUBFLOW, "stranger", SEVERAL_CONNECTIONS) + data)
            self.assertTrue(connection.is_closed_by_peer())
        self.assertTrue(self.share.is_running())

    def test_a_near_peer_is_offered_none_and_one_that_knows_of_none_is_told_of_none(self):
        for features in (0, SEVERAL_CONNECTIONS):
            connection = self.connect()
            connection.send(hello(wire.TO_PEER, f"near{features}", features))
            welcome = connection.receive_kind(wire.WELCOME)
            self.assertEqual(struct.unpack_from("<HQ", welcome)[1], features)
            connection.send(wire.frame(wire.SUBSCRIBE, b"\1" + struct.pack("<I", 0)))
            for _ in range(3):
                connection.send(wire.frame(wire.PING, bytes(8)))
                kind = None
                while kind != wire.PONG:
                    kind, payload = connection.receive()
                    self.assertNotEqual(kind, JOINABLE)
                    if kind == wire.PING:
                        connection.send(wire.pong(payload))


@unittest.skipIf(far_link.why_not(), far_link.why_not())
class Far(SystemTest):
    """Two peers with a round trip of 40 ms between them, and the tracker with the second."""

    def setUp(self):
        super().setUp()
        self.far = far_link.FarLink(0.02)
        self.lab.at_end.append(self.far.close)
        self.tracker = self.on(1, "tracker", "shoal-tracker", "--listen", f"{self.far.addresses[1]}:5555", "--state", ":memory:", "--json")
        self.tracker.wait_for("listening")

    def on(self, number, name, program, *arguments):
        return self.lab.start(name, [*self.far.on(number), binary(program), *arguments, "--insecure"])

    def peer(self, number, name, *arguments):
        return self.on(number, name, "shoal-peer", *arguments, "--id", name, "--cache", self.lab.path(f"{name}.db"), "--tracker",
                       f"{self.far.addresses[1]}:5555", "--listen", f"{self.far.addresses[number]}:0", "--json", "--log", self.lab.log_of(name))

    def sockets_of(self, number):
        return subprocess.run([*self.far.on(number), "ss", "-tin", "dst", self.far.addresses[1 - number]], capture_output=True, text=True, check=False).stdout

    def test_a_far_pair_tries_one_more_connection_and_the_file_is_whole(self):
        source = self.lab.make("a", {"file": random_bytes(16 * MIB, "a")})
        share = self.peer(0, "a", "share", source, "--limit-rate", "4M")
        wait_until(lambda: self.peer(1, "f", "find", "file").wait() == 0, "the offer of 'file'", describe=self.lab.describe)
        get = self.peer(1, "b", "get", "file", "-o", self.lab.make("b"))
        if has_bbr():
            wait_until(lambda: " bbr " in self.sockets_of(0), "BBR over a long way", describe=self.lab.describe)
        self.expect_exit(0, get, seconds=2 * PATIENCE)
        self.expect_equal_trees(source, self.lab.path("b"))
        self.assertTrue(get.events("connection", self.lab.log_of("b")), self.lab.describe())
        self.assertEqual(share.warnings() + get.warnings(), [])


if __name__ == "__main__":
    unittest.main()
