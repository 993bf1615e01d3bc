"""jobs/limited_link.sh: two ranks on two hosts, the link as slow as asked for, nothing left behind."""
import os
import pathlib
import re
import shutil
import subprocess
import unittest

import h5py

from program import APB, ProgramTest

SCRIPT = pathlib.Path(__file__).parents[2] / "jobs" / "limited_link.sh"


def namespaces(process):
    """Those that the script of this process made; others may be somebody else's."""
    listed = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    return re.findall(rf"apb{process}[ab]\b", listed)


def can_make_namespaces():
    if os.geteuid() != 0 or not shutil.which("tc"):
        return False
    name = f"apbprobe{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
    return made


@unittest.skipUnless(can_make_namespaces(), "needs root and iproute2")
class LimitedLinkTest(ProgramTest):
    def link(self, *options, **variables):
        with subprocess.Popen([SCRIPT, self.folder, "--shape", "tiny", "--lengths", "300", "--warmup", "0",
                               "--repeats", "1", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              env={**os.environ, "APB": APB, **variables}) as process:
            output, errors = process.communicate(timeout=120)
        self.assertEqual(namespaces(process.pid), [])
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def test_all_cases_run_on_two_hosts(self):
        process = self.link(APB_RATES="unlimited 50mbit")
        self.assertEqual(process.returncode, 0, process.stderr)
        for rate in ("unlimited", "50mbit"):
            for case, method, overlap in (("apb-off", "apb", "off"), ("apb-on", "apb", "on"), ("ring", "ring", "auto")):
                with self.subTest(case=case, rate=rate), h5py.File(self.folder / f"{case}-{rate}.h5") as file:
                    self.assertEqual(list(file["run"].attrs["hosts"]), ["host1", "host2"])
                    self.assertEqual(file["cases/method"].asstr()[0], method)
                    self.assertIn(f'"overlap":"{overlap}"', file["run"].attrs["options"])
                    self.assertTrue((file["timings/communication_whole_seconds"][:] > 0).all())
                    self.assertIn(f"== {case}, {rate}\n", process.stdout)

    def test_an_error_is_shown(self):
        process = self.link("--anchor-length", "7", APB_RATES="unlimited", APB_CASES="apb-on")
        self.assertNotEqual(process.returncode, 0)
        self.assertIn("apb: ", process.stderr)


if __name__ == "__main__":
    unittest.main()
