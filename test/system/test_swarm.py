"""Closed and open swarms whose peers all do what they should."""

import os
import stat
import unittest

from swarm_lab import CHUNK, MIB, SLOWNESS, SystemTest, free_port, random_bytes, tree, wait_until


class ClosedSwarm(SystemTest):
    def start_classic(self):
        contents = {name: {f"{name}.bin": random_bytes(2 * MIB + 1000 * i, name)} for i, name in enumerate("abcd")}
        return self.swarm(contents)

    def test_four_peers_with_a_file_each_end_with_all_four(self):
        _, peers, folders = self.start_classic()
        self.expect_equal_trees(*folders.values())
        self.assertEqual(len(tree(folders["a"])), 4)

    def test_what_another_offers_before_all_of_a_large_folder_is_taken_in_finds_its_place_there(self):
        everything = {f"{i:05}": str(i).encode() for i in range(10_000)}
        last = dict(list(everything.items())[-50:])
        _, _, folders = self.swarm({"a": everything, "b": last})
        self.expect_equal_trees(*folders.values(), with_times=False)
        self.assertEqual(len(tree(folders["a"])), len(everything))

    def test_the_tracker_says_the_total_swarm_time(self):
        tracker, _, _ = self.start_classic()
        over = tracker.events("swarm_complete")
        self.assertEqual([(event["peers"], event["failed"]) for event in over], [(4, 0)])
        self.assertGreater(over[0]["seconds"], 0)

    def test_the_total_swarm_time_is_a_line_without_json(self):
        tracker = self.lab.tracker("--expect", 2, json_output=False)
        peers = [self.lab.peer(name, "swarm", self.lab.make(name, {name: b"x" + name.encode()}), tracker=tracker, json_output=False) for name in "ab"]
        self.expect_exit(0, *peers, tracker)
        self.assertRegex(tracker.stdout(), r"(?m)^total swarm time: \d+\.\d+ s, 2 peers")

    def test_ndjson_begins_with_hello_and_ends_with_the_result(self):
        tracker, peers, _ = self.start_classic()
        for process in [tracker, *peers.values()]:
            events = process.events()
            self.assertEqual((events[0]["event"], events[0]["schema"]), ("hello", 1))
            self.assertEqual((events[-1]["event"], events[-1]["exit"]), ("result", 0))
            self.assertTrue(all("t" in event for event in events))
            self.assertEqual(len(events), len(process.stdout().splitlines()) - process.stdout().count("tracker: listening"))

    def test_times_of_events_never_run_backwards(self):
        _, peers, _ = self.start_classic()
        for process in peers.values():
            times = [event["t"] for event in process.events()]
            self.assertEqual(times, sorted(times), process.describe())

    def test_the_log_has_every_step(self):
        _, peers, _ = self.start_classic()
        log = peers["a"].events(file=self.lab.log_of("a"))
        kinds = {event["event"] for event in log}
        self.assertLessEqual({"hello", "scanned", "registered", "begin", "peer", "chunk", "file", "complete", "result"}, kinds)
        chunks = [event for event in log if event["event"] == "chunk"]
        self.assertGreaterEqual(sum(event["bytes"] for event in chunks), 3 * 2 * MIB)
        self.assertTrue(all(event["from"] in "bcd" and event["seconds"] >= 0 for event in chunks))

    def test_nobody_loses_the_tracker_when_the_swarm_ends_well(self):
        _, peers, _ = self.start_classic()
        for process in peers.values():
            self.assertEqual(process.events("waiting"), [])

    def test_results_tell_the_bytes_that_were_fetched(self):
        _, peers, _ = self.start_classic()
        others = sum(2 * MIB + 1000 * i for i in (1, 2, 3))
        self.assertEqual(peers["a"].result()["bytes"], others)


