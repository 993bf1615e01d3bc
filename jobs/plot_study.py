#!/usr/bin/env python3
"""Draws a study from the HDF5 files of apb bench in its folder.

    jobs/plot_study.py FOLDER [--format png|svg]

Writes into the folder: time (prefill over length), scaling (speedup and efficiency over ranks), phases (each rank's
time) and prediction (measured over predicted time). Hollow markers are emulated ranks.
"""
import argparse
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter  # noqa: E402

from study_cases import PHASES, calibration, predict, rates_of, read_study  # noqa: E402

# Okabe and Ito's colours, which colour-blind people can tell apart.
COLOURS = ["#0072b2", "#56b4e9", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#000000", "#999999", "#f0e442"]
MARKERS = ["o", "P", "s", "^", "D", "v", "X", "<", ">"]
METHODS = ["apb", "apb-published", "ring", "full", "ulysses", "star"]  # always in the same colours
PHASE_COLOURS = {"embed": "#f0e442", "projection": "#009e73", "compression": "#e69f00", "communication": "#d55e00",
                 "attention": "#0072b2", "feed_forward": "#56b4e9", "query": "#cc79a7", "head": "#000000",
                 "other": "#bbbbbb"}


class Study:
    def __init__(self, folder, form):
        self.folder, self.form = pathlib.Path(folder), form
        self.cases = list(read_study(folder).values())
        if not self.cases:
            raise SystemExit(f"{folder}: no files of apb bench")
        names = {case.method for case in self.cases}
        order = METHODS + sorted(names - set(METHODS))
        self.styles = {name: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(order)}
        self.methods = [name for name in order if name in names]
        self.lengths = sorted({case.length for case in self.cases})
        self.ranks = sorted({case.ranks for case in self.cases})

    def of(self, **fields):
        return [case for case in self.cases if all(getattr(case, name) == value for name, value in fields.items())]

    def draw(self, axes, method, points, line="-"):
        """Points of (case, x, y), hollow where emulated."""
        colour, marker = self.styles[method]
        axes.plot([x for _, x, _ in points], [y for _, _, y in points], linestyle=line, color=colour, zorder=2)
        for case, x, y in points:
            axes.plot(x, y, marker, color=colour, markerfacecolor="white" if case.emulated else colour, zorder=3)
        axes.plot([], [], marker=marker, linestyle=line, color=colour, label=method)

    def finish(self, figure, name, note="; hollow: emulated ranks", reverse=False):
        """Each label once, whatever axes it is on."""
        handles = {}
        for axes in figure.axes:
            for handle, label in zip(*axes.get_legend_handles_labels()):
                handles.setdefault(label, handle)
        figure.legend(handles.values(), handles.keys(), loc="outside right center", frameon=False,
                      reverse=reverse)
        emulated = any(case.emulated for case in self.cases)
        figure.suptitle(self.cases[0].setting + note * emulated, fontsize=9)
        path = self.folder / f"{name}.{self.form}"
        figure.savefig(path, dpi=110)
        plt.close(figure)
        print(path)


def new_figure(columns, width=3.6, **more):
    return plt.subplots(1, columns, figsize=(width * columns + 1.8, 3.6), squeeze=False, layout="constrained", **more)


def label_values(axis, values):
    axis.set_ticks(values, [f"{value // 1024}K" if value % 1024 == 0 else str(value) for value in values])
    axis.set_ticks([], minor=True)


def label_logarithmic(axis):
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def draw_time(study):
    figure, (row,) = new_figure(len(study.ranks), sharey=True)
    for axes, ranks in zip(row, study.ranks):
        for method in study.methods:
            cases = study.of(ranks=ranks, method=method)
            if cases:
                study.draw(axes, method, [(case, case.length, case.seconds) for case in cases])
        axes.set(xscale="log", yscale="log", xlabel="context, tokens", title=f"{ranks} rank{'s' * (ranks > 1)}")
        label_values(axes.xaxis, study.lengths)
        label_logarithmic(axes.yaxis)
        axes.grid(alpha=0.3)
    row[0].set_ylabel("prefill, seconds")
    study.finish(figure, "time")


def draw_scaling(study):
    length = max(study.lengths, key=lambda length: (len({case.ranks for case in study.of(length=length)}), length))
    base = min(study.of(length=length, method="full"), key=lambda case: case.ranks, default=None)
    if base is None:
        return
    figure, (row,) = new_figure(2)
    speedup, efficiency = row
    for method in study.methods:
        cases = study.of(length=length, method=method)
        if cases:
            study.draw(speedup, method, [(case, case.ranks, base.seconds / case.seconds) for case in cases])
        if len(cases) > 1:
            first = cases[0]
            study.draw(efficiency, method, [(case, case.ranks, first.seconds * first.ranks / case.seconds / case.ranks)
                                            for case in cases])
    ranks = np.array(study.ranks)
    speedup.plot(ranks, ranks / base.ranks, "--", color="grey", label="ideal")
    efficiency.axhline(1, linestyle="--", color="grey")
    speedup.set(xscale="log", yscale="log", xlabel="ranks",
                ylabel=f"times as fast as full on {base.ranks} rank{'s' * (base.ranks > 1)}")
    label_logarithmic(speedup.yaxis)
    efficiency.set(xscale="log", xlabel="ranks", ylabel="efficiency, against own fewest ranks")
    efficiency.set_ylim(bottom=0)
    for axes in row:
        label_values(axes.xaxis, study.ranks)
        axes.set_title(f"{length:,} tokens")
        axes.grid(alpha=0.3)
    study.finish(figure, "scaling")


def draw_phases(study):
    ranks = study.ranks[-1]
    length = max(case.length for case in study.of(ranks=ranks))
    cases = [case for method in study.methods for case in study.of(ranks=ranks, length=length, method=method)]
    figure, (row,) = new_figure(len(cases), width=2.2, sharey=True)
    for axes, case in zip(row, cases):
        bottom = np.zeros(case.ranks)
        for phase, seconds in zip(PHASES, case.phase_seconds.T):
            axes.bar(range(case.ranks), seconds, 0.85, bottom, color=PHASE_COLOURS[phase], label=phase)
            bottom += seconds
        axes.set(xlabel="rank", title=case.method)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    row[0].set_ylabel(f"prefill of {length:,} tokens, seconds")
    row[0].set_ylim(0, 1.05 * max(case.phase_seconds.sum(1).max() for case in cases))
    study.finish(figure, "phases", "; emulated ranks" * cases[0].emulated, reverse=True)


def draw_prediction(study):
    calibrating = calibration(dict(enumerate(study.cases)))
    if calibrating is None:
        return
    rates = rates_of(calibrating)
    figure, (row,) = new_figure(1, width=4.2)
    axes = row[0]
    for method in study.methods:
        study.draw(axes, method, [(case, predict(case, rates), case.seconds) for case in study.of(method=method)],
                   "none")
    span = np.array([predict(case, rates) for case in study.cases] + [case.seconds for case in study.cases])
    limits = np.array([span.min() / 1.3, span.max() * 1.3])
    axes.plot(limits, limits, "--", color="grey", label="as predicted")
    axes.plot(limits, limits / 0.9, ":", color="grey", label="predicted / 0.9")
    axes.set(xscale="log", yscale="log", xlim=limits, ylim=limits, xlabel="predicted prefill, seconds",
             ylabel="measured prefill, seconds", aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):
        label_logarithmic(axis)
    axes.grid(alpha=0.3)
    study.finish(figure, "prediction")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="the study's --output")
    parser.add_argument("--format", choices=["png", "svg"], default="png")
    options = parser.parse_args()
    study = Study(options.folder, options.format)
    draw_time(study)
    draw_scaling(study)
    draw_phases(study)
    draw_prediction(study)


if __name__ == "__main__":
    main()
