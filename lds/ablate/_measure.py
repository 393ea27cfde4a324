"""Ablations: the outcome of any training by horizon, and that of structure learning on a data set, into a folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from lds._files import alone, refuse_links
from lds.ablate._ablation import Ablation, AblationConfig, Row
from lds.ablate._ablation_folder import CURVES, RUNS, claim
from lds.ablate._fidelity import average, curves
from lds.errors import LDSError
from lds.run import load_data
from lds.run._environment import peak_rss_mb
from lds.sweep import Engine, Job, Outcome, ProcessEngine, Spec, run_sweep
from lds.sweep._spec import identity

if TYPE_CHECKING:
    from lds.hypergrad import TruncationCurve


def ablate(
    config: AblationConfig,
    out: Path | str,
    engine: Engine | None = None,
    *,
    data_root: str | None = None,
    progress: bool = True,
) -> tuple[Ablation, list[Outcome]]:
    """Train at every horizon with every seed, compare hypergradients of all depths, write the folder `out`.

    The runs are a grid: what has finished is not repeated when this is called again, what failed is. Hypergradients
    are compared for every seed on two trajectories, at the initial graph and at what the longest horizon learned; a
    trajectory that fails is left out of the curve, and tried again when this is called again.

    Args:
        config: what to ablate.
        out: folder; gets ablation.yaml, ablation.csv, fidelity.csv, recommendation.json, the runs as a grid in the
            folder sweep, and the curve of each trajectory in the folder fidelity.
        engine: where the runs go; one process at a time on this machine when None.
        data_root: folder of the data sets.
        progress: show progress bars over runs and trajectories.

    Returns:
        The ablation, and the outcomes of its runs; those that failed have no row. Without a trajectory that succeeds
        there is no curve.

    Raises:
        InputError: the folder cannot be made, or holds something else or another ablation, or another process is at
            work in it; or the data or the version is another than before, see `run_sweep`.
        DataError: the data set is unknown, missing or corrupt.
        StorageError: a file cannot be written.
    """
    out = Path(out)
    engine = ProcessEngine(1) if engine is None else engine
    # Missing data is one error here, before anything is written, and not a failure of every run.
    load_data(replace(config.train, data_root=data_root))
    with alone(out):
        claim(config, out)
        for name in (RUNS, CURVES):
            refuse_links(out, name)
        outcomes = run_sweep(
            _spec(config), out / RUNS, engine, retry_failed=True, data_root=data_root, progress=progress
        )
        rows = [
            Row(
                o.config["horizon"],
                o.config["seed"],
                *(o.result[name] for name in ("test_accuracy", "es_accuracy", "seconds", "peak_rss_mb")),
            )
            for o in outcomes
            if o.result is not None
        ]
        rows.sort(key=lambda row: (row.horizon, row.seed))
        result = Ablation(tuple(rows))
        result.write(out)
        found, left_out = curves(
            config, out / RUNS / "runs", out / CURVES, engine, data_root=data_root, progress=progress
        )
        result = replace(result, curve=average(found) if found else None, left_out=tuple(left_out))
        result.write(out)
    return result, outcomes


def measure(
    train: Callable[[int, int], Mapping[str, float]],
    horizons: Sequence[int],
    seeds: Sequence[int],
    *,
    curve: TruncationCurve | None = None,
    engine: Engine | None = None,
    progress: bool = True,
) -> Ablation:
    """Train at every horizon with every seed, each in a process of its own, and return scores, time and memory.

    For problems of your own on `lds.hypergrad`; `ablate` does it for structure learning.

    Args:
        train: (horizon, seed) -> {"test_accuracy": …, "es_accuracy": …}, scores of which more is better; a function at
            the top of a module, so that other processes can import it.
        horizons: horizons to train with.
        seeds: seeds to train each of them with.
        curve: `lds.hypergrad.truncation_curve` of the same problem, for the table and the recommendation.
        engine: where the runs go; one process at a time on this machine when None.
        progress: show a progress bar over runs.

    Raises:
        LDSError: a training failed; the message has its traceback.
    """
    engine = ProcessEngine(1) if engine is None else engine
    jobs = [Job(f"horizon {h}, seed {s}", _measured, (train, h, s)) for h in horizons for s in seeds]
    rows = []
    with tqdm(total=len(jobs), unit="run", disable=None if progress else True, dynamic_ncols=True) as bar:
        for job, reply in engine.run(jobs):
            if reply.error is not None:
                raise LDSError(f"the run at {job.name} failed with {reply.error.message}\n{reply.error.traceback}")
            rows.append(reply.result)
            bar.update()
    return Ablation(tuple(sorted(rows, key=lambda row: (row.horizon, row.seed))), curve)


def _measured(train: Callable[[int, int], Mapping[str, float]], horizon: int, seed: int) -> Row:
    began = time.perf_counter()
    scores = train(horizon, seed)
    seconds = time.perf_counter() - began
    return Row(horizon, seed, scores["test_accuracy"], scores["es_accuracy"], seconds, peak_rss_mb())


def _spec(config: AblationConfig) -> Spec:
    common = {n: v for n, v in identity(config.train).items() if n not in ("horizon", "seed")}
    grid = common | {"horizon": list(config.horizons), "seed": list(config.seeds)}
    return Spec.make({"name": "ablation", "description": "truncation depths", "runs": [grid]})
