"""The command line: what is refused, what is asked, and what is answered."""

import os
import socket
import threading
import time
import unittest

from swarm_lab import CHUNK, MIB, SLOWNESS, SystemTest, binary, free_port, has_ipv6, random_bytes, tree, wait_until


class Refused(SystemTest):
    """What cannot be meant ends at once, with one line."""

    def peer(self, *arguments, **options):
        return self.lab.start("peer", [binary("shoal-peer"), *arguments], **options)

    def tracker(self, *arguments):
        return self.lab.start("tracker", [binary("shoal-tracker"), *arguments])

    def test_a_folder_that_is_missing(self):
        peer = self.peer("swarm", self.lab.path("not there"))
        self.expect_exit(2, peer)
        self.expect_one_line(peer, self.lab.path("not there"), "No such file or directory")

    def test_a_folder_that_is_a_file(self):
        self.lab.write(self.lab.path("file"), b"")
        peer = self.peer("share", self.lab.path("file"))
        self.expect_exit(2, peer)
        self.expect_one_line(peer, self.lab.path("file"), "Not a directory")

    @unittest.skipIf(os.geteuid() == 0, "root may read everything")
    def test_a_folder_that_may_not_be_read(self):
        folder = self.lab.make("closed")
        os.chmod(folder, 0)
        self.addCleanup(os.chmod, folder, 0o700)
        peer = self.peer("swarm", folder)
        self.expect_exit(2, peer)
        self.expect_one_line(peer, folder, "Permission denied")

    def test_a_log_in_a_folder_that_is_missing(self):
        log = self.lab.path("not there", "events.ndjson")
        for process in (self.peer("share", self.lab.make("a"), "--log", log), self.tracker("--log", log)):
            self.expect_exit(2, process)
            self.expect_one_line(process, log, "No such file or directory")

    def test_an_unknown_option(self):
        peer = self.peer("swarm", self.lab.make("a"), "--trakcer", "127.0.0.1:1")
        self.expect_exit(2, peer)
        self.expect_one_line(peer, "--trakcer", "--tracker")

    def test_an_unknown_command(self):
        peer = self.peer("swam", self.lab.make("a"))
        self.expect_exit(2, peer)
        self.expect_one_line(peer, "swam")

    def test_a_swarm_without_a_folder(self):
        peer = self.peer("swarm")
        self.expect_exit(2, peer)
        self.expect_one_line(peer, "DIR")

    def test_an_unknown_option_of_the_tracker(self):
        tracker = self.tracker("--listne", "127.0.0.1:0")
        self.expect_exit(2, tracker)
        self.expect_one_line(tracker, "--listne")

    def test_an_address_that_others_reach_without_insecure(self):
        for process in (self.tracker("--listen", "0.0.0.0:0"), self.peer("swarm", self.lab.make("a"), "--listen", "0.0.0.0:0"),
                        self.peer("ls", "--tracker", "192.0.2.1:5555")):
            self.expect_exit(2, process)
            self.expect_one_line(process, "--insecure")

    def test_a_port_that_is_in_use(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            for process in (self.tracker("--listen", address), self.peer("swarm", self.lab.make("a"), "--quiet", "--listen", address)):
                self.expect_exit(6, process)
                self.expect_one_line(process, address, "in use")

    def test_a_port_that_is_in_use_is_said_before_the_files_are_digested(self):
        folder = self.lab.make("a", {"file": b"content"})
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            self.expect_exit(6, self.lab.peer("a", "swarm", folder, "--listen", address, tracker="127.0.0.1:1"))
        again = self.lab.peer("a", "swarm", folder, "--wait", "0", tracker="127.0.0.1:1")
        self.expect_exit(6, again)
        self.assertEqual([scan["digested"] for scan in again.events("scanned")], [len(b"content")], again.describe())

    def test_an_id_that_no_file_could_tell(self):
        peer = self.peer("swarm", self.lab.make("a"), "--id", "a/b")
        self.expect_exit(2, peer)
        self.expect_one_line(peer, "a/b")

    def test_a_second_peer_of_the_same_name_is_told_so(self):
        tracker = self.lab.tracker()
        self.lab.peer("twin", "share", self.lab.make("a"), tracker=tracker).wait_for("registered")
        second = self.lab.peer("twin", "share", self.lab.make("b"), tracker=tracker)
        self.assertIn("twin", second.wait_for("waiting")["why"] + second.stderr())
        self.assertIn("is here already", second.stderr(), second.describe())


class NoTracker(SystemTest):
    def test_one_line_says_so_and_it_keeps_trying(self):
        address = f"127.0.0.1:{free_port()}"
        peer = self.lab.peer("a", "swarm", self.lab.make("a", {"x": b"x"}), tracker=address, json_output=False)
        peer.wait_for_line("waiting for the tracker")
        began = time.monotonic()
        wait_until(lambda: time.monotonic() - began > 1.2, "a few tries more")  # that nothing more is said can only be seen in time
        lines = [line for line in peer.stderr().splitlines() if address in line]
        self.assertEqual(len(lines), 1, peer.describe())
        self.assertTrue(peer.is_running())

    def test_a_tracker_that_comes_later_is_found(self):
        address = f"127.0.0.1:{free_port()}"
        peers = [self.lab.peer(name, "swarm", self.lab.make(name, {name: name.encode()}), tracker=address) for name in "ab"]
        for peer in peers:
            peer.wait_for("waiting")
        tracker = self.lab.tracker("--expect", 2, listen=address)
        self.expect_exit(0, *peers, tracker)
        self.expect_equal_trees(self.lab.path("a"), self.lab.path("b"))

    def test_without_a_wait_it_gives_up_with_6(self):
        address = f"127.0.0.1:{free_port()}"
        for command in (("swarm", self.lab.make("a")), ("share", self.lab.make("b")), ("get", "x", "-o", self.lab.path("c")), ("find", "x"), ("ls",)):
            peer = self.lab.peer("p", *command, "--wait", "0", "--quiet", tracker=address, json_output=False, log=False)
            self.expect_exit(6, peer, seconds=5 * SLOWNESS)
            self.expect_one_line(peer, f"no tracker at {address}")

    def test_whoever_says_nothing_is_no_tracker(self):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"127.0.0.1:{silent.getsockname()[1]}"
            commands = (("swarm", self.lab.make("a")), ("get", "x", "-o", self.lab.path("c")), ("find", "x"), ("ls",))
            peers = [self.lab.peer("p", *command, "--wait", "0", "--quiet", tracker=address, json_output=False, log=False) for command in commands]
            for peer in peers:
                self.expect_exit(6, peer, seconds=10 * SLOWNESS)
                self.expect_one_line(peer, f"no tracker at {address}: timed out")

    def test_whoever_speaks_another_language_is_no_tracker(self):
        def answer():
            connection, _ = stranger.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

        with socket.create_server(("127.0.0.1", 0)) as stranger:
            address = f"127.0.0.1:{stranger.getsockname()[1]}"
            answering = threading.Thread(target=answer)
            answering.start()
            peer = self.lab.peer("p", "find", "x", "--wait", "0", tracker=address, json_output=False, log=False)
            self.expect_exit(6, peer, seconds=10 * SLOWNESS)
            answering.join()
            self.expect_one_line(peer, f"no tracker at {address}")

    def test_a_short_wait_is_kept(self):
        began = time.monotonic()
        peer = self.lab.peer("p", "swarm", self.lab.make("a"), "--wait", "1s", tracker=f"127.0.0.1:{free_port()}")
        self.expect_exit(6, peer)
        self.assertGreater(time.monotonic() - began, 0.9)


@unittest.skipUnless(has_ipv6(), "no IPv6 here")
class OverIpv6(SystemTest):
    def test_a_swarm_works_as_it_does_over_ipv4(self):
        tracker = self.lab.tracker("--expect", 2, listen="[::1]:0")
        self.assertRegex(tracker.address, r"^\[::1\]:\d+$")
        peers = [self.lab.peer(name, "swarm", self.lab.make(name, {name: random_bytes(2 * CHUNK, name)}), "--listen", "[::1]:0", tracker=tracker) for name in "ab"]
        self.expect_exit(0, *peers, tracker)
        self.expect_equal_trees(self.lab.path("a"), self.lab.path("b"))
        self.assertRegex(tracker.address_of("a"), r"^\[::1\]:\d+$")

    def test_queries_and_gets_work_too(self):
        tracker = self.lab.tracker(listen="[::1]:0")
        share = self.lab.peer("a", "share", self.lab.make("a", {"x": random_bytes(2 * CHUNK, 1)}), "--listen", "[::1]:0", tracker=tracker)
        share.wait_for("registered")
        wait_until(lambda: self.lab.peer("asks", "find", "x", tracker=tracker).wait() == 0, "the offer")
        self.expect_exit(0, self.lab.peer("b", "get", "x", "-o", self.lab.path("b"), "--listen", "[::1]:0", tracker=tracker))
        self.expect_equal_trees(self.lab.path("a"), self.lab.path("b"))


class Queries(SystemTest):
    def setUp(self):
        super().setUp()
        self.files = {"disk.img": random_bytes(3 * CHUNK + 9, "disk"), "logs/today.log": b"today\n", "logs/old/then.log": b"then\n", "empty": b""}
        self.tracker = self.lab.tracker()
        self.lab.peer("owner", "share", self.lab.make("owner", self.files), tracker=self.tracker).wait_for("registered")
        wait_until(lambda: self.ask("ls").wait() == 0 and len(self.lab.processes[-1].events("found")) >= 4, "the offers", describe=self.lab.describe)

    def ask(self, *command, **options):
        return self.lab.peer("asks", *command, tracker=self.tracker, log=False, **options)

    def found(self, *command):
        query = self.ask(*command)
        self.expect_exit(0, query)
        return {event["name"]: event for event in query.events("found")}

    def get(self, *wanted):
        return self.ask("get", *wanted, "-o", self.lab.path("got"))

    def expect_got(self, *names):
        got = {name: entry for name, entry in tree(self.lab.path("got")).items() if entry[0] == "file"}
        whole = tree(self.lab.path("owner"))
        self.assertEqual(got, {name: whole[name] for name in names}, self.lab.describe())

    def test_ls_lists_all_that_is_offered(self):
        self.assertLessEqual(set(self.files), set(self.found("ls")))

    def test_ls_without_json_is_a_line_a_file_with_md5_and_holder(self):
        query = self.ask("ls", json_output=False)
        self.expect_exit(0, query)
        line = next(line for line in query.stdout().splitlines() if "disk.img" in line)
        self.assertIn(tree(self.lab.path("owner"))["disk.img"][2], line)
        self.assertIn("owner (127.0.0.1:", line)

    def test_find_takes_a_pattern(self):
        self.assertEqual(set(self.found("find", "*.log")), {"logs/today.log", "logs/old/then.log"})
        self.assertEqual(set(self.found("find", "logs/*.log")), {"logs/today.log"})

    def test_find_takes_an_md5_and_a_root(self):
        disk = self.found("find", "disk.img")["disk.img"]
        self.assertEqual(disk["md5"], tree(self.lab.path("owner"))["disk.img"][2])
        self.assertEqual(set(self.found("find", disk["md5"])), {"disk.img"})
        self.assertEqual(set(self.found("find", disk["root"].upper())), {"disk.img"})

    def test_find_of_what_nobody_has_ends_with_3(self):
        query = self.ask("find", "nothing like it", json_output=False)
        self.expect_exit(3, query)
        self.expect_one_line(query, "nothing like it")

    def test_get_takes_a_name(self):
        self.expect_exit(0, self.get("disk.img"))
        self.expect_got("disk.img")

    def test_get_takes_a_pattern_and_several(self):
        self.expect_exit(0, self.get("*.log", "empty"))
        self.expect_got("logs/today.log", "logs/old/then.log", "empty")

    def test_get_takes_an_md5(self):
        self.expect_exit(0, self.get(tree(self.lab.path("owner"))["disk.img"][2]))
        self.expect_got("disk.img")

    def test_get_takes_a_root(self):
        self.expect_exit(0, self.get(self.found("find", "disk.img")["disk.img"]["root"]))
        self.expect_got("disk.img")

    def test_get_of_what_nobody_has_ends_with_3(self):
        get = self.get("disk.igm")
        self.expect_exit(3, get)
        self.assertIn("disk.igm", get.events("error")[0]["message"])

    def test_get_of_what_is_here_fetches_nothing(self):
        self.expect_exit(0, self.get("disk.img"))
        again = self.get("disk.img")
        self.expect_exit(0, again)
        self.assertEqual(again.result()["bytes"], 0)
        self.expect_got("disk.img")

    def test_get_keeps_a_different_file_of_that_name(self):
        self.lab.make("got", {"disk.img": b"mine"})
        self.expect_exit(0, self.get("disk.img"))
        self.assertEqual({name: entry[1] for name, entry in tree(self.lab.path("got")).items()}, {"disk.img": 4, "disk (from owner).img": len(self.files["disk.img"])})


class Verify(SystemTest):
    def setUp(self):
        super().setUp()
        self.folder = self.lab.make("a", {"good": random_bytes(MIB, 1), "bad": random_bytes(MIB, 2)})
        past = time.time_ns() - 60 * 10**9
        for name in ("good", "bad"):
            os.utime(os.path.join(self.folder, name), ns=(past, past))
        tracker = self.lab.tracker("--expect", 1)
        self.expect_exit(0, self.lab.peer("a", "swarm", self.folder, tracker=tracker), tracker)

    def verify(self):
        return self.lab.peer("a", "verify", self.folder)

    def test_kernels_are_timed_by_what_digests_and_once(self):
        home = {"XDG_CACHE_HOME": self.lab.path("xdg")}
        kept = os.path.join(home["XDG_CACHE_HOME"], "shoal", "kernels")
        tracker = self.lab.tracker()
        self.expect_exit(0, self.lab.peer("a", "ls", tracker=tracker, env=home))
        self.assertFalse(os.path.exists(kept))
        self.expect_exit(0, self.lab.peer("a", "verify", self.folder, env=home))
        with open(kept, encoding="utf-8") as file:
            self.assertRegex(file.read(), "^shoal kernels 1\nversion ")
        before = os.stat(kept)
        self.expect_exit(0, self.lab.peer("a", "verify", self.folder, env=home))
        self.assertEqual(os.stat(kept).st_ino, before.st_ino)

    def flip(self, keeps_time):
        path = os.path.join(self.folder, "bad")
        before = os.stat(path)
        with open(path, "r+b") as file:
            file.seek(500_000)
            byte = file.read(1)
            file.seek(500_000)
            file.write(bytes([byte[0] ^ 1]))
        if keeps_time:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def verdicts(self, process):
        return {event["name"]: event["verdict"] for event in process.events("verified")}

    def test_what_is_as_it_was_is_ok(self):
        verify = self.verify()
        self.expect_exit(0, verify)
        self.assertEqual(self.verdicts(verify), {"good": "ok", "bad": "ok"})

    def test_bytes_that_changed_under_the_same_time_and_size_end_with_32(self):
        self.flip(keeps_time=True)
        verify = self.verify()
        self.expect_exit(32, verify)
        self.assertEqual(self.verdicts(verify), {"good": "ok", "bad": "CORRUPTED"})

    def test_a_file_that_was_edited_is_changed_and_not_corrupted(self):
        self.flip(keeps_time=False)
        verify = self.verify()
        self.expect_exit(0, verify)
        self.assertEqual(self.verdicts(verify)["bad"], "changed since it was recorded")


if __name__ == "__main__":
    unittest.main()
