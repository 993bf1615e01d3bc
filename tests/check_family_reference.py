#!/usr/bin/env python3
"""Hold tests/data/family_reference.json (made with mlx-lm) against Hugging Face transformers in float32.

On demand, not part of the tests: run it with a Python that has torch and transformers.

    check_family_reference.py --make-tiny-model build/release/tests/make_tiny_model

Prints for each family the largest difference of the logits, relative to the largest logit; exit status 1 beyond 1e-4 or
when a greedy token differs. With --model-folder it does the same for the demo model and smollm2_reference.json.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers

DATA = Path(__file__).resolve().parent / "data"
TOLERANCE = 1e-4


def logits_of(folder, sequences):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return type(model).__name__, [model(torch.tensor([tokens])).logits[0, -1].double() for tokens in sequences]


def report(name, kind, pairs, tokens_equal):
    """pairs: (found, expected, magnitude) a step."""
    worst = max(((found - expected).abs().max() / magnitude).item() for found, expected, magnitude in pairs)
    good = worst <= TOLERANCE and tokens_equal
    print(f"{name}: {kind}, relative difference {worst:.1e}, tokens {'equal' if tokens_equal else 'DIFFER'}")
    return good


def check_family(family, make_tiny_model):
    tokens, steps = family["prompt"], len(family["generated_ids"])
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([make_tiny_model, folder, str(family["seed"]), family["name"]], check=True)
        kind, found = logits_of(folder, [tokens + family["generated_ids"][:step] for step in range(steps)])
    expected = [torch.tensor(row, dtype=torch.float64) for row in family["logits"]]
    pairs = [(row, wanted, wanted.abs().max()) for row, wanted in zip(found, expected, strict=True)]
    return report(family["name"], kind, pairs, [int(row.argmax()) for row in found] == family["generated_ids"])


def check_prompt(prompt, folder):
    sequences = [prompt["token_ids"] + prompt["generated_ids"][:entry["step"]] for entry in prompt["logits"]]
    kind, found = logits_of(folder, sequences)
    pairs, equal = [], True
    for row, entry in zip(found, prompt["logits"], strict=True):
        expected = torch.tensor(entry["top_values"] + entry["random_values"], dtype=torch.float64)
        pairs.append((row[entry["top_ids"] + entry["random_ids"]], expected, entry["maximum_magnitude"]))
        equal = equal and int(row.argmax()) == prompt["generated_ids"][entry["step"]]
    return report(f"demo model, {prompt['name']}", kind, pairs, equal)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make-tiny-model", required=True, help="the program that is built of make_tiny_model.cpp")
    parser.add_argument("--model-folder", type=Path, help="the demo model")
    arguments = parser.parse_args()
    families = json.loads((DATA / "family_reference.json").read_text())["families"]
    results = [check_family(family, arguments.make_tiny_model) for family in families]
    if arguments.model_folder:
        prompts = json.loads((DATA / "smollm2_reference.json").read_text())["prompts"]
        results += [check_prompt(prompt, arguments.model_folder) for prompt in prompts]
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
