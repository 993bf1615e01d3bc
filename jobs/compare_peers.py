#!/usr/bin/env python3
"""Compare the prefill time and peak memory of apb with those of transformers (PyTorch) and llama.cpp on the CPU.

    compare_peers.py --install                        once: the peers, several GB, into $APB_DATA/peers-venv
    compare_peers.py --apb build/release/apb --output peers.json

($APB_DATA is ~/.cache/apb unless set.) All programs get the same cores, weights (the demo model's, BF16; llama.cpp's
Q8_0 made from them) and tokens. Each measurement is a process of its own: it loads the model, prefills 512 tokens to warm
up, and then the prompt; the time is that until the first new token is known. The programs take turns, in reverse order
every second round. Lengths beyond the model's positions measure speed only. Prints medians (smallest..largest) and ratios.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DATA = Path(os.environ.get("APB_DATA") or Path.home() / ".cache" / "apb").expanduser()
VENV = DATA / "peers-venv"
PYTHON = VENV / "bin" / "python"
WORKER = Path(__file__).resolve().with_name("peer_worker.py")
PACKAGES = ["torch", "transformers", "llama-cpp-python", "gguf", "numpy", "tokenizers"]
PEERS = {"transformers": "torch", "llama-bf16": "llama_cpp", "llama-q8_0": "llama_cpp"}
QUERY = 32  # of the prompt's tokens the last ones are the question
WARM_UP = 512


def apb_programs(cores):
    """name -> (ranks, threads a rank, options)"""
    return {
        "apb full, one rank": (1, cores, ["--method", "full"]),
        "apb full, a rank a core": (cores, 1, ["--method", "full"]),
        "apb B=8, a rank a core": (cores, 1, ["--method", "apb", "--blocks", "8"]),
    }


def install():
    if not PYTHON.exists():
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    subprocess.run([PYTHON, "-m", "pip", "install", "--disable-pip-version-check", *PACKAGES], check=True)


def versions():
    """package -> version of those that are there"""
    listed = subprocess.run([PYTHON, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
                            capture_output=True, text=True, check=True)
    found = {package["name"].replace("_", "-"): package["version"] for package in json.loads(listed.stdout)}
    return {name: found[name] for name in PACKAGES if name in found}


def last_line(text):
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


class Failed(Exception):
    """Why a program could not be measured, in one line."""


def run(command, limit):
    try:
        process = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        raise Failed(f"took longer than {limit} s") from None
    except OSError as error:
        raise Failed(str(error)) from None
    if process.returncode != 0:
        raise Failed(last_line(process.stderr))
    return process.stdout


def measure_peer(name, length, options):
    return json.loads(last_line(run([PYTHON, WORKER, name, options.work, length, options.cores], options.limit)))


def measure_apb(program, length, options):
    """apb run on two pre-tokenised documents, of which the first is the warm-up; each rank's peak is added."""
    ranks, threads, method = program
    tokens = json.loads((options.work / "tokens.json").read_text())[:length]
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        folder = Path(folder)
        with (folder / "input.jsonl").open("w") as file:
            for name, prompt in (("warm-up", tokens[:WARM_UP]), ("prompt", tokens)):
                json.dump({"id": name, "context_tokens": prompt[:-QUERY], "query_tokens": prompt[-QUERY:]}, file)
                file.write("\n")
        command = [options.apb, "run", "--model", options.work / "model", "--input", folder / "input.jsonl", "--output",
                   folder / "out.h5", "--threads", threads, "--max-new-tokens", 1, *method]
        run(["mpirun", "-n", ranks, "--oversubscribe", "--bind-to", "none", sys.executable, __file__, "--child",
             folder, *command], options.limit)
        rows = [json.loads(line) for line in run([options.apb, "report", "--jsonl", folder / "out.h5"], 60).splitlines()]
        peak = sum(int(file.read_text()) for file in folder.glob("peak-*"))
    row = rows[-1]
    if row["status"] != "ok":
        raise Failed(row["message"])
    return {"seconds": row["prefill_seconds"], "first_token": row["token_ids"][0], "peak_bytes": peak}


def run_child(folder, command):
    """One MPI rank: runs the command and notes its peak resident bytes."""
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    (Path(folder) / f"peak-{process.pid}").write_text(str(usage.ru_maxrss * 1024))
    sys.exit(os.waitstatus_to_exitcode(status))


def measure_all(options, measures):
    """{name: {length: [measurement, ...]}}, with a line of progress each; a program that fails is left out from there."""
    results = {name: {} for name in measures}
    missing = {}
    for length, repeats in zip(options.lengths, options.repeats):
        for turn in range(repeats):
            for name in list(measures) if turn % 2 == 0 else list(reversed(measures)):
                if name in missing:
                    continue
                try:
                    found = measures[name](length)
                except Failed as why:
                    missing[name] = f"at {length} tokens: {why}"
                    print(f"{name}: {missing[name]}", file=sys.stderr)
                    continue
                results[name].setdefault(length, []).append(found)
                print(f"{length:>7} {name:<24} {found['seconds']:9.3f} s {found['peak_bytes'] / 2**30:6.2f} GiB, "
                      f"first token {found['first_token']}", file=sys.stderr)
    return results, missing


