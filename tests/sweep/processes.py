"""Commands as processes of their own, and what is left of them."""

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")


class Command:
    """`lds` in a process whose descendants can be told by a variable of their environment."""

    def __init__(self, *argv):
        self.mark = f"LDS_TEST_COMMAND={uuid.uuid4()}"
        name, value = self.mark.split("=")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lds", *argv],
            env=dict(os.environ, OMP_NUM_THREADS="1", **{name: value}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self):
        """Exit code, stdout and stderr."""
        stdout, stderr = self.process.communicate()
        return self.process.returncode, stdout, stderr

    def wait_for(self, condition):
        deadline = time.monotonic() + 120
        while not condition():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def survivors(self):
        """Ids of the processes that it started, directly or not, and that still run."""
        found = []
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit() and self.mark.encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue
        return found

    def all_gone(self):
        deadline = time.monotonic() + 20
        while self.survivors():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True


class Sweep(Command):
    """`lds sweep`."""

    def __init__(self, spec, out, *options):
        self.out = out
        super().__init__("sweep", spec, "--out", out, *options)

    def lines(self):
        path = self.out / "results.jsonl"
        return path.read_text().splitlines() if path.exists() else []
