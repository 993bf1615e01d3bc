#!/usr/bin/env python3
"""Make the retrieval model: a small Llama whose weights are written down, not trained.

    make_retrieval_model.py FOLDER

It answers `? X =` from statements `X = v ;`, and, where v is a name with a statement of its own before, with what that
one says. FOLDER gets config.json, tokenizer.json, model.safetensors and retaining_heads.safetensors; the same bytes
each time, those of data/retrieval_model. data/README.md says how the model works.
"""

import argparse
import json
import struct
from pathlib import Path

import numpy as np

# The tokens: words of two syllables, each with the space before it, and what BPE needs to get there.
CONSONANTS, VOWELS = "bcdfhjklmnrstvwy", "aiou"
SYLLABLES = [consonant + vowel for consonant in CONSONANTS for vowel in VOWELS]
WORDS = [first + second for first in SYLLABLES for second in SYLLABLES]
SIGNS = "=;?"
SPACE = "\u0120"  # how byte-level BPE spells a space
SPECIAL = ["<unk>", "<bos>", "<eos>"]
PIECES = [SPACE, *CONSONANTS, *VOWELS, *(SPACE + letter for letter in CONSONANTS),
          *(SPACE + part for part in SYLLABLES), *SYLLABLES, *SIGNS, *(SPACE + sign for sign in SIGNS)]
TOKENS = [*SPECIAL, *PIECES, *(SPACE + word for word in WORDS)]

HIDDEN, HEADS, HEAD_DIM, LAYERS, INTERMEDIATE = 128, 2, 64, 3, 32
ROPE_THETA = 1e24
CODE = 24  # bits

# Columns of the residual stream. A group is what one token says about itself: its word's code or its kind. A token's
# own group is at 0; attention copies the groups of other tokens beside it.
EQUALS, OTHER, PAD = CODE, CODE + 1, CODE + 2  # within a group; two columns of padding
GROUP = CODE + 4
START, STOP, ONE, SECOND_ONE = range(GROUP, GROUP + 4)
OWN, BEFORE, TWO_BEFORE, FOUND = 0, GROUP + 4, 2 * GROUP + 4, 3 * GROUP + 4

# Dimensions of queries and keys: the fastest pairs of RoPE tell distances, the slowest do not turn and hold content.
PAIRS = HEAD_DIM // 2
POSITION_PAIRS = 8
CONTENT = [*range(PAIRS - 13, PAIRS), *range(2 * PAIRS - 13, 2 * PAIRS)]
FLAG, SINK = CONTENT[CODE], CONTENT[CODE + 1]


def golay_codes():
    """4,096 words of 24 bits, any two of which differ in at least 8: the extended binary Golay code, as +1 and -1."""
    words = np.zeros(4096, np.int64)
    for power in (0, 2, 4, 5, 6, 10, 11):  # of its generator polynomial
        words ^= np.arange(4096) << power
    bits = (words[:, None] >> np.arange(CODE - 1)) & 1
    return 1.0 - 2.0 * np.column_stack([bits, bits.sum(1) % 2])


def embedding():
    """One row a token, all of the same length: 96 for the group, 32 for the ones, so that RMSNorm changes nothing."""
    table = np.zeros((len(TOKENS), HIDDEN))
    table[:, [ONE, SECOND_ONE]] = 4
    table[-len(WORDS):, :CODE] = 2 * golay_codes()
    others = table[:-len(WORDS)]
    others[:, [PAD, PAD + 1]] = 4
    kinds = {"<bos>": START, "<eos>": STOP, SPACE + "=": EQUALS}
    for token, row in zip(TOKENS, others):
        row[kinds.get(token, OTHER)] = 8
    return table


def select(rows, entries):
    """A matrix of this many rows over the residual stream, from {row: {column: weight}}."""
    matrix = np.zeros((rows, HIDDEN))
    for row, columns in entries.items():
        for column, weight in columns.items():
            matrix[row, column] = weight
    return matrix


def code_columns(dimensions, start, weight):
    return {dimension: {start + bit: weight} for bit, dimension in enumerate(dimensions[:CODE])}


def own_group():
    """Values that say what the token is."""
    value = {i: {OWN + i: 1} for i in range(GROUP)}
    value[OTHER] |= {START: 1, STOP: 1}
    return select(HEAD_DIM, value)


def output(copies):
    """From {(head, value dimension): (column, weight)}."""
    matrix = np.zeros((HIDDEN, HEADS * HEAD_DIM))
    for (head, dimension), (column, weight) in copies.items():
        matrix[column, head * HEAD_DIM + dimension] = weight
    return matrix


def group_output(head, start):
    return {(head, i): (start + i, 1) for i in range(GROUP)}


def look_back_layer():
    """Head 0 copies the group of the token before, head 1 that of two before; both only know positions."""
    frequencies = ROPE_THETA ** (-np.arange(POSITION_PAIRS) / PAIRS)
    queries = []
    for distance in (1, 2):
        entries = {SINK: {ONE: 16}}
        for pair, frequency in enumerate(frequencies):
            entries[pair] = {ONE: 10 * np.cos(distance * frequency)}
            entries[pair + PAIRS] = {ONE: -10 * np.sin(distance * frequency)}
        queries.append(select(HEAD_DIM, entries))
    key = {pair: {ONE: 8, START: -4} for pair in range(POSITION_PAIRS)}  # the start has no position, it is the sink
    key = select(HEAD_DIM, {**key, SINK: {START: 19.5}})
    return queries, key, own_group(), output(group_output(0, BEFORE) | group_output(1, TWO_BEFORE))


