"""jobs/study.sh: measures what is missing, says what cannot be, predicts from counts, draws."""
import json
import os
import pathlib
import subprocess
import sys
import unittest

import h5py
import numpy as np

from program import APB, MPIEXEC, ProgramTest

JOBS = pathlib.Path(__file__).parents[2] / "jobs"
sys.path.insert(0, str(JOBS))
import study_cases  # noqa: E402


def measured(seconds, flops, **fields):
    """A case with these seconds and operations [ranks] of projection and attention."""
    phase_seconds, phase_flops = np.zeros((len(flops), 9)), np.zeros((len(flops), 9))
    phase_flops[:, [1, 4]] = flops
    phase_seconds[:, [1, 4]] = seconds
    phase_seconds[:, 3] = 7  # communication, of which nothing is counted
    return study_cases.Case(**{"method": "full", "length": 100, "ranks": len(flops), **fields}, flops=phase_flops,
                            phases=phase_seconds[None], prefill=np.array([phase_seconds[0].sum()]), pairs=None,
                            bytes_sent=None)


class PredictionTest(unittest.TestCase):
    def test_a_case_worked_by_hand(self):
        rates = study_cases.rates_of(measured([[2, 3]], [[100, 300]]))  # 50 and 100 a second
        self.assertEqual((rates[1], rates[4], rates[3]), (50, 100, np.inf))
        # 50/50 + 100/100 = 2 s on rank 0, 25/50 + 250/100 = 3 s on rank 1: the slowest rank counts.
        case = measured([[9, 9], [9, 9]], [[50, 100], [25, 250]])
        self.assertEqual(study_cases.predict(case, rates), 3)

    def test_rates_come_from_the_longest_measurement_of_full_on_one_rank(self):
        cases = [measured([[1, 1]], [[1, 1]], length=length) for length in (20, 40, 30)]
        cases += [measured([[1, 1]], [[1, 1]], length=50, method="ring"),
                  measured([[1, 1], [1, 1]], [[1, 1], [1, 1]], length=60)]
        self.assertEqual(study_cases.calibration(dict(enumerate(cases))).length, 40)
        self.assertIsNone(study_cases.calibration(dict(enumerate(cases[3:]))))

    def test_methods_have_the_names_that_the_study_gave_them(self):
        for name, blocks, placement in [("apb", "auto", "sharded"), ("apb-8", 8, "sharded"),
                                        ("apb-published", 4, "replicated"), ("apb-8", 8, "replicated")]:
            options = {"method": "apb", "blocks": blocks, "anchor_placement": placement}
            self.assertEqual(study_cases.method_name(options, 4), name)


