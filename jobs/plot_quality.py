#!/usr/bin/env python3
"""Tables and pictures of what jobs/quality.py measured.

    plot_quality.py --apb build/release/apb --work FOLDER

FOLDER/MODEL/LENGTH/NAME.h5 are results files of the tasks, .../timing/NAME.h5 those of a few documents alone on the
machine. Writes scores.json (what `apb tasks score` says of every file), tables.md, and a picture for each question:
accuracy against length, against anchor and passing length, and against the time of a prefill.
"""
import argparse
import json
import math
import re
import statistics
import subprocess
import sys
from pathlib import Path

import h5py
import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "apb"  # the same picture, the same bytes
matplotlib.rcParams["svg.fonttype"] = "none"
from matplotlib import pyplot  # noqa: E402 (the backend has to be chosen first)

SWEEP_BLOCKS = 8
DODGE = 0.06  # octaves between methods beside each other, so that equal values can be told apart
COLOURS = {"full": "#000000", "star": "#D55E00", "apb-retaining-heads": "#0072B2", "apb-query-similarity": "#009E73",
           "apb-recent": "#E69F00", "apb-random": "#CC79A7", "no-passing": "#56B4E9", "no-anchor": "#999999",
           "no-anchor-query": "#7F7F00", "everything": "#7F3F00"}
LABELS = {"no-passing": "apb, nothing passed", "no-anchor": "apb without anchor",
          "no-anchor-query": "apb, no question in the anchor", "everything": "apb, everything passed"}


def label_of(kind):
    return LABELS.get(kind, kind.replace("apb-", "apb, ").replace("-", " "))


def split(name):
    """full -> (full, None); star-b8 -> (star, 8)"""
    found = re.fullmatch(r"(.+)-b(\d+)", name)
    return (found[1], int(found[2])) if found else (name, None)


def by_number(path):
    return int(path.name) if path.name.isdigit() else -1


def lengths_of(folder):
    return sorted((path for path in folder.iterdir() if path.name.isdigit()), key=by_number)


def prefill_seconds(path):
    if not path.exists():
        return None
    with h5py.File(path) as file:
        seconds = file["timings/prefill_seconds"][:]
    return statistics.median(seconds[seconds > 0]) if (seconds > 0).any() else None


def score(apb, work):
    """{model: {length: {name: {"score": average, "tasks": {task: score}, "samples": {id: score}, …}}}}"""
    found, files = {}, []
    for model in sorted(path for path in work.iterdir() if path.is_dir()):
        for folder in lengths_of(model):
            results = sorted(folder.glob("*.h5"))
            if not results:
                continue
            output = folder / "scores.json"
            subprocess.run([apb, "tasks", "score", *results, "--json", output], check=True, stdout=subprocess.DEVNULL)
            scored = json.loads(output.read_text())["files"]
            files += scored
            for path, one in zip(results, scored):
                if one["failed"]:
                    print(f"{path}: {len(one['failed'])} documents failed and count as wrong answers, the first: "
                          f"{one['failed'][0]['message']}", file=sys.stderr)
            found.setdefault(model.name, {})[int(folder.name)] = {
                path.stem: {"score": one["averages"][0]["score"],
                            "tasks": {task["task"]: task["score"] for task in one["tasks"]},
                            "samples": {name: value for task in one["tasks"] for name, value in task["scores"].items()},
                            "rows": min(task["rows"] for task in one["tasks"]),
                            "used": used(one),
                            "seconds": prefill_seconds(folder / "timing" / path.name)}
                for path, one in zip(results, scored)}
    (work / "scores.json").write_text(json.dumps(files, indent=1))
    return found


def used(scored):
    """Anchor and passing length of a file's rows."""
    task = scored["tasks"][0]
    return {name: max(task[name], default=0) for name in ("anchor_lengths", "passing_lengths")}


# --- tables


def percent(estimate):
    return f"{100 * estimate['mean']:.1f} ({100 * estimate['low']:.1f}–{100 * estimate['high']:.1f})" if estimate else "-"


