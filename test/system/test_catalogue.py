"""The catalogue: interactive peers that are driven through their stdin, and a tracker that forgets and remembers."""

import fcntl
import os
import pty
import select
import subprocess
import termios
import time
import unittest

import shoal_wire
from swarm_lab import CHUNK, MIB, PATIENCE, SLOWNESS, Process, SystemTest, binary, free_port, random_bytes, tree, wait_until


class Shell(Process):
    """`shoal-peer shell`, to which lines can be said."""

    def __init__(self, lab, name, arguments, env=None, cwd=None):
        self.lab = lab
        self.name = name
        self.stdout_file = lab.path(f"{name}.out")
        self.stderr_file = lab.path(f"{name}.err")
        self.said = 0
        with open(self.stdout_file, "wb") as out, open(self.stderr_file, "wb") as err:
            self.popen = subprocess.Popen([str(part) for part in arguments], stdin=subprocess.PIPE, stdout=out, stderr=err,
                                          env={**lab.env, **(env or {})}, cwd=cwd or lab.folder)

    def tell(self, line):
        self.popen.stdin.write((line + "\n").encode())
        self.popen.stdin.flush()
        self.said += 1

    def say(self, line):
        """The events of one command, and how it ended."""
        before = len(self.events())
        self.tell(line)
        self.wait_for("done", self.said)
        events = self.events()[before:]
        done = [event for event in events if event["event"] == "done"]  # a warning may come after it
        return [event for event in events if event["event"] != "done"], done[-1]["exit"]

    def of(self, line, kind):
        return [event for event in self.say(line)[0] if event["event"] == kind]


class CatalogueTest(SystemTest):
    def shell(self, name, files=None, tracker=None, *arguments, folder=None, wait=True):
        folder = folder or self.lab.make(name, files or {})
        line = [binary("shoal-peer"), "shell", folder, "--id", name, "--cache", self.lab.path(f"{name}.db"), "--json", *arguments]
        if tracker:
            line += ["--tracker", tracker if isinstance(tracker, str) else tracker.address]
        shell = self.lab.start(name, line, Shell)
        shell.folder = folder
        if wait:
            shell.address = shell.wait_for("ready")["address"]
        return shell

    def memory_tracker(self, port=None):
        return self.lab.tracker("--state", ":memory:", listen=f"127.0.0.1:{port or 0}")

    def holders(self, shell, name):
        return sorted(event["peer"] for event in shell.of(f"find {name}", "source"))

    def content_of(self, shell, name):
        with open(os.path.join(shell.folder, name), "rb") as file:
            return file.read()