def lookup_layer(code, flag, value, copies):
    """Head 0 finds the statement about the word whose code is at `code`, if `flag` is set; head 1 does nothing."""
    # Keys are never quite alike: where the start is missing, one of those that fit best wins, not their average.
    taste = {OWN + bit: (bit * 7 % CODE - 11.5) / 48 for bit in range(CODE)}
    query = select(HEAD_DIM, {**code_columns(CONTENT, code, 4), FLAG: {flag: 4}, SINK: {ONE: 8}})
    key = {**code_columns(CONTENT, TWO_BEFORE, 4), FLAG: {BEFORE + EQUALS: 4, **taste}, SINK: {START: 8}}
    key = select(HEAD_DIM, key)
    return [query, np.zeros_like(query)], key, value, output(copies)


def hop_layer():
    """The value of a statement looks for a statement about itself."""
    return lookup_layer(OWN, BEFORE + EQUALS, own_group(), group_output(0, FOUND))


def answer_layer():
    """The question's last sign looks for the statement; who has no question finds the start, which says stop."""
    value = select(HEAD_DIM, {**{bit: {OWN + bit: 1, FOUND + bit: 4} for bit in range(CODE)}, CODE: {START: 1}})
    return lookup_layer(BEFORE, OWN + EQUALS, value,
                        {**{(0, bit): (OWN + bit, 4) for bit in range(CODE)}, (0, CODE): (STOP, 8)})


def model_tensors():
    tensors = {"model.embed_tokens.weight": embedding(), "model.norm.weight": np.zeros(HIDDEN)}
    tensors["model.norm.weight"][[*range(CODE), STOP]] = 1
    length = 128  # of the residual stream, squared; every group that a layer adds has 96
    for layer, (queries, key, value, attention_output) in enumerate([look_back_layer(), hop_layer(), answer_layer()]):
        prefix = f"model.layers.{layer}."
        norm = np.full(HIDDEN, np.sqrt(length / HIDDEN))  # undoes what RMSNorm divides by
        length += 96 * (2, 1, 0)[layer]
        tensors |= {
            prefix + "input_layernorm.weight": norm,
            prefix + "self_attn.q_proj.weight": np.concatenate(queries),
            prefix + "self_attn.k_proj.weight": key,
            prefix + "self_attn.v_proj.weight": value,
            prefix + "self_attn.o_proj.weight": attention_output,
            prefix + "post_attention_layernorm.weight": np.ones(HIDDEN),
            prefix + "mlp.gate_proj.weight": np.zeros((INTERMEDIATE, HIDDEN)),
            prefix + "mlp.up_proj.weight": np.zeros((INTERMEDIATE, HIDDEN)),
            prefix + "mlp.down_proj.weight": np.zeros((HIDDEN, INTERMEDIATE)),
        }
    return tensors


def retaining_heads():
    """Scores: the flag of a statement's value, read from the key. One inner unit would do; eight suit the kernels."""
    first, second = np.zeros((8, HEADS * HEAD_DIM + 2 * HEAD_DIM)), np.zeros((1, 8))
    first[0, HEADS * HEAD_DIM + FLAG] = second[0, 0] = 1
    return {f"model.layers.{layer}.self_attn.{name}.weight": matrix for layer in range(LAYERS)
            for name, matrix in (("fc1", first), ("fc2", second))}


def to_bf16(values):
    """Bits of the nearest bf16 numbers."""
    bits = np.asarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")


def write_safetensors(path, tensors):
    header, data = {}, b""
    for name, values in tensors.items():
        content = to_bf16(values).tobytes()
        header[name] = {"dtype": "BF16", "shape": values.shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def config():
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16", "hidden_act": "silu",
        "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": 1,
        "head_dim": HEAD_DIM, "intermediate_size": INTERMEDIATE, "vocab_size": len(TOKENS), "rms_norm_eps": 1e-6,
        "max_position_embeddings": 262144, "rope_theta": ROPE_THETA, "tie_word_embeddings": True,
        "attention_bias": False, "mlp_bias": False, "bos_token_id": TOKENS.index("<bos>"),
        "eos_token_id": TOKENS.index("<eos>"),
    }


def tokenizer():
    merges = [[SPACE, letter] for letter in CONSONANTS]
    merges += [[SPACE + consonant, vowel] for consonant in CONSONANTS for vowel in VOWELS]
    merges += [[consonant, vowel] for consonant in CONSONANTS for vowel in VOWELS]
    merges += [[SPACE + first, second] for first in SYLLABLES for second in SYLLABLES]
    merges += [[SPACE, sign] for sign in SIGNS]
    added = [{"id": TOKENS.index(token), "content": token, "special": True, "normalized": False, "single_word": False,
              "lstrip": False, "rstrip": False} for token in SPECIAL]
    bos = {"id": "<bos>", "ids": [TOKENS.index("<bos>")], "tokens": ["<bos>"]}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": "\n\n"}, "content": " "},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<bos>": bos},
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {token: i for i, token in enumerate(TOKENS)}, "merges": merges},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(), indent=2) + "\n", "utf-8")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer()) + "\n", "utf-8")
    write_safetensors(folder / "model.safetensors", model_tensors())
    write_safetensors(folder / "retaining_heads.safetensors", retaining_heads())


if __name__ == "__main__":
    main()
