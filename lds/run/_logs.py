"""A run as other programs follow it: tables, MLflow, Weights & Biases; TensorBoard has a file of its own.

Each is a callback, in which steps and epochs are two groups of curves, and goes on where a run goes on.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from lds._callbacks import Callback, EpochRecord, StepRecord
from lds._files import append, make_folder, read_file, write_atomically
from lds._signals import stops_later
from lds.errors import DataError, InputError
from lds.run._reader import EPOCHS_TABLE, MLFLOW, STEPS_TABLE, TENSORBOARD, WANDB
from lds.run._tensorboard import TensorBoard

LogName = Literal["tensorboard", "csv", "mlflow", "wandb"]
# What a record counts by, and what is no curve.
_NOT_CURVES = ("epoch", "outer_step", "improved")


class CSVLog(Callback):
    """Writes a table of outer steps, steps.csv, and one of outer epochs, epochs.csv.

    Args:
        folder: where the tables go; made at the first record.

    Example:
        >>> from lds.run import CSVLog
        >>> log = CSVLog("tables")  # fit(data, callbacks=[log])
    """

    def __init__(self, folder: Path | str) -> None:
        self._folder = Path(folder)
        self._lines: dict[str, list[str]] = {}

    def on_start(self, history: Sequence[EpochRecord], outer_step: int) -> None:
        """Drop the lines of what is run again."""
        self._lines = {STEPS_TABLE: [], EPOCHS_TABLE: []}
        for name, column, last in ((STEPS_TABLE, 1, outer_step), (EPOCHS_TABLE, 0, len(history))):
            if (self._folder / name).exists():
                header, *rows = read_file(self._folder / name).decode().splitlines() or [""]
                kept = [row for row in rows if _index(row, column) <= last]
                write_atomically(self._folder / name, "".join(f"{line}\n" for line in (header, *kept)).encode())

    def on_step(self, record: StepRecord) -> None:
        """Keep a line, which is written at the next moment that learning can go on from."""
        self._add(STEPS_TABLE, vars(record))

    def on_epoch(self, record: EpochRecord) -> None:
        """Keep a line."""
        self._add(EPOCHS_TABLE, vars(record))

    def on_resumable(self, dump: Callable[[], dict[str, Any]]) -> None:
        """Write what was kept."""
        for name, lines in self._lines.items():
            if lines:
                make_folder(self._folder)
                append(self._folder / name, "\n".join(lines))
                lines.clear()

    def on_end(self) -> None:
        """Write what was kept."""
        self.on_resumable(dict)

    def _add(self, name: str, values: Mapping[str, Any]) -> None:
        lines = self._lines[name]
        if not lines and not (self._folder / name).exists():
            lines.append(_row(values))
        lines.append(_row(values.values()))


class Tracker(Callback):
    """What MLflow and Weights & Biases have in common: a run of theirs, which begins at the first record.

    Args:
        folder: the run folder, which gets the identifier of their run; None keeps none.
        config: the configuration to show.
    """

    _file: str

    def __init__(self, folder: Path | str | None = None, config: Mapping[str, Any] | None = None) -> None:
        self._path = None if folder is None else Path(folder) / self._file
        self._config = {name: value for name, value in (config or {}).items() if value is not None}
        self._running = False
        # Whether somebody else ends it, with the result.
        self.held = False

    def on_step(self, record: StepRecord) -> None:
        """Tell of an outer step."""
        self._begin()
        self._tell("step", record.outer_step, _curves("step", record))

    def on_epoch(self, record: EpochRecord) -> None:
        """Tell of an outer epoch."""
        self._begin()
        self._tell("epoch", record.epoch, _curves("epoch", record))

    def on_end(self) -> None:
        """End their run, unless the result is to come."""
        if not self.held:
            self.close()

    def close(self, result: Mapping[str, Any] | None = None) -> None:
        """End their run, with the accuracies of the result where there is one."""
        if self._running:
            self._running = False
            chosen = {name: value for name, value in (result or {}).items() if name.endswith("_accuracy")}
            self._finish(chosen, done=not self.held or result is not None)

    def _begin(self) -> None:
        if self._running:
            return
        known = None
        if self._path is not None and self._path.exists():
            known = read_file(self._path).decode("utf-8", "replace").strip()
            if not known.isprintable() or not 0 < len(known) <= 200:
                raise DataError(f"{self._path} must hold the name of a run, but does not; remove it to begin another")
        found = self._start(known)
        self._running = True
        if self._path is not None and known is None:
            make_folder(self._path.parent)
            write_atomically(self._path, f"{found}\n".encode())

    def _start(self, known: str | None) -> str:
        """Begin, or go on with, a run; return its identifier."""
        raise NotImplementedError

    def _tell(self, group: str, index: int, values: dict[str, float]) -> None:
        raise NotImplementedError

    def _finish(self, result: dict[str, float], *, done: bool) -> None:
        raise NotImplementedError


class MLflowLog(Tracker):
    """Tells MLflow of every outer step and epoch, under MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME.

    When learning goes on where it was cut off, the same run of MLflow goes on; what is reported again is there twice,
    at the same step.

    Args:
        folder: the run folder, which gets mlflow.txt with the identifier of their run; None keeps none.
        config: the parameters to show.

    Raises:
        InputError: MLflow is not installed.

    Example:
        >>> from lds.run import MLflowLog  # doctest: +SKIP
        >>> log = MLflowLog(config={"tau": 5})  # doctest: +SKIP
    """

    _file = MLFLOW

    def __init__(self, folder: Path | str | None = None, config: Mapping[str, Any] | None = None) -> None:
        self._mlflow = _import("mlflow", "MLflow")
        super().__init__(folder, config)

    def _start(self, known: str | None) -> str:
        run = self._mlflow.start_run(run_id=known)
        if known is None and self._config:
            self._mlflow.log_params(self._config)
        return str(run.info.run_id)

    def _tell(self, group: str, index: int, values: dict[str, float]) -> None:
        self._mlflow.log_metrics(values, step=index)

    def _finish(self, result: dict[str, float], *, done: bool) -> None:
        if result:
            self._mlflow.log_metrics(result)
        self._mlflow.end_run("FINISHED" if done else "KILLED")


class WandbLog(Tracker):
    """Tells Weights & Biases of every outer step and epoch, under WANDB_PROJECT, WANDB_MODE and its other variables.

    When learning goes on where it was cut off, the same run goes on.

    Args:
        folder: the run folder, which gets wandb.txt with the identifier of their run; None keeps none.
        config: the configuration to show.

    Raises:
        InputError: Weights & Biases is not installed.

    Example:
        >>> from lds.run import WandbLog  # doctest: +SKIP
        >>> log = WandbLog(config={"tau": 5})  # doctest: +SKIP
    """

    _file = WANDB
    _run: Any = None

    def __init__(self, folder: Path | str | None = None, config: Mapping[str, Any] | None = None) -> None:
        self._wandb = _import("wandb", "Weights & Biases")
        super().__init__(folder, config)

    def _start(self, known: str | None) -> str:
        self._run = self._wandb.init(id=known, resume="allow", config=self._config)
        # Steps and epochs have abscissae of their own.
        for group in ("step", "epoch"):
            self._run.define_metric(f"{group}/*", step_metric=f"{group}/number")
        return str(self._run.id)

    def _tell(self, group: str, index: int, values: dict[str, float]) -> None:
        self._run.log({f"{group}/number": index, **values})

    def _finish(self, result: dict[str, float], *, done: bool) -> None:
        self._run.summary.update(result)
        self._run.finish(exit_code=0 if done else 1)


def make_log(name: LogName, folder: Path, config: Mapping[str, Any]) -> Callback:
    """Return the callback that a run logs with.

    Raises:
        InputError: there is no such log, or its package is not installed.
    """
    if name not in get_args(LogName):
        raise InputError(f"log must be one of {', '.join(get_args(LogName))}, got {name!r:.80}")
    if name == "tensorboard":
        return TensorBoard(folder / TENSORBOARD)
    if name == "csv":
        return CSVLog(folder)
    # An import that is cut off may say so in a traceback of its own.
    with stops_later():
        return (MLflowLog if name == "mlflow" else WandbLog)(folder, config)


def log_of(folder: Path) -> LogName | None:
    """Return what the run in a folder logs with; None where it does not."""
    files: dict[str, LogName] = {TENSORBOARD: "tensorboard", EPOCHS_TABLE: "csv", STEPS_TABLE: "csv"}
    files |= {MLFLOW: "mlflow", WANDB: "wandb"}
    return next((name for file, name in files.items() if (folder / file).exists()), None)


def _import(module: str, title: str) -> Any:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(
            f"logging to {title} needs {module}, which is not here; pip install 'lds-gnn[{module}]'"
        ) from error


def _curves(group: str, record: StepRecord | EpochRecord) -> dict[str, float]:
    return {
        f"{group}/{name}": float(value)
        for name, value in vars(record).items()
        if name not in _NOT_CURVES and value is not None
    }


def _row(values: Any) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(["" if value is None else value for value in values])
    return buffer.getvalue()


def _index(row: str, column: int) -> int:
    """Return the number that a line counts by; one that was cut off counts as run again."""
    cells = row.split(",")
    whole = column < len(cells) and cells[column].isascii() and cells[column].isdecimal()
    return int(cells[column]) if whole and len(cells) > column + 1 else 1 << 62
