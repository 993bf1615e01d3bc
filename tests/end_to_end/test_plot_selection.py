"""jobs/plot_selection.py on a tiny model's results, and on made-up selections counted by hand."""
import pathlib
import random
import re
import subprocess
import sys
import unittest

import h5py
import numpy as np

import results_file
from program import ProgramTest, apb

SCRIPT = pathlib.Path(__file__).parents[2] / "jobs" / "plot_selection.py"


class PlotSelectionTest(ProgramTest):
    def plot(self, file, document):
        output = self.folder / f"{random.randrange(10**9)}.png"
        process = subprocess.run([sys.executable, SCRIPT, file, "--document", document, "--output", output],
                                 capture_output=True, text=True, timeout=120, check=False)
        return process, output

    def shares(self, file, document):
        """What is printed for each layer: heads, their share, and the tokens' share; the picture must be one."""
        process, output = self.plot(file, document)
        self.assertEqual(process.returncode, 0, process.stderr)
        self.assertTrue(output.read_bytes().startswith(b"\x89PNG"))
        lines = re.findall(r"^layer +(\d+): (not )?passed on by (\d+) of (\d+) heads \((.*) %\), (.*) % of its tokens$",
                           process.stdout, re.MULTILINE)
        self.assertEqual([int(line[0]) for line in lines], list(range(len(lines))))
        for line in lines:
            self.assertEqual(line[1] == "not ", line[2] == "0")
        return [(int(line[2]), int(line[3]), float(line[4]), float(line[5])) for line in lines], process.stdout

    def test_shares_of_a_run_are_those_of_its_file(self):
        begin = random.randrange(40, 120)
        evidence = [[begin, begin + 9], [begin + 60, begin + 75]]
        documents = self.write_input([self.random_document("other"),
                                      self.random_document("marked", 400, evidence=evidence)])
        output = self.folder / "run.h5"
        process = apb("run", "--model", self.model, "--input", documents, "--output", output, "--blocks", 4,
                      "--anchor-length", 20, "--passing-length", 60, "--max-new-tokens", 1, "--save-selection", ranks=2)
        self.assertEqual(process.returncode, 0, process.stderr)
        printed, text = self.shares(output, "marked")
        with h5py.File(output) as file:
            positions = file["selection/positions"][1]
        layers, _, heads, _ = positions.shape
        tokens = np.concatenate([np.arange(*span) for span in evidence])
        for layer in range(layers):
            found = [np.isin(tokens, positions[layer, :, head]) for head in range(heads)]
            some = sum(one.any() for one in found)
            expected = (some, heads, round(100 * some / heads, 1), 100 * np.mean(found))
            self.assertEqual(printed[layer][:3], expected[:3])
            self.assertAlmostEqual(printed[layer][3], expected[3], delta=0.0501)
        self.assertTrue(any(one[0] for one in printed))
        self.assertNotIn("note:", text)

    def test_made_up_selection(self):
        positions = np.full((1, 3, 4, 2, 3), -1)
        positions[0, 0, 0, 0] = [7, 8, 9]
        positions[0, 0, 1, 1, :2] = [10, 12]
        positions[0, 1, 1, 1, :1] = [12]
        row = results_file.row("made-up", "", {"evidence": [[8, 12]]}, context_length=40, query_length=5,
                               anchor_length=7)
        printed, text = self.shares(results_file.write(self.folder / "made.h5", [row], positions=positions), "made-up")
        self.assertEqual(printed, [(2, 2, 100, 37.5), (0, 2, 0, 0), (0, 2, 0, 0)])  # 8, 9 and 10: three of 2 x 4
        self.assertNotIn("note:", text)
        row["metadata"] = '{"evidence": [[1, 3], [25, 31]]}'
        _, text = self.shares(results_file.write(self.folder / "made.h5", [row], positions=positions), "made-up")
        self.assertRegex(text, r"note: \[1, 3\) .*anchor")
        self.assertRegex(text, r"note: \[25, 31\) .*last block, from 30 on")
        row["metadata"] = "{}"
        _, text = self.shares(results_file.write(self.folder / "made.h5", [row], positions=positions), "made-up")
        self.assertIn("no evidence", text)

    def test_what_cannot_be_drawn(self):
        row = results_file.row("a", "", {"evidence": [[90, 101]]})
        nothing = np.full((1, 2, 4, 1, 3), -1)
        some = np.zeros((1, 2, 4, 1, 3))
        for file, document, parts in [
                (results_file.write(self.folder / "1.h5", [row]), "a", ["--save-selection"]),
                (results_file.write(self.folder / "2.h5", [row], positions=nothing), "a", ["passed nothing on"]),
                (results_file.write(self.folder / "3.h5", [row], positions=some), "b", ["no document b", "a"]),
                (results_file.write(self.folder / "4.h5", [row], positions=some), "a", ["[90, 101)", "100 tokens"]),
                (self.folder / "5.h5", "a", ["5.h5"])]:
            process, output = self.plot(file, document)
            self.assertEqual(process.returncode, 1)
            self.assertEqual(process.stderr.count("\n"), 1, process.stderr)
            for part in [*parts, file.name]:
                self.assertIn(part, process.stderr)
            self.assertFalse(output.exists())


if __name__ == "__main__":
    unittest.main()
