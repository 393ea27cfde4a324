"""One training run, from configuration to run folder."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lds._callbacks import Callback
from lds._read import read_yaml
from lds._signals import stop_requests, stops_later
from lds.errors import NumericalError
from lds.run._config import BaselineConfig, TrainConfig
from lds.run._data import fingerprint, load_data
from lds.run._environment import peak_rss_mb, threads, versions
from lds.run._folder import RunFolder
from lds.run._logs import LogName, Tracker, log_of, make_log
from lds.run._methods import METHOD
from lds.run._predictions import class_names, names_json, predictions_csv
from lds.run._progress import ProgressBar
from lds.run._reader import (
    CLASS_NAMES,
    CONFIG,
    PREDICTIONS_TABLE,
    RESULT,
    check_unchanged,
    config_of,
    read_result,
)

if TYPE_CHECKING:
    from torch_geometric.data import Data

_log = logging.getLogger("lds.run")


def train(
    config: TrainConfig | BaselineConfig,
    out: Path,
    *,
    progress: bool = True,
    log: LogName | None = None,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Train as configured, write the run folder `out`, and return what its result.json holds.

    Accuracies are in [0, 1]; `es_loss`, the loss on the early-stopping nodes, breaks ties between settings, and is None
    for a baseline without probabilities, as is `expected_edges` without a graph; `majority_accuracy` is the test
    accuracy of the most frequent class alone; `seconds` is the wall time of the training, `peak_rss_mb` that of the
    whole process; `versions` and the number of `threads` are what the last digits depend on, as does the
    `kernel`, native or torch; `data_fingerprint` tells
    what the user's own file held. A run of auto adds what was `chosen`, the `reason`, and the `scores` of all
    alternatives on held-out folds.

    Args:
        config: what to train, on which data.
        out: the run folder; must be new or empty.
        progress: show a progress bar on a terminal, and elsewhere log a line per outer epoch to `lds.run`.
        log: follow the run in another program, too: "tensorboard" (event files in `out`/tensorboard), "csv" (tables
            `out`/steps.csv and epochs.csv), "mlflow" or "wandb"; a baseline of scikit-learn has nothing to follow.
        callbacks: told of the run too, see `lds.learner.Callback`.

    Raises:
        InputError: a value of the configuration is out of range, the folder is taken or cannot be made, a model or an
            updater cannot be imported, or what to log with is not installed.
        DataError: the data set is unknown, missing or corrupt.
        NumericalError: a number is NaN or infinite; what it takes to run into it again is saved.
        Interrupted: SIGINT or SIGTERM came, while a structure was learned; where learning stood is saved.
        StorageError: a file cannot be written.

    Example:
        >>> from lds.run import BaselineConfig, train
        >>> result = train(BaselineConfig("iris", "logreg"), Path("iris"), progress=False)
        >>> result["test_accuracy"] > 0.8
        True
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

    A run of which nothing was saved, or that learns no structure, starts again. What it logged with goes on too.

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

    Example:
        >>> from lds.run import BaselineConfig, resume, train
        >>> first = train(BaselineConfig("iris", "logreg"), Path("once"), progress=False)
        >>> resume(Path("once"), progress=False) == first  # It has ended.
        True
    """
    config = config_of(out, config)
    if (out / RESULT).exists():  # Before the folder is locked, for which its disk must be writable.
        return read_result(out)
    with RunFolder(out, config.as_dict(), resumed=True) as folder:
        if (out / RESULT).exists():  # Another process ended the run meanwhile.
            return read_result(out)
        return _run(config, folder, progress=progress, log=log_of(out), further=callbacks)


