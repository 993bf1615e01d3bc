#!/usr/bin/env python3
"""Prints a table of a study: for each case the prefill time of the slowest rank as predicted and as measured.

    jobs/predict_study.py FOLDER [--base ring] [--fastest]

The prediction is counted operations of each phase (files of apb bench; plans/ for cases that were not measured) at the
rates of one measured case, full on one rank. What is not counted takes no time: communication, compression, and the
rest. Then how many times as fast as the base on as many ranks, predicted and measured; * marks a measurement below 0.9
of its prediction.
"""
import argparse

import numpy as np

from study_cases import PHASES, calibration, fastest, predict, rates_of, read_study


def cells(case, base, rates):
    """Predicted and measured seconds, predicted / measured; times as fast as the base, the same three."""
    predicted = predict(case, rates)
    row = [f"{predicted:.4g}", "", "", "", "", ""]
    if base:
        row[3] = f"{predict(base, rates) / predicted:.2f}"
    if case.seconds is not None:
        row[1:3] = f"{case.seconds:.4g}", f"{predicted / case.seconds:.2f}"
    if base and None not in (case.seconds, base.seconds):
        ratio = base.seconds / case.seconds
        reached = ratio / (predict(base, rates) / predicted)
        row[4:] = f"{ratio:.2f}", f"{reached:.2f}{'*' if reached < 0.9 else ''}"
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="the study's --output")
    parser.add_argument("--base", default="ring", help="method that the others are compared with [ring]")
    parser.add_argument("--fastest", action="store_true", help="take the fastest repetition of each case, not the median")
    options = parser.parse_args()
    cases = read_study(options.folder, planned=True)
    if options.fastest:
        cases = {key: fastest(case) for key, case in cases.items()}
    calibrating = calibration(cases)
    if calibrating is None:
        raise SystemExit(f"{options.folder}: no measurement of full on one rank, whose rates the predictions need")
    rates = rates_of(calibrating)
    print(f"\n{calibrating.setting}\nRates of full on one rank, {calibrating.length} tokens (GFLOP/s): " +
          ", ".join(f"{phase} {rate / 1e9:.0f}" for phase, rate in zip(PHASES, rates) if np.isfinite(rate)) + "\n")
    print("| tokens | ranks | method | predicted, s | measured, s | predicted / measured | "
          f"times as fast as {options.base}, predicted | measured | measured / predicted |\n" + "|---" * 9 + "|")
    for (length, ranks, method), case in cases.items():
        base = cases.get((length, ranks, options.base))
        count = f"{ranks}, emulated" if case.emulated else str(ranks)
        print(f"| {length:,} | {count} | `{method}` | " + " | ".join(cells(case, base, rates)) + " |")


if __name__ == "__main__":
    main()