def table(title, heading, rows):
    lines = [f"### {title}", "", "| " + " | ".join(heading) + " |", "|---" * len(heading) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def main_names(cells):
    """Names at the sweep's number of blocks, methods in the order of COLOURS."""
    kinds = list(COLOURS)
    names = [name for name in cells if split(name)[1] in (None, SWEEP_BLOCKS) and split(name)[0] in kinds]
    return sorted(names, key=lambda name: kinds.index(split(name)[0]))


def method_table(model, by_length):
    names = main_names({name: 0 for cells in by_length.values() for name in cells})
    heading = ["", *(f"{length:,} ({next(iter(cells.values()))['rows']} samples a task)"
                     for length, cells in by_length.items())]
    rows = [[label_of(split(name)[0]),
             *(percent(cells[name]["score"]) if name in cells else "-" for cells in by_length.values())] for name in names]
    return table(f"{model}: average over tasks, B = {SWEEP_BLOCKS}", heading, rows)


def task_table(model, length, cells):
    names = main_names(cells)
    tasks = list(dict.fromkeys(task for name in names for task in cells[name]["tasks"]))
    rows = [[label_of(split(name)[0]), *(percent(cells[name]["tasks"].get(task)) for task in tasks)] for name in names]
    if not rows:
        return ""
    return table(f"{model}, {length:,} tokens, B = {SWEEP_BLOCKS}: each task", ["", *tasks], rows)


def block_table(model, length, cells):
    blocks = sorted({split(name)[1] for name in cells} - {None})
    if len(blocks) < 2:
        return ""
    kinds = [kind for kind in COLOURS  # not those of the sweeps' number of blocks alone
             if any(f"{kind}-b{count}" in cells for count in blocks if count != SWEEP_BLOCKS)]
    rows = [[label_of(kind), *(percent(cells.get(f"{kind}-b{count}", {}).get("score")) for count in blocks)]
            for kind in kinds]
    return table(f"{model}, {length:,} tokens: number of blocks", ["", *(f"B = {count}" for count in blocks)], rows)


def sign_test(better, worse):
    """How probable so uneven a split is where both are as good."""
    count, fewer = better + worse, min(better, worse)
    return min(1, 2 * sum(math.comb(count, number) for number in range(fewer + 1)) / 2 ** count)


def paired_table(model, length, cells):
    """Every method against full on the same samples."""
    names = sorted((name for name in cells if split(name)[1]), key=lambda name: (split(name)[1], name))
    if "full" not in cells or not names:
        return ""
    rows = []
    for name in names:
        kind, blocks = split(name)
        pairs = [(value, cells["full"]["samples"][sample]) for sample, value in cells[name]["samples"].items()]
        better, worse = sum(own > full for own, full in pairs), sum(own < full for own, full in pairs)
        rows.append([f"{label_of(kind)}, B = {blocks}", f"{len(pairs)}", f"{better}", f"{worse}",
                     f"{sign_test(better, worse):.2g}"])
    return table(f"{model}, {length:,} tokens: against full, sample by sample", ["", "samples", "better", "worse", "sign test"],
                 rows)


def sweep(cells, letter):
    """[(tokens, name)] of a sweep, in ascending order."""
    field = {"a": "anchor_lengths", "p": "passing_lengths"}[letter]
    names = [name for name in cells if re.fullmatch(letter + r"\d+", name)]
    return sorted((cells[name]["used"][field], name) for name in names)


def sweep_table(model, length, cells):
    parts = []
    for letter, what in (("p", "passing length"), ("a", "anchor length")):
        found = sweep(cells, letter)
        if found:
            heading = [what, *(f"{tokens} = b/{name[1:]}" for tokens, name in found)]
            row = ["", *(percent(cells[name]["score"]) for _, name in found)]
            parts.append(table(f"{model}, {length:,} tokens, B = {SWEEP_BLOCKS}: {what}", heading, [row]))
    return "\n".join(parts)


def tables(found):
    parts = []
    for model, by_length in found.items():
        parts.append(method_table(model, by_length))
        for length, cells in by_length.items():
            parts += [task_table(model, length, cells), block_table(model, length, cells), paired_table(model, length, cells),
                      sweep_table(model, length, cells)]
    return "\n".join(part for part in parts if part)


# --- pictures


def bars(axes, places, estimates, **style):
    means = [100 * one["mean"] for one in estimates]
    low = [mean - 100 * one["low"] for mean, one in zip(means, estimates)]
    high = [100 * one["high"] - mean for mean, one in zip(means, estimates)]
    axes.errorbar(places, means, yerr=[low, high], capsize=3, marker="o", markersize=4, **style)


def finish(figure, axes, path, x_label):
    axes.set_xlabel(x_label)
    axes.set_ylabel("accuracy, % (95 % interval)")
    axes.set_ylim(-3, 103)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)


