"""Readers with a defect each, to see that the runner sees it."""

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

from lds.errors import InputError
from tests.fuzz import runner
from tests.fuzz.base import Target, Trap

KEPT = []


def _divide(folder):
    return 1 / 0


def _unpickle(folder):
    pickle.loads((folder / "file").read_bytes())


def _take(folder):
    return b"x" * (400 << 20)


def _open(folder):
    KEPT.append((folder / "file").open())


def _die(folder):
    os.kill(os.getpid(), signal.SIGSEGV)


def _hang(folder):
    while True:
        pass


def _refuse(folder):
    raise InputError("x" * 3000)


def _write_trap(folder):
    (folder / "file").write_bytes(pickle.dumps(Trap()))


CASES = {
    "raises": _divide,
    "runs-code": _unpickle,
    "takes-memory": _take,
    "leaves-open": _open,
    "dies": _die,
    "hangs": _hang,
    "long-winded": _refuse,
}


def reports():
    """The reports on all cases, from a process of its own."""
    command = [sys.executable, "-m", "tests.fuzz.faulty"]
    root = Path(__file__).parents[2]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout)


if __name__ == "__main__":
    found = {}
    for name, read in CASES.items():
        runner.SECONDS = 1 if name == "hangs" else 100
        target = Target(name, ("file",), _write_trap, read, warms=False)
        found[name] = vars(runner.run(target, range(1)))
    print(json.dumps(found))
