"""Strangers that stammer: their connection ends, and nothing else."""

import os
import random
import socket
import struct
import threading
import time
import unittest

import shoal_wire as wire
from swarm_lab import CHUNK, MIB, SLOWNESS, SystemTest, random_bytes

U32 = lambda *values: struct.pack(f"<{len(values)}I", *values)


def before_the_greeting(role):
    """What to send as the first thing, by what is wrong with it."""
    rng = random.Random(7)
    return {
        "random bytes": rng.randbytes(5000),
        "an HTTP request": b"GET / HTTP/1.1\r\nHost: shoal\r\n\r\n",
        "a length of 4 GiB": struct.pack("<IH", 0xFFFFFFFF, wire.HELLO),
        "a length of zero": struct.pack("<IH", 0, wire.HELLO),
        "a length without a whole type": struct.pack("<IH", 1, wire.HELLO),
        "a hello over 1 KiB": wire.frame(wire.HELLO, bytes(2000)),
        "a hello that ends early": wire.frame(wire.HELLO, b"SHAL\1\0"),
        "another magic": wire.hello(role, "stranger", magic=b"SHOL"),
        "a role that there is none of": wire.hello(9, "stranger"),
        "the other role": wire.hello(1 - role, "stranger"),
        "a version of the future": wire.hello(role, "stranger", version=9, oldest=8),
        "a name with a slash": wire.hello(role, "../stranger"),
        "an empty name": wire.hello(role, ""),
        "a name that is longer than its frame": wire.frame(wire.HELLO, b"SHAL" + struct.pack("<HHQBI", 1, 1, 0, role, 0xFFFFFFF0)),
        "a ping before the hello": wire.frame(wire.PING, bytes(8)),
        "an unknown message before the hello": wire.frame(999, bytes(8)),
        "a chunk before the hello": wire.frame(wire.CHUNK, U32(0, 0, 0) + bytes(100)),
        "two hellos": wire.hello(role, "stranger") * 2,
    }


AT_A_TRACKER = {
    "a control message over 64 KiB": struct.pack("<IH", 70_000, wire.OFFER),
    "an unknown message over 64 KiB": struct.pack("<IH", 70_000, 999),
    "an offer before the registration": wire.frame(wire.OFFER, U32(0)),
    "a chunk": wire.frame(wire.CHUNK, U32(0, 0, 0) + bytes(100)),
    "a register that ends early": wire.frame(wire.REGISTER, b"\1"),
    "a register with an appetite that there is none of": wire.register(1, appetite=7),
    "two registers": wire.register(1) * 2,
    "a message between peers": wire.register(1) + wire.frame(wire.REQUEST, U32(1, 0, 0)),
    "a list that is longer than its frame": wire.register(1) + wire.frame(wire.OFFER, U32(0xFFFFFFFF)),
    "a withdraw that is longer than its frame": wire.register(1) + wire.frame(wire.WITHDRAW, U32(1, 0x7FFFFFFF)),
    "a name that leads out of the folder": wire.register(1) + wire.frame(wire.OFFER, U32(1) + wire.text("../../etc/passwd") + struct.pack("<BQqB", 0, 5, 0, 0) + bytes(48)),
    "a kind of entry that there is none of": wire.register(1) + wire.frame(wire.OFFER, U32(1) + wire.text("x") + struct.pack("<BQqB", 9, 5, 0, 0) + bytes(48)),
    "a bool of 2": wire.register(1) + wire.frame(wire.OFFER, U32(1) + wire.text("x") + struct.pack("<BQqB", 0, 5, 0, 2) + bytes(48)),
    "a connect back of more peers than one may name": wire.connect_back(1, *range(65)),
    "a connect back to an address that is none": wire.connect_back(1, 0, host="h" * 300),
    "a connect to": wire.register(1) + wire.frame(wire.CONNECT_TO, wire.text("a") + wire.text("127.0.0.1") + b"\1\0"),
    "a file of 2^63 bytes": wire.register(1) + wire.frame(wire.OFFER, U32(1) + wire.text("x") + struct.pack("<BQqB", 0, 1 << 63, 0, 0) + bytes(48)),
}

