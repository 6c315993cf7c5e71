"""Swarms in which something dies, lies, changes, or runs full.

What has to happen in mid-transfer has seconds to happen in, by the sizes and the rates: machines stall.
"""

import fcntl
import os
import random
import struct
import subprocess
import termios
import time
import unittest

import shoal_wire
from swarm_lab import CHUNK, MIB, PATIENCE, SLOWNESS, SystemTest, binary, random_bytes, tree, wait_until


def bytes_on_disk(folder):
    """Of what was fetched, whole files and partial ones."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            try:
                status = os.stat(os.path.join(parent, name))
            except FileNotFoundError:  # it got its name, or was a probe
                continue
            total += min(status.st_size, status.st_blocks * 512)
    return total


class Killed(SystemTest):
    def test_a_peer_that_is_killed_again_and_again_goes_on_where_it_was(self):
        seed = int(os.environ.get("SHOAL_SEED", random.randrange(1 << 32)))
        print(f"SHOAL_SEED={seed}", flush=True)
        rng = random.Random(seed)
        sizes = {"a": 6 * MIB + 11, "b": 2 * MIB + 5}
        tracker = self.lab.tracker("--expect", 3)
        folders = {name: self.lab.make(name, {f"{name}{i}": random_bytes(size // (i + 1), (seed, name, i)) for i in range(2)}) for name, size in sizes.items()}
        others = [self.lab.peer(name, "swarm", folder, "--limit-rate", "3M", tracker=tracker) for name, folder in folders.items()]
        own = {f"own{i}": random_bytes(100_000 * i, (seed, i)) for i in range(3)}
        folder = self.lab.make("victim", own)
        for life in range(6):
            victim = self.lab.peer("victim", "swarm", folder, tracker=tracker)
            if life == 0:
                victim.wait_for("begin")
            time.sleep(rng.uniform(0, 0.6))  # the moment is what is random
            victim.kill()
        total = sum(size + size // 2 for size in sizes.values())
        kept = bytes_on_disk(folder) - sum(map(len, own.values()))
        victim = self.lab.peer("victim", "swarm", folder, tracker=tracker)
        self.expect_exit(0, victim, *others, tracker)
        self.expect_equal_trees(folder, *folders.values())
        self.assertLessEqual(victim.result()["bytes"], total - kept + 2 * MIB, self.lab.describe())

    def test_no_partial_file_is_left_behind_when_all_is_done(self):
        tracker = self.lab.tracker("--expect", 2)
        a = self.lab.peer("a", "swarm", self.lab.make("a", {"big": random_bytes(16 * MIB, 0)}), "--limit-rate", "4M", tracker=tracker)
        folder = self.lab.make("b")
        b = self.lab.peer("b", "swarm", folder, tracker=tracker)
        wait_until(lambda: bytes_on_disk(folder) > MIB, "a partial file", describe=self.lab.describe)
        b.kill()
        self.assertTrue(any(".shoal-" in name for name in os.listdir(folder)), os.listdir(folder))
        self.assertNotIn("big", os.listdir(folder))
        b = self.lab.peer("b", "swarm", folder, tracker=tracker)
        self.expect_exit(0, a, b, tracker)
        self.assertEqual(os.listdir(folder), ["big"])
        self.assertLessEqual(b.result()["bytes"], 15 * MIB + MIB // 2)


class Died(SystemTest):
    def start(self, victim_files=None):
        self.tracker = self.lab.tracker("--expect", 3, "--grace", "1s")
        files = {"a": {"a": random_bytes(16 * MIB, "a")}, "b": {"b": random_bytes(MIB, "b")}, "victim": victim_files or {}}
        self.folders = {name: self.lab.make(name, content) for name, content in files.items()}
        peers = {name: self.lab.peer(name, "swarm", folder, "--limit-rate", "4M", tracker=self.tracker) for name, folder in self.folders.items()}
        own = sum(map(len, files["victim"].values()))
        wait_until(lambda: bytes_on_disk(self.folders["victim"]) - own > 2 * MIB, "a part of the way", describe=self.lab.describe)
        peers.pop("victim").kill()
        return peers

    def test_a_peer_that_dies_half_way_keeps_no_other_from_finishing(self):
        peers = self.start()
        for peer in peers.values():
            peer.wait()
        self.expect_equal_trees(self.folders["a"], self.folders["b"])
        self.assertEqual(len(tree(self.folders["a"])), 2)

    def test_the_tracker_names_the_peer_that_died_and_ends_with_23(self):
        self.start()
        self.expect_exit(23, self.tracker)
        self.assertEqual(len([line for line in self.tracker.warnings() if "victim" in line]), 1, self.tracker.describe())
        self.assertEqual(self.tracker.events("swarm_complete")[0]["failed"], 1)

    def test_a_run_in_which_another_peer_died_does_not_end_with_0(self):
        self.expect_exit(23, *self.start().values())

    def test_a_file_whose_only_owner_died_is_named_and_all_others_arrive(self):
        peers = self.start({"lost": random_bytes(40 * MIB, "lost")})
        self.expect_exit(23, *peers.values(), self.tracker)
        for name, peer in peers.items():
            self.assertEqual({file for file in os.listdir(self.folders[name]) if not file.startswith(".shoal-")}, {"a", "b"})
            self.assertEqual(len([line for line in peer.stderr().splitlines() if "lost" in line and "victim" in line]), 1, peer.describe())


class Lying(SystemTest):
    def start(self):
        self.content = shoal_wire.Content("wanted", random_bytes(20 * MIB + 77, "wanted"))
        self.tracker = self.lab.tracker("--expect", 4)
        self.liar = shoal_wire.LyingPeer(self.tracker.address, "liar", self.content)  # comes first, so that the others connect to it
        self.addCleanup(self.liar.close)
        self.folders = {name: self.lab.make(name, {"wanted": self.content.data} if name == "honest" else {}) for name in ("honest", "b", "c")}
        self.peers = {name: self.lab.peer(name, "swarm", folder, "--limit-rate", "8M", tracker=self.tracker) for name, folder in self.folders.items()}

    def test_whoever_is_lied_to_ends_with_what_is_right(self):
        self.start()
        self.expect_exit(0, *self.peers.values(), self.tracker)
        self.expect_equal_trees(*self.folders.values(), with_times=False)
        self.assertGreater(sum(self.liar.wrong.values()), 0)

    def lies_told_to(self, name):
        """The lines about them. What came too late to be of use is not looked at, so that the liar may have told more."""
        return [line for line in self.peers[name].warnings() if "peer liar: sent a wrong chunk" in line]

    def test_each_wrong_chunk_is_a_warning_that_names_who_sent_it(self):
        self.start()
        self.expect_exit(0, *self.peers.values(), self.tracker)
        for name in ("b", "c"):
            self.assertLessEqual(len(self.lies_told_to(name)), self.liar.wrong.get(name, 0), self.lab.describe())
        self.assertNotEqual(self.lies_told_to("b") + self.lies_told_to("c"), [], self.lab.describe())

    def test_who_sent_three_wrong_chunks_is_dropped_and_not_asked_again(self):
        self.start()
        self.expect_exit(0, *self.peers.values(), self.tracker)
        dropped = [name for name in ("b", "c") if any("liar" in line and "is dropped" in line for line in self.peers[name].warnings())]
        self.assertNotEqual(dropped, [], self.lab.describe())
        for name in dropped:
            self.assertEqual(len(self.lies_told_to(name)), 3, f"{self.liar.served} {self.liar.connections}\n{self.peers[name].describe()}")


class Md5Later(SystemTest):
    """A large file has its name once its Merkle root is verified, and its MD5 is confirmed, or not, after that."""

    def offer(self, md5=None):
        self.content = shoal_wire.Content("wanted", random_bytes(20 * MIB + 77, "wanted"))
        self.right = self.content.md5
        self.content.md5 = md5 or self.right
        self.tracker = self.lab.tracker()
        self.source = shoal_wire.LyingPeer(self.tracker.address, "source", self.content, every=1)  # none of its chunks is wrong
        self.addCleanup(self.source.close)
        self.folder = self.lab.path("got")
        self.file = os.path.join(self.folder, "wanted")

    def get(self, *arguments):
        get = self.lab.peer("asker", "get", "wanted", "-o", self.folder, *arguments, tracker=self.tracker, log=False)
        get.wait()
        return get

    def data(self):
        with open(self.file, "rb") as file:
            return file.read()

    def test_a_right_md5_is_confirmed_before_the_command_ends(self):
        self.offer()
        get = self.get("--md5", "later")
        self.expect_exit(0, get)
        self.assertEqual(self.data(), self.content.data)
        kinds = [event["event"] for event in get.events() if event["event"] in ("file", "confirmed", "result")]
        self.assertEqual(kinds, ["file", "confirmed", "result"])
        self.assertEqual(get.events("file")[0]["is_confirmed"], False)
        self.assertEqual(get.events("confirmed")[0]["md5"], self.right.hex())
        again = self.get("--md5", "later")
        self.expect_exit(0, again)
        self.assertEqual(again.events("chunk"), [])

    def test_a_wrong_md5_is_exit_code_32_and_a_line_and_the_file_is_kept(self):
        wrong = bytes(range(16))
        self.offer(wrong)
        get = self.get("--md5", "later")
        self.expect_exit(32, get)
        line = [line for line in get.stderr().splitlines() if line.startswith("shoal-peer: wanted: MD5 is")]
        self.assertEqual(len(line), 1, get.describe())
        for part in (self.right.hex(), wrong.hex(), "source", "delete it"):
            self.assertIn(part, line[0])
        self.assertEqual(get.events("confirmed"), [])
        self.assertEqual(self.data(), self.content.data)
        self.expect_wrong_again(wrong)
        # A next start does not take the MD5 that was said for the file's.
        share = self.lab.peer("asker", "share", self.folder, tracker=self.lab.tracker(), log=False)
        share.wait_for("registered")
        verify = self.lab.peer("asker", "verify", self.folder, log=False)
        self.expect_exit(0, verify)
        self.assertEqual([(event["md5"], event["verdict"]) for event in verify.events("verified")], [(self.right.hex(), "ok")])

    def expect_wrong_again(self, wrong):
        """The file that is there is no success of the same command, given once more."""
        for when in ("later", "now"):
            again = self.get("--md5", when)
            self.expect_exit(32, again)
            line = [line for line in again.stderr().splitlines() if line.startswith("shoal-peer: wanted: MD5 is")]
            self.assertEqual(len(line), 1, again.describe())
            for part in (self.right.hex(), wrong.hex(), "source"):
                self.assertIn(part, line[0])
            self.assertNotIn("already here", again.stderr())
            self.assertEqual(again.events("chunk"), [])
            self.assertEqual(self.data(), self.content.data)

    def test_a_wrong_md5_of_what_is_here_is_wrong_for_a_download_of_the_shell_too(self):
        wrong = bytes(range(16))
        self.offer(wrong)
        self.lab.make("got", {"wanted": self.content.data})
        command = [binary("shoal-peer"), "shell", self.folder, "--id", "asker", "--cache", self.lab.path("asker.db"), "--tracker", self.tracker.address]
        shell = subprocess.run(command, input="download wanted\n", capture_output=True, text=True, env=self.lab.env, timeout=PATIENCE)
        self.assertEqual(shell.returncode, 32, shell)
        self.assertIn(f"wanted: MD5 is {self.right.hex()}, but source said {wrong.hex()}", shell.stdout + shell.stderr)

    def test_a_wrong_md5_gets_no_name_where_it_is_not_later(self):
        self.offer(bytes(range(16)))
        get = self.get("--md5", "now")
        self.expect_exit(32, get)
        self.assertFalse(os.path.exists(self.file))
        self.assertEqual(get.events("file"), [])

    def test_who_is_killed_before_the_confirmation_digests_the_file_anew(self):
        self.offer(bytes(range(16)))
        get = self.lab.peer("asker", "get", "wanted", "-o", self.folder, "--md5", "later", tracker=self.tracker, log=False)
        wait_until(lambda: os.path.exists(self.file), "the file's name", describe=self.lab.describe)
        get.kill()
        verify = self.lab.peer("asker", "verify", self.folder, log=False)
        self.expect_exit(0, verify)
        self.assertEqual([(event["md5"], event["verdict"]) for event in verify.events("verified")], [(self.right.hex(), "not recorded before")])


class TrackerKilled(SystemTest):
    def start(self):
        self.tracker = self.lab.tracker("--expect", 3)
        self.address = self.tracker.address
        self.folders = {name: self.lab.make(name, {name: random_bytes(5 * MIB, name)}) for name in "abc"}
        self.peers = [self.lab.peer(name, "swarm", folder, "--limit-rate", "2M", tracker=self.address) for name, folder in self.folders.items()]
        for peer in self.peers:
            peer.wait_for("begin")
        wait_until(lambda: bytes_on_disk(self.folders["a"]) > 5 * MIB + MIB // 2, "something fetched", describe=self.lab.describe)
        self.tracker.kill()
        for peer in self.peers:
            peer.wait_for("waiting")

    def test_a_restarted_tracker_learns_all_again_and_the_run_ends_well(self):
        self.start()
        again = self.lab.tracker("--expect", 3, listen=self.address)
        self.expect_exit(0, *self.peers, again)
        self.expect_equal_trees(*self.folders.values())
        self.assertEqual(len(again.events("registered")), 3)

    def test_transfers_go_on_while_there_is_no_tracker(self):
        self.start()
        for peer in self.peers:
            peer.wait_for("file", 2)
        self.expect_equal_trees(*self.folders.values())
        self.assertTrue(all(peer.is_running() for peer in self.peers))

    def test_the_swarm_clock_of_a_restarted_tracker_goes_on(self):
        self.start()
        again = self.lab.tracker("--expect", 3, listen=self.address)
        self.expect_exit(0, *self.peers, again)
        self.assertGreater(again.events("swarm_complete")[0]["seconds"], 1.0)


class Changing(SystemTest):
    def setUp(self):
        super().setUp()
        self.tracker = self.lab.tracker()
        self.old = random_bytes(8 * MIB, "old")
        self.folder = self.lab.make("a", {"file": self.old})
        self.path = os.path.join(self.folder, "file")

    def share(self, *arguments):
        peer = self.lab.peer("a", "share", self.folder, *arguments, tracker=self.tracker)
        peer.wait_for("registered")
        found = lambda: self.lab.peer("asks", "find", "file", tracker=self.tracker, log=False).wait() == 0
        wait_until(found, "the offer", describe=self.lab.describe)
        return peer

    def expect_fetched(self, content, get):
        self.expect_exit(0, get)
        with open(self.lab.path("b", "file"), "rb") as file:
            self.assertTrue(file.read() == content, f"not the content of now\n{self.lab.describe()}")
        self.assertEqual([name for name in os.listdir(self.lab.path("b")) if not name.startswith(".shoal-")], ["file"])

    def get(self):
        return self.lab.peer("b", "get", "file", "-o", self.lab.path("b"), tracker=self.tracker)

    def test_a_file_that_changed_is_fetched_as_it_is_now(self):
        self.share()
        new = random_bytes(2 * MIB, "new")
        self.lab.write(self.path, new)
        self.expect_fetched(new, self.get())

    def test_a_file_that_shrank_is_fetched_as_it_is_now(self):
        self.share()
        with open(self.path, "r+b") as file:
            file.truncate(MIB + 1)
        self.expect_fetched(self.old[:MIB + 1], self.get())

    def test_a_file_that_changes_in_mid_transfer_is_fetched_as_it_is_now(self):
        share = self.share("--limit-rate", "2M")
        get = self.get()
        wait_until(lambda: os.path.isdir(self.lab.path("b")) and bytes_on_disk(self.lab.path("b")) >= 2 * CHUNK, "a beginning", describe=self.lab.describe)
        new = random_bytes(MIB, "new")
        self.lab.write(self.path, new)
        self.expect_fetched(new, get)
        self.assertTrue(any("file" in line and "changed" in line for line in share.warnings()), share.describe())

    def test_a_file_that_was_replaced_is_fetched_as_it_is_now(self):
        self.share()
        self.lab.write(self.lab.path("fresh"), b"small")
        os.replace(self.lab.path("fresh"), self.path)
        self.expect_fetched(b"small", self.get())

    def test_a_closed_swarm_ends_with_what_a_changed_file_is_now(self):
        tracker = self.lab.tracker("--expect", 2)
        a = self.lab.peer("x", "swarm", self.folder, "--limit-rate", "2M", tracker=tracker)
        b = self.lab.peer("y", "swarm", self.lab.make("b"), tracker=tracker)
        wait_until(lambda: bytes_on_disk(self.lab.path("b")) >= 2 * CHUNK, "a beginning", describe=self.lab.describe)
        new = random_bytes(MIB, "new")
        self.lab.write(self.path, new)
        a.wait()
        b.wait()
        with open(self.lab.path("b", "file"), "rb") as file:
            self.assertTrue(file.read() == new, self.lab.describe())

    def test_a_file_that_changed_between_two_runs_is_digested_again(self):
        self.share().kill()
        new = random_bytes(2 * MIB, "newer")
        self.lab.write(self.path, new)
        again = self.share()
        self.assertEqual(again.events("scanned")[0]["digested"], len(new))
        self.expect_fetched(new, self.get())


class DiskFull(SystemTest):
    def setUp(self):
        super().setUp()
        self.disk = self.lab.make("disk")
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", self.disk], capture_output=True, timeout=PATIENCE)
        if mounted.returncode != 0:
            self.skipTest("may not mount a small disk here")
        self.lab.at_end.append(lambda: subprocess.run(["umount", "-l", self.disk], timeout=PATIENCE))
        self.files = {"one": random_bytes(2 * MIB, 1), "two": random_bytes(4 * MIB, 2)}
        self.tracker = self.lab.tracker()
        self.lab.peer("a", "share", self.lab.make("a", self.files), tracker=self.tracker).wait_for("registered")
        wait_until(lambda: self.lab.peer("asks", "find", "*o*", tracker=self.tracker, log=False).wait() == 0, "the offer")

    def get(self):
        return self.lab.peer("b", "get", "one", "two", "-o", self.disk, tracker=self.tracker)

    def test_a_full_disk_ends_with_9_and_one_error(self):
        get = self.get()
        self.expect_exit(9, get)
        errors = get.events("error")
        self.assertEqual([error["exit"] for error in errors], [9], get.describe())
        self.assertIn("No space left on device", errors[0]["message"])

    def test_what_was_fetched_is_kept_and_the_next_run_goes_on(self):
        self.expect_exit(9, self.get())
        kept = bytes_on_disk(self.disk)
        self.assertGreaterEqual(kept, MIB)
        subprocess.run(["mount", "-o", "remount,size=16m", self.disk], check=True, timeout=PATIENCE)
        get = self.get()
        self.expect_exit(0, get)
        self.expect_equal_trees(self.disk, self.lab.path("a"))
        self.assertLessEqual(get.result()["bytes"], 6 * MIB - kept + CHUNK, get.describe())


class Interrupted(SystemTest):
    def start(self):
        self.tracker = self.lab.tracker()
        self.lab.peer("a", "share", self.lab.make("a", {"big": random_bytes(8 * MIB, 0)}), "--limit-rate", "1M", tracker=self.tracker).wait_for("registered")
        peer = self.lab.peer("b", "swarm", self.lab.make("b"), tracker=self.tracker)
        wait_until(lambda: bytes_on_disk(self.lab.path("b")) >= CHUNK, "a beginning", describe=self.lab.describe)
        return peer

    def test_one_interrupt_is_a_clean_stop_within_two_seconds(self):
        peer = self.start()
        peer.interrupt()
        self.expect_exit(7, peer, seconds=2 * SLOWNESS)
        self.assertEqual(peer.result()["exit"], 7)

    def test_the_others_learn_that_it_left(self):
        peer = self.start()
        peer.interrupt()
        self.assertTrue(self.tracker.wait_for("left", where=lambda event: event["peer"] == "b")["clean"])

    def test_the_next_run_goes_on_where_it_was(self):
        peer = self.start()
        peer.interrupt()
        self.expect_exit(7, peer)
        kept = bytes_on_disk(self.lab.path("b"))
        again = self.lab.peer("b", "swarm", self.lab.path("b"), tracker=self.tracker)
        again.wait_for_line("are here from an earlier run")
        self.assertGreaterEqual(bytes_on_disk(self.lab.path("b")), kept)

    def test_two_interrupts_stop_at_once(self):
        peer = self.start()
        peer.interrupt()
        peer.interrupt()
        self.expect_exit(7, peer, seconds=1 * SLOWNESS)

    def test_an_interrupt_stops_who_waits_for_a_tracker(self):
        peer = self.lab.peer("alone", "swarm", self.lab.make("alone", {"x": b"x"}), tracker="127.0.0.1:1")
        peer.wait_for("waiting")
        peer.interrupt()
        self.expect_exit(7, peer, seconds=2 * SLOWNESS)

    def test_an_interrupt_stops_a_tracker(self):
        tracker = self.lab.tracker()
        self.assertTrue(tracker.address)
        tracker.interrupt()
        self.expect_exit(7, tracker, seconds=2 * SLOWNESS)


@unittest.skipUnless(hasattr(fcntl, "F_SETPIPE_SZ"), "pipes have one size here")
class Unread(SystemTest):
    """A peer that waits for ever, because nobody reads what it prints."""

    def start(self):
        files = {f"file {number}": random_bytes(100, number) for number in range(300)}
        tracker = self.lab.tracker()
        self.lab.peer("a", "share", self.lab.make("a", files), tracker=tracker).wait_for("registered")
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        room = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        peer = self.lab.peer("b", "swarm", self.lab.make("b"), tracker=tracker, stdout=writer)
        os.close(writer)
        waiting = lambda: struct.unpack("i", fcntl.ioctl(reader, termios.FIONREAD, bytes(4)))[0]
        wait_until(lambda: waiting() > room - 512, "a full pipe", describe=self.lab.describe)
        return peer

    def test_one_interrupt_stops_it_within_two_seconds(self):
        peer = self.start()
        peer.interrupt()
        self.expect_exit(7, peer, seconds=2.5 * SLOWNESS)
        self.assertIn("stopped without waiting longer", peer.stderr())

    def test_two_interrupts_stop_it_at_once(self):
        peer = self.start()
        peer.interrupt()
        time.sleep(0.2)  # two that come at once are one to the system
        peer.interrupt()
        self.expect_exit(7, peer, seconds=1 * SLOWNESS)


if __name__ == "__main__":
    unittest.main()
