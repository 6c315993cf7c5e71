"""Clock peers: their tables, their summary, and how their tables reach everyone."""

import os
import re
import socket
import unittest

from swarm_lab import SLOWNESS, SystemTest, binary, free_port, wait_until, whole_lines

ROW = re.compile(r"\| (\d+) \| (\S+:\d+) \| (\S+:\d+) \| \d{4}-\d\d-\d\d \| \d\d:\d\d:\d\d\.\d{6} \|")
HEAD = ["Timestamp Data", "| # | Sender's IP | Receiver's IP | Date | Time |", "|---|---|---|---|---|"]


class ClockTest(SystemTest):
    def clock(self, tracker, *arguments, json_output=True):
        line = [binary("shoal-peer"), "clock", *arguments, "--out", self.lab.path("out"), "--tracker", tracker if isinstance(tracker, str) else tracker.address]
        return self.lab.start("clock", line + (["--json"] if json_output else []))

    def tracker(self):
        return self.lab.tracker("--out", self.lab.path("server"))

    def table(self, *parts):
        return whole_lines(self.lab.path(*parts))

    def expect_whole(self, lines, duration):
        """Head, rows numbered from 1, and the closing line; gives the rows' senders and receivers."""
        self.assertEqual(lines[:3], HEAD)
        self.assertEqual(lines[-1], f"End of Timestamp Data (after {duration})")
        rows = [ROW.fullmatch(line) for line in lines[3:-1]]
        self.assertTrue(all(rows))
        self.assertEqual([int(row[1]) for row in rows], list(range(1, len(rows) + 1)))
        return [(row[2], row[3]) for row in rows]


class Tables(ClockTest):
    def test_both_sides_write_every_exchange(self):
        tracker = self.tracker()
        clock = self.clock(tracker, "--count", 3, "--duration", "1s")
        self.expect_exit(0, clock)
        server = self.lab.path("server", "serverTimeData.txt")
        wait_until(lambda: whole_lines(server)[-1:] == ["End of Timestamp Data (after 1 second)"], "the tracker's table", describe=self.lab.describe)
        at_server = self.expect_whole(whole_lines(server), "1 second")
        at_peers = []
        for event in clock.events("clock"):
            rows = self.expect_whole(self.table("out", f"client_{event['peer']}_TimeData.txt"), "1 second")
            self.assertEqual(len(rows), event["sent"] + event["answered"])
            self.assertEqual(event["sent"] + event["missed"], 100)
            at_peers += rows
        self.assertEqual(sorted(at_server), sorted(at_peers))
        self.assertEqual(sum(receiver == tracker.address for _, receiver in at_server) * 2, len(at_server))

    def test_everyone_gets_the_table_of_everyone(self):
        count = 60
        clock = self.clock(self.tracker(), "--count", count, "--duration", "1s")
        self.expect_exit(0, clock, seconds=60 * SLOWNESS)
        self.assertEqual(clock.result()["tables_received"], count * (count - 1))
        tables = {i: self.table("out", f"client_{i}_TimeData.txt") for i in range(count)}
        for i in range(count):
            for j in range(count):
                if i != j:
                    self.assertEqual(self.table("out", f"client_{i}_received", f"from_{j}", f"client_{j}_TimeData.txt"), tables[j])

    def test_two_processes_at_one_tracker_share_the_numbers_and_the_tables(self):
        tracker = self.tracker()
        first = self.clock(tracker, "--count", 2, "--duration", "2s")
        first.wait_for("clock_joined", 2)
        second = self.clock(tracker, "--count", 2, "--duration", "1s")
        self.expect_exit(0, first, second)
        self.assertEqual(sorted(event["peer"] for event in first.events("clock") + second.events("clock")), ["0", "1", "2", "3"])
        self.assertEqual(sorted(os.listdir(self.lab.path("out", "client_0_received"))), ["from_1", "from_2", "from_3"])


