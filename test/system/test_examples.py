"""Runs every example of the documents (README.md, docs/*.md), as it stands there, on three machines.

- A fenced block marked `sh` or `console` holds commands, one a line; what does not begin with `$ ` in a `console` block is output. `NAME$ ` before a
  command is the machine that it runs on, rack1 to rack3; without it, it is rack1. `#` begins a remark.
- A block marked `toml` is a configuration. Blocks with other marks hold no commands of ours, which is checked.
- What an example takes for granted is there: the files of FILES; a tracker where none is started in the block; and as many other peers of a closed
  swarm as its --expect lacks.
- What goes on until it is stopped has to be running at the end; all else has to end with 0, and to have done what it is for.
"""

import json
import os
import pathlib
import re
import shlex
import unittest

from machines import MachinesTest, NAMES
from swarm_lab import SLOWNESS, Tracker, binary, random_bytes, tree

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = ["a/a.bin", "b/b.bin", "c/c.bin", "images/disk.img", "images/debian.iso"]  # on rack1; each machine has data/MACHINE.bin
COMMAND = re.compile(r"^(?:(\w*)\$ )?((?:\w+=\S+ )*(?:shoal-tracker|shoal-peer)(?: .*?)??)(?:\s+&)?(?:\s+#.*)?$")
OUR_OUTPUT = re.compile(r"^shoal-(peer|tracker): ")


class Block:
    """A fenced block of a document."""

    def __init__(self, document, line, mark, lines):
        self.document, self.line, self.mark, self.lines = document, line, mark, lines

    @property
    def name(self):
        return f"{self.document}, line {self.line}"

    def commands(self):
        if self.mark == "console":
            lines = [line for line in self.lines if re.match(r"^\w*\$ ", line)]
        else:
            lines = [line for line in self.lines if self.mark == "sh"]
        return [Command(match) for match in map(COMMAND.match, lines) if match]

    def stray_commands(self):
        """Lines that look like a command of ours, in a block whose mark says that it holds none."""
        if self.mark in ("sh", "console"):
            return []
        return [line for line in self.lines if COMMAND.match(line) and not OUR_OUTPUT.match(line)]

    def output(self):
        return [line for line in self.lines if self.mark == "console" and not re.match(r"^\w*\$ ", line)]


class Command:
    def __init__(self, match):
        self.machine = match[1] or "rack1"
        self.line = match[2]
        words = shlex.split(self.line, comments=True)
        self.environment = {}
        while "=" in words[0]:
            key, value = words.pop(0).split("=", 1)
            self.environment[key] = value
        self.program, self.arguments = words[0], words[1:]
        self.action = "tracker" if self.program == "shoal-tracker" else self.arguments[0]

    def option(self, name, letter=None):
        """Its value; None without it."""
        for before, word in zip(self.arguments, self.arguments[1:]):
            if before == f"--{name}" or (letter and before == f"-{letter}"):
                return word
        return self.environment.get("SHOAL_" + name.upper())

    @property
    def operands(self):
        """Those before the first option."""
        words = self.arguments[1:]
        return words[:next((i for i, word in enumerate(words) if word.startswith("-")), len(words))]

    @property
    def tracker(self):
        return self.option("tracker") or "127.0.0.1:5555"


def blocks_of(document, text):
    """The fenced blocks of a document."""
    blocks, block = [], None
    for number, line in enumerate(text.splitlines(), 1):
        if not line.startswith("```"):
            if block:
                block.lines.append(line)
        elif block:
            blocks.append(block)
            block = None
        else:
            block = Block(document, number, line[3:].strip(), [])
    return blocks


def all_blocks():
    documents = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [block for document in documents for block in blocks_of(str(document.relative_to(ROOT)), document.read_text(encoding="utf-8"))]


