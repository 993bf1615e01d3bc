#!/usr/bin/env python3
"""Draw which positions of a document each layer and KV head passed on, with the answer's position marked.

    apb run ... --save-selection --output FILE.h5
    jobs/plot_selection.py FILE.h5 --document ID --output selection.png

Rows are KV heads, by layer from the top; columns are context positions, in bins where the document is long. The
answer is where "evidence" of the input line says it is: a list of token positions [begin, end). A line per layer
tells how many heads passed on any of the answer's tokens, and how many of these tokens (mean over the heads). Tokens
that the anchor holds, and the last block's, are never passed on: they count as nothing.
"""
import argparse
import json
import sys

import h5py
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

MOST_BINS = 1400
DRAWN = "#20639b"
MARK = "#d1495b"
BORDER = "#9a9a9a"


class Document:
    """One row of a results file."""

    def __init__(self, path, name):
        with h5py.File(path) as file:
            names = list(file["documents/id"].asstr()[:])
            if name not in names:
                raise ValueError(f"has no document {name}; it has {', '.join(names[:5])}{', …' if names[5:] else ''}")
            row = names.index(name)
            if "selection/positions" not in file:
                raise ValueError("holds no selection; answer the document again with apb run --save-selection")

            def value(column):
                return file[f"documents/{column}"][row]

            self.name = name
            self.method = file["documents/method"].asstr()[row]
            self.context, self.query, self.blocks = (int(value(column)) for column in
                                                     ("context_length", "query_length", "blocks"))
            self.anchor, self.passing = int(value("anchor_length")), int(value("passing_length"))
            self.positions = file["selection/positions"][row]  # [layers, blocks, kv_heads, p]
            metadata = json.loads(file["documents/metadata"].asstr()[row] or "{}")
            options = json.loads(file["run"].attrs["options"])
        self.compressor = options.get("compressor", "")
        if self.anchor and options.get("anchor_query", "on") == "on":
            self.anchor_context = self.anchor - self.query
        else:
            self.anchor_context = self.anchor
        self.evidence = [(int(begin), int(end)) for begin, end in metadata.get("evidence", [])]
        if not (self.positions >= 0).any():
            raise ValueError(f"document {name} ({self.method}, {self.blocks} blocks, p {self.passing}) passed nothing "
                             "on")
        for begin, end in self.evidence:
            if not 0 <= begin < end <= self.context:
                raise ValueError(f"document {name}: evidence [{begin}, {end}) is not within its {self.context} tokens")

    def borders(self):
        """Where blocks begin, the first left out."""
        length = -(-self.context // self.blocks)
        return list(range(length, self.context, length))

    def passed(self):
        """Which tokens were passed on, [layers, kv_heads, context]."""
        layers, _, heads, _ = self.positions.shape
        chosen = np.zeros((layers, heads, self.context), bool)
        layer, _, head, _ = np.nonzero(self.positions >= 0)
        chosen[layer, head, self.positions[self.positions >= 0]] = True
        return chosen


def shares(passed, evidence):
    """Of each layer: the heads that passed on any evidence, and the mean share of its tokens."""
    tokens = np.concatenate([passed[:, :, begin:end] for begin, end in evidence], axis=2)
    return tokens.any(2).sum(1), tokens.mean((1, 2)), tokens.mean(2)


def why_not(document):
    """What keeps evidence from being passed on."""
    last = document.borders()[-1] if document.borders() else 0
    for begin, end in document.evidence:
        if end > last:
            yield f"[{begin}, {end}) reaches into the last block, from {last} on, which passes nothing on"
        if begin < document.anchor_context:
            yield f"[{begin}, {end}) begins in the anchor, which holds the tokens up to {document.anchor_context}"


def print_shares(document, passed):
    if not document.evidence:
        print(f"{document.name}: its metadata have no evidence, nothing to mark")
        return
    heads, tokens, _ = shares(passed, document.evidence)
    places = ", ".join(f"[{begin}, {end})" for begin, end in document.evidence)
    print(f"{document.name}: evidence {places} of {document.context} tokens")
    for reason in why_not(document):
        print(f"note: {reason}")
    count = passed.shape[1]
    for layer, (some, share) in enumerate(zip(heads, tokens)):
        print(f"layer {layer:3d}: {'passed on' if some else 'not passed on'} by {some} of {count} heads "
              f"({100 * some / count:.1f} %), {100 * share:.1f} % of its tokens")
    print(f"all layers but the last: {100 * heads[:-1].mean() / count:.1f} % of the heads, "
          f"{100 * tokens[:-1].mean():.1f} % of its tokens")


def draw(document, passed, output):
    layers, heads, length = passed.shape
    rows = passed.reshape(layers * heads, length)
    bins = min(length, MOST_BINS)
    edges = np.linspace(0, length, bins + 1).astype(int)
    density = np.add.reduceat(rows, edges[:-1], axis=1) / np.diff(edges)
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, max(4, 1.6 + 0.075 * layers * heads)), sharey=True,
                                         width_ratios=[8, 1], layout="constrained")
    colours = matplotlib.colors.LinearSegmentedColormap.from_list("passed", ["white", DRAWN])
    image = left.imshow(density, aspect="auto", cmap=colours, vmin=0, vmax=1, extent=(0, length, layers * heads, 0),
                        interpolation="antialiased")
    left.axvspan(0, document.anchor_context, color="#f2c14e", alpha=0.35, linewidth=0)
    for border in document.borders():
        left.axvline(border, color=BORDER, linewidth=0.8, linestyle="--")
    for begin, end in document.evidence:
        left.axvspan(begin, end, color=MARK, alpha=0.25, linewidth=0)
        left.plot((begin + end) / 2, 0, marker="v", color=MARK, markersize=9, clip_on=False)
        left.plot((begin + end) / 2, layers * heads, marker="^", color=MARK, markersize=9, clip_on=False)
    for axes in (left, right):
        for layer in range(1, layers):
            axes.axhline(layer * heads, color=BORDER, linewidth=0.3)
    step = max(1, layers // 16)
    left.set_yticks((np.arange(0, layers, step) + 0.5) * heads, np.arange(0, layers, step))
    left.set(xlabel="context position (tokens)", ylabel=f"layer ({heads} KV heads each)", xlim=(0, length))
    words = [f"{document.name}: {document.method}, {document.blocks} blocks, p {document.passing}, a {document.anchor}"]
    words += [document.compressor] if document.compressor else []
    left.set_title(", ".join(words) + "\ndashed: block borders; yellow: in the anchor"
                   + ("; red: the answer" if document.evidence else ""), fontsize=10, pad=12)
    if document.evidence:
        right.barh(np.arange(layers * heads) + 0.5, 100 * shares(passed, document.evidence)[2].ravel(), height=1,
                   color=MARK)
        right.set(xlabel="%", xlim=(0, 100))
        right.set_title("of the answer's\ntokens", fontsize=10, pad=12)
    else:
        right.remove()
    bar = figure.colorbar(image, ax=[left, right] if document.evidence else left, fraction=0.02, pad=0.01)
    bar.set_label("share passed on")
    figure.savefig(output, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="results file of apb run --save-selection")
    parser.add_argument("--document", required=True, help="id of the document")
    parser.add_argument("--output", required=True, help="picture to write, e.g. selection.png")
    options = parser.parse_args()
    try:
        document = Document(options.file, options.document)
        passed = document.passed()
        draw(document, passed, options.output)
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"plot_selection.py: {options.file}: {error}")
    print_shares(document, passed)


if __name__ == "__main__":
    main()
