"""apb run --check-dense: what the approximation costs on one's own documents, held against separate runs."""
import json
import os
import random
import re
import signal
import time
import unittest

import h5py
import numpy as np

from processes import BackgroundRun, committed, rows_of
from program import ProgramTest, apb


def drifts(path):
    """id -> (largest logit difference, first differing token, answers equal)."""
    with h5py.File(path) as file:
        if "drift" not in file:
            return {}
        for dataset in file["drift"].values():
            assert "description" in dataset.attrs, dataset
        ids = file["documents/id"].asstr()[:]
        columns = [file[f"drift/{name}"][:] for name in ("row", "largest_logit_difference", "first_differing_token",
                                                         "answers_equal")]
    assert len({len(column) for column in columns}) == 1 and np.isfinite(columns[1]).all()
    return {ids[row]: tuple(rest) for row, *rest in zip(*columns)}


def answers(path):
    """id -> (tokens, logits) of a run with --save-logits."""
    with h5py.File(path) as file:
        offsets, tokens, logits = (file[f"outputs/{name}"][:] for name in ("token_offsets", "token_ids", "logits"))
        ids = file["documents/id"].asstr()[:]
    return {name: (tokens[begin:end], logits[begin:end]) for name, begin, end in zip(ids, offsets, offsets[1:])}


