"""One training run, from configuration to run folder."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from lds._callbacks import Callback, EpochRecord, StepRecord
from lds._read import read_yaml
from lds._signals import stop_requests, stops_later
from lds.errors import NumericalError
from lds.run._config import BaselineConfig, TrainConfig
from lds.run._data import fingerprint, load_data
from lds.run._environment import peak_rss_mb, threads, versions
from lds.run._folder import RunFolder
from lds.run._predictions import class_names, names_json, predictions_csv
from lds.run._reader import (
    CLASS_NAMES,
    CONFIG,
    PREDICTIONS_TABLE,
    RESULT,
    TENSORBOARD,
    check_unchanged,
    config_of,
    read_result,
)

_log = logging.getLogger("lds.run")


class ProgressBar(Callback):
    """Shows outer epoch, inner loss, early-stopping accuracy and expected number of edges on a terminal line."""

    def __init__(self, label: str, max_epochs: int | None, *, hide: bool = False) -> None:
        # Opened by the first record: a run that fails on its input leaves its message alone on the terminal.
        self._options: dict[str, Any] = {
            "desc": label,
            "total": max_epochs,
            "unit": "epoch",
            "disable": None,  # Hidden where stderr is no terminal.
            "dynamic_ncols": True,
        }
        self._bar: Any = None
        self._hide = hide
        self._es = "-"

    def on_start(self, history: Sequence[EpochRecord], outer_step: int) -> None:
        """Count the outer epochs that ended before."""
        self._options["initial"] = len(history)

    def on_step(self, record: StepRecord) -> None:
        """Show the losses of an outer step."""
        self._show(record.epoch, record.inner_loss, record.expected_edges)

    def on_epoch(self, record: EpochRecord) -> None:
        """Count an outer epoch."""
        self._es = f"{record.es_accuracy:.3f}"
        self._show(record.epoch, record.inner_loss, record.expected_edges, epochs=1)

    def on_end(self) -> None:
        """Leave the line as it is."""
        if self._bar is not None:
            self._bar.close()

    def _show(self, epoch: int, inner_loss: float, edges: float, *, epochs: int = 0) -> None:
        if self._hide:
            return  # Even a hidden tqdm makes a semaphore, which a process that is killed leaves behind.
        if self._bar is None:
            self._bar = tqdm(**self._options)
        self._bar.set_postfix_str(
            f"epoch {epoch}, inner loss {inner_loss:.4f}, es accuracy {self._es}, edges {edges:.0f}", refresh=False
        )
        self._bar.update(epochs)


def train(
    config: TrainConfig | BaselineConfig,
    out: Path,
    *,
    progress: bool = True,
    log: Literal["tensorboard"] | None = None,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Train as configured, write the run folder `out`, and return what its result.json holds.

    Accuracies are in [0, 1]; `es_loss`, the loss on the early-stopping nodes, breaks ties between settings, and is None
    for a baseline without probabilities, as is `expected_edges` without a graph; `seconds` is the wall time of the
    training, `peak_rss_mb` that of the whole process; `versions` and the number of `threads` are what the last digits
    depend on, as does the `kernel`, native or torch; `data_fingerprint` tells what a file of one's own held.

    Args:
        config: what to train, on which data.
        out: the run folder; must be new or empty.
        progress: show a progress bar.
        log: write event files for TensorBoard to `out`/tensorboard, too; a baseline of scikit-learn has none to write.
        callbacks: told of the run too, see `lds.learner.Callback`.

    Raises:
        InputError: a value of the configuration is out of range, the folder is taken or cannot be made, or TensorBoard
            is asked for and not installed.
        DataError: the data set is unknown, missing or corrupt.
        NumericalError: a number is NaN or infinite; what it takes to run into it again is saved.
        Interrupted: SIGINT or SIGTERM came, while a structure was learned; where learning stood is saved.
        StorageError: a file cannot be written.
    """
    with RunFolder(out, config.as_dict()) as folder:
        return _run(config, folder, progress=progress, log=log, further=callbacks)


