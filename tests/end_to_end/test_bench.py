"""apb bench: what it measures adds up, and stands in the file and the tables."""
import json
import random
import re
import unittest

import h5py
import numpy as np

from program import ProgramTest, apb


def read(path):
    with h5py.File(path, "r") as file:
        found = {}
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
        for name in found:
            assert file[name].attrs["description"], name
        found["phases"] = [x.decode() for x in file["timings/phase_seconds"].dims[3][0][:]]
        return found, dict(file["run"].attrs), dict(file["cases"].attrs)


class BenchTest(ProgramTest):
    def bench(self, *options, ranks=1, source=("--shape", "tiny")):
        output = self.folder / f"bench-{random.randrange(10**9)}.h5"
        process = apb("bench", *source, "--threads", 1, "--output", output, *options, ranks=ranks)
        self.assertEqual(process.returncode, 0, process.stderr)
        return *read(output), process

    def test_phases_add_up_and_the_work_does_not_depend_on_the_ranks(self):
        lengths = [random.randrange(200, 500), random.randrange(500, 900)]
        flops = []
        for ranks in (1, 2):
            data, run, attributes, process = self.bench(
                "--lengths", ",".join(map(str, lengths)), "--blocks", 4, "--repeats", 3, "--warmup", 1,
                "--decode-tokens", 5, "--query-length", 9, ranks=ranks)
            self.assertEqual(list(data["cases/context_length"]), lengths)
            self.assertEqual(list(data["cases/blocks"]), [4, 4])
            self.assertEqual((attributes["query_length"], attributes["decode_tokens"], attributes["repeats"]), (9, 5, 3))
            self.assertEqual(run["ranks"], ranks)
            seconds = data["timings/phase_seconds"]
            self.assertEqual(seconds.shape, (2, 3, ranks, len(data["phases"])))
            prefill = np.broadcast_to(data["timings/prefill_seconds"][:, :, None], (2, 3, ranks))
            np.testing.assert_allclose(seconds.sum(3), prefill, rtol=0.05)
            whole = data["timings/communication_whole_seconds"]
            waited = seconds[..., data["phases"].index("communication")]
            self.assertEqual(whole.shape, (2, 3, ranks))
            self.assertTrue(((0 < whole) & (whole <= waited)).all())  # nothing goes on beside computing here
            decoding = data["timings/decode_phase_seconds"].sum(3)[:, :, 0]  # timed by rank 0
            np.testing.assert_allclose(decoding, data["timings/decode_seconds"], rtol=0.05, atol=2e-3)
            self.assertTrue((data["timings/prefill_seconds"] > 0).all())
            self.assertTrue((data["memory/needed_bytes"] > 0).all())
            self.assertTrue((data["memory/peak_bytes"] >= data["memory/loaded_bytes"][None] * 0.9).all())
            working = data["work/flops"].sum((0, 1)) > 0
            self.assertEqual([name for name, works in zip(data["phases"], working) if works],
                             ["projection", "attention", "feed_forward", "query", "head"])
            flops.append(data["work/prefill_flops"])
            for length in lengths:
                self.assertRegex(process.stdout, rf"(?m)^ *{length} apb +4 ")
        np.testing.assert_array_equal(*flops)

    def test_roofline(self):
        data, _, _, process = self.bench("--lengths", 300, "--repeats", 2, "--roofline", "--method", "full", ranks=2)
        self.assertEqual(data["peaks/flops_per_second"].shape, (2,))
        for name in ("flops_per_second", "bytes_per_second"):
            self.assertTrue((data[f"peaks/{name}"] > 0).all())
        self.assertRegex(process.stdout, r"peaks of all ranks: [\d.]+ GFLOP/s \(.+\), reading [\d.]+ GB/s")
        for phase in data["phases"]:
            self.assertRegex(process.stdout, rf"(?m)^{phase} ")

    def test_a_model_folder_and_its_first_layers(self):
        source = ("--model", self.model)
        few, _, _, _ = self.bench("--lengths", 100, "--repeats", 1, "--warmup", 0, "--layers", 1, source=source)
        all_, _, _, process = self.bench("--lengths", 100, "--repeats", 1, "--decode-tokens", 0, source=source)
        self.assertLess(few["work/prefill_flops"][0], all_["work/prefill_flops"][0])
        self.assertEqual(all_["timings/decode_seconds"][0, 0], 0)
        self.assertIn(str(self.model), process.stdout)

    def test_every_compressor_on_a_random_shape(self):
        for compressor in ("retaining-heads", "query-similarity", "random", "recent"):
            data, _, _, _ = self.bench("--lengths", 200, "--repeats", 1, "--warmup", 0, "--compressor", compressor,
                                       "--dtype", "fp32", "--passing-length", 7, "--anchor-length", 48, ranks=2)
            self.assertEqual((data["cases/passing_length"][0], data["cases/anchor_length"][0]), (7, 48))

    def test_every_method(self):
        for method in ("apb", "star", "full", "ring", "ulysses"):
            data, _, _, _ = self.bench("--lengths", 300, "--repeats", 1, "--method", method, "--decode-tokens", 2, ranks=2)
            self.assertEqual(data["cases/method"][0].decode(), method)
            self.assertTrue((data["work/flops"].sum(2) > 0).all())
            # Of `tiny`: 4 heads, 3 layers, in the last of which only the question's 32 rows attend.
            needed = 4 * (2 * 300 * 301 // 2 + 3 * (32 * 300 + 32 * 33 // 2))
            self.assertEqual(data["work/full_pairs"][0], needed)
            planned = json.loads(apb("plan", "--shape", "tiny", "--context-length", 300, "--ranks", 2, "--method",
                                     method).stdout)["ranks"]
            for name in ("pairs", "bytes_sent"):
                self.assertEqual(list(data[f"work/{name}"][0]), [rank[name] for rank in planned])
            if method in ("full", "ring", "ulysses"):
                self.assertEqual(data["work/pairs"].sum(), needed)

    def test_emulated_ranks(self):
        ranks = random.choice((3, 8, 20))
        length = 2000  # 40 blocks have room for the question in the anchor
        real, run, _, _ = self.bench("--lengths", length, "--repeats", 1, ranks=2)
        self.assertEqual(run["emulated_ranks"], 0)
        data, run, _, process = self.bench("--lengths", length, "--repeats", 2, "--emulate-ranks", ranks)
        self.assertEqual((run["ranks"], run["emulated_ranks"]), (ranks, ranks))
        self.assertEqual(data["cases/blocks"][0], 2 * ranks)
        seconds = data["timings/phase_seconds"][0]
        self.assertEqual(seconds.shape, (2, ranks, len(data["phases"])))
        prefill = np.broadcast_to(data["timings/prefill_seconds"][0][:, None], (2, ranks))
        np.testing.assert_allclose(seconds.sum(2), prefill, rtol=0.05)
        waiting = seconds[:, :, data["phases"].index("other")]
        self.assertTrue((waiting.max(1) > 0).all())  # the fastest rank waits
        busy = np.median((prefill - waiting).max(1))
        printed = float(re.search(r"slowest rank ([\d.e-]+) s", process.stdout).group(1))
        self.assertLess(abs(printed - busy), 0.01 * busy)
        self.assertRegex(process.stdout, rf"(?s)bf16, {ranks} emulated ranks; .*critical path, without the link's")
        # One process, however many ranks it plays: about as large as two real ones together.
        self.assertLess(data["memory/peak_bytes"].sum(), 3 * real["memory/peak_bytes"].sum())

    def test_errors(self):
        taken = self.folder / "taken.h5"
        taken.write_bytes(b"x")
        for code, options, parts in (
                (2, ["--shape", "llama"], ["--shape", "llama", "llama-3.1-8b"]),
                (2, [], ["--model", "--shape"]),
                (2, ["--shape", "tiny", "--model", self.model], ["--model", "--shape"]),
                (2, ["--shape", "tiny", "--layers", 9], ["--layers 9", "3"]),
                (2, ["--shape", "tiny", "--lengths", "100,0"], ["--lengths"]),
                (2, ["--shape", "tiny", "--repeats", 0], ["--repeats"]),
                (2, ["--model", self.model, "--compressor", "retaining-heads"], ["--retaining-heads"]),
                (3, ["--shape", "tiny", "--lengths", 300_000_000], ["GiB", "would fit"]),
                (3, ["--shape", "tiny", "--lengths", 100, "--blocks", 60], ["60 blocks"]),
                (3, ["--shape", "tiny", "--output", taken], ["taken.h5", "--overwrite"]),
                (3, ["--shape", "tiny", "--output", self.folder / "none" / "out.h5"], ["no folder"]),
                (3, ["--model", self.folder / "none"], ["none"])):
            with self.subTest(options=options):
                self.assert_fails(apb("bench", *options), code, *parts)
        self.assert_fails(apb("bench", "--shape", "tiny", "--blocks", 3, ranks=2), 2, "--blocks 3", "2 ranks")
        emulated = ("bench", "--shape", "tiny", "--emulate-ranks", 8)
        self.assert_fails(apb(*emulated, ranks=2), 2, "--emulate-ranks", "mpirun")
        self.assert_fails(apb(*emulated, "--device", "cuda"), 2, "--emulate-ranks", "--device")
        self.assert_fails(apb(*emulated, "--blocks", 4), 2, "--blocks 4", "8 ranks")
        self.assert_fails(apb(*emulated, "--lengths", 300_000_000), 3, "GiB", "8 ranks")


if __name__ == "__main__":
    unittest.main()
