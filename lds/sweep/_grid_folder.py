"""The folder of a grid: what it may hold, and what it does hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lds._files import refuse_links
from lds._read import read_text
from lds._sums import sum_of_values
from lds._version import __version__
from lds.errors import DataError, InputError
from lds.run import BaselineConfig, TrainConfig, load_data
from lds.run._config import DataConfig
from lds.run._data import fingerprint
from lds.run._methods import METHOD
from lds.run._reader import (
    CHECKPOINT,
    CLASS_NAMES,
    CONFIG,
    GRAPH,
    METRICS,
    NODE_NAMES,
    PREDICTIONS,
    PREDICTIONS_TABLE,
    Run,
    for_ledger,
    read_run,
)
from lds.sweep._ledger import LEDGER, Outcome, outcome_of, read_ledger, warn_of_old_lines, whole_lines
from lds.sweep._spec import Spec, folder_name, identity, key
from lds.sweep._worker import Failure

SPEC = "sweep.yaml"
TABLE = "results.csv"
RUNS = "runs"
# What a run folder holds beyond its configuration, metrics and result.
_BULK = (CHECKPOINT, GRAPH, PREDICTIONS, NODE_NAMES, CLASS_NAMES, PREDICTIONS_TABLE)


def read_results(path: Path | str) -> list[Outcome]:
    """Return the outcomes in the folder of a grid, in the order of its description, or those of a ledger alone.

    Raises:
        InputError: there is no ledger, or a line of it is no outcome.

    Example:
        >>> from lds.sweep import ProcessEngine, run_sweep
        >>> spec = Spec.make({"name": "first", "runs": [{"dataset": "iris", "method": "logreg"}]})
        >>> outcomes = run_sweep(spec, "first", ProcessEngine(1), progress=False)
        >>> read_results("first") == outcomes
        True
    """
    path = Path(path)
    if not path.is_dir():
        return read_ledger(path)
    outcomes = read_ledger(path / LEDGER)
    if not (path / SPEC).exists():
        return outcomes
    order = {key(identity(config)): place for place, config in enumerate(Spec.of_folder(path / SPEC).configs)}
    return sorted(outcomes, key=lambda outcome: order.get(outcome.key, len(order)))


@dataclass(frozen=True)
class FailedRun:
    """A run that failed, and why."""

    run: Run
    failure: Failure


@dataclass(frozen=True)
class GridFolder:
    """What the folder of a grid holds, also of one of which runs still go on.

    Attributes:
        path: the folder.
        done: the runs that have ended well, one a configuration; those that learn no structure come first.
        failed: those that have not.
        folders: the run folders that are left.
        in_progress: run folders of runs that have not ended.
        torn: whether the last line of the ledger was being written.
    """

    path: Path
    done: tuple[Run, ...]
    failed: tuple[FailedRun, ...]
    folders: tuple[Run, ...]
    in_progress: tuple[Run, ...]
    torn: bool


def read_grid(path: Path) -> GridFolder:
    """Read the ledger, of which a later line on the same run replaces an earlier one, and the run folders.

    Runs are the same where their configurations are but for defaults, written out or not.

    Raises:
        DataError: a file is malformed.
    """
    lines, torn = whole_lines(read_text(path / LEDGER).encode())
    ends: dict[tuple[str, str, int], Run | FailedRun] = {}
    for number, line in lines:
        outcome = outcome_of(line, f"{path / LEDGER}:{number}")
        run = Run(outcome.config, outcome.result)
        ends[run.key] = run if outcome.error is None else FailedRun(run, _failure(outcome.error))
    warn_of_old_lines(path / LEDGER, lines)
    runs = refuse_links(path, RUNS)
    found = [refuse_links(runs, folder.name) for folder in sorted(runs.iterdir())] if runs.is_dir() else []
    folders = tuple(read_run(folder, (METRICS, GRAPH)) for folder in found if (folder / CONFIG).exists())
    for run in folders:
        _check_same(run, ends.get(run.key), path / LEDGER)
    return GridFolder(
        path,
        done=tuple(sorted((end for end in ends.values() if isinstance(end, Run)), key=_order)),
        failed=tuple(end for end in ends.values() if isinstance(end, FailedRun)),
        folders=folders,
        in_progress=tuple(run for run in folders if run.result is None and run.key not in ends),
        torn=torn,
    )


def _check_same(run: Run, end: Run | FailedRun | None, ledger: Path) -> None:
    """Refuse a run folder that is another one than the ledger tells of; a ledger without sums cannot tell."""
    if run.result is None or not isinstance(end, Run) or end.result is None:
        return
    if "sums" in end.result and sum_of_values(for_ledger(run.result)) != sum_of_values(end.result):
        raise DataError(
            f"{run.path} must hold the run that {ledger} tells of, but its result is another one; put the right folder "
            "back, or take it out"
        )


def _failure(error: Mapping[str, Any]) -> Failure:
    return Failure(*(str(error.get(name) or "") for name in ("type", "message", "traceback")))


def _order(run: Run) -> tuple[str, bool, list[str | int], int]:
    """Return what to sort runs by: data set, setting and seed, with horizon 5 ahead of horizon 10.

    The ledger has them in the order in which they ended. Methods that learn no structure come first.
    """
    method = METHOD.get(run.method)
    parts = re.split(r"(\d+)", run.setting)
    learns = method is not None and method.learns_structure
    return (run.dataset, learns, [int(p) if p.isdecimal() else p for p in parts], run.seed)


def claim(spec: Spec, out: Path) -> None:
    """Make the folder, unless it holds something that is not this grid."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        # A file of ours that was cut off is named like this.
        found = {path.name for path in out.iterdir()} - {f".{SPEC}.tmp"}
    except OSError as error:
        raise InputError(f"{out} cannot be made: {error.strerror}; choose another --out") from error
    if SPEC in found:
        other = Spec.of_folder(out / SPEC).name
        if other != spec.name:
            raise InputError(
                f"{out} must be a folder of the sweep {spec.name}, but holds {other}; choose another --out"
            )
    elif found and LEDGER not in found:
        raise InputError(f"{out} must be new, empty or the folder of a sweep, but holds files; choose another --out")


