"""Runs that are stopped, killed and resumed: nothing finished is lost, doubled or computed again."""
import json
import os
import random
import signal
import socket
import time
import unittest

from processes import BackgroundRun, committed, is_running, rows_of
from program import ProgramTest, apb

KILLS = int(os.environ.get("APB_KILLS", "6"))


class InterruptionTest(ProgramTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        config = json.loads((cls.model / "config.json").read_text())
        config["max_position_embeddings"] = 200_000
        (cls.model / "config.json").write_text(json.dumps(config))

    def setUp(self):
        self.output = self.folder / f"{self.id()}.h5"

    def arguments(self, source, *options, output=None):
        return ["run", "--model", self.model, "--input", source, "--output", output or self.output, "--max-new-tokens",
                2, "--threads", 1, "--dtype", "fp32", *options]

    def start(self, source, *options, ranks=2, output=None):
        return BackgroundRun(*self.arguments(source, *options, output=output), ranks=ranks,
                             log=self.folder / f"{self.id()}.log")

    def documents(self, count, tokens):
        return self.write_input([self.random_document(f"d{i}", tokens + i) for i in range(count)],
                                f"{self.id()}-{count}-{tokens}.jsonl")

    def undisturbed(self, source, *options, ranks=2):
        output = self.folder / f"{self.id()}-undisturbed.h5"
        process = apb(*self.arguments(source, *options, output=output), ranks=ranks)
        self.assertEqual(process.returncode, 0, process.stderr)
        return rows_of(output)

    def interrupt(self, source, *options, ranks=2, one_rank=None):
        """Starts a run, stops it by USR1 once it has committed something, and gives what it has committed."""
        run = self.start(source, *options, ranks=ranks)
        self.assertTrue(run.wait_until(lambda: committed(self.output)), run.log.read_text())
        target = run.launcher.pid if one_rank is None else run.ranks()[one_rank]
        sent = time.monotonic()
        os.kill(target, signal.SIGUSR1)
        self.assertEqual(run.wait(), 75, run.log.read_text())
        self.assertLess(time.monotonic() - sent, 10)
        self.assertEqual(len(run.lines()), 1, run.log.read_text())
        self.assertIn("--resume", run.lines()[0])
        self.assertFalse(self.output.exists())
        return committed(self.output)

    def assert_completes(self, source, before, expected, *options, ranks=2):
        process = apb(*self.arguments(source, "--resume", *options), ranks=ranks)
        self.assertEqual(process.returncode, 0, process.stderr)
        after = rows_of(self.output)
        self.assertEqual({name: row[:2] for name, row in after.items()},
                         {name: row[:2] for name, row in expected.items()})
        for name, row in before.items():
            self.assertEqual(after[name], row)  # the same seconds too: not computed again

    def assert_gone(self, ranks, since=None):
        """Within 30 s."""
        since = since or time.monotonic()
        while any(is_running(pid) for pid in ranks):
            self.assertLess(time.monotonic() - since, 30)
            time.sleep(0.1)

    def test_usr1_to_all_ranks(self):
        source = self.documents(60, 10_000)
        before = self.interrupt(source)
        self.assertLess(len(before), 60)
        self.assert_completes(source, before, self.undisturbed(source))

    def test_usr1_to_one_rank_and_another_number_of_ranks(self):
        source = self.documents(40, 14_000)
        expected = self.undisturbed(source, ranks=4)
        before = self.interrupt(source, ranks=4, one_rank=random.randrange(4))
        process = apb(*self.arguments(source, "--resume"), ranks=3)
        self.assert_fails(process, 2, "8 blocks", "3 ranks", "1, 2, 4, 8")
        self.assert_completes(source, before, expected, ranks=random.choice([1, 2]))

    def test_usr1_within_one_long_document(self):
        source = self.documents(1, 150_000)
        run = self.start(source, "--method", "full")  # a layer takes more than a minute
        self.assertTrue(run.wait_until(lambda: len(run.ranks()) == 2 and self.output.with_name(
            self.output.name + ".parts").exists()))
        time.sleep(2)
        sent = time.monotonic()
        os.kill(run.launcher.pid, signal.SIGUSR1)
        self.assertEqual(run.wait(), 75, run.log.read_text())
        self.assertLess(time.monotonic() - sent, 10)
        self.assertEqual(len(run.lines()), 1, run.log.read_text())
        self.assertIn("1 of 1 documents", run.lines()[0])

    def test_kill_at_random_moments(self):
        source = self.documents(30, 10_000)
        expected = self.undisturbed(source, ranks=3)
        kills, outputs = 0, 0
        while kills < KILLS:
            outputs += 1
            self.output = self.folder / f"{self.id()}-{outputs}.h5"
            before = {}
            while kills < KILLS and (survived := self.kill_once(source, before)) is not None:
                before = survived
                kills += 1
            self.assert_completes(source, before, expected, ranks=3)

    def kill_once(self, source, before):
        """Goes on with the output and kills a rank; what is committed then, or None when the run was done first."""
        run = self.start(source, "--resume", ranks=3)
        moment = time.monotonic() + random.uniform(0.3, 8)
        run.wait_until(lambda: time.monotonic() > moment)
        ranks = run.ranks()
        killed = time.monotonic()
        try:
            os.kill(random.choice(ranks), signal.SIGKILL)
        except (IndexError, ProcessLookupError):
            self.assertEqual(run.wait(), 0, run.log.read_text())
            return None
        run.wait(30)
        self.assert_gone(ranks, killed)
        after = committed(self.output)
        self.assertLessEqual(before.items(), after.items())
        return after

    def test_a_rank_that_stops_answering(self):
        source = self.documents(1, 150_000)
        for stopped in (0, 2):
            self.output = self.folder / f"{self.id()}-{stopped}.h5"
            run = self.start(source, "--timeout", 4, ranks=3)
            self.assertTrue(run.wait_until(lambda: "ranks 0-2" in run.log.read_text()))
            ranks = run.ranks()
            os.kill(ranks[stopped], signal.SIGSTOP)
            self.assertEqual(run.wait(60), 4, run.log.read_text())
            self.assertEqual(len(run.lines()), 1, run.log.read_text())
            self.assertRegex(run.lines()[0], rf"apb: rank {stopped} on {socket.gethostname()} did not answer for 4 s "
                                             r"\((prefill, layer \d of 3|loading the model|between documents)\)")
            self.assert_gone(ranks)

    def test_a_timeout_leaves_a_run_alone(self):
        source = self.documents(5, 3000)
        process = apb(*self.arguments(source, "--timeout", 60), ranks=3)
        self.assertEqual(process.returncode, 0, process.stderr)
        self.assertEqual(rows_of(self.output).keys(), {f"d{i}" for i in range(5)})

    def test_only_what_can_change_the_answer_has_it_computed_again(self):
        source = self.documents(1, 500)
        row = None  # with the seconds that it took
        for options, again in (([], True), (["--device", "cpu"], False),
                               (["--seed", 7], False), (["--passing-length", 9], True), (["--blocks", 2], True),
                               (["--compressor", "random"], True), (["--compressor", "random", "--seed", 7], True),
                               (["--method", "full"], True), (["--method", "full", "--blocks", 4], False)):
            process = apb(*self.arguments(source, "--resume", *options))
            self.assertEqual(process.returncode, 0, process.stderr)
            before, row = row, rows_of(self.output)["d0"]
            self.assertEqual(row != before, again, options)

    def test_two_runs_on_one_output(self):
        source = self.documents(20, 40_000)
        run = self.start(source)
        self.assertTrue(run.wait_until(lambda: committed(self.output)), run.log.read_text())
        for pid in run.ranks():  # or it might be done before the second run begins
            os.kill(pid, signal.SIGSTOP)
        second = apb(*self.arguments(source, "--resume"), ranks=2)
        for pid in run.ranks():
            os.kill(pid, signal.SIGCONT)
        self.assert_fails(second, 3, "lock", "is writing this output")
        self.assertEqual(run.wait(), 0, run.log.read_text())
        self.assertEqual(len(rows_of(self.output)), 20)


if __name__ == "__main__":
    unittest.main()