class Scenarios(CatalogueTest):
    def test_peers_come_find_and_download(self):
        tracker = self.memory_tracker()
        data = random_bytes(3 * MIB + 5, "one")
        a = self.shell("a", {"one.bin": data, "sub/two.txt": b"two"}, tracker)                                # 1
        b = self.shell("b", {}, tracker)                                                                      # 3
        self.assertEqual([event["confirmed"] for event in a.of("updatelist", "list")], [2])                   # 4
        self.assertEqual(sorted(event["name"] for event in b.of("ls", "found")), ["one.bin", "sub/two.txt"])
        self.assertEqual([event["load"] for event in b.of(f"getload {a.address.replace(':', ' ')}", "load")], [0])  # 5
        found = b.of("find one.bin", "source")                                                                # 6
        self.assertEqual([(event["peer"], event["address"], event["bytes"], event["load"]) for event in found], [("a", a.address, len(data), 0)])
        self.assertEqual(found[0]["score"], found[0]["latency_ms"] + 10 * found[0]["load"])
        self.assertEqual(b.say("download one.bin")[1], 0)                                                     # 7
        self.assertEqual(self.content_of(b, "one.bin"), data)
        self.assertEqual(b.say("download two.txt --one")[1], 0)
        self.assertEqual(self.content_of(b, "sub/two.txt"), b"two")
        self.assertEqual([event["was_here"] for event in b.of("download one.bin", "downloaded")], [True])
        self.assertEqual(self.holders(a, "one.bin"), ["a", "b"])
        self.assertTrue(any(event["chosen"] and event["peer"] == "a" for event in b.of("why one.bin", "candidate")))
        self.assertEqual(b.say("find nothing")[1], 3)
        self.assertEqual(b.say("fnd x")[1], 2)
        self.assertIn("did you mean find?", b.stderr())
        b.tell("exit")
        self.assertEqual(b.wait(), 2)
        wait_until(lambda: self.holders(a, "one.bin") == ["a"], "the one that left is no holder")

    def test_a_download_may_have_its_md5_confirmed_later(self):
        tracker = self.memory_tracker()
        a = self.shell("a", {"big": random_bytes(40 * CHUNK, "big"), "small": b"content"}, tracker)
        b = self.shell("b", {}, tracker, "--md5", "later")
        events, code = b.say("download big")
        self.assertEqual(code, 0)
        kinds = [event["event"] for event in events if event["event"] in ("file", "confirmed", "downloaded")]
        self.assertEqual(kinds, ["file", "confirmed", "downloaded"])
        self.assertEqual(self.content_of(b, "big"), self.content_of(a, "big"))
        events, code = b.say("download small")
        self.assertEqual((code, [event for event in events if event["event"] == "confirmed"]), (0, []))
        self.assertEqual(self.content_of(b, "small"), b"content")
        self.assertRegex(b.of("status", "status")[0]["digests"], "^MD5: 1 by .*; SHA-256: 1 by ")
        for shell in (a, b):
            shell.tell("exit")

    def test_a_peer_waits_for_its_tracker(self):
        port = free_port()
        peer = self.shell("early", {"x": b"x"}, f"127.0.0.1:{port}", wait=False)
        peer.wait_for("waiting")
        self.memory_tracker(port)
        peer.wait_for("ready", seconds=2 * PATIENCE / 30)
        impatient = self.shell("impatient", {}, f"127.0.0.1:{free_port()}", "--wait", "0", wait=False)
        self.expect_exit(6, impatient)

    def test_load_counts_who_is_being_served(self):
        tracker = self.memory_tracker()
        a = self.shell("a", {"big.bin": random_bytes(2 * MIB, "big")}, tracker, "--limit-rate", "400K")
        b = self.shell("b", {}, tracker)
        b.tell("download big.bin")
        busy = lambda: self.load_of(a.address) == 1
        wait_until(busy, "the load of a serving peer")
        b.wait_for("downloaded")
        wait_until(lambda: self.load_of(a.address) == 0, "the load of an idle peer")

    def load_of(self, address):
        line = [binary("shoal-peer"), "load", address]
        return int(subprocess.run(line, env=self.lab.env, capture_output=True, timeout=PATIENCE, check=True).stdout)

    def test_a_forgetful_tracker_learns_by_updatelist(self):
        tracker = self.memory_tracker()
        port = int(tracker.address.rsplit(":", 1)[1])
        quiet = ("--no-watch", "--no-reannounce")
        a = self.shell("a", {"f": b"content"}, tracker, *quiet)
        b = self.shell("b", {"g": b"other"}, tracker, *quiet)
        self.assertEqual(self.holders(b, "f"), ["a"])
        tracker.kill()
        self.memory_tracker(port)
        for shell in (a, b):
            shell.wait_for("registered", 2)
        self.assertEqual(b.say("find f")[1], 3)                                                               # 8
        for shell in (a, b):
            self.assertEqual(shell.say("updatelist")[1], 0)
        self.assertEqual(self.holders(b, "f"), ["a"])                                                         # 9

    def test_peers_announce_again_by_themselves(self):
        tracker = self.memory_tracker()
        port = int(tracker.address.rsplit(":", 1)[1])
        a = self.shell("a", {"f": b"content"}, tracker)
        tracker.kill()
        self.memory_tracker(port)
        a.wait_for("registered", 2, seconds=5 * PATIENCE / 30)
        wait_until(lambda: self.holders(a, "f") == ["a"], "the list is known again", 5 * PATIENCE / 30)

    def test_a_killed_peer_is_no_holder(self):
        tracker = self.memory_tracker()
        a = self.shell("a", {"f": b"content"}, tracker)
        b = self.shell("b", {"f": b"content"}, tracker)
        self.assertEqual(self.holders(a, "f"), ["a", "b"])                                                    # 10
        b.kill()
        found = lambda kind: [event["peer"] for event in self.last if event["event"] == kind]
        self.last = a.say("find f")[0]
        self.assertEqual((found("source"), found("missing")), (["a"], ["b"]), "both are shown, as what they are")
        self.last = a.say("find f")[0]
        self.assertEqual((found("source"), found("missing")), (["a"], []), "only the living")

    def test_a_folder_is_followed(self):
        tracker = self.memory_tracker()
        a = self.shell("a", {"f": b"content"}, tracker)
        still = self.shell("still", {}, tracker, "--no-watch")
        for shell in (a, still):
            self.lab.write(os.path.join(shell.folder, "new", f"of-{shell.name}"), shell.name.encode())
        wait_until(lambda: self.holders(still, "of-a") == ["a"], "a file that was added is found", 2 * PATIENCE / 30)  # 11
        self.assertEqual(a.say("find of-still")[1], 3)
        self.assertEqual(still.of("updatelist", "list")[0]["added"], 1)
        self.assertEqual(self.holders(a, "of-still"), ["still"])
        os.rename(os.path.join(a.folder, "new"), os.path.join(a.folder, "renamed"))
        os.remove(os.path.join(a.folder, "f"))
        wait_until(lambda: [event["name"] for event in still.of("ls", "found") if "of-a" in event["name"] or event["name"] == "f"] == ["renamed/of-a"],
                   "a folder that was renamed and a file that was removed are followed", 2 * PATIENCE / 30)


