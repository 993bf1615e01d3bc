#!/usr/bin/env python3
"""Draws which keys each row of the context sees, as SVG, from the partition that `apb plan` prints.

    jobs/plot_masks.py --apb build/release/apb --output docs/masks

One picture a method: rows from top to bottom in document order, keys from left to right; anchor and passing entries
stand in columns of their own, left of the context. Colours are ranks.
"""
import argparse
import json
import pathlib
import subprocess

COLOURS = ["#4477aa", "#ee6677", "#228833", "#ccbb44"]
CONTEXT, RANKS, QUERY = 960, 4, 24
SCALE = 0.4  # pixels a token
METHODS = {
    "full": ["--method", "full"],
    "ring": ["--method", "ring"],
    "ulysses": ["--method", "ulysses"],
    "star": ["--method", "star"],
    "apb": ["--method", "apb", "--anchor-length", "60", "--passing-length", "30"],
    "apb_as_published": ["--method", "apb", "--anchor-length", "120", "--passing-length", "60", "--blocks", str(RANKS),
                         "--anchor-placement", "replicated"],
}


def plan(apb, options):
    command = [apb, "plan", "--shape", "tiny", "--ranks", str(RANKS), "--context-length", str(CONTEXT),
               "--query-length", str(QUERY), *options]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


class Picture:
    def __init__(self):
        self.shapes = []
        self.width = self.height = 0

    def polygon(self, points, colour, opacity):
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        self.width = max(self.width, *(x for x, _ in scaled))
        self.height = max(self.height, *(y for _, y in scaled))
        text = " ".join(f"{x:.1f},{y:.1f}" for x, y in scaled)
        self.shapes.append(f'<polygon points="{text}" fill="{colour}" fill-opacity="{opacity}" stroke="{colour}" '
                           'stroke-width="0.5"/>')

    def rectangle(self, left, top, width, height, colour, opacity):
        if width > 0 and height > 0:
            self.polygon([(left, top), (left + width, top), (left + width, top + height), (left, top + height)],
                         colour, opacity)

    def text(self, x, y, words):
        self.shapes.append(f'<text x="{x * SCALE:.1f}" y="{y * SCALE:.1f}" font-size="11" '
                           f'font-family="sans-serif">{words}</text>')

    def write(self, file):
        width, height = self.width + 10, self.height + 30
        body = "\n".join(self.shapes)
        file.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
                        f'viewBox="-5 -22 {width:.0f} {height:.0f}">\n<rect x="-5" y="-22" width="100%" height="100%" '
                        f'fill="white"/>\n{body}\n</svg>\n')


def draw(partition):
    """Anchor and passing entries stand where blocks see them whole; the context's own keys behind them."""
    picture = Picture()
    blocks = partition["blocks"]
    anchor = partition["anchor_length"]
    exact = partition["method"] in ("full", "ring", "ulysses")
    passing = 0 if exact else sum(block["passing"] for block in blocks)
    gap = 40  # room for the words above
    first_passing = anchor + (gap if anchor else 0)
    first_key = first_passing + passing + (gap if passing else 0)
    if anchor:
        picture.text(0, -10, "anchor")
    if passing:
        picture.text(first_passing, -10, "passing")
    picture.text(first_key, -10, "context")
    for number, block in enumerate(blocks):
        top, rows = block["begin"], block["end"] - block["begin"]
        colour = COLOURS[block["rank"] % len(COLOURS)]
        if exact:
            picture.rectangle(first_key, top, block["seen_before"], rows, colour, 0.35)
        elif number > 0:
            picture.rectangle(0, top, anchor, rows, colour, 0.6)
            picture.rectangle(first_passing, top, block["seen_before"] - anchor, rows, colour, 0.6)
        left = first_key + block["begin"]
        picture.polygon([(left, top), (left, top + rows), (left + rows, top + rows)], colour, 0.35)
    return picture


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--apb", default="build/release/apb", help="the program")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("docs/masks"), help="folder")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for name, method in METHODS.items():
        draw(plan(options.apb, method)).write(options.output / f"{name}.svg")
        print(options.output / f"{name}.svg")


if __name__ == "__main__":
    main()
