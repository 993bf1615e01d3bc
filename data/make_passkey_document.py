#!/usr/bin/env python3
"""Make long documents with a pass key planted in them, as JSON Lines input for apb.

    make_passkey_document.py --tokenizer ~/.cache/apb/smollm2-135m-instruct --tokens 4096 --output passkey.jsonl

One document for each depth and key: prose from data/samples with one sentence, which names a random pass key, planted
at a sentence boundary. "answers" holds the key that a right answer contains, "evidence" the positions of the sentence's
tokens in the context of apb run --template none. Needs the package tokenizers.
"""

import argparse
import json
import random
import re
import sys
from pathlib import Path

SAMPLE = Path(__file__).resolve().parent / "samples" / "hacker_culture.txt"
NEEDLE = "The pass key is {key}. Remember it: {key} is the pass key. "
QUESTION = "\n\nThe pass key is"  # a sentence to complete: goes with --template none
ANSWER_TOKENS = 8  # a space and five digits, which most tokenizers keep apart, and a little more
SENTENCE_END = re.compile(r"[.!?][\"')]*\s+")


def haystack(tokenizer, text, tokens, rng):
    """`tokens` tokens of the text from a random paragraph on, over again where it is too short.

    Returns the text and the character offset at which each token starts.
    """
    paragraphs = text.strip().split("\n\n")
    start = rng.randrange(len(paragraphs))
    text = "\n\n".join(paragraphs[start:] + paragraphs[:start]) + "\n\n"
    count = len(tokenizer.encode(text, add_special_tokens=False))
    text *= tokens // count + 1
    offsets = [begin for begin, _ in tokenizer.encode(text, add_special_tokens=False).offsets]
    return text[: offsets[tokens]].rstrip(), offsets[:tokens]


def make_document(tokenizer, text, tokens, depth, key, rng):
    """A document of about `tokens` tokens with the key planted `depth` percent into it, and the sentence's place."""
    needle = NEEDLE.format(key=key)
    length = tokens - len(tokenizer.encode(needle, add_special_tokens=False))
    hay, offsets = haystack(tokenizer, text, length, rng)
    wanted = offsets[min(length - 1, length * depth // 100)]
    position = min((match.end() for match in SENTENCE_END.finditer(hay)), key=lambda end: abs(end - wanted), default=0)
    document = hay[:position] + needle + hay[position:]
    return document, evidence(tokenizer, document, position, position + len(needle.rstrip()))


def evidence(tokenizer, document, begin, end):
    """Positions [first, last) of the tokens of some characters, in a context that begins with the tokenizer's BOS."""
    beginning = len(tokenizer.encode("").ids)
    offsets = tokenizer.encode(document, add_special_tokens=False).offsets
    inside = [at for at, (first, last) in enumerate(offsets) if first < end and last > begin]
    return [beginning + inside[0], beginning + inside[-1] + 1]


def documents(arguments, tokenizer, text):
    for depth in arguments.depths:
        for number in range(1, arguments.keys + 1):
            rng = random.Random(f"{arguments.seed}/{number}")  # the same keys and prose at every depth
            key = str(rng.randrange(10000, 100000))
            document, place = make_document(tokenizer, text, arguments.tokens, depth, key, rng)
            yield {
                "id": f"depth{depth}-key{number}",
                "context": document,
                "query": QUESTION,
                "max_new_tokens": ANSWER_TOKENS,
                "answers": [key],
                "evidence": [place],
            }


def depths(text):
    values = [int(part) for part in text.split(",")]
    if not all(0 <= value <= 100 for value in values):
        raise argparse.ArgumentTypeError("depths are percentages from 0 to 100")
    return values


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with tokenizer.json")
    parser.add_argument("--tokens", type=int, required=True, help="length of each document in tokens, within a few")
    parser.add_argument("--depths", type=depths, default=[10, 50, 90], help="percent, default 10,50,90")
    parser.add_argument("--keys", type=int, default=3, help="documents for each depth, default 3")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--text", type=Path, default=SAMPLE, help="the prose, default data/samples/hacker_culture.txt")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.tokens < 100:
        parser.error("--tokens must be at least 100")
    try:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(arguments.tokenizer / "tokenizer.json"))
        text = arguments.text.read_text("utf-8")
        lines = [json.dumps(document) for document in documents(arguments, tokenizer, text)]
        arguments.output.write_text("\n".join(lines) + "\n", "utf-8")
    except Exception as error:
        sys.exit(f"make_passkey_document.py: {error} (tokenizer {arguments.tokenizer}, output {arguments.output})")
    print(f"{len(lines)} documents of {arguments.tokens} tokens: {arguments.output}")


if __name__ == "__main__":
    main()
