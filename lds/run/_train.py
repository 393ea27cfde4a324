"""One training run, from configuration to run folder."""

from __future__ import annotations

import json
import platform
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from tqdm import tqdm

from lds._version import __version__
from lds.errors import InputError
from lds.run._config import TrainConfig
from lds.run._folder import RunFolder

if TYPE_CHECKING:
    from lds.learner import EpochRecord, StepRecord


class ProgressBar:
    """Shows outer epoch, inner loss, early-stopping accuracy and expected number of edges on a terminal line."""

    def __init__(self, label: str, max_epochs: int | None, *, hide: bool = False) -> None:
        # Opened by the first record: a run that fails on its input leaves its message alone on the terminal.
        self._options: dict[str, Any] = {
            "desc": label,
            "total": max_epochs,
            "unit": "epoch",
            "disable": True if hide else None,  # None: hidden where stderr is no terminal.
            "dynamic_ncols": True,
        }
        self._bar: Any = None
        self._es = "-"

    def on_step(self, record: StepRecord) -> None:
        """Show the losses of an outer step."""
        self._show(record.epoch, record.inner_loss, record.expected_edges)

    def on_epoch(self, record: EpochRecord) -> None:
        """Count an outer epoch."""
        self._es = f"{record.es_accuracy:.3f}"
        self._show(record.epoch, record.inner_loss, record.expected_edges, epochs=1)

    def close(self) -> None:
        """Leave the line as it is."""
        if self._bar is not None:
            self._bar.close()

    def _show(self, epoch: int, inner_loss: float, edges: float, *, epochs: int = 0) -> None:
        if self._bar is None:
            self._bar = tqdm(**self._options)
        self._bar.set_postfix_str(
            f"epoch {epoch}, inner loss {inner_loss:.4f}, es accuracy {self._es}, edges {edges:.0f}", refresh=False
        )
        self._bar.update(epochs)


def train(config: TrainConfig, out: Path, *, progress: bool = True) -> dict[str, Any]:
    """Train as configured, write the run folder `out`, and return what its result.json holds.

    Accuracies are in [0, 1]; `seconds` is the wall time of the training, `peak_rss_mb` that of the whole process.

    Raises:
        InputError: a value of the configuration is out of range, or the folder is taken or cannot be made.
        DataError: the data set is unknown, missing or corrupt.
    """
    folder = RunFolder(out, config.as_dict())
    # Here, and not above: the command line must answer without torch.
    from lds.data import load
    from lds.run._learner import make_learner

    data = load(config.dataset, root=config.data_root, retain=config.retain, seed=config.seed)
    learner = make_learner(config, data)
    bar = ProgressBar(f"{config.method} on {config.dataset}", config.max_epochs, hide=not progress)
    began = time.perf_counter()
    try:
        fit = learner.fit(data, seed=config.seed, callbacks=(folder, bar))
    finally:
        bar.close()
    seconds = time.perf_counter() - began
    result = {
        "dataset": config.dataset,
        "method": config.method,
        "test_accuracy": fit.accuracy("test"),
        "es_accuracy": fit.accuracy("es"),
        "val_accuracy": fit.accuracy("val"),
        "outer_epochs": fit.outer_epochs,
        "outer_steps": fit.outer_steps,
        "expected_edges": fit.structure.expected_edges,
        "seed": config.seed,
        "seconds": seconds,
        "peak_rss_mb": peak_rss_mb(),
        "versions": versions(),
    }
    folder.finish(fit, result)
    return result


def train_once(config: TrainConfig, out: Path, *, progress: bool = True) -> dict[str, Any]:
    """Train as `train` does, or return the result of the same run where `out` holds it already.

    A run of the same configuration that was cut off is started again.

    Raises:
        InputError: the folder holds a run of another configuration.
    """
    if (out / "config.yaml").exists():
        found = yaml.safe_load((out / "config.yaml").read_text())
        if found != config.as_dict():
            raise InputError(f"{out} holds a run of another configuration; choose another folder")
        if (out / "result.json").exists():
            result: dict[str, Any] = json.loads((out / "result.json").read_text())
            return result
        shutil.rmtree(out)
    return train(config, out, progress=progress)


def peak_rss_mb() -> float:
    """Return the largest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    import numpy
    import scipy
    import sklearn
    import torch
    import torch_geometric

    return {
        "lds": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_geometric": torch_geometric.__version__,
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
        "scikit-learn": sklearn.__version__,
    }
