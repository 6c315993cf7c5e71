"""What all measurements share: sizes, a work folder in memory, processes with a deadline, the lab, tables, and clean ends.

Nothing outlives a script: each process has a group of its own that is killed when its time is up or the script ends, for whatever reason,
and so are namespaces and folders removed.
"""

import argparse
import contextlib
import hashlib
import json
import mmap
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

PERF = pathlib.Path(__file__).resolve().parent.parent
ROOT = PERF.parent
MIB = 1 << 20


class Failed(Exception):
    """What ends a measurement, as the one line that a person is told."""


# ---- sizes and rates ------------------------------------------------------------------------------------


def parse_size(text):
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' is not a size; write a number with K, M or G, such as 64M")
    return round(float(match[1]) * 1024 ** " KMGT".index(match[2] or " "))


def parse_rate(text):
    """Bytes a second, of a rate as tc writes it: 100mbit, 1gbit."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]?)bit", text.lower())
    if not match:
        raise Failed(f"'{text}' is not a rate; write it as tc does, such as 100mbit")
    return float(match[1]) * 1000 ** " kmg".index(match[2] or " ") / 8


def format_size(count):
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1000 or unit == "GiB":
            return f"{count:.0f} {unit}" if count == int(count) or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024


def median(values):
    return statistics.median(values) if values else float("nan")


def one_source_bound(size, upload, peers_upload, peers_download):
    """max(F/u_s, F/d_min, N·F/(u_s+Σu)): the least time in which one source can give a file to N peers."""
    count = len(peers_upload)
    return max(size / upload, size / min(peers_download), count * size / (upload + sum(peers_upload)))


def all_to_all_bound(sizes, upload, download):
    """max(max F_i/u_i, max (F−F_j)/d_j, (n−1)·F/Σu): the least time in which each of n peers gets the files of all others."""
    total = sum(sizes)
    return max(
        max(size / rate for size, rate in zip(sizes, upload)),
        max((total - size) / rate for size, rate in zip(sizes, download)),
        (len(sizes) - 1) * total / sum(upload),
    )


# ---- the work folder ------------------------------------------------------------------------------------


@contextlib.contextmanager
def work_folder(needed):
    """In memory: written pages past the dirty limit are throttled to the disk's speed, and it is not the disk that is measured."""
    place = "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()
    if shutil.disk_usage(place).free < needed * 1.02 + (64 << 20):
        raise Failed(f"{place} has no room for the {format_size(needed)} that this needs; use a smaller size")
    work = pathlib.Path(tempfile.mkdtemp(prefix="shoal-perf-", dir=place))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def touch_memory(size):
    """Has the system use so much memory, and gives it back. Where a virtual machine's host takes free pages back, a page that was free for a
    few seconds costs up to ten times as much as one that is used again: who runs first, or after a pause, would pay for that. Where the system
    cannot do it at once (macOS), nothing is done."""
    if populate := getattr(mmap, "MAP_POPULATE", 0):
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | populate).close()


def make_file(path, size, seed):
    """Reproducible bytes that nothing can compress."""
    key = hashlib.md5(str(seed).encode()).hexdigest()
    command = ["openssl", "enc", "-aes-128-ctr", "-K", key, "-iv", "0" * 32, "-nosalt", "-in", "/dev/zero"]
    with open(path, "wb") as out:
        source = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            left = size
            while left > 0:
                block = source.stdout.read(min(left, MIB))
                if not block:
                    raise Failed("openssl made no bytes; is it installed?")
                out.write(block)
                left -= len(block)
        finally:
            source.kill()
            source.wait()
            source.stdout.close()


def md5_of(path):
    digest = hashlib.md5()
    with open(path, "rb") as file:
        while block := file.read(MIB):
            digest.update(block)
    return digest.hexdigest()


