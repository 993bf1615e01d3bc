"""The built program on the emulated CUDA device, as users run it on GPUs."""
import json
import os
import pathlib
import random
import sys
import unittest

import h5py
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "end_to_end"))
from program import ProgramTest, apb  # noqa: E402

MODULE = os.environ["APB_EMULATED_MODULE"]
DEMO = pathlib.Path(os.environ.get("APB_DATA", pathlib.Path.home() / ".cache" / "apb")) / "smollm2-135m-instruct"
TOLERANCE = 2e-2  # of bf16


class EmulatedProgramTest(ProgramTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.gpu_model = cls.make_model("gpu", "gpu", 2)

    def start(self, documents, *options, model=None, ranks=1, device="cuda", tokens=3, **environment):
        """The output's path, the process, and the counts of each rank."""
        name = f"{random.randrange(10**9)}"
        output, report = self.folder / f"{name}.h5", self.folder / f"{name}.json"
        process = apb("run", "--model", model or self.gpu_model, "--input", self.write_input(documents, f"{name}.jsonl"),
                      "--output", output, "--device", device, "--threads", 1, "--max-new-tokens", tokens, *options,
                      ranks=ranks, timeout=400, environment={"APB_CUDA_MODULE": MODULE, "APB_EMULATION_REPORT": str(report),
                                                             **environment})
        counts = [json.loads(path.read_text()) for path in self.folder.glob(f"{name}.json.*")]
        return output, process, counts

    def answers(self, *arguments, **options):
        """Arrays of the output by name, and its attributes; the run must end well."""
        output, process, counts = self.start(*arguments, **options)
        self.assertEqual(process.returncode, 0, process.stderr)
        with h5py.File(output, "r") as file:
            found = {name: file[name][()] for name in ("outputs/token_ids", "timings/phase_seconds",
                                                       "timings/prefill_seconds")}
            found["text"] = [text.decode() for text in file["outputs/text"][:]]
            found["logits"] = file["outputs/logits"][()] if "logits" in file["outputs"] else None
            found["devices"] = str(file["run"].attrs["devices"])
        return found, counts

    def assert_near(self, ours, theirs):
        """Logits of the first token, and of further ones while the tokens are the same."""
        for token, (one, other) in enumerate(zip(ours["logits"], theirs["logits"])):
            self.assertLessEqual(np.linalg.norm(one - other) / np.linalg.norm(other), TOLERANCE, f"token {token}")
            if ours["outputs/token_ids"][token] != theirs["outputs/token_ids"][token]:
                break

    def test_answers_are_near_those_of_the_cpu_and_the_time_is_accounted_for(self):
        documents = [self.random_document("one", 230)]
        for ranks in (1, 2):
            options = ["--blocks", 4, "--compressor", "random", "--save-logits"]
            ours, _ = self.answers(documents, *options, ranks=ranks)
            theirs, _ = self.answers(documents, *options, ranks=ranks, device="cpu")
            self.assert_near(ours, theirs)
            self.assertIn("emulated GPU", ours["devices"])
            np.testing.assert_allclose(ours["timings/phase_seconds"].sum(2),
                                       np.broadcast_to(ours["timings/prefill_seconds"][:, None], (1, ranks)), rtol=0.05)

    def test_the_order_in_which_streams_run_changes_nothing(self):
        documents = [self.random_document("one", 150)]
        runs = [self.answers(documents, "--save-logits", ranks=2, APB_EMULATION_ORDER=order)[0]
                for order in ("late", "contrary", "immediate")]
        for run in runs[1:]:
            np.testing.assert_array_equal(run["logits"], runs[0]["logits"])

    def test_a_forgotten_stream_wait_is_seen(self):
        documents = [self.random_document("one", 150)]
        right, _ = self.answers(documents, "--save-logits", ranks=2)
        for order in ("late", "contrary"):
            output, process, _ = self.start(documents, "--save-logits", ranks=2, APB_EMULATION_ORDER=order,
                                            APB_EMULATION_FORGET_STREAM_WAITS="1")
            if process.returncode == 0:
                with h5py.File(output, "r") as file:
                    self.assertFalse(np.array_equal(file["outputs/logits"][()], right["logits"]), order)

    def test_the_layer_loop_allocates_nothing_and_waits_for_nothing(self):
        per_document = []
        for layers in (2, 5):
            model = self.make_model(f"gpu-{layers}", "gpu", layers)
            documents = [self.random_document(f"document {i}", 200) for i in range(3)]
            counts = [self.answers(documents[:many], model=model, tokens=2)[1][0] for many in (2, 3)]
            per_document.append([counts[1][name] - counts[0][name]
                                 for name in ("host_waits", "device_allocations", "host_allocations")])
        self.assertEqual(per_document[0], per_document[1], "with 2 layers and with 5")
        self.assertEqual(per_document[0][1:], [0, 0], "allocations of a further document")

    def test_what_is_missing_is_said(self):
        documents = [self.random_document("one", 100)]
        for text, ranks, environment in (("no GPU", 1, {"APB_EMULATION_GPUS": "0"}),
                                         ("share a GPU", 2, {"APB_EMULATION_GPUS": "1"})):
            _, process, _ = self.start(documents, ranks=ranks, **environment)
            self.assert_fails(process, 3, text)
        _, process, _ = self.start(documents, APB_EMULATION_MEMORY_BYTES=str(200 << 20))
        self.assertEqual(process.returncode, 1, process.stderr)
        self.assertIn("GiB are free", process.stderr)
        _, process, _ = self.start(documents, device="auto", APB_EMULATION_GPUS="0")
        self.assertEqual(process.returncode, 0, process.stderr)

    @unittest.skipUnless(DEMO.is_dir(), f"needs {DEMO}: run data/fetch_smollm2.py")
    def test_the_demo_model_gives_the_tokens_of_the_cpu_within_the_budgets(self):
        text = " ".join(["The harbour master wrote that the lighthouse keeper's cat is called Pebble."] +
                        ["Nothing else happened on that day, and the sea was calm."] * 10)
        documents = [{"id": "one", "context": text, "query": "What is the cat called?"}]
        options = {"model": DEMO, "tokens": 4}
        ours, counts = self.answers(documents, "--blocks", 2, **options)
        theirs, _ = self.answers(documents, "--blocks", 2, device="cpu", **options)
        self.assertEqual(ours["outputs/token_ids"].tolist(), theirs["outputs/token_ids"].tolist())
        self.check_budgets(counts[0]["kernels"])

    def check_budgets(self, kernels):
        """What a GPU would do: no bank conflict where attention loads tiles, whole sectors of global memory."""
        attention = [counts for name, counts in kernels.items() if counts["mma"] > 0]
        self.assertTrue(attention)
        for counts in attention:
            for kind in ("ldmatrix", "shared_cp_async"):
                self.assertGreater(counts[kind]["accesses"], 0)
                self.assertEqual(counts[kind]["extra_wavefronts"], 0, kind)
        for name, counts in kernels.items():
            if "gather" in name or "select" in name:
                continue
            for kind in ("global_load", "global_store", "global_cp_async"):
                with self.subTest(kernel=name, kind=kind):
                    self.assertLessEqual(counts[kind]["sectors"], 1.05 * counts[kind]["least_sectors"])


if __name__ == "__main__":
    unittest.main()