class MixedSwarm(SystemTest):
    def test_any_mix_of_who_has_what_ends_equal(self):
        files = {f"f{i:02}": random_bytes(i * i * 4000 + i % 3, i) for i in range(24)}
        some = lambda test: {name: content for i, (name, content) in enumerate(files.items()) if test(i)}
        _, _, folders = self.swarm({"a": some(lambda i: i % 2), "b": some(lambda i: i % 3 == 0), "c": {}, "d": some(lambda i: i % 4 == 2)})
        self.expect_equal_trees(*folders.values(), with_times=False)
        self.assertEqual(len(tree(folders["c"])), len(some(lambda i: i % 2 or i % 3 == 0 or i % 4 == 2)))

    def test_one_content_under_two_names_is_kept_under_both(self):
        content = random_bytes(3 * CHUNK + 5, "twice")
        _, peers, folders = self.swarm({"a": {"one": content, "sub/two": content}, "b": {}, "c": {"three": content}})
        for folder in folders.values():
            self.assertEqual(set(tree(folder)), {"one", "sub", "sub/two", "three"})
        self.expect_equal_trees(*folders.values(), with_times=False)
        self.assertLessEqual(peers["b"].result()["bytes"], len(content))

    def test_one_name_with_two_contents_keeps_both_and_warns_once(self):
        mine, theirs = random_bytes(CHUNK + 1, "mine"), random_bytes(CHUNK + 2, "theirs")
        _, peers, folders = self.swarm({"a": {"notes.txt": mine}, "b": {"notes.txt": theirs}})
        self.assertEqual({name: entry[1] for name, entry in tree(folders["a"]).items()}, {"notes.txt": len(mine), "notes (from b).txt": len(theirs)})
        self.assertEqual({name: entry[1] for name, entry in tree(folders["b"]).items()}, {"notes.txt": len(theirs), "notes (from a).txt": len(mine)})
        for process in peers.values():
            self.assertEqual(len(process.warnings()), 1, process.describe())

    def test_one_name_with_one_content_is_one_file_without_a_warning(self):
        content = random_bytes(2 * CHUNK, "same")
        _, peers, folders = self.swarm({"a": {"same": content}, "b": {"same": content}, "c": {}})
        for name, folder in folders.items():
            self.assertEqual(list(tree(folder)), ["same"])
            self.assertEqual(peers[name].warnings(), [])

    def test_a_second_start_digests_nothing_and_fetches_nothing(self):
        contents = {name: {f"{name}{i}": random_bytes(50_000 * i + 1, (name, i)) for i in range(8)} for name in ("a", "b")}
        self.swarm(contents)
        _, peers, _ = self.swarm({"a": {}, "b": {}})
        for process in peers.values():
            self.assertEqual([(event["files"], event["digested"]) for event in process.events("scanned")], [(16, 0)])
            self.assertEqual(process.result()["bytes"], 0)

    def test_only_what_is_included_and_not_excluded_travels(self):
        contents = {"a": {"keep.txt": b"1" * 10, "drop.tmp": b"2" * 10, "sub/keep.txt": b"3" * 10, "other.bin": b"4" * 10}, "b": {}}
        _, peers, folders = self.swarm(contents, "--include", "*.txt", "--include", "*.tmp", "--exclude", "drop*")
        self.assertEqual(set(tree(folders["b"])), {"keep.txt", "sub", "sub/keep.txt"})


