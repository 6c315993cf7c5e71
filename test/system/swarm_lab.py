"""Swarms of real processes in a scratch folder.

Every wait has a deadline and looks for a condition; what a lab started it ends, by handle. The commands are those in the
folder that SHOAL_BIN names. SHOAL_SLOWNESS stretches all deadlines: 1 for an optimised build, more under a sanitizer.
"""

import errno
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import unittest

SLOWNESS = float(os.environ.get("SHOAL_SLOWNESS", "1"))
PATIENCE = 30.0 * SLOWNESS  # for whatever ought to happen soon
MIB = 1024 * 1024
CHUNK = 256 * 1024


def binary(name):
    folder = os.environ.get("SHOAL_BIN")
    if not folder:
        sys.exit("SHOAL_BIN has to name the folder of shoal-tracker and shoal-peer")
    return os.path.join(folder, name)


def scratch_parent():
    """Memory, where there is some: the tests are about the swarm, not about a disk."""
    if "TMPDIR" in os.environ:
        return os.environ["TMPDIR"]
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def wait_until(condition, what, seconds=PATIENCE, describe=lambda: ""):
    """The first true value of `condition`; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:.1f} s\n{describe()}")
        time.sleep(0.01)


def whole_lines(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return [line.rstrip("\n") for line in file if line.endswith("\n")]
    except FileNotFoundError:
        return []


class Process:
    """A running command; what it says goes to files, so that it can never block on us, unless its `stdout` is to be another."""

    def __init__(self, lab, name, arguments, env=None, cwd=None, stdout=None):
        self.lab = lab
        self.name = name
        self.stdout_file = lab.path(f"{name}.out")
        self.stderr_file = lab.path(f"{name}.err")
        with open(self.stdout_file, "wb") as out, open(self.stderr_file, "wb") as err:
            self.popen = subprocess.Popen([str(part) for part in arguments], stdin=subprocess.DEVNULL, stdout=stdout or out, stderr=err,
                                          env={**lab.env, **(env or {})}, cwd=cwd or lab.folder)

    # ---- what it says

    def stdout(self):
        return pathlib.Path(self.stdout_file).read_text(encoding="utf-8", errors="replace")

    def stderr(self):
        return pathlib.Path(self.stderr_file).read_text(encoding="utf-8", errors="replace")

    def warnings(self):
        return [line for line in whole_lines(self.stderr_file) if "warning: " in line]

    def events(self, kind=None, file=None):
        found = []
        for line in whole_lines(file or self.stdout_file):
            if line.startswith("{"):
                event = json.loads(line)
                if kind is None or event["event"] == kind:
                    found.append(event)
        return found

    def result(self):
        return self.events()[-1]

    def describe(self):
        tail = lambda text: "\n".join("    " + line for line in text.splitlines()[-30:])
        return f"--- {self.name}: exit {self.popen.poll()}\n  stdout:\n{tail(self.stdout())}\n  stderr:\n{tail(self.stderr())}"

    # ---- waiting for it

    def wait(self, seconds=PATIENCE):
        """Its exit code."""
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {seconds:.1f} s\n{self.lab.describe()}") from None

    def wait_for(self, kind, count=1, seconds=PATIENCE, where=lambda event: True):
        """The `count`-th event of that kind, once it is there."""
        def look():
            found = [event for event in self.events(kind) if where(event)]
            if len(found) >= count:
                return found[count - 1]
            if self.popen.poll() is not None:
                raise AssertionError(f"{self.name} ended without the event '{kind}'\n{self.lab.describe()}")
            return None
        return wait_until(look, f"{self.name}: event '{kind}'", seconds, self.lab.describe)

    def wait_for_line(self, text, seconds=PATIENCE):
        """Until it has said `text` on stdout or stderr."""
        look = lambda: next((line for line in whole_lines(self.stderr_file) + whole_lines(self.stdout_file) if text in line), None)
        return wait_until(look, f"{self.name}: a line with '{text}'", seconds, self.lab.describe)

    # ---- ending it

    def is_running(self):
        return self.popen.poll() is None

    def interrupt(self):
        self.popen.send_signal(signal.SIGINT)

    def kill(self):
        """As a power cut would: no chance to tidy up."""
        self.popen.kill()
        self.popen.wait(PATIENCE)


class Tracker(Process):
    @property
    def address(self):
        """Where it listens; waits until it does."""
        prefix = "tracker: listening on "
        def look():
            for line in whole_lines(self.stdout_file):
                if line.startswith(prefix):
                    return line[len(prefix):]
                if line.startswith("{") and json.loads(line)["event"] == "listening":
                    return json.loads(line)["address"]
            if not self.is_running():
                raise AssertionError(f"the tracker ended before it listened\n{self.lab.describe()}")
            return None
        return wait_until(look, "the tracker's address", PATIENCE, self.lab.describe)

    def address_of(self, peer):
        """Where that peer listens, once it has registered."""
        return self.wait_for("registered", where=lambda event: event["peer"] == peer)["address"]


class Lab:
    """A scratch folder and the processes that were started in it."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="shoal-system-", dir=scratch_parent())
        self.processes = []
        self.at_end = []
        self.count = {}
        self.env = {key: value for key, value in os.environ.items() if not key.startswith("SHOAL_")}
        for key, folder in (("HOME", "home"), ("XDG_CACHE_HOME", "cache"), ("XDG_CONFIG_HOME", "config"), ("XDG_STATE_HOME", "state")):
            self.env[key] = self.path(folder)
            os.makedirs(self.env[key])

    def close(self):
        for process in self.processes:
            if process.is_running():
                process.popen.kill()
            process.popen.wait(PATIENCE)
        for action in reversed(self.at_end):
            action()
        shutil.rmtree(self.folder, ignore_errors=True)

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    def describe(self):
        return "\n".join(process.describe() for process in self.processes)

    # ---- processes

    def start(self, name, arguments, kind=Process, **options):
        number = self.count[name] = self.count.get(name, 0) + 1
        process = kind(self, name if number == 1 else f"{name}.{number}", arguments, **options)
        self.processes.append(process)
        return process

    def tracker(self, *arguments, listen="127.0.0.1:0", json_output=True):
        command = [binary("shoal-tracker"), "--listen", listen, *arguments]
        return self.start("tracker", command + (["--json"] if json_output else []), Tracker)

    def peer(self, name, command, *arguments, tracker=None, json_output=True, log=True, **options):
        """`command` with its operands, as a peer called `name`, whose digest cache is its own as on a machine of its own."""
        line = [binary("shoal-peer"), command, *arguments, "--id", name, "--cache", self.path(f"{name}.db")]
        if tracker:
            line += ["--tracker", tracker if isinstance(tracker, str) else tracker.address]
        if json_output:
            line += ["--json"]
        if log:
            line += ["--log", self.log_of(name)]
        return self.start(name, line, **options)

    def log_of(self, name):
        return self.path(f"{name}.log")

    # ---- files

    def make(self, name, files=None):
        """A folder `name` with `files`: relative name to bytes."""
        folder = self.path(name)
        os.makedirs(folder, exist_ok=True)
        for file, content in (files or {}).items():
            self.write(os.path.join(folder, file), content)
        return folder

    @staticmethod
    def write(path, content):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)


