"""What all measurements share: sizes, a work folder in memory, swarms, tables, and clean ends. Processes, what they cost, and labs are here, too,
from files of their own.

Nothing outlives a script: processes, namespaces and folders are gone when it ends, for whatever reason.
"""

import argparse
import contextlib
import hashlib
import json
import mmap
import os
import pathlib
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile

from labs import PERF, ROOT, Distance, Loopback, congestion_option, distance_of, distance_options, is_root, lab, parse_loss, parse_rate, parse_time  # noqa: F401
from processes import COST_HEADER, MIB, Cost, Failed, Meter, Process, median_cost, processes, run, wait_for  # noqa: F401

# ---- sizes and rates ------------------------------------------------------------------------------------


def parse_size(text):
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' is not a size; write a number with K, M or G, such as 64M")
    return round(float(match[1]) * 1024 ** " KMGT".index(match[2] or " "))


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
    cannot do it at once (macOS), nothing is done. Another process does it, as what one has had at most is told of those that it starts."""
    if populate := getattr(mmap, "MAP_POPULATE", 0):
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | populate
        run([sys.executable, "-c", f"import mmap; mmap.mmap(-1, {size}, flags={flags})"], 60 + size / (200 * MIB))


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


def shoal_environment(work):
    """The user's own configuration, cache and SHOAL_ variables would make another measurement of it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SHOAL_")}
    for kind in ("CONFIG", "STATE", "CACHE", "DATA"):
        folder = work / "xdg" / kind.lower()
        folder.mkdir(parents=True, exist_ok=True)
        environment[f"XDG_{kind}_HOME"] = str(folder)
    return environment


# ---- swarms ---------------------------------------------------------------------------------------------

LISTENING = re.compile(r"listening on \S*:(\d+)")
ESTABLISHED = "01"  # as /proc/net/tcp writes it
SWARM_TIME = re.compile(r"total swarm time: ([\d.]+) s")


def start_tracker(programs, place, work, expect, started, environment, more=()):
    """Returns its HOST:PORT and its process."""
    command = [*place.enter_tracker(), programs / "shoal-tracker", "--listen", f"{place.tracker_address}:0", *place.flags()]
    if expect:
        command += ["--expect", expect]
    tracker = Process([*command, "--log", work / "tracker.log", *more], work / "tracker.out", environment)
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


def shoal_arguments(parser):
    parser.add_argument("--shoal-args", type=shlex.split, default=[], metavar="ARGS", help="more arguments for each shoal-peer, in quotes; --shoal-args=--word where it is one word")


def stop_on_signals():
    """A terminated script cleans up like an interrupted one, and so does one in the background, for which a shell ignores interrupts."""

    def stop(number, _):
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
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
