"""Running the built program on small random models, for the end-to-end tests."""
import json
import os
import pathlib
import random
import shutil
import subprocess
import tempfile
import unittest

APB = os.environ["APB_BINARY"]
MAKE_TINY_MODEL = os.environ["APB_MAKE_TINY_MODEL"]
MPIEXEC = os.environ.get("APB_MPIEXEC", "mpirun")


def apb(*arguments, ranks=1, timeout=120, environment=None):
    """Runs apb under MPI; the completed process with its texts."""
    command = [MPIEXEC, "-n", str(ranks), "--oversubscribe", "--bind-to", "none", APB, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False,
                          env={**os.environ, **(environment or {})})


def own_lines(process):
    """Lines of standard error without what mpirun adds when a rank ends with a code."""
    lines = process.stderr.splitlines()
    return [line for line in lines if line.startswith("apb: ")]


class ProgramTest(unittest.TestCase):
    """A temporary folder with a tiny model in it."""

    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="apb_end_to_end_"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.model = cls.make_model("model")

    @classmethod
    def make_model(cls, name, *shape):
        """A random model, of a family (tests/tiny_model.cpp) and with a head_dim if given."""
        folder = cls.folder / name
        subprocess.run([MAKE_TINY_MODEL, folder, *map(str, (random.randrange(2**32), *shape))], check=True)
        return folder

    def write_input(self, documents, name="input.jsonl"):
        path = self.folder / name
        path.write_text("".join(json.dumps(document) + "\n" for document in documents))
        return path

    def random_document(self, name, tokens=300, **fields):
        return {"id": name, "context_tokens": [random.randrange(256) for _ in range(tokens)],
                "query_tokens": [random.randrange(256) for _ in range(7)], **fields}

    def assert_fails(self, process, code, *parts):
        """One line of ours, with these parts, and this exit code."""
        self.assertEqual(process.returncode, code, process.stderr)
        lines = own_lines(process)
        self.assertEqual(len(lines), 1, process.stderr)
        for part in parts:
            self.assertIn(part, lines[0])
