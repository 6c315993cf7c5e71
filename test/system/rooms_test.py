#!/usr/bin/env python3
"""scripts/rooms, on small houses that are built here: rooms_test.py SCRIPT."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = sys.argv.pop(1)

PLAN = """
| room | offers | does no IO | uses |
|---|---|---|---|
| `ground` | values | ✓ | — |
| `middle` | more | ✓ | `ground` |
| `roof` | sockets | | `ground` `middle` |
| `apps` | commands | | any |
"""


class Rooms(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)
        self.write("docs/architecture.md", PLAN)
        self.write("CMakeLists.txt", "shoal_room(ground)\nshoal_room(middle USES ground LINKS fmt::fmt)\nshoal_room(roof USES ground middle)\n")
        self.write("modules/ground.cppm", "export module shoal.ground;\n")
        self.write("modules/middle.cppm", "export module shoal.middle;\nimport shoal.ground;\n")
        self.write("modules/roof.cppm", "export module shoal.roof;\nimport shoal.middle;\n")
        self.write("src/roof/roof.cpp", "module;\n#include <string>\nmodule shoal.roof;\nimport shoal.ground;\n")
        self.write("apps/peer/main.cpp", "import shoal.roof;\n")

    def write(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def run_rooms(self, *arguments):
        return subprocess.run([sys.executable, SCRIPT, "--root", self.root, *arguments], capture_output=True, text=True)

    def assert_fails_with(self, line):
        result = self.run_rooms("--write")
        self.assertEqual((result.returncode, result.stderr), (1, f"rooms: {line}\n"))

    def test_a_house_like_its_plan_passes_once_it_is_drawn(self):
        self.run_rooms("--write")
        self.assertEqual(self.run_rooms("--check").returncode, 0)

    def test_the_same_house_is_drawn_the_same_way(self):
        self.run_rooms("--write")
        first = (self.root / "docs/rooms.svg").read_bytes()
        self.run_rooms("--write")
        self.assertEqual((self.root / "docs/rooms.svg").read_bytes(), first)

    def test_an_arrow_that_the_plan_lacks_fails(self):
        self.write("docs/architecture.md", PLAN.replace("| `ground` `middle` |", "| `middle` |"))
        self.write("CMakeLists.txt", "")
        self.assert_fails_with("src/roof/roof.cpp: roof -> ground is not in the plan")

    def test_an_import_in_a_comment_is_no_arrow(self):
        self.write("src/middle/middle.cpp", "module shoal.middle;\n// import shoal.roof;\n/*\nimport shoal.roof;\n*/\n")
        self.assertEqual(self.run_rooms("--write").stderr, "")

    def test_a_circle_fails(self):
        self.write("src/ground/ground.cpp", "module shoal.ground;\nimport shoal.roof;\n")
        self.assertIn("circle: ground -> roof -> ground", self.run_rooms("--write").stderr)

    def test_a_plan_that_is_not_from_the_ground_up_fails(self):
        self.write("docs/architecture.md", PLAN.replace("| values | ✓ | — |", "| values | ✓ | `middle` |"))
        self.assertIn("`ground` uses `middle`, which is not above it", self.run_rooms("--write").stderr)

    def test_a_build_that_says_otherwise_fails(self):
        self.write("CMakeLists.txt", "shoal_room(middle USES ground roof)\n")
        self.assert_fails_with("CMakeLists.txt: `middle` uses ground roof; the plan says ground")

    def test_a_unit_in_the_wrong_room_fails(self):
        self.write("src/middle/stray.cpp", "module shoal.roof;\n")
        self.assert_fails_with("src/middle/stray.cpp: is a unit of shoal.roof, but lives in the room `middle`")

    def test_an_old_picture_fails(self):
        self.run_rooms("--write")
        self.write("apps/peer/main.cpp", "import shoal.middle;\n")
        self.assertIn("docs/rooms.svg is out of date", self.run_rooms().stderr)


if __name__ == "__main__":
    unittest.main()
