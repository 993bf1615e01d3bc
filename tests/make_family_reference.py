#!/usr/bin/env python3
"""Make tests/data/family_reference.json: what mlx-lm computes for the tiny models of tests/tiny_model.cpp.

On demand, not part of the tests: run it with a Python that has mlx (with its CPU backend), mlx-lm and numpy.

    make_family_reference.py --make-tiny-model build/release/tests/make_tiny_model

The weights come from a seed, so only token ids and logits are kept; after a change of random_tiny_model or
tiny_families run it again. "rope" holds the rotary frequencies that mlx-lm derives from the configurations of
published models.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import mlx.core as mx
import mlx_lm
import numpy as np
from mlx_lm.models.rope_utils import initialize_rope
from mlx_lm.utils import load_model

ROOT = Path(__file__).resolve().parent.parent
FAMILIES = ("llama", "llama_attention_bias", "llama_linear", "llama_llama3", "llama_tied_yarn_mscale", "qwen2",
            "qwen2_tied_yarn", "qwen3", "qwen3_tied_yarn")
PROMPT_TOKENS, STEPS = 160, 4

# What decides the rotary frequencies, as in the published config.json files and model cards.
ROPE = {
    "Llama-3.1-8B": ("LlamaForCausalLM", 128, 500000.0, 131072, {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192}),
    "Llama-3.2-1B": ("LlamaForCausalLM", 64, 500000.0, 131072, {
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192}),
    "Qwen2.5-7B, 128K": ("Qwen2ForCausalLM", 128, 1000000.0, 32768, {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}),
    "Qwen3-0.6B, 128K": ("Qwen3ForCausalLM", 128, 1000000.0, 40960, {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}),
    "Yarn-Llama-2-7B-64K": ("LlamaForCausalLM", 128, 10000.0, 65536, {
        "rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 4096}),
    "yarn with every field": ("LlamaForCausalLM", 80, 150000.0, 8192, {
        "rope_type": "yarn", "factor": 6.5, "original_max_position_embeddings": 4096, "beta_fast": 24.0,
        "beta_slow": 2.0, "mscale": 0.8, "mscale_all_dim": 1.2}),
    "linear": ("LlamaForCausalLM", 128, 10000.0, 4096, {"rope_type": "linear", "factor": 4.0}),
}


def rope_of(config):
    """rope_theta and rope_scaling, from either spelling: not every model of mlx-lm reads rope_parameters."""
    if "rope_parameters" not in config:
        return config["rope_theta"], config["rope_scaling"]
    rope = dict(config["rope_parameters"])
    theta = rope.pop("rope_theta")
    return theta, None if rope["rope_type"] == "default" else rope


def family_reference(name, seed, make_tiny_model):
    """Greedy tokens and the logits that chose them, by mlx-lm in float32."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([make_tiny_model, folder, str(seed), name], check=True)
        theta, scaling = rope_of(json.loads((Path(folder) / "config.json").read_text()))
        model, config = load_model(Path(folder), model_config={"rope_theta": theta, "rope_scaling": scaling})
    prompt = np.random.default_rng(seed).integers(0, config["vocab_size"], PROMPT_TOKENS).tolist()
    tokens, logits = list(prompt), []
    for _ in range(STEPS):
        logits.append(np.array(model(mx.array([tokens]))[0, -1].astype(mx.float32), dtype=np.float64))
        tokens.append(int(logits[-1].argmax()))
    print(f"{name}: {type(model).__module__}, largest logit {np.abs(logits).max():.3f}")
    return {"name": name, "seed": seed, "prompt": prompt, "generated_ids": tokens[PROMPT_TOKENS:],
            "logits": [np.round(row, 5).tolist() for row in logits]}


def rope_reference(name, architecture, head_dim, theta, positions, scaling):
    """The frequency of every pair, and what cosines and sines are multiplied by."""
    rope = initialize_rope(head_dim, theta, False, scaling, positions)
    if scaling["rope_type"] == "linear":
        wavelengths = theta ** (np.arange(0, head_dim, 2) / head_dim) / rope.scale
    else:
        wavelengths = np.array(rope._freqs, dtype=np.float64)  # divided by 2 pi
    heads = 4
    config = {"architectures": [architecture], "num_hidden_layers": 1, "hidden_size": heads * head_dim,
              "num_attention_heads": heads, "head_dim": head_dim, "intermediate_size": 8, "vocab_size": 8,
              "max_position_embeddings": positions, "rms_norm_eps": 1e-6, "rope_theta": theta, "rope_scaling": scaling}
    return {"name": name, "config": config, "frequencies": [float(f"{1 / value:.8g}") for value in wavelengths],
            "attention_factor": getattr(rope, "mscale", 1.0)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make-tiny-model", required=True, help="the program that is built of make_tiny_model.cpp")
    parser.add_argument("--output", type=Path, default=ROOT / "tests" / "data" / "family_reference.json")
    arguments = parser.parse_args()
    mx.set_default_device(mx.cpu)
    result = {
        "description": "Tiny models by mlx-lm in float32; see make_family_reference.py.",
        "mlx_lm": mlx_lm.__version__,
        "mlx": mx.__version__,
        "families": [family_reference(name, 100 + i, arguments.make_tiny_model) for i, name in enumerate(FAMILIES)],
        "rope": [rope_reference(name, *values) for name, values in ROPE.items()],
    }
    arguments.output.write_text(json.dumps(result, separators=(",", ":")) + "\n")
    print(f"{arguments.output}: {arguments.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
