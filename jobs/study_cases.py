"""The cases of a study: what was measured (files of apb bench), what was counted, and what the counts predict."""
import dataclasses
import json
import pathlib

import h5py
import numpy as np

PHASES = ["embed", "projection", "compression", "communication", "attention", "feed_forward", "query", "head", "other"]


@dataclasses.dataclass
class Case:
    method: str  # as jobs/study.sh names it
    length: int  # context tokens
    ranks: int
    flops: np.ndarray  # [ranks, phases], counted
    pairs: np.ndarray  # [ranks], counted
    bytes_sent: np.ndarray  # [ranks], counted
    emulated: bool = False
    prefill: np.ndarray = None  # [repeats] seconds, of all rounds; None: not measured
    phases: np.ndarray = None  # [repeats, ranks, phases] seconds
    setting: str = ""  # model, layers and device: equal within a study

    @property
    def seconds(self):
        """The median prefill, or nothing."""
        return None if self.prefill is None else float(np.median(self.prefill))

    @property
    def phase_seconds(self):
        """[ranks, phases], of the repetition with the median prefill."""
        return self.phases[np.argsort(self.prefill)[(len(self.prefill) - 1) // 2]]

    @property
    def key(self):
        return self.length, self.ranks, self.method


def method_name(options, ranks):
    """The name in jobs/study.sh of what the options of a bench say."""
    method, blocks = options["method"], options["blocks"]
    if options["anchor_placement"] == "replicated" and blocks == ranks:
        return f"{method}-published"
    return method if blocks == "auto" else f"{method}-{blocks}"


def read_bench(path):
    """All cases of a file that apb bench wrote."""
    with h5py.File(path) as file:
        run = file["run"].attrs
        options = json.loads(run["options"])
        phases = list(file["timings/phase_seconds"].dims[3][0].asstr()[:])
        order = [phases.index(phase) for phase in PHASES]
        layers = options.get("layers", "all")
        setting = f"{options['shape'] or options['model']}, {layers} layers, {run['devices'][0]}"
        for case, prefill in enumerate(file["timings/prefill_seconds"][:]):
            yield Case(method=method_name(options, int(run["ranks"])), length=int(file["cases/context_length"][case]),
                       ranks=int(run["ranks"]), emulated=bool(run.get("emulated_ranks", 0)), prefill=prefill,
                       flops=file["work/flops"][case][:, order], pairs=file["work/pairs"][case],
                       bytes_sent=file["work/bytes_sent"][case],
                       phases=file["timings/phase_seconds"][case][:, :, order], setting=setting)


def read_plan(path):
    """A case that apb plan counted, from a file that jobs/study.sh names METHOD-LENGTH-rRANKS.json."""
    plan = json.loads(path.read_text())
    ranks = plan["ranks"]
    return Case(method=path.stem.rsplit("-", 2)[0], length=plan["context_length"], ranks=len(ranks),
                flops=np.array([[rank["flops"].get(phase, 0.0) for phase in PHASES] for rank in ranks]),
                pairs=np.array([rank["pairs"] for rank in ranks]),
                bytes_sent=np.array([rank["bytes_sent"] for rank in ranks]))


def joined(case, more):
    """One case with the repetitions of both, where the first was measured at all."""
    if case is None or case.prefill is None:
        return more
    if case.emulated != more.emulated:
        raise SystemExit(f"{case.method}, {case.length} tokens, {case.ranks} ranks: measured on real and on emulated ranks, "
                         "which do not compare: delete the files of one kind")
    return dataclasses.replace(case, prefill=np.concatenate([case.prefill, more.prefill]),
                               phases=np.concatenate([case.phases, more.phases]))


def fastest(case):
    """The case with the fastest of its repetitions alone, where it was measured."""
    if case.prefill is None:
        return case
    first = np.argmin(case.prefill)
    return dataclasses.replace(case, prefill=case.prefill[first:first + 1], phases=case.phases[first:first + 1])


def read_study(folder, planned=False):
    """Cases by length, ranks and method, all rounds of a case in one; with `planned` also those only counted."""
    cases = {}
    if planned:
        for path in pathlib.Path(folder, "plans").glob("*.json"):
            case = read_plan(path)
            cases[case.key] = case
    settings = {}
    for path in sorted(pathlib.Path(folder).glob("*.h5")):
        for case in read_bench(path):
            cases[case.key] = joined(cases.get(case.key), case)
            settings.setdefault(case.setting, path)
    if len(settings) > 1:
        (one, path), (other, other_path) = list(settings.items())[:2]
        raise SystemExit(f"{other_path}: {other}; but {path}: {one}: give each its own folder")
    return dict(sorted(cases.items()))


def calibration(cases):
    """The measured case that the rates come from: the longest of full on one rank; nothing if there is none."""
    return max((case for case in cases.values()
                if case.method == "full" and case.ranks == 1 and case.seconds is not None),
               key=lambda case: case.length, default=None)


def rates_of(case):
    """Operations a second of each phase on one rank; infinite where nothing is counted."""
    flops, seconds = case.flops[0], case.phase_seconds[0]
    return np.where(flops > 0, flops / np.maximum(seconds, 1e-12), np.inf)


def predict(case, rates):
    """Seconds of the slowest rank's counted operations at these rates."""
    return float((case.flops / rates).sum(1).max())
