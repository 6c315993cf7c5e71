"""The overlay with real processes: a tree that forms by referral, is mended, and is searched; and nodes that do not play by the rules."""

import os
import re
import struct
import unittest

import shoal_wire
from swarm_lab import PATIENCE, SLOWNESS, SystemTest, binary, free_port, random_bytes, wait_until, whole_lines
from test_catalogue import Shell

MENDED = 5.0 * SLOWNESS  # within so many seconds it is one tree again


def links_of(topo):
    """{"s1": ["s2", "s3"], …} of a topo.txt."""
    links = {}
    for line in topo.splitlines():
        name, _, others = line.partition(":")
        links[name] = others.split()
    return links


def problem_of(links, nodes, most=2):
    """Why that is not one tree; empty where it is."""
    if len(links) != nodes:
        return f"{len(links)} nodes"
    if any(len(others) > most for others in links.values()):
        return "too many links"
    if any(name not in links.get(other, []) for name, others in links.items() for other in others):
        return "a link that one side only knows"
    if sum(map(len, links.values())) != 2 * (nodes - 1):
        return "too many links, or too few"
    reached, waiting = set(), [next(iter(links))]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += links[name]
    return "" if len(reached) == nodes else f"{len(reached)} are reached"


class OverlayTest(SystemTest):
    def tracker(self, port=0):
        tracker = self.lab.tracker("--state", ":memory:", "--out", self.lab.path("out"), listen=f"127.0.0.1:{port}")
        self.address = tracker.address
        return tracker

    def shell(self, name, files=None, *arguments, wait=True):
        folder = self.lab.make(name, files or {})
        line = [binary("shoal-peer"), "shell", folder, "--id", name, "--cache", self.lab.path(f"{name}.db"), "--json", "--tracker", self.address, *arguments]
        shell = self.lab.start(name, line, Shell)
        shell.folder = folder
        if wait:
            shell.address = shell.wait_for("ready")["address"]
        return shell

    def share(self, name, files=None, *arguments):
        return self.lab.peer(name, "share", self.lab.make(name, files or {}), *arguments, tracker=self.address)

    def ask(self, name, *arguments, tracker=None):
        """A command of a process of its own, to its end."""
        process = self.lab.start(name, [binary("shoal-peer"), *arguments, "--id", name, "--json", "--tracker", tracker or self.address])
        process.code = process.wait()
        return process

    def topo(self):
        with open(self.lab.path("out", "topo.txt"), encoding="utf-8") as file:
            return file.read()

    def wait_for_tree(self, nodes, most=2, seconds=PATIENCE):
        wait_until(lambda: problem_of(links_of(self.topo()), nodes, most) == "", f"one tree of {nodes}", seconds,
                   lambda: self.topo() + self.lab.describe())

    def line_of_five(self):
        """Five nodes that came one by one: s4, s2, s1, s3, s5 in a line."""
        self.tracker()
        self.shells = []
        for number in range(1, 6):
            files = {"at-one-end": random_bytes(300_000, "end")} if number == 4 else {f"own-{number}": b"%d" % number}
            self.shells.append(self.shell(f"n{number}", files))
            self.wait_for_tree(number)
        return self.shells