def train_once(
    config: TrainConfig | BaselineConfig,
    out: Path,
    *,
    progress: bool = True,
    log: LogName | None = None,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Train as `train` does, or go on with the same run where `out` holds it, as `resume` does.

    Raises:
        InputError, DataError, NumericalError, Interrupted, StorageError: as for `train` and `resume`.

    Example:
        >>> from lds.run import BaselineConfig, train_once
        >>> config = BaselineConfig("iris", "logreg")
        >>> first = train_once(config, Path("again"), progress=False)
        >>> train_once(config, Path("again"), progress=False) == first
        True
    """
    if (out / CONFIG).exists():
        return resume(out, config=config, progress=progress, callbacks=callbacks)
    return train(config, out, progress=progress, log=log, callbacks=callbacks)


def _run(
    config: TrainConfig | BaselineConfig,
    folder: RunFolder,
    *,
    progress: bool,
    log: LogName | None,
    further: Sequence[Callback],
) -> dict[str, Any]:
    if log is None:
        return _train(config, folder, progress=progress, further=further)
    callback = make_log(log, folder.path, folder.config)
    if not isinstance(callback, Tracker):
        return _train(config, folder, progress=progress, further=[*further, callback])
    result = None
    callback.held = True
    try:
        result = _train(config, folder, progress=progress, further=[*further, callback])
    finally:
        callback.close(result)
    return result


def _train(
    config: TrainConfig | BaselineConfig, folder: RunFolder, *, progress: bool, further: Sequence[Callback]
) -> dict[str, Any]:
    # Here, and not above: the command line must answer without torch. An import that is cut off may say so in a
    # traceback of its own.
    with stops_later():
        from lds.learner import StructureLearner
        from lds.run._auto import alone, choose_learner
        from lds.run._failure import save_failure
        from lds.run._learner import make_learner
        from lds.run._parts import on_device
        from lds.run._saving import ProgressSaver, read_progress, take_compared

    data = on_device(config, load_data(config))
    if isinstance(config, TrainConfig):
        for name in config.without_effect(has_edges=data.edge_index.numel() > 0):
            _log.warning("%s has no effect with method %s", name, config.method)
    # What auto takes is not known yet.
    learner: Any = None if METHOD[config.method].learner == "choice" else make_learner(config, data)
    if progress:
        _log.info("%s on %s, seed %d: %s", config.method, config.source, config.seed, _size(data))
    # The folder comes first: it takes the lock before another callback writes there.
    callbacks: list[Callback] = [folder, *further]
    saved, spent = read_progress(folder.path, folder.config, data)
    compared, saved = take_compared(folder.path, saved) if learner is None else ([], saved)
    begun = [saved]
    if saved is None and (folder.path / CONFIG).exists():  # Else the two have been compared.
        check_unchanged(folder.path, read_yaml(folder.path / CONFIG))
    del saved  # With θ twice: the learner lets go of it.
    began = time.perf_counter()
    chosen: dict[str, Any] = {}
    earlier = spent
    if learner is None:
        assert isinstance(config, TrainConfig)
        with stop_requests() as request:
            saver = ProgressSaver(folder.path, folder.config, data, spent, request, compared)
            choice, learner = choose_learner(config, data, saver, [folder, *further], hide=not progress)
        compared, spent = saver.compared, saver.seconds
        chosen = {"chosen": choice.name, "reason": choice.reason, "scores": _plain(choice.scores)}
    callbacks.insert(1, _progress_bar(config, learner, hide=not progress))
    try:
        if isinstance(learner, StructureLearner):
            with stop_requests() as request:
                # Last, so that all others have written what a saved state takes for reported.
                callbacks.append(ProgressSaver(folder.path, folder.config, data, spent, request, compared))
                fit: Any = learner.fit(data, seed=config.seed, callbacks=callbacks, resume=begun.pop())
        else:
            fit = learner.fit(data, seed=config.seed, callbacks=callbacks)
    except NumericalError as error:
        if chosen:
            raise alone(chosen["chosen"], error) from error
        raise save_failure(folder, fingerprint(data), error) from error
    result = {
        "dataset": config.source,
        "method": config.method,
        **chosen,
        "test_accuracy": fit.accuracy("test"),
        "es_accuracy": fit.accuracy("es"),
        "es_loss": fit.loss("es"),
        "val_accuracy": fit.accuracy("val"),
        "majority_accuracy": _majority(data),
        "outer_epochs": fit.outer_epochs,
        "outer_steps": fit.outer_steps,
        "expected_edges": fit.expected_edges,
        "seed": config.seed,
        "seconds": earlier + time.perf_counter() - began,
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


def _progress_bar(config: TrainConfig | BaselineConfig, learner: Any, *, hide: bool) -> ProgressBar:
    from lds.learner import StructureLearner

    label = f"{config.method} on {Path(config.source).name}"
    if not isinstance(learner, StructureLearner):  # One epoch, whose steps are not reported.
        return ProgressBar(label, hide=hide)
    interval = learner.tau if learner.interval is None else learner.interval
    return ProgressBar(label, learner.inner_steps, interval, learner.max_epochs, hide=hide)


def _plain(scores: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    return {name: dict(vars(score)) for name, score in scores.items()}


def _size(data: Data) -> str:
    """Return how large the data is, in words."""
    edges = data.edge_index.shape[1] // 2
    return (
        f"{data.num_nodes:,} nodes, {edges:,} edges, {data.x.shape[1]:,} features, {data.num_classes} classes; "
        f"{int(data.train_mask.sum()):,} nodes to train on"
    )


def _majority(data: Data) -> float:
    """Return the test accuracy of the class that most training nodes have, as a baseline that learns nothing else."""
    y = data.y.long()
    most = y[data.train_mask].bincount().argmax()
    return float((y[data.test_mask] == most).double().mean())