def token_axis(axes, places):
    axes.set_xscale("log", base=2)
    axes.set_xticks(places, [f"{place:,}" for place in places])
    axes.minorticks_off()


def draw_lengths(model, by_length, path):
    figure, axes = pyplot.subplots(figsize=(7, 4))
    names = main_names({name: 0 for cells in by_length.values() for name in cells})
    for number, name in enumerate(names):
        kind = split(name)[0]
        lengths = [length for length, cells in by_length.items() if name in cells]
        aside = 2 ** (DODGE * (number - len(names) / 2))
        bars(axes, [length * aside for length in lengths], [by_length[length][name]["score"] for length in lengths],
             label=label_of(kind), color=COLOURS[kind])
    token_axis(axes, list(by_length))
    axes.set_title(f"{model}: average over tasks, B = {SWEEP_BLOCKS}")
    finish(figure, axes, path, "length of the prompt, tokens")


def draw_sweeps(model, length, cells, path):
    figure, axes = pyplot.subplots(figsize=(7, 4))
    places = set()
    for letter, label, colour in (("p", "passing length p", "#0072B2"), ("a", "anchor length a", "#D55E00")):
        found = sweep(cells, letter)
        places |= {tokens for tokens, _ in found}
        if found:
            bars(axes, [tokens for tokens, _ in found], [cells[name]["score"] for _, name in found], label=label, color=colour)
    if "full" in cells:
        axes.axhline(100 * cells["full"]["score"]["mean"], color=COLOURS["full"], linestyle="--", linewidth=1, label="full")
    token_axis(axes, sorted(places))
    axes.set_title(f"{model}, {length:,} tokens, B = {SWEEP_BLOCKS}")
    finish(figure, axes, path, "tokens (the other length as by default)")


def draw_times(model, length, cells, path):
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for name in main_names(cells):
        if cells[name]["seconds"]:
            kind = split(name)[0]
            bars(axes, [cells[name]["seconds"]], [cells[name]["score"]], label=label_of(kind), color=COLOURS[kind], linestyle="")
    axes.set_xlim(left=0)
    axes.set_title(f"{model}, {length:,} tokens, B = {SWEEP_BLOCKS}")
    finish(figure, axes, path, "prefill, seconds (median)")


def write(apb, work):
    found = score(apb, work)
    text = tables(found)
    (work / "tables.md").write_text(text)
    print(text)
    for model, by_length in found.items():
        draw_lengths(model, by_length, work / f"{model}-length.svg")
        for length, cells in by_length.items():
            if sweep(cells, "p"):
                draw_sweeps(model, length, cells, work / f"{model}-sweep.svg")
            if any(cell["seconds"] for cell in cells.values()):
                draw_times(model, length, cells, work / f"{model}-time-{length}.svg")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--apb", type=Path, default=Path("build/release/apb"), help="the program")
    parser.add_argument("--work", type=Path, required=True, help="the work folder of quality.py")
    arguments = parser.parse_args()
    write(arguments.apb.resolve(), arguments.work)
