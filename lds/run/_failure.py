"""A training that failed on a number: what it takes to see it fail again."""

from __future__ import annotations

from pathlib import Path

from lds._callbacks import Callback, StepRecord
from lds._signals import stops_later
from lds.errors import DataError, InputError, NumericalError, OuterStepError
from lds.run._config import BaselineConfig, TrainConfig
from lds.run._data import load_data
from lds.run._folder import RunFolder
from lds.run._methods import METHOD
from lds.run._reader import FAILURE, config_of


class _NoFailureError(Exception):
    """The outer step that failed once did not."""


class _StopAfter(Callback):
    """Ends the training after an outer step."""

    def __init__(self, outer_step: int) -> None:
        self._outer_step = outer_step

    def on_step(self, record: StepRecord) -> None:
        """Raise if this was the step."""
        if record.outer_step >= self._outer_step:
            raise _NoFailureError


def replay_failure(out: Path, *, config: TrainConfig | BaselineConfig | None = None) -> str:
    """Run the outer step again that ended a run, and say so if it no longer fails.

    A run whose folder holds no state to begin from, such as one of a fixed graph, is run again from its beginning.

    Args:
        out: the run folder, with its failure.pt.
        config: that of the run, but for the place of its data; what the folder holds when None.

    Raises:
        NumericalError: it fails again; the message is that of the run.
        InputError: there is no failure in the folder, or one of another configuration, version or data set, or of
            another number of threads.
        DataError: as for `train`; also where failure.pt is damaged.

    Example:
        >>> from lds.run import TrainConfig, train
        >>> config = TrainConfig("iris", "knn-lds", inner_lr=1e38, weight_decay=0.0)
        >>> train(config, Path("failed"), progress=False)
        Traceback (most recent call last):
        lds.errors.NumericalError: in outer step 1, ...
        >>> replay_failure(Path("failed"))
        Traceback (most recent call last):
        lds.errors.OuterStepError: in outer step 1, ...
    """
    with stops_later():
        from lds.learner import StructureLearner
        from lds.run._learner import make_learner
        from lds.run._parts import on_device
        from lds.run._saving import read_progress

    config = config_of(out, config)
    if METHOD[config.method].learner == "choice":
        raise InputError(
            f"{config.method} leaves no {FAILURE}: what failed was named in the message; run it as --method, and "
            "replay that run"
        )
    data = load_data(config)
    saved, _ = read_progress(out, config.as_dict(), data, FAILURE)
    if saved is None:
        raise InputError(f"{out} must hold a {FAILURE} to replay, but does not: no training in it ended on a number")
    step, start = saved.get("outer_step"), saved.get("resume")
    if type(step) is not int or not isinstance(start, dict | None):
        raise DataError(
            f"{out / FAILURE} must say which step failed and where to begin, but does not; remove it, "
            f"and lds train --resume {out} runs into it again"
        )
    data = on_device(config, data)
    learner = make_learner(config, data)
    try:
        if isinstance(learner, StructureLearner):
            learner.fit(data, seed=config.seed, callbacks=(_StopAfter(step),), resume=start)
        else:
            learner.fit(data, seed=config.seed)
    except _NoFailureError:
        pass
    return f"what failed in {out} no longer fails; lds train --resume {out} goes on"


def save_failure(folder: RunFolder, data_fingerprint: str, error: NumericalError) -> NumericalError:
    """Write failure.pt; return the error with the way to replay it.

    Raises:
        StorageError: the file cannot be written.
    """
    from lds.run._saving import pack

    step, resume = (error.outer_step, error.progress) if isinstance(error, OuterStepError) else (0, None)
    folder.fail(pack(folder.config, data_fingerprint, 0.0, {"outer_step": step, "resume": resume}))
    return NumericalError(f"{error}; lds train --replay-failure {folder.path} runs into it again")
