"""What truncation costs in exactness: one sweep, every depth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import optree
import torch
from torch import Tensor

from lds._keywords import explained
from lds._random import forked
from lds._show import Shown
from lds._updater import Objective
from lds.errors import InputError, NumericalError
from lds.hypergrad._guards import Noise, check_noise
from lds.hypergrad._outer import SteadyVariable
from lds.hypergrad._record import Trajectory
from lds.hypergrad._reverse import UsualWatchers, check_finite, reverse


@dataclass(frozen=True, repr=False)
class TruncationCurve(Shown):
    r"""How close truncated hypergradients are to the full one; lists are by depth k = 0 … T.

    With G_{T-k} the hypergradient truncated at depth k, and G_0 the full one:

    Attributes:
        relative_error: :math:`\|G_{T-k} - G_0\| / \|G_0\|`.
        cosine: cosine of the angle between G_{T-k} and G_0; NaN where G_{T-k} is zero.
        costate_norm: :math:`\|P_{T-k}\|` over the whole state.

    Example:
        >>> import torch
        >>> from lds.hypergrad import record, truncation_curve
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> trajectory = record(problem[0], *problem[2:], updater=SGD(0.25), steps=9)
        >>> truncation_curve(trajectory, problem[1]).horizon(tol=0.05)
        5
    """

    relative_error: list[float]
    cosine: list[float]
    costate_norm: list[float]

    def horizon(self, tol: float = 0.05) -> int:
        """Return the least depth from which on the relative error stays at or below `tol`."""
        beyond = [k for k, error in enumerate(self.relative_error) if not error <= tol]
        return beyond[-1] + 1 if beyond else 0


@runtime_checkable
class HasGram(Protocol):
    """An outer variable that knows the inner products of its gradients."""

    def gram(self, gradients: Sequence[Any]) -> Tensor:
        """Return the inner products of all pairs of gradients, float64 of shape [n, n]."""
        ...


@explained
def truncation_curve(trajectory: Trajectory, outer_objective: Objective, *, noise: Noise = "replay") -> TruncationCurve:
    r"""Sweep once over a trajectory and compare the hypergradients of all truncation depths with the deepest.

    Let D_s be what step T − s adds to the hypergradient, and M the Gram matrix of these; then

    .. math:: \|G_{T-k} - G_0\|^2 = \sum_{r,s>k} M_{rs}, \qquad
        \langle G_{T-k}, G_0 \rangle = \sum_{r \le k} \sum_s M_{rs}

    so that no gradient but the increments is formed, and small errors keep their digits. Memory: one increment a
    step, T + 1 times the size of the outer variables (of a structure: thin factor pairs).

    Args:
        trajectory: what `record` returned with `horizon=None`; of another, the deepest hypergradient stands for the
            full one.
        outer_objective: F, (params, outer) -> scalar tensor.
        noise: as for `sweep`.

    Raises:
        InputError: an outer variable draws but has no `gram`; or as for `sweep`.
        NumericalError: the full hypergradient is zero; or as for `sweep`.
        ReplayError: as for `sweep`.

    Example:
        >>> import torch
        >>> from lds.hypergrad import record, truncation_curve
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> trajectory = record(problem[0], *problem[2:], updater=SGD(0.25), steps=9)
        >>> truncation_curve(trajectory, problem[1]).horizon(tol=0.05)
        5
    """
    check_noise(noise)
    outer = trajectory.dynamics.outer
    watch = UsualWatchers(trajectory, noise=noise, check_replay=True, to_start=True)
    with forked(trajectory.dynamics.cuda):
        sweep = reverse(trajectory, outer_objective, watch, noise=noise)
        increments = [sums.take() for _, _, sums in sweep]
        check_finite(trajectory, outer_objective, watch.notes, noise=noise, to_start=True)
    gram = torch.zeros((len(increments), len(increments)), dtype=torch.float64)
    for path, variable, values in zip(outer.paths, outer.variables, zip(*increments, strict=True), strict=True):
        if isinstance(variable, SteadyVariable):
            rows = torch.stack([torch.cat([_real(x) for x in optree.tree_leaves(v)]) for v in values]).double()
            gram += (rows @ rows.T).cpu()
        elif isinstance(variable, HasGram):
            gram += variable.gram(values).cpu()
        else:
            raise InputError(
                f"{path} must have a method gram(gradients) that returns their inner products, but "
                f"{type(variable).__name__} has none; add it, or leave that variable out"
            )
    return _curve(gram, watch.notes.costates.totals())


def _real(x: Tensor) -> Tensor:
    """Return the entries in a row, a complex one as two."""
    return torch.view_as_real(x.resolve_conj()).flatten() if x.is_complex() else x.flatten()


def _curve(gram: Tensor, costate_norm: list[float]) -> TruncationCurve:
    total = float(gram.sum())
    if not (math.isfinite(total) and total > 0):
        raise NumericalError(
            f"the full hypergradient must be finite and not zero to compare with, but its squared norm is {total}; "
            "look at the objectives, or shorten the trajectory"
        )
    # tails[k] = Σ_{r,s≥k} M_rs, heads[k] = Σ_{r,s≤k} M_rs; rounding must not make a square negative.
    tails = gram.flip(0, 1).cumsum(0).cumsum(1).diagonal().flip(0).clamp(min=0)
    heads = gram.cumsum(0).cumsum(1).diagonal().clamp(min=0)
    errors = torch.cat([tails[1:], tails.new_zeros(1)]).div(total).sqrt()
    cosines = gram.sum(1).cumsum(0) / (heads * total).sqrt()
    return TruncationCurve(errors.tolist(), cosines.tolist(), costate_norm)
