"""Groups of ranks that answer documents side by side: --ranks-per-document."""
import json
import os
import random
import re
import resource
import signal
import socket
import time
import unittest

import h5py
import numpy as np

from processes import BackgroundRun, committed, is_running, rows_of
from program import ProgramTest, apb

ARRAYS = ["documents/status", "documents/key", "documents/message", "documents/context_length", "documents/blocks",
          "documents/metadata", "outputs/text", "outputs/token_offsets"]


def arrays_of(path, *names):
    with h5py.File(path, "r") as file:
        return {name: file[name][()] for name in ("documents/id", "documents/ranks_used", "outputs/token_ids",
                                                  "timings/phase_seconds", *names)}


class GroupsTest(ProgramTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        config = json.loads((cls.model / "config.json").read_text())
        config["max_position_embeddings"] = 200_000
        (cls.model / "config.json").write_text(json.dumps(config))

    def arguments(self, source, output, group, *options):
        return ["run", "--model", self.model, "--input", source, "--output", output, "--ranks-per-document", group,
                "--max-new-tokens", 3, "--threads", 1, "--dtype", "fp32", *options]

    def output(self, name=""):
        return self.folder / f"{self.id()}{name}.h5"

    def documents(self, count, tokens):
        lengths = [tokens + random.randrange(tokens) for _ in range(count)]
        return self.write_input([self.random_document(f"d{i}", length) for i, length in enumerate(lengths)],
                                f"{self.id()}.jsonl")

    def start(self, source, output, group, *options, ranks=4):
        return BackgroundRun(*self.arguments(source, output, group, *options), ranks=ranks,
                             log=self.folder / f"{self.id()}.log")

    def assert_same_answers(self, output, expected):
        self.assertEqual({name: row[:2] for name, row in rows_of(output).items()},
                         {name: row[:2] for name, row in expected.items()})

    def test_the_same_rows_in_groups_of_any_size(self):
        documents = [self.random_document(f"d{i}", random.randrange(150, 900), number=i) for i in range(9)]
        documents[3] = {"id": "text", "context": "Words that make a text. " * 50, "query": "Which words?"}
        documents[4]["queries"] = [documents[4].pop("query_tokens"), [1, 2, 3]]
        documents[6] = {"id": "bad", "context": ""}
        source = self.write_input(documents)
        expected = None
        for group in (4, 2, 1):
            output = self.output(group)
            process = apb(*self.arguments(source, output, group, "--blocks", 4, "--save-logits", "--save-selection"),
                          ranks=4)
            self.assertEqual(process.returncode, 1, process.stderr)
            self.assertFalse(output.with_name(output.name + ".parts").exists())
            found = arrays_of(output, *ARRAYS, "outputs/logits", "selection/positions")
            expected = expected or found
            self.assertEqual([name.decode() for name in found["documents/id"]],
                             [*(x["id"] for x in documents[:5]), "d4#2", *(x["id"] for x in documents[5:])])
            for name in ["documents/id", "outputs/token_ids", *ARRAYS]:
                np.testing.assert_array_equal(found[name], expected[name], f"{name} in groups of {group}")
            np.testing.assert_allclose(found["outputs/logits"], expected["outputs/logits"], rtol=0,
                                       atol=2e-4 * np.abs(expected["outputs/logits"]).max())
            np.testing.assert_array_equal(found["selection/positions"], expected["selection/positions"])
            good = found["documents/status"] == b"ok"
            self.assertEqual(set(found["documents/ranks_used"][good]), {group})
            self.assertEqual(found["timings/phase_seconds"].shape[1], group)
            # One line a document, counted over all groups, and one summary.
            numbers = [int(number) for number in re.findall(r"^\[(\d+)/9\]", process.stderr, re.M)]
            self.assertEqual(sorted(numbers), list(range(1, 10)))
            self.assertEqual(process.stderr.count("9 documents, 1 failed"), 1, process.stderr)
            self.assertEqual(len(re.findall("^attention ", process.stderr, re.M)), 1)

    def test_a_document_that_fails_leaves_the_others_alone(self):
        documents = [self.random_document(f"d{i}", 300 + i) for i in range(6)]
        documents[2]["context_tokens"] = [999_999] * 1000
        documents[3]["context_tokens"] = documents[3]["context_tokens"][:4]  # too short for its blocks
        output = self.output()
        process = apb(*self.arguments(self.write_input(documents), output, 2, "--blocks", 4), ranks=4)
        self.assertEqual(process.returncode, 1, process.stderr)
        self.assertEqual(set(rows_of(output)), {"d0", "d1", "d4", "d5"})

    def test_groups_divide_the_ranks(self):
        process = apb(*self.arguments(self.documents(1, 100), self.output(), 3), ranks=4)
        self.assert_fails(process, 2, "--ranks-per-document 3", "4 ranks", "1, 2, 4")
        self.assertFalse(self.output().exists())

    def test_resume_in_other_groups_keeps_the_blocks(self):
        source = self.documents(5, 300)
        expected = self.output("-expected")
        self.assertEqual(apb(*self.arguments(source, expected, 2), ranks=4).returncode, 0)
        output = self.output()
        lines = source.read_text().splitlines(keepends=True)
        source.write_text("".join(lines[:2]))
        self.assertEqual(apb(*self.arguments(source, output, 2), ranks=4).returncode, 0)
        before = rows_of(output)
        source.write_text("".join(lines))
        process = apb(*self.arguments(source, output, 3, "--resume"), ranks=3)
        self.assert_fails(process, 2, "4 blocks", "3 ranks per document", "1, 2, 4 ranks")
        process = apb(*self.arguments(source, output, 1, "--resume"), ranks=3)
        self.assertEqual(process.returncode, 0, process.stderr)
        self.assert_same_answers(output, rows_of(expected))
        after = rows_of(output)
        for name, row in before.items():
            self.assertEqual(after[name], row)  # the same seconds too: not computed again
        numbers = re.findall(r"^\[(\d)/5\]", process.stderr, re.M)  # those that were there count, too
        self.assertEqual(len(set(numbers)), 3, process.stderr)

    def test_usr1_stops_all_groups(self):
        source = self.documents(80, 10_000)
        output = self.output()
        for target in ("all", random.randrange(4)):
            run = self.start(source, output, random.choice([1, 2]), "--resume", "--blocks", 4)
            there = len(committed(output))
            self.assertTrue(run.wait_until(lambda: len(committed(output)) > there), run.log.read_text())
            sent = time.monotonic()
            os.kill(run.launcher.pid if target == "all" else run.ranks()[target], signal.SIGUSR1)
            self.assertEqual(run.wait(), 75, run.log.read_text())
            self.assertLess(time.monotonic() - sent, 20)
            self.assertEqual(len(run.lines()), 1, run.log.read_text())
            self.assertIn(f"{80 - len(committed(output))} of 80 documents are left", run.lines()[0])

    def test_kill_of_a_random_rank(self):
        source = self.documents(24, 8000)
        expected = self.output("-expected")
        process = apb(*self.arguments(source, expected, 2, "--blocks", 4), ranks=4)
        self.assertEqual(process.returncode, 0, process.stderr)
        output = self.output()
        before, kills = {}, 0
        while kills < 3 and not output.exists():
            run = self.start(source, output, random.choice([1, 2]), "--resume", "--blocks", 4)
            there = len(before)
            if not run.wait_until(lambda: len(committed(output)) > there):
                self.assertEqual(run.wait(), 0, run.log.read_text())
                break
            ranks = run.ranks()
            os.kill(random.choice(ranks), signal.SIGKILL)
            kills += 1
            run.wait(60)
            end = time.monotonic() + 30
            while any(is_running(pid) for pid in ranks):
                self.assertLess(time.monotonic(), end)
                time.sleep(0.1)
            after = committed(output)
            self.assertLessEqual(before.items(), after.items())
            before = after
        self.assertGreater(kills, 0)
        process = apb(*self.arguments(source, output, 2, "--resume", "--blocks", 4), ranks=4)
        self.assertEqual(process.returncode, 0, process.stderr)
        self.assert_same_answers(output, rows_of(expected))
        after = rows_of(output)
        for name, row in before.items():
            self.assertEqual(after[name], row)

    def test_a_rank_that_stops_answering(self):
        for group, ranks in ((1, 3), (2, 4)):
            source = self.documents(6, 25_000)
            run = self.start(source, self.output(f"-{group}"), group, "--timeout", 6, "--blocks", 4, ranks=ranks)
            self.assertTrue(run.wait_until(lambda: "model loaded" in run.log.read_text()))
            time.sleep(1)
            stopped = random.randrange(ranks)
            pids = run.ranks()
            os.kill(pids[stopped], signal.SIGSTOP)
            self.assertEqual(run.wait(120), 4, run.log.read_text())
            self.assertEqual(len(run.lines()), 1, run.log.read_text())
            self.assertIn(f"rank {stopped} on {socket.gethostname()} did not answer for 6 s", run.lines()[0])

    def test_a_timeout_leaves_groups_alone_that_wait_for_a_longer_document(self):
        prefill = tokens = 0
        while prefill < 5:  # less shows nothing
            tokens = 2 * tokens or 40_000
            documents = [self.random_document("long", tokens), self.random_document("short", 100)]
            output = self.output(f"-{tokens}")
            process = apb(*self.arguments(self.write_input(documents), output, 1, "--timeout", 2, "--method", "full"),
                          ranks=2)
            self.assertEqual(process.returncode, 0, process.stderr)
            self.assertEqual(set(rows_of(output)), {"long", "short"})
            prefill = rows_of(output)["long"][2]

    def test_an_output_that_cannot_be_written_stops_all_groups(self):
        source = self.documents(60, 10_000)
        run = self.start(source, self.output(), 1, ranks=2)
        self.assertTrue(run.wait_until(lambda: committed(self.output())), run.log.read_text())
        resource.prlimit(run.ranks()[random.randrange(2)], resource.RLIMIT_FSIZE, (100, 100))
        self.assertEqual(run.wait(), 3, run.log.read_text())
        self.assertEqual(len(run.lines()), 1, run.log.read_text())
        self.assertIn("part-", run.lines()[0])
        self.assertLess(len(committed(self.output())), 60)


if __name__ == "__main__":
    unittest.main()
