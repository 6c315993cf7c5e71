"""What a run could not do shows in its exit code: what is left out, what cannot be written, and names that a file system takes for one."""

import os
import pathlib
import shutil
import socket
import struct
import subprocess
import sys
import threading
import unittest

import shoal_wire
from swarm_lab import CHUNK, PATIENCE, SystemTest, binary, random_bytes, tree, wait_until


class LeftOut(SystemTest):
    def closed_swarm(self, spoil, as_user=()):
        """Of a, whose folder is spoiled, and b: the exit codes of both and of the tracker, and what b has then."""
        a = self.lab.make("a", {"good": b"good"})
        b = self.lab.make("b")
        spoil(a)
        if as_user:
            subprocess.run(["chown", "-R", "65534:65534", self.lab.folder], check=True, timeout=PATIENCE)
        tracker = self.lab.tracker("--expect", 2)
        peers = [self.lab.start(name, [*as_user, binary("shoal-peer"), "swarm", folder, "--id", name, "--tracker", tracker.address, "--cache", ":memory:"])
                 for name, folder in (("a", a), ("b", b))]
        codes = [process.wait() for process in (*peers, tracker)]
        return peers, codes, sorted(tree(b))

    def expect_partial(self, spoil, word, **options):
        peers, codes, there = self.closed_swarm(spoil, **options)
        self.assertEqual(codes, [23, 23, 23], self.lab.describe())
        self.assertEqual(there, ["good"])
        self.assertEqual(len([line for line in peers[0].warnings() if word in line]), 1, peers[0].describe())

    def test_a_pipe(self):
        self.expect_partial(lambda folder: os.mkfifo(os.path.join(folder, "pipe")), "pipe")

    def test_a_name_that_cannot_travel(self):
        self.expect_partial(lambda folder: self.lab.write(os.path.join(folder, "two\nlines"), b"x"), "lines")

    def test_a_name_that_is_no_utf8_in_a_folder(self):
        self.expect_partial(lambda folder: self.lab.write(os.path.join(os.fsencode(folder), b"sub", b"caf\xe9"), b"x"), "caf")

    def test_a_name_like_our_own(self):
        self.expect_partial(lambda folder: self.lab.write(os.path.join(folder, ".shoal-notes"), b"x"), ".shoal-notes")

    def hide(self, name, content):
        def spoil(folder):
            path = os.path.join(folder, name)
            self.lab.write(path, content) if content is not None else os.makedirs(path)
            os.chmod(path, 0)
        return spoil

    def user(self):
        if os.getuid() != 0:
            return ()
        if not shutil.which("setpriv"):
            self.skipTest("nobody else to be here")
        return ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")

    def test_a_file_that_cannot_be_read(self):
        self.expect_partial(self.hide("secret", b"secret"), "secret", as_user=self.user())

    def test_a_folder_that_cannot_be_read(self):
        peers, codes, _ = self.closed_swarm(self.hide("closed", None), as_user=self.user())
        os.chmod(os.path.join(self.lab.path("a"), "closed"), 0o700)
        self.assertEqual(codes, [23, 23, 23], self.lab.describe())
        self.assertEqual(len([line for line in peers[0].warnings() if "closed" in line]), 1)

    def test_a_file_that_was_readable_in_between_is_told_of_again(self):
        folder, user = self.lab.make("a", {"good": b"good"}), self.user()
        tracker = self.lab.tracker()
        if user:
            subprocess.run(["chown", "-R", "65534:65534", self.lab.folder], check=True, timeout=PATIENCE)
        share = self.lab.start("a", [*user, binary("shoal-peer"), "share", folder, "--id", "a", "--tracker", tracker.address, "--cache", ":memory:", "--json"])
        share.wait_for("registered")

        def put(mode):
            path = self.lab.path("put")
            self.lab.write(path, b"secret")
            if user:
                os.chown(path, 65534, 65534)
            os.chmod(path, mode)
            os.rename(path, os.path.join(folder, "secret"))

        for times in (1, 2):
            put(0)
            wait_until(lambda: len([line for line in share.warnings() if "secret" in line]) == times, "the warning", describe=self.lab.describe)
            put(0o644)
            share.wait_for("list", times, where=lambda event: event["added"] == 1)

    def test_verify_ends_with_23(self):
        folder = self.lab.make("a", {"good": b"good"})
        os.mkfifo(os.path.join(folder, "pipe"))
        verify = self.lab.peer("a", "verify", folder)
        self.expect_exit(23, verify)
        self.assertIn("pipe", verify.stderr())

    def test_what_is_excluded_is_not_left_out(self):
        a = self.lab.make("a", {"good": b"good"})
        os.mkfifo(os.path.join(a, "pipe"))
        tracker = self.lab.tracker("--expect", 1)
        self.expect_exit(0, self.lab.peer("a", "swarm", a, "--exclude", "pipe", tracker=tracker), tracker)


