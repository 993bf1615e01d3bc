"""Which device a run takes, and what it says when there is none to take: modules that are missing, broken, or there."""
import os
import pathlib
import unittest

import h5py

from program import ProgramTest, apb

STAND_IN = os.environ["APB_STAND_IN_MODULE"]


class DeviceTest(ProgramTest):
    def setUp(self):
        self.input = self.write_input([self.random_document("one", 100)])
        self.output = self.folder / f"{self.id()}.h5"

    def run_apb(self, *options, ranks=3, model=None, **environment):
        return apb("run", "--model", model or self.model, "--input", self.input, "--output", self.output, "--overwrite",
                   "--max-new-tokens", 2, "--threads", 1, "--save-logits", *options, ranks=ranks,
                   environment={"APB_CUDA_MODULE": STAND_IN, **environment})

    def devices(self):
        with h5py.File(self.output) as file:
            return [device.decode() if isinstance(device, bytes) else device for device in file["run"].attrs["devices"]]

    def logits(self):
        with h5py.File(self.output) as file:
            return file["outputs/logits"][:]

    def test_each_rank_takes_its_gpu(self):
        for device in ("cuda", "auto"):
            process = self.run_apb("--device", device, STAND_IN_GPUS="4")
            self.assertEqual(process.returncode, 0, process.stderr)
            self.assertEqual(self.devices(), ["stand-in GPU 0", "stand-in GPU 1", "stand-in GPU 2"])

    def test_a_module_computes_as_the_program_itself(self):
        for ranks in (1, 2):
            self.assertEqual(self.run_apb("--device", "cuda", ranks=ranks, STAND_IN_GPUS="2").returncode, 0)
            through_module = self.logits()
            self.assertEqual(self.run_apb("--device", "cpu", ranks=ranks, STAND_IN_GPUS="2").returncode, 0)
            self.assertIn("CPU" if "CPU" in self.devices()[0] else "thread", self.devices()[0])
            self.assertEqual(through_module.tobytes(), self.logits().tobytes())

    def test_one_visible_gpu_is_taken_whatever_the_rank(self):
        process = self.run_apb("--device", "cuda", ranks=1, STAND_IN_GPUS="1")
        self.assertEqual(process.returncode, 0, process.stderr)
        self.assertEqual(self.devices(), ["stand-in GPU 0"])

    def test_auto_takes_the_cpu_where_there_is_no_gpu_for_each_rank(self):
        for environment in ({}, {"STAND_IN_GPUS": "2"}, {"STAND_IN_GPUS": "1"}, {"APB_CUDA_MODULE": "/nowhere/it.so"},
                            {"STAND_IN_GPUS": "3", "STAND_IN_SAME_GPU": "1"}):
            process = self.run_apb("--device", "auto", **environment)
            self.assertEqual(process.returncode, 0, process.stderr)
            self.assertNotIn("stand-in", self.devices()[0])
            self.assertNotIn("GPU", process.stderr)

    def test_auto_computes_float32_on_the_cpu(self):
        process = self.run_apb("--dtype", "fp32", STAND_IN_GPUS="4")
        self.assertEqual(process.returncode, 0, process.stderr)
        self.assertNotIn("stand-in", self.devices()[0])

    def test_why_there_is_no_gpu(self):
        cuda = ("--device", "cuda")
        self.assert_fails(self.run_apb(*cuda), 3, "--device cuda: no GPU: none was set up")
        self.assert_fails(self.run_apb(*cuda, STAND_IN_GPUS="2"), 3, "number 3 of its node, which has 2 GPUs",
                          "docs/clusters.md")
        self.assert_fails(self.run_apb(*cuda, STAND_IN_GPUS="1"), 3, "ranks 0 and 1 share a GPU of host")
        self.assert_fails(self.run_apb(*cuda, STAND_IN_GPUS="3", STAND_IN_SAME_GPU="1"), 3, "ranks 0 and 1 share")
        self.assert_fails(self.run_apb(*cuda, APB_CUDA_MODULE="/nowhere/it.so"), 3, "/nowhere/it.so", "LD_LIBRARY_PATH")
        text = self.folder / "text.so"
        text.write_text("no library")
        self.assert_fails(self.run_apb(*cuda, APB_CUDA_MODULE=str(text)), 3, "text.so")
        libm = next(pathlib.Path("/usr/lib").glob("*/libm.so.6"))
        self.assert_fails(self.run_apb(*cuda, APB_CUDA_MODULE=str(libm)), 3, "libm.so.6 is no module of apb's")
        self.assertFalse(self.output.exists())

    def test_an_error_of_the_device_is_caught(self):
        for device in ("cuda", "auto"):
            process = self.run_apb("--device", device, STAND_IN_GPUS="3", STAND_IN_FAILURE="the fan is off")
            self.assert_fails(process, 3, "the fan is off")

    def test_float32_on_a_gpu(self):
        self.assert_fails(self.run_apb("--device", "cuda", "--dtype", "fp32", STAND_IN_GPUS="3"), 2, "--device cuda",
                          "--dtype fp32")

    def test_heads_that_the_device_cannot_compute(self):
        model = self.make_model("odd_heads", "llama", 24)
        self.assert_fails(self.run_apb("--device", "cuda", model=model, STAND_IN_GPUS="3"), 3, "head_dim 24")

    def test_too_little_memory_on_one_gpu(self):
        process = self.run_apb("--device", "cuda", ranks=2, STAND_IN_GPUS="2", STAND_IN_MEMORY="200000")
        self.assertEqual(process.returncode, 1, process.stderr)
        with h5py.File(self.output) as file:
            message = file["documents/message"].asstr()[0]
        self.assertRegex(message, r"100 context tokens need 0\.\d\d GiB on GPU 0 of host .* \(1 rank\), 0\.00 GiB are free")


if __name__ == "__main__":
    unittest.main()
