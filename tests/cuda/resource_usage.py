"""Kernels keep to the registers and the shared memory that their sources state, and spill nothing.

usage: resource_usage.py SOURCE_FOLDER REPORT_FOLDER

REPORT_FOLDER has what `ptxas -v` said of each SOURCE_FOLDER/*.cu, as *.txt of the same name. The comment before a
kernel states its budget, by template arguments where they matter (* for any):

    Budget: 40 registers, 2 KiB shared.    Budget <64, 1, *>: 168 registers, no shared memory.

ptxas knows the static kind of shared memory alone; what is dynamic is stated for the reader.
"""

import re
import subprocess
import sys
from pathlib import Path

BUDGET = re.compile(r"Budget(?: <([^>]*)>)?: (\d+) registers, ([^.]*?) ?shared")
LAUNCH_BOUNDS = re.compile(r"__launch_bounds__\s*\((?:[^()]|\([^()]*\))*\)")
KERNEL = re.compile(r"void\s+(\w+)\s*\(")
ENTRY = re.compile(r"Compiling entry function '(\S+)' for '(\w+)'")
SPILL = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")


def shared_bytes(text):
    amount = re.fullmatch(r"(\d+) (bytes|KiB)", text)
    return int(amount[1]) * (1024 if amount[2] == "KiB" else 1) if amount else 0


def budgets_of(source):
    """{kernel: [(template arguments or None, registers, bytes of shared memory)]}"""
    budgets = {}
    comment = ""
    lines = source.read_text().splitlines()
    for number, line in enumerate(lines):
        text = line.strip()
        if text.startswith("//"):
            comment += " " + text.lstrip("/ ")
        elif "__global__" in text:
            kernel = KERNEL.search(LAUNCH_BOUNDS.sub("", " ".join(lines[number:number + 8])))
            budgets[kernel[1]] = [(arguments and [a.strip() for a in arguments.split(",")], int(registers),
                                   shared_bytes(shared)) for arguments, registers, shared in BUDGET.findall(comment)]
            comment = ""
        elif not text.startswith("template"):
            comment = ""
    return budgets


def budget_for(budgets, kernel, arguments):
    for pattern, registers, shared in budgets.get(kernel, []):
        if not pattern or all(p in ("*", a) for p, a in zip(pattern, arguments)):
            return registers, shared
    return None


def name_and_arguments(symbol):
    """('attend', ['64', '1']) of the symbol of apb::cuda::(anonymous namespace)::attend<64, 1>(...)"""
    signature = subprocess.run(["c++filt", symbol], capture_output=True, text=True, check=True).stdout
    plain = signature.replace("(anonymous namespace)::", "").removeprefix("void ")
    name = re.match(r"[\w:]*?(\w+)(<|\()", plain)
    arguments = re.match(r"[^(]*?<([^()<>]*)>\(", plain) if name[2] == "<" else None
    return name[1], [a.strip() for a in arguments[1].split(",")] if arguments else []


def check(report, budgets):
    """Prints a line for each kernel, returns how many there are and what is wrong with them."""
    kernels, wrong = 0, []
    for line in report.read_text().splitlines():
        if match := ENTRY.search(line):
            name, arguments = name_and_arguments(match[1])
            label = f"{name}<{', '.join(arguments)}> for {match[2]}"
            kernels += 1
        elif (match := SPILL.search(line)) and (int(match[1]) or int(match[2])):
            wrong.append(f"{label} spills: {line.strip()}")
        elif match := USED.search(line):
            registers, shared = int(match[1]), int(match[2] or 0)
            print(f"{registers:4d} registers {shared:6d} bytes  {label}")
            budget = budget_for(budgets, name, arguments)
            if budget is None:
                wrong.append(f"no budget is stated for {label}")
            elif registers > budget[0] or shared > budget[1]:
                wrong.append(f"{label} has {registers} registers and {shared} bytes of shared memory, "
                             f"its budget is {budget[0]} and {budget[1]}")
    return kernels, wrong


def main():
    sources, reports = Path(sys.argv[1]), Path(sys.argv[2])
    budgets = {}
    for source in [*sources.glob("*.cuh"), *sources.glob("*.cu")]:
        budgets.update(budgets_of(source))
    wrong = []
    for source in sorted(sources.glob("*.cu")):
        report = reports / f"{source.stem}.txt"
        if not report.exists():
            wrong.append(f"{report} is missing")
            continue
        kernels, found = check(report, budgets)
        wrong += found if kernels else [f"{report} names no kernel"]
    for message in wrong:
        print(message, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
