#!/usr/bin/env python3
"""Make tests/data/family_reference.json: what Hugging Face transformers computes for the tiny models of tests/tiny_model.cpp.

On demand, not part of the tests: run it with a Python that has torch, transformers and numpy.

    make_family_reference.py --make-tiny-model build/release/tests/make_tiny_model

The weights come from a seed, so only token ids and logits are kept; after a change of random_tiny_model or tiny_families
run it again. "rope" holds the rotary frequencies that transformers derives from the configurations of published models.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

ROOT = Path(__file__).resolve().parent.parent
FAMILIES = ("llama", "llama_attention_bias", "llama_linear", "llama_llama3", "llama_tied_yarn_mscale", "qwen2",
            "qwen2_tied_yarn", "qwen3", "qwen3_tied_yarn")
PROMPT_TOKENS, STEPS = 160, 4

# What decides the rotary frequencies, as in the published config.json files and model cards.
ROPE = {
    "Llama-3.1-8B": ("llama", 128, 500000.0, 131072, {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192}),
    "Llama-3.2-1B": ("llama", 64, 500000.0, 131072, {
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192}),
    "Qwen2.5-7B, 128K": ("qwen2", 128, 1000000.0, 32768, {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}),
    "Qwen3-0.6B, 128K": ("qwen3", 128, 1000000.0, 40960, {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}),
    "Yarn-Llama-2-7B-64K": ("llama", 128, 10000.0, 65536, {
        "rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 4096}),
    "yarn with every field": ("llama", 80, 150000.0, 8192, {
        "rope_type": "yarn", "factor": 6.5, "original_max_position_embeddings": 4096, "beta_fast": 24.0,
        "beta_slow": 2.0, "mscale": 0.8, "mscale_all_dim": 1.2}),
    "linear": ("llama", 128, 10000.0, 4096, {"rope_type": "linear", "factor": 4.0}),
}


def family_reference(name, seed, make_tiny_model):
    """Greedy tokens and the logits that chose them, by transformers in float32."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([make_tiny_model, folder, str(seed), name], check=True)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    prompt = np.random.default_rng(seed).integers(0, model.config.vocab_size, PROMPT_TOKENS).tolist()
    tokens, logits = list(prompt), []
    with torch.no_grad():
        for _ in range(STEPS):
            logits.append(model(torch.tensor([tokens])).logits[0, -1].double().numpy())
            tokens.append(int(logits[-1].argmax()))
    print(f"{name}: {type(model).__name__}, logits up to {np.abs(logits).max():.3f}, tokens {tokens[PROMPT_TOKENS:]}")
    return {"name": name, "seed": seed, "prompt": prompt, "generated_ids": tokens[PROMPT_TOKENS:],
            "logits": [np.round(row, 5).tolist() for row in logits]}


def rope_reference(name, model_type, head_dim, theta, positions, scaling):
    """The frequency of every pair, and what cosines and sines are multiplied by."""
    heads = 4
    fields = {"num_attention_heads": heads, "num_key_value_heads": heads, "head_dim": head_dim, "rope_theta": theta,
              "hidden_size": heads * head_dim, "max_position_embeddings": positions, "rope_scaling": scaling}
    config = transformers.AutoConfig.for_model(model_type, **{**fields, "rope_scaling": {"rope_theta": theta, **scaling}})
    frequencies, factor = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, torch.device("cpu"))
    return {"name": name, "config": fields, "frequencies": [float(f"{value:.8g}") for value in frequencies.tolist()],
            "attention_factor": factor}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make-tiny-model", required=True, help="the program that the build makes of make_tiny_model.cpp")
    parser.add_argument("--output", type=Path, default=ROOT / "tests" / "data" / "family_reference.json")
    arguments = parser.parse_args()
    result = {
        "description": "Tiny models by transformers in float32; see make_family_reference.py.",
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "families": [family_reference(name, 100 + i, arguments.make_tiny_model) for i, name in enumerate(FAMILIES)],
        "rope": [rope_reference(name, *values) for name, values in ROPE.items()],
    }
    arguments.output.write_text(json.dumps(result, separators=(",", ":")) + "\n")
    print(f"{arguments.output}: {arguments.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
