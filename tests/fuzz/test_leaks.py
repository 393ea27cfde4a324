"""Memory and open files stay flat over hundreds of outer steps."""

import ctypes
import gc
import multiprocessing
import os
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest import mock

import pytest
import torch

import lds.learner._structure_learner as module
from lds.learner import StructureLearner
from lds.run import TrainConfig, train
from lds.run._folder import RunFolder
from tests.learner.problems import blocks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

WARM, STEPS = 100, 500
# A trajectory of the problem below holds some 40 kB: kept at every step, they add 15 MB.
ALLOWED_MB = 4


class EnoughError(Exception):
    pass


class Watch:
    """Notes resident memory, its peak and open files, after a warm-up and at the end."""

    def __init__(self, steps=STEPS):
        self.steps, self.memory, self.peaks, self.files = steps, [], [], []

    def __call__(self, record):
        if record.outer_step in (WARM, self.steps):
            self.peaks.append(peak_mb())
            gc.collect()
            # What was freed goes back to the system: what is left is held.
            ctypes.CDLL(None).malloc_trim(0)
            self.memory.append(resident_mb())
            self.files.append(len(os.listdir("/proc/self/fd")))
            Path("/proc/self/clear_refs").write_text("5")  # The peak begins anew.
        if record.outer_step == self.steps:
            raise EnoughError


def peak_mb():
    """Since the last clear_refs; the peak of `resource` begins with that of the process which started this one."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def resident_mb():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / (1 << 20)


def measure(folder, *, leaking=False):
    """Growth over 400 outer steps of a run that is saved every epoch: MB that are held, MB at the peak, open files.

    With `leaking` every step keeps a trajectory and an open file.
    """
    torch.set_num_threads(1)
    noted, real_step, real_record = Watch(), RunFolder.on_step, module.record
    trajectories, files = [], []

    def learner(config, data):
        return StructureLearner(tau=2, horizon=3, inner_steps=100, patience=10**4, samples=1)

    def on_step(folder, record):
        real_step(folder, record)
        noted(record)

    def record(*args, **kwargs):
        files.append(os.open(os.devnull, os.O_RDONLY))
        trajectories.append(real_record(*args, **kwargs))
        return trajectories[-1]

    with (
        mock.patch("lds.run._train.load_data", return_value=blocks(60)),
        mock.patch("lds.run._learner.make_learner", learner),
        mock.patch("lds.run._saving._SHARE", 100.0),
        mock.patch.object(RunFolder, "on_step", on_step),
        mock.patch.object(module, "record", record if leaking else real_record),
        pytest.raises(EnoughError),
    ):
        train(TrainConfig("wine"), folder / "run", progress=False)
    assert (folder / "run" / "metrics.jsonl").read_text().count("\n") >= 9
    assert (folder / "run" / "progress.pt").exists()
    # The peak: above what was held when it began anew.
    grown, peak = noted.memory[1] - noted.memory[0], noted.peaks[1] - noted.memory[0]
    return grown, peak, noted.files[1] - noted.files[0]


@pytest.fixture
def watch(tmp_path):
    """`measure`, in a process of its own: what other tests left in the heap of this one would blur the peak."""

    def run(**options):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(measure, tmp_path, **options).result()

    return run


def test_nothing_is_kept_of_a_step(watch):
    """Also where the sweep goes on into the windows before."""
    grown, peak, opened = watch()
    assert grown < ALLOWED_MB
    assert peak < ALLOWED_MB
    assert opened == 0


def test_what_a_step_keeps_would_be_seen(watch):
    """A trajectory and an open file a step."""
    grown, peak, opened = watch(leaking=True)
    assert grown > 2 * ALLOWED_MB
    assert peak > 2 * ALLOWED_MB
    assert opened == STEPS - WARM
