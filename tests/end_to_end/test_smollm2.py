"""The demo model against the committed reference of another program (see tests/make_smollm2_reference.py)."""
import json
import os
import pathlib
import tempfile
import unittest

import h5py
import numpy as np

from program import apb

REFERENCE = json.loads((pathlib.Path(__file__).parent.parent / "data" / "smollm2_reference.json").read_text())
MODEL = pathlib.Path(os.environ.get("APB_DATA", pathlib.Path.home() / ".cache" / "apb")) / "smollm2-135m-instruct"


@unittest.skipUnless(MODEL.is_dir(), f"needs {MODEL}: run data/fetch_smollm2.py")
class SmolLM2Test(unittest.TestCase):
    def run_documents(self, documents, *options):
        with tempfile.TemporaryDirectory() as folder:
            source = pathlib.Path(folder) / "input.jsonl"
            source.write_text("".join(json.dumps(document) + "\n" for document in documents))
            output = pathlib.Path(folder) / "output.h5"
            process = apb("run", "--model", MODEL, "--input", source, "--output", output, "--method", "full",
                          "--save-logits", *options, ranks=2)
            self.assertEqual(process.returncode, 0, process.stderr)
            with h5py.File(output) as file:
                offsets = file["outputs/token_offsets"][:]
                tokens = np.split(file["outputs/token_ids"][:], offsets[1:-1])
                return tokens, np.split(file["outputs/logits"][:], offsets[1:-1])

    def largest_differences(self, *options):
        """max |difference| / max |reference| of the logits after given tokens, for each prompt and step."""
        documents, wanted = [], []
        for prompt in REFERENCE["prompts"]:
            for entry in prompt["logits"]:
                tokens = prompt["token_ids"] + prompt["generated_ids"][:entry["step"]]
                documents.append({"id": f"{prompt['name']}-{entry['step']}", "context_tokens": tokens[:-5],
                                  "query_tokens": tokens[-5:], "max_new_tokens": 1})
                wanted.append(entry)
        _, logits = self.run_documents(documents, *options)
        for found, entry in zip(logits, wanted, strict=True):
            ids = entry["top_ids"] + entry["random_ids"]
            values = np.array(entry["top_values"] + entry["random_values"])
            yield np.abs(found[0, ids] - values).max() / entry["maximum_magnitude"]

    def test_bf16_logits(self):
        for difference in self.largest_differences("--dtype", "bf16"):
            self.assertLessEqual(difference, 2e-2)

    def test_fp32_logits(self):
        for difference in self.largest_differences("--dtype", "fp32"):
            self.assertLessEqual(difference, 2e-4)

    def test_fp32_greedy_tokens(self):
        documents = [{"id": prompt["name"], "context_tokens": prompt["token_ids"][:-7],
                      "query_tokens": prompt["token_ids"][-7:]} for prompt in REFERENCE["prompts"]]
        tokens, _ = self.run_documents(documents, "--dtype", "fp32", "--max-new-tokens", 32)
        for found, prompt in zip(tokens, REFERENCE["prompts"], strict=True):
            self.assertEqual(found.tolist(), prompt["generated_ids"])


if __name__ == "__main__":
    unittest.main()
