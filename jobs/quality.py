#!/usr/bin/env python3
"""Measure how well each method answers, on two models (docs/quality.md).

    quality.py --apb build/release/apb [--quick] [--work FOLDER]

Makes the tasks, runs every configuration on them (one core each, as many at a time as there are cores), times a few
documents of each alone, scores all, and leaves tables.md, scores.json and pictures in the work folder. A results file that
is complete is left as it is, one that was interrupted is continued: stop it and start it again as you like.
"""
import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import plot_quality

DATA = Path(os.environ.get("APB_DATA") or Path.home() / ".cache" / "apb").expanduser()
ROOT = Path(__file__).resolve().parent.parent
RULER = ["niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3",
         "niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe"]
MODELS = ["retrieval", "smollm2"]
RETRIEVAL = ["key_value", "multi_key", "two_hop"]
BLOCKS = [2, 4, 8, 16]
SWEEP_BLOCKS = 8
LONGEST_FOR_ALL_BLOCKS = 65536  # tokens; longer prompts are cut into SWEEP_BLOCKS only
SHARES = [32, 16, 8, 4, 2]  # of a block that anchor and passing lengths take in the sweeps: 1/32 .. 1/2
SHORTEST_ANCHOR = 128  # tokens: one that holds the longest question of the tasks
TIMED = 3  # documents of each configuration for its time
SCREENED = 10  # samples with which a task is tried at all
ABLE = 0.4  # share that full has to answer for a task to count
SEED = 2025


@dataclass
class Model:
    name: str
    folder: Path
    samples: dict  # length in tokens -> samples a task
    heads: Path = None  # retaining heads, if there are any
    template: str = "auto"
    sweep_length: int = 0
    answer_tokens: int = 128  # an answer ends here at the latest

    @property
    def compressors(self):
        return [*(["retaining-heads"] if self.heads else []), "query-similarity", "random", "recent"]


def models(quick):
    retrieval = ROOT / "data" / "retrieval_model"
    return [
        Model("retrieval", retrieval, {2048: 10} if quick else {2048: 100, 16384: 34, 131072: 9},
              heads=retrieval / "retaining_heads.safetensors", template="none", sweep_length=2048 if quick else 16384),
        Model("smollm2", DATA / "smollm2-135m-instruct", {2048: 5} if quick else {2048: 25, 4096: 25, 7936: 25},
              sweep_length=0 if quick else 4096, answer_tokens=64),
    ]


class Stop(Exception):
    """What is wrong, in one line."""


def call(command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):  # 1: some documents failed; they are in the file and count as wrong
        raise Stop((done.stderr.strip().splitlines() or [f"{command[0]} ended with {done.returncode}"])[-1])
    return done


def write_limited(path, lines, answer_tokens):
    """Samples that are answered with at most so many tokens."""
    samples = [json.loads(line) for line in lines]
    path.write_text("".join(
        json.dumps({**sample, "max_new_tokens": min(sample["max_new_tokens"], answer_tokens)}) + "\n" for sample in samples))


