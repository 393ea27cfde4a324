"""Exact Bernoulli sampling of a long vector of mostly tiny probabilities, in time of what is drawn."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class ThinningSampler:
    r"""Independent Bernoulli(p_e) draws for all entries e of a flat vector, without touching all of them.

    Entries above a bound q are kept in a list and drawn one by one. The others are the points of a Poisson process:
    Poisson(M λ_q) proposals, λ_q = −log(1−q), fall uniformly on the M entries, and a proposal on e is accepted with
    probability λ_{p_e}/λ_q. An entry then holds Poisson(λ_{p_e}) accepted points, at least one with probability
    exactly p_e, independently of the others.

    Args:
        probabilities: flat vector of shape [M] with values in [0, 1]; read at every draw, not copied.
        bound: q in (0, 1).
        listed: positions of all entries above q, int64, sorted.
    """

    def __init__(self, probabilities: Tensor, bound: float, listed: Tensor) -> None:
        self._probabilities = probabilities
        self._bound = bound
        self._listed = listed
        self._listed_p = probabilities[listed].double()

    def draw(self) -> Tensor:
        """Return the positions drawn, distinct, in no order; uses torch's default generator."""
        # Doubles: a single-precision uniform is a multiple of 2^-24, too coarse for tiny probabilities.
        device = self._probabilities.device
        mask = torch.rand(self._listed_p.shape, dtype=torch.float64, device=device) < self._listed_p
        rate = -np.log1p(-self._bound)
        total = self._probabilities.numel() * rate
        count = int(torch.poisson(torch.tensor(total, dtype=torch.float64)))
        proposals = torch.randint(self._probabilities.numel(), (count,), device=device)
        p = self._probabilities[proposals].double()
        accept = torch.rand(count, dtype=torch.float64, device=device) * rate < -torch.log1p(-p)
        return torch.cat([self._listed[mask], torch.unique(proposals[accept & (p <= self._bound)])])


def positions_above(values: Tensor, bound: float) -> Tensor:
    """Return the flat positions of the values above a bound, sorted.

    numpy on the CPU: torch's comparison and nonzero take ten times as long.
    """
    if values.is_cpu:
        return torch.from_numpy(np.flatnonzero(values.numpy() > bound))
    return (values > bound).flatten().nonzero().flatten()
