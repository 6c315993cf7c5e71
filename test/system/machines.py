"""Three machines on a switch, as network namespaces of this one: rack1 to rack3, 10.77.0.1 to 10.77.0.3 and fd77::1 to fd77::3.

They bear the number of this process in their names, so that labs side by side do not meet, and go with the lab that made them, or, where that was killed, when the next one begins. Each has a home
and a working folder of its own. Needs root.
"""

import itertools
import os
import pathlib
import re
import shutil
import subprocess
import unittest

from swarm_lab import SystemTest, Tracker, binary, wait_until

NAMES = ("rack1", "rack2", "rack3")
NUMBERS = itertools.count()


def why_not():
    """What keeps us from making machines here; nothing where nothing does."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not shutil.which("ip"):
        return "there is no ip (iproute2) here"
    name = f"shoal{os.getpid()}-try"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode != 0:
        return "network namespaces cannot be made here"
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return None


def remove_left():
    """Removes the namespaces of labs whose process was killed, by the number in their names."""
    folder = pathlib.Path("/run/netns")
    for space in folder.iterdir() if folder.is_dir() else ():
        owner = re.match(r"shoal-?(\d+)-", space.name) or re.match(r"shoal-try-(\d+)$", space.name)
        if owner and not os.path.exists(f"/proc/{owner[1]}"):
            subprocess.run(["ip", "netns", "del", space.name], capture_output=True, timeout=30)


def ip(*arguments):
    subprocess.run(["ip", *map(str, arguments)], check=True, capture_output=True, timeout=30)


class Machines:
    """On a lab, in whose folder theirs are. What runs on them is the lab's, and ends with it."""

    def __init__(self, lab, interfaces=("eth0", "eth0", "eth0")):
        self.lab = lab
        self.prefix = f"shoal{os.getpid()}-{next(NUMBERS)}"
        self.made = []
        lab.at_end.append(self.remove)
        self.add("switch")
        ip("-n", self.space("switch"), "link", "add", "br0", "type", "bridge")
        ip("-n", self.space("switch"), "link", "set", "br0", "up")
        self.hosts = lab.path("hosts")
        lab.write(self.hosts, "".join([f"10.77.0.{i} rack{i}\nfd77::{i} rack{i}-v6\n" for i in (1, 2, 3)] + ["127.0.0.1 localhost\n"]).encode())
        for number, name in enumerate(NAMES, 1):
            self.add(name)
            self.plug(name, number, interfaces[number - 1])
            os.makedirs(self.folder(name))
        wait_until(self.has_addresses, "addresses of the machines")

    def space(self, name):
        return f"{self.prefix}-{name}"

    def add(self, name):
        ip("netns", "add", self.space(name))
        self.made.append(self.space(name))
        ip("-n", self.space(name), "link", "set", "lo", "up")

    def plug(self, name, number, interface):
        end = f"p{number}"  # names within the two namespaces: they are made there, and meet no others
        ip("-n", self.space(name), "link", "add", interface, "type", "veth", "peer", "name", end, "netns", self.space("switch"))
        ip("-n", self.space("switch"), "link", "set", end, "master", "br0", "up")
        ip("-n", self.space(name), "addr", "add", f"10.77.0.{number}/24", "dev", interface)
        ip("-n", self.space(name), "-6", "addr", "add", f"fd77::{number}/64", "dev", interface, "nodad")
        ip("-n", self.space(name), "link", "set", interface, "up")

    def has_addresses(self):
        """They are ready once none of their link-local ones is being tried out any more."""
        shown = lambda name: subprocess.run(["ip", "-n", self.space(name), "-6", "addr", "show", "scope", "link"], capture_output=True, text=True).stdout
        return all("fe80" in text and "tentative" not in text for text in map(shown, NAMES))

    def link_local(self, name):
        shown = subprocess.run(["ip", "-n", self.space(name), "-6", "addr", "show", "scope", "link"], capture_output=True, text=True).stdout
        return shown.split("inet6 ")[1].split("/")[0]

    def remove(self):
        for space in reversed(self.made):
            subprocess.run(["ip", "netns", "del", space], capture_output=True, timeout=30)

    # ---- what runs on them

    def folder(self, name):
        return self.lab.path("machines", name)

    def on(self, name, *command):
        """`command`, for that machine: in its network, with its names of hosts."""
        enter = 'mount --bind "$1" /etc/hosts && shift && exec "$@"'
        return ["ip", "netns", "exec", self.space(name), "sh", "-c", enter, "sh", self.hosts, *command]

    def options(self, name):
        home = self.folder(name)
        env = {"HOME": home, **{f"XDG_{kind}_HOME": os.path.join(home, f".{kind.lower()}") for kind in ("CACHE", "CONFIG", "STATE", "DATA")}}
        return {"env": env, "cwd": home}

    def tracker(self, name, *arguments, **options):
        command = [binary("shoal-tracker"), *arguments, "--state", ":memory:", "--json"]
        return self.lab.start(f"tracker-{name}", self.on(name, *command), Tracker, **{**self.options(name), **options})

    def peer(self, name, command, *arguments, json=True, **options):
        line = [binary("shoal-peer"), command, *arguments] + (["--json"] if json else [])
        return self.lab.start(f"{command}-{name}", self.on(name, *line), **{**self.options(name), **options})

    def write(self, name, file, content):
        self.lab.write(os.path.join(self.folder(name), file), content)

    def listens_at(self, name):
        """The addresses and ports that something listens at there, by TCP."""
        shown = subprocess.run(self.on(name, "cat", "/proc/net/tcp", "/proc/net/tcp6"), capture_output=True, text=True, check=True).stdout
        rows = [line.split() for line in shown.splitlines() if line.split()[0] != "sl"]
        return [row[1].split(":")[0] for row in rows if row[3] == "0A"]


class MachinesTest(SystemTest):
    interfaces = ("eth0", "eth0", "eth0")

    @classmethod
    def setUpClass(cls):
        if why := why_not():
            raise unittest.SkipTest(why)
        remove_left()

    def setUp(self):
        super().setUp()
        self.machines = Machines(self.lab, self.interfaces)
