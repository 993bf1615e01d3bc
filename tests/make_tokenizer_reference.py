#!/usr/bin/env python3
"""Regenerates tests/data/tokenizer_*.json with the `tokenizers` package (pip install tokenizers).

Trains one small BPE tokenizer for each family that apb reads, byte-level or SentencePiece-style with byte fallback, and
records what `tokenizers` makes of many texts: the ids with and without special tokens recognised, and the text that ids
decode to. Further kinds of SentencePiece-style files are variants: one family with some fields changed.
"""
import argparse
import inspect
import json
import pathlib
import random
import textwrap

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

DATA = pathlib.Path(__file__).parent / "data"
VOCABULARY = 2500
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>",
           "<|end_header_id|>", "<|eot_id|>"]


def split(pattern):
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def families():
    """name -> (normalizer, pre-tokenizer, special tokens, ignore_merges, spelling of merges)"""
    yield ("gpt2", None,
           pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]),
           SPECIAL[:3], False, "string")
    yield "llama3", None, split(LLAMA3), [SPECIAL[0]] + SPECIAL[3:], True, "pair"
    yield "qwen2", normalizers.NFC(), split(QWEN2), SPECIAL[:3], False, "pair"
    yield ("prefix", normalizers.NFC(), pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True),
           [], False, "string")


# SentencePiece-style: name -> (special tokens, what training keeps together, other fields of the file, BOS)
SPACE = "\u2581"
STRIPPING = {"type": "Sequence", "decoders": [
    {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
PREPEND = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, REPLACE]}
SENTENCEPIECE = {
    "llama2": (["<unk>", "<s>", "</s>"], pre_tokenizers.Metaspace(), {"normalizer": PREPEND, "decoder": STRIPPING}, "<s>"),
    "yi": (["<unk>", "<|startoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"],
           pre_tokenizers.Sequence([pre_tokenizers.Split("\n", behavior="removed"),
                                    pre_tokenizers.Metaspace(split=False)]),
           {"normalizer": REPLACE, "decoder": {**STRIPPING, "decoders": STRIPPING["decoders"][:3]}}, None)}


def metaspace(scheme, **fields):
    return {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, **fields}


def variants():
    """(family, {field: value}) for each further kind of file."""
    for scheme in ("first", "always", "never"):
        for split in (False, True):
            yield "llama2", {"/normalizer": None, "/pre_tokenizer": metaspace(scheme, split=split)}
            yield "yi", {"/normalizer": None, "/pre_tokenizer": metaspace(scheme, split=split),
                         "/decoder": metaspace(scheme, split=split)}
    older = {"type": "Metaspace", "replacement": SPACE, "add_prefix_space": True}
    yield "yi", {"/normalizer": None, "/pre_tokenizer": older, "/decoder": older}
    yield "yi", {"/normalizer": PREPEND, "/decoder": STRIPPING, "/model/ignore_merges": True}
    yield "llama2", {"/decoder": {**STRIPPING, "decoders": [{"type": "ByteFallback"}, metaspace("always")]},
                     "/added_tokens/2/normalized": True}


MULTILINGUAL = """The quick brown fox can't jump; they're late, I've 1234567 reasons. Größe, Fußgängerübergänge, naïve café
Быстрая коричневая лиса прыгает через ленивую собаку. 敏捷的棕色狐狸跳过懒狗。 日本語の文章です。 한국어 문장입니다.
هذه جملة باللغة العربية. यह हिन्दी में एक वाक्य है। ประโยคภาษาไทย שלום עולם 👩‍👩‍👧‍👦 🇩🇪 👍🏽 ∑∫√∞ ≤≥ αβγδε
""" * 5


def corpus():
    for module in (argparse, inspect, textwrap, random, json):
        yield inspect.getsource(module)
    yield MULTILINGUAL


def train(normalizer, pre_tokenizer, special, ignore_merges):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("<tool>>", normalized=False),
                          AddedToken("Ame\u0301lie", normalized=True), AddedToken("\u00e9\u00e8", normalized=True)])
    if "<|begin_of_text|>" in special:
        bos = "<|begin_of_text|>"
        tokenizer.post_processor = processors.Sequence([
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1",
                                          special_tokens=[(bos, tokenizer.token_to_id(bos))])])
    return tokenizer