class Tree(OverlayTest):
    def test_five_nodes_form_a_line_and_files_are_found_through_it(self):
        shells = self.line_of_five()
        self.assertEqual(self.topo(), "s1:  s2 s3\ns2:  s1 s4\ns3:  s1 s5\ns4:  s2\ns5:  s3\n")
        with open(self.lab.path("out", "NumberOfServers.txt"), encoding="utf-8") as file:
            self.assertEqual(file.read(), "5\n")
        hits = shells[4].of("find at-one-end --via overlay", "hit")
        self.assertEqual([(hit["peer"], hit["hops"], hit["bytes"], hit["address"]) for hit in hits], [("n4", 4, 300_000, shells[3].address)])
        self.assertEqual(shells[4].say("download at-one-end")[1], 0)
        with open(os.path.join(shells[4].folder, "at-one-end"), "rb") as file:
            self.assertEqual(file.read(), random_bytes(300_000, "end"))
        self.assertEqual(shells[1].say("find nowhere --via overlay")[1], 3)
        shells[1].wait_for_line("not found anywhere (5 nodes asked)")
        one_shot = self.ask("asker", "find", "own-5", "--via", "overlay")
        self.assertEqual((one_shot.code, [hit["peer"] for hit in one_shot.events("hit")]), (0, ["n5"]))
        nothing = self.ask("asker", "find", "nowhere", "--via", "overlay")
        self.assertEqual(nothing.code, 3)
        self.assertIn("not found anywhere (5 nodes asked)", nothing.stderr())
        drawn = self.lab.start("drawn", [binary("shoal-peer"), "topo", "--tracker", self.address])
        self.expect_exit(0, drawn)
        self.assertEqual([re.match(r"[|` -]*(s\d)", line)[1] for line in drawn.stdout().splitlines()], ["s1", "s2", "s4", "s3", "s5"])

    def test_a_killed_node_is_noticed_and_the_tree_is_one_again(self):
        shells = self.line_of_five()
        shells[1].kill()  # s2, between s1 and s4, which has the file
        self.wait_for_tree(4, seconds=MENDED)
        hits = shells[4].of("find at-one-end --via overlay", "hit")
        self.assertEqual([hit["peer"] for hit in hits], ["n4"])
        shells[0].kill()  # and the first of all
        self.wait_for_tree(3, seconds=MENDED)
        self.assertEqual([hit["peer"] for hit in shells[4].of("find at-one-end --via overlay", "hit")], ["n4"])

    def test_who_leaves_hands_its_neighbours_over(self):
        shells = self.line_of_five()
        shells[0].tell("stop")
        self.expect_exit(0, shells[0])
        self.wait_for_tree(4, seconds=MENDED)
        shells[2].popen.terminate()
        shells[2].wait()
        self.wait_for_tree(3, seconds=MENDED)
        self.assertEqual([hit["peer"] for hit in shells[4].of("find at-one-end --via overlay", "hit")], ["n4"])
        for shell in (shells[1], shells[3], shells[4]):
            shell.tell("exit")
            shell.wait()
        wait_until(lambda: self.topo() == "", "an empty network")
        empty = self.lab.start("empty", [binary("shoal-peer"), "topo", "--tracker", self.address])
        self.expect_exit(0, empty)
        self.assertEqual(empty.stdout(), "empty network\n")

    def test_without_the_tracker_everything_goes_on(self):
        shells = self.line_of_five()
        self.lab.processes[0].kill()
        wait_until(lambda: shells[4].of("status", "status")[0]["is_registered"] is False, "it notices that the tracker is away")
        self.assertEqual([hit["peer"] for hit in shells[4].of("find at-one-end --via overlay", "hit")], ["n4"])
        events, code = shells[4].say("find at-one-end")
        self.assertEqual((code, [event["peer"] for event in events if event["event"] == "source"]), (0, ["n4"]))
        self.assertEqual(shells[4].say("download at-one-end")[1], 0)
        self.assertEqual(len(shells[0].of("topo", "node")), 5)
        gathered = self.ask("gathered", "topo", "--join", shells[2].address)
        self.assertEqual((gathered.code, len(gathered.events("node"))), (0, 5))
        sixth = self.shell("n6", {"sixth": b"6"}, "--join", shells[3].address, wait=False)
        wait_until(lambda: len(shells[0].of("topo", "node")) == 6, "the sixth node")
        self.assertEqual([hit["peer"] for hit in shells[4].of("find sixth --via overlay", "hit")], ["n6"])
        got = self.ask("getter", "get", "own-5", "-o", self.lab.path("got"), "--join", shells[1].address)
        self.assertEqual(got.code, 0, got.describe())
        with open(self.lab.path("got", "own-5"), "rb") as file:
            self.assertEqual(file.read(), b"5")
        self.assertTrue(sixth.is_running())

    def test_what_was_heard_of_is_asked_when_the_tracker_is_away(self):
        shells = self.line_of_five()
        kept = lambda: whole_lines(self.lab.path("state", "shoal", "nodes"))
        wait_until(lambda: len(kept()) >= 3, "nodes that are kept", 20 * SLOWNESS)
        self.lab.processes[0].kill()
        found = self.ask("asker", "find", "own-5", "--wait", "0")
        self.assertEqual((found.code, [hit["peer"] for hit in found.events("hit")]), (0, ["n5"]), found.describe())
        got = self.ask("getter", "get", "at-one-end", "-o", self.lab.path("got"))
        self.assertEqual(got.code, 0, got.describe())
        self.assertTrue(all(shell.is_running() for shell in shells))

    def test_more_links_make_a_bushy_tree(self):
        self.tracker()
        for number in range(12):
            self.share(f"n{number}", {}, "--max-links", "4")
        self.wait_for_tree(12, 4)
        drawn = self.ask("drawn", "topo")
        self.assertEqual(len(drawn.events("node")), 12)

    def test_who_does_not_want_to_is_no_node(self):
        self.tracker()
        self.share("in")
        self.share("out", {}, "--no-overlay").wait_for("registered")
        self.wait_for_tree(1)
        closed = self.lab.tracker("--expect", "1")
        alone = self.lab.peer("alone", "swarm", self.lab.make("alone"), tracker=closed)
        self.expect_exit(0, alone, closed)


