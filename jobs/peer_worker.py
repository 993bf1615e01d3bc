#!/usr/bin/env python3
"""What jobs/compare_peers.py runs inside the peers' virtual environment.

    peer_worker.py prepare FOLDER WORK TOKENS     tokens.json, and the model for every program, in WORK
    peer_worker.py transformers|llama-bf16|llama-q8_0 WORK LENGTH CORES

The last three load the model, prefill a short prompt to warm up and then LENGTH tokens, and print one JSON object:
seconds until the logits behind the last token are there, the token that is largest in them, and the peak resident bytes.
"""
import json
import resource
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WARM_UP = 512  # tokens


def read_safetensors(path):
    """Yields (name, bits of BF16 as uint16)."""
    import numpy as np

    raw = np.memmap(path, np.uint8, "r")
    start = 8 + int.from_bytes(raw[:8].tobytes(), "little")
    for name, entry in json.loads(raw[8:start].tobytes()).items():
        if name == "__metadata__":
            continue
        if entry["dtype"] != "BF16":
            sys.exit(f"{path}: tensor {name} is {entry['dtype']}, expected BF16")
        begin, end = entry["data_offsets"]
        yield name, raw[start + begin:start + end].view("<u2").reshape(entry["shape"])


def to_float32(bits):
    import numpy as np

    return (bits.astype(np.uint32) << 16).view(np.float32)


def gguf_tensors(folder, config):
    """Yields (GGUF's name, bits of BF16). GGUF interleaves the two halves of each Q and K head."""
    sys.path.insert(0, str(ROOT / "data"))
    from fetch_smollm2 import TENSOR_NAMES

    short_names = {name: short for short, name in TENSOR_NAMES.items()}
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for name, bits in read_safetensors(folder / "model.safetensors"):
        stem = name.removesuffix(".weight")
        if stem.startswith("model.layers."):
            _, _, layer, part = stem.split(".", 3)
            short = short_names[part]
            new_name = f"blk.{layer}.{short}.weight"
        else:
            short = short_names[stem]
            new_name = f"{short}.weight"
        if short in heads:
            rows, columns = bits.shape
            bits = bits.reshape(heads[short], 2, rows // heads[short] // 2, columns).swapaxes(1, 2).reshape(rows, columns)
        yield new_name, bits


def write_gguf(folder, path, kind):
    """The folder's Llama model as GGUF: matrices in `kind` (BF16 or Q8_0), norms in float32."""
    import gguf
    import numpy as np
    from gguf.quants import quantize

    config = json.loads((folder / "config.json").read_text())
    vocabulary = json.loads((folder / "tokenizer.json").read_text())
    tokens = sorted(vocabulary["model"]["vocab"], key=vocabulary["model"]["vocab"].get)
    special = {token["id"] for token in vocabulary["added_tokens"]}
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in vocabulary["model"]["merges"]]
    temporary = path.with_suffix(".tmp")
    writer = gguf.GGUFWriter(temporary, "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL for i in range(len(tokens))])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    for name, bits in gguf_tensors(folder, config):
        if bits.ndim == 1:
            writer.add_tensor(name, to_float32(bits))
        elif kind == "BF16":
            writer.add_tensor(name, np.ascontiguousarray(bits).view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            quantised = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, quantize(to_float32(np.ascontiguousarray(bits)), quantised), raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    temporary.rename(path)


def prepare(folder, work, count):
    """The model with room for `count` positions, as a folder and as GGUF, and `count` tokens of prose."""
    from tokenizers import Tokenizer

    model = work / "model"
    model.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        if file.name != "config.json" and not (model / file.name).exists():
            (model / file.name).symlink_to(file.resolve())
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = max(config["max_position_embeddings"], 1 << 17)
    (model / "config.json").write_text(json.dumps(config, indent=2))
    for kind in ("BF16", "Q8_0"):
        path = work / f"{kind.lower()}.gguf"
        if not path.exists():
            write_gguf(model, path, kind)
    text = (ROOT / "data" / "samples" / "hacker_culture.txt").read_text()
    tokens = Tokenizer.from_file(str(model / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    (work / "tokens.json").write_text(json.dumps((tokens * (count // len(tokens) + 1))[:count]))


def load_transformers(work, _length, cores):
    """A function that gives the logits behind tokens."""
    import torch
    import transformers

    torch.set_num_threads(cores)
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(work / "model", dtype=torch.bfloat16,
                                                              attn_implementation="sdpa").eval()

    def prefill(tokens):
        with torch.inference_mode():
            logits = model(torch.tensor([tokens]), use_cache=True, logits_to_keep=1).logits
            return logits[0, -1].float().numpy()

    return prefill


def load_llama(file, length, cores):
    import llama_cpp
    import numpy as np

    model = llama_cpp.Llama(str(file), n_ctx=length, n_batch=2048, n_ubatch=512, n_threads=cores, n_threads_batch=cores,
                            flash_attn=True, verbose=False)
    vocabulary = model.n_vocab()

    def prefill(tokens):
        model.reset()
        model.eval(tokens)
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(model.ctx, -1), (vocabulary,))

    return prefill


def measure(program, work, length, cores):
    tokens = json.loads((work / "tokens.json").read_text())[:length]
    if program == "transformers":
        prefill = load_transformers(work, length, cores)
    else:
        prefill = load_llama(work / f"{program.removeprefix('llama-')}.gguf", max(length, WARM_UP), cores)
    prefill(tokens[:WARM_UP])
    start = time.monotonic()
    logits = prefill(tokens)
    first_token = int(logits.argmax())
    seconds = time.monotonic() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "first_token": first_token, "peak_bytes": peak}))


def main():
    command, *arguments = sys.argv[1:]
    if command == "prepare":
        folder, work, count = arguments
        prepare(Path(folder), Path(work), int(count))
    else:
        work, length, cores = arguments
        measure(command, Path(work), int(length), int(cores))


if __name__ == "__main__":
    main()
