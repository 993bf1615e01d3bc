#!/usr/bin/env python3
"""Show question, answer and time of the first document, and which planted pass keys each results file holds.

    show_passkeys.py FILE.h5 [FILE.h5 ...]

The documents are those of data/make_passkey_document.py: ids "depthD-keyK", the key in the metadata's "answers".
"""
import json
import re
import sys
from pathlib import Path

import h5py


def rows(path):
    with h5py.File(path) as file:
        columns = [file["documents/id"].asstr()[:], file["documents/metadata"].asstr()[:], file["outputs/text"].asstr()[:],
                   file["timings/ttft_seconds"][:], file["documents/context_length"][:]]
        for name, metadata, text, seconds, length in zip(*columns):
            depth = int(re.match(r"depth(\d+)-", name)[1])
            yield depth, text, json.loads(metadata)["answers"][0], seconds, length


def main(paths):
    found = {path: list(rows(path)) for path in paths}
    _, text, key, seconds, length = found[paths[-1]][0]
    print(f"\nDocument: {length} tokens, the pass key {key} planted in them")
    print("Question: The pass key is ...")
    print(f"Answer:   {text.strip()}")
    print(f"Time to first token: {seconds:.2f} s; results: {paths[-1]}")
    depths = sorted({depth for depth, *_ in found[paths[0]]})
    width = max(len(Path(path).stem) for path in paths)
    print("\nPass keys found, by depth in the document:")
    print(" " * width + "".join(f"{depth:>7} %" for depth in depths) + "   median time to first token")
    for path in paths:
        cells = []
        for depth in depths:
            answers = [(key in text) for at, text, key, *_ in found[path] if at == depth]
            cells.append(f"{sum(answers):>6}/{len(answers)}")
        seconds = sorted(row[3] for row in found[path])
        print(f"{Path(path).stem:<{width}} " + " ".join(cells) + f"   {seconds[len(seconds) // 2]:.2f} s")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1:])