def refuse_other_data(configs: Mapping[str, TrainConfig | BaselineConfig], outcomes: Mapping[str, Outcome]) -> None:
    """Refuse outcomes of other data than their files hold now.

    A configuration names a file, but does not tell what it holds. A file that cannot be read is no reason to refuse: a
    run on it would fail, so the old outcomes stay alone.

    Raises:
        InputError: there is such an outcome.
    """
    known: dict[Any, str | None] = {}
    for name, outcome in outcomes.items():
        config, result = configs[name], outcome.result or {}
        if config.data is None or "data_fingerprint" not in result:
            continue
        # By all that a fingerprint depends on: it covers the split and the edges that are kept.
        names = (*(field.name for field in fields(DataConfig)), "seed", "retain")
        part = tuple(getattr(config, field, 1.0) for field in names)
        if part not in known:
            try:
                known[part] = fingerprint(load_data(config))
            except InputError:
                known[part] = None
        if known[part] not in (None, result["data_fingerprint"]):
            files = " or ".join(filter(None, (config.data, config.edges)))
            raise InputError(
                f"all runs of a sweep must be on the same data, but {files} has changed since the run "
                f"{folder_name(outcome.config)}; bring the file back to its place, or choose another --out"
            )


def refuse_other_versions(out: Path, outcomes: Mapping[str, Outcome]) -> None:
    """Refuse outcomes of another version of the package.

    Raises:
        InputError: there is such an outcome.
    """
    for outcome in outcomes.values():
        found = (outcome.result or {}).get("versions", {}).get("lds", __version__)
        if found != __version__:
            raise InputError(
                f"{out} holds runs of lds {found!s:.80}, but this is lds {__version__}, whose numbers may differ; add "
                "runs with that version, or choose another --out"
            )


def trim(out: Path, outcome: Outcome) -> None:
    """Remove what a run folder holds beyond its configuration, metrics and result."""
    folder = refuse_links(out, RUNS, folder_name(outcome.config))
    for name in _BULK:
        (folder / name).unlink(missing_ok=True)
