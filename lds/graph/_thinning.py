"""Exact Bernoulli sampling of a long vector of mostly tiny probabilities, in time of what is drawn."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# Ratio of the bounds of the two thinned levels.
_RATIO = 16


class _Level(NamedTuple):
    """Entries with low < p ≤ high, drawn by thinning; `positions` is None where that is nearly all entries."""

    positions: Tensor | None
    low: float
    high: float


class ThinningSampler:
    r"""Independent Bernoulli(p_e) draws for all entries e of a flat vector, without touching all of them.

    Entries fall into levels by size. Those of the highest are drawn one by one. Those of a lower level, with p ≤ q, are
    the points of a Poisson process: Poisson(M λ_q) proposals, λ_q = −log(1−q), fall uniformly on its M entries, and a
    proposal on e is accepted with probability λ_{p_e}/λ_q. An entry then holds Poisson(λ_{p_e}) accepted points, at
    least one with probability exactly p_e, independently of the others. A draw takes O(Σ_levels M q), of the order of
    the number of edges drawn.

    Args:
        probabilities: flat vector with values in [0, 1]; read at every draw, not copied.
        bound: q of the lowest level, in (0, 1); a number that the type of the probabilities can hold.
        listed: positions of all entries above the bound, int64, sorted.
    """

    def __init__(self, probabilities: Tensor, bound: float, listed: Tensor) -> None:
        self._probabilities = probabilities
        p = probabilities[listed]
        second = min(_RATIO * bound, 0.5)
        large = p > second
        self._levels = [_Level(None, 0.0, bound), _Level(listed[~large], bound, second)]
        self._large, self._large_p = listed[large], p[large].double()

    def draw(self) -> Tensor:
        """Return the positions drawn, distinct, in no order; uses torch's default generator."""
        # Doubles: a single-precision uniform is a multiple of 2^-24, too coarse for tiny probabilities.
        mask = torch.rand(self._large_p.shape, dtype=torch.float64, device=self._large_p.device) < self._large_p
        return torch.cat([self._large[mask], *(self._thin(level) for level in self._levels)])

    def _thin(self, level: _Level) -> Tensor:
        entries = self._probabilities if level.positions is None else level.positions
        rate = -math.log1p(-level.high)
        count = int(torch.poisson(torch.tensor(entries.numel() * rate, dtype=torch.float64)))
        if not count:
            return entries.new_empty(0, dtype=torch.int64)
        proposals = torch.randint(entries.numel(), (count,), device=entries.device)
        if level.positions is not None:
            proposals = level.positions[proposals]
        p = self._probabilities[proposals].double()
        accept = torch.rand(count, dtype=torch.float64, device=p.device) * rate < -torch.log1p(-p)
        drawn: Tensor = torch.unique(proposals[accept & (p > level.low) & (p <= level.high)])
        return drawn


def positions_above(values: Tensor, bound: float) -> Tensor:
    """Return the flat positions of the values above a bound, sorted.

    numpy on the CPU: torch's comparison and nonzero take ten times as long.
    """
    if values.is_cpu:
        return torch.from_numpy(np.flatnonzero(values.numpy() > bound))
    return (values > bound).flatten().nonzero().flatten()