class Datagrams(ClockTest):
    def sockets_to(self, port):
        """How many UDP sockets of this machine are connected with that port."""
        with open("/proc/net/udp", encoding="ascii") as lines:
            return sum(line.split()[2].endswith(f":{port:04X}") for line in list(lines)[1:])

    @unittest.skipUnless(os.path.exists("/proc/net/udp"), "this system does not list its sockets there")
    def test_each_peer_sends_datagrams(self):
        tracker = self.tracker()
        clock = self.clock(tracker, "--count", 5, "--duration", "1s")
        port = int(tracker.address.rsplit(":", 1)[1])
        wait_until(lambda: self.sockets_to(port) == 5, "the peers' sockets", describe=self.lab.describe)
        self.expect_exit(0, clock)
        self.assertEqual(self.sockets_to(port), 0)

    def test_where_another_program_has_the_port_ticks_go_by_the_connection(self):
        port = free_port()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", port))
            tracker = self.lab.tracker("--out", self.lab.path("server"), listen=f"127.0.0.1:{port}")
            clock = self.clock(tracker, "--count", 2, "--duration", "1s")
            self.expect_exit(0, clock)
            self.assertEqual(clock.result()["answered"], clock.result()["sent"])
            other.settimeout(0)
            self.assertRaises(BlockingIOError, other.recv, 1)


class Failures(ClockTest):
    def test_a_tracker_that_comes_back_leaves_a_gap(self):
        tracker = self.tracker()
        address = tracker.address
        clock = self.clock(address, "--duration", "4s")
        clock.wait_for("clock_joined")
        tracker.kill()
        clock.wait_for("waiting")
        self.lab.tracker("--out", self.lab.path("server"), listen=address)
        self.expect_exit(0, clock)
        event = clock.events("clock")[0]
        self.assertEqual((event["gaps"], event["sent"] + event["missed"]), (1, 400))
        self.assertGreater(event["missed"], 0)
        self.expect_whole(self.table("out", "client_0_TimeData.txt"), "4 seconds")

    def test_an_interrupted_run_keeps_whole_rows_and_says_so(self):
        clock = self.clock(self.tracker(), "--duration", "1m")
        clock.wait_for("clock_joined")
        path = self.lab.path("out", "client_0_TimeData.txt")
        wait_until(lambda: len(whole_lines(path)) > 10, "rows", describe=self.lab.describe)
        clock.interrupt()
        self.expect_exit(7, clock)
        with open(path, encoding="utf-8") as file:
            self.assertTrue(file.read().endswith(" |\n"))

    def test_no_tracker_is_one_line_and_the_exit_code_of_the_network(self):
        clock = self.clock("127.0.0.1:9", "--wait", "0", json_output=False)
        self.expect_exit(6, clock)
        self.expect_one_line(clock, "no tracker at 127.0.0.1:9")

    def test_a_clock_in_sync_ends_at_once_and_writes_no_table(self):
        tracker = self.tracker()
        good = self.clock(tracker, "--wait-sync", "1s", "--duration", "10s")
        self.expect_exit(0, good)
        bad = self.clock(tracker, "--wait-sync", "1ns", "--duration", "500ms")
        self.expect_exit(6, bad)
        self.assertFalse(os.path.exists(self.lab.path("out")))

    def test_a_folder_for_the_tables_that_cannot_be_made_is_refused_at_once(self):
        with open(self.lab.path("out"), "w", encoding="utf-8"):
            clock = self.clock("127.0.0.1:9", json_output=False)
            self.expect_exit(2, clock)
            self.expect_one_line(clock, f"cannot write to the folder {self.lab.path('out')}")

    def test_an_interval_of_nothing_is_refused(self):
        clock = self.clock("127.0.0.1:9", "--interval", "0", json_output=False)
        self.expect_exit(2, clock)
        self.expect_one_line(clock, "is no time at all")


if __name__ == "__main__":
    unittest.main()