class ByHand(CatalogueTest):
    def test_what_failed_to_come_and_is_put_there_by_hand_is_served(self):
        tracker = self.memory_tracker()
        for name, size in (("small", 1000), ("large", 9 * CHUNK + 5)):
            data = random_bytes(size, name)
            a = self.shell(f"a-{name}", {name: data}, tracker, "--limit-rate", "64K")
            b = self.shell(f"b-{name}", {}, tracker)
            wait_until(lambda: self.holders(b, name) == [a.name], "the offer")
            if size > CHUNK:
                b.tell(f"download {name}")
                wait_until(lambda: any(file.startswith(".shoal-") for file in os.listdir(b.folder)), "a beginning", describe=self.lab.describe)
                a.kill()
                b.wait_for("done", b.said)
            else:
                a.kill()
                b.say(f"download {name}")
            with open(os.path.join(b.folder, name), "wb") as file:
                file.write(data)
            self.assertEqual(b.say("updatelist")[1], 0)
            c = self.lab.peer(f"c-{name}", "get", name, "-o", self.lab.path(f"c-{name}"), tracker=tracker)
            self.expect_exit(0, c)
            with open(os.path.join(self.lab.path(f"c-{name}"), name), "rb") as file:
                self.assertEqual(file.read(), data)

    def test_an_empty_file_does_not_replace_what_has_its_name(self):
        tracker = self.memory_tracker()
        self.shell("a", {"x": b""}, tracker)
        b = self.shell("b", {"x": b"mine"}, tracker)
        wait_until(lambda: any(event["bytes"] == 0 for event in b.of("find x", "source")), "the offer")
        self.assertEqual(b.say("download d41d8cd98f00b204e9800998ecf8427e")[1], 0)
        self.assertEqual(self.content_of(b, "x"), b"mine")


class Staged(CatalogueTest):
    def stage_lies(self, honest):
        """A peer whose chunks are all wrong, and honest ones: the tracker, the file, the liar, and how near the liar is."""
        tracker = self.memory_tracker()
        content = shoal_wire.Content("wanted", random_bytes(3 * CHUNK + 77, "wanted"))
        liar = shoal_wire.LyingPeer(tracker.address, "liar", content, every=0)
        self.addCleanup(liar.close)
        latencies = self.lab.path("latencies")
        self.lab.write(latencies, b"asker liar 1\n")
        for name in honest:
            self.shell(name, {"wanted": content.data}, tracker)
        return tracker, content, liar, latencies


