"""The main job on this machine, driven and checked: see scripts/demo, which builds what this runs.

Peers are told to write NDJSON; of it only the closing `result` event is used. Progress is read off the folders themselves, and at the
end every file of every peer is compared by MD5 with the file that it came from.
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time

RESERVED = ".shoal-"  # Partial files and our own records.
BLOCK = 1 << 20
LISTENING = re.compile(r"^tracker: listening on (\S+)")
FILES_SHOWN = 24


class Failed(Exception):
    """What ends the demo, as the one line that a person is told."""


# ---- sizes ----------------------------------------------------------------------------------------------


def parse_size(text):
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' is not a size; write a number with K, M or G, such as 128M")
    return round(float(match[1]) * 1024 ** " KMGT".index(match[2] or " "))


def format_size(count):
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1000 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024


# ---- the folders ----------------------------------------------------------------------------------------


def files_below(folder):
    """(name, path) of each regular file below it, in order; our own partial files and symbolic links are left out."""
    for base, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = pathlib.Path(base, name)
            if not name.startswith(RESERVED) and stat.S_ISREG(path.lstat().st_mode):
                yield path.relative_to(folder).as_posix(), path


def bytes_below(folder):
    """What is allocated below the folder, partial files included."""
    total = 0
    pending = [folder]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        status = entry.stat(follow_symlinks=False)
                        total += min(status.st_blocks * 512, status.st_size)
        except FileNotFoundError:
            pass  # It was renamed while we looked.
    return total


def place_for(needed):
    """A folder with room for `needed` bytes, memory first: what is measured is shoal, not the disk."""
    places = ["/dev/shm", tempfile.gettempdir()]
    for place in places:
        if os.path.isdir(place) and os.access(place, os.W_OK) and shutil.disk_usage(place).free > needed * 1.05 + (64 << 20):
            return pathlib.Path(tempfile.mkdtemp(prefix="shoal-demo-", dir=place))
    raise Failed(f"{format_size(needed)} are needed in {' or '.join(dict.fromkeys(places))}; use a smaller --size, or set TMPDIR")


def make_file(path, size):
    with open(path, "wb") as out:
        for start in range(0, size, BLOCK):
            out.write(os.urandom(min(BLOCK, size - start)))


def borrow(source, folder):
    """A copy of a folder of the user's: what peers fetch and set must not reach the original. Sockets and the like stay behind."""

    def special(base, names):
        modes = {name: os.lstat(os.path.join(base, name)).st_mode for name in names}
        return [n for n, m in modes.items() if not (stat.S_ISREG(m) or stat.S_ISDIR(m) or stat.S_ISLNK(m))]

    shutil.copytree(source, folder, symlinks=True, ignore=special, dirs_exist_ok=True)


def prepare(options):
    """The work folder, and in it one folder a peer."""
    if options.data:
        sizes = [sum(path.stat().st_size for _, path in files_below(d)) for d in options.data]
        needed = sum(sizes) * len(sizes)
    else:
        needed = options.size * options.peers**2
    work = place_for(needed)
    try:
        folders = [work / f"peer{k + 1}" for k in range(options.peers)]
        for k, folder in enumerate(folders):
            folder.mkdir()
            if options.data:
                borrow(options.data[k], folder)
            else:
                make_file(folder / f"file{k + 1}.bin", options.size)
        return work, folders
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def md5_of(paths):
    """The MD5 of each, as the system's own tool computes it: md5sum, or md5 on macOS."""
    tool = ["md5sum", "--zero", "--"] if shutil.which("md5sum") else ["md5", "-q"]
    output = subprocess.run([*tool, *paths], capture_output=True, check=True).stdout
    return [record[:32].decode() for record in output.split(b"\0" if tool[0] == "md5sum" else b"\n") if record]


def md5sums(folder):
    """name -> MD5."""
    files = list(files_below(folder))
    sums = {}
    for start in range(0, len(files), 256):
        batch = files[start : start + 256]
        sums.update(zip([name for name, _ in batch], md5_of([path for _, path in batch])))
    return sums


def verifying_rate():
    """Bytes a second that one core verifies with SHA-256 and MD5: what every fetched byte has to go through."""
    data = bytes(16 << 20)
    best = 0.0
    for _ in range(3):
        start = time.perf_counter()
        hashlib.sha256(data).digest()
        hashlib.md5(data).digest()
        best = max(best, len(data) / (time.perf_counter() - start))
    return best


# ---- the processes --------------------------------------------------------------------------------------


