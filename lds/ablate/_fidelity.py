"""Truncated hypergradients of structure learning against the full one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lds.hypergrad import TruncationCurve, truncation_curve

if TYPE_CHECKING:
    from torch import Tensor
    from torch_geometric.data import Data

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
    """
    problem = learner.problem(data, steps=steps, seed=seed, theta=theta)
    trajectory = problem.record(horizon=None)
    return truncation_curve(trajectory, problem.outer_objective, noise=learner.noise)


def average(curves: Sequence[TruncationCurve]) -> TruncationCurve:
    """Return the mean over trajectories, depth for depth."""

    def mean(name: str) -> list[float]:
        # Divided first: the sum of large norms may overflow.
        rows = zip(*(getattr(c, name) for c in curves), strict=True)
        return [math.fsum(value / len(curves) for value in values) for values in rows]

    return TruncationCurve(mean("relative_error"), mean("cosine"), mean("costate_norm"))