def resume(
    out: Path,
    *,
    config: TrainConfig | BaselineConfig | None = None,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Go on with a run that was cut off, to the same bits, or return the result of one that has ended.

    A run of which nothing was saved, or that learns no structure, starts again. Where it wrote event files for
    TensorBoard, they go on too.

    Args:
        out: the run folder.
        config: that of the run, but for the place of its data; what the folder holds when None.
        progress: show a progress bar.
        callbacks: told of the run too.

    Raises:
        InputError: there is no run in the folder, or one of another configuration, version or data set, or another
            process is at work in it.
        DataError, NumericalError, Interrupted, StorageError: as for `train`; DataError also where a file of the run is
            damaged.
    """
    config = config_of(out, config)
    if (out / RESULT).exists():  # Before the folder is locked, for which its disk must be writable.
        return read_result(out)
    with RunFolder(out, config.as_dict(), resumed=True) as folder:
        if (out / RESULT).exists():  # Another process ended the run meanwhile.
            return read_result(out)
        log: Literal["tensorboard"] | None = "tensorboard" if (out / TENSORBOARD).exists() else None
        return _run(config, folder, progress=progress, log=log, further=callbacks)


def train_once(config: TrainConfig | BaselineConfig, out: Path, *, progress: bool = True) -> dict[str, Any]:
    """Train as `train` does, or go on with the same run where `out` holds it, as `resume` does.

    Raises:
        InputError, DataError, NumericalError, Interrupted, StorageError: as for `train` and `resume`.
    """
    if (out / CONFIG).exists():
        return resume(out, config=config, progress=progress)
    return train(config, out, progress=progress)


def _run(
    config: TrainConfig | BaselineConfig,
    folder: RunFolder,
    *,
    progress: bool,
    log: Literal["tensorboard"] | None,
    further: Sequence[Callback],
) -> dict[str, Any]:
    # Here, and not above: the command line must answer without torch. An import that is cut off may say so in a
    # traceback of its own.
    with stops_later():
        from lds.learner import StructureLearner
        from lds.run._failure import save_failure
        from lds.run._learner import make_learner
        from lds.run._saving import ProgressSaver, read_progress
        from lds.run._tensorboard import TensorBoard

    # The baselines of scikit-learn have no epochs.
    max_epochs = config.max_epochs if isinstance(config, TrainConfig) else None
    # The folder comes first: it takes the lock before another callback writes there.
    callbacks: list[Callback] = [
        folder,
        ProgressBar(f"{config.method} on {config.source}", max_epochs, hide=not progress),
        *further,
    ]
    if log is not None:
        callbacks.append(TensorBoard(folder.path / TENSORBOARD))
    data = load_data(config)
    if isinstance(config, TrainConfig):
        for name in config.without_effect(has_edges=data.edge_index.numel() > 0):
            _log.warning("%s has no effect with method %s", name, config.method)
    learner = make_learner(config, data)
    saved, spent = read_progress(folder.path, folder.config, data)
    begun = [saved]
    if saved is None and (folder.path / CONFIG).exists():  # Else the two have been compared.
        check_unchanged(folder.path, read_yaml(folder.path / CONFIG))
    del saved  # With θ twice: the learner lets go of it.
    began = time.perf_counter()
    try:
        if isinstance(learner, StructureLearner):
            with stop_requests() as request:
                # Last, so that all others have written what a saved state takes for reported.
                callbacks.append(ProgressSaver(folder.path, folder.config, data, spent, request))
                fit: Any = learner.fit(data, seed=config.seed, callbacks=callbacks, resume=begun.pop())
        else:
            fit = learner.fit(data, seed=config.seed, callbacks=callbacks)
    except NumericalError as error:
        raise save_failure(folder, fingerprint(data), error) from error
    result = {
        "dataset": config.source,
        "method": config.method,
        "test_accuracy": fit.accuracy("test"),
        "es_accuracy": fit.accuracy("es"),
        "es_loss": fit.loss("es"),
        "val_accuracy": fit.accuracy("val"),
        "outer_epochs": fit.outer_epochs,
        "outer_steps": fit.outer_steps,
        "expected_edges": fit.expected_edges,
        "seed": config.seed,
        "seconds": spent + time.perf_counter() - began,
        "peak_rss_mb": peak_rss_mb(),
        "versions": versions(),
        "threads": threads(),
        "kernel": getattr(getattr(fit, "structure", None), "kernel", "torch"),
    }
    if config.data is not None:  # A path does not tell what the file held.
        result["data_fingerprint"] = fingerprint(data)
    tables = {PREDICTIONS_TABLE: predictions_csv(fit, data)}
    if (names := class_names(data)) is not None:
        tables[CLASS_NAMES] = names_json(names)
    return folder.finish(fit, result, data.get("node_names"), tables)