class CheckDenseTest(ProgramTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        config = json.loads((cls.model / "config.json").read_text())
        config["max_position_embeddings"] = 400_000
        (cls.model / "config.json").write_text(json.dumps(config))

    def setUp(self):
        self.output = self.folder / f"{self.id()}.h5"

    def arguments(self, source, *options, output=None):
        dtype = [] if "--device" in options else ["--dtype", "fp32"]
        return ["run", "--model", self.model, "--input", source, "--output", output or self.output, "--threads", 1,
                "--max-new-tokens", 6, *dtype, *options]

    def run_apb(self, source, *options, ranks=2, code=0, output=None, environment=None):
        process = apb(*self.arguments(source, *options, output=output), ranks=ranks, environment=environment)
        self.assertEqual(process.returncode, code, process.stderr)
        return process

    def checked(self, source, *options, **more):
        output = self.folder / f"{self.id()}-{random.randrange(10**9)}.h5"
        self.run_apb(source, *options, output=output, **more)
        return drifts(output)

    def test_as_computed_from_two_runs(self):
        documents = [self.random_document(f"d{i}", 250 + 61 * i) for i in range(6)]
        documents[2]["queries"] = [documents[2].pop("query_tokens"), [3, 1, 4, 1, 5, 9, 2, 6]]
        source = self.write_input(documents)
        rough = ["--blocks", 8, "--passing-length", 2, "--anchor-length", 24]
        close = ["--blocks", 4, "--passing-length", 300, "--anchor-length", 0]  # nothing is left out
        seen = set()
        for options in (rough, close):
            process = self.run_apb(source, *options, "--check-dense", 9, "--overwrite")
            found = drifts(self.output)
            both = []
            for method in (options, ["--method", "full"]):
                output = self.folder / f"{self.id()}-{len(both)}.h5"
                self.run_apb(source, *method, "--save-logits", "--overwrite", output=output)
                both.append(answers(output))
            self.assertEqual(found.keys(), {f"d{i}" for i in range(6)} | {"d2#2"})
            for name, (difference, token, equal) in found.items():
                (tokens, logits), (exact_tokens, exact_logits) = (one[name] for one in both)
                self.assertEqual(bool(equal), tokens.tolist() == exact_tokens.tolist())
                self.assertEqual(equal, token == -1)
                common = min(len(tokens), len(exact_tokens))
                differing = np.flatnonzero(tokens[:common] != exact_tokens[:common])
                self.assertEqual(token, differing[0] if differing.size else -1)
                steps = differing[0] + 1 if differing.size else common
                self.assertEqual(difference, np.abs(logits[:steps] - exact_logits[:steps]).max())
                seen.add(bool(equal))
            equal = sum(drift[2] for drift in found.values())
            line = f"checked against full: 7 answers, {equal} equal, largest logit difference " \
                   f"{max(drift[0] for drift in found.values()):.4g}"
            self.assertIn(line, process.stderr.splitlines())
            self.assertIn(line, apb("report", self.output).stdout.splitlines())
            with h5py.File(self.output) as file:
                self.assertNotIn("outputs/logits", file)
            rows = [json.loads(row) for row in apb("report", self.output, "--jsonl").stdout.splitlines()]
            self.assertEqual({row["id"]: row["drift"]["first_differing_token"] for row in rows},
                             {name: drift[1] for name, drift in found.items()})
        self.assertEqual(seen, {True, False})

    def test_the_choice_depends_on_seed_and_ids_alone(self):
        documents = [self.random_document(f"d{i}", 100 + 31 * i) for i in range(12)]
        source = self.write_input(documents)
        choices = [sorted(self.checked(source, "--check-dense", count, "--blocks", 4)) for count in range(5)]
        self.assertEqual([len(chosen) for chosen in choices], [0, 1, 2, 3, 4])
        for fewer, more in zip(choices, choices[1:]):
            self.assertLess(set(fewer), set(more))
        random.shuffle(documents)
        shuffled = self.write_input(documents, "shuffled.jsonl")
        self.assertEqual(sorted(self.checked(shuffled, "--check-dense", 4, "--method", "star", ranks=1)), choices[4])
        others = [sorted(self.checked(source, "--check-dense", 4, "--blocks", 4, "--seed", seed)) for seed in (1, 2, 3)]
        self.assertTrue(any(other != choices[4] for other in others))

    def test_a_failed_document_is_not_checked(self):
        documents = [self.random_document(f"d{i}", 100) for i in range(6)]
        three = self.checked(self.write_input(documents), "--check-dense", 3)
        bad = random.choice(sorted(three))
        (place,) = (i for i, document in enumerate(documents) if document["id"] == bad)
        documents[place] = {"id": bad, "context_tokens": [999_999], "query_tokens": [1]}
        self.run_apb(self.write_input(documents, "failing.jsonl"), "--check-dense", 3, code=1)
        self.assertEqual(drifts(self.output), {name: three[name] for name in three.keys() - {bad}})
        self.assertEqual(len(rows_of(self.output)), 5)

    def test_groups_of_ranks_check_their_own_documents(self):
        source = self.write_input([self.random_document(f"d{i}", 100 + 31 * i) for i in range(7)])
        options = ["--check-dense", 4, "--blocks", 4]
        expected = self.checked(source, *options, ranks=1)
        process = self.run_apb(source, *options, "--ranks-per-document", 1, ranks=3)
        self.assertEqual(drifts(self.output), expected)
        equal = sum(drift[2] for drift in expected.values())
        self.assertIn(f"checked against full: 4 answers, {equal} equal", process.stderr)

    def test_resume_checks_what_is_missing(self):
        documents = [self.random_document(f"d{i}", 100 + 31 * i) for i in range(6)]
        source = self.write_input(documents)
        expected = self.checked(source, "--check-dense", 4, "--blocks", 4)
        self.run_apb(self.write_input(documents[:4], "some.jsonl"), "--blocks", 4)  # nothing checked
        before, seen = rows_of(self.output), {}
        for count in (2, 4, 4, 0):
            process = self.run_apb(source, "--check-dense", count, "--blocks", 4, "--resume", ranks=2)
            found, after = drifts(self.output), rows_of(self.output)
            self.assertEqual(len(found), count or 4)
            self.assertLessEqual(found.items(), expected.items())
            for name, row in before.items():
                self.assertEqual(after[name][:2], row[:2])
                if name not in found or name in seen:
                    self.assertEqual(after[name], row)  # the seconds, too: not computed again
            before, seen = after, found
        self.assertIn("checked against full: 4 answers", process.stderr)

    def test_a_check_that_is_interrupted_leaves_the_answer(self):
        source = self.write_input([self.random_document("long", 60_000)])
        options = ["--blocks", 16, "--passing-length", 64, "--anchor-length", 256]
        begun = time.monotonic()
        self.run_apb(source, *options)
        expected = rows_of(self.output)["long"]
        wait = 1.5 * (time.monotonic() - begun)
        self.output.unlink()
        while True:  # longer if the answer was not there yet
            run = BackgroundRun(*self.arguments(source, *options, "--check-dense", 1), ranks=2,
                                log=self.folder / f"{self.id()}.log")
            time.sleep(wait)
            os.kill(run.launcher.pid, signal.SIGUSR1)
            self.assertEqual(run.wait(), 75, run.log.read_text())
            self.assertIn("--resume", run.lines()[0])
            if committed(self.output):
                break
            wait *= 1.5
            self.assertLess(wait, 60)
        self.assertEqual(committed(self.output)["long"][:2], expected[:2])
        self.assertIn("0 of 1 documents are left", run.lines()[0])
        short = self.write_input([self.random_document("short", 500)], "short.jsonl")  # the check itself would take long
        self.run_apb(short, *options[:2], "--check-dense", 1, "--resume")
        self.assertEqual(rows_of(self.output).keys(), {"long", "short"})
        self.assertEqual(drifts(self.output).keys(), {"short"})

    def test_too_little_memory_for_the_exact_method(self):
        source = self.write_input([self.random_document("large", 300_000), self.random_document("small", 12_000)])
        gpus = {"APB_CUDA_MODULE": os.environ["APB_STAND_IN_MODULE"], "STAND_IN_GPUS": "4"}
        options = ["--device", "cuda", "--blocks", 128, "--passing-length", 64, "--anchor-length", 64]
        needed = []
        for method in (options, ["--device", "cuda", "--method", "full"]):
            process = self.run_apb(source, *method, "--overwrite", ranks=4, code=1,
                                   environment={**gpus, "STAND_IN_MEMORY": "1000"})
            needed.append(float(re.search(r"large: failed: .* need ([0-9.]+) GiB", process.stderr).group(1)))
        self.assertLess(needed[0] + 0.011, needed[1])
        memory = int(sum(needed) / 2 * 2**30)
        process = self.run_apb(source, *options, "--check-dense", 2, "--overwrite", ranks=4,
                               environment={**gpus, "STAND_IN_MEMORY": str(memory)})
        self.assertRegex(process.stderr, "large: not checked against full: 300000 context tokens need .* GiB")
        self.assertEqual(drifts(self.output).keys(), {"small"})
        self.assertEqual(rows_of(self.output).keys(), {"large", "small"})

    def test_with_an_exact_method(self):
        source = self.write_input([self.random_document("one")])
        for method in ("full", "ring", "ulysses"):
            process = apb(*self.arguments(source, "--method", method, "--check-dense", 1))
            self.assert_fails(process, 2, "--check-dense", f"--method {method} is exact")
        self.assertFalse(self.output.exists())


if __name__ == "__main__":
    unittest.main()