class Choosing(Staged):
    def test_the_lower_score_wins_over_the_lower_latency(self):
        tracker = self.memory_tracker()
        data = random_bytes(2 * MIB, "busy")
        latencies = self.lab.path("latencies")
        self.lab.write(latencies, b"# staged\nnear asker 10\nasker far 40\n")
        near = self.shell("near", {"f": b"content", "big.bin": data}, tracker, "--limit-rate", "100K")
        self.shell("far", {"f": b"content"}, tracker)
        for i in range(5):
            self.shell(f"load{i}", {}, tracker).tell("download big.bin")
        asker = self.shell("asker", {}, tracker, "--latency", latencies)
        def loads():
            found = {event["peer"]: event for event in asker.of("find f", "source")}
            return found if found["near"]["load"] == 5 else None
        found = wait_until(loads, "five transfers")
        self.assertEqual((found["near"]["score"], found["far"]["score"]), (60, 40))
        self.assertEqual([event["chosen"] for event in asker.of("why f", "candidate") if event["peer"] == "far"], [True])
        self.assertEqual(asker.say("download f")[1], 0)
        self.assertIn("far", asker.events("downloaded")[0]["sources"])

    def lied_to(self, honest):
        tracker, content, liar, latencies = self.stage_lies(honest)
        asker = self.shell("asker", {}, tracker, "--latency", latencies, "--latency-default", "50ms")
        self.assertEqual([event["peer"] for event in asker.of("why wanted", "candidate") if event["chosen"]], ["liar"])
        return asker, content, liar

    def test_of_a_corrupt_source_another_is_taken(self):
        asker, content, liar = self.lied_to(["honest"])
        self.assertEqual(asker.say("download wanted")[1], 0)
        self.assertEqual(self.content_of(asker, "wanted"), content.data)
        self.assertIn("honest", asker.events("downloaded")[0]["sources"])
        self.assertGreater(liar.wrong["asker"], 0)

    def test_a_file_that_is_corrupt_everywhere_fails_as_such(self):
        asker, _, _ = self.lied_to([])
        self.assertEqual(asker.say("download wanted")[1], 32)
        self.assertEqual([name for name in os.listdir(asker.folder) if not name.startswith(".shoal-")], [])

    def test_a_tenth_of_a_thousand_peers_may_be_dead(self):
        tracker = self.memory_tracker()
        content = shoal_wire.Content("wanted", random_bytes(3 * CHUNK, "wanted"))
        crowd = shoal_wire.Crowd(tracker.address, 1000, 100, content)
        self.addCleanup(crowd.close)
        latencies = self.lab.path("latencies")
        self.lab.write(latencies, b"# all alike\n")
        find = lambda name: self.lab.peer(name, "find", "wanted", "--latency", latencies, tracker=tracker, log=False)
        begun = time.monotonic()
        first = find("first")
        self.expect_exit(0, first)
        self.assertLess(time.monotonic() - begun, 1.0 * SLOWNESS)
        self.assertEqual([first.result()["asked"], first.result()["silent"], len(first.events("source"))], [1000, 100, 64])
        second = find("second")
        self.expect_exit(0, second)
        self.assertEqual([second.result()["asked"], second.result()["silent"]], [900, 0])

    def test_an_emulated_latency_delays(self):
        tracker = self.memory_tracker()
        latencies = self.lab.path("latencies")
        self.lab.write(latencies, b"a b 150\n")
        emulate = ("--latency", latencies, "--emulate-latency")
        self.shell("a", {"f": b"content"}, tracker, *emulate)
        b = self.shell("b", {}, tracker, *emulate)
        self.assertGreaterEqual(b.of("download f", "downloaded")[0]["seconds"], 0.3)

    def test_a_bad_latency_file_is_one_line_with_its_number(self):
        latencies = self.lab.path("latencies")
        self.lab.write(latencies, b"a b 5\na c x\n")
        shell = self.shell("a", {}, "127.0.0.1:1", "--latency", latencies, wait=False)
        self.expect_exit(2, shell)
        self.expect_one_line(shell, "latencies", "line 2", "'x'")