def free_port(host="127.0.0.1"):
    """A port that nobody uses now. For the few cases that need to know it before anybody listens there.

    It is below those that systems give to whoever asks for any: nobody is given it in the meantime, and nobody who tries to connect to it
    gets it as its own end and meets itself there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for _ in range(100):
        port = random.randrange(10_000, 32_000)
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((host, port))
                return port
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
    raise OSError(f"no free port at {host}")


def has_ipv6():
    try:
        free_port("::1")
        return True
    except OSError:
        return False


def random_bytes(size, seed):
    return random.Random(repr(seed)).randbytes(size)


def tree(folder, with_times=True):
    """What is in a folder: name to kind, content, executable bit and time of modification."""
    found = {}
    root = os.fsencode(folder)
    for parent, folders, files in os.walk(root):
        for name in folders + files:
            path = os.path.join(parent, name)
            status = os.lstat(path)
            relative = os.fsdecode(os.path.relpath(path, root))
            if stat.S_ISLNK(status.st_mode):
                found[relative] = ("link", os.readlink(path))
            elif stat.S_ISDIR(status.st_mode):
                found[relative] = ("folder",)
            else:
                with open(path, "rb") as file:
                    digest = hashlib.md5(file.read()).hexdigest()
                time_of = status.st_mtime_ns if with_times else 0
                found[relative] = ("file", status.st_size, digest, bool(status.st_mode & 0o100), time_of)
    return found


class SystemTest(unittest.TestCase):
    maxDiff = 4000

    def setUp(self):
        self.lab = Lab()
        self.addCleanup(self.lab.close)

    def expect_exit(self, code, *processes, seconds=PATIENCE):
        """All of them end, with that code."""
        for process in processes:
            if process.wait(seconds) != code:
                self.fail(f"{process.name} ended with {process.popen.returncode}, not {code}\n{self.lab.describe()}")

    def expect_equal_trees(self, *folders, with_times=True):
        first = tree(folders[0], with_times)
        for other in folders[1:]:
            self.assertEqual(first, tree(other, with_times), f"{folders[0]} and {other} differ\n{self.lab.describe()}")

    def expect_one_line(self, process, *parts):
        """All it says on stderr is one line, with each of `parts` in it."""
        lines = process.stderr().splitlines()
        self.assertEqual(len(lines), 1, process.describe())
        for part in parts:
            self.assertIn(part, lines[0], process.describe())

    def swarm(self, contents, *arguments, tracker_arguments=()):
        """A closed swarm: name of each peer to its files. Waits for its end; gives the tracker, the peers and their folders."""
        tracker = self.lab.tracker("--expect", len(contents), *tracker_arguments)
        folders = {name: self.lab.make(name, files) for name, files in contents.items()}
        peers = {name: self.lab.peer(name, "swarm", folder, *arguments, tracker=tracker) for name, folder in folders.items()}
        self.expect_exit(0, *peers.values(), tracker)
        return tracker, peers, folders
