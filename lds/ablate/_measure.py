"""Ablations: the outcome of any training by horizon, and that of structure learning on a data set, into a folder."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from lds._files import alone, refuse_links
from lds.ablate._ablation import Ablation, AblationConfig, Row, check_lists, check_score, score_names
from lds.ablate._ablation_folder import CURVES, RUNS, claim
from lds.ablate._fidelity import average, curves
from lds.errors import InputError, LDSError
from lds.run import load_data
from lds.run._environment import peak_rss_mb
from lds.sweep import Engine, Job, Outcome, ProcessEngine, Spec, run_sweep
from lds.sweep._spec import identity

if TYPE_CHECKING:
    from lds.hypergrad import TruncationCurve

# What the training of a user returns: its score, or scores by name.
Scores = float | Mapping[str, float]


def ablate(
    config: AblationConfig,
    out: Path | str,
    engine: Engine | None = None,
    *,
    data_root: str | os.PathLike[str] | None = None,
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

    Example:
        >>> from lds.run import TrainConfig
        >>> short = TrainConfig("iris", "knn-lds", max_epochs=1, interval=2, candidates="knn:3", samples=1)
        >>> config = AblationConfig(short, horizons=[1], seeds=[0], fidelity_steps=2)
        >>> ablation, outcomes = ablate(config, "depths", progress=False)
        >>> ablation.horizons, len(ablation.curve.cosine)
        ([1], 3)
    """
    out = Path(out)
    data_root = None if data_root is None else os.fspath(data_root)
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
    train: Callable[[int, int], Scores],
    horizons: Sequence[int],
    seeds: Sequence[int],
    *,
    score: str = "accuracy",
    lower_is_better: bool = False,
    curve: TruncationCurve | None = None,
    engine: Engine | None = None,
    progress: bool = True,
) -> Ablation:
    """Train at every horizon with every seed, each in a process of its own, and return scores, time and memory.

    For problems of your own on `lds.hypergrad`; `ablate` does it for structure learning.

    Args:
        train: (horizon, seed) -> the score, a number or {score: number}. To show one score and choose the horizon by
            another, it returns both by name: `test_accuracy` and `es_accuracy`, or the same with the name of the score
            in the place of "accuracy". A function at the top of a module, so that other processes can import it.
        horizons: horizons to train with, ≥ 0.
        seeds: seeds to train each of them with.
        score: what the score is called, for the table, the files and the recommendation.
        lower_is_better: whether the least score is the best, as for a loss.
        curve: `lds.hypergrad.truncation_curve` of the same problem, for the table and the recommendation.
        engine: where the runs go; one process at a time on this machine when None.
        progress: show a progress bar over runs.

    Raises:
        InputError: a list is empty or holds a value twice, a horizon is negative, or the score has no name.
        LDSError: a training failed, or returned no finite score of that name; the message has its traceback.

    Example:
        `max` stands here for your own `train(horizon, seed)`:

        >>> found = measure(max, horizons=[0, 5], seeds=[1], score="depth", progress=False)
        >>> found.recommendation().horizon
        5
        >>> found.write("horizons")
    """
    check_lists(horizons, seeds)
    check_score(score)
    engine = ProcessEngine(1) if engine is None else engine
    jobs = [Job(f"horizon {h}, seed {s}", _measured, (train, h, s, score)) for h in horizons for s in seeds]
    rows = []
    with tqdm(total=len(jobs), unit="run", disable=None if progress else True, dynamic_ncols=True) as bar:
        for job, reply in engine.run(jobs):
            if reply.error is not None:
                raise LDSError(f"the run at {job.name} failed with {reply.error.message}\n{reply.error.traceback}")
            rows.append(reply.result)
            bar.update()
    rows.sort(key=lambda row: (row.horizon, row.seed))
    return Ablation(tuple(rows), curve, score=score, lower_is_better=lower_is_better)


def _measured(train: Callable[[int, int], Scores], horizon: int, seed: int, score: str) -> Row:
    began = time.perf_counter()
    came = train(horizon, seed)
    seconds = time.perf_counter() - began
    shown, selection = _scores(came, score)
    return Row(horizon, seed, shown, selection, seconds, peak_rss_mb())


def _scores(came: object, score: str) -> tuple[float, float | None]:
    """Return the score that is shown and that for the choice; of one for both, None for the latter.

    Raises:
        InputError: they are not there, or no finite numbers.
    """
    if not isinstance(came, Mapping):
        return _number(came, score), None
    for single in (True, False):
        names = score_names(score, "_", single=single)
        for spelt in (names, tuple(name.replace(" ", "_") for name in names)):
            if all(name in came for name in spelt):
                values = [_number(came[name], name) for name in spelt]
                return values[0], None if single else values[1]
    test, es = score_names(score, "_", single=False)
    raise InputError(
        f"train must return a number, {{{score!r}: number}} or {{{test!r}: number, {es!r}: number}}, "
        f"got the names {', '.join(map(str, came)) or 'none'}; name what it returns with score="
    )


def _number(value: object, name: str) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]  # Also a tensor of one element.
    except (TypeError, ValueError, RuntimeError):
        number = math.nan
    if isinstance(value, str | bool) or not math.isfinite(number):
        raise InputError(f"train must return a finite number as {name}, got {value!r:.80}; mend it, or the training")
    return number


def _spec(config: AblationConfig) -> Spec:
    common = {n: v for n, v in identity(config.train).items() if n not in ("horizon", "seed")}
    grid = common | {"horizon": list(config.horizons), "seed": list(config.seeds)}
    return Spec.make({"name": "ablation", "description": "truncation depths", "runs": [grid]})