class Study:
    def __init__(self, options):
        self.apb = options.apb.resolve()
        self.work = options.work
        self.jobs = options.jobs
        self.models = [model for model in models(options.quick) if model.name in options.models]
        self.only = options.only

    # --- tasks

    def generate(self, model, length, task, count):
        """The task's samples as JSON Lines; they are the same for every configuration."""
        path = self.work / model.name / "tasks" / f"{task}-{length}-{count}.jsonl"
        if path.exists():
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".tmp")
        if model.name == "retrieval":
            call([sys.executable, ROOT / "data" / "make_retrieval_tasks.py", "--task", task, "--length", length, "--count",
                  count, "--seed", SEED, "--output", unfinished])
        else:
            call([self.apb, "tasks", "generate", "ruler", "--task", task, "--model", model.folder, "--template",
                  model.template, "--length", length, "--count", count, "--seed", SEED, "--output", unfinished])
        unfinished.replace(path)
        return path

    def input_of(self, model, length, tasks, count):
        """All samples of the tasks in one file."""
        lines = [line for task in tasks for line in self.generate(model, length, task, count).read_text().splitlines()]
        path = self.work / model.name / f"input-{length}-{count}.jsonl"
        write_limited(path, lines, model.answer_tokens)
        return path

    # --- runs

    def run(self, model, documents, output, options, threads=1):
        """One apb run, alone on its cores; returns the results file."""
        if output.exists():
            return output
        output.parent.mkdir(parents=True, exist_ok=True)
        print(f"{output.relative_to(self.work)}", file=sys.stderr, flush=True)
        call([self.apb, "run", "--model", model.folder, "--input", documents, "--output", output, "--template",
              model.template, "--threads", threads, "--resume", *options])
        return output

    def score(self, files, output):
        call([self.apb, "tasks", "score", *files, "--json", output])
        return json.loads(output.read_text())

    def tasks_of(self, model, length):
        """Only tasks that the model can do at all, with full attention and in this length, say something."""
        if model.name == "retrieval":
            return RETRIEVAL
        count = min(model.samples[length], SCREENED)
        documents = self.input_of(model, length, RULER, count)
        output = self.run(model, documents, documents.with_name(f"screen-{length}-{count}.h5"), ["--method", "full"],
                          self.jobs)
        scores = self.score([output], output.with_suffix(".json"))
        return [task["task"] for task in scores["files"][0]["tasks"] if task["score"]["mean"] >= ABLE]

    def configurations(self, model, length):
        """(name, options) of everything that is run in this length, the most telling first."""
        block = length // SWEEP_BLOCKS
        found = [("full", ["--method", "full"])]
        best = model.compressors[0]

        def methods(count):
            for compressor in model.compressors:
                found.append((f"apb-{compressor}-b{count}", apb_options(model, compressor, count)))
            found.append((f"star-b{count}", ["--method", "star", "--blocks", count]))

        methods(SWEEP_BLOCKS)
        if model.name == "retrieval":
            for name, more in {"no-passing": ["--passing-length", 0], "no-anchor": ["--anchor-length", 0],
                               "no-anchor-query": ["--anchor-query", "off"]}.items():
                found.append((f"{name}-b{SWEEP_BLOCKS}", apb_options(model, best, SWEEP_BLOCKS) + more))
        if length == model.sweep_length:
            for share in SHARES:
                found.append((f"p{share}", apb_options(model, best, SWEEP_BLOCKS) + ["--passing-length", block // share]))
                if block // share >= SHORTEST_ANCHOR:
                    found.append((f"a{share}", apb_options(model, best, SWEEP_BLOCKS) + ["--anchor-length", block // share]))
        if length <= LONGEST_FOR_ALL_BLOCKS:
            for count in BLOCKS:
                if count != SWEEP_BLOCKS:
                    methods(count)
            most = max(BLOCKS)  # is it how much is passed that matters, or which tokens?
            found.append((f"everything-b{most}", apb_options(model, best, most) + ["--passing-length", length // most]))
        return found

    def cells(self):
        """(model, documents, folder, name, options) of everything that is asked for."""
        for model in self.models:
            for length, count in model.samples.items():
                names = [(name, options) for name, options in self.configurations(model, length)
                         if not self.only or any(part in f"{model.name}/{length}/{name}" for part in self.only)]
                tasks = self.tasks_of(model, length) if names else []
                if not tasks:
                    continue
                documents = self.input_of(model, length, tasks, count)
                for name, options in names:
                    yield model, documents, self.work / model.name / str(length), name, options

    def run_all(self):
        cells = list(self.cells())
        if not cells:
            raise Stop(f"nothing to measure: no configuration of {', '.join(model.name for model in self.models)} has "
                       f"{' or '.join(self.only) or 'a task that full can do'} in MODEL/LENGTH/NAME")
        with ThreadPoolExecutor(self.jobs) as pool:
            list(pool.map(lambda cell: self.run(cell[0], cell[1], cell[2] / f"{cell[3]}.h5", cell[4]), cells))
        return cells

    def time_all(self, cells):
        """A few documents of each configuration alone on all cores, for the time that an answer takes."""
        for model, documents, folder, name, options in cells:
            few = documents.with_name(f"timing-{folder.name}.jsonl")
            write_limited(few, documents.read_text().splitlines()[:TIMED], 1)
            self.run(model, few, folder / "timing" / f"{name}.h5", options, self.jobs)


def apb_options(model, compressor, blocks):
    options = ["--method", "apb", "--blocks", blocks, "--compressor", compressor]
    return options + (["--retaining-heads", model.heads] if compressor == "retaining-heads" else [])


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--apb", type=Path, default=ROOT / "build/release/apb", help="the program")
    parser.add_argument("--work", type=Path, help="folder for all files [$APB_DATA/quality, with --quick quality-quick]")
    parser.add_argument("--quick", action="store_true", help="few samples of the shortest length: minutes")
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS, help="only these [all]")
    parser.add_argument("--only", nargs="+", default=[], help="only configurations whose MODEL/LENGTH/NAME has one of these")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="runs at a time [all cores]")
    options = parser.parse_args(arguments)
    options.work = options.work or DATA / ("quality-quick" if options.quick else "quality")
    return options


def main():
    options = parse(sys.argv[1:])
    if not options.apb.exists():
        sys.exit(f"{options.apb} is not there: build it, or name it with --apb")
    study = Study(options)
    try:
        study.time_all(study.run_all())
    except Stop as why:
        sys.exit(f"quality: {why}")
    plot_quality.write(study.apb, study.work)


if __name__ == "__main__":
    main()
