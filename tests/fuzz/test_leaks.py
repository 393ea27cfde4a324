"""Memory and open files stay flat over hundreds of outer steps."""

import ctypes
import gc
import os
import sys
from pathlib import Path

import pytest

import lds.learner._structure_learner as module
from lds.learner import Callback, StructureLearner
from tests.learner.problems import blocks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

WARM, STEPS = 100, 500
# A trajectory of the problem below holds some 40 kB: kept at every step, they add 15 MB.
ALLOWED_MB = 4


class EnoughError(Exception):
    pass


class Watch(Callback):
    """Notes resident memory and open files after a warm-up and at the end."""

    def __init__(self, steps=STEPS):
        self.steps, self.memory, self.files = steps, [], []

    def on_step(self, record):
        if record.outer_step in (WARM, self.steps):
            gc.collect()
            # What was freed goes back to the system: what is left is held.
            ctypes.CDLL(None).malloc_trim(0)
            self.memory.append(resident_mb())
            self.files.append(len(os.listdir("/proc/self/fd")))
        if record.outer_step == self.steps:
            raise EnoughError


def resident_mb():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / (1 << 20)


def watch(**options):
    """Growth in MB and in open files over 400 outer steps."""
    noted = Watch()
    learner = StructureLearner(tau=2, inner_steps=10**4, inner_patience=10**4, max_epochs=1, **options)
    with pytest.raises(EnoughError):
        learner.fit(blocks(60), callbacks=(noted,))
    return noted.memory[1] - noted.memory[0], noted.files[1] - noted.files[0]


def test_nothing_is_kept_of_a_step():
    """Also where the sweep goes on into the windows before."""
    grown, opened = watch(horizon=3)
    assert grown < ALLOWED_MB
    assert opened == 0


def test_what_a_step_keeps_would_be_seen(monkeypatch):
    """A trajectory and an open file a step."""
    trajectories, files = [], []
    real = module.record

    def record(*args, **kwargs):
        files.append(os.open(os.devnull, os.O_RDONLY))
        trajectories.append(real(*args, **kwargs))
        return trajectories[-1]

    monkeypatch.setattr(module, "record", record)
    grown, opened = watch()
    for file in files:
        os.close(file)
    assert grown > 2 * ALLOWED_MB
    assert opened == STEPS - WARM
