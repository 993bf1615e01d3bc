"""The main job from JSON Lines to HDF5, and back out through report."""
import json
import random
import unittest

import h5py
import numpy as np

from program import ProgramTest, apb


def read(path):
    with h5py.File(path, "r") as file:
        found = {}
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
        found["phases"] = [x.decode() for x in file["timings/phase_seconds"].dims[2][0][:]]
        return found


def texts(values):
    return [value.decode() for value in values]


class RunTest(ProgramTest):
    def run_file(self, documents, *options, ranks=2, code=0):
        source = self.write_input(documents)
        output = self.folder / f"out-{random.randrange(10**9)}.h5"
        process = apb("run", "--model", self.model, "--input", source, "--output", output, "--max-new-tokens", 5,
                      "--threads", 1, *options, ranks=ranks)
        self.assertEqual(process.returncode, code, process.stderr)
        self.assertFalse((self.folder / (output.name + ".parts")).exists())
        return output, process

    def test_full_has_no_selection_to_save(self):
        for ranks, options in ((1, ()), (2, ()), (1, ("--blocks", 4))):
            output, _ = self.run_file([self.random_document("a", 300)], "--save-selection", "--method", "full", *options,
                                      ranks=ranks)
            self.assertEqual(read(output)["selection/positions"].shape[-1], 0)

    def test_every_document_is_in_the_file_once_with_what_was_used(self):
        documents = [self.random_document("first", 300, answers=["x"], depth=3),
                     {"id": 7, "context": "A text of some words. " * 20, "query": "Which words?", "max_new_tokens": 2},
                     {"id": "bad", "context": ""},
                     self.random_document("short", 4)]
        output, process = self.run_file(documents, "--save-logits", "--save-selection", "--blocks", 4, ranks=2, code=1)
        rows = read(output)
        self.assertEqual(texts(rows["documents/id"]), ["first", "7", "bad", "short"])
        self.assertEqual(texts(rows["documents/status"]), ["ok", "ok", "failed", "failed"])
        self.assertEqual(json.loads(rows["documents/metadata"][0]), {"answers": ["x"], "depth": 3})
        self.assertEqual(list(rows["documents/blocks"][:2]), [4, 4])
        self.assertEqual(list(rows["documents/ranks_used"][:2]), [2, 2])
        self.assertIn("4 blocks", rows["documents/message"][3].decode())
        lengths = np.diff(rows["outputs/token_offsets"])
        self.assertTrue(1 <= lengths[0] <= 5 and 1 <= lengths[1] <= 2 and not lengths[2:].any())
        self.assertEqual(rows["outputs/logits"].shape[0], lengths.sum())
        self.assertTrue((rows["outputs/logits"].argmax(1) == rows["outputs/token_ids"]).all())
        seconds, prefill = rows["timings/phase_seconds"], rows["timings/prefill_seconds"]
        self.assertEqual(rows["phases"][4], "attention")
        np.testing.assert_allclose(seconds[:2].sum(2), np.broadcast_to(prefill[:2, None], (2, 2)), rtol=0.05)
        config = json.loads((self.model / "config.json").read_text())
        layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
        for row in (0, 1):
            n, m = int(rows["documents/context_length"][row]), int(rows["documents/query_length"][row])
            needed = heads * ((layers - 1) * n * (n + 1) // 2 + layers * (m * n + m * (m + 1) // 2))
            self.assertEqual(rows["timings/full_pairs"][row], needed)
            self.assertLess(rows["timings/pairs"][row].sum(), needed)
            self.assertTrue((rows["timings/pairs"][row] > 0).all() and (rows["timings/bytes_sent"][row] > 0).all())
        for name in ("pairs", "full_pairs", "bytes_sent"):
            self.assertFalse(rows[f"timings/{name}"][2:].any())
        whole, waited = rows["timings/communication_whole_seconds"], seconds[..., rows["phases"].index("communication")]
        self.assertEqual(whole.shape, (4, 2))
        self.assertTrue(((0 < whole) & (whole <= waited))[:2].all() and not whole[2:].any())
        chosen = rows["selection/positions"][0]
        self.assertTrue((chosen[:-1, :-1] >= -1).all() and (chosen[0, 0] >= 0).any() and (chosen[-1] == -1).all())
        self.assertIn("bad", process.stderr)
        self.assertIn("attention", process.stderr)
        self.assertIn("prompt template: chatml\n", process.stderr)

    def test_report_shows_the_rows(self):
        output, _ = self.run_file([self.random_document("one"), self.random_document("two")])
        report = apb("report", output)
        self.assertIn("one", report.stdout)
        lines = [json.loads(line) for line in apb("report", output, "--jsonl").stdout.splitlines()]
        self.assertEqual([line["id"] for line in lines], ["one", "two"])

    def test_answers_depend_on_blocks_and_never_on_ranks(self):
        documents = [self.random_document(f"d{i}", 150 + 37 * i) for i in range(3)]
        results = []
        for ranks in (1, 2, 4):
            output, _ = self.run_file(documents, "--dtype", "fp32", "--blocks", 4, "--save-logits", ranks=ranks)
            results.append(read(output))
        for other in results[1:]:
            np.testing.assert_array_equal(other["outputs/token_ids"], results[0]["outputs/token_ids"])
            np.testing.assert_allclose(other["outputs/logits"], results[0]["outputs/logits"], rtol=0,
                                       atol=2e-4 * np.abs(results[0]["outputs/logits"]).max())

    def test_bfloat16_stays_near_fp32(self):
        documents = [self.random_document("one", 400, max_new_tokens=1)]
        rows = [read(self.run_file(documents, "--dtype", dtype, "--save-logits", "--method", "full")[0])
                for dtype in ("fp32", "bf16")]
        difference = np.abs(rows[0]["outputs/logits"] - rows[1]["outputs/logits"]).max()
        self.assertLess(difference / np.abs(rows[0]["outputs/logits"]).max(), 2e-2 * 2.5)

    def test_retaining_heads_file(self):
        heads = self.folder / "model" / "retaining_heads.bin"
        documents = [self.random_document("one", 200)]
        self.run_file(documents, "--compressor", "retaining-heads", "--retaining-heads", heads)

    def test_several_questions_about_one_document(self):
        one = self.random_document("one", 250)
        other = [random.randrange(256) for _ in range(9)]
        several = {"id": "several", "context_tokens": one["context_tokens"], "queries": [one["query_tokens"], other]}
        alone = [one, {**one, "id": "other", "query_tokens": other}]
        for options in (["--method", "full"], ["--anchor-query", "off", "--compressor", "recent"]):
            rows = read(self.run_file(alone + [several], "--dtype", "fp32", *options, ranks=2)[0])
            self.assertEqual(texts(rows["documents/id"]), ["one", "other", "several", "several#2"])
            tokens = np.split(rows["outputs/token_ids"], rows["outputs/token_offsets"][1:-1])
            np.testing.assert_array_equal(tokens[2], tokens[0])
            np.testing.assert_array_equal(tokens[3], tokens[1])
            self.assertEqual(rows["timings/prefill_seconds"][3], 0)
            for name in ("phase_seconds", "pairs", "full_pairs", "bytes_sent"):
                self.assertFalse(rows[f"timings/{name}"][3].any())
            if "full" in options:
                np.testing.assert_array_equal(rows["timings/pairs"][:3].sum(1), rows["timings/full_pairs"][:3])
            self.assertGreater(rows["timings/ttft_seconds"][3], 0)

    def test_a_text_file_and_a_question(self):
        text = self.folder / "document.txt"
        text.write_text("Some words that make a document. " * 30)
        process = apb("run", "--model", self.model, "--document", text, "--question", "What is it?",
                      "--max-new-tokens", 4, "--threads", 1)
        self.assertEqual(process.returncode, 0, process.stderr)
        self.assertGreaterEqual(len(process.stdout), 1)

    def test_options_from_a_file(self):
        config = self.folder / "options.toml"
        config.write_text('[run]\nmethod = "full"\nmax-new-tokens = 1\n')
        source = self.write_input([self.random_document("one", 50)])
        output = self.folder / "configured.h5"
        process = apb("run", "--config", config, "--model", self.model, "--input", source, "--output", output)
        self.assertEqual(process.returncode, 0, process.stderr)
        rows = read(output)
        self.assertEqual(texts(rows["documents/method"]), ["full"])
        self.assertEqual(len(rows["outputs/token_ids"]), 1)

    def test_resume_answers_only_what_is_missing(self):
        documents = [self.random_document("one", 80), self.random_document("two", 90)]
        source = self.write_input(documents[:1])
        output = self.folder / "resumed.h5"
        arguments = ["run", "--model", self.model, "--input", source, "--output", output, "--max-new-tokens", 3,
                     "--threads", 1]
        self.assertEqual(apb(*arguments).returncode, 0)
        before = read(output)
        self.write_input(documents)
        self.assertEqual(apb(*arguments, "--resume").returncode, 0)
        after = read(output)
        self.assertEqual(texts(after["documents/id"]), ["one", "two"])
        self.assertEqual(after["timings/prefill_seconds"][0], before["timings/prefill_seconds"][0])


if __name__ == "__main__":
    unittest.main()
