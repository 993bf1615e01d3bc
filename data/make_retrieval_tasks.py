#!/usr/bin/env python3
"""Make tasks for the retrieval model, as JSON Lines input for `apb run`, with answers for `apb tasks score`.

    make_retrieval_tasks.py --task two_hop --length 16384 --count 25 --output two_hop.jsonl

    key_value  statements `X = v ;` among filler words, one in every stretch of 64 tokens; the question `? X =` is
               about one
    multi_key  nothing but statements, most of them repeats: each name has one value, the asked one is stated once
    two_hop    as key_value, but in pairs: first `X = v ;`, later `Y = X ;`; the question is about a Y, the answer is
               its v

A prompt has exactly --length tokens: the start, the document, and the question's three. Names, values and filler are
different words, dealt anew in every document. "evidence" holds the token positions of the statements that matter.
"""

import argparse
import json
import random
from pathlib import Path

from make_retrieval_model import WORDS

# Tokens; with passing_length = block / 8, all statements of a block can be passed on (5 tokens each: pooling).
STRETCH = 64
STATEMENT = 4  # tokens
START = 1  # <bos>
QUESTION = 3
FILLER_WORDS, VALUE_WORDS = 512, 1024
MOST_STATEMENTS = len(WORDS) - FILLER_WORDS - VALUE_WORDS


def statement(name, value):
    return [name, "=", value, ";"]


class Words:
    """Which words are filler, values and names in one document."""

    def __init__(self, rng):
        words = rng.sample(WORDS, len(WORDS))
        self.filler = words[:FILLER_WORDS]
        self.values = words[FILLER_WORDS:FILLER_WORDS + VALUE_WORDS]
        self.names = words[FILLER_WORDS + VALUE_WORDS:]


def spread(statements, tokens, words, rng):
    """The document that has these statements in this order, one somewhere in each stretch, and where they begin."""
    document, places = rng.choices(words.filler, k=tokens), []
    for index, (name, value) in enumerate(statements):
        place = index * STRETCH + rng.randrange(STRETCH - STATEMENT + 1)
        document[place:place + STATEMENT] = statement(name, value)
        places.append(place)
    return document, places


def key_value(tokens, words, rng):
    names = words.names[:min(tokens // STRETCH, MOST_STATEMENTS)]
    statements = [(name, rng.choice(words.values)) for name in names]
    document, places = spread(statements, tokens, words, rng)
    asked = rng.randrange(len(statements))
    return document, *statements[asked], [places[asked]]


def multi_key(tokens, words, rng):
    count = tokens // STATEMENT
    names = words.names[:min(count, len(words.names))]
    values = {name: rng.choice(words.values) for name in names}
    asked, others = names[0], names[1:]
    order = [asked, *others, *rng.choices(others, k=count - len(names))]
    rng.shuffle(order)
    document = [token for name in order for token in statement(name, values[name])]
    document += rng.choices(words.filler, k=tokens - len(document))
    return document, asked, values[asked], [order.index(asked) * STATEMENT]


def two_hop(tokens, words, rng):
    pairs = min(tokens // STRETCH, MOST_STATEMENTS) // 2
    # Two places for each pair at random, the definition in the first.
    places = rng.sample(range(2 * pairs), 2 * pairs)
    statements, chains = [None] * (2 * pairs), []
    for pair in range(pairs):
        first, second = sorted(places[2 * pair:2 * pair + 2])
        inner, outer, value = words.names[2 * pair], words.names[2 * pair + 1], rng.choice(words.values)
        statements[first], statements[second] = (inner, value), (outer, inner)
        chains.append((outer, value, first, second))
    document, begins = spread(statements, tokens, words, rng)
    asked, value, first, second = rng.choice(chains)
    return document, asked, value, [begins[first], begins[second]]


TASKS = {task.__name__: task for task in (key_value, multi_key, two_hop)}


def sample(task, length, seed, number):
    rng = random.Random(f"{task}/{length}/{seed}/{number}")
    document, asked, answer, places = TASKS[task](length - START - QUESTION, Words(rng), rng)
    return {
        "id": f"retrieval-{task}-{length}-{number:04}",
        "context": " ".join(document),
        "query": f"? {asked} =",
        "max_new_tokens": 4,
        "suite": "retrieval",
        "task": task,
        "length": length,
        "metric": "match_all",
        "answers": [answer],
        "evidence": [[START + place, START + place + STATEMENT] for place in places],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--length", type=int, required=True, help="tokens of a prompt")
    parser.add_argument("--count", type=int, default=25, help="documents, default 25")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.length < 4 * STRETCH:
        parser.error(f"--length must be at least {4 * STRETCH}")
    if arguments.length > MOST_STATEMENTS * STRETCH + START + QUESTION:
        parser.error(f"--length must be at most {MOST_STATEMENTS * STRETCH + START + QUESTION}: there are names for no more "
                     "statements")
    if arguments.count < 1:
        parser.error("--count must be at least 1")
    lines = [json.dumps(sample(arguments.task, arguments.length, arguments.seed, number)) + "\n"
             for number in range(arguments.count)]
    arguments.output.write_text("".join(lines), "utf-8")


if __name__ == "__main__":
    main()
