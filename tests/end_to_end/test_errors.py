"""What goes wrong gives one clear line, the right exit code, no hang, and leaves outputs alone."""
import json
import math
import os
import pathlib
import shutil
import struct
import unittest

from program import ProgramTest, apb


class ErrorTest(ProgramTest):
    def setUp(self):
        self.input = self.write_input([self.random_document("one", 100)])
        self.output = self.folder / f"{self.id()}.h5"

    def run_apb(self, *options, model=None, source=None, output=None, ranks=3):
        return apb("run", "--model", model or self.model, "--input", source or self.input, "--output",
                   output or self.output, "--max-new-tokens", 2, "--threads", 1, *options, ranks=ranks)

    def damaged_model(self, change):
        folder = self.folder / f"model-{self.id()}"
        shutil.copytree(self.model, folder)
        change(folder)
        return folder

    def change_config(self, **fields):
        def change(folder):
            config = json.loads((folder / "config.json").read_text())
            config.update(fields)
            (folder / "config.json").write_text(json.dumps(config))
        return self.damaged_model(change)

    @staticmethod
    def first_shard(folder):
        return sorted(folder.glob("*.safetensors"))[0]

    def test_wrong_usage(self):
        self.assert_fails(apb("run", "--input", self.input, "--output", self.output, ranks=3), 2, "--model")
        self.assert_fails(self.run_apb("--method", "magic"), 2, "magic", "apb|full")
        self.assert_fails(self.run_apb("--compressor", "retaining-heads"), 2, "--retaining-heads")
        self.assert_fails(self.run_apb("--resume", "--overwrite"), 2, "--resume", "--overwrite")
        self.assert_fails(apb("frobnicate"), 2, "frobnicate")
        self.assertFalse(self.output.exists())

    def test_help_and_version(self):
        for arguments in (["--help"], ["run", "--help"], ["--version"]):
            process = apb(*arguments)
            self.assertEqual(process.returncode, 0)
            self.assertTrue(process.stdout)

    def test_blocks_no_multiple_of_the_ranks(self):
        self.assert_fails(self.run_apb("--blocks", 4), 2, "--blocks 4", "3 ranks")

    def test_missing_model_and_files(self):
        self.assert_fails(self.run_apb(model=self.folder / "nowhere"), 3, "nowhere")
        self.assert_fails(self.run_apb(source=self.folder / "nothing.jsonl"), 3, "nothing.jsonl")
        model = self.damaged_model(lambda folder: (folder / "tokenizer.json").unlink())
        self.assert_fails(self.run_apb(model=model), 3, "tokenizer.json")

    def test_missing_shard(self):
        model = self.damaged_model(lambda folder: self.first_shard(folder).unlink())
        self.assert_fails(self.run_apb(model=model), 3, ".safetensors")

    def test_truncated_weights(self):
        def cut(folder):
            shard = self.first_shard(folder)
            os.truncate(shard, shard.stat().st_size - 100)
        self.assert_fails(self.run_apb(model=self.damaged_model(cut)), 3, ".safetensors")

    def test_tensor_of_the_wrong_shape(self):
        def reshape(folder):
            for shard in folder.glob("*.safetensors"):
                data = shard.read_bytes()
                length = struct.unpack("<Q", data[:8])[0]
                header = json.loads(data[8:8 + length])
                for name, tensor in header.items():
                    if name == "model.layers.1.self_attn.k_proj.weight":
                        tensor["shape"] = tensor["shape"][::-1]
                text = json.dumps(header, separators=(",", ":")).encode()
                text += b" " * (-len(text) % 8)
                shard.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length:])
        self.assert_fails(self.run_apb(model=self.damaged_model(reshape)), 3, "model.layers.1.self_attn.k_proj.weight",
                          "shape")

    def test_nan_among_the_weights(self):
        # On a node each tensor is read by one rank: whichever it is, all end.
        for tensor in ("model.embed_tokens", "model.layers.1.self_attn.v_proj", "model.layers.2.mlp.down_proj"):
            def poison(folder, name=tensor + ".weight"):
                for shard in folder.glob("*.safetensors"):
                    data = bytearray(shard.read_bytes())
                    start = 8 + struct.unpack("<Q", data[:8])[0]
                    found = json.loads(data[8:start]).get(name)
                    if found:
                        struct.pack_into("<f", data, start + found["data_offsets"][1] - 4, math.nan)
                        shard.write_bytes(data)
            with self.subTest(tensor=tensor):
                model = self.damaged_model(poison)
                self.assert_fails(self.run_apb(model=model), 3, tensor, "NaN", ".safetensors")
                shutil.rmtree(model)

    def test_unknown_rope_scaling(self):
        model = self.change_config(rope_scaling={"rope_type": "longrope", "factor": 4})
        self.assert_fails(self.run_apb(model=model), 3, "config.json", "rope_scaling.rope_type", "longrope")

    def test_unknown_architecture(self):
        model = self.change_config(architectures=["MambaForCausalLM"])
        self.assert_fails(self.run_apb(model=model), 3, "config.json", "architectures", "MambaForCausalLM")

    def test_bad_json_fails_its_line_alone(self):
        source = self.folder / "bad.jsonl"
        source.write_text(json.dumps(self.random_document("good", 60)) + "\n{not json\n")
        process = self.run_apb(source=source)
        self.assertEqual(process.returncode, 1, process.stderr)
        lines = [json.loads(line) for line in apb("report", self.output, "--jsonl").stdout.splitlines()]
        self.assertEqual([(line["id"], line["status"]) for line in lines], [("good", "ok"), ("line-2", "failed")])

    def test_duplicate_ids(self):
        source = self.write_input([self.random_document("same"), self.random_document("same")], "same.jsonl")
        self.assert_fails(self.run_apb(source=source), 3, "same")
        self.assertFalse(self.output.exists())

    def test_context_longer_than_the_positions(self):
        model = self.change_config(max_position_embeddings=100)
        process = self.run_apb(model=model)
        self.assertEqual(process.returncode, 1, process.stderr)
        self.assertIn("100 positions", process.stderr)

    def test_a_document_that_does_not_fit_into_memory(self):
        model = self.change_config(max_position_embeddings=10**9)
        source = self.write_input([self.random_document("huge", 100, max_new_tokens=5 * 10**8),
                                   self.random_document("small", 100)], "huge.jsonl")
        process = self.run_apb(model=model, source=source)
        self.assertEqual(process.returncode, 1, process.stderr)
        lines = [json.loads(line) for line in apb("report", self.output, "--jsonl").stdout.splitlines()]
        self.assertEqual([line["status"] for line in lines], ["failed", "ok"])
        self.assertRegex(lines[0]["message"], "need [0-9.]+ GiB on host .* GiB are free")

    def test_shortest_documents(self):
        source = self.write_input([self.random_document("one token", 1), self.random_document("a token a block", 6)],
                                  "short.jsonl")
        process = self.run_apb("--blocks", 6, "--anchor-length", 0, source=source)
        self.assertEqual(process.returncode, 1, process.stderr)
        lines = [json.loads(line) for line in apb("report", self.output, "--jsonl").stdout.splitlines()]
        self.assertEqual([line["status"] for line in lines], ["failed", "ok"])
        self.assertIn("6 blocks", lines[0]["message"])
        process = self.run_apb("--overwrite", source=source)
        self.assertEqual(process.returncode, 0, process.stderr)

    def test_token_outside_the_vocabulary(self):
        source = self.write_input([self.random_document("one") | {"query_tokens": [5000]}], "tokens.jsonl")
        process = self.run_apb(source=source)
        self.assertEqual(process.returncode, 1, process.stderr)
        self.assertIn("5000", process.stderr)

    def test_existing_output_is_left_alone(self):
        self.output.write_bytes(b"precious")
        self.assert_fails(self.run_apb(), 3, self.output.name, "--overwrite")
        self.assertEqual(self.output.read_bytes(), b"precious")

    def test_unwritable_output(self):
        self.assert_fails(self.run_apb(output=self.folder / "no" / "such" / "folder" / "x.h5"), 3, "x.h5")
        self.assert_fails(self.run_apb(output=pathlib.Path("/proc/x.h5")), 3, "/proc/x.h5")

    def test_a_report_about_no_results(self):
        self.assert_fails(apb("report", self.input), 3, self.input.name)


if __name__ == "__main__":
    unittest.main()