class AlreadyThere(SystemTest):
    """A get into a folder with files of the user: what is there keeps its bytes, whatever name it has."""

    def offer(self, files):
        self.tracker = self.lab.tracker()
        self.lab.peer("mars", "share", self.lab.make("mars", files), tracker=self.tracker).wait_for("registered")
        for name in files:
            wait_until(lambda: self.lab.peer("asks", "find", name, tracker=self.tracker, log=False).wait() == 0, "the offer")

    def get(self, code=0, bytes_fetched=None):
        get = self.lab.peer("b", "get", "**", "-o", self.lab.path("got"), tracker=self.tracker)
        self.expect_exit(code, get)
        if bytes_fetched is not None:
            self.assertEqual(get.result()["bytes"], bytes_fetched, get.describe())
        return get

    def there(self):
        return {name: pathlib.Path(self.lab.path("got", name)).read_bytes() for name, (kind, *_) in tree(self.lab.path("got")).items() if kind == "file"}

    def test_a_file_that_has_the_name_of_a_conflict_is_kept(self):
        self.offer({"a": b"of mars", "big": random_bytes(2 * CHUNK, "big")})
        files = {"a": b"mine", "a (from mars)": b"mine as well", "big": b"mine", "big (from mars)": b"edited"}
        self.lab.make("got", files)
        self.get(bytes_fetched=7 + 2 * CHUNK)
        self.assertEqual(self.there(), {**files, "a (from mars 2)": b"of mars", "big (from mars 2)": random_bytes(2 * CHUNK, "big")})

    def test_a_copy_that_is_there_is_not_fetched_again_and_an_edited_one_is_kept(self):
        self.offer({"a": b"of mars"})
        self.lab.make("got", {"a": b"mine"})
        self.get(bytes_fetched=7)
        self.get(bytes_fetched=0)
        self.assertEqual(self.there(), {"a": b"mine", "a (from mars)": b"of mars"})
        self.lab.write(self.lab.path("got", "a (from mars)"), b"edited")
        self.get(bytes_fetched=7)
        self.get(bytes_fetched=0)
        self.assertEqual(self.there(), {"a": b"mine", "a (from mars)": b"edited", "a (from mars 2)": b"of mars"})

    def test_a_file_where_a_folder_is_to_be_is_kept_and_so_is_what_is_in_the_other_folder(self):
        self.offer({"d/e/x": b"of mars"})
        self.lab.make("got", {"d/e": b"a file", "d/e (from mars)/x": b"edited"})
        self.get(bytes_fetched=7)
        self.get(bytes_fetched=0)
        self.assertEqual(self.there(), {"d/e": b"a file", "d/e (from mars)/x": b"edited", "d/e (from mars)/x (from mars)": b"of mars"})

    def test_what_cannot_be_read_is_left_alone_and_ends_with_23(self):
        self.offer({"a": b"of mars"})
        os.mkfifo(os.path.join(self.lab.make("got"), "a"))
        get = self.get(23)
        self.assertEqual(len([line for line in get.warnings() if "no regular file" in line]), 1, get.describe())
        self.assertEqual([line for line in get.warnings() if "different file" in line], [])
        self.assertEqual(sorted(os.listdir(self.lab.path("got"))), ["a", "a (from mars)"])

    def test_a_folder_that_has_the_name_is_no_problem(self):
        self.offer({"a": b"of mars"})
        self.lab.make("got", {"a/mine": b"mine"})
        self.get()
        self.assertEqual(self.there(), {"a/mine": b"mine", "a (from mars)": b"of mars"})


class FindingTracker:
    """A tracker that answers whatever is looked for with one entry of somebody who is not here."""

    def __init__(self, entry):
        self.entry = entry
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listening.getsockname()[1]}"
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        try:
            while True:
                link, _ = self.listening.accept()
                self.answer(shoal_wire.Connection(link))
        except OSError:
            pass

    def answer(self, connection):
        try:
            connection.receive_kind(shoal_wire.HELLO)
            connection.send(shoal_wire.frame(shoal_wire.WELCOME, struct.pack("<HQ", 1, 0) + shoal_wire.text("tracker") + struct.pack("<Q", 1)))
            while True:
                query = connection.receive_kind(shoal_wire.FIND)[:4]
                connection.send(shoal_wire.frame(shoal_wire.FOUND, query + struct.pack("<BI", 1, 1) + self.entry + struct.pack("<I", 0)))
        except OSError:
            connection.close()

    def close(self):
        self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()
        self.thread.join(PATIENCE)


