"""apb plan, and the pictures made from it; and run and bench with every method on several ranks."""
import json
import pathlib
import random
import subprocess
import sys
import unittest
import xml.dom.minidom

import h5py
import numpy

from program import APB, ProgramTest, apb

SCRIPT = pathlib.Path(__file__).parents[2] / "jobs" / "plot_masks.py"
METHODS = ["apb", "full", "ring", "ulysses", "star"]


def plan(*options):
    return subprocess.run([APB, "plan", *map(str, options)], capture_output=True, text=True, timeout=60, check=False)


class PlanTest(ProgramTest):
    def test_blocks_tile_the_context_and_exact_methods_compute_all_pairs(self):
        context, query, ranks = random.randrange(500, 3000), random.randrange(1, 40), 3
        for method in METHODS:
            process = plan("--shape", "smollm2-135m", "--context-length", context, "--query-length", query, "--ranks",
                           ranks, "--method", method)
            self.assertEqual(process.returncode, 0, process.stderr)
            result = json.loads(process.stdout)
            blocks = result["blocks"]
            self.assertEqual([block["begin"] for block in blocks[1:]], [block["end"] for block in blocks[:-1]])
            self.assertEqual((blocks[0]["begin"], blocks[-1]["end"]), (0, context))
            self.assertEqual(sum(rank["context_rows"] for rank in result["ranks"]), context)
            # SmolLM2: 30 layers, 9 query heads; context rows attend in all layers but the last.
            needed = 9 * (29 * context * (context + 1) / 2 + 30 * (query * context + query * (query + 1) / 2))
            self.assertEqual(result["full_pairs"], needed)
            pairs = sum(rank["pairs"] for rank in result["ranks"])
            if method in ("full", "ring", "ulysses"):
                self.assertEqual(pairs, needed)
            else:
                self.assertLess(pairs, needed)
            self.assertTrue(all(rank["bytes_sent"] > 0 for rank in result["ranks"]))

    def test_what_cannot_be(self):
        for options, parts in [(["--shape", "smollm2-135m", "--ranks", 4, "--method", "ulysses"], ["9 query heads", "4"]),
                               (["--shape", "tiny", "--ranks", 2, "--blocks", 3], ["--blocks 3", "2 ranks"]),
                               ([], ["--model", "--shape"])]:
            process = plan("--context-length", 1000, *options)
            self.assertNotEqual(process.returncode, 0)
            self.assertEqual(process.stderr.count("\n"), 1, process.stderr)
            for part in parts:
                self.assertIn(part, process.stderr)

    def test_pictures(self):
        process = subprocess.run([sys.executable, SCRIPT, "--apb", APB, "--output", self.folder / "masks"],
                                 capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(process.returncode, 0, process.stderr)
        for file in process.stdout.split():
            picture = xml.dom.minidom.parse(file)
            self.assertGreaterEqual(len(picture.getElementsByTagName("polygon")), 4)


class MethodsTest(ProgramTest):
    def test_exact_methods_agree_between_ranks(self):
        model = self.make_model("heads")  # six query heads
        documents = self.write_input([self.random_document("a", 411), self.random_document("b", 97)])
        logits = {}
        for method, ranks, more in [("full", 1, []), ("full", 3, ["--overlap", "on"]), ("ring", 3, []),
                                    ("ulysses", 3, []), ("ulysses", 2, [])]:
            output = self.folder / f"{method}{ranks}.h5"
            process = apb("run", "--model", model, "--input", documents, "--output", output, "--method", method,
                          "--dtype", "fp32", "--save-logits", "--max-new-tokens", 3, *more, ranks=ranks)
            self.assertEqual(process.returncode, 0, process.stderr)
            with h5py.File(output) as file:
                self.assertEqual(list(file["documents/method"].asstr()[:]), [method] * 2)
                logits[method, ranks] = file["outputs/logits"][:]
        expected = logits["full", 1]
        for values in logits.values():
            self.assertLess(numpy.abs(values - expected).max(), 2e-4 * numpy.abs(expected).max())

    def test_ulysses_wants_ranks_that_divide_the_heads(self):
        documents = self.write_input([self.random_document("a")])
        process = apb("run", "--model", self.model, "--input", documents, "--output", self.folder / "no.h5", "--method",
                      "ulysses", ranks=4)
        self.assert_fails(process, 3, "ulysses", "6 query heads", "4 ranks")


if __name__ == "__main__":
    unittest.main()