def fresh(folder):
    """An empty folder in its place."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def snapshot_programs(folder, work):
    """Copies of the two programs: a build that finishes in the middle of a measurement does not mix into it."""
    target = work / "bin"
    target.mkdir()
    for name in ("shoal-tracker", "shoal-peer"):
        if not (folder / name).exists():
            raise Failed(f"no {name} in {folder}; build it first, or name another folder with --bin")
        shutil.copy2(folder / name, target / name)
    return target


# ---- processes ------------------------------------------------------------------------------------------


class Process:
    """A process in a session of its own; its output goes to files. It is killed when the block that made it ends."""

    def __init__(self, command, output, environment=None):
        self.command = [str(each) for each in command]
        self.output = output
        self.errors = output.with_name(output.name + ".stderr")
        with open(output, "wb") as out, open(self.errors, "wb") as errors:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, env=environment, start_new_session=True
            )
        self.pid = self.process.pid
        self.started = time.monotonic()

    def exit_code(self):
        return self.process.poll()

    def text(self):
        return self.output.read_text("utf-8", "replace")

    def complaint(self):
        lines = [line for line in self.errors.read_text("utf-8", "replace").splitlines() if line.strip()]
        return lines[-1] if lines else "it said nothing"

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)

    def interrupt(self, patience=5):
        """A clean stop first; then by force. True if it was clean."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(patience)
        is_clean = self.process.poll() is not None
        self.kill()
        return is_clean

    def wait(self, limit, what=None):
        """Its exit code must be 0 within the limit."""
        try:
            code = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failed(f"{what or self.command[0]} was not done after {limit:.0f} s") from None
        if code != 0:
            raise Failed(f"{what or self.command[0]} ended with {code}: {self.complaint()}")


@contextlib.contextmanager
def processes():
    """A list whose processes are dead when the block ends."""
    started = []
    try:
        yield started
    finally:
        for process in started:
            process.kill()


def wait_for(condition, limit, what, watched=()):
    """Until it is true; fails when the time is up, or when one of the watched processes failed."""
    deadline = time.monotonic() + limit
    while not condition():
        for process in watched:
            if process.exit_code() not in (None, 0):
                raise Failed(f"{what}: {' '.join(process.command[:3])} ended with {process.exit_code()}: {process.complaint()}")
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not done after {limit:.0f} s")
        time.sleep(0.01)


def run(command, limit, **more):
    """Runs a tool to its end and returns its output; fails with what it said."""
    command = [str(each) for each in command]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit, start_new_session=True, **more)
    except subprocess.TimeoutExpired:
        raise Failed(f"{command[0]} was not done after {limit:.0f} s") from None
    if done.returncode != 0:
        raise Failed(f"{' '.join(command[:3])} ended with {done.returncode}: {done.stderr.decode('utf-8', 'replace').strip()[-300:]}")
    return done.stdout.decode("utf-8", "replace")


def is_root():
    return os.geteuid() == 0


def can_connect(host, port):
    with contextlib.suppress(OSError), socket.create_connection((host, port), 1):
        return True
    return False