class Refused(SystemTest):
    def test_a_name_of_others_that_would_leave_the_folder_ends_a_get_with_23(self):
        for name in ("../evil", "/evil", ".Shoal-evil", "evil\nname"):
            tracker = FindingTracker(shoal_wire.Content(name, random_bytes(2 * CHUNK, name)).entry())
            self.addCleanup(tracker.close)
            get = self.lab.peer("b", "get", "evil", "-o", self.lab.path("b"), tracker=tracker.address)
            self.expect_exit(23, get)
            self.assertEqual(len([line for line in get.warnings() if "evil" in line]), 1, get.describe())
            self.assertEqual(tree(self.lab.path("b")), {})


class Outputs(SystemTest):
    def setUp(self):
        super().setUp()
        self.tracker = self.lab.tracker()
        self.folder = self.lab.make("owner", {"x": random_bytes(CHUNK + 1, "x")})
        self.owner = self.lab.peer("owner", "share", self.folder, tracker=self.tracker)
        self.owner.wait_for("registered")
        wait_until(lambda: self.lab.peer("asks", "find", "x", tracker=self.tracker, log=False).wait() == 0, "the offer")
        self.lab.write(self.lab.path("some.log"), b'{"event":"hello","t":0}\n')

    def commands(self):
        at = ["--tracker", self.tracker.address]
        peer = binary("shoal-peer")
        return [[peer, "ls", *at], [peer, "ls", "--json", *at], [peer, "find", "x", *at], [peer, "load", self.tracker.address_of("owner"), *at],
                [peer, "verify", self.folder, "--cache", ":memory:"], [peer, "verify", self.folder, "--json", "--cache", ":memory:"],
                [peer, "get", "x", "-o", self.lab.path("got"), "--json", *at],
                [peer, "timeline", self.lab.path("some.log")], [peer, "timeline", self.lab.path("some.log"), "--json"],
                [peer, "--help"], [peer, "get", "--help"], [peer, "--version"], [binary("shoal-tracker"), "--help"]]

    def expect_each(self, code, said, redirected="", stdout=None):
        for command in self.commands():
            line = ["sh", "-c", f'exec "$@" {redirected}', "sh", *command]
            process = self.lab.start("run", line, stdout=stdout)
            self.assertEqual((command[1:], process.wait()), (command[1:], code), process.describe())
            lines = [line for line in process.stderr().splitlines() if "stdout" in line]
            self.assertEqual(len(lines), 1 if said else 0, process.describe())
            for line in lines:
                self.assertIn(said, line)

    @unittest.skipUnless(os.path.exists("/dev/full"), "no /dev/full here")
    def test_a_full_disk_behind_stdout_ends_with_9(self):
        self.expect_each(9, "No space left on device", ">/dev/full")

    def test_a_closed_stdout_ends_with_1(self):
        self.expect_each(1, "Bad file descriptor", ">&-")

    def test_a_reader_that_has_gone_ends_with_1_and_without_a_word(self):
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "wb") as stdout:
            self.expect_each(1, None, stdout=stdout)

    def test_a_run_whose_reader_goes_ends_by_itself(self):
        reader, writer = os.pipe()
        with os.fdopen(writer, "wb") as stdout:
            share = self.lab.start("another", [binary("shoal-peer"), "share", self.folder, "--id", "another", "--json", "--tracker", self.tracker.address,
                                               "--cache", ":memory:"], stdout=stdout)
        with os.fdopen(reader, "rb") as lines:
            self.assertIn(b"hello", lines.readline())
        self.lab.write(os.path.join(self.folder, "new"), b"new")  # which it would tell of
        self.expect_exit(1, share)

    @unittest.skipUnless(os.path.exists("/dev/full"), "no /dev/full here")
    def test_a_log_that_cannot_be_written_ends_with_9_and_the_file_is_there(self):
        get = self.lab.peer("b", "get", "x", "-o", self.lab.path("b"), "--log", "/dev/full", tracker=self.tracker, log=False)
        self.expect_exit(9, get)
        self.assertEqual(get.stderr().count("the log is incomplete"), 1, get.describe())
        self.assertEqual(get.result()["exit"], 9)
        self.expect_equal_trees(self.folder, self.lab.path("b"))

    @unittest.skipUnless(os.path.exists("/dev/full"), "no /dev/full here")
    def test_a_picture_that_cannot_be_written_ends_with_9(self):
        self.expect_exit(9, self.lab.start("draws", [binary("shoal-peer"), "timeline", self.lab.path("some.log"), "--svg", "/dev/full"]))

    def test_nothing_else_is_written_where_a_closed_stream_was(self):
        log = self.lab.path("closed.log")
        for redirected in (">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"):
            line = [binary("shoal-peer"), "get", "x", "-o", self.lab.path("b"), "--log", log, "--tracker", self.tracker.address]
            self.lab.start("run", ["sh", "-c", f'exec "$@" {redirected}', "sh", *line]).wait()
        with open(log, encoding="utf-8") as file:
            self.assertTrue(all(line.startswith("{") for line in file))

    def test_a_shell_without_a_stdin_ends(self):
        line = [binary("shoal-peer"), "shell", self.lab.make("c"), "--tracker", self.tracker.address]
        self.expect_exit(0, self.lab.start("shell", ["sh", "-c", 'exec "$@" <&-', "sh", *line]))