class Remembering(CatalogueTest):
    def test_a_state_outlives_a_kill_and_says_nothing_stale(self):
        state = self.lab.path("tracker.db")
        port = free_port()
        start = lambda: self.lab.tracker("--state", state, listen=f"127.0.0.1:{port}")
        tracker = start()
        a = self.shell("a", {"f": b"content"}, f"127.0.0.1:{port}", "--no-reannounce", "--no-watch")
        b = self.shell("b", {"g": b"other"}, f"127.0.0.1:{port}", "--no-reannounce", "--no-watch")
        gone = self.shell("gone", {"h": b"third"}, f"127.0.0.1:{port}")
        for shell in (a, b, gone):
            self.assertEqual(shell.say("updatelist")[1], 0)
        tracker.kill()
        gone.kill()
        os.remove(os.path.join(b.folder, "g"))
        start()
        for shell in (a, b):
            shell.wait_for("registered", 2)
        self.assertEqual(self.holders(b, "f"), ["a"])
        self.assertEqual([a.say("find g")[1], a.say("find h")[1]], [3, 3])

    def test_a_state_that_is_none_is_one_line(self):
        state = self.lab.path("tracker.db")
        self.lab.write(state, b"this is no database, but long enough to look like a file of something else" * 20)
        tracker = self.lab.tracker("--state", state)
        self.expect_exit(2, tracker)
        self.expect_one_line(tracker, "cannot use the state", state, ":memory:")

    def test_two_trackers_do_not_share_a_state(self):
        state = self.lab.path("tracker.db")
        first = self.lab.tracker("--state", state)
        first.address
        second = self.lab.tracker("--state", state)
        self.expect_exit(2, second)
        self.expect_one_line(second, "another tracker uses it")


class OneShot(Staged):
    def get(self, tracker, *arguments):
        get = self.lab.peer("asker", "get", *arguments, "-o", self.lab.path("got"), tracker=tracker)
        get.wait()
        return get, {event["from"] for event in get.events("chunk", self.lab.log_of("asker"))}

    def test_get_goes_to_the_source_with_the_lowest_score(self):
        tracker = self.memory_tracker()
        latencies = self.lab.path("latencies")
        self.lab.write(latencies, b"asker near 10\nasker far 40\n")
        files = {"small": b"content", "big": random_bytes(20 * CHUNK, "big")}
        for name in ("far", "near"):
            self.shell(name, files, tracker)
        self.assertEqual(self.get(tracker, "small", "--latency", latencies)[1], {"near"})
        os.remove(self.lab.log_of("asker"))
        self.assertEqual(self.get(tracker, "big", "--one", "--latency", latencies)[1], {"near"})

    def test_many_small_files_come_from_all_who_have_them(self):
        tracker = self.memory_tracker()
        files = {f"small-{i:03}": random_bytes(64 * 1024, i) for i in range(300)}
        for name in ("first", "second"):
            self.shell(name, files, tracker, "--limit-rate", "8M")
        get, sources = self.get(tracker, "small-*")
        self.expect_exit(0, get)
        self.assertEqual(sources, {"first", "second"})
        asker = self.shell("other", {}, tracker)
        self.assertEqual([event["name"] for event in asker.of("download small-*", "downloaded")], sorted(files))
        for by in ("got", "other"):
            self.assertEqual(tree(self.lab.path(by)), tree(self.lab.path("first")))
        self.assertEqual({event["chosen"] for event in asker.of("why small-000", "candidate") if event["peer"] != "other"}, {True})
        asker.tell("exit")

    def test_one_means_one_also_for_many_small_files(self):
        tracker = self.memory_tracker()
        files = {f"small-{i:03}": random_bytes(1000, i) for i in range(100)}
        latencies = self.lab.path("latencies")
        self.lab.write(latencies, b"asker near 10\nasker far 40\n")
        for name in ("far", "near"):
            self.shell(name, files, tracker)
        self.assertEqual(self.get(tracker, "small-*", "--one", "--latency", latencies)[1], {"near"})

    def test_get_fetches_from_another_what_is_corrupt(self):
        tracker, content, liar, latencies = self.stage_lies(["honest"])
        get, sources = self.get(tracker, "wanted", "--latency", latencies, "--latency-default", "50ms")
        self.expect_exit(0, get)
        self.assertIn("honest", sources)
        self.assertGreater(liar.wrong["asker"], 0)
        with open(os.path.join(self.lab.path("got"), "wanted"), "rb") as file:
            self.assertEqual(file.read(), content.data)

    def test_get_of_what_is_corrupt_everywhere_fails_as_such(self):
        tracker, _, _, latencies = self.stage_lies([])
        get, _ = self.get(tracker, "wanted", "--latency", latencies)
        self.expect_exit(32, get)
        self.assertRegex(get.stderr(), "wanted: .* wrong .*, and no other source has it")

    def test_find_and_load_say_the_same_without_a_shell(self):
        tracker = self.memory_tracker()
        a = self.shell("a", {"f": b"content"}, tracker)
        find = self.lab.peer("asker", "find", "f", tracker=tracker, log=False)
        load = self.lab.peer("other", "load", a.address, log=False)
        self.expect_exit(0, find, load)
        self.assertEqual([(event["peer"], event["bytes"]) for event in find.events("source")], [("a", 7)])
        self.assertEqual([event["load"] for event in load.events("load")], [0])


