"""What perf/ says a side costs: processor seconds of all its processes, whether they have ended or go on, and their peak memory. Linux only."""

import pathlib
import sys
import tempfile
import time
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "perf" / "lib"))

import processes  # noqa: E402
import swarm_lab  # noqa: E402
from processes import MIB, Meter, Process  # noqa: E402

# Works for as long as it is told, by its own processor time, then says so and does what comes after.
BURN = "import time\nend = time.process_time() + {seconds}\nwhile time.process_time() < end: pass\nprint('burnt', flush=True)\n"
CHILD = "import subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', {code!r}])\n"
STAY = "import time\ntime.sleep(600)\n"
HOLD = "held = bytearray({mib} << 20)\nfor at in range(0, len(held), 4096): held[at] = 1\nprint('held', flush=True)\n"


@unittest.skipUnless(sys.platform == "linux", "/proc tells it")
class Costs(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder, self.started = pathlib.Path(folder.name), []
        self.addCleanup(lambda: [process.kill() for process in self.started])

    def start(self, code):
        self.started.append(Process([sys.executable, "-c", code], self.folder / f"{len(self.started)}.out"))
        return self.started[-1]

    def says(self, process, word):
        processes.wait_for(lambda: word in process.text(), swarm_lab.PATIENCE, word, [process])

    def assert_seconds(self, found, burnt):
        """Some are spent on Python's start, and the system counts in hundredths."""
        self.assertGreaterEqual(found, burnt - 0.03)
        self.assertLess(found, burnt + 0.4 * swarm_lab.SLOWNESS)

    def test_a_process_that_has_ended_and_its_children(self):
        process = self.start(CHILD.format(code=BURN.format(seconds=0.6)) + "child.wait()\n")
        process.wait(swarm_lab.PATIENCE)
        self.assert_seconds(Meter().cost([process]).seconds, 0.6)

    def test_processes_that_go_on_count_from_the_meters_start(self):
        process = self.start(BURN.format(seconds=0.6) + STAY)
        self.says(process, "burnt")
        later = self.start(BURN.format(seconds=0.3) + STAY)
        meter = Meter([process])
        self.says(later, "burnt")
        cost = meter.cost([later])
        self.assert_seconds(cost.seconds, 0.3)
        self.assert_seconds(process.cpu_seconds(), 0.6)

    def test_memory_of_children_that_were_gone_before_the_meters_start_does_not_count(self):
        child = CHILD.format(code=HOLD.format(mib=90) + "import time\ntime.sleep(0.5)\n")
        process = self.start(child + "child.wait()\nprint('alone', flush=True)\n" + STAY)
        self.says(process, "alone")
        self.assertGreater(Meter().cost([process]).largest, 90 * MIB)
        self.assertLess(Meter([process]).cost().largest, 60 * MIB)

    def test_what_is_killed_with_its_children_counts(self):
        process = self.start(CHILD.format(code=BURN.format(seconds=0.6) + STAY) + STAY)
        self.says(process, "burnt")
        process.kill()
        self.assertLess(process.exit_code(), 0)
        self.assert_seconds(Meter().cost([process]).seconds, 0.6)

    def test_peak_memory_is_that_of_each_process_and_not_of_its_parent(self):
        ours = bytearray(300 * MIB)
        for at in range(0, len(ours), 4096):
            ours[at] = 1
        small, large = self.start(HOLD.format(mib=20) + STAY), self.start(HOLD.format(mib=90) + "del held\n" + STAY)
        for process in (small, large):
            self.says(process, "held")
        cost = Meter().cost([small, large])
        self.assertGreater(cost.largest, 90 * MIB)
        self.assertLess(cost.largest, 130 * MIB)
        self.assertGreater(cost.together, 110 * MIB)
        self.assertLess(cost.together, 190 * MIB)

    def test_peak_memory_of_a_process_that_has_ended_is_kept(self):
        process = self.start(CHILD.format(code=HOLD.format(mib=90) + "import time\ntime.sleep(0.5)\n") + "child.wait()\n")
        process.wait(swarm_lab.PATIENCE)
        cost = Meter().cost([process])
        self.assertGreater(cost.largest, 90 * MIB)
        self.assertLess(cost.largest, 130 * MIB)
        self.assertLess(cost.together, 170 * MIB)

    def test_a_wait_ends_with_the_process(self):
        begun = time.monotonic()
        self.start("pass").wait(swarm_lab.PATIENCE)
        self.assertLess(time.monotonic() - begun, swarm_lab.PATIENCE / 2)

    def test_bytes_too_few_to_tell_give_no_rate(self):
        cost = processes.Cost(3.0, 0, 0)
        self.assertIsNone(cost.per_gb(1000))
        self.assertAlmostEqual(cost.per_gb(2_000_000_000), 1.5)


if __name__ == "__main__":
    unittest.main(verbosity=2)
