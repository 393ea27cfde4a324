"""Exact Bernoulli sampling of a long vector of mostly tiny probabilities, in time of what is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# Larger probabilities are drawn one by one. A power of two, which every type holds.
CUT = 0.25
# Points of the Poisson process for each unit of probability: κ p ≥ λ_p = −log(1 − p) for p ≤ CUT, equal at CUT.
INTENSITY = -math.log1p(-CUT) / CUT
# Segments with an entry above CUT that are copied at once.
_ROWS = 1 << 16


class Sums(NamedTuple):
    """What the sampler needs to know of probabilities in segments, rows of a matrix [S, C].

    Attributes:
        small: sum of the entries ≤ CUT of each segment, shape [S].
        large: flat positions of all others, int64, sorted.
        chances: their values.
        total: sum of all entries.
    """

    small: Tensor
    large: Tensor
    chances: Tensor
    total: float


class Scan(NamedTuple):
    """What a look at segments, shape [S, C], finds without the host having to wait for it.

    Attributes:
        all: sum of each segment, shape [S].
        hot: whether an entry is > CUT, shape [S].
    """

    all: Tensor
    hot: Tensor


def scan(segments: Tensor) -> Scan:
    """Look at segments, shape [S, C]."""
    return Scan(segments.sum(1), segments.amax(1) > CUT)


def sums_of(segments: Tensor, scans: Sequence[Scan] = ()) -> Sums:
    """Return the sums of segments, shape [S, C].

    Args:
        segments: the probabilities.
        scans: what `scan` found in all of them, part by part, where that is known.
    """
    small, hot = (torch.cat(parts) for parts in zip(*(scans or [scan(segments)]), strict=True))
    length = segments.shape[1]
    large, chances = [], []
    for numbers in torch.split(members(hot), _ROWS):
        rows = segments.index_select(0, numbers)
        above = rows > CUT
        small[numbers] = up_to_cut(rows).sum(1)
        place = members(above.view(-1))
        row = place // length
        large.append(place + (numbers[row] - row) * length)
        chances.append(rows.view(-1)[place])
    values = torch.cat(chances)
    total = small.sum(dtype=torch.float64) + values.sum(dtype=torch.float64)
    return Sums(small, torch.cat(large), values, float(total))


def up_to_cut(p: Tensor) -> Tensor:
    """Return probabilities with zeros in place of those above CUT."""
    # A third of the time of a comparison, whose truth values are slow to make: −p > −t where p < t, the next number.
    above = CUT * (1 + torch.finfo(p.dtype).eps)
    return -torch.nn.functional.threshold(-p, -above, 0.0)


def members(mask: Tensor) -> Tensor:
    """Return where a mask of one dimension is true, sorted."""
    # numpy is several times as fast where few are.
    return torch.from_numpy(np.flatnonzero(mask.numpy())) if mask.is_cpu else mask.nonzero().flatten()


class Numbers(NamedTuple):
    """The random numbers of one draw.

    Attributes:
        one_by_one: uniform in [0, 1), one for each entry above CUT.
        where: where the points fall, along the sums of all segments.
        entry: uniform, which place them in their segments.
        accept: uniform, which accept or reject them.
    """

    one_by_one: Tensor
    where: Tensor
    entry: Tensor
    accept: Tensor


def draw_numbers(large: int, mean: float, device: torch.device) -> Numbers:
    """Return the numbers for so many entries above CUT and such a sum of all others, by torch's default generator."""
    # Doubles: a single-precision uniform is a multiple of 2^-24, too coarse for tiny probabilities.
    one_by_one = torch.rand(large, dtype=torch.float64, device=device)
    count = int(torch.poisson(torch.tensor(mean * INTENSITY, dtype=torch.float64)))
    where, entry, accept = torch.rand(3, count, dtype=torch.float64, device=device)
    return Numbers(one_by_one, where * mean, entry, accept)


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

    Attributes:
        num_large: number of entries above 1/4.
        mean: sum of the others.
    """

    def __init__(self, segments: Tensor, sums: Sums) -> None:
        self._segments = segments
        self._large = sums.large
        self._large_p = sums.chances.double()
        self._ends = sums.small.double().cumsum(0)
        self.num_large = sums.large.numel()
        self.mean = float(self._ends[-1])

    def draw(self) -> Tensor:
        """Return the flat positions drawn, distinct, in no order; uses torch's default generator."""
        return self.drawn(*draw_numbers(self.num_large, self.mean, self._segments.device))

    def drawn(self, one_by_one: Tensor, where: Tensor, entry: Tensor, accept: Tensor) -> Tensor:
        """Return the flat positions that are drawn by these numbers, see `Numbers`."""
        last = self._segments.shape[1] - 1
        # Rounding may lead past the end; what is there instead has its own probability, 0 perhaps.
        segment = torch.searchsorted(self._ends, where, right=True).clamp_(max=self._ends.numel() - 1)
        p = up_to_cut(self._segments.index_select(0, segment))
        ends = p.cumsum(1, dtype=torch.float64)
        place = torch.searchsorted(ends, entry[:, None] * ends[:, -1:], right=True).clamp_(max=last)
        p = p.gather(1, place).flatten().double()
        hit = accept * INTENSITY * p < -torch.log1p(-p)
        # Sorted, the same place lies side by side; what no point hits lies in front. One selection, for a device waits
        # in each.
        small = (segment * (last + 1) + place.flatten()).masked_fill_(~hit, -1).sort().values
        first = torch.diff(small, prepend=small.new_full((1,), -1)) > 0
        chosen = members(torch.cat([one_by_one < self._large_p, first]))
        return torch.cat([self._large, small]).index_select(0, chosen)
