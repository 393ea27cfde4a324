"""Memory and open files stay flat over hundreds of outer steps."""

import ctypes
import gc
import os
import sys
from pathlib import Path

import pytest

import lds.learner._structure_learner as module
from lds.learner import StructureLearner
from lds.run import TrainConfig, train
from lds.run._environment import peak_rss_mb
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
            self.peaks.append(peak_rss_mb())
            gc.collect()
            # What was freed goes back to the system: what is left is held.
            ctypes.CDLL(None).malloc_trim(0)
            self.memory.append(resident_mb())
            self.files.append(len(os.listdir("/proc/self/fd")))
            Path("/proc/self/clear_refs").write_text("5")  # The peak begins anew.
        if record.outer_step == self.steps:
            raise EnoughError


def resident_mb():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / (1 << 20)


@pytest.fixture
def watch(tmp_path, monkeypatch):
    """Growth over 400 outer steps of a run that is saved every epoch: MB that are held, MB at the peak, open files."""

    def learner(config, data):
        return StructureLearner(tau=2, horizon=3, inner_steps=100, patience=10**4, samples=1)

    def run():
        noted, real = Watch(), RunFolder.on_step

        def on_step(folder, record):
            real(folder, record)
            noted(record)

        monkeypatch.setattr(RunFolder, "on_step", on_step)
        with pytest.raises(EnoughError):
            train(TrainConfig("wine"), tmp_path / "run", progress=False)
        assert (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") >= 9
        assert (tmp_path / "run" / "progress.pt").exists()
        grown = noted.memory[1] - noted.memory[0]
        # Above what was held when the peak began anew.
        return grown, noted.peaks[1] - noted.memory[0], noted.files[1] - noted.files[0]

    monkeypatch.setattr("lds.run._train.load_data", lambda config: blocks(60))
    monkeypatch.setattr("lds.run._learner.make_learner", learner)
    monkeypatch.setattr("lds.run._saving._SHARE", 100.0)
    return run


def test_nothing_is_kept_of_a_step(watch):
    """Also where the sweep goes on into the windows before."""
    grown, peak, opened = watch()
    assert grown < ALLOWED_MB
    assert peak < ALLOWED_MB
    assert opened == 0


def test_what_a_step_keeps_would_be_seen(watch, monkeypatch):
    """A trajectory and an open file a step."""
    trajectories, files = [], []
    real = module.record

    def record(*args, **kwargs):
        files.append(os.open(os.devnull, os.O_RDONLY))
        trajectories.append(real(*args, **kwargs))
        return trajectories[-1]

    monkeypatch.setattr(module, "record", record)
    grown, peak, opened = watch()
    for file in files:
        os.close(file)
    assert grown > 2 * ALLOWED_MB
    assert peak > 2 * ALLOWED_MB
    assert opened == STEPS - WARM