class Process:
    """A process of ours: its lines are read by a thread, its stderr goes to a file."""

    def __init__(self, name, command, work, environment, on_line):
        self.name = name
        self.errors = work / f"{name}.stderr"
        self.lines = []
        with open(self.errors, "wb") as errors:
            # Its own session: an interrupt from the terminal reaches it through us, once.
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=environment, start_new_session=True
            )
        self.reader = threading.Thread(target=self.read, args=(on_line,), daemon=True)
        self.reader.start()

    def read(self, on_line):
        for raw in self.process.stdout:
            line = raw.decode("utf-8", "replace").rstrip("\n")
            self.lines.append(line)
            on_line(self, line)

    def exit_code(self):
        return self.process.poll()

    def complaint(self):
        lines = self.errors.read_text("utf-8", "replace").split("\n")
        return next((l for l in reversed(lines) if l.strip()), "it said nothing")

    def stop(self):
        """A clean stop first; then by force."""
        for signal_number, patience in ((signal.SIGINT, 3), (signal.SIGKILL, 3)):
            if self.process.poll() is None:
                self.process.send_signal(signal_number)
                try:
                    self.process.wait(patience)
                except subprocess.TimeoutExpired:
                    continue
        self.reader.join(1)


def environment_for(work):
    """The user's own configuration and SHOAL_ variables would make another demo of it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SHOAL_")}
    for kind in ("CONFIG", "STATE", "CACHE", "DATA"):
        folder = work / "xdg" / kind.lower()
        folder.mkdir(parents=True, exist_ok=True)
        environment[f"XDG_{kind}_HOME"] = str(folder)
    return environment


class Swarm:
    def __init__(self, options, work, folders):
        self.options, self.work, self.folders = options, work, folders
        self.environment = environment_for(work)
        self.address = None
        self.is_listening = threading.Event()
        self.results = {}
        self.tracker, self.peers = None, []

    def start(self):
        count = str(len(self.folders))
        program = self.options.bin / "shoal-tracker"
        command = [program, "--listen", "127.0.0.1:0", "--expect", count]
        self.tracker = Process("tracker", command, self.work, self.environment, self.on_tracker_line)
        self.wait_for_address()
        for folder in self.folders:
            command = [self.options.bin / "shoal-peer", "swarm", folder, "--tracker", self.address, "--expect", count]
            command += ["--id", folder.name, "--json", "--log", self.work / f"{folder.name}.log"]
            self.peers.append(Process(folder.name, command, self.work, self.environment, self.on_peer_line))

    def wait_for_address(self):
        for _ in range(200):
            if self.is_listening.wait(0.05):
                return
            if self.tracker.exit_code() is not None:
                break
        raise Failed(f"the tracker did not start: {self.tracker.complaint()}")

    def on_tracker_line(self, _, line):
        match = LISTENING.match(line)
        if match and self.address is None:
            self.address = match[1]
            self.is_listening.set()

    def on_peer_line(self, peer, line):
        try:
            event = json.loads(line)
        except ValueError:
            return
        if isinstance(event, dict) and event.get("event") == "result":
            self.results[peer.name] = event

    def processes(self):
        return [p for p in [*self.peers, self.tracker] if p is not None]

    def failure(self):
        for process in self.processes():
            if process.exit_code() not in (None, 0):
                return f"{process.name} ended with {process.exit_code()}: {process.complaint()}"
        return None

    def is_over(self):
        return all(p.exit_code() is not None for p in self.peers)

    def finish(self):
        """The tracker ends by itself when all are complete."""
        try:
            self.tracker.process.wait(15)
        except subprocess.TimeoutExpired:
            raise Failed("all peers are done, but the tracker did not end") from None
        for process in self.processes():
            process.reader.join(5)
        if self.failure():
            raise Failed(self.failure())

    def stop(self):
        with concurrent.futures.ThreadPoolExecutor(max(1, len(self.processes()))) as pool:
            list(pool.map(Process.stop, self.processes()))


# ---- what a person sees ---------------------------------------------------------------------------------


class Progress:
    """A line that is drawn in place on a terminal; elsewhere a plain line every few seconds."""

    def __init__(self, folders):
        self.folders = folders
        self.begin = [bytes_below(f) for f in folders]
        self.goal = sum(self.begin)
        self.is_terminal = sys.stderr.isatty()
        self.last = None
        self.start = time.monotonic()
        self.drawn_at = 0.0

    def draw(self, is_last=False):
        now = time.monotonic()
        if not is_last and now - self.drawn_at < (0.2 if self.is_terminal else 3.0):
            return
        have = [min(bytes_below(f), self.goal) for f in self.folders]
        fetched, wanted = sum(have) - self.goal, self.goal * (len(have) - 1)
        rate = 0.0
        if self.last and now > self.last[0]:
            rate = max(0.0, (fetched - self.last[1]) / (now - self.last[0]))
        self.last = (now, fetched)
        self.drawn_at = time.monotonic()
        self.print(have, fetched, wanted, rate, now - self.start)

    def print(self, have, fetched, wanted, rate, seconds):
        shares = [100 * (h - b) / (self.goal - b) if self.goal > b else 100 for h, b in zip(have, self.begin)]
        text = f"{seconds:6.1f} s  {format_size(fetched)} of {format_size(wanted)}  {format_size(rate)}/s  " + " ".join(f"{s:.0f}%" for s in shares[:16])
        if self.is_terminal:
            width = shutil.get_terminal_size().columns
            sys.stderr.write("\r\x1b[2K" + text[: width - 1])
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def end(self):
        self.draw(is_last=True)
        if self.is_terminal:
            sys.stderr.write("\n")


def tell_times(swarm, fetched):
    results = list(swarm.results.values())
    told = [l for l in swarm.tracker.lines if "swarm time" in l.lower()]
    match = re.search(r"([\d.]+) s\b", told[-1]) if told else None
    if not match:
        raise Failed("the tracker did not tell the total swarm time")
    print(told[-1])
    percents = [r["percent_of_bound"] for r in results if isinstance(r.get("percent_of_bound"), (int, float)) and r["percent_of_bound"] > 0]
    if percents:
        print(f"percent of the bound: {min(percents):.0f} %")
        return
    # No link has a rate here, so what bounds the run is the machine: each fetched byte is hashed twice, on all cores.
    cores = os.cpu_count() or 1
    bound = fetched / (verifying_rate() * cores)
    percent = 100 * bound / max(float(match[1]), 1e-3)
    print(f"percent of the bound: {percent:.0f} % (SHA-256 and MD5 of {format_size(fetched)} alone take {bound:.2f} s on {cores} cores)")


def confirm(folders, origins):
    """Every file of every origin is on every peer, with the MD5 that it had before the run. Where two peers offered one name with
    different contents, a peer holds the other's under another name: there the content counts."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 2) as pool:
        found = list(pool.map(md5sums, folders))
    digests = {}
    for origin in origins:
        for name, digest in origin.items():
            digests.setdefault(name, set()).add(digest)
    wrong, shown, total = 0, 0, 0
    for name in sorted(digests):
        for digest in sorted(digests[name]):
            is_disputed = len(digests[name]) > 1
            good = sum(f.get(name) == digest or (is_disputed and digest in f.values()) for f in found)
            wrong += good != len(folders)
            total += 1
            if good != len(folders) or shown < FILES_SHOWN:
                shown += 1
                print(f"{digest}  {name}  {'confirmed' if good == len(folders) else 'WRONG'} on {good} of {len(folders)} peers")
    if total > shown:
        print(f"... and {total - shown} more files, confirmed on {len(folders)} of {len(folders)} peers")
    if wrong:
        raise Failed(f"{wrong} of {total} files are not right on every peer")


