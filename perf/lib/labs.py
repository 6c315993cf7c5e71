"""Where the hosts of a measurement are: on this machine, on links of a given rate next to each other, or far from each other."""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import re
import time

from processes import Failed, Process, run, wait_for

PERF = pathlib.Path(__file__).resolve().parent.parent
ROOT = PERF.parent


def is_root():
    return os.geteuid() == 0


def parse_rate(text):
    """Bytes a second, of a rate as tc writes it: 100mbit, 1gbit."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]?)bit", text.lower())
    if not match:
        raise Failed(f"'{text}' is not a rate; write it as tc does, such as 100mbit")
    return float(match[1]) * 1000 ** " kmg".index(match[2] or " ") / 8


def parse_time(text):
    """Seconds, of 25ms or 0.1s."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms|s)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' is not a time; write a number with us, ms or s, such as 25ms")
    return float(match[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[match[2]]


def parse_loss(text):
    """A share from 0 to 1, of 0.1% or 0.1."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)%?", text)
    if not match or float(match[1]) >= 100:
        raise argparse.ArgumentTypeError(f"'{text}' is not a percentage below 100, such as 0.1%")
    return float(match[1]) / 100


@dataclasses.dataclass
class Distance:
    """How far hosts are from each other: seconds one way, the share of packets that is lost, how long one may wait for a line, and by which congestion
    control they send where nobody says otherwise (None: as this machine)."""

    delay: float = 0.0
    loss: float = 0.0
    queue: float = 0.05
    congestion: str | None = None

    def flags(self):
        return ["--delay", f"{self.delay * 1e6:.0f}us", "--loss", f"{self.loss * 100:.9f}%", "--queue", f"{self.queue * 1e6:.0f}us"]

    def bound(self, seconds):
        """The least time of what takes so many seconds next door: a line carries what is lost as well, a connection takes a round trip, and the last
        byte is on its way for the delay."""
        return seconds / (1 - self.loss) + 3 * self.delay

    def words(self):
        loss = f", {self.loss * 100:g} % of packets lost" if self.loss else ""
        return f"round trip {2000 * self.delay:g} ms{loss}, queues of {1000 * self.queue:g} ms"


def distance_options(parser):
    parser.add_argument("--delay", type=parse_time, metavar="D", help="of a packet, one way, such as 25ms: hosts that are far from each other")
    parser.add_argument("--loss", type=parse_loss, metavar="P", help="of packets on their way, such as 0.1%%")
    parser.add_argument("--queue", type=parse_time, metavar="D", help="how long a packet waits at most for a line, in a far lab; 50ms")
    congestion_option(parser)


def congestion_option(parser):
    parser.add_argument("--host-congestion", dest="congestion", metavar="NAME", help="congestion control of far hosts, such as cubic; that of this machine")


def distance_of(options):
    """None where nothing was said of it."""
    said = {name: getattr(options, name) for name in ("delay", "loss", "queue", "congestion") if getattr(options, name) is not None}
    return Distance(**said) if said else None


class Loopback:
    """All hosts are this one."""

    rate = distance = None

    def enter(self, host):
        return []

    def address(self, host):
        return "127.0.0.1"

    tracker_address = "127.0.0.1"

    def enter_tracker(self):
        return []

    def flags(self):
        return []

    def forget_connections(self):
        """Of earlier runs."""

    def notes(self):
        """What is to be said of the lab beside the results."""
        return []


class Lab:
    """Hosts 0…n-1 in network namespaces, each with links of one rate; the tracker stands at the switch, unshaped."""

    tracker_address = "10.77.0.254"
    distance = None

    def __init__(self, name, count, rate):
        self.name, self.count, self.rate = name, count, rate

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

    def forget_connections(self):
        """The system remembers how connections to a host went, for the next ones: each run begins without what the run before it has learnt."""
        for host in range(self.count):
            run(["ip", "-n", f"{self.name}-{host + 1}", "tcp_metrics", "flush"], 10)

    def notes(self):
        return []


class FarLab(Lab):
    """The same, far from each other; a process carries their packets."""

    def __init__(self, name, count, rate, distance, process):
        super().__init__(name, count, rate)
        self.distance, self.process = distance, process
        if distance.congestion:
            self.set_congestion(distance.congestion)

    def set_congestion(self, congestion):
        try:
            for space in (*range(1, self.count + 1), "switch"):
                run(["ip", "netns", "exec", f"{self.name}-{space}", "sysctl", "-w", f"net.ipv4.tcp_congestion_control={congestion}"], 10)
        except Failed:
            allowed = self.setting("tcp_allowed_congestion_control")
            raise Failed(f"hosts cannot send by {congestion}: this machine allows them {allowed} (sysctl net.ipv4.tcp_allowed_congestion_control)") from None

    def setting(self, name):
        return " ".join(run([*self.enter(0), "sysctl", "-n", f"net.ipv4.{name}"], 10).split())

    def notes(self):
        seconds = time.monotonic() - self.process.started
        tcp = f"{self.setting('tcp_congestion_control')}, tcp_rmem {self.setting('tcp_rmem')}, tcp_wmem {self.setting('tcp_wmem')}"
        return [f"the lab: {self.distance.words()}; TCP: {tcp}; to carry the packets took {self.process.cpu_seconds():.1f} s of a processor in {seconds:.0f} s"]


def far_link(programs):
    """Where the program is that carries packets: beside those that are measured, or where it is built."""
    for folder in (programs, ROOT / "build/linux-release/bin"):
        if (folder / "far_link").exists():
            return folder / "far_link"
    raise Failed("no far_link in build/linux-release/bin; build it: ninja -C build/linux-release far_link")


@contextlib.contextmanager
def lab(count, rate, distance=None, programs=ROOT, work=None):
    """The hosts for a measurement: shaped where there is a rate, far where there is a distance, else this machine itself. A far lab has a file in
    `work`."""
    if rate is None:
        if distance:
            raise Failed("hosts that are far from each other have a --rate, too")
        yield Loopback()
        return
    parse_rate(rate)
    if not is_root():
        raise Failed("--rate makes network namespaces, which needs root; leave it out to run on loopback")
    name = f"shoalperf{os.getpid()}"
    with far_lab(name, count, rate, distance, programs, work) if distance else near_lab(name, count, rate) as place:
        yield place


@contextlib.contextmanager
def near_lab(name, count, rate):
    try:
        run([PERF / "netlab", "up", name, count, rate], 60 + 2 * count)
        yield Lab(name, count, rate)
    finally:
        run([PERF / "netlab", "down", name], 60 + 2 * count)


@contextlib.contextmanager
def far_lab(name, count, rate, distance, programs, work):
    environment = {**os.environ, "FAR_LINK": str(far_link(programs))}
    process = None
    try:
        process = Process([PERF / "netlab", "up", name, count, rate, *distance.flags()], work / "far_link.out", environment)
        wait_for(lambda: "ready\n" in process.text(), 60 + 2 * count, "the far lab", [process])
        yield FarLab(name, count, rate, distance, process)
    finally:
        if process:
            process.interrupt(30)
        run([PERF / "netlab", "down", name], 60 + 2 * count)