ROOT = bytes(range(32))


def holding(handle=1, root=ROOT, size=3 * CHUNK, is_complete=1, first=0, bits=b""):
    return wire.frame(wire.INVENTORY, U32(1, handle) + root + struct.pack("<QBII", size, is_complete, first, len(bits)) + bits)


AT_A_PEER = {
    "a control message over 64 KiB": struct.pack("<IH", 70_000, wire.REQUEST),
    "a chunk frame over its limit": struct.pack("<IH", 300_000, wire.CHUNK),
    "a chunk that was not asked for": wire.frame(wire.CHUNK, U32(0, 0, 0) + bytes(100)),
    "a chunk without data": wire.frame(wire.CHUNK, U32(0, 0, 0)),
    "a chunk past the end of a chunk": wire.frame(wire.CHUNK, U32(0, 0, CHUNK - 1) + bytes(100)),
    "a request for a handle that was never given": wire.frame(wire.REQUEST, U32(1, 12345, 0)),
    "a request for a chunk past the end": wire.frame(wire.REQUEST, U32(1, 0, 0xFFFFFFFF)),
    "a have for a handle that was never given": wire.frame(wire.HAVE, U32(1, 77, 0, 1)),
    "a have past the end": holding(is_complete=0) + wire.frame(wire.HAVE, U32(1, 1, 2, 0xFFFFFFFF)),
    "one handle for two contents": holding() + holding(root=bytes(32)),
    "an inventory with chunks past the end": holding(is_complete=0, bits=b"\xff"),
    "an inventory of nothing": holding(size=0),
    "an inventory of 2^63 bytes": holding(size=1 << 63),
    "a list that is longer than its frame": wire.frame(wire.REQUEST, U32(0xFFFFFFFF)),
    "a message of trackers": wire.frame(wire.OFFER, U32(0)),
    "a second hello": wire.hello(wire.TO_PEER, "stranger"),
    "a bool of 2": wire.frame(wire.SUBSCRIBE, b"\2" + U32(0)),
}


