"""Runs a grid: every run of a description that has no outcome yet, on an engine, into one folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from lds._files import refuse_links, write_atomically
from lds.run import BaselineConfig, TrainConfig, train_once
from lds.run._reader import for_ledger
from lds.sweep._grid_folder import RUNS, SPEC, TABLE, claim, refuse_other_data, refuse_other_versions, trim
from lds.sweep._ledger import LEDGER, Ledger, Outcome
from lds.sweep._spec import Spec, folder_name, identity, key
from lds.sweep._summary import results_csv
from lds.sweep._worker import Engine, Job, Reply

_TABLE_SECONDS = 10.0


def run_sweep(
    spec: Spec,
    out: Path | str,
    engine: Engine,
    *,
    keep: Literal["all", "metrics"] = "all",
    retry_failed: bool = False,
    data_root: str | None = None,
    progress: bool = True,
) -> list[Outcome]:
    """Run what has not run yet, and return the outcomes of all runs in the order of the description.

    A run that fails is recorded and does not stop the others. Whatever ends this process, calling this again
    goes on where it was: a run that was in flight starts anew, one that is in the ledger is not repeated.

    Args:
        spec: the description; may have grown since the last time.
        out: folder of the grid; new, empty, or that of the same grid.
        engine: where the runs go: `ProcessEngine`, `RayEngine` or one of your own.
        keep: all files of a run, or metrics: without checkpoint, graph and predictions.
        retry_failed: repeat the runs that failed before.
        data_root: folder of the data sets, for every run.
        progress: show a progress bar over runs.

    Raises:
        InputError: the folder holds something else or another grid, or another process runs this one; or a file of
            the user has changed since a run on it, or runs would be added to those of another version of the package.
        StorageError: a file cannot be written.

    Example:
        >>> from lds.sweep import ProcessEngine
        >>> grid = {"dataset": "iris", "method": "logreg", "seed": 0}
        >>> spec = Spec.make({"name": "first", "runs": [grid]})
        >>> [outcome.status for outcome in run_sweep(spec, "first", ProcessEngine(1), progress=False)]
        ['done']
    """
    out = Path(out).absolute()
    claim(spec, out)
    for config in spec.configs:
        refuse_links(out, RUNS, folder_name(identity(config)))
    with Ledger(out / LEDGER) as ledger:
        configs = {key(identity(config)): config for config in spec.configs}
        kept = {name: ledger.outcomes[name] for name in configs if name in ledger.outcomes}
        if retry_failed:
            kept = {name: outcome for name, outcome in kept.items() if outcome.status == "done"}
        jobs = [_job(config, out, data_root) for name, config in configs.items() if name not in kept]
        refuse_other_data(configs, kept)
        if jobs:
            refuse_other_versions(out, kept)
        write_atomically(out / SPEC, spec.as_yaml().encode())
        if keep == "metrics":
            for outcome in kept.values():
                trim(out, outcome)
        with GridBar(spec.name, len(configs), list(kept.values()), hide=not progress) as bar:
            written = time.monotonic()
            with closing(engine.run(jobs)) as replies:
                for job, reply in replies:
                    outcome = _outcome(identity(job.arguments[0]), reply)
                    ledger.append(outcome)
                    if keep == "metrics":
                        trim(out, outcome)
                    bar.add(outcome)
                    if time.monotonic() - written > _TABLE_SECONDS:
                        write_atomically(out / TABLE, _table(spec, ledger))
                        written = time.monotonic()
        write_atomically(out / TABLE, _table(spec, ledger))
        outcomes = {name: ledger.outcomes[name] for name in configs}
        if jobs:
            refuse_other_data(configs, outcomes)  # It may have changed meanwhile.
        return list(outcomes.values())


def _table(spec: Spec, ledger: Ledger) -> bytes:
    # Messages of errors may hold names that are no text.
    return results_csv(spec.configs, ledger.outcomes).encode("utf-8", "backslashreplace")


def _train(config: TrainConfig | BaselineConfig, folder: Path) -> dict[str, Any]:
    return train_once(config, folder, progress=False)


def _job(config: TrainConfig | BaselineConfig, out: Path, data_root: str | None) -> Job:
    name = folder_name(identity(config))
    if data_root is not None:
        config = replace(config, data_root=str(Path(data_root).absolute()))
    return Job(name, _train, (config, out / RUNS / name))


def _outcome(run: dict[str, Any], reply: Reply) -> Outcome:
    if reply.error is not None:
        return Outcome(run, "failed", error=asdict(reply.error))
    return Outcome(run, "done", result=for_ledger(reply.result))


class GridBar:
    """Shows on a terminal line how many runs have ended and failed, and the time left.

    Args:
        label: what to write before it.
        total: number of runs.
        ended: the outcomes of earlier times; they do not count in the time that a run takes.
        hide: show nothing.
    """

    def __init__(self, label: str, total: int, ended: Sequence[Outcome], *, hide: bool) -> None:
        self._failed = sum(outcome.status == "failed" for outcome in ended)
        self._bar: Any = tqdm(
            desc=label,
            total=total,
            initial=len(ended),
            unit="run",
            disable=True if hide else None,  # None: hidden where stderr is no terminal.
            dynamic_ncols=True,
            smoothing=0,  # The time left by the mean of all runs: those of a grid take turns in being long.
            postfix=self._postfix(),
        )

    def add(self, outcome: Outcome) -> None:
        """Count a run."""
        self._failed += outcome.status == "failed"
        self._bar.set_postfix(self._postfix(), refresh=False)
        self._bar.update()

    def __enter__(self) -> GridBar:
        """Return the bar."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the line as it is."""
        self._bar.close()

    def _postfix(self) -> dict[str, int]:
        return {"failed": self._failed}
