"""How peers on several machines find each other: who listens where, what others are told of it, and who connects to whom."""

import os
import subprocess
import unittest

from machines import MachinesTest, remove_left, why_not
from swarm_lab import CHUNK, PATIENCE, SLOWNESS, binary, random_bytes, tree


class Addresses(MachinesTest):
    """Everybody is told addresses that are good where it is."""

    def share(self, name, *arguments, **options):
        content = {f"from-{name}": random_bytes(CHUNK + 5, name)}
        for file, data in content.items():
            self.machines.write(name, f"given/{file}", data)
        share = self.machines.peer(name, "share", "given", *arguments, **options)
        share.wait_for("registered")
        self.machines_tracker.wait_for("registered")
        return share

    def tracker(self, *arguments):
        self.machines_tracker = self.machines.tracker("rack1", *arguments)
        self.machines_tracker.wait_for("listening")
        return self.machines_tracker

    def expect_to_get(self, name, what, *arguments, seconds=PATIENCE):
        get = self.machines.peer(name, "get", what, "-o", "got", *arguments)
        self.expect_exit(0, get, seconds=seconds)
        self.assertIn(what, tree(os.path.join(self.machines.folder(name), "got")))
        self.assertEqual(get.warnings(), [])
        return get

    def test_what_is_shared_on_the_trackers_machine_is_got_on_others_and_there(self):
        self.tracker("--listen", "0.0.0.0:5555", "--insecure")
        self.share("rack1", "--listen", "0.0.0.0:0", "--insecure")
        self.expect_to_get("rack2", "from-rack1", "--tracker", "rack1:5555", "--insecure", seconds=10 * SLOWNESS)
        self.expect_to_get("rack3", "from-rack1", "--tracker", "10.77.0.1:5555", "--listen", "0.0.0.0:0", "--insecure", seconds=10 * SLOWNESS)
        self.expect_to_get("rack1", "from-rack1", seconds=10 * SLOWNESS)

    def test_find_names_addresses_that_are_good_where_it_is_asked(self):
        self.tracker("--listen", "0.0.0.0:5555", "--insecure")
        self.share("rack1", "--listen", "0.0.0.0:7001", "--insecure")
        for name, tracker, address in (("rack2", "rack1:5555", "10.77.0.1:7001"), ("rack1", "127.0.0.1:5555", "127.0.0.1:7001")):
            find = self.machines.peer(name, "find", "from-rack1", "--tracker", tracker, "--insecure")
            self.expect_exit(0, find)
            self.assertEqual([event["address"] for event in find.events("source")], [address])
            load = self.machines.peer(name, "load", address, "--insecure")
            self.expect_exit(0, load)

    def test_the_same_over_ipv6(self):
        self.tracker("--listen", "[::]:5555", "--insecure")
        self.share("rack1", "--tracker", "[::1]:5555", "--listen", "[::]:0", "--insecure")
        self.expect_to_get("rack2", "from-rack1", "--tracker", "rack1-v6:5555", "--insecure", seconds=10 * SLOWNESS)
        self.expect_to_get("rack3", "from-rack1", "--tracker", "10.77.0.1:5555", "--insecure", seconds=10 * SLOWNESS)

    def test_a_name_that_means_an_ipv6_address_is_listened_for_as_well(self):
        self.tracker("--listen", "[::]:5555", "--insecure")
        self.share("rack2", "--tracker", "rack1-v6:5555", "--insecure")
        self.expect_to_get("rack3", "from-rack2", "--tracker", "rack1-v6:5555", "--insecure", seconds=10 * SLOWNESS)

    def test_peers_that_came_over_ipv4_and_ipv6_find_each_other(self):
        self.tracker("--listen", "[::]:5555", "--insecure")
        self.share("rack2", "--tracker", "rack1:5555", "--insecure")
        self.share("rack3", "--tracker", "rack1-v6:5555", "--insecure")
        self.expect_to_get("rack3", "from-rack2", "--tracker", "rack1-v6:5555", "--insecure", seconds=10 * SLOWNESS)
        self.expect_to_get("rack2", "from-rack3", "--tracker", "rack1:5555", "--insecure", seconds=10 * SLOWNESS)

    def test_who_listens_on_ipv4_alone_and_came_over_ipv6_connects_by_itself(self):
        self.tracker("--listen", "[::]:5555", "--insecure")
        self.share("rack2", "--tracker", "rack1-v6:5555", "--listen", "0.0.0.0:0", "--insecure")
        self.expect_to_get("rack3", "from-rack2", "--tracker", "rack1:5555", "--insecure", seconds=15 * SLOWNESS)

    def test_a_listen_that_is_given_is_kept(self):
        self.tracker("--listen", "10.77.0.1:5555", "--insecure")
        loopback, everywhere, own = "0100007F", {"00000000", "0" * 32}, "02004D0A"
        for name, listen, expected in (("rack3", ["127.0.0.1:0"], {loopback}), ("rack2", ["10.77.0.2:0"], {own})):
            self.share(name, "--tracker", "rack1:5555", "--listen", *listen, "--insecure")
            self.assertEqual(set(self.machines.listens_at(name)), expected)
        by_variable = self.share("rack3", "--tracker", "rack1:5555", "--insecure", env={**self.machines.options("rack3")["env"], "SHOAL_LISTEN": "127.0.0.1:0"})
        self.assertEqual(set(self.machines.listens_at("rack3")), {loopback})
        by_variable.kill()
        self.share("rack3", "--tracker", "rack1:5555", "--insecure")
        self.assertTrue(everywhere & set(self.machines.listens_at("rack3")))

    def test_clock_peers_bring_each_other_their_tables(self):
        self.tracker("--listen", "0.0.0.0:5555", "--insecure", "-o", "records")
        timing = ["--duration", "1s", "--interval", "50ms", "--insecure"]
        clocks = [self.machines.peer("rack1", "clock", "--listen", "0.0.0.0:0", *timing), self.machines.peer("rack2", "clock", "--tracker", "rack1:5555", *timing)]
        self.expect_exit(0, *clocks)


