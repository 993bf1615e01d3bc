"""jobs/run.sbatch under a real Slurm on this machine: stopped, requeued and resumed until it is complete."""
import json
import math
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
import unittest

from processes import rows_of
from program import APB, ProgramTest, apb

HERE = pathlib.Path(__file__).parent
JOB = HERE.parents[1] / "jobs" / "run.sbatch"
PROGRAMS = ["sbatch", "scontrol", "slurmctld", "slurmd", "munged"]
MISSING = [program for program in PROGRAMS if shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin") is None]
TOKENS = 12_000


def text_of(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


@unittest.skipIf(MISSING, f"no {', '.join(MISSING)}: install the packages slurm-wlm and munge")
@unittest.skipIf(os.geteuid() != 0, "only root can bring up a Slurm")
class SlurmTest(ProgramTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        config = json.loads((cls.model / "config.json").read_text())
        config["max_position_embeddings"] = 50_000
        (cls.model / "config.json").write_text(json.dumps(config))
        cls.slurm = pathlib.Path(tempfile.mkdtemp(prefix="apb_slurm_"))
        cls.addClassCleanup(shutil.rmtree, cls.slurm)
        cls.slurm.chmod(0o755)
        cls.addClassCleanup(subprocess.run, [HERE / "slurm_down.sh", cls.slurm], check=False)
        subprocess.run([HERE / "slurm_up.sh", cls.slurm], check=True)
        os.environ["SLURM_CONF"] = str(cls.slurm / "slurm.conf")
        cls.addClassCleanup(os.environ.pop, "SLURM_CONF")

    def submit(self, source, output, *options, launcher, limit):
        """The number of the job, of two ranks."""
        environment = {**os.environ, "APB": APB, "APB_LAUNCHER": launcher}
        command = ["sbatch", "--parsable", "--ntasks=2", "--cpus-per-task=1", f"--chdir={self.folder}",
                   f"--output={self.folder}/%j.log", *limit, JOB, "--model", self.model, "--input", source, "--output",
                   output, "--max-new-tokens", 2, "--dtype", "fp32", *options]
        found = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, check=False)
        self.assertEqual(found.returncode, 0, found.stderr)
        return found.stdout.strip()

    def wait_for(self, job, condition, timeout):
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end:
                subprocess.run(["scancel", job], check=False)
                self.fail(text_of("scontrol", "-o", "show", "job", job) + "\n" + self.log(job))
            time.sleep(0.3)

    def has_ended(self, job):
        return any(f"JobState={state}" in text_of("scontrol", "-o", "show", "job", job)
                   for state in ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL"))

    def log(self, job):
        path = self.folder / f"{job}.log"
        return path.read_text() if path.exists() else "no log"

    def documents(self, count):
        return self.write_input([self.random_document(f"d{i}", TOKENS + i) for i in range(count)],
                                f"{self.id()}-{count}.jsonl")

    def seconds_per_document(self):
        output = self.folder / "calibration.h5"
        process = apb("run", "--model", self.model, "--input", self.documents(4), "--output", output,
                      "--max-new-tokens", 2, "--dtype", "fp32", "--threads", 1, ranks=2)
        self.assertEqual(process.returncode, 0, process.stderr)
        return min(row[2] for row in rows_of(output).values())

    def assert_complete(self, job, output, count, least_starts):
        log = self.log(job)
        self.assertIn("JobState=COMPLETED", text_of("scontrol", "-o", "show", "job", job), log)
        self.assertGreaterEqual(log.count(", start "), least_starts, log)
        self.assertEqual(log.count("apb ended with exit code 75"), log.count(", start ") - 1, log)
        self.assertEqual(list(rows_of(output)), [f"d{i}" for i in range(count)])
        self.assertFalse(pathlib.Path(f"{output}.parts").exists())
        answered = [line for line in log.splitlines() if " tokens in " in line]
        self.assertEqual(len(answered), count, log)  # each once, over all starts

    def test_a_time_limit_too_short_for_the_documents(self):
        # Slurm looks at limits each 30 s: the signal, a minute before the limit of one, comes at the first look.
        count = math.ceil(45 / self.seconds_per_document())
        output = self.folder / "limit.h5"
        job = self.submit(self.documents(count), output, launcher="srun",
                          limit=["--time=1", "--signal=B:USR1@60"])
        self.wait_for(job, lambda: self.has_ended(job), 600)
        self.assert_complete(job, output, count, 2)

    def test_mpirun_and_a_signal_by_hand(self):
        output = self.folder / "by_hand.h5"
        job = self.submit(self.documents(40), output, launcher="mpirun --bind-to none", limit=["--time=10"])
        self.wait_for(job, lambda: " tokens in " in self.log(job), 60)
        subprocess.run(["scancel", "--batch", "--signal=USR1", job], check=True)
        self.wait_for(job, lambda: self.has_ended(job), 300)
        self.assert_complete(job, output, 40, 2)


if __name__ == "__main__":
    unittest.main()
