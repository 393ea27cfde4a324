"""Truncated hypergradients of structure learning against the full one, and their files in the folder of an ablation.

Imports torch only where it computes: reports read ablations too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from lds._files import make_folder, read_file, write_atomically
from lds._memory import ROOM, too_large
from lds._read import load_tensors, parse_json
from lds._sums import SUM, check_sum, with_sum
from lds.ablate._ablation import AblationConfig
from lds.errors import DataError
from lds.run import TrainConfig, load_data
from lds.run._data import fingerprint
from lds.run._reader import CHECKPOINT, read_result
from lds.sweep import Engine, Job
from lds.sweep._spec import folder_name, identity

if TYPE_CHECKING:
    from torch import Tensor
    from torch_geometric.data import Data

    from lds.hypergrad import TruncationCurve
    from lds.learner import StructureLearner


def fidelity(
    learner: StructureLearner, data: Data, *, steps: int, seed: int = 0, theta: Tensor | None = None
) -> TruncationCurve:
    """Return the truncation curve of a structure learner's own problem.

    One trajectory of `steps` inner steps from new weights, at a θ that stays as it is; all depths are compared on it.

    Args:
        learner: the learner; its tau, interval and horizon do not count.
        data: as for `StructureLearner.fit`.
        steps: inner steps T.
        seed: seed of the weights and of all draws.
        theta: edge probabilities, `structure.state()` of a fit; the initial graph when None.

    Raises:
        DataError, InputError: as for `StructureLearner.fit`.
        NumericalError: the full hypergradient is zero, NaN or infinite.

    Example:
        >>> import lds
        >>> from lds.data import load
        >>> from lds.graph import KNNGraph
        >>> curve = fidelity(lds.StructureLearner(graph=KNNGraph(5)), load("iris"), steps=3)
        >>> round(curve.cosine[-1], 4)  # The deepest is the full hypergradient.
        1.0
    """
    from lds.hypergrad import truncation_curve

    problem = learner.problem(data, steps=steps, seed=seed, theta=theta)
    weights = sum(value.nbytes for value in problem.params.values())
    if steps * weights > ROOM:
        raise too_large(
            f"{steps} recorded steps of {weights} bytes of weights", steps * weights, "compare on fewer fidelity steps"
        )
    trajectory = problem.record(horizon=None)
    return truncation_curve(trajectory, problem.outer_objective, noise=learner.noise)


def average(curves: Sequence[TruncationCurve]) -> TruncationCurve:
    """Return the mean over trajectories, depth for depth."""
    from lds.hypergrad import TruncationCurve

    def mean(name: str) -> list[float]:
        # Divided first: the sum of large norms may overflow.
        rows = zip(*(getattr(c, name) for c in curves), strict=True)
        return [math.fsum(value / len(curves) for value in values) for values in rows]

    return TruncationCurve(mean("relative_error"), mean("cosine"), mean("costate_norm"))


def curves(
    config: AblationConfig, runs: Path, folder: Path, engine: Engine, *, data_root: str | None, progress: bool
) -> tuple[list[TruncationCurve], list[str]]:
    """Return the curves of all trajectories, and a line on each trajectory that has none.

    A curve is kept in a file, and not computed again while that is there.

    Args:
        config: what is ablated.
        runs: folder of the run folders, from which learned graphs come.
        folder: where the curves are kept.
        engine: where the trajectories go.
        data_root: folder of the data sets.
        progress: show a progress bar over trajectories.

    Raises:
        InputError: the folder cannot be made.
        DataError: the data set is missing or corrupt.
        StorageError: a curve cannot be written.
    """
    make_folder(folder)
    steps, longest = config.fidelity_steps, max(config.horizons)
    found: dict[str, TruncationCurve] = {}
    left_out: dict[str, str] = {}
    files: dict[str, Path] = {}
    data: dict[str, str] = {}
    jobs = []
    for seed in config.seeds:
        run = replace(config.train, horizon=longest, seed=seed, data_root=data_root)
        learned = runs / folder_name(identity(run)) / CHECKPOINT
        seen = fingerprint(load_data(run))
        for graph, checkpoint in (("initial", None), ("learned", learned)):
            name = f"fidelity, seed {seed}, {graph} graph"
            # All else is the same for a folder, or shows in the curve and the data that it is kept with.
            files[name] = folder / f"seed-{seed}-{graph if checkpoint is None else f'horizon-{longest}'}.json"
            data[name] = seen
            kept = _read(files[name], steps, seen)
            if kept is not None:
                found[name] = kept
            elif checkpoint is None or checkpoint.exists():
                jobs.append(Job(name, _curve, (run, steps, checkpoint)))
            else:
                left_out[name] = f"{name}, is left out: the run {learned.parent.name} has no {learned.name}"
    hide = None if progress else True  # None: hidden where stderr is no terminal.
    with (
        tqdm(
            desc="fidelity",
            total=len(found) + len(jobs),
            initial=len(found),
            unit="curve",
            disable=hide,
            dynamic_ncols=True,
        ) as bar,
        closing(engine.run(jobs)) as replies,
    ):
        for job, reply in replies:
            if reply.error is None:
                content = with_sum({"data": data[job.name]} | asdict(reply.result))
                write_atomically(files[job.name], json.dumps(content).encode())
                found[job.name] = reply.result
            else:
                left_out[job.name] = f"{job.name}, is left out: {' '.join(reply.error.message.split())}"
            bar.update()
    return [found[name] for name in files if name in found], [left_out[name] for name in files if name in left_out]


def _read(path: Path, steps: int, data: str) -> TruncationCurve | None:
    """Return a curve that was kept; None where there is none, or one that is damaged or of other steps or data."""
    from lds.hypergrad import TruncationCurve

    try:
        content = parse_json(read_file(path))
    except (OSError, DataError):
        return None
    names = [field.name for field in fields(TruncationCurve)]
    if not isinstance(content, dict) or content.keys() - {SUM} != {"data", *names} or content["data"] != data:
        return None
    try:
        check_sum(content, str(path), "it is computed again")
    except DataError:
        return None
    columns = [content[name] for name in names]
    if not all(isinstance(c, list) and len(c) == steps + 1 and all(map(_is_plain, c)) for c in columns):
        return None
    return TruncationCurve(*columns)


def _is_plain(value: object) -> bool:
    """Tell whether a value can be one of a curve: a number, or NaN where there is no angle."""
    return isinstance(value, float) and not math.isinf(value)


def _curve(run: TrainConfig, steps: int, checkpoint: Path | None) -> TruncationCurve:
    from lds.learner import StructureLearner
    from lds.run._learner import make_learner
    from lds.run._parts import on_device

    data = on_device(run, load_data(run))
    learner = make_learner(run, data)
    assert isinstance(learner, StructureLearner)
    theta = None
    if checkpoint is not None:
        theta = load_tensors(checkpoint)["theta"]
        read_result(checkpoint.parent, [checkpoint.name])  # It is that of the run.
    return fidelity(learner, data, steps=steps, seed=run.seed, theta=theta)