class OneSide(MachinesTest):
    """Where only one of two can be reached by the other, that one is connected to."""

    def setUp(self):
        super().setUp()
        self.tracker = self.machines.tracker("rack1", "--listen", "10.77.0.1:5555", "--insecure")
        self.tracker.wait_for("listening")

    def peer(self, name, command, *arguments, **options):
        return self.machines.peer(name, command, *arguments, "--tracker", "rack1:5555", "--insecure", **options)

    def share(self, *arguments):
        self.machines.write("rack3", "given/file", random_bytes(3 * CHUNK, "file"))
        share = self.peer("rack3", "share", "given", *arguments)
        self.tracker.wait_for("registered")
        return share

    def expect_got(self, *arguments):
        get = self.peer("rack2", "get", "file", "-o", "got", *arguments)
        self.expect_exit(0, get, seconds=15 * SLOWNESS)
        self.assertEqual(get.warnings(), [])
        self.assertEqual(set(tree(os.path.join(self.machines.folder("rack2"), "got"))), {"file"})

    def test_a_source_that_listens_on_loopback_alone_connects_to_whoever_gets(self):
        self.share("--listen", "127.0.0.1:7001")
        self.expect_got()

    def test_a_source_whose_address_leads_nowhere_connects_to_whoever_gets(self):
        interface = ["ip", "addr", "add", "198.51.100.3/32", "dev", "lo"]
        self.expect_exit(0, self.lab.start("address", self.machines.on("rack3", *interface)))
        self.share("--listen", "198.51.100.3:7001")
        self.expect_got()

    def test_who_gets_need_not_be_reached(self):
        self.share()
        self.expect_got("--listen", "127.0.0.1:0")

    def test_a_source_on_the_trackers_machine_that_listens_on_loopback_connects_as_well(self):
        self.machines.write("rack1", "given/file", random_bytes(CHUNK, "file"))
        self.tracker.kill()
        tracker = self.machines.tracker("rack1", "--listen", "0.0.0.0:5555", "--insecure")
        self.machines.peer("rack1", "share", "given", "--tracker", "127.0.0.1:5555")
        tracker.wait_for("registered")
        self.expect_got()

    def test_a_shell_downloads_from_such_a_source(self):
        self.share("--listen", "127.0.0.1:7001")
        os.makedirs(os.path.join(self.machines.folder("rack2"), "mine"))
        script = 'printf "download file\\nexit\\n" | "$0" shell mine --json --tracker rack1:5555 --insecure'
        shell = self.lab.start("shell", self.machines.on("rack2", "sh", "-c", script, binary("shoal-peer")), **self.machines.options("rack2"))
        self.expect_exit(0, shell, seconds=20 * SLOWNESS)
        self.assertEqual(len(shell.events("downloaded")), 1, shell.describe())

    def test_a_closed_swarm_ends_where_one_of_its_peers_cannot_be_reached(self):
        self.tracker.kill()
        tracker = self.machines.tracker("rack1", "--listen", "0.0.0.0:5555", "--insecure", "--expect", "3")
        peers = []
        for name, options in (("rack1", ["--tracker", "127.0.0.1:5555"]), ("rack2", ["--tracker", "rack1:5555", "--insecure"]),
                              ("rack3", ["--tracker", "rack1:5555", "--insecure", "--listen", "0.0.0.0:0"])):
            self.machines.write(name, f"all/{name}", random_bytes(2 * CHUNK, name))
            peers.append(self.machines.peer(name, "swarm", "all", *options))
        self.expect_exit(0, *peers, tracker)
        self.expect_equal_trees(*[os.path.join(self.machines.folder(name), "all") for name in ("rack1", "rack2", "rack3")])

    def test_where_neither_can_be_reached_one_line_says_so_until_one_can(self):
        share = self.share("--listen", "127.0.0.1:7001", "--id", "hidden")
        get = self.peer("rack2", "get", "file", "-o", "got", "--listen", "127.0.0.1:0")
        get.wait_for("warning", seconds=20 * SLOWNESS)
        self.assertEqual(len(get.warnings()), 1, get.describe())
        for part in ("hidden", "no connection", "--listen"):
            self.assertIn(part, get.warnings()[0])
        share.kill()
        self.share("--id", "hidden")
        self.expect_exit(0, get)