class WithoutTracker(OverlayTest):
    """Peers that a tracker never was there for."""

    def setUp(self):
        super().setUp()
        self.line_of_two()

    def line_of_two(self):
        self.tracker()
        self.one = self.shell("one", {"file": b"content"})
        self.wait_for_tree(1)
        self.lab.processes[0].kill()
        self.address = f"127.0.0.1:{free_port()}"

    def test_a_shell_is_ready_when_it_has_come_in(self):
        two = self.shell("two", {}, "--join", self.one.address)
        events, code = two.say("find file")
        self.assertEqual((code, [event["peer"] for event in events if event["event"] == "source"]), (0, ["one"]))
        self.assertEqual(two.say("find nowhere")[1], 3)
        two.wait_for_line("not found anywhere (2 nodes asked)")
        status = two.of("status", "status")[0]
        self.assertEqual((status["is_registered"], status["overlay"], status["overlay_links"]), (False, "s2", 1))
        two.wait_for_line(f"overlay: this is s2, linked to s1 ({self.one.address}); --join {two.address} brings others in")

    def test_a_share_that_need_not_wait_stays_once_it_is_in(self):
        share = self.share("two", {"other": b"x"}, "--join", self.one.address, "--wait", "0")
        share.wait_for_line("linked to s1")
        hits = self.one.of("find other --via overlay", "hit")
        self.assertEqual([hit["peer"] for hit in hits], ["two"])
        self.assertTrue(share.is_running())
        lost = self.share("lost", {}, "--join", f"127.0.0.1:{free_port()}", "--wait", "0")
        self.expect_exit(6, lost)
        lost.wait_for_line("cannot come in by")

    def test_a_join_that_leads_to_nobody_or_a_tracker_is_said(self):
        tracker = self.lab.tracker("--state", ":memory:")
        for address in (f"127.0.0.1:{free_port()}", tracker.address):
            lost = self.share(f"lost-{address.rpartition(':')[2]}", {}, "--join", address)
            lost.wait_for_line(f"overlay: cannot come in by {address}: ")
            self.assertEqual(len([line for line in lost.warnings() if "cannot come in" in line]), 1)

    def test_who_has_nobody_to_ask_says_so(self):
        nobody = self.ask("asker", "find", "x", "--via", "overlay")
        self.assertEqual(nobody.code, 6, nobody.describe())
        self.assertIn("nobody to ask: no node of the overlay is known", nobody.stderr())
        self.assertEqual(self.ask("asker", "find", "file", "--via", "tracker", "--wait", "0").code, 6)
        empty = self.lab.tracker("--state", ":memory:")
        none = self.ask("asker", "find", "file", "--via", "overlay", tracker=empty.address)
        self.assertEqual(none.code, 3, none.describe())
        self.assertIn("not found anywhere (0 nodes asked)", none.stderr())


