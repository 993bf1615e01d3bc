"""data/convert_retaining_heads.py reads PyTorch checkpoints, refuses bad ones, and apb runs with what it writes."""
import json
import pathlib
import random
import struct
import subprocess
import sys
import unittest
import zipfile

from program import ProgramTest, apb

SCRIPT = pathlib.Path(__file__).parents[2] / "data" / "convert_retaining_heads.py"
ITEM_SIZES = {"BFloat16Storage": 2, "HalfStorage": 2, "FloatStorage": 4, "DoubleStorage": 8}
ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def integer(value):
    return b"J" + struct.pack("<i", value)


def integers(values):
    return b"(" + b"".join(map(integer, values)) + b"t"


def tensor_pickle(storage, key, items, offset, shape, stride):
    """The opcodes by which PyTorch pickles a tensor."""
    reference = b"(" + text("storage") + f"ctorch\n{storage}\n".encode() + text(key) + text("cpu") + integer(items) + b"tQ"
    return (b"ctorch._utils\n_rebuild_tensor_v2\n(" + reference + integer(offset) + integers(shape) + integers(stride)
            + b"\x89" + ORDERED_DICT + b"tR")


def write_checkpoint(path, tensors, storage="FloatStorage", inserted=b"", root="archive/", byteorder=b"little", cut=0,
                     compression=zipfile.ZIP_STORED):
    """A checkpoint as torch.save writes it. tensors: {name: (shape, bytes)}; `inserted`: opcodes for one more value."""
    entries, blobs = b"", {}
    for key, (name, (shape, data)) in enumerate(tensors.items()):
        stride = [shape[1], 1] if len(shape) == 2 else [1]
        padding = 3 * ITEM_SIZES[storage] if key == 1 else 0  # one tensor is a view into a longer storage
        blobs[str(key)] = b"\xff" * padding + data
        items = len(blobs[str(key)]) // ITEM_SIZES[storage]
        entries += text(name) + tensor_pickle(storage, str(key), items, padding // ITEM_SIZES[storage], shape, stride)
    if inserted:
        entries += text("extra") + inserted
    metadata = b"}" + text("_metadata") + ORDERED_DICT + b"sb"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(root + "data.pkl", b"\x80\x02" + ORDERED_DICT + b"(" + entries + b"u" + metadata + b".")
        archive.writestr(root + "byteorder", byteorder)
        for key, data in blobs.items():
            archive.writestr(f"{root}data/{key}", data[: len(data) - cut])
        archive.writestr(root + "version", b"3\n")
    return path


def read_safetensors(path):
    """{name: (type, shape, bytes)}"""
    data = path.read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:start])
    return {name: (entry["dtype"], entry["shape"], data[start + entry["data_offsets"][0]:start + entry["data_offsets"][1]])
            for name, entry in header.items() if name != "__metadata__"}


def fc(layer, number):
    return f"model.layers.{layer}.self_attn.fc{number}.weight"


