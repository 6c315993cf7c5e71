"""Two hosts that are far from each other: network namespaces with a TUN device each, and this process as the line between them."""

import collections
import fcntl
import os
import select
import struct
import subprocess
import threading
import time

from machines import remove_left

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


def why_not():
    """Why there can be none here; None where there can."""
    if os.geteuid() != 0:
        return "network namespaces take root"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "there is no /dev/net/tun"
    name = f"shoal-try-{os.getpid()}"
    try:
        made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return "there is no command 'ip'"
    if made:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return None if made else "network namespaces cannot be made"


class FarLink:
    """`hosts` are names of namespaces of this object's own, with the addresses 10.91.0.1 and 10.91.0.2, `one_way` seconds apart."""

    def __init__(self, one_way):
        self.one_way = one_way
        self.hosts = [f"shoal-{os.getpid()}-{end}" for end in "ab"]
        self.addresses = ["10.91.0.1", "10.91.0.2"]
        self.tuns = []
        self.is_over = False
        remove_left()
        try:
            for number, host in enumerate(self.hosts):
                self.add(host, f"shtun{os.getpid() % 100000}{'ab'[number]}", self.addresses[number])
        except Exception:
            self.close()
            raise
        self.thread = threading.Thread(target=self.carry, daemon=True)
        self.thread.start()

    def add(self, host, device, address):
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        self.tuns.append(tun)
        fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH", device.encode(), IFF_TUN | IFF_NO_PI))
        for command in (f"netns add {host}", f"link set {device} netns {host}", f"-n {host} addr add {address}/24 dev {device}",
                        f"-n {host} link set {device} up", f"-n {host} link set lo up"):
            subprocess.run(["ip", *command.split()], check=True, capture_output=True)

    def carry(self):
        """Each packet is handed on when its time has come. Both ways take equally long, so the oldest is due first."""
        under_way = collections.deque()
        while not self.is_over:
            wait = 0.1 if not under_way else max(0.0, under_way[0][0] - time.monotonic())
            for tun in select.select(self.tuns, [], [], wait)[0]:
                other = self.tuns[1 - self.tuns.index(tun)]
                try:
                    while True:
                        under_way.append((time.monotonic() + self.one_way, other, os.read(tun, 65536)))
                except BlockingIOError:
                    pass
            while under_way and under_way[0][0] <= time.monotonic():
                _, tun, packet = under_way.popleft()
                try:
                    os.write(tun, packet)
                except OSError:
                    pass  # lost, as packets are

    def on(self, number):
        """What stands before a command to run it there."""
        return ["ip", "netns", "exec", self.hosts[number]]

    def close(self):
        self.is_over = True
        if getattr(self, "thread", None):
            self.thread.join()
        for tun in self.tuns:
            os.close(tun)
        for host in self.hosts:
            subprocess.run(["ip", "netns", "del", host], capture_output=True, check=False)