class StudyTest(ProgramTest):
    def study(self, folder, *options, code=0):
        environment = {**os.environ, "APB": APB, "APB_PYTHON": sys.executable, "SLURM_NTASKS": "3",
                       "APB_LAUNCHER": f"{MPIEXEC} --oversubscribe --bind-to none"}
        process = subprocess.run([JOBS / "study.sh", "--shape", "tiny", "--layers", "2", "--repeats", "1", "--warmup", "0",
                                  "--calibrate", "300", "--output", folder, *options], capture_output=True, text=True,
                                 timeout=300, check=False, env=environment)
        self.assertEqual(process.returncode, code, process.stderr)
        return process

    def test_a_study_from_nothing_and_gone_on_with(self):
        folder = self.folder / "study"
        options = ["--lengths", "300,400", "--ranks", "1,3", "--methods", "apb,apb-3,apb-published,full,ulysses"]
        output = self.study(folder, *options).stdout
        for length in (300, 400):
            self.assertRegex(output, rf"ulysses, {length} tokens, 3 ranks: n/a: .*4 query heads")
        names = {f"{name}-{length}-r{ranks}.h5" for length in (300, 400) for ranks in (1, 3)
                 for name in ("apb", "apb-3", "apb-published", "full", "ulysses")}
        names -= {"ulysses-300-r3.h5", "ulysses-400-r3.h5"}
        self.assertEqual({path.name for path in folder.glob("*.h5")}, names)
        for name in ("time", "scaling", "phases", "prediction"):
            self.assertEqual((folder / f"{name}.png").read_bytes()[:4], b"\x89PNG")

        # Counted by plan and by bench alike, under the name that the file has.
        for path in folder.glob("*.h5"):
            (case,) = study_cases.read_bench(path)
            planned = study_cases.read_plan(folder / "plans" / f"{path.stem}.json")
            self.assertEqual(f"{case.method}-{case.length}-r{case.ranks}", path.stem)
            self.assertEqual(planned.key, case.key)
            for field in ("flops", "pairs", "bytes_sent"):
                np.testing.assert_array_equal(getattr(planned, field), getattr(case, field))
            self.assertRegex(output, rf"(?m)^\| {case.length} \| {case.ranks} \| `{case.method}` \| [\d.]+ \| [\d.]+ ")

        # What is there is not measured again; what is missing is.
        (folder / "full-300-r3.h5").unlink()
        times = {path: path.stat().st_mtime_ns for path in folder.glob("*.h5")}
        self.study(folder, *options)
        self.assertTrue((folder / "full-300-r3.h5").exists())
        self.assertEqual({path: path.stat().st_mtime_ns for path in times}, times)

        # Another setting does not get mixed with these.
        process = self.study(folder, "--layers", "3", "--lengths", "500", "--ranks", "1", "--methods", "apb", code=2)
        self.assertIn("give each its own folder", process.stderr)

    def test_rounds(self):
        folder = self.folder / "rounds"
        options = ["--lengths", "300", "--ranks", "3", "--methods", "apb,ring"]
        self.study(folder, *options, "--repeats", "2")
        one = study_cases.read_study(folder)[300, 3, "apb"]
        self.study(folder, *options, "--rounds", "3")
        names = {f"{name}-300-r{ranks}{turn}.h5" for name, ranks in (("apb", 3), ("ring", 3), ("full", 1))
                 for turn in ("", "-2", "-3")}
        self.assertEqual({path.name for path in folder.glob("*.h5")}, names)
        all_ = study_cases.read_study(folder, planned=True)[300, 3, "apb"]
        self.assertEqual((len(one.prefill), len(all_.prefill)), (2, 2 + 2 * 1))
        self.assertTrue(set(one.prefill) < set(all_.prefill))
        self.assertEqual(study_cases.fastest(all_).seconds, all_.prefill.min())
        # The phases are those of one of the repetitions in the middle.
        middle = sorted(all_.prefill)[1]
        np.testing.assert_allclose(all_.phase_seconds.sum(1), middle, rtol=0.05)

        # Real ranks are no further round of emulated ones.
        self.study(self.folder / "mixed", "--lengths", "300", "--ranks", "2", "--methods", "apb")
        process = self.study(self.folder / "mixed", "--lengths", "300", "--ranks", "2", "--methods", "apb", "--rounds", "2",
                             "--emulate", code=1)
        self.assertIn("real and on emulated ranks", process.stderr)

    def test_further_options_count_in_predictions_too(self):
        folder = self.folder / "options"
        self.study(folder, "--predict", "--lengths", "320", "--ranks", "4", "--methods", "apb-8", "--", "--query-length", "7",
                   "--passing-length=3", "--anchor-length", "24", "--roofline")
        plan = json.loads((folder / "plans" / "apb-8-320-r4.json").read_text())
        self.assertEqual((plan["query_length"], plan["passing_length"], plan["anchor_length"]), (7, 3, 24))

    def test_more_ranks_than_there_are_places_are_emulated(self):
        folder = self.folder / "emulated"
        output = self.study(folder, "--lengths", "300", "--ranks", "2,4", "--methods", "ring").stdout
        found = {ranks: next(study_cases.read_bench(folder / f"ring-300-r{ranks}.h5")) for ranks in (2, 4)}
        self.assertEqual({ranks: (case.ranks, case.emulated) for ranks, case in found.items()},
                         {2: (2, False), 4: (4, True)})
        self.assertRegex(output, r"(?m)^\| 300 \| 4, emulated \| `ring` \|")
        self.study(folder, "--emulate", "--lengths", "310", "--ranks", "2", "--methods", "ring")
        self.assertTrue(next(study_cases.read_bench(folder / "ring-310-r2.h5")).emulated)

    def test_predictions_need_one_measurement(self):
        folder = self.folder / "predicted"
        output = self.study(folder, "--predict", "--lengths", "9000", "--ranks", "64", "--methods", "apb,ring").stdout
        self.assertEqual([path.name for path in folder.glob("*.h5")], ["full-300-r1.h5"])
        with h5py.File(folder / "full-300-r1.h5") as file:
            self.assertEqual(file["run"].attrs["ranks"], 1)
        self.assertRegex(output, r"(?m)^\| 9,000 \| 64 \| `apb` \| [\d.]+ \|  \|  \| [\d.]+ \|  \|  \|$")
        self.assertRegex(output, r"(?m)^\| 9,000 \| 64 \| `ring` \| [\d.]+ \|  \|  \| 1.00 \|  \|  \|$")

    def test_wrong_usage(self):
        for options, text in ((["--length", "3"], "--length"), (["--lengths"], "--lengths wants a value")):
            process = self.study(self.folder / "none", *options, code=2)
            self.assertIn(text, process.stderr)


if __name__ == "__main__":
    unittest.main()
