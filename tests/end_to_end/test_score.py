"""apb tasks score: scores, table and JSON of small results files, held against the public rules written in Python."""
import json
import math
import random
import re
import statistics
import string
import subprocess
import unittest
from collections import Counter

import results_file
from program import APB, ProgramTest, apb

SEED = random.randrange(2**32)


def in_lower_case(answer, prediction):
    prediction = re.sub("[\x00-\x1f]", "\n", prediction.strip()).strip()  # RULER's preparation
    return answer.lower() in prediction.lower()


def normalised(text):
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def f1(prediction, answer):
    shared = sum((Counter(normalised(prediction)) & Counter(normalised(answer))).values())
    if shared == 0:
        return 0
    precision, recall = shared / len(normalised(prediction)), shared / len(normalised(answer))
    return 2 * precision * recall / (precision + recall)


def words(prediction):
    return re.sub("[\n:\"'.,?!{}]", " ", prediction).split()


RULES = {
    "match_all": lambda prediction, answers: statistics.mean(in_lower_case(answer, prediction) for answer in answers),
    "match_any": lambda prediction, answers: max(in_lower_case(answer, prediction) for answer in answers),
    "first_integer": lambda prediction, answers: re.findall("[0-9]+|$", prediction)[0] == answers[0],
    "word": lambda prediction, answers: answers[0] in words(prediction),
    "exact": lambda prediction, answers: max(normalised(prediction) == normalised(answer) for answer in answers),
    "f1": lambda prediction, answers: max(f1(prediction, answer) for answer in answers),
}


def score(*arguments):
    return subprocess.run([APB, "tasks", "score", *map(str, arguments)], capture_output=True, text=True, timeout=60,
                          check=False)