# ---- the demo -------------------------------------------------------------------------------------------


def run(options, work, folders):
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 2) as pool:
        origins = list(pool.map(md5sums, folders))
    total = sum(bytes_below(f) for f in folders)
    print(f"{len(folders)} peers, {sum(map(len, origins))} files, {format_size(total)} that everyone shall have; folders in {work}", flush=True)
    swarm = Swarm(options, work, folders)
    progress = Progress(folders)
    try:
        swarm.start()
        while not swarm.is_over():
            if swarm.failure():
                raise Failed(swarm.failure())
            progress.draw()
            time.sleep(0.05)
        swarm.finish()
        progress.end()
    finally:
        swarm.stop()
    tell_times(swarm, total * (len(folders) - 1))
    confirm(folders, origins)


def parse_options():
    parser = argparse.ArgumentParser(prog="scripts/demo")
    parser.add_argument("--peers", type=int, metavar="N", help="how many peers; 4")
    parser.add_argument("--size", type=parse_size, default=128 << 20, metavar="S", help="of each peer's file; 128M")
    parser.add_argument("--data", type=pathlib.Path, nargs="+", metavar="DIR", help="a peer for each folder, instead of made-up files")
    parser.add_argument("--keep", action="store_true", help="leave the folders and logs")
    parser.add_argument("--bin", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for folder in options.data or []:
        if not folder.is_dir():
            parser.error(f"{folder} is no folder")
    if options.data and options.peers not in (None, len(options.data)):
        parser.error("--data makes a peer for each folder; leave --peers out")
    options.peers = len(options.data) if options.data else options.peers or 4
    if not 2 <= options.peers <= 64:
        parser.error("2 to 64 peers")
    return options


def stop_on_signal(number, _):
    raise KeyboardInterrupt(number)


def main():
    options = parse_options()
    signal.signal(signal.SIGTERM, stop_on_signal)
    signal.signal(signal.SIGHUP, stop_on_signal)
    work = None
    try:
        work, folders = prepare(options)
        run(options, work, folders)
        return 0
    except KeyboardInterrupt:
        print("\ndemo: interrupted", file=sys.stderr)
        return 7
    except (Failed, OSError) as failure:
        print(f"demo: {failure}", file=sys.stderr)
        return 1
    finally:
        if work and options.keep:
            print(f"kept: {work}")
        elif work:
            shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