class Strangers(SystemTest):
    """A closed swarm of two that meets them all, and ends as if they had not been there."""

    def setUp(self):
        super().setUp()
        self.tracker = self.lab.tracker("--expect", 2)
        self.folders = {name: self.lab.make(name, {name: random_bytes(MIB + 3, name)}) for name in "ab"}
        self.a = self.lab.peer("a", "swarm", self.folders["a"], tracker=self.tracker)
        self.a.wait_for("registered")
        self.peer_address = self.tracker.address_of("a")

    def expect_closed(self, address, what, data, connection=None):
        connection = connection or wire.Connection.to(address, 5 * SLOWNESS)
        try:
            try:
                connection.send(data)
            except OSError:
                pass  # closed while we were still talking
            self.assertTrue(connection.is_closed_by_peer(), f"{what}: the connection is still open\n{self.lab.describe()}")
        finally:
            connection.close()

    def expect_good_end(self):
        b = self.lab.peer("b", "swarm", self.folders["b"], tracker=self.tracker)
        self.expect_exit(0, self.a, b, self.tracker)
        self.expect_equal_trees(*self.folders.values())

    def test_what_no_greeting_begins_with_ends_the_connection(self):
        for address, role in ((self.tracker.address, wire.TO_TRACKER), (self.peer_address, wire.TO_PEER)):
            for what, data in before_the_greeting(role).items():
                with self.subTest(what, role=role):
                    self.expect_closed(address, what, data)
        self.expect_good_end()

    def test_what_breaks_the_rules_of_a_peer_ends_the_connection(self):
        for number, (what, data) in enumerate(AT_A_PEER.items()):
            with self.subTest(what):
                name = f"stranger{number}"
                self.expect_closed(None, what, data, wire.greet(self.peer_address, wire.TO_PEER, name, patience=5 * SLOWNESS))
        self.expect_good_end()

    def test_a_connection_that_ends_is_one_line(self):
        self.expect_closed(self.peer_address, "random bytes", random.Random(3).randbytes(300))
        self.a.wait_for("warning")
        self.expect_closed(self.tracker.address, "random bytes", random.Random(4).randbytes(300))
        self.tracker.wait_for("warning")
        self.assertEqual(len(self.a.warnings()), 1, self.a.describe())
        self.assertEqual(len(self.tracker.warnings()), 1, self.tracker.describe())
        self.assertRegex(self.a.warnings()[0], r"127\.0\.0\.1:\d+")

    def test_half_a_message_and_then_the_end_harms_nobody(self):
        for address, role in ((self.tracker.address, wire.TO_TRACKER), (self.peer_address, wire.TO_PEER)):
            message = wire.hello(role, "halfway")
            for length in range(len(message)):
                connection = wire.Connection.to(address)
                connection.send(message[:length])
                connection.close()
        self.expect_good_end()

    def test_noise_while_files_move_harms_nobody(self):
        seed = int(os.environ.get("SHOAL_SEED", random.randrange(1 << 32)))
        print(f"SHOAL_SEED={seed}", flush=True)
        rng = random.Random(seed)
        done = threading.Event()

        def make_noise():
            while not done.is_set():
                for address, role in ((self.tracker.address, wire.TO_TRACKER), (self.peer_address, wire.TO_PEER)):
                    try:
                        connection = wire.greet(address, role, f"noise{rng.randrange(1000)}", instance=rng.randrange(1 << 60), patience=1)
                        connection.send(wire.frame(rng.choice([*range(1, 7), *range(48, 58), 999]), rng.randbytes(rng.randrange(200))))
                        connection.close()
                    except (OSError, ConnectionError):
                        pass  # the swarm is over
        noise = threading.Thread(target=make_noise, daemon=True)
        self.addCleanup(noise.join, 10 * SLOWNESS)
        self.addCleanup(done.set)
        noise.start()
        b = self.lab.peer("b", "swarm", self.folders["b"], "--limit-rate", "1M", tracker=self.tracker)
        self.expect_exit(0, self.a, b, self.tracker)
        self.expect_equal_trees(*self.folders.values())


class Members(SystemTest):
    """Strangers that got as far as a registration: in an open swarm, for a closed one would count them."""

    def test_what_breaks_the_rules_of_a_tracker_ends_the_connection(self):
        tracker = self.lab.tracker()
        a = self.lab.peer("a", "swarm", self.lab.make("a", {"a": random_bytes(MIB, "a")}), tracker=tracker)
        a.wait_for("registered")
        for number, (what, data) in enumerate(AT_A_TRACKER.items()):
            with self.subTest(what):
                connection = wire.greet(tracker.address, wire.TO_TRACKER, f"stranger{number}", patience=5 * SLOWNESS)
                connection.send(data)
                self.assertTrue(connection.is_closed_by_peer(), f"{what}: the connection is still open\n{self.lab.describe()}")
                connection.close()
        b = self.lab.peer("b", "swarm", self.lab.make("b", {"b": b"b"}), tracker=tracker)
        b.wait_for("file")
        a.wait_for("file")
        self.expect_equal_trees(self.lab.path("a"), self.lab.path("b"))


class Takeover(SystemTest):
    """What a peer tells others gives nobody its place at the tracker."""

    def place_taken(self, tracker, name, instance):
        """The tracker's answer to whoever comes under that name, with that instance."""
        stranger = wire.greet(tracker.address, wire.TO_TRACKER, name, instance=instance)
        self.addCleanup(stranger.close)
        stranger.send(wire.register(1))
        kind, _ = stranger.receive()
        return kind

    def test_the_instance_that_a_peer_tells_others_is_not_the_one_that_its_tracker_knows(self):
        tracker = self.lab.tracker()
        share = self.lab.peer("a", "share", self.lab.make("a", {"one": random_bytes(MIB, 1)}), tracker=tracker)
        share.wait_for("registered")
        visitor = wire.Connection.to(tracker.address_of("a"))
        self.addCleanup(visitor.close)
        visitor.send(wire.hello(wire.TO_PEER, "visitor"))
        (told,) = struct.unpack("<Q", visitor.receive_kind(wire.WELCOME)[-8:])
        for instance in (told, told ^ 1, 0, 1):
            self.assertEqual(self.place_taken(tracker, "a", instance), wire.REFUSAL)
        self.expect_exit(0, self.lab.peer("b", "get", "one", "-o", self.lab.make("b"), tracker=tracker))
        self.assertEqual(tracker.events("left"), [])


