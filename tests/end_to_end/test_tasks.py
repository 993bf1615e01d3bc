"""Tasks with known answers: made by apb tasks generate, and asked by apb run."""
import json
import os
import pathlib
import random
import subprocess
import unittest

import h5py
import numpy as np

from program import APB, ProgramTest, apb, own_lines

SMOLLM2 = pathlib.Path(os.environ.get("APB_DATA", pathlib.Path.home() / ".cache" / "apb")) / "smollm2-135m-instruct"
WITHOUT_FILES = ("niah_single_1,niah_single_2,niah_single_3,niah_multikey_1,niah_multikey_2,niah_multikey_3,"
                 "niah_multivalue,niah_multiquery,vt,cwe,fwe")


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


class TasksTest(ProgramTest):
    def setUp(self):
        self.output = self.folder / f"tasks-{random.randrange(10**9)}.jsonl"

    def generate(self, *options, model=None, ranks=1, **fields):
        values = {"task": "niah_single_1", "length": 3000, "count": 2, "output": self.output, **fields}
        named = [part for name, value in values.items() for part in (f"--{name}", value)]
        return apb("tasks", "generate", "ruler", "--model", model or self.model, *named, *options, ranks=ranks)

    def answer(self, source, *options):
        """The rows of a run on these tasks."""
        output = self.output.with_suffix(".h5")
        process = apb("run", "--model", self.model, "--input", source, "--output", output, "--method", "full",
                      "--threads", 1, "--overwrite", *options)
        self.assertEqual(process.returncode, 0, process.stderr)
        with h5py.File(output) as file:
            found = {}
            file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
            return found

    def test_a_run_sees_prompts_of_the_length_that_was_asked_for(self):
        length = random.randrange(2900, 3900)
        self.assertEqual(self.generate(task="niah_single_1,niah_multikey_2,vt", length=length).returncode, 0)
        source = self.folder / "short_answers.jsonl"
        samples = lines_of(self.output)
        self.assertEqual(len(samples), 6)
        source.write_text("".join(json.dumps(sample | {"max_new_tokens": 2}) + "\n" for sample in samples))
        rows = self.answer(source)
        np.testing.assert_array_equal(rows["documents/context_length"] + rows["documents/query_length"], length)
        for sample, metadata in zip(samples, rows["documents/metadata"], strict=True):
            kept = {name: sample[name] for name in ("suite", "task", "length", "metric", "answers", "evidence")}
            self.assertEqual(json.loads(metadata), kept)

    def test_answer_prefix_is_read_and_part_of_the_key_but_not_of_the_answer(self):
        document = {"context": "A text of some words. " * 20, "query": "Which words?", "max_new_tokens": 3}
        plain, prefixed = self.answer(self.write_input([{**document, "id": "a"},
                                                        {**document, "id": "b", "answer_prefix": " These:"}])
                                      )["documents/query_length"]
        self.assertEqual(prefixed - plain, len(" These:"))  # the tiny model's tokens are bytes
        keys = [self.answer(self.write_input([{**document, **prefix}]))["documents/key"][0]
                for prefix in ({}, {"answer_prefix": " These:"}, {"answer_prefix": " Those:"}, {})]
        self.assertEqual(keys[0], keys[3])
        self.assertEqual(len(set(keys)), 3)

    def test_the_same_seed_gives_the_same_file_on_any_number_of_ranks(self):
        files = []
        for seed, ranks in ((5, 1), (5, 3), (6, 1)):
            process = self.generate("--overwrite", seed=seed, ranks=ranks)
            self.assertEqual(process.returncode, 0, process.stderr)
            files.append(self.output.read_bytes())
        self.assertEqual(files[0], files[1])
        self.assertNotEqual(files[0], files[2])
        self.assertFalse(list(self.folder.glob("*.tmp")))

    def test_files_of_the_user(self):
        words = self.folder / "words.txt"
        names = [a + b + c for a in "bdfglmnprst" for b in "aeiou" for c in ("lom", "ver", "nik", "sal") * 5]
        words.write_text("\n".join({name + tail for name in names for tail in ("", "a", "on", "ia", "us", "et")}))
        essays = self.folder / "essays"
        essays.mkdir()
        (essays / "one.txt").write_text("The harbour lay silent under snow. " * 200)
        squad = self.folder / "squad.json"
        squad.write_text(json.dumps({"data": [{"paragraphs": [
            {"context": f"Ship {i} was built in yard {i * 7} by the river.",
             "qas": [{"question": f"Where was ship {i} built?", "answers": [{"text": f"yard {i * 7}"}]}]}
            for i in range(100)]}]}))
        process = self.generate("--words", words, "--essays", essays, "--squad", squad, task="niah_single_2,qa_1")
        self.assertEqual(process.returncode, 0, process.stderr)
        needle, _, question, _ = lines_of(self.output)
        self.assertIn("The harbour lay silent under snow. The harbour", needle["context"])
        key = needle["query"].split(" for ")[1].split(" ")[0]
        self.assertTrue(set(key.split("-")) <= set(words.read_text().split()))
        self.assertIn(question["answers"][0], question["context"])

    def test_wrong_usage_and_what_cannot_be(self):
        fails = self.assert_fails
        fails(self.generate(task="qa_1"), 2, "qa_1", "--squad", "SQuAD")
        fails(self.generate(task="all", ranks=2), 2, "--squad")
        fails(self.generate(task="niah"), 2, "'niah'", "niah_single_1")
        fails(self.generate(length=200), 3, "niah_single_1", "at least", "200")
        fails(self.generate(length=4096), 3, "4096", "128", "positions", "3968 or less")
        fails(self.generate(length=0), 2, "--length")
        fails(self.generate("--essays", self.folder / "none.txt", task="niah_single_2"), 3, "none.txt")
        fails(self.generate("--template", "llama3"), 2, "llama3")
        fails(self.generate(model=self.folder / "nowhere"), 3, "nowhere")
        fails(self.generate(output=self.folder / "no" / "folder.jsonl"), 3, "/no:", "no such folder")
        fails(apb("tasks", "generate", "rules", "--task", "all", "--model", self.model, "--length", 100, "--output",
                  self.output), 2, "'rules'", "ruler")
        fails(apb("tasks"), 2, "tasks --help")
        self.assertFalse(self.output.exists())
        self.assertFalse(list(self.folder.glob("*.tmp")))

    def test_an_output_is_kept_unless_it_may_be_overwritten(self):
        self.output.write_text("precious")
        self.assert_fails(self.generate(), 3, self.output.name, "--overwrite")
        self.assert_fails(self.generate("--overwrite", task="qa_1"), 2, "--squad")
        self.assertEqual(self.output.read_text(), "precious")
        self.assertEqual(self.generate("--overwrite").returncode, 0)
        self.assertEqual(len(lines_of(self.output)), 2)

    def test_help(self):
        for arguments, part in ((["tasks", "--help"], "generate"), (["tasks", "generate", "--help"], "--squad")):
            process = subprocess.run([APB, *arguments], capture_output=True, text=True, timeout=60, check=False)
            self.assertEqual(process.returncode, 0)
            self.assertIn(part, process.stdout)
        self.assertEqual(len(own_lines(apb("tasks", "generate", "--nonsense"))), 1)

    @unittest.skipUnless(SMOLLM2.is_dir(), f"needs {SMOLLM2}: run data/fetch_smollm2.py")
    def test_lengths_as_another_tokenizer_counts_them(self):
        from tokenizers import Tokenizer
        tokenizer = Tokenizer.from_file(str(SMOLLM2 / "tokenizer.json"))
        length = random.randrange(2000, 7000)
        process = self.generate(task=WITHOUT_FILES, length=length, model=SMOLLM2, seed=random.randrange(2**32))
        self.assertEqual(process.returncode, 0, process.stderr)

        def ids(text):
            return tokenizer.encode(text, add_special_tokens=False).ids

        for sample in lines_of(self.output):
            context = ids("<|im_start|>user\n" + sample["context"])
            query = ids(f"\n\n{sample['query']}<|im_end|>\n<|im_start|>assistant\n{sample['answer_prefix']}")
            self.assertEqual(len(context) + len(query), length, sample["id"])
            evidence = "\n".join(tokenizer.decode(context[first:last]) for first, last in sample.get("evidence", []))
            self.assertLess(len(evidence), 150 * (1 + len(sample["answers"])))
            if sample["task"] not in ("cwe", "fwe"):
                for answer in sample["answers"]:
                    self.assertIn(answer, evidence)


if __name__ == "__main__":
    unittest.main()