class ScoreTest(ProgramTest):
    def results(self, name, rows, **more):
        return results_file.write(self.folder / name, rows, **more)

    def scores(self, *files):
        output = self.folder / "scores.json"
        process = score(*files, "--json", output)
        self.assertEqual(process.returncode, 0, process.stderr)
        self.assertFalse(list(self.folder.glob("*.tmp")))
        return json.loads(output.read_text()), process.stdout

    def test_scores_are_those_of_the_public_rules(self):
        rng = random.Random(SEED)
        pieces = ["the", "a", "An", "42", "7", "Äpfel", "cat", "CAT", "东京", "½", "²", "x_y", " ", "\t", "\n", "\x1f",
                  "\u3000", "\u2003", "\u2014", "\u0301", ".", ",", "'", "{", "-", ";", "\u200b", "ẞ", "ΣΑ"]
        rows = []
        for number in range(1500):
            metric = rng.choice(list(RULES))
            answers = ["".join(rng.choices(pieces, k=rng.randint(1, 3))) for _ in range(rng.randint(1, 4))]
            prediction = "".join(rng.choices(pieces + answers, k=rng.randint(0, 8)))
            rows.append(results_file.row(f"row-{number}", prediction, {"task": metric, "metric": metric,
                                                                       "answers": answers}))
        found, _ = self.scores(self.results("random.h5", rows))
        scores = {name: value for task in found["files"][0]["tasks"] for name, value in task["scores"].items()}
        right = 0
        for row in rows:
            metadata = json.loads(row["metadata"])
            expected = RULES[metadata["metric"]](row["text"], metadata["answers"])
            self.assertAlmostEqual(scores[row["id"]], expected, 12, (SEED, row["text"], metadata))
            right += expected > 0
        self.assertTrue(100 < right < 1400)

    def test_tables_of_several_files(self):
        def rows(found, method, lengths=(100, 200), **fields):
            made = []
            for length in lengths:
                for task, share in (("one", found), ("two", 1)):
                    for number in range(20):
                        metadata = {"suite": "ruler", "task": task, "length": length, "metric": "match_all",
                                    "answers": ["right", "good"]}
                        text = "RIGHT, good" if number < share * 20 else "right"
                        made.append(results_file.row(f"{task}-{length}-{number}", text, metadata, method=method,
                                                     prefill_seconds=length + number, ttft_seconds=length + 1,
                                                     **fields))
            return made

        full = self.results("full.h5", rows(1, "full", anchor_length=0, passing_length=0),
                            options={"compressor": "random"})
        half = rows(0.5, "apb")
        half[0] = {**half[0], "status": "failed", "message": "no room", "text": "", "prefill_seconds": 0}
        for row in half[40:]:
            row["passing_length"] = 12
        apb_file = self.results("apb.h5", half, options={"compressor": "query-similarity"})
        found, table = self.scores(full, apb_file)

        first, second = found["files"]
        self.assertEqual([(one["task"], one["length"]) for one in second["tasks"]],
                         [("one", 100), ("two", 100), ("one", 200), ("two", 200)])
        failed, whole = second["tasks"][0], second["tasks"][2]
        self.assertEqual(failed["score"]["mean"], 14 / 20)  # nine times 1, ten times 1/2, one failed
        self.assertEqual(failed["scores"]["one-100-0"], 0)
        self.assertEqual(failed["prefill_seconds"], 100 + 10)  # of 1 to 19
        self.assertEqual(whole["score"]["mean"], 0.75)
        self.assertEqual((whole["prefill_seconds"], whole["ttft_seconds"]), (209.5, 201))
        self.assertEqual((whole["passing_lengths"], failed["passing_lengths"]), ([12], [8]))
        self.assertEqual(second["failed"], [{"id": "one-100-0", "message": "no room"}])
        self.assertEqual(first["tasks"][0]["score"]["high"], 1)
        z = statistics.NormalDist().inv_cdf(0.975)
        self.assertAlmostEqual(first["tasks"][0]["score"]["low"], 1 / (1 + z * z / 20), 12)
        average = second["averages"][1]
        self.assertEqual((average["length"], average["tasks"], average["score"]["mean"]), (200, ["one", "two"], 0.875))
        below = math.hypot(*(one["score"]["mean"] - one["score"]["low"] for one in second["tasks"][2:])) / 2
        self.assertAlmostEqual(average["score"]["low"], 0.875 - below, 12)

        lines = {re.split("  +", line)[0]: re.split("  +", line)[1:] for line in table.splitlines()}
        self.assertEqual(lines["method"], ["full", "apb"])
        self.assertEqual(lines["a"], ["0", "16"])
        self.assertEqual(lines["p"], ["0", "8 to 12"])
        self.assertEqual(lines["compressor"], ["-", "query-similarity"])
        self.assertEqual(lines["file"], ["full.h5", "apb.h5"])
        self.assertIn("B 4", table.splitlines()[0])
        cells = [re.split("  +", line) for line in table.splitlines() if line.startswith("ruler")]
        self.assertEqual([line[1:3] for line in cells], [["one", "100"], ["two", "100"], ["average", "100"],
                                                         ["one", "200"], ["two", "200"], ["average", "200"]])
        low, high = (100 * whole["score"][end] for end in ("low", "high"))
        self.assertEqual(cells[3][3:], ["100.0 [83.9, 100.0] 20", f"75.0 [{low:.1f}, {high:.1f}] 20"])
        self.assertTrue(any("one-100-0" in line and "no room" in line and "apb.h5" in line
                            for line in table.splitlines() if line.startswith("note: ")), table)
        self.assertNotIn("different tasks", table)

        one = self.results("one.h5", [row for row in half if row["id"].startswith("one-200")])
        _, table = self.scores(apb_file, one)
        self.assertIn("different tasks", table)
        cells = [re.split("  +", line) for line in table.splitlines() if " two " in line]
        self.assertEqual(cells[1][1:], ["two", "200", "100.0 [83.9, 100.0] 20", "-"])

    def test_rows_that_do_not_say_much(self):
        """Like those of data/make_passkey_document.py."""
        rows = [results_file.row("depth10-key1", " 12345, I say", {"answers": ["12345"]}),
                results_file.row("depth10-key2", " 54321", {"answers": ["12345"]})]
        found, table = self.scores(self.results("passkey.h5", rows))
        self.assertEqual(found["files"][0]["tasks"][0]["score"]["mean"], 0.5)
        self.assertIn("50.0 [9.5, 90.5] 2", table)
        self.assertNotIn("average", table)

    def test_parts_of_a_run_that_goes_on(self):
        parts = self.folder / "out.h5.parts"
        parts.mkdir()
        good, bad = {"answers": ["x"]}, results_file.row("a", "", {"answers": ["x"]}, status="failed", message="lost")
        results_file.write(parts / "part-000001.h5", [bad, results_file.row("b", "y", good)])
        results_file.write(parts / "part-000002.h5", [results_file.row("a", "x", good)])
        (parts / "lock").write_text("host 1")
        found, _ = self.scores(parts)
        self.assertEqual(found["files"][0]["tasks"][0]["scores"], {"a": 1, "b": 0})
        self.assertEqual(found["files"][0]["failed"], [])

    def test_one_rank_works(self):
        file = self.results("ranks.h5", [results_file.row("a", "x", {"answers": ["x"]})])
        process = apb("tasks", "score", file, ranks=3)
        self.assertEqual(process.returncode, 0, process.stderr)
        self.assertEqual(process.stdout.count("100.0"), 2, process.stdout)  # the mean and the interval's end

    def test_what_cannot_be_scored(self):
        fine = self.results("fine.h5", [results_file.row("a", "x", {"answers": ["x"]})])
        output = self.folder / "never.json"

        def refused(rows, *parts):
            file = self.results("bad.h5", [results_file.row("first", "x", {"answers": ["x"]}), *rows] if rows else [])
            process = score(fine, file, "--json", output)
            self.assert_fails(process, 3, "bad.h5", *parts)
            self.assertEqual(process.stdout, "")
            self.assertFalse(output.exists())

        refused([], "no rows")
        refused([results_file.row("sample-7", "x", {"task": "t"})], "sample-7", "answers")
        refused([results_file.row("sample-7", "x", {"answers": []})], "sample-7", "answers")
        refused([results_file.row("sample-7", "x", {"answers": "x"})], "sample-7", "answers", "list")
        refused([results_file.row("sample-7", "x", {"answers": ["x", 3]})], "sample-7", "answers")
        refused([results_file.row("sample-7", "x", {"answers": ["x"], "metric": "rouge"})], "sample-7", "rouge", "f1")
        refused([results_file.row("sample-7", "x", {"answers": ["x"], "metric": "f1"})], "sample-7", "f1", "match_all")
        refused([results_file.row("sample-7", "x", {"answers": ["x"], "task": 3})], "sample-7", "task")
        refused([results_file.row("sample-7", "x", {"answers": ["x"], "length": "4K"})], "sample-7", "length")

        self.assert_fails(score(self.folder / "none.h5"), 3, "none.h5")
        text = self.folder / "text.h5"
        text.write_text("no HDF5")
        self.assert_fails(score(text), 3, "text.h5")
        self.assert_fails(score(self.folder / "model"), 3, "model", "no part")
        before = fine.read_bytes()
        self.assert_fails(score(fine, "--json", fine), 2, "--json", "fine.h5")
        self.assertEqual(fine.read_bytes(), before)
        self.assert_fails(score(fine, "--json", self.folder / "no_folder" / "s.json"), 3, "s.json")
        self.assertEqual(score().returncode, 2)
        self.assertEqual(score(fine, "--jsno").returncode, 2)


if __name__ == "__main__":
    unittest.main()