class Hostile(OverlayTest):
    def setUp(self):
        super().setUp()
        self.tracker()
        self.node = self.shell("honest", {"file": b"content"}, "--max-links", "3", "--verbose")
        self.wait_for_tree(1)
        self.other = self.shell("other", {"other": b"other"}, "--max-links", "3")
        self.wait_for_tree(2)

    def linked(self, answers=None):
        node = shoal_wire.Node(self.node.address, answers=answers)
        self.addCleanup(node.close)
        return node

    def test_one_that_never_answers_a_search_is_named_as_missing(self):
        self.linked()
        events, code = self.other.say("find file --via overlay")
        self.assertEqual((code, [event["peer"] for event in events if event["event"] == "hit"]), (23, ["honest"]))
        self.other.wait_for_line("incomplete: 1 branch did not answer in time")

    def test_one_that_has_everything_gets_nobody_to_take_it(self):
        def answer(payload):
            number, pattern = shoal_wire.search_of(payload)
            entry = shoal_wire.Content(pattern, b"x" * 600_000).entry()
            return shoal_wire.search_answer(number, shoal_wire.hit(entry, "liar", node.port), 1)
        node = self.linked({shoal_wire.SEARCH: answer})
        events, code = self.other.say("find file --via overlay")
        self.assertEqual((code, sorted(event["peer"] for event in events if event["event"] == "hit")), (0, ["honest", "liar"]))
        self.lab.processes[0].kill()
        wait_until(lambda: self.other.of("status", "status")[0]["is_registered"] is False, "it notices that the tracker is away")
        self.assertEqual(self.other.say("download file")[1], 0)
        with open(os.path.join(self.other.folder, "file"), "rb") as file:
            self.assertEqual(file.read(), b"content")
        got = self.ask("getter", "get", "file", "-o", self.lab.path("got"), "--join", self.other.address)
        self.assertEqual(got.code, 23, got.describe())
        self.assertIn("liar says that it has it, and does not send it", got.stderr())
        with open(self.lab.path("got", "file"), "rb") as file:
            self.assertEqual(file.read(), b"content")

    def test_a_flood_of_searches_ends_at_the_first_honest_node(self):
        node = self.linked()
        try:
            for number in range(10_000):
                node.send(shoal_wire.search(1000 + number, "file"))
        except OSError:
            pass
        self.assertTrue(node.has_ended.wait(PATIENCE))
        self.node.wait_for_line("is cut off")
        self.assertEqual(len([line for line in self.node.warnings() if "cut off" in line]), 1)
        self.assertEqual(self.other.warnings(), [])
        events, code = self.other.say("find file --via overlay")
        self.assertEqual((code, [event["peer"] for event in events if event["event"] == "hit"]), (0, ["honest"]))

    def test_referrals_in_a_circle_end(self):
        circle = [shoal_wire.Referrer(), shoal_wire.Referrer()]
        for one in circle:
            self.addCleanup(one.close)
            one.to = [other.port for other in circle]
        self.address = f"127.0.0.1:{free_port()}"  # no tracker
        lost = self.shell("lost", {}, "--join", f"127.0.0.1:{circle[0].port}", wait=False)
        lost.wait_for_line("no node takes this one in")
        self.assertLess(sum(one.asked for one in circle), 20)
        self.assertEqual(len([line for line in lost.warnings() if "no node takes" in line]), 1)
        self.assertTrue(lost.is_running())

    def test_what_is_no_message_of_a_node_ends_the_link_alone(self):
        for wrong in (shoal_wire.frame(shoal_wire.REQUEST, bytes(4)), shoal_wire.frame(shoal_wire.AROUND, b"x"),
                      shoal_wire.frame(shoal_wire.VERIFIED, bytes(13)), b"\xff" * 64):
            node = self.linked()
            node.send(wrong)
            self.assertTrue(node.has_ended.wait(PATIENCE))
        events, code = self.other.say("find file --via overlay")
        self.assertEqual((code, [event["peer"] for event in events if event["event"] == "hit"]), (0, ["honest"]))

    def test_strangers_that_search_without_end_leave_room_for_nodes(self):
        links = []
        for _ in range(40):
            link = shoal_wire.Connection.to(self.node.address)
            self.addCleanup(link.close)
            link.send(shoal_wire.hello(shoal_wire.QUESTION, "stranger") + b"".join(shoal_wire.search(7 + i, "*") for i in range(50)))
            links.append(link)
        events, code = self.other.say("find file --via overlay")
        self.assertEqual((code, [event["peer"] for event in events if event["event"] == "hit"]), (0, ["honest"]))


