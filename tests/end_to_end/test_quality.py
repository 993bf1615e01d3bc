"""jobs/quality.py: what it measures, goes on with, and writes."""
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

from program import APB

SCRIPT = pathlib.Path(__file__).parents[2] / "jobs" / "quality.py"
NAMES = ["full", "star-b8", "apb-retaining-heads-b8", "apb-recent-b8"]


class QualityTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.work = pathlib.Path(folder.name)

    def quality(self, *arguments):
        return subprocess.run([sys.executable, SCRIPT, "--quick", "--apb", APB, "--work", self.work, *arguments],
                              capture_output=True, text=True, check=False)

    def test_a_quick_study_of_the_retrieval_model(self):
        wanted = [f"retrieval/2048/{name}" for name in NAMES]
        first = self.quality("--models", "retrieval", "--only", *wanted[:2])
        self.assertEqual(first.returncode, 0, first.stderr)
        before = (self.work / "retrieval/2048/full.h5").stat().st_mtime_ns
        second = self.quality("--models", "retrieval", "--only", *wanted)
        self.assertEqual(second.returncode, 0, second.stderr)
        self.assertEqual((self.work / "retrieval/2048/full.h5").stat().st_mtime_ns, before)

        scores = json.loads((self.work / "scores.json").read_text())
        by_file = {pathlib.Path(one["file"]).stem: one for one in scores}
        self.assertEqual(by_file.keys(), set(NAMES))
        two_hop = {name: next(task["score"]["mean"] for task in one["tasks"] if task["task"] == "two_hop")
                   for name, one in by_file.items()}
        self.assertEqual(two_hop["full"], 1)
        self.assertEqual(two_hop["apb-retaining-heads-b8"], 1)
        self.assertLess(two_hop["star-b8"], 0.7)
        tables = (self.work / "tables.md").read_text()
        samples = {pathlib.Path(one["file"]).stem: {name: value for task in one["tasks"] for name, value in
                                                    task["scores"].items()} for one in scores}
        worse = sum(samples["star-b8"][name] < value for name, value in samples["full"].items())
        self.assertGreater(worse, 2)
        self.assertIn(f"| star, B = 8 | {len(samples['full'])} | 0 | {worse} | {2 / 2 ** worse:.2g} |", tables)
        row = next(line for line in tables.splitlines() if line.startswith("| star |") and line.count("|") > 4)
        self.assertEqual(float(row.split("|")[-2].split("(")[0]), round(100 * two_hop["star-b8"], 1))
        for picture in ("retrieval-length.svg", "retrieval-time-2048.svg"):
            self.assertIn("<svg", (self.work / picture).read_text())

    def test_one_method_alone(self):
        process = self.quality("--models", "retrieval", "--only", "retrieval/2048/star-b8")
        self.assertEqual(process.returncode, 0, process.stderr)
        self.assertIn("| star |", (self.work / "tables.md").read_text())

    def test_what_cannot_be_run_is_an_error_in_one_line(self):
        process = self.quality("--models", "retrieval", "--only", "no-such-configuration")
        self.assertNotEqual(process.returncode, 0)
        self.assertEqual(len(process.stderr.splitlines()), 1)
        self.assertIn("no-such-configuration", process.stderr)


if __name__ == "__main__":
    unittest.main()