class LinkLocal(MachinesTest):
    """An interface has its own name on each machine."""

    interfaces = ("eth0", "lan7", "wan9")

    def test_link_local_addresses_are_good_whatever_the_interfaces_are_called(self):
        tracker = self.machines.tracker("rack1", "--listen", "[::]:5555", "--insecure")
        tracker.wait_for("listening")
        address = self.machines.link_local("rack1")
        for name, content in (("rack1", b"1"), ("rack2", b"22")):
            self.machines.write(name, f"given/{name}", content)
        self.machines.peer("rack2", "share", "given", "--tracker", f"[{address}%lan7]:5555", "--insecure")
        self.machines.peer("rack1", "share", "given", "--tracker", "[::1]:5555", "--listen", "[::]:0", "--insecure")
        tracker.wait_for("registered", 2)
        get = self.machines.peer("rack3", "get", "rack1", "rack2", "-o", "got", "--tracker", f"[{address}%wan9]:5555", "--insecure")
        self.expect_exit(0, get)
        find = self.machines.peer("rack3", "find", "rack1", "--tracker", f"[{address}%wan9]:5555", "--insecure")
        self.expect_exit(0, find)
        self.assertTrue(find.events("source")[0]["address"].startswith(f"[{address}%wan9]:"), find.describe())


class Left(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if why := why_not():
            raise unittest.SkipTest(why)

    def test_namespaces_of_labs_that_were_killed_go_and_others_stay(self):
        dead = subprocess.Popen(["true"])
        dead.wait(PATIENCE)
        there = lambda: {name for name in names if os.path.exists(f"/run/netns/{name}")}
        left = {f"shoal{dead.pid}-0-rack1", f"shoal-{dead.pid}-a"}
        kept = {f"shoal{os.getpid()}-left-rack1", f"shoalx{dead.pid}-rack1"}
        names = left | kept
        for name in names:
            self.addCleanup(subprocess.run, ["ip", "netns", "del", name], capture_output=True, timeout=PATIENCE)
            subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True, timeout=PATIENCE)
        remove_left()
        self.assertEqual(there(), kept)


if __name__ == "__main__":
    unittest.main()
