#!/usr/bin/env python3
"""Convert published retaining heads (Locret, APB) to the file that `apb run --retaining-heads` reads.

    convert_retaining_heads.py --model FOLDER INPUT OUTPUT.safetensors

INPUT is a PyTorch checkpoint (.bin or .pt, a zip archive with a pickle) or a safetensors file that holds
model.layers.N.self_attn.fc1.weight and .fc2.weight for every layer of the model in FOLDER; a whole model with heads in it
will do. The pickle is read without PyTorch and without running anything in it. The output appears whole or not at all.
"""

import argparse
import collections
import json
import os
import pickle
import re
import sys
import tempfile
import zipfile
from pathlib import Path

HEAD_NAME = re.compile(r"model\.layers\.(0|[1-9]\d*)\.self_attn\.fc([12])\.weight")
ITEM_SIZES = {"BF16": 2, "F16": 2, "F32": 4}
STORAGE_TYPES = {"BFloat16Storage": "BF16", "HalfStorage": "F16", "FloatStorage": "F32"}
OTHER_STORAGES = ["DoubleStorage", "LongStorage", "IntStorage", "ShortStorage", "CharStorage", "ByteStorage", "BoolStorage"]
MOST_PICKLE_BYTES = 64 << 20  # names and shapes of a large model need less than 1 MiB

Storage = collections.namedtuple("Storage", "dtype key items")
PickledTensor = collections.namedtuple("PickledTensor", "storage offset shape stride")
Tensor = collections.namedtuple("Tensor", "dtype shape read")  # read() gives the bytes, row-major, little endian


class Unusable(Exception):
    """What is wrong with the input, in one line."""


class StorageType(str):
    """What torch.FloatStorage and its like become: a type of numbers, or its name where that is not supported."""


class Items(dict):
    """What an OrderedDict becomes; attributes that the pickle sets on it are kept and ignored."""


def rebuild_tensor(storage, offset, shape, stride, *_):
    return PickledTensor(storage, offset, shape, stride)


class TensorUnpickler(pickle.Unpickler):
    """Knows tensors and dictionaries, by stand-ins; any other class or function in the file is refused."""

    known = {"collections.OrderedDict": Items, "torch._utils._rebuild_tensor_v2": rebuild_tensor}
    known |= {f"torch.{name}": StorageType(STORAGE_TYPES.get(name, name)) for name in [*STORAGE_TYPES, *OTHER_STORAGES]}

    def find_class(self, module, name):
        if f"{module}.{name}" not in self.known:
            raise Unusable(f"the pickle asks for {module}.{name}, which is no tensor; nothing was run")
        return self.known[f"{module}.{name}"]

    def persistent_load(self, pid):
        kind, dtype, key, _, items = pid
        if kind != "storage" or not isinstance(dtype, StorageType) or not isinstance(items, int):
            raise Unusable(f"the pickle refers to {kind!r}, expected a storage")
        return Storage(dtype, str(key), items)


def contiguous_stride(shape):
    stride, step = [], 1
    for size in reversed(shape):
        stride.insert(0, step)
        step *= size
    return tuple(stride)


def item_count(shape):
    count = 1
    for size in shape:
        count *= size
    return count


def pytorch_tensor(archive, root, name, tensor):
    """A Tensor for one entry of the pickle, after checks that need no data."""
    if not isinstance(tensor, PickledTensor) or not isinstance(tensor.storage, Storage):
        raise Unusable(f"{name} is no tensor")
    storage, offset, shape, stride = tensor
    numbers = [offset, *shape, *stride]
    if len(shape) != len(stride) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise Unusable(f"{name} has shape {shape}, stride {stride} and offset {offset}, which cannot be")
    if storage.dtype not in ITEM_SIZES:
        raise Unusable(f"{name} is a {storage.dtype}, supported: {', '.join(STORAGE_TYPES)}")
    if tuple(stride) != contiguous_stride(shape):
        raise Unusable(f"{name} has the shape {tuple(shape)} and the stride {tuple(stride)}: it is not contiguous")
    item = ITEM_SIZES[storage.dtype]
    entry = f"{root}data/{storage.key}"
    if entry not in archive.NameToInfo or archive.getinfo(entry).file_size != storage.items * item:
        raise Unusable(f"{name}: its data, {entry}, is missing or has not {storage.items} x {item} bytes")
    if archive.getinfo(entry).compress_type != zipfile.ZIP_STORED or archive.getinfo(entry).flag_bits & 1:
        raise Unusable(f"{name}: its data, {entry}, is compressed or encrypted, which PyTorch never does")
    start, size = offset * item, item_count(shape) * item
    if start + size > storage.items * item:
        raise Unusable(f"{name} reaches beyond its data, {entry}")
    return Tensor(str(storage.dtype), list(shape), lambda: archive.read(entry)[start : start + size])


