"""Small results files (docs/outputs.md) with made-up rows, for tests of what reads them."""
import json

import h5py
import numpy as np

PHASES = ["embed", "projection", "compression", "communication", "attention", "feed_forward", "query", "head", "other"]


def row(name, text, metadata=None, **fields):
    """One row's values by the name of their dataset."""
    return {"id": name, "key": "key-" + name, "status": "ok", "message": "", "context_length": 100, "query_length": 10,
            "metadata": json.dumps(metadata or {}), "method": "apb", "blocks": 4, "anchor_length": 16,
            "passing_length": 8, "ranks_used": 1, "text": text, "finish_reason": "stop", "ttft_seconds": 1.5,
            "decode_seconds": 0.5, "prefill_seconds": 1.25, **fields}


def write(path, rows, options=None, positions=None, model="/models/tiny"):
    """Writes the file; `positions` is selection/positions."""
    text = h5py.string_dtype()
    with h5py.File(path, "w") as file:
        groups = {"documents": ["id", "key", "status", "message", "metadata", "method"],
                  "outputs": ["text", "finish_reason"]}
        for group, names in groups.items():
            for name in names:
                file.create_dataset(f"{group}/{name}", data=[one[name] for one in rows], dtype=text, shape=(len(rows),))
        for name in ("context_length", "query_length", "blocks", "anchor_length", "passing_length", "ranks_used"):
            file[f"documents/{name}"] = np.array([one[name] for one in rows], np.int64)
        for name in ("ttft_seconds", "decode_seconds", "prefill_seconds"):
            file[f"timings/{name}"] = np.array([one[name] for one in rows], float)
        file["timings/phase_seconds"] = np.zeros((len(rows), 1, len(PHASES)))
        file["outputs/token_ids"] = np.zeros(0, np.int32)
        file["outputs/token_offsets"] = np.zeros(len(rows) + 1, np.int64)
        if positions is not None:
            file["selection/positions"] = np.asarray(positions, np.int32)
        run = file.create_group("run").attrs
        for name, value in {"version": "0.1.0", "command_line": "apb run", "options": json.dumps(options or {}),
                            "model": model, "dtype": "bf16", "start_time": "2025-01-02T03:04:05Z"}.items():
            run.create(name, value, dtype=text)
        run["ranks"] = np.int64(1)
        for name in ("hosts", "devices"):
            run.create(name, ["one"], dtype=text)
    return path
