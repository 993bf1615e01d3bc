"""jobs/compare_peers.py with stand-ins for the peers: it measures apb, and says in one line what it cannot measure."""
import json
import os
import pathlib
import random
import subprocess
import sys
import unittest

from program import APB, ProgramTest

SCRIPT = pathlib.Path(__file__).parents[2] / "jobs" / "compare_peers.py"

# In place of the virtual environment's Python: has torch and no llama_cpp, takes 100 s, and fails at 700 tokens.
STAND_IN = """#!{python}
import json, pathlib, sys
arguments = sys.argv[1:]
if arguments[0] == "-c":
    sys.exit("torch" not in arguments[1])
if arguments[0] == "-m":
    print(json.dumps([dict(name="torch", version="9.9")]))
elif arguments[1] == "prepare":
    work = pathlib.Path(arguments[3])
    work.mkdir(parents=True)
    (work / "model").symlink_to(arguments[2])
    (work / "tokens.json").write_text(json.dumps([{seed} % (i + 7) % 256 for i in range(int(arguments[4]))]))
elif arguments[1] == "transformers" and arguments[3] == "700":
    sys.exit("some warning\\nno memory for 700")
else:
    print("loading")
    print(json.dumps(dict(seconds=100.0, first_token=1, peak_bytes=2**30)))
"""


class ComparePeersTest(ProgramTest):
    def setUp(self):
        self.data = self.folder / self.id()

    def compare(self, *options):
        environment = {**os.environ, "APB_DATA": str(self.data)}
        return subprocess.run([sys.executable, SCRIPT, "--apb", APB, "--model", self.model, "--cores", "1",
                               *map(str, options)], capture_output=True, text=True, timeout=120, check=False,
                              env=environment)

    def test_without_peers_or_program(self):
        process = self.compare("--apb", self.folder / "none")
        self.assertEqual((process.returncode, process.stderr.count("\n")), (1, 1), process.stderr)
        self.assertIn("--apb", process.stderr)
        process = self.compare()
        self.assertEqual((process.returncode, process.stderr.count("\n")), (1, 1), process.stderr)
        self.assertIn("--install", process.stderr)
        self.assertEqual(self.compare("--lengths", "600,700", "--repeats", "1,2,3").returncode, 2)

    def test_times_ratios_and_what_is_missing(self):
        python = self.data / "peers-venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(STAND_IN.format(python=sys.executable, seed=random.randrange(10**9)))
        python.chmod(0o755)
        output = self.folder / "peers.json"
        process = self.compare("--lengths", "600,700", "--repeats", "2,1", "--output", output)
        self.assertEqual(process.returncode, 0, process.stderr)
        self.assertIn("llama-bf16: left out", process.stderr)
        self.assertIn("transformers: at 700 tokens: no memory for 700", process.stdout)
        self.assertIn("| transformers | 100.00 (100.00..100.00) | - |", process.stdout)
        data = json.loads(output.read_text())
        self.assertEqual(data["packages"], {"torch": "9.9"})
        own = {name: found for name, found in data["results"].items() if name.startswith("apb")}
        self.assertEqual(len(own), 3)
        for name, found in own.items():
            self.assertEqual([len(found[length]) for length in ("600", "700")], [2, 1])
            for one in found["600"] + found["700"]:
                self.assertTrue(0 < one["seconds"] < 100 and one["peak_bytes"] > 2**20, name)
            median = sum(one["seconds"] for one in found["600"]) / 2
            self.assertIn(f"| {name} | {100 / median:.2f} | - |", process.stdout)
        turns = [line[8:32].strip() for line in process.stderr.splitlines() if line.startswith("    600 ")]
        self.assertEqual(len(turns), 8)
        self.assertEqual(turns[:4], turns[4:][::-1])


if __name__ == "__main__":
    unittest.main()
