"""The outcome of any training, by horizon."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from tqdm import tqdm

from lds.ablate._ablation import Ablation, Row
from lds.errors import LDSError
from lds.hypergrad import TruncationCurve
from lds.run._environment import peak_rss_mb
from lds.sweep import Engine, Job, ProcessEngine


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