def shoal_environment(work):
    """The user's own configuration, cache and SHOAL_ variables would make another measurement of it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SHOAL_")}
    for kind in ("CONFIG", "STATE", "CACHE", "DATA"):
        folder = work / "xdg" / kind.lower()
        folder.mkdir(parents=True, exist_ok=True)
        environment[f"XDG_{kind}_HOME"] = str(folder)
    return environment


# ---- the lab --------------------------------------------------------------------------------------------


class Loopback:
    """All hosts are this one."""

    rate = None

    def enter(self, host):
        return []

    def address(self, host):
        return "127.0.0.1"

    tracker_address = "127.0.0.1"

    def enter_tracker(self):
        return []

    def flags(self):
        return []


class Lab:
    """Hosts 0…n-1 in network namespaces, each with links of one rate; the tracker stands at the switch, unshaped."""

    tracker_address = "10.77.0.254"

    def __init__(self, name, rate):
        self.name, self.rate = name, rate

    def enter(self, host):
        return ["ip", "netns", "exec", f"{self.name}-{host + 1}"]

    def address(self, host):
        return f"10.77.0.{host + 1}"

    def enter_tracker(self):
        return ["ip", "netns", "exec", f"{self.name}-switch"]

    def set_rate(self, host, rate):
        run([PERF / "netlab", "rate", self.name, host + 1, rate], 30)

    def flags(self):
        return ["--insecure"]


@contextlib.contextmanager
def lab(count, rate):
    """The hosts for a measurement: shaped where there is a rate, else this machine itself."""
    if rate is None:
        yield Loopback()
        return
    parse_rate(rate)
    if not is_root():
        raise Failed("--rate makes network namespaces, which needs root; leave it out to run on loopback")
    name = f"shoalperf{os.getpid()}"
    try:
        run([PERF / "netlab", "up", name, count, rate], 60 + 2 * count)
        yield Lab(name, rate)
    finally:
        run([PERF / "netlab", "down", name], 60 + 2 * count)


# ---- swarms ---------------------------------------------------------------------------------------------

LISTENING = re.compile(r"listening on \S*:(\d+)")
ESTABLISHED = "01"  # as /proc/net/tcp writes it
SWARM_TIME = re.compile(r"total swarm time: ([\d.]+) s")


def start_tracker(programs, place, work, expect, started, environment):
    """Returns its HOST:PORT and its process."""
    command = [*place.enter_tracker(), programs / "shoal-tracker", "--listen", f"{place.tracker_address}:0", *place.flags()]
    if expect:
        command += ["--expect", expect]
    tracker = Process([*command, "--log", work / "tracker.log"], work / "tracker.out", environment)
    started.append(tracker)
    wait_for(lambda: LISTENING.search(tracker.text()), 10, "the tracker", [tracker])
    return f"{place.tracker_address}:{LISTENING.search(tracker.text())[1]}", tracker


@contextlib.contextmanager
def start_line(tracker, address, count, started):
    """Holds the tracker until the `count` peers that are started in the block have connected to it, so that they set out together: as on
    machines of their own, where no peer waits for the programs of others to be loaded. Where the system does not say who is connected (macOS),
    nobody is held."""
    if not tables_of(tracker):
        yield
        return
    port = int(address.rpartition(":")[2])
    os.kill(tracker.pid, signal.SIGSTOP)
    try:
        yield
        wait_for(lambda: connections(tracker, port) >= count, 10, "connecting to the tracker", started)
    finally:
        os.kill(tracker.pid, signal.SIGCONT)


def connections(process, port):
    """How many connections to a port of this process are established, as its network namespace has them."""
    rows = [line.split() for table in tables_of(process) for line in table.read_text().splitlines()[1:]]
    return sum(int(row[1].rpartition(":")[2], 16) == port and row[3] == ESTABLISHED for row in rows)


def tables_of(process):
    """The files that list its connections."""
    return list(pathlib.Path(f"/proc/{process.pid}/net").glob("tcp*"))


def swarm_seconds(told):
    """The total swarm time, as the tracker told it."""
    match = SWARM_TIME.search(told)
    if not match:
        raise Failed("the tracker did not tell the total swarm time")
    return float(match[1])


def peer_command(programs, place, host, tracker, work, command, is_logged=True):
    """A peer's command line; its event log is WORK/peerN.log."""
    flags = ["--tracker", tracker, "--listen", f"{place.address(host)}:0", "--id", f"peer{host}", "--quiet"]
    log = ["--log", work / f"peer{host}.log"] if is_logged else []
    return [*place.enter(host), programs / "shoal-peer", *command, *flags, *log, *place.flags()]


def events_of(path):
    """The events of a log; a line that was cut off by a kill is left out."""
    events = []
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            with contextlib.suppress(ValueError):
                events.append(json.loads(line))
    return events


# ---- results --------------------------------------------------------------------------------------------


def markdown_table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]) + "\n"


def write_table(folder, name, header, rows, heading, notes=()):
    """FOLDER/NAME.tsv for programs, FOLDER/NAME.md for people."""
    folder.mkdir(parents=True, exist_ok=True)
    tsv = "\n".join("\t".join(str(cell) for cell in row) for row in [header, *rows]) + "\n"
    (folder / f"{name}.tsv").write_text(tsv)
    text = f"# {heading}\n\n" + markdown_table(header, rows)
    if notes:
        text += "\n" + "\n".join(f"- {note}" for note in notes) + "\n"
    (folder / f"{name}.md").write_text(text)


def common_options(parser, name):
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/linux-release/bin", metavar="DIR", help="where the programs are")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build/perf" / name, metavar="DIR", help="where the results go; build/perf/" + name)


def stop_on_signals():
    """A terminated script cleans up like an interrupted one."""

    def stop(number, _):
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


def main(measure):
    """Runs a script's `measure()`: one line says what failed, and the exit code that it did."""
    stop_on_signals()
    try:
        sys.exit(measure() or 0)
    except Failed as failure:
        print(f"{pathlib.Path(sys.argv[0]).name}: {failure}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{pathlib.Path(sys.argv[0]).name}: interrupted; all of it is removed", file=sys.stderr)
        sys.exit(130)
