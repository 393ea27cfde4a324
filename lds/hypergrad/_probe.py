"""Difference quotients that tell whether they can be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lds.errors import NumericalError
from lds.hypergrad._finite_difference import evaluate, moved
from lds.hypergrad._problem import Problem
from lds.hypergrad._theta import Theta

EPS = torch.finfo(torch.float64).eps
STEP = EPS ** (1 / 3)
WIDER = 4
# Quotients that differ by more than this share of them are those of two slopes.
DISTINCT = 1e-2
# Rounding of F after a number of steps, in units of that of one operation.
ROUNDINGS = 1000


@dataclass(frozen=True)
class Probe:
    """Difference quotients of F along a direction, over ±h and ±4h, and over h on either side."""

    size: float
    value: float
    wide: float
    left: float
    right: float
    wide_gap: float
    noise: float

    @property
    def finite(self) -> bool:
        """Whether F is finite all around."""
        return math.isfinite(self.value) and math.isfinite(self.wide)

    @property
    def spread(self) -> float:
        """How much the quotients over ±h and ±4h differ, an estimate of the error of `value`."""
        return abs(self.value - self.wide)

    @property
    def steady(self) -> bool:
        """Whether the quotients over ±h and ±4h are of one slope."""
        return self.spread <= DISTINCT * max(abs(self.value), abs(self.wide)) + self.noise

    @property
    def kink(self) -> bool:
        """Whether the slopes on either side differ, and differ no less closer by, as those of a smooth F would."""
        gap = abs(self.right - self.left)
        return gap > DISTINCT * max(abs(self.left), abs(self.right)) + self.noise and self.wide_gap < 2 * gap


class Prober:
    """Probes of one problem in float64."""

    def __init__(self, problem: Problem, theta: Theta) -> None:
        self._problem = problem
        self._theta = theta
        self._middle = _value(problem)

    def __call__(self, index: int, direction: Tensor) -> Probe:
        """Probe F along a direction in one tensor of θ."""
        place = self._theta.tensors[index][direction != 0]
        h = STEP * max(1.0, float(place.abs().max()))
        far, behind, ahead, beyond = (
            _value(moved(self._problem, self._theta, index, k * h * direction)) for k in (-WIDER, -1, 1, WIDER)
        )
        middle, wide = self._middle, WIDER * h
        return Probe(
            size=h,
            value=(ahead - behind) / (2 * h),
            wide=(beyond - far) / (2 * wide),
            left=(middle - behind) / h,
            right=(ahead - middle) / h,
            wide_gap=abs(beyond - 2 * middle + far) / wide,
            noise=ROUNDINGS * EPS * max(map(abs, (far, behind, middle, ahead, beyond))) / h,
        )


def _value(problem: Problem) -> float:
    """Return F(w_T, θ), NaN where the inner objective is not finite on the way there."""
    try:
        return evaluate(problem)[1]
    except NumericalError:
        return math.nan
