"""A sweep: every run of a description that has no outcome yet, on an engine, into one folder."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from lds._files import write_atomically
from lds.errors import InputError
from lds.run import BaselineConfig, TrainConfig, train_once
from lds.sweep._identity import folder_name, identity, key
from lds.sweep._ledger import LEDGER, Ledger, Outcome
from lds.sweep._mixture import refuse_other_data, refuse_other_versions
from lds.sweep._progress import SweepBar
from lds.sweep._spec import Spec
from lds.sweep._table import results_csv
from lds.sweep._worker import Engine, Job, Reply

SPEC = "sweep.yaml"
TABLE = "results.csv"
# What a run folder holds beyond its configuration, metrics and result.
_BULK = ("checkpoint.pt", "graph.npz", "predictions.npy", "node_names.json")
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

    A run that fails is recorded and does not stop the others. Whatever ends this process, starting the sweep again
    goes on where it was: a run that was in flight starts anew, one that is in the ledger is not repeated.

    Args:
        spec: the description; may have grown since the last time.
        out: folder of the sweep; new, empty, or that of the same sweep.
        engine: where the runs go: `ProcessEngine`, `RayEngine` or one of your own.
        keep: all files of a run, or metrics: without checkpoint, graph and predictions.
        retry_failed: repeat the runs that failed before.
        data_root: folder of the data sets, for every run.
        progress: show a progress bar over runs.

    Raises:
        InputError: the folder holds something else or another sweep, or another process runs this sweep; or a file of
            one's own has changed since a run on it, or runs would be added to those of another version of the package.
        StorageError: a file cannot be written.
    """
    out = Path(out).absolute()
    _refuse_other_folders(spec, out)
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
                _trim(out, outcome)
        with SweepBar(spec.name, len(configs), list(kept.values()), hide=not progress) as bar:
            written = time.monotonic()
            with closing(engine.run(jobs)) as replies:
                for job, reply in replies:
                    outcome = _outcome(identity(job.arguments[0]), reply)
                    ledger.append(outcome)
                    if keep == "metrics":
                        _trim(out, outcome)
                    bar.add(outcome)
                    if time.monotonic() - written > _TABLE_SECONDS:
                        write_atomically(out / TABLE, results_csv(spec.configs, ledger.outcomes).encode())
                        written = time.monotonic()
        write_atomically(out / TABLE, results_csv(spec.configs, ledger.outcomes).encode())
        outcomes = {name: ledger.outcomes[name] for name in configs}
        if jobs:
            refuse_other_data(configs, outcomes)  # It may have changed meanwhile.
        return list(outcomes.values())


def _train(config: TrainConfig | BaselineConfig, folder: Path) -> dict[str, Any]:
    return train_once(config, folder, progress=False)


def _refuse_other_folders(spec: Spec, out: Path) -> None:
    """Make the folder, unless it holds something that is not this sweep."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        # A file of ours that was cut off is named like this.
        found = {path.name for path in out.iterdir()} - {f".{SPEC}.tmp"}
    except OSError as error:
        raise InputError(f"{out} cannot be made: {error.strerror}; choose another --out") from error
    if SPEC in found:
        other = Spec.read(out / SPEC).name
        if other != spec.name:
            raise InputError(
                f"{out} must be a folder of the sweep {spec.name}, but holds {other}; choose another --out"
            )
    elif found and LEDGER not in found:
        raise InputError(f"{out} must be new, empty or the folder of a sweep, but holds files; choose another --out")


def _job(config: TrainConfig | BaselineConfig, out: Path, data_root: str | None) -> Job:
    name = folder_name(identity(config))
    if data_root is not None:
        config = replace(config, data_root=str(Path(data_root).absolute()))
    return Job(name, _train, (config, out / "runs" / name))


def _outcome(run: dict[str, Any], reply: Reply) -> Outcome:
    if reply.error is not None:
        return Outcome(run, "failed", error=asdict(reply.error))
    return Outcome(run, "done", result=reply.result)


def _trim(out: Path, outcome: Outcome) -> None:
    for name in _BULK:
        (out / "runs" / folder_name(outcome.config) / name).unlink(missing_ok=True)