def read_pytorch(path):
    """{name: Tensor} of a PyTorch checkpoint."""
    archive = zipfile.ZipFile(path)
    pickles = [name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise Unusable("the archive holds no data.pkl: it is no PyTorch checkpoint")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in archive.NameToInfo and archive.read(f"{root}byteorder") != b"little":
        raise Unusable("its numbers are not little endian")
    if archive.getinfo(pickles[0]).file_size > MOST_PICKLE_BYTES:
        raise Unusable(f"{pickles[0]} is larger than {MOST_PICKLE_BYTES >> 20} MiB")
    with archive.open(pickles[0]) as file:
        tensors = TensorUnpickler(file).load()
    if not isinstance(tensors, dict) or not all(isinstance(name, str) for name in tensors):
        raise Unusable("the pickle holds no dictionary of tensors")
    return {name: pytorch_tensor(archive, root, name, value) for name, value in tensors.items() if is_head(name)}


def read_safetensors(path):
    """{name: Tensor} of a safetensors file."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, MOST_PICKLE_BYTES):
            raise Unusable(f"its header of {length} bytes is too long")
        header = json.loads(file.read(length))
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__" or not is_head(name):
            continue
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if dtype not in ITEM_SIZES:
            raise Unusable(f"{name} has the type {dtype}, supported: {', '.join(ITEM_SIZES)}")
        if not 0 <= begin <= end <= size - 8 - length or end - begin != item_count(shape) * ITEM_SIZES[dtype]:
            raise Unusable(f"{name} has the shape {shape} and the data offsets {begin} to {end}, which do not fit")

        def read(start=8 + length + begin, count=end - begin):
            with open(path, "rb") as data:
                data.seek(start)
                return data.read(count)

        tensors[name] = Tensor(dtype, shape, read)
    return tensors


def is_head(name):
    """Whether it is a retaining head's tensor. One that looks like it but has another name is an error."""
    if "fc" in name and not HEAD_NAME.fullmatch(name):
        raise Unusable(f"unexpected tensor {name}, expected model.layers.N.self_attn.fc1.weight and .fc2.weight")
    return HEAD_NAME.fullmatch(name) is not None


def read_heads(path):
    """{name: Tensor}, the retaining heads only."""
    try:
        if zipfile.is_zipfile(path):
            return read_pytorch(path)
        if path.suffix == ".safetensors":
            return read_safetensors(path)
    except (OSError, Unusable):
        raise
    except Exception as error:  # a damaged file can fail anywhere in the zip, pickle or JSON readers
        raise Unusable(f"is damaged: {error}") from error
    raise Unusable("is neither a .safetensors file nor a whole zip archive, which PyTorch writes since 1.6")


def model_shape(folder):
    """(layers, columns of fc1, KV heads) that the model asks for."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        heads = config["num_attention_heads"]
        kv_heads = config.get("num_key_value_heads") or heads
        head_dim = config.get("head_dim") or config["hidden_size"] // heads
        return config["num_hidden_layers"], (heads + 2 * kv_heads) * head_dim, kv_heads
    except (ValueError, TypeError, AttributeError) as error:
        raise Unusable(f"{path}: {error}") from error
    except KeyError as error:
        raise Unusable(f"{path} has no {error}") from error


def check_heads(tensors, layers, columns, kv_heads):
    """Fails unless the tensors are those of all layers, in the model's shapes."""
    for name in tensors:
        if int(HEAD_NAME.fullmatch(name)[1]) >= layers:
            raise Unusable(f"{name} is there, but the model has {layers} layers")
    for layer in range(layers):
        names = [f"model.layers.{layer}.self_attn.fc{i}.weight" for i in (1, 2)]
        for name in names:
            if name not in tensors:
                raise Unusable(f"{name} is missing; the model has {layers} layers")
        fc1, fc2 = (tensors[name].shape for name in names)
        if len(fc1) != 2 or fc1[0] < 1 or fc1[1] != columns:
            raise Unusable(f"{names[0]} has the shape {fc1}, the model needs [inner, {columns}]")
        if fc2 != [kv_heads, fc1[0]]:
            raise Unusable(f"{names[1]} has the shape {fc2}, the model needs {[kv_heads, fc1[0]]}")


def write_safetensors(file, tensors):
    """Format: header length (8 bytes), JSON header, data."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in tensors.items():
        size = item_count(tensor.shape) * ITEM_SIZES[tensor.dtype]
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors.values():
        file.write(tensor.read())


def write_whole(path, tensors):
    """Writes beside the output, then renames."""
    with tempfile.NamedTemporaryFile(prefix=f".{path.name}-", dir=path.parent, delete=False) as file:
        try:
            write_safetensors(file, tensors)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o666 & ~current_umask())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of the model that the heads belong to")
    parser.add_argument("input", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    try:
        layers, columns, kv_heads = model_shape(options.model)
        try:
            tensors = read_heads(options.input)
            check_heads(tensors, layers, columns, kv_heads)
            write_whole(options.output, tensors)
        except (zipfile.BadZipFile, Unusable) as error:
            raise Unusable(f"{options.input}: {error}") from error
    except (OSError, Unusable) as error:
        sys.exit("convert_retaining_heads.py: " + " ".join(str(error).split()))
    print(f"retaining heads of {layers} layers: {options.output}")


if __name__ == "__main__":
    main()
