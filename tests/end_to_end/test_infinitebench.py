"""apb tasks generate infinitebench: its tasks made at a length, and its published files read."""
import json
import random
import re
import unittest

import h5py

from program import ProgramTest, apb

HIDDEN = ("There is an important info hidden inside a lot of irrelevant text. Find it{}. I will quiz you about the "
          "important information there.\n\n")
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n"
UUID = "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


class InfiniteBenchTest(ProgramTest):
    def setUp(self):
        self.output = self.folder / f"tasks-{random.randrange(10**9)}.jsonl"

    def generate(self, *options, suite="infinitebench", **fields):
        values = {"task": "passkey", "length": 3000, "count": 3, "output": self.output, **fields}
        named = [part for name, value in values.items() for part in (f"--{name}", value)]
        return apb("tasks", "generate", suite, "--model", self.model, *named, *options)

    def samples(self, *options, **fields):
        process = self.generate(*options, "--overwrite", **fields)
        self.assertEqual(process.returncode, 0, process.stderr)
        return [json.loads(line) for line in self.output.read_text().splitlines()]

    def rows(self):
        """Context and question tokens of a run on the samples, in the tiny model's tokens, which are bytes."""
        results = self.output.with_suffix(".h5")
        process = apb("run", "--model", self.model, "--input", self.output, "--output", results, "--method", "full",
                      "--threads", 1, "--overwrite")
        self.assertEqual(process.returncode, 0, process.stderr)
        with h5py.File(results) as file:
            return results, list(zip(file["documents/context_length"][:], file["documents/query_length"][:]))

    def evidence(self, sample, row):
        """The text at the sample's evidence."""
        text = sample["context"].encode()
        prefix = row[0] - len(text)
        (begin, end), = sample["evidence"]
        return text[begin - prefix:end - prefix].decode()

    def test_samples_are_as_published_and_of_the_exact_length(self):
        length = random.randrange(1500, 2500)
        samples = self.samples(task="all", length=length, count=2)
        self.assertEqual([one["task"] for one in samples], ["passkey"] * 2 + ["number_string"] * 2 + ["kv_retrieval"] * 2)
        results, rows = self.rows()
        for sample, row in zip(samples, rows, strict=True):
            self.assertEqual(sum(row), length)
            self.assertEqual((sample["suite"], sample["length"]), ("infinitebench", length))
        for sample, row in zip(samples[:2], rows[:2]):
            key, = sample["answers"]
            self.assertRegex(key, "^[0-9]{5}$")
            self.check_hidden(sample, row, HIDDEN.format(" and memorize them"),
                              f"The pass key is {key}. Remember it. {key} is the pass key.\n")
            self.assertEqual((sample["query"], sample["answer_prefix"]), ("What is the pass key?", " The pass key is"))
            self.assertEqual((sample["metric"], sample["max_new_tokens"]), ("first_integer", 6))
        for sample, row in zip(samples[2:4], rows[2:4]):
            digits, = sample["answers"]
            self.assertRegex(digits, "^[0-9]{10}$")
            self.assertTrue(1 <= len(re.findall(r"(.)\1*", digits)) <= 5)  # five, some of them said again
            self.check_hidden(sample, row, HIDDEN.format(""),
                              f"The sequence of digits is {digits}. Remember it. {digits} is the sequence of digits.\n")
            self.assertEqual((sample["metric"], sample["max_new_tokens"]), ("first_integer", 12))
        for sample, row in zip(samples[4:], rows[4:]):
            head = "Extract the value corresponding to the specified key in the JSON object below.\n\nJSON data:\n"
            self.assertTrue(sample["context"].startswith(head))
            pairs = json.loads(sample["context"][len(head):])
            for key, value in list(pairs.items())[:-1]:
                self.assertRegex(key, f"^{UUID}$")
                self.assertRegex(value, f"^{UUID}$")
            asked = re.fullmatch(f'Key: "({UUID})"', sample["query"])[1]
            self.assertEqual(sample["answers"], [pairs[asked]])
            self.assertEqual(self.evidence(sample, row), f'"{asked}": "{pairs[asked]}"')
            self.assertEqual((sample["metric"], sample["max_new_tokens"]), ("word", 50))
        table = apb("tasks", "score", results).stdout
        for task in ("passkey", "number_string", "kv_retrieval", "average"):
            self.assertRegex(table, rf"infinitebench +{task} +{length}")

    def check_hidden(self, sample, row, instruction, needle):
        self.assertEqual(self.evidence(sample, row), needle.strip())
        context = sample["context"]
        self.assertTrue(context.startswith(instruction))
        noise = context[len(instruction):].replace(needle, "", 1)
        self.assertTrue((NOISE * (len(noise) // len(NOISE) + 1)).startswith(noise))

    def publish(self, *samples):
        path = self.folder / "published.jsonl"
        path.write_text("".join(sample if isinstance(sample, str) else json.dumps(sample) + "\n" for sample in samples))
        return path

    def test_published_files(self):
        long = "".join(random.choices("aäé東🙂 ", k=3000))
        sample = {"id": 0, "context": "a short one", "input": "What is the pass key?", "answer": ["71432"], "options": []}
        file = self.publish(sample, "\n", {**sample, "id": 1, "context": long, "answer": "12345"}, sample, sample)
        length = random.randrange(1001, 1010)
        samples = self.samples(data=file, length=length)
        instruction = HIDDEN.format(" and memorize them")
        self.assertEqual([one["context"] == instruction + "a short one" for one in samples], [True, False, True])
        self.assertEqual([one["answers"] for one in samples], [["71432"], ["12345"], ["71432"]])
        self.assertEqual([one["id"][-4:] for one in samples], ["0000", "0001", "0002"])
        self.assertEqual((samples[1]["query"], samples[1]["answer_prefix"], samples[1]["metric"]),
                         ("What is the pass key?", " The pass key is", "first_integer"))
        _, rows = self.rows()
        context, query = rows[1]
        self.assertTrue(length - 6 <= context + query <= length, rows)  # a character at each end may be cut
        prefix = context - len(samples[1]["context"].encode())
        whole = (instruction + long).encode()
        head, tail = length // 2 - prefix, length - length // 2 - query
        expected = whole[:head].decode(errors="ignore") + whole[-tail:].decode(errors="ignore")
        self.assertEqual(samples[1]["context"], expected)

        question = {"context": "A book.", "input": "Who?", "answer": ["Ann", "Ann Lee"], "options": []}
        sample, = self.samples(data=self.publish(question), task="longbook_qa_eng")
        self.assertEqual((sample["query"], sample["answer_prefix"], sample["metric"], sample["answers"]),
                         ("Question: Who?", "\nAnswer:", "f1", ["Ann", "Ann Lee"]))

    def test_what_cannot_be_made(self):
        good = {"id": 0, "context": "text", "input": "What?", "answer": ["1"], "options": []}

        def refused(*parts, code=3, **fields):
            self.assert_fails(self.generate(**fields), code, *parts)
            self.assertFalse(self.output.exists())

        for bad, part in [({**good, "context": 3}, "context"), ({**good, "answer": []}, "answer"),
                          ({**good, "answer": [1]}, "answer"), ({"context": "text", "answer": ["1"]}, "input"),
                          ({"input": "What?", "answer": ["1"]}, "context"), ("[]\n", "JSON"), ("{nothing\n", "JSON")]:
            refused("published.jsonl", "line 3", part, data=self.publish(good, "\n", bad))
        refused("published.jsonl", "no samples", data=self.publish("\n"))
        refused("none.jsonl", data=self.folder / "none.jsonl")
        long = {**good, "context": "a" * 3000, "input": "b" * 300}
        refused("line 1", "--length 400", data=self.publish(long), length=400)
        refused("--data", "passkey", "longbook_qa_eng", code=2, data=self.publish(good), task="math_calc")
        refused("--data", "infinitebench", code=2, data=self.publish(good), suite="ruler", task="vt")
        refused("passkey", "--length is 100", length=100)
        refused("kv_retrieval", "--length is 200", length=200, task="kv_retrieval")
        refused("math_calc", "kv_retrieval", code=2, task="math_calc")
        refused("positions", length=10**6)
        self.assertEqual(self.generate(suite="longbench").returncode, 2)


if __name__ == "__main__":
    unittest.main()