class Shunned(OverlayTest):
    """Nodes that come first, or say so, and take nobody in; and nodes that take places, and no connections."""

    def first(self, answer=None, to_itself=False, **claim):
        first = shoal_wire.Referrer(answer=answer)
        self.addCleanup(first.close)
        if to_itself:
            first.to = [first.port] * 32
        first.join(self.address, **claim)
        return first

    def tree_without(self, first):
        links = links_of(self.topo())
        links.pop(f"s{first.number}", None)
        return links

    def expect_a_tree_without(self, first, nodes):
        wait_until(lambda: problem_of(self.tree_without(first), nodes) == "", f"a tree of {nodes} without the first node", PATIENCE,
                   lambda: self.topo() + self.lab.describe())

    def three_around(self, **hostility):
        self.tracker()
        first = self.first(**hostility)
        shells = [self.shell(f"n{number}", {f"own-{number}": b"%d" % number}, wait=False) for number in range(3)]
        self.expect_a_tree_without(first, 3)
        before = first.asked
        hits = shells[2].of("find own-0 --via overlay", "hit")
        self.assertEqual([hit["peer"] for hit in hits], ["n0"])
        shells.append(self.shell("late", {}, wait=False))
        self.expect_a_tree_without(first, 4)
        self.assertLess(first.asked - before, 20)

    def test_a_first_node_that_says_nothing(self):
        self.three_around(answer=lambda connection: None)

    def test_a_first_node_that_sends_all_to_itself(self):
        self.three_around(to_itself=True)

    def test_a_first_node_that_lets_go_at_once(self):
        def let_go(connection):
            connection.send(shoal_wire.attached(1, 99) + shoal_wire.frame(shoal_wire.DETACH, struct.pack("<BI", 0, 0)))
            connection.close()
        self.three_around(answer=let_go)

    def test_a_number_that_a_linked_node_has_is_not_given_away(self):
        self.tracker()
        self.shell("a")
        self.shell("b")
        self.wait_for_tree(2)
        thief = self.first(answer=lambda connection: None, number=1)
        self.assertEqual(thief.number, 3)
        self.shell("c")
        self.expect_a_tree_without(thief, 3)

    def test_nodes_that_nobody_reaches_give_way(self):
        self.tracker()
        honest = self.shell("honest")
        for number in range(2):
            node = shoal_wire.Node(honest.address, nonce=70 + number)
            node.listener.close()
            self.addCleanup(node.close)
        self.share("late")
        self.wait_for_tree(2)


class Loud(OverlayTest):
    """What whoever connects can cause without end."""

    def test_a_line_for_each_cause_and_not_for_each_connection(self):
        tracker = self.lab.tracker("--state", ":memory:", "--verbose", "--log", self.lab.path("tracker.log"))
        self.address = tracker.address
        peer = self.shell("peer", {"file": b"content"}, "--verbose", "--log", self.lab.path("peer.log"))
        wrong = lambda number: [b"GET / HTTP/1.1\r\n\r\n", shoal_wire.hello(shoal_wire.TO_PEER, f"x{number}") + shoal_wire.frame(shoal_wire.REQUEST, b"x"), shoal_wire.hello(shoal_wire.QUESTION, "../x"), shoal_wire.hello(shoal_wire.OVERLAY, "x") + shoal_wire.frame(shoal_wire.AROUND, b"x")]
        links = []
        for data in (data for number in range(150) for data in wrong(number)):
            for address in (tracker.address, peer.address):
                link = shoal_wire.Connection.to(address)
                self.addCleanup(link.close)
                link.send(data)
                links.append(link)
        for link in links:
            self.assertTrue(link.is_closed_by_peer())
        peer.tell("exit")
        self.expect_exit(0, peer)
        tracker.popen.terminate()
        tracker.wait()
        for process, log, kind in ((tracker, "tracker.log", "session_end"), (peer, "peer.log", "stranger")):
            self.assertLess(len(process.stderr().splitlines()), 40, process.describe())
            self.assertIn(" more like it in the last ", process.stderr())
            self.assertNotIn("cannot accept", process.stderr())
            with open(self.lab.path(log), encoding="utf-8") as file:
                self.assertLess(len([line for line in file if kind in line]), 20)

    def test_a_pattern_that_is_too_long_is_a_usage_error_and_asks_nobody(self):
        nobody = f"127.0.0.1:{free_port()}"
        for command in (["find"], ["find", "--via", "overlay", "--join", nobody], ["get", "-o", self.lab.path("got")]):
            asked = self.ask("asker", *command, "a" * 8193, tracker=nobody)
            self.assertEqual(asked.code, 2, asked.describe())
            self.assertIn("a pattern of 8193 bytes", asked.stderr())
        self.tracker()
        shell = self.shell("shell")
        for command in ("find", "find --via overlay", "download", "ls", "why"):
            self.assertEqual(shell.say(f"{command} {'a' * 8193}")[1], 2, command)


if __name__ == "__main__":
    unittest.main()
