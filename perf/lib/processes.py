"""Processes with a deadline and a clean end, and what they cost: user and system seconds, and peak memory.

Nothing outlives a script: each process has a session of its own, which is killed when its time is up or the script ends, for whatever reason.

What a side costs is what all of its processes cost, those that they started in turn included (nginx's workers, rsync's receivers). The system tells
the seconds of a process with its end, and of those that go on at any time. Peak memory is the resident one, with shared pages counted in each; it is
looked at 20 times a second, as the figure that comes with the end of a process has what its parent had at its start, if that was more.
"""

import contextlib
import dataclasses
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import threading
import time

MIB = 1 << 20


class Failed(Exception):
    """What ends a measurement, as the one line that a person is told."""


# ---- what the system knows of a process -----------------------------------------------------------------


def tree_of(pid):
    """The process and its living descendants. Only /proc tells; elsewhere it is the process alone."""
    found = [pid]
    for each in found:
        with contextlib.suppress(OSError):
            found += [int(child) for child in pathlib.Path(f"/proc/{each}/task/{each}/children").read_text().split()]
    return found


def live_seconds(pid):
    """User and system seconds so far, of the process and of the children that it has waited for. The name may have any characters."""
    with contextlib.suppress(OSError, IndexError):
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return sum(int(each) for each in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    return 0.0


def live_peak(pid):
    """The most memory that it had so far, in bytes."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", errors="replace") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def rusage_peak(usage):
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Sampler:
    """Looks at the memory of all processes that run, on a thread of its own."""

    PERIOD = 0.05

    def __init__(self):
        self.watched, self.thread = set(), None

    def watch(self, process):
        self.watched.add(process)
        if self.thread is None and sys.platform == "linux":
            self.thread = threading.Thread(target=self.look, daemon=True)
            self.thread.start()

    def look(self):
        while True:
            for process in list(self.watched):
                process.note_peaks()
            time.sleep(self.PERIOD)


SAMPLER = Sampler()


# ---- processes ------------------------------------------------------------------------------------------


class Process:
    """A process in a session of its own; its output goes to files. It is killed when the block that made it ends."""

    def __init__(self, command, output, environment=None):
        self.command = [str(each) for each in command]
        self.output = output
        self.errors = output.with_name(output.name + ".stderr")
        self.peaks, self.seconds, self.lock = {}, 0.0, threading.Lock()
        self.inherited_peak = live_peak(os.getpid())
        with open(output, "wb") as out, open(self.errors, "wb") as errors:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, env=environment, start_new_session=True
            )
        self.pid = self.process.pid
        self.started = time.monotonic()
        SAMPLER.watch(self)

    def exit_code(self):
        """None while it runs. Its end is seen here only: whoever else waited for it would lose what it cost."""
        with self.lock:
            if self.process.returncode is None:
                pid, status, usage = os.wait4(self.pid, os.WNOHANG)
                if pid:
                    self.process.returncode = os.waitstatus_to_exitcode(status)
                    self.note_end(usage)
            return self.process.returncode

    def note_end(self, usage):
        SAMPLER.watched.discard(self)
        self.seconds = max(self.seconds, usage.ru_utime + usage.ru_stime)
        peak = rusage_peak(usage)
        if len(self.peaks) <= 1 and peak > self.inherited_peak:
            self.peaks[self.pid] = max(peak, self.peaks.get(self.pid, 0))

    def note_peaks(self):
        with self.lock:
            if self.process.returncode is None:
                for pid in tree_of(self.pid):
                    self.peaks[pid] = max(self.peaks.get(pid, 0), live_peak(pid))

    def forget_dead(self):
        """The peaks of those descendants that are gone."""
        with self.lock:
            alive = tree_of(self.pid)
            self.peaks = {pid: peak for pid, peak in self.peaks.items() if pid in alive}

    def cpu_seconds(self):
        """User and system seconds of it and its descendants, until now or its end."""
        if self.exit_code() is None:
            self.seconds = max(self.seconds, sum(live_seconds(pid) for pid in tree_of(self.pid)))
        return self.seconds

    def text(self):
        return self.output.read_text("utf-8", "replace")

    def complaint(self):
        lines = [line for line in self.errors.read_text("utf-8", "replace").splitlines() if line.strip()]
        return lines[-1] if lines else "it said nothing"

    def ends_within(self, limit):
        deadline = time.monotonic() + limit
        while self.exit_code() is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True

    def kill(self):
        """What its descendants cost, which nobody waits for, is noted before."""
        if self.exit_code() is None:
            self.note_peaks()
            self.cpu_seconds()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.ends_within(10)

    def interrupt(self, patience=5):
        """A clean stop first; then by force. True if it was clean."""
        if self.exit_code() is None:
            os.kill(self.pid, signal.SIGINT)
        is_clean = self.ends_within(patience)
        self.kill()
        return is_clean

    def wait(self, limit, what=None):
        """Its exit code must be 0 within the limit."""
        if not self.ends_within(limit):
            self.kill()
            raise Failed(f"{what or self.command[0]} was not done after {limit:.0f} s")
        if self.exit_code() != 0:
            raise Failed(f"{what or self.command[0]} ended with {self.exit_code()}: {self.complaint()}")


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


# ---- what a side costs ----------------------------------------------------------------------------------

COST_HEADER = ["CPU (s)", "CPU (s/GB)", "largest peak (MiB)", "peaks together (MiB)"]


@dataclasses.dataclass
class Cost:
    """User and system seconds of all processes of a side, the peak of the largest of them, and the sum of their peaks, in bytes."""

    seconds: float
    largest: int
    together: int

    def __add__(self, other):
        return Cost(self.seconds + other.seconds, max(self.largest, other.largest), self.together + other.together)

    def per_gb(self, received):
        """None where so little came that what a process costs at all would be all that it says."""
        return self.seconds / (received / 1e9) if received and received >= MIB else None

    def cells(self, received=None):
        """As COST_HEADER has them. `received`: bytes that arrived as files, at all receivers."""
        per_gb = self.per_gb(received)
        return [f"{self.seconds:.2f}", "-" if per_gb is None else f"{per_gb:.2f}", f"{self.largest / MIB:.1f}", f"{self.together / MIB:.1f}"]

    def words(self, received=None):
        per_gb = self.per_gb(received)
        rate = "" if per_gb is None else f" ({per_gb:.2f} s/GB)"
        return f"CPU {self.seconds:.2f} s{rate}, peak memory {self.largest / MIB:.0f} MiB, together {self.together / MIB:.0f} MiB"


class Meter:
    """What a side costs from now on; those of its processes that run already may have cost something before. A peak is that of a process's life,
    of processes that lived at this time."""

    def __init__(self, running=()):
        for process in running:
            process.forget_dead()
        self.before = {process: process.cpu_seconds() for process in running}

    def cost(self, started=()):
        """Of those that ran and those that were started since, whether they have ended or not."""
        everyone = list(dict.fromkeys([*self.before, *started]))
        for process in everyone:
            process.note_peaks()
        seconds = sum(process.cpu_seconds() - self.before.get(process, 0.0) for process in everyone)
        peaks = [peak for process in everyone for peak in process.peaks.values()]
        return Cost(seconds, max(peaks, default=0), sum(peaks))


def median_cost(costs):
    """Of each figure on its own."""
    figures = zip(*(dataclasses.astuple(cost) for cost in costs))
    return Cost(*(statistics.median(each) for each in figures))
