"""A run in the background: its ranks as processes, and what it has committed so far."""
import os
import pathlib
import subprocess
import time

import h5py

from program import APB, MPIEXEC


class BackgroundRun:
    """apb under MPI. Standard error goes to a file, so that nobody has to read it for the run to go on."""

    def __init__(self, *arguments, ranks, log):
        self.log = pathlib.Path(log)
        command = [MPIEXEC, "-n", str(ranks), "--oversubscribe", "--bind-to", "none", APB, *map(str, arguments)]
        with self.log.open("w") as stderr:
            self.launcher = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr)

    def ranks(self):
        """Process ids of the ranks, in rank order."""
        found = {}
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if (folder / "exe").resolve() != pathlib.Path(APB).resolve() or not self.is_ours(int(folder.name)):
                    continue
                environment = dict(entry.split(b"=", 1) for entry in (folder / "environ").read_bytes().split(b"\0")
                                   if b"=" in entry)
            except OSError:  # gone meanwhile
                continue
            rank = environment.get(b"OMPI_COMM_WORLD_RANK", environment.get(b"PMI_RANK"))
            if rank is not None:
                found[int(rank)] = int(folder.name)
        return [found[rank] for rank in sorted(found)]

    def is_ours(self, pid):
        while pid > 1 and pid != self.launcher.pid:
            pid = int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        return pid == self.launcher.pid

    def wait(self, timeout=120):
        try:
            return self.launcher.wait(timeout)
        except subprocess.TimeoutExpired:
            for pid in [*self.ranks(), self.launcher.pid]:
                os.kill(pid, 9)
            raise

    def wait_until(self, condition, timeout=60):
        """Whether the condition came true while the run went on."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if condition():
                return True
            if self.launcher.poll() is not None:
                return False
            time.sleep(0.02)
        raise TimeoutError(self.log.read_text())

    def lines(self):
        return [line for line in self.log.read_text().splitlines() if line.startswith("apb: ")]


def is_running(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def rows_of(path):
    """id -> (key, tokens, prefill seconds) of the good rows of a results or part file; no id may be there twice."""
    with h5py.File(path, "r") as file:
        ids, keys = (file[f"documents/{name}"].asstr()[:] for name in ("id", "key"))
        good = file["documents/status"].asstr()[:] == "ok"
        offsets, tokens = file["outputs/token_offsets"][:], file["outputs/token_ids"][:]
        seconds = file["timings/prefill_seconds"][:]
    assert len(set(ids)) == len(ids), ids
    return {ids[i]: (keys[i], tuple(tokens[offsets[i]:offsets[i + 1]]), seconds[i])
            for i in range(len(ids)) if good[i]}


def committed(output):
    """The rows that FILE.h5 and its parts hold; none may be in two of them."""
    files = sorted(pathlib.Path(f"{output}.parts").glob("part-*.h5")) + [output] * output.exists()
    found = {}
    for path in files:
        rows = rows_of(path)
        assert not found.keys() & rows.keys(), (path, found.keys() & rows.keys())
        found.update(rows)
    return found
