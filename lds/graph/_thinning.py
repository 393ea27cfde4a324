"""Exact Bernoulli sampling of a long vector of mostly tiny probabilities, in time of what is drawn."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

# Larger probabilities are drawn one by one. A power of two, which every type holds.
CUT = 0.25
# Points of the Poisson process for each unit of probability: κ p ≥ λ_p = −log(1 − p) for p ≤ CUT, equal at CUT.
INTENSITY = -math.log1p(-CUT) / CUT


class Sums(NamedTuple):
    """What the sampler needs to know of probabilities in segments, rows of a matrix [S, C].

    Attributes:
        small: sum of the entries ≤ CUT of each segment, shape [S].
        large: flat positions of all others, int64, sorted.
        total: sum of all entries.
    """

    small: Tensor
    large: Tensor
    total: float


def sums_of(segments: Tensor) -> Sums:
    """Return the sums of segments, shape [S, C]."""
    small = segments.sum(1)
    hot = (segments.amax(1) > CUT).nonzero().flatten()
    rows = segments[hot]
    above = rows > CUT
    row, col = above.nonzero(as_tuple=True)
    small[hot] = rows.masked_fill(above, 0).sum(1)
    large = rows[row, col].sum(dtype=torch.float64)
    return Sums(small, hot[row] * segments.shape[1] + col, float(small.sum(dtype=torch.float64) + large))


class ThinningSampler:
    r"""Independent Bernoulli(p_e) draws for all entries e of a matrix, without touching all of them.

    Entries above 1/4 are drawn one by one. The others are hit by the points of a Poisson process of intensity κ p_e,
    κ p ≥ λ_p = −log(1−p): a point falls on a segment in proportion to its sum, and in it on an entry in proportion to
    p_e, and is accepted with probability λ_p/(κ p). An entry then holds Poisson(λ_p) accepted points, at least one
    with probability exactly p, independently of the others. A draw takes O(Σ p) points, of which 13 % at most are
    rejected.

    Args:
        segments: probabilities in [0, 1], shape [S, C]; read at every draw, not copied.
        sums: their sums.
    """

    def __init__(self, segments: Tensor, sums: Sums) -> None:
        self._segments = segments
        self._large = sums.large
        self._large_p = segments[sums.large // segments.shape[1], sums.large % segments.shape[1]].double()
        self._ends = sums.small.double().cumsum(0)
        self._mean = float(self._ends[-1])

    def draw(self) -> Tensor:
        """Return the flat positions drawn, distinct, in no order; uses torch's default generator."""
        device = self._segments.device
        # Doubles: a single-precision uniform is a multiple of 2^-24, too coarse for tiny probabilities.
        mask = torch.rand(self._large_p.shape, dtype=torch.float64, device=device) < self._large_p
        return torch.cat([self._large[mask], self._thin()])

    def _thin(self) -> Tensor:
        count = int(torch.poisson(torch.tensor(self._mean * INTENSITY, dtype=torch.float64)))
        where, entry, accept = torch.rand(3, count, dtype=torch.float64, device=self._segments.device)
        last = self._segments.shape[1] - 1
        # Rounding may lead past the end; what is there instead has its own probability, 0 perhaps.
        segment = torch.searchsorted(self._ends, where * self._mean, right=True).clamp_(max=self._ends.numel() - 1)
        p = self._segments[segment]
        p = p.masked_fill_(p > CUT, 0).double()
        ends = p.cumsum(1)
        place = (ends <= entry[:, None] * ends[:, -1:]).sum(1, keepdim=True).clamp_(max=last)
        p = p.gather(1, place).flatten()
        hit = accept * INTENSITY * p < -torch.log1p(-p)
        drawn: Tensor = torch.unique((segment * (last + 1) + place.flatten())[hit])
        return drawn