def table(title, lengths, rows):
    """rows: {name: {length: text}}"""
    print(f"\n{title}\n\n| | " + " | ".join(f"{length:,}" for length in lengths) + " |")
    print("|---|" + "---|" * len(lengths))
    for name, cells in rows.items():
        print(f"| {name} | " + " | ".join(cells.get(length, "-") for length in lengths) + " |")


def medians(results, field):
    return {name: {length: statistics.median(one[field] for one in found) for length, found in by_length.items()}
            for name, by_length in results.items()}


def print_tables(lengths, results):
    def spread(found):
        seconds = [one["seconds"] for one in found]
        return f"{statistics.median(seconds):.2f} ({min(seconds):.2f}..{max(seconds):.2f})"

    table("Prefill, seconds: median (smallest..largest)", lengths,
          {name: {length: spread(found) for length, found in by_length.items()} for name, by_length in results.items()})
    seconds = medians(results, "seconds")
    best = {length: min((seconds[name][length] for name in PEERS if length in seconds.get(name, {})), default=None)
            for length in lengths}
    table("Times faster than the best peer", lengths,
          {name: {length: f"{best[length] / own:.2f}" for length, own in by_length.items() if best[length]}
           for name, by_length in seconds.items() if name not in PEERS})
    table("Peak resident memory, GiB (ranks added, shared pages once for each)", lengths,
          {name: {length: f"{peak / 2**30:.2f}" for length, peak in by_length.items()}
           for name, by_length in medians(results, "peak_bytes").items()})


def processor():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.machine())


def integers(text):
    return [int(part) for part in text.split(",")]


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", action="store_true", help="install the peers and end")
    parser.add_argument("--apb", type=Path, default=Path("build/release/apb"), help="the program")
    parser.add_argument("--model", type=Path, default=DATA / "smollm2-135m-instruct", help="what data/fetch_smollm2.py made")
    parser.add_argument("--lengths", type=integers, default=[2048, 4096, 8192, 16384, 32768],
                        help="prompt tokens [2048,4096,8192,16384,32768]")
    parser.add_argument("--repeats", type=integers, default=[3], help="rounds, for all lengths or one number for each [3]")
    parser.add_argument("--cores", type=int, default=2, help="cores for every program [2]")
    parser.add_argument("--limit", type=int, default=3600, help="seconds for one measurement at most [3600]")
    parser.add_argument("--output", type=Path, help="JSON file for all numbers")
    options = parser.parse_args(arguments)
    if len(options.repeats) == 1:
        options.repeats *= len(options.lengths)
    if len(options.repeats) != len(options.lengths):
        parser.error(f"--repeats has {len(options.repeats)} numbers for {len(options.lengths)} lengths")
    if min(options.lengths) <= QUERY:
        parser.error(f"--lengths: {min(options.lengths)} is not above the question's {QUERY} tokens")
    options.work = DATA / "peers" / options.model.resolve().name
    return options


def main():
    if sys.argv[1:2] == ["--child"]:
        run_child(sys.argv[2], sys.argv[3:])
    options = parse(sys.argv[1:])
    if options.install:
        install()
        return
    if not options.apb.exists():
        sys.exit(f"{options.apb} is not there: build it, or name it with --apb")
    options.apb = options.apb.resolve()
    if not PYTHON.exists():
        sys.exit(f"the peers are not there: {Path(__file__).name} --install puts them into {VENV}")
    cores = sorted(os.sched_getaffinity(0))[:options.cores]
    if len(cores) < options.cores:
        sys.exit(f"--cores {options.cores}: there are {len(cores)}")
    os.sched_setaffinity(0, cores)  # all that is started inherits it
    found = versions()
    measures = {}
    for name, module in PEERS.items():
        if subprocess.run([PYTHON, "-c", f"import {module}"], capture_output=True, check=False).returncode == 0:
            measures[name] = lambda length, name=name: measure_peer(name, length, options)
        else:
            print(f"{name}: left out, {VENV} has no {module}: --install puts it there", file=sys.stderr)
    for name, program in apb_programs(options.cores).items():
        measures[name] = lambda length, program=program: measure_apb(program, length, options)
    try:
        run([PYTHON, WORKER, "prepare", options.model, options.work, max([*options.lengths, WARM_UP])], options.limit)
    except Failed as why:
        sys.exit(f"the model could not be prepared: {why}")

    start = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    results, missing = measure_all(options, measures)
    print(f"{processor()}, {options.cores} cores; " + ", ".join(f"{name} {found[name]}" for name in found))
    print_tables(options.lengths, results)
    for name, why in missing.items():
        print(f"\n{name}: {why}")
    if options.output:
        options.output.write_text(json.dumps(
            {"start_time": start, "command": sys.argv, "processor": processor(), "cores": cores, "packages": found,
             "missing": missing, "results": results}, indent=1))


if __name__ == "__main__":
    main()