def fuse_python():
    """An interpreter that can be a file system."""
    for interpreter in (sys.executable, "/usr/bin/python3"):
        for module in ("fusepy", "fuse"):
            if os.path.exists(interpreter) and subprocess.run([interpreter, "-c", f"from {module} import FUSE"], capture_output=True, timeout=PATIENCE).returncode == 0:
                return interpreter
    return None


@unittest.skipUnless(os.access("/dev/fuse", os.W_OK) and shutil.which("fusermount") and fuse_python(), "no file systems of our own here")
class Folding(SystemTest):
    def setUp(self):
        super().setUp()
        self.backing = self.lab.make("backing")
        self.mount = self.lab.make("mount")
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "folding_fs.py")
        self.lab.at_end.append(lambda: subprocess.run(["fusermount", "-u", "-z", self.mount], capture_output=True, timeout=PATIENCE))
        system = self.lab.start("system", [fuse_python(), script, self.backing, self.mount])
        try:
            wait_until(lambda: os.path.ismount(self.mount) or not system.is_running(), "the file system")
        except OSError:
            pass
        if not os.path.ismount(self.mount):
            self.skipTest("may not mount here")
        self.files = {"README": b"upper", "readme": b"lower, and longer", "caf\u00e9": b"one", "cafe\u0301": b"two characters", "\u00c4": b"A", "\u00e4": b"a",
                      "Sub/x": b"1", "sub/y": b"22", "sub/X": b"333", "e": b"", "E": b"not empty", "same": b"same", "SAME": b"same", "Big": random_bytes(2 * CHUNK, 1),
                      "big": random_bytes(3 * CHUNK, 2)}

    def contents(self, folder):
        found = {}
        for parent, _, names in os.walk(folder):
            for name in names:
                with open(os.path.join(parent, name), "rb") as file:
                    found[os.path.join(parent, name)] = file.read()
        return found

    def expect_all_contents(self):
        there = self.contents(self.backing)
        self.assertEqual(sorted(there.values(), key=hash), sorted([*set(self.files.values())], key=hash), sorted(there))

    def test_a_get_keeps_every_content(self):
        tracker = self.lab.tracker()
        self.lab.peer("a", "share", self.lab.make("a", self.files), tracker=tracker).wait_for("registered")
        wait_until(lambda: self.lab.peer("asks", "find", "big", tracker=tracker, log=False).wait() == 0, "the offers")
        self.expect_exit(0, self.lab.peer("b", "get", "**", "-o", os.path.join(self.mount, "out"), tracker=tracker))
        self.expect_all_contents()

    def test_a_swarm_keeps_every_content_and_our_own(self):
        own = os.path.join(self.mount, "out")
        os.mkdir(own)
        self.lab.write(os.path.join(own, "ReadMe"), b"ours")
        tracker = self.lab.tracker("--expect", 2)
        peers = [self.lab.peer("a", "swarm", self.lab.make("a", self.files), tracker=tracker), self.lab.peer("b", "swarm", own, tracker=tracker)]
        self.expect_exit(0, *peers, tracker)
        self.files["ReadMe"] = b"ours"
        self.expect_all_contents()
        self.assertEqual([name for name in os.listdir(own) if name.startswith(".shoal-")], [])

    def test_a_second_get_fetches_nothing_more(self):
        tracker = self.lab.tracker()
        self.lab.peer("a", "share", self.lab.make("a", {"README": b"upper", "readme": b"lower"}), tracker=tracker).wait_for("registered")
        wait_until(lambda: self.lab.peer("asks", "find", "readme", tracker=tracker, log=False).wait() == 0, "the offers")
        self.expect_exit(0, self.lab.peer("b", "get", "**", "-o", self.mount, tracker=tracker))
        again = self.lab.peer("b", "get", "**", "-o", self.mount, tracker=tracker)
        self.expect_exit(0, again)
        self.assertEqual(again.result()["bytes"], 0, again.describe())
        (other,) = [name for name in os.listdir(self.backing) if "(from a)" in name]
        self.assertEqual(sorted(self.contents(self.backing).values()), [b"lower", b"upper"])
        self.lab.write(os.path.join(self.backing, other), b"edited")
        self.expect_exit(0, self.lab.peer("b", "get", "**", "-o", self.mount, tracker=tracker))
        self.assertEqual(sorted(self.contents(self.backing).values()), [b"edited", b"lower", b"upper"])


if __name__ == "__main__":
    unittest.main()