class Names(SystemTest):
    def files(self):
        return {
            "with space/and more .txt": b"space",
            "grüße/Ωmega 漢字 🐟": random_bytes(CHUNK + 7, "utf8"),
            "n" * 255: b"long",
            "ü" * 127: b"long in UTF-8",
            "'quotes\"$(and) `ticks` & *stars*": b"shell",
            "-dash": b"dash",
            "empty file": b"",
            "deep/" + "/".join("d" * 20 for _ in range(30)) + "/leaf": b"deep",
            ".hidden": b"dot",
        }

    def test_all_kinds_of_names_travel(self):
        _, _, folders = self.swarm({"a": self.files(), "b": {}})
        self.assertGreaterEqual(set(tree(folders["b"])), set(self.files()))
        self.expect_equal_trees(folders["a"], folders["b"])

    def test_empty_files_and_empty_folders_travel(self):
        a = self.lab.make("a", {"empty": b"", "some/empty": b""})
        os.makedirs(os.path.join(a, "hollow/hollower"))
        _, _, folders = self.swarm({"a": {}, "b": {}})
        self.assertEqual(tree(folders["b"])["hollow/hollower"], ("folder",))
        self.expect_equal_trees(folders["a"], folders["b"])

    def test_modification_times_and_the_executable_bit_travel(self):
        a = self.lab.make("a", {"tool": b"#!/bin/sh\n", "big": random_bytes(2 * CHUNK, "big"), "empty": b""})
        for name, when in (("tool", 1_000_000_000_123_456_789), ("big", 1_600_000_000_000_000_001), ("empty", 3)):
            os.chmod(os.path.join(a, name), 0o755 if name == "tool" else 0o644)
            os.utime(os.path.join(a, name), ns=(when, when))
        _, _, folders = self.swarm({"a": {}, "b": {}})
        self.expect_equal_trees(folders["a"], folders["b"])
        self.assertEqual(os.stat(os.path.join(folders["b"], "tool")).st_mode & stat.S_IXUSR, stat.S_IXUSR)

    def test_symbolic_links_are_skipped_and_one_line_says_so(self):
        a = self.lab.make("a", {"file": b"here"})
        for name, target in (("link", "file"), ("out", "/etc/passwd"), ("dangling", "nowhere"), ("up", "..")):
            os.symlink(target, os.path.join(a, name))
        tracker, peers, folders = self.swarm({"a": {}, "b": {}})
        self.assertEqual(list(tree(folders["b"])), ["file"])
        self.assertEqual(peers["a"].events("scanned")[0]["symlinks"], 4)
        self.assertEqual(len([line for line in peers["a"].stderr().splitlines() if "symbolic link" in line]), 1, peers["a"].describe())


class OpenSwarm(SystemTest):
    def setUp(self):
        super().setUp()
        self.tracker = self.lab.tracker()
        self.owned = {"one": random_bytes(3 * CHUNK + 1, 1), "sub/two": random_bytes(100, 2)}

    def join(self, name, files=None):
        return self.lab.peer(name, "swarm", self.lab.make(name, files), tracker=self.tracker)

    def wait_for_files(self, name, count):
        look = lambda: sum(entry[0] == "file" and not file.startswith(".shoal-") for file, entry in tree(self.lab.path(name)).items()) >= count
        wait_until(look, f"{count} files at {name}", describe=self.lab.describe)

    def test_who_joins_late_gets_everything(self):
        self.join("a", self.owned).wait_for("registered")
        self.join("b", {"three": random_bytes(CHUNK, 3)}).wait_for("complete")
        self.join("c").wait_for("complete")
        self.wait_for_files("c", 3)
        self.wait_for_files("a", 3)
        self.expect_equal_trees(self.lab.path("a"), self.lab.path("b"), self.lab.path("c"))

    def test_what_its_owner_left_behind_is_still_to_be_had(self):
        a = self.join("a", self.owned)
        b = self.join("b")
        b.wait_for("file", 2)
        b.wait_for("complete")
        a.interrupt()
        self.expect_exit(7, a)
        self.tracker.wait_for("left", where=lambda event: event["peer"] == "a")
        c = self.join("c")
        c.wait_for("complete")
        self.expect_equal_trees(self.lab.path("b"), self.lab.path("c"))
        self.assertEqual(len(c.events("file")), 2)

    def test_who_has_everything_goes_on_serving(self):
        a = self.join("a", self.owned)
        for name in ("b", "c"):
            self.join(name).wait_for("file", 2)
        self.assertTrue(a.is_running())
        self.expect_equal_trees(self.lab.path("a"), self.lab.path("b"), self.lab.path("c"))

    def test_a_share_offers_and_fetches_nothing(self):
        share = self.lab.peer("a", "share", self.lab.make("a", self.owned), tracker=self.tracker)
        share.wait_for("registered")
        self.join("b", {"three": b"3"}).wait_for("complete")
        self.wait_for_files("b", 3)
        self.assertEqual(set(tree(self.lab.path("a"))), {"one", "sub", "sub/two"})

    def test_a_limit_on_the_rate_is_kept(self):
        content = random_bytes(3 * MIB, "limited")
        self.lab.peer("a", "share", self.lab.make("a", {"limited": content}), "--limit-rate", "2M", tracker=self.tracker).wait_for("registered")
        get = self.lab.peer("b", "get", "limited", "-o", self.lab.make("b"), tracker=self.tracker)
        self.expect_exit(0, get)
        seconds = get.events("file")[0]["seconds"]
        self.assertGreater(seconds, 0.75 * 3 / 2)


