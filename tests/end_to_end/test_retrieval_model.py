"""The model made by hand in data/retrieval_model: what it answers, by which method, and against a model in NumPy."""
import json
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

import h5py
import numpy as np
from tokenizers import Tokenizer

from program import apb

DATA = pathlib.Path(__file__).parents[2] / "data"
MODEL = DATA / "retrieval_model"
TASKS = ("key_value", "multi_key", "two_hop")
SAMPLES = 6
BLOCKS = 8
BLOCK = -(-(2048 - 3) // BLOCKS)  # tokens
APB = ("--method", "apb", "--blocks", BLOCKS, "--compressor", "retaining-heads", "--retaining-heads",
       MODEL / "retaining_heads.safetensors")  # and an eighth of each block is passed on


def run_script(name, *arguments):
    return subprocess.run([sys.executable, DATA / name, *map(str, arguments)], check=True)


class NumpyLlama:
    """Logits of every token of a prompt, in double precision."""

    def __init__(self, folder):
        self.config = json.loads((folder / "config.json").read_text())
        raw = (folder / "model.safetensors").read_bytes()
        start = 8 + struct.unpack("<Q", raw[:8])[0]
        self.tensors = {}
        for name, entry in json.loads(raw[8:start]).items():
            begin, end = (start + offset for offset in entry["data_offsets"])
            bits = np.frombuffer(raw[begin:end], "<u2").astype(np.uint32) << 16
            self.tensors[name] = bits.view(np.float32).astype(float).reshape(entry["shape"])

    def normalized(self, x, name):
        mean_square = (x * x).mean(-1, keepdims=True)
        return x / np.sqrt(mean_square + self.config["rms_norm_eps"]) * self.tensors[name]

    def rotated(self, x):
        half = self.config["head_dim"] // 2
        angles = np.outer(np.arange(len(x)), self.config["rope_theta"] ** (-np.arange(half) / half))
        first, second = x[:, :half], x[:, half:]
        return np.hstack([first * np.cos(angles) - second * np.sin(angles),
                          second * np.cos(angles) + first * np.sin(angles)])

    def attention(self, x, prefix):
        projected = {name: x @ self.tensors[f"{prefix}{name}_proj.weight"].T for name in "qkv"}
        key, outputs = self.rotated(projected["k"]), []  # one KV head
        for query in np.split(projected["q"], self.config["num_attention_heads"], axis=1):
            scores = self.rotated(query) @ key.T / np.sqrt(self.config["head_dim"])
            scores[np.triu_indices(len(x), 1)] = -np.inf
            weights = np.exp(scores - scores.max(1, keepdims=True))
            outputs.append(weights @ projected["v"] / weights.sum(1, keepdims=True))
        return np.hstack(outputs) @ self.tensors[prefix + "o_proj.weight"].T

    def logits(self, tokens):
        x = self.tensors["model.embed_tokens.weight"][tokens]
        for layer in range(self.config["num_hidden_layers"]):
            prefix = f"model.layers.{layer}."
            x = x + self.attention(self.normalized(x, prefix + "input_layernorm.weight"), prefix + "self_attn.")
            h = self.normalized(x, prefix + "post_attention_layernorm.weight")
            gate, up = (h @ self.tensors[f"{prefix}mlp.{name}_proj.weight"].T for name in ("gate", "up"))
            x = x + gate / (1 + np.exp(-gate)) * up @ self.tensors[prefix + "mlp.down_proj.weight"].T
        return self.normalized(x, "model.norm.weight") @ self.tensors["model.embed_tokens.weight"].T


class RetrievalModelTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="apb_end_to_end_"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.seed = random.randrange(2**32)
        cls.samples = {}
        for task in TASKS:
            path = cls.folder / f"{task}.jsonl"
            run_script("make_retrieval_tasks.py", "--task", task, "--length", 2048, "--count", SAMPLES, "--seed", cls.seed,
                       "--output", path)
            cls.samples[task] = [json.loads(line) for line in path.read_text().splitlines()]

    def run_model(self, samples, *options, ranks=1):
        """Answers and logits of the samples, in a file's order."""
        source, output = self.folder / "input.jsonl", self.folder / "output.h5"
        source.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
        process = apb("run", "--model", MODEL, "--input", source, "--output", output, "--overwrite", "--threads", 1,
                      "--save-logits", *options, ranks=ranks)
        self.assertEqual(process.returncode, 0, process.stderr)
        with h5py.File(output) as file:
            lengths = file["documents/context_length"][:] + file["documents/query_length"][:]
            self.assertEqual(lengths.tolist(), [sample["length"] for sample in samples])
            self.assertEqual(set(file["outputs/finish_reason"].asstr()), {"stop"})
            logits = np.split(file["outputs/logits"][:], file["outputs/token_offsets"][1:-1])
            return [text.strip() for text in file["outputs/text"].asstr()], logits

    def check_answers(self, samples, *options, ranks=1):
        answers, _ = self.run_model(samples, *options, ranks=ranks)
        self.assertEqual(answers, [sample["answers"][0] for sample in samples], self.seed)

    def all_samples(self):
        return [sample for task in TASKS for sample in self.samples[task]]

    def test_the_script_makes_the_same_bytes(self):
        run_script("make_retrieval_model.py", self.folder / "again")
        names = sorted(path.name for path in MODEL.iterdir())
        self.assertEqual(names, sorted(path.name for path in (self.folder / "again").iterdir()))
        for name in names:
            self.assertTrue((MODEL / name).read_bytes() == (self.folder / "again" / name).read_bytes(), name)
        self.assertLess((MODEL / "model.safetensors").stat().st_size, 6e6)

    def test_evidence_is_where_the_statements_are(self):
        tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
        for sample in self.all_samples():
            tokens = tokenizer.encode(sample["context"]).tokens
            asked = sample["query"].split()[1]
            for begin, end in reversed(sample["evidence"]):  # from the question back to the answer
                self.assertEqual(tokens[begin:begin + 2] + tokens[end - 1:end], [f"\u0120{asked}", "\u0120=", "\u0120;"])
                asked = tokens[begin + 2][1:]
            self.assertEqual([asked], sample["answers"])

    def test_full_attention_answers_everything(self):
        for dtype in ("bf16", "fp32"):
            with self.subTest(dtype=dtype):
                self.check_answers(self.all_samples(), "--method", "full", "--dtype", dtype)

    def test_apb_with_retaining_heads_answers_what_no_block_border_cuts(self):
        whole = [sample for sample in self.all_samples()
                 if all((begin + 2) % BLOCK >= 2 for begin, _ in sample["evidence"])]
        for ranks in (1, 2):
            with self.subTest(ranks=ranks):
                self.check_answers(whole, *APB, ranks=ranks)

    def test_without_passing_a_definition_in_another_block_is_not_found(self):
        across = [sample for sample in self.samples["two_hop"]
                  if 1 <= sample["evidence"][0][0] // BLOCK < sample["evidence"][1][0] // BLOCK]
        if not across:
            self.skipTest(f"none of the samples of seed {self.seed}")
        for options in (("--method", "star", "--blocks", BLOCKS), (*APB, "--passing-length", 0)):
            answers, _ = self.run_model(across, *options)
            for answer, sample in zip(answers, across, strict=True):
                self.assertNotEqual(answer, sample["answers"][0], (options, self.seed))

    def test_logits_are_those_of_numpy(self):
        model, tokenizer = NumpyLlama(MODEL), Tokenizer.from_file(str(MODEL / "tokenizer.json"))
        words = [f"w{a}l{b}" for a in "aiou" for b in "aiou"]
        document = " ".join(random.choices([*words, "=", ";", "?"], k=300)) + " fafa = wiki ; "
        sample = {"context": document, "query": "? fafa =", "max_new_tokens": 4}
        context = tokenizer.encode(document).ids
        query = tokenizer.encode("\n\n" + sample["query"], add_special_tokens=False).ids
        sample["length"] = len(context + query)
        for dtype, tolerance in (("fp32", 2e-4), ("bf16", 2e-2)):
            with self.subTest(dtype=dtype):
                _, (found,) = self.run_model([sample], "--method", "full", "--dtype", dtype)
                tokens = context + query + found.argmax(1).tolist()
                wanted = model.logits(tokens)[sample["length"] - 1:-1]
                self.assertEqual(wanted.shape, found.shape)
                self.assertLessEqual(np.abs(found - wanted).max() / np.abs(wanted).max(), tolerance, document)


if __name__ == "__main__":
    unittest.main()
