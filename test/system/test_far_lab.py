"""Hosts that are far from each other, made for real: far_link's namespaces, their round trips, rates and losses, and what is left of them.

Skipped where such hosts cannot be made: see far_link.why_not.
"""

import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import unittest

import far_link
import swarm_lab

SO_RCVBUFFORCE = 33  # socket has no name for it
PROBE = pathlib.Path(__file__).resolve()


def echo_request(number):
    """An ICMP echo request, which the other host's kernel answers."""
    body = struct.pack(">BBHHH", 8, 0, 0, os.getpid() & 0xFFFF, number) + bytes(32)
    total = sum(struct.unpack(f">{len(body) // 2}H", body))
    total = (total & 0xFFFF) + (total >> 16)
    return body[:2] + struct.pack(">H", ~(total + (total >> 16)) & 0xFFFF) + body[4:]


def probe_echo(address, count, at_once):
    """Prints the round trip of each answer, in seconds: one after the other, or all at once."""
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    raw.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)  # room for all answers, should this process have to wait for a processor
    raw.settimeout(3 * swarm_lab.SLOWNESS)
    sent = {}

    def receive():
        reply = raw.recv(2048)
        kind, _, _, identity, number = struct.unpack_from(">BBHHH", reply, 4 * (reply[0] & 15))
        if kind == 0 and identity == os.getpid() & 0xFFFF and number in sent:
            print(time.monotonic() - sent.pop(number))

    for number in range(count):
        sent[number] = time.monotonic()
        raw.sendto(echo_request(number), (address, 0))
        if not at_once:
            receive()
    try:
        while sent:
            receive()
    except TimeoutError:
        pass


def probe_sink(address):
    """Takes one connection, and prints when its last byte had come, on the machine's clock."""
    with socket.create_server((address, 7000)) as server:
        print("listening", flush=True)
        server.settimeout(20 * swarm_lab.SLOWNESS)
        link, _ = server.accept()
        link.settimeout(20 * swarm_lab.SLOWNESS)
        while link.recv(1 << 16):
            pass
        print(time.monotonic(), flush=True)


def probe_send(address, count):
    """Prints when it began, on the same clock."""
    print(time.monotonic(), flush=True)
    with socket.create_connection((address, 7000), 20) as link:
        link.sendall(bytes(count))