class ConvertTest(ProgramTest):
    def setUp(self):
        self.heads_file = self.model / "retaining_heads.bin"  # safetensors, F32
        self.tensors = {name: (shape, data) for name, (_, shape, data) in read_safetensors(self.heads_file).items()}
        self.checkpoint = self.folder / f"{self.id()}.bin"
        self.output = self.folder / f"{self.id()}.safetensors"

    def convert(self, source=None):
        command = [sys.executable, SCRIPT, "--model", self.model, source or self.checkpoint, self.output]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def assert_converts(self, tensors, dtype, source=None):
        process = self.convert(source)
        self.assertEqual(process.returncode, 0, process.stderr)
        self.assertEqual(read_safetensors(self.output),
                         {name: (dtype, list(shape), data) for name, (shape, data) in tensors.items()})

    def assert_refuses(self, *parts, source=None):
        process = self.convert(source)
        self.assertEqual(process.returncode, 1, process.stderr)
        self.assertEqual(len(process.stderr.splitlines()), 1, process.stderr)
        for part in parts:
            self.assertIn(part, process.stderr)
        self.assertFalse(self.output.exists())
        self.assertEqual(list(self.folder.glob(".*")), [])

    def answers(self, heads, name):
        output = self.folder / f"{name}.h5"
        source = self.folder / "input.jsonl"
        process = apb("run", "--model", self.model, "--input", source, "--output", output, "--threads", 1,
                      "--compressor", "retaining-heads", "--retaining-heads", heads, "--max-new-tokens", 4, "--blocks", 4,
                      "--anchor-length", 32, "--passing-length", 8, "--save-logits", ranks=2)
        self.assertEqual(process.returncode, 0, process.stderr)
        return apb("report", output, "--jsonl").stdout

    def test_float32_gives_the_same_run(self):
        write_checkpoint(self.checkpoint, self.tensors)
        self.assert_converts(self.tensors, "F32")
        self.write_input([self.random_document("one", 300)])
        tokens = [[json.loads(line)["token_ids"] for line in self.answers(heads, name).splitlines()]
                  for heads, name in ((self.heads_file, "before"), (self.output, "after"))]
        self.assertEqual(len(tokens[0][0]), 4)
        self.assertEqual(*tokens)

    def test_bfloat16_and_float16_are_kept_bit_by_bit(self):
        for storage, dtype in (("BFloat16Storage", "BF16"), ("HalfStorage", "F16")):
            halves = {name: (shape, random.randbytes(len(data) // 2)) for name, (shape, data) in self.tensors.items()}
            write_checkpoint(self.checkpoint, halves, storage, root="")
            self.assert_converts(halves, dtype)

    def test_a_whole_model_loses_all_but_its_heads(self):
        more = {"model.layers.0.self_attn.q_proj.weight": ([2, 2], bytes(16)), "model.norm.weight": ([4], bytes(16))}
        write_checkpoint(self.checkpoint, more | self.tensors)
        self.assert_converts(self.tensors, "F32")

    def test_safetensors(self):
        source = self.folder / "heads.safetensors"
        source.write_bytes(self.heads_file.read_bytes())
        self.assert_converts(self.tensors, "F32", source)
        self.output.unlink()
        source.write_bytes(self.heads_file.read_bytes()[:-1])
        self.assert_refuses("heads.safetensors", "data offsets", source=source)
        source.write_bytes(b"\xff" * 40)
        self.assert_refuses("header", source=source)

    def test_missing_and_extra_layers(self):
        write_checkpoint(self.checkpoint, {name: value for name, value in self.tensors.items() if name != fc(1, 2)})
        self.assert_refuses(self.checkpoint.name, fc(1, 2), "missing")
        write_checkpoint(self.checkpoint, self.tensors | {fc(3, 1): self.tensors[fc(0, 1)]})
        self.assert_refuses(fc(3, 1), "3 layers")
        write_checkpoint(self.checkpoint, {})
        self.assert_refuses(fc(0, 1), "missing")
        write_checkpoint(self.checkpoint, self.tensors | {"model.layers.0.self_attn.fc1.bias": ([4], bytes(16))})
        self.assert_refuses("model.layers.0.self_attn.fc1.bias")

    def test_wrong_shapes(self):
        (inner, columns), data = self.tensors[fc(2, 1)]
        for shape in ([columns, inner], [inner * columns]):
            write_checkpoint(self.checkpoint, self.tensors | {fc(2, 1): (shape, data)})
            self.assert_refuses(fc(2, 1), str(shape), f"[inner, {columns}]")
        write_checkpoint(self.checkpoint, self.tensors | {fc(2, 2): ([1, inner], bytes(4 * inner))})
        self.assert_refuses(fc(2, 2), f"[1, {inner}]", f"[2, {inner}]")

    def test_other_types_and_views(self):
        doubles = {name: (shape, data * 2) for name, (shape, data) in self.tensors.items()}
        write_checkpoint(self.checkpoint, doubles, "DoubleStorage")
        self.assert_refuses(fc(0, 1), "DoubleStorage")
        transposed = tensor_pickle("FloatStorage", "0", 4, 0, [2, 2], [1, 2])
        write_checkpoint(self.checkpoint, {"x": ([2, 2], bytes(16))}, inserted=b"0" + text(fc(0, 1)) + transposed)
        self.assert_refuses(fc(0, 1), "stride")
        beyond = tensor_pickle("FloatStorage", "0", 4, 1, [2, 2], [2, 1])
        write_checkpoint(self.checkpoint, {"x": ([2, 2], bytes(16))}, inserted=b"0" + text(fc(0, 1)) + beyond)
        self.assert_refuses(fc(0, 1), "beyond")
        write_checkpoint(self.checkpoint, self.tensors, byteorder=b"big")
        self.assert_refuses("little endian")
        write_checkpoint(self.checkpoint, self.tensors, compression=zipfile.ZIP_DEFLATED)
        self.assert_refuses(fc(0, 1), "compressed")

    def test_code_in_the_pickle_is_never_run(self):
        victim = self.folder / "victim"
        for name in ("os\nsystem", "posix\nsystem", "builtins\neval", "builtins\ngetattr", "torch\nload"):
            call = f"c{name}\n".encode() + b"(" + text(f"touch {victim}") + b"tR"
            write_checkpoint(self.checkpoint, self.tensors, inserted=call)
            self.assert_refuses(name.replace("\n", "."), "nothing was run")
            stacked = text(name.split("\n")[0]) + text(name.split("\n")[1]) + b"\x93(" + text(f"touch {victim}") + b"tR"
            write_checkpoint(self.checkpoint, self.tensors, inserted=stacked)
            self.assert_refuses(name.replace("\n", "."), "nothing was run")
        self.assertFalse(victim.exists())

    def test_damaged_files(self):
        write_checkpoint(self.checkpoint, self.tensors)
        data = self.checkpoint.read_bytes()
        for length in (0, 10, len(data) // 2, len(data) - 10):
            self.checkpoint.write_bytes(data[:length])
            self.assert_refuses(self.checkpoint.name)
        write_checkpoint(self.checkpoint, self.tensors, cut=4)
        self.assert_refuses(fc(0, 1), "missing or has not")
        middle = len(data) // 2  # inside the numbers: the archive's checksum tells
        self.checkpoint.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1:])
        self.assert_refuses(self.checkpoint.name)
        for pickled in (b"", b"\x80\x02", b"\x80\x02]..", b"\x80\x02}(K\x01K\x02u.", b"\x80\x02N."):
            with zipfile.ZipFile(self.checkpoint, "w") as archive:
                archive.writestr("x/data.pkl", pickled)
            self.assert_refuses(self.checkpoint.name)
        with zipfile.ZipFile(self.checkpoint, "w") as archive:
            archive.writestr("readme", "")
        self.assert_refuses("data.pkl")
        self.assert_refuses("nowhere.bin", source=self.folder / "nowhere.bin")


if __name__ == "__main__":
    unittest.main()