class SizeOfTheSwarm(SystemTest):
    """`--expect` is the tracker's own: a peer says only which swarm it counts on."""

    def swarm_peer(self, name, tracker, size=None, **options):
        expect = [] if size is None else ["--expect", size]
        return self.lab.peer(name, "swarm", self.lab.make(name, {name: random_bytes(CHUNK, name)}), *expect, tracker=tracker, **options)

    def expect_turned_away(self, process, *parts):
        self.expect_exit(2, process, seconds=10 * SLOWNESS)  # at once, and not after many tries
        refusals = [line for line in process.stderr().splitlines() if "refuses" in line]
        self.assertEqual(len(refusals), 1, process.describe())
        for part in ("--expect", *parts):
            self.assertIn(part, refusals[0], process.describe())

    def expect_to_go_on(self, tracker, *others):
        """Nothing has ended, and whoever comes gets what there is."""
        get = self.lab.peer("g", "get", "*", "-o", self.lab.make(f"got{len(self.lab.processes)}"), tracker=tracker)
        self.expect_exit(0, get)
        for process in (tracker, *others):
            self.assertTrue(process.is_running(), process.describe())

    def test_an_open_tracker_turns_a_closed_swarms_peer_away_and_goes_on(self):
        tracker = self.lab.tracker()
        for size in (1, 2**32 - 1):  # the very first that it hears
            self.expect_turned_away(self.swarm_peer("x", tracker, size), f"start the tracker with --expect {size}")
        share = self.lab.peer("a", "share", self.lab.make("a", {"one": random_bytes(CHUNK, 1)}), tracker=tracker)
        share.wait_for("registered")
        swarm = self.swarm_peer("b", tracker)
        swarm.wait_for("complete")
        for size in (1, 2, 3, 2**32 - 1):
            self.expect_turned_away(self.swarm_peer("x", tracker, size), "without")
        self.expect_to_go_on(tracker, share, swarm)
        late = self.swarm_peer("late", tracker)
        late.wait_for("file", 2)

    def test_a_closed_tracker_turns_other_sizes_away_and_takes_those_that_name_none(self):
        tracker = self.lab.tracker("--expect", 2)
        first = self.swarm_peer("a", tracker, 2)
        first.wait_for("registered")
        for size in (1, 3, 2**32 - 1):
            self.expect_turned_away(self.swarm_peer("x", tracker, size), "this swarm is of 2 peers")
        self.assertTrue(first.is_running() and tracker.is_running())
        second = self.swarm_peer("b", tracker)
        self.expect_exit(0, first, second, tracker)
        self.expect_equal_trees(self.lab.path("a"), self.lab.path("b"))

    def test_a_peer_says_so_without_json_in_one_line_that_says_what_to_do(self):
        peer = self.swarm_peer("x", self.lab.tracker(), 3, json_output=False, log=False)
        self.expect_exit(2, peer)
        lines = [line for line in peer.stderr().splitlines() if not line.startswith("x: offers")]
        self.assertEqual(len(lines), 1, peer.describe())
        self.assertRegex(lines[0], r"shoal-peer: the tracker at \S+ refuses: .*--expect 3.*; start the tracker with --expect 3, too, or this peer without it")

    def test_a_peer_that_registers_again_closes_no_swarm_either(self):
        address = f"127.0.0.1:{free_port()}"
        closed = self.lab.tracker("--expect", 3, listen=address)
        peer = self.swarm_peer("a", closed, 3)
        peer.wait_for("registered")
        closed.kill()
        opened = self.lab.tracker(listen=address)
        self.expect_turned_away(peer, "start the tracker with --expect 3")
        share = self.lab.peer("b", "share", self.lab.make("b", {"one": b"1"}), tracker=address)
        share.wait_for("registered")
        self.expect_to_go_on(opened, share)


if __name__ == "__main__":
    unittest.main()