class Terminal(CatalogueTest):
    """A person at a pseudo-terminal."""

    def open(self, tracker, folder):
        self.screen = b""
        master, slave = pty.openpty()
        line = [binary("shoal-peer"), "shell", folder, "--id", "typist", "--cache", ":memory:", "--tracker", tracker.address]
        env = {**self.lab.env, "TERM": "xterm", "LC_ALL": "C.UTF-8"}
        self.popen = subprocess.Popen(line, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True,
                                      preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(slave)
        self.master = master
        self.addCleanup(lambda: (self.popen.kill(), self.popen.wait(), os.close(master)))

    def until(self, text):
        def look():
            if select.select([self.master], [], [], 0)[0]:
                try:
                    self.screen += os.read(self.master, 4096)
                except OSError:
                    pass
            at = self.screen.find(text)
            if at < 0:
                return None
            self.screen = self.screen[at + len(text):]
            return True
        wait_until(look, f"the screen shows {text}", describe=lambda: repr(self.screen))

    def type(self, text):
        os.write(self.master, text)

    def test_completion_history_and_interrupts(self):
        tracker = self.memory_tracker()
        folder = self.lab.make("typed", {"some file.txt": b"x"})
        self.open(tracker, folder)
        self.until(b"shoal> ")
        self.type(b"upd\t\r")
        self.until(b"the tracker lists 1 of 1 files")
        self.until(b"shoal> ")
        self.type(b"find so\t\r")
        self.until(b"some file.txt  typist")
        self.until(b"shoal> ")
        self.type(b"find \t\t")
        self.type(b"\x15")
        self.type(b"\x1b[A\x1b[A\r")
        self.until(b"the tracker lists 1 of 1 files")
        self.until(b"shoal> ")
        self.type(b"half a line\x03")
        self.until(b"Ctrl-C again")
        self.type(b"exit\r")
        self.assertEqual(self.popen.wait(PATIENCE), 0)
        with open(self.lab.path("state", "shoal", "history"), encoding="utf-8") as file:
            self.assertIn("updatelist", file.read().replace("\\040", " "))

    def test_a_second_interrupt_stops_the_program(self):
        tracker = self.memory_tracker()
        self.open(tracker, self.lab.make("typed", {}))
        self.until(b"shoal> ")
        self.type(b"\x03")
        self.until(b"Ctrl-C again")
        self.type(b"\x03")
        self.assertEqual(self.popen.wait(PATIENCE), 7)


if __name__ == "__main__":
    unittest.main()