class Stage(MachinesTest):
    """What is on the machines, and what runs there, while a block is played."""

    def setUp(self):
        super().setUp()
        for file in FILES:
            self.machines.write("rack1", file, random_bytes(300_000, file))
        for name in NAMES:
            self.machines.write(name, f"data/{name}.bin", random_bytes(200_000, name))
        self.waiting, self.lasting = [], []

    def run_line(self, machine, line, kind=None):
        options = self.machines.options(machine)
        path = os.path.dirname(binary("shoal-peer")) + os.pathsep + os.environ["PATH"]
        name = "tracker" if "shoal-tracker" in line else line.split("shoal-peer ", 1)[1].split()[0]
        extra = {"kind": kind} if kind else {}
        return self.lab.start(f"{machine}-{name}", self.machines.on(machine, "env", f"PATH={path}", "bash", "-c", line), **extra, **options)

    def begin(self, machine, line, is_closed):
        """Starts what others meet: it lasts, but in a closed swarm, which ends."""
        is_tracker = "shoal-tracker" in line
        process = self.run_line(machine, line, Tracker if is_tracker else None)
        if is_tracker:
            self.assertTrue(process.address)
        elif not is_closed:
            process.wait_for_line("registered with the tracker")
        if is_closed:
            self.waiting.insert(len(self.waiting) if is_tracker else 0, process)  # peers first: the tracker waits for them, too
        else:
            self.lasting.append(process)
        return process

    def begin_tracker(self, commands, expect):
        """The tracker that the commands take for granted, if they do."""
        asked = [command for command in commands if command.action not in ("tracker", "verify", "timeline")]
        if not asked or any(command.action == "tracker" for command in commands):
            return
        is_local = asked[0].tracker.startswith("127.")
        listen = "127.0.0.1:5555" if is_local else "0.0.0.0:5555 --insecure"
        self.begin(asked[0].machine if is_local else "rack1", f"shoal-tracker --listen {listen}" + (f" --expect {expect}" if expect else ""), bool(expect))

    def play(self, block):
        commands = block.commands()
        swarm = [command for command in commands if command.action == "swarm"]
        expect = next((int(command.option("expect")) for command in commands if command.option("expect")), 0)
        self.begin_tracker(commands, expect)
        for folder in ("./b", "./c")[:max(0, expect - len(swarm))]:
            self.begin("rack1", f"shoal-peer swarm {folder} --expect {expect}", True)
        ends = []
        for command in commands:
            if command.action in ("tracker", "share", "swarm"):
                process = self.begin(command.machine, command.line, bool(expect))
            else:
                process = self.run_line(command.machine, command.line)
                self.expect_exit(0, process, seconds=20 * SLOWNESS)
            ends.append((command, process))
        self.expect_exit(0, *self.waiting)
        for process in self.lasting:
            self.assertTrue(process.is_running(), process.describe())
        self.check(ends)
        return ends

    def folder_of(self, command, path):
        return os.path.join(self.machines.folder(command.machine), path.replace("~/", ""))

    def check(self, ends):
        """Commands have done what they are for."""
        given = tree(os.path.join(self.machines.folder("rack1"), "images"), with_times=False)
        for command, process in ends:
            if command.action == "get":
                got = tree(self.folder_of(command, command.option("out", "o") or "."), with_times=False)
                for name in command.operands:
                    self.assertEqual(got.get(name), given[name], process.describe())
            elif command.action in ("ls", "find"):
                self.assertIn("debian.iso", process.stdout())
        swarm = [self.folder_of(command, command.operands[0]) for command, _ in ends if command.action == "swarm"]
        if len(swarm) > 1:
            self.expect_equal_trees(*swarm)
            self.assertEqual(len(tree(swarm[0])), len(swarm))

    def check_events(self, block, process):
        """Each event that is shown has come, with the fields that are shown."""
        shown = [json.loads(line) for line in block.output() if line.startswith("{")]
        came = process.events()
        self.assertTrue(shown)
        for example in shown:
            alike = [event for event in came if event["event"] == example["event"]]
            self.assertTrue(any(example.keys() <= event.keys() for event in alike), f"{example}\nin {alike}")
        self.assertEqual([shown[0]["event"], shown[-1]["event"]], [came[0]["event"], came[-1]["event"]])


class Examples(Stage):
    """A test for each block, by the name of its place; see below."""


def play_one(block):
    def test(self):
        ends = self.play(block)
        if block.mark == "console":
            self.check_events(block, ends[-1][1])
    return test


def configure(block):
    def test(self):
        for name in ("rack1", "rack2"):
            self.machines.write(name, ".config/shoal/config.toml", ("\n".join(block.lines) + "\n").encode())
        commands = ["rack1$ shoal-tracker", "rack1$ shoal-peer share ./images", "rack2$ shoal-peer ls", "rack2$ shoal-peer get debian.iso -o got"]
        self.play(Block(block.document, block.line, "sh", commands))
    return test


for each in all_blocks():
    place = "test_" + re.sub(r"\W+", "_", each.name)
    if each.commands():
        setattr(Examples, place, play_one(each))
    elif each.mark == "toml":
        setattr(Examples, place, configure(each))


class WrongExamples(Stage):
    """An example that is wrong is found."""

    def expect_wrong(self, what, *lines):
        with self.assertRaisesRegex(AssertionError, what):
            self.play(Block("a document", 1, "sh", list(lines)))

    def test_a_command_that_does_not_exist(self):
        self.expect_wrong("the tracker ended before it listened", "shoal-tracker --listne 127.0.0.1:5555")

    def test_a_peer_that_asks_for_another_swarm_than_the_trackers(self):
        self.expect_wrong("rack1-swarm(.2)? ended with 2, not 0", "shoal-tracker &", "shoal-peer swarm ./a --expect 2", "shoal-peer swarm ./b --expect 2")

    def test_a_file_that_nobody_offers(self):
        self.expect_wrong("rack1-get ended with 3, not 0", "shoal-tracker &", "shoal-peer share ./images", "rack1$ shoal-peer get disk.imgs -o got")


class Documents(unittest.TestCase):
    """Needs no machines."""

    def test_commands_stand_in_blocks_that_are_marked_as_such(self):
        for block in all_blocks():
            self.assertEqual(block.stray_commands(), [], block.name)

    def test_there_are_examples_in_the_readme_and_of_the_command_line(self):
        documents = {block.document for block in all_blocks() if block.commands()}
        self.assertLessEqual({"README.md", os.path.join("docs", "cli.md")}, documents)

    def test_a_block_is_read_as_it_is_meant(self):
        text = "x\n```sh\nrack2$ A=1 shoal-peer get 'a b' c -o d --tracker t:1    # why\nshoal-tracker --expect 3 &\nls\n```\n```\nshoal-peer ls\nshoal-peer: no\n```\n"
        shell, plain = blocks_of("d.md", text)
        get, tracker = shell.commands()
        self.assertEqual((get.machine, get.action, get.operands, get.option("out", "o"), get.tracker), ("rack2", "get", ["a b", "c"], "d", "t:1"))
        self.assertEqual((get.environment, tracker.machine, tracker.action, tracker.line), ({"A": "1"}, "rack1", "tracker", "shoal-tracker --expect 3"))
        self.assertEqual((plain.commands(), plain.stray_commands(), plain.line), ([], ["shoal-peer ls"], 7))
        (bare,) = blocks_of("d.md", "```sh\nshoal-tracker &    # there\n```\n")[0].commands()
        self.assertEqual((bare.line, bare.arguments), ("shoal-tracker", []))


if __name__ == "__main__":
    unittest.main()