class FarLab(unittest.TestCase):
    number = 0

    @classmethod
    def setUpClass(cls):
        if why := far_link.why_not():
            raise unittest.SkipTest(why)

    def setUp(self):
        FarLab.number += 1
        self.name = f"shoalfar{os.getpid()}x{FarLab.number}"
        self.started = []

    def tearDown(self):
        for process in self.started:
            process.kill()
            process.communicate()
        swarm_lab.wait_until(lambda: not self.spaces(), f"the end of {self.name}")

    def spaces(self):
        folder = pathlib.Path("/run/netns")
        return sorted(each.name for each in folder.glob(f"{self.name}-*")) if folder.exists() else []

    def start(self, *arguments, **more):
        process = subprocess.Popen([str(each) for each in arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, **more)
        self.started.append(process)
        return process

    def start_lab(self, *arguments):
        lab = self.start(swarm_lab.binary("far_link"), self.name, *arguments)
        self.assertEqual(lab.stdout.readline(), "ready\n")
        return lab

    def probe(self, host, *arguments):
        return self.start("ip", "netns", "exec", f"{self.name}-{host}", sys.executable, "-B", PROBE, "--probe", *arguments)

    def numbers(self, process):
        output, errors = process.communicate(timeout=40 * swarm_lab.SLOWNESS)
        self.assertEqual(process.returncode, 0, errors)
        return [float(line) for line in output.split()]

    def least(self, measure, wanted):
        """The least that is measured until it is at most `wanted`: a machine that does other things, too, makes some too long, but none too short."""
        found = []

        def is_enough():
            found.append(measure())
            return min(found) <= wanted

        swarm_lab.wait_until(is_enough, f"at most {wanted} s", describe=lambda: f"the least was {min(found)} s")
        return min(found)

    def test_a_round_trip_takes_twice_the_delay(self):
        self.start_lab(2, "100mbit", "--delay", "25ms")
        for host, other in ((1, "10.77.0.2"), (2, "10.77.0.1"), (1, "10.77.0.254")):
            trip = self.least(lambda host=host, other=other: min(self.numbers(self.probe(host, "echo", other, 8, 0))), 0.055)
            self.assertGreaterEqual(trip, 0.050)

    def seconds_for(self, count):
        sink = self.probe(2, "sink", "10.77.0.2")
        self.assertEqual(sink.stdout.readline(), "listening\n")
        begun = self.numbers(self.probe(1, "send", "10.77.0.2", count))[0]
        return self.numbers(sink)[0] - begun

    def test_bytes_come_at_the_rate_of_the_link(self):
        self.start_lab(2, "20mbit", "--delay", "1ms")
        line = 2_000_000 * 8 / 20e6
        self.assertGreater(self.least(lambda: self.seconds_for(2_000_000), 1.3 * line), line)

    def test_a_share_of_packets_is_lost(self):
        lab = self.start_lab(2, "100mbit", "--delay", "1ms", "--loss", "20%")
        answers = self.numbers(self.probe(1, "echo", "10.77.0.2", 500, 1))
        lab.send_signal(signal.SIGTERM)
        output, _ = lab.communicate(timeout=10)
        lost = int(re.search(r"(\d+) lost", output)[1])
        self.assertEqual(lost, 500 - len(answers))  # a request or its answer
        self.assertGreater(len(answers), 250)  # 320 are to be expected, with a deviation of 11
        self.assertLess(len(answers), 390)

    def test_nothing_is_left_whatever_ends_it(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL):
            lab = self.start_lab(3, "100mbit", "--delay", "1ms")
            self.assertEqual(self.spaces(), [f"{self.name}-{each}" for each in ("1", "2", "3", "switch")])
            lab.send_signal(number)
            lab.communicate(timeout=20)
            swarm_lab.wait_until(lambda: not self.spaces(), f"the end of the namespaces after signal {number}")
            if number != signal.SIGKILL:
                self.assertEqual(lab.returncode, 0)

    def test_nothing_is_left_when_its_parent_is_killed(self):
        script = "import subprocess, sys; subprocess.run(sys.argv[1:])"
        parent = self.start(sys.executable, "-c", script, swarm_lab.binary("far_link"), self.name, 2, "none", "--delay", "1ms")
        self.assertEqual(parent.stdout.readline(), "ready\n")
        parent.kill()
        swarm_lab.wait_until(lambda: not self.spaces(), "the end of the namespaces")

    def test_a_name_that_is_taken_is_refused_and_left_alone(self):
        self.start_lab(2, "100mbit", "--delay", "1ms")
        second = self.start(swarm_lab.binary("far_link"), self.name, 2, "100mbit")
        _, errors = second.communicate(timeout=20)
        self.assertEqual(second.returncode, 1)
        self.assertEqual(errors, f"far_link: there is a namespace {self.name}-1 already; take another name, or remove it\n")
        self.assertEqual(len(self.numbers(self.probe(1, "echo", "10.77.0.2", 1, 0))), 1)

    def test_nonsense_is_refused_in_one_line(self):
        for arguments in ((self.name, "2", "fast"), (self.name, "2", "1mbit", "--loss", "100%"), (self.name, "0", "1mbit"), ("../x", "2", "1mbit"),
                          (self.name, "2", "1mbit", "--delay", "25")):
            refused = self.start(swarm_lab.binary("far_link"), *arguments)
            _, errors = refused.communicate(timeout=20)
            self.assertEqual(refused.returncode, 2, arguments)
            self.assertNotEqual(errors, "")
            self.assertEqual(self.spaces(), [])


def run_probe(kind, *arguments):
    if kind == "echo":
        probe_echo(arguments[0], int(arguments[1]), arguments[2] == "1")
    elif kind == "sink":
        probe_sink(arguments[0])
    else:
        probe_send(arguments[0], int(arguments[1]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--probe"]:
        run_probe(*sys.argv[2:])
    else:
        unittest.main(verbosity=2)