class ConnectBack(SystemTest):
    """What a stranger has others connect to."""

    def setUp(self):
        super().setUp()
        self.tracker = self.lab.tracker()
        self.a = self.lab.peer("a", "share", self.lab.make("a", {"one": random_bytes(MIB, 1)}), tracker=self.tracker)
        self.a.wait_for("registered")
        self.door = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.door.close)
        self.door.settimeout(5 * SLOWNESS)
        self.port = self.door.getsockname()[1]

    def ask(self, name, *requests):
        stranger = wire.greet(self.tracker.address, wire.TO_TRACKER, name)
        self.addCleanup(stranger.close)
        stranger.send(b"".join(requests))
        return stranger

    def visitors(self, patience):
        """How many come within that time."""
        self.door.settimeout(patience)
        links = []
        try:
            while True:
                link, _ = self.door.accept()
                links.append(link)
                self.addCleanup(link.close)
        except TimeoutError:
            return links

    def test_the_one_that_is_named_connects_and_greets(self):
        self.ask("caller", wire.connect_back(self.port, 0))
        link, _ = self.door.accept()
        self.addCleanup(link.close)
        self.assertIn(b"SHAL", wire.Connection(link).receive_kind(wire.HELLO))

    def test_peers_that_are_not_there_and_ports_that_are_none_bring_nobody(self):
        self.ask("caller", wire.connect_back(self.port, 1, 7, 0xFFFFFFFF))
        self.ask("other", wire.connect_back(0, 0))
        self.ask("a", wire.connect_back(self.port, 0))  # the name of the one that is to connect
        self.assertEqual(self.visitors(1 * SLOWNESS), [])

    def test_asking_again_and_again_brings_one_at_a_time(self):
        self.ask("caller", *[wire.connect_back(self.port, *[0] * 64)] * 200)
        self.assertEqual(len(self.visitors(1.5 * SLOWNESS)), 1)
        self.expect_exit(0, self.lab.peer("b", "get", "one", "-o", self.lab.make("b"), tracker=self.tracker))

    def test_a_stranger_with_a_neighbours_name_does_not_stand_in_for_it(self):
        b = self.lab.make("b")
        self.ask("b", wire.connect_back(self.port, 0))  # whoever connects there is not answered
        link, _ = self.door.accept()
        self.addCleanup(link.close)
        self.expect_exit(0, self.lab.peer("b", "get", "one", "-o", b, tracker=self.tracker), seconds=5 * SLOWNESS)
        swarm = self.lab.peer("b", "swarm", self.lab.make("c"), tracker=self.tracker)
        swarm.wait_for("file", seconds=5 * SLOWNESS)


class Silence(SystemTest):
    def test_a_stranger_that_says_nothing_is_dropped_after_ten_seconds(self):
        tracker = self.lab.tracker()
        peer = self.lab.peer("a", "share", self.lab.make("a"), tracker=tracker)
        peer.wait_for("registered")
        began = time.monotonic()
        silent = [socket.create_connection(address.rsplit(":", 1)) for address in (tracker.address, tracker.address_of("a"))]
        for link in silent:
            link.settimeout(14 * SLOWNESS)
            self.assertEqual(link.recv(1000), b"")
            link.close()
        self.assertGreater(time.monotonic() - began, 9)
        self.assertLess(time.monotonic() - began, 12 * SLOWNESS)
        self.assertTrue(peer.is_running() and tracker.is_running())


if __name__ == "__main__":
    unittest.main()