def save(tokenizer, name, merges):
    file = json.loads(tokenizer.to_str())
    if merges == "string":
        file["model"]["merges"] = [" ".join(pair) for pair in file["model"]["merges"]]
    if file["model"]["ignore_merges"]:
        del file["model"]["merges"][::10]  # tokens that only ignore_merges can reach
    text = json.dumps(file, ensure_ascii=False, separators=(",", ":"))
    (DATA / f"tokenizer_{name}.json").write_text(text, encoding="utf-8")
    return Tokenizer.from_str(text)


def train_sentencepiece(name):
    special, pre_tokenizer, fields, bos = SENTENCEPIECE[name]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=1600, special_tokens=special + byte_tokens, show_progress=False, limit_alphabet=200))
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("Am\u00e9lie", normalized=True),
                          AddedToken("two words", normalized=True)])
    file = json.loads(tokenizer.to_str()) | {"pre_tokenizer": None} | fields
    file["added_tokens"] = [token for token in file["added_tokens"] if token["content"] not in byte_tokens]
    if bos:
        pieces = [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
        file["post_processor"] = {"type": "TemplateProcessing", "single": pieces, "pair": pieces + [
            {"Sequence": {"id": "B", "type_id": 0}}], "special_tokens": {
            bos: {"id": bos, "ids": [file["model"]["vocab"][bos]], "tokens": [bos]}}}
    text = json.dumps(file, ensure_ascii=False, separators=(",", ":"))
    (DATA / f"tokenizer_{name}.json").write_text(text, encoding="utf-8")
    return Tokenizer.from_str(text)


def changed(family, change):
    file = json.loads((DATA / f"tokenizer_{family}.json").read_text(encoding="utf-8"))
    for pointer, value in change.items():
        *path, last = [int(key) if key.isdigit() else key for key in pointer.split("/")[1:]]
        parent = file
        for key in path:
            parent = parent[key]
        parent[last] = value
    return Tokenizer.from_str(json.dumps(file))


def variant_expectations(texts):
    for family, change in variants():
        tokenizer = changed(family, change)
        ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        yield {"family": family, "change": change, "ids": ids,
               "decoded": [tokenizer.decode(list_, skip_special_tokens=True) for list_ in ids]}


SPACES = ["", " ", "  a", "a b", "a  b ", "\u2581a \u2581 b", "<tool>", "a<tool> b<tool>c", "x two words y", "two words",
          " <s>a</s> b<|im_start|>user\nc<|im_end|>", "line\n next\n\n  code", "\u8bed \u8a00 \U0001f600 caf\u00e9",
          "Am\u00e9lie Am\u00e9lie", "<unk>x", "a <0x41> b"]


def random_text(rng):
    """Characters of every plane, spaces, digits and common letters, mixed."""
    kinds = [lambda: chr(rng.randrange(0x20, 0x7F)), lambda: rng.choice(" \t\n\r\u00a0\u3000\u2028\u0085\u180e\u200b"),
             lambda: rng.choice("0123456789٣५Ⅷ½"), lambda: rng.choice("eationsr"), lambda: rng.choice("'sStTrRdDſ"),
             lambda: chr(rng.randrange(0x80, 0x800)), lambda: chr(rng.randrange(0x800, 0xD800)),
             lambda: chr(rng.randrange(0x300, 0x370)), lambda: chr(rng.randrange(0x10000, 0x20000)),
             lambda: chr(rng.choice([0xE000, 0xFFFD, 0x20000, 0x2FA1D, 0x30000, 0xE0001, 0xF0000, 0x10FFFF]))]
    return "".join(rng.choice(kinds)() for _ in range(rng.randrange(1, 14)))


def texts(rng):
    yield from ["", " ", "  ", "a", "Hello world", " leading", "trailing ", "don't DON'T we'LL I'd they'Re o'clock",
                "   three spaces   and\ttabs\t\t\tand\n\n\nnewlines \n \n x", "\r\n\r\nCRLF\r\nlines\r\n", "\u00a0\u00a0nbsp\u00a0x",
                "\u3000全角\u3000空白\u3000", "x\u2028y\u2029z\u0085w\u180ev\u200bu\ufeff", "\x00\x01\x7f", "007 1234567890 3.14159 1e-5 ٣٤٥ ⅧⅨ ½¼",
                "def f(x):\n    return x**2 + 1  # comment\n\nfor i in range(10):\n\tprint(f\"{i:>5}\")\n",
                "👩‍👩‍👧‍👦 family, 🇩🇪🇫🇷 flags, 👍🏽 skin, ❤️ heart", "e\u0301 é a\u0323\u0307 a\u0307\u0323 \u1e9b\u0323 \u212b \u2126 \u1100\u1161\u11a8 각",
                "\U00010348\U0001d7d8\U00020000\U0002fa1d\U00030000\U000e0001\U000f0000\U0010ffff", "https://example.org/a?b=c&d=%20#e",
                "<|im_start|>user\nhi<|im_end|>", "a<|endoftext|>b", "<|endoftext|><|endoftext|>", "<|endoftext|", "<<|eot_id|>>",
                "<|begin_of_text|><|start_header_id|>x<|end_header_id|>", " <|im_end|> ", "<tool>", "<tool>>", "<tool> <tool>>>",
                "Amélie Ame\u0301lie", "éè e\u0301e\u0300", "'s 'S 'ſ 'll 'LL 'lL", MULTILINGUAL[:400], inspect.getsource(textwrap.dedent)[:600]]
    yield "two spaces  \u180e  around what is no white space"
    yield from (character * length for character in "eolst-=.0 " for length in (3, 5, 7, 9, 21))
    for _ in range(500):
        yield random_text(rng)


def hash_of(ids):
    """64-bit FNV-1a over the ids' four little-endian bytes."""
    value = 0xCBF29CE484222325
    for byte in b"".join(i.to_bytes(4, "little") for i in ids):
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def expectations(tokenizer, all_texts, rng):
    def encode(text, ordinary=False):
        tokenizer.encode_special_tokens = ordinary
        return tokenizer.encode(text, add_special_tokens=False).ids

    result = {"ids": [encode(text) for text in all_texts], "ordinary": {}, "decoded": {}, "random_decoded": [], "long": []}
    for i, (text, ids) in enumerate(zip(all_texts, result["ids"])):
        if encode(text, True) != ids:
            result["ordinary"][str(i)] = encode(text, True)
        if tokenizer.decode(ids, skip_special_tokens=True) != text:
            result["decoded"][str(i)] = tokenizer.decode(ids, skip_special_tokens=True)
    for _ in range(40):
        ids = [rng.randrange(tokenizer.get_vocab_size()) if rng.random() < 0.3 else rng.randrange(260) for _ in range(12)]
        result["random_decoded"].append([ids, tokenizer.decode(ids, skip_special_tokens=True)])
    for unit, count in (("a", 100000), ("reallylongword", 7143), ("语言é", 20000), (" \t", 30000), ("=-", 40000), ("-", 99999)):
        ids = encode(unit * count)
        result["long"].append({"unit": unit, "count": count, "length": len(ids), "hash": hash_of(ids)})
    return result


def main():
    rng = random.Random(20251115)
    all_texts = list(texts(rng))
    cases = {"texts": all_texts, "families": {}}
    for name, normalizer, pre_tokenizer, special, ignore_merges, merges in families():
        tokenizer = save(train(normalizer, pre_tokenizer, special, ignore_merges), name, merges)
        cases["families"][name] = expectations(tokenizer, all_texts, rng)
    for name in SENTENCEPIECE:
        cases["families"][name] = expectations(train_sentencepiece(name), all_texts, rng)
    cases["variants"] = {"texts": SPACES, "files": list(variant_expectations(SPACES))}
    text = json.dumps(cases, ensure_ascii=False, separators=(",", ":"))
    (DATA / "tokenizer_cases.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
