"""Structure gradients as thin factor pairs: never an N×N matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lds._show import Shown
from lds.errors import NumericalError
from lds.graph._sampled import GraphTracer

# Two groups of rows are merged when the union is at most this much larger than the larger one: one product with a few
# more rows is cheaper than two.
_MERGE = 1.25
# Above this share of all rows, leaving out the zero ones costs more than it saves.
_DENSE = 0.5


@dataclass(frozen=True)
class RowGroup:
    """Factor pairs whose thin sides have the same non-zero rows.

    Attributes:
        rows: sorted indices of those rows, int64 of shape [R].
        thin: their values, shape [R, c].
        full: the other sides, shape [N, c].
    """

    rows: Tensor
    thin: Tensor
    full: Tensor


@dataclass(frozen=True, repr=False)
class FactorPairs(Shown):
    r"""The gradient of a scalar in the edge probabilities of a graph, from products alone.

    A scalar that depends on A only through Y_k = A M_k and through the degrees d has

    .. math:: G = \sum_k \frac{\partial f}{\partial Y_k} M_k^\top + q 1^\top, \quad q = \frac{\partial f}{\partial d},
        \qquad \frac{\partial f}{\partial \theta_{ij}} = G_{ij} + G_{ji} \quad (i < j)

    Attributes:
        pairs: the (U_k, V_k), each side of shape [N, r_k].
        degree: q, shape [N].

    Example:
        >>> import torch
        >>> from lds.graph import FactorPairs
        >>> u, v = torch.tensor([[1.0], [0.0]]), torch.tensor([[2.0], [3.0]])
        >>> gradient = FactorPairs(((u, v),), torch.zeros(2))  # U Vᵀ, never formed
    """

    pairs: tuple[tuple[Tensor, Tensor], ...]
    degree: Tensor

    def __add__(self, other: FactorPairs) -> FactorPairs:
        """Return the sum: the pairs of both."""
        return FactorPairs(self.pairs + other.pairs, self.degree + other.degree)

    @staticmethod
    def gram(gradients: Sequence[FactorPairs]) -> Tensor:
        r"""Return the inner products over all pairs i < j, from inner products of factors; float64 of shape [n, n].

        .. math:: \sum_{i<j} S_{ij} S'_{ij} = \langle G, G' + G'^\top \rangle - \tfrac12 \sum_i S_{ii} S'_{ii},
            \quad S = G + G^\top, \quad
            \langle U V^\top, U' V'^\top \rangle = \sum (U^\top U') \odot (V^\top V')
        """
        sides, owner, diagonals = [], [], []
        for index, gradient in enumerate(gradients):
            ones = torch.ones_like(gradient.degree)
            pairs = [*gradient.pairs, (gradient.degree[:, None], ones[:, None])]
            left, right = (torch.cat(side, 1).double() for side in zip(*pairs, strict=True))
            sides.append((left, right))
            owner.append(torch.full((left.shape[1],), index, device=left.device))
            diagonals.append(2 * (left * right).sum(1))
        u, v = (torch.cat(side, 1) for side in zip(*sides, strict=True))
        cross = u.T @ v
        # For columns r and s: ⟨u_r v_rᵀ, u_s v_sᵀ⟩ + ⟨u_r v_rᵀ, v_s u_sᵀ⟩.
        products = (u.T @ u).mul_(v.T @ v).add_(cross * cross.T)
        places = torch.cat(owner)
        rows = products.new_zeros(len(gradients), places.numel()).index_add_(0, places, products)
        total = products.new_zeros(len(gradients), len(gradients)).index_add_(1, places, rows)
        diagonal = torch.stack(diagonals)
        return total - 0.5 * diagonal @ diagonal.T

    def to_dense(self) -> Tensor:
        """Return the symmetric matrix of the ∂f/∂θ_ij with a zero diagonal, shape [N, N]; for small graphs."""
        g = self.degree[:, None].repeat(1, self.degree.numel())
        for left, right in self.pairs:
            g.addmm_(left, right.T)
        return (g + g.T).fill_diagonal_(0)

    def at(self, row: Tensor, col: Tensor) -> Tensor:
        """Return ∂f/∂θ_ij at the pairs (row, col), shape like row; pairs that no thin side touches cost nothing."""
        groups, left, right, _ = self.groups()
        result = _row_dots(left, row, right, col)
        for group in groups:
            place = torch.full((self.degree.numel(),), -1, dtype=torch.int64, device=row.device)
            place[group.rows] = torch.arange(group.rows.numel(), device=row.device)
            for here, there in ((row, col), (col, row)):
                inside = place[here]
                touched = (inside >= 0).nonzero().flatten()
                result[touched] += _row_dots(group.thin, inside[touched], group.full, there[touched])
        return result

    def groups(self) -> tuple[list[RowGroup], Tensor, Tensor, float]:
        """Return the factor pairs grouped by their non-zero rows, two dense sides L, R for all others, and a bound.

        The gradient at i < j is (L Rᵀ)_ij plus, for every group, (T Fᵀ + F Tᵀ)_ij with T its thin side; neither it nor
        a part of these sums is larger than the bound.

        Raises:
            NumericalError: a factor holds NaN or infinity.
        """
        ones = torch.ones_like(self.degree)
        dense = [(self.degree[:, None], ones[:, None]), (ones[:, None], self.degree[:, None])]
        sizes = torch.stack([self.degree.abs(), *(side.abs().sum(1) for pair in self.pairs for side in pair)])
        masks = sizes != 0
        # All figures are read at once, then all masks that are needed: a device waits for every reading.
        (largest, *read), (_, *nonzero) = torch.stack([sizes.amax(1).double(), masks.sum(1).double()]).tolist()
        bound = 2 * largest
        thin: list[tuple[int, Tensor, Tensor, Tensor]] = []
        for place, (left, right) in enumerate(self.pairs):
            first, second = 2 * place, 2 * place + 1
            # |(U Vᵀ)_ij| is at most the sum of |U_i·| times that of |V_j·|; NaN if a side holds one.
            bound += 2 * read[first] * read[second]
            counts = [nonzero[first], nonzero[second]]
            if min(counts) > _DENSE * left.shape[0]:
                dense += [(left, right), (right, left)]
            elif counts[0] <= counts[1]:
                thin.append((int(counts[0]), masks[1 + first], left, right))
            else:
                thin.append((int(counts[1]), masks[1 + second], right, left))
        if not math.isfinite(bound):
            raise not_finite()
        groups = _grouped(sorted((item for item in thin if item[0]), key=lambda item: item[0]))
        sides = [torch.cat(side, 1) for side in zip(*dense, strict=True)]
        return groups, sides[0], sides[1], bound


def _grouped(thin: Sequence[tuple[int, Tensor, Tensor, Tensor]]) -> list[RowGroup]:
    """Return (number of rows, their mask, thin side, other side) in groups; by their number of rows, ascending."""
    if not thin:
        return []
    masks = torch.stack([mask for _, mask, _, _ in thin]).cpu().numpy()
    merged: list[tuple[Any, list[Tensor], list[Tensor]]] = []
    for (count, _, side, other), mask in zip(thin, masks, strict=True):
        union = merged[-1][0] | mask if merged else mask
        if merged and np.count_nonzero(union) <= _MERGE * count:
            merged[-1] = (union, [*merged[-1][1], side], [*merged[-1][2], other])
        else:
            merged.append((mask, [side], [other]))
    groups = []
    for mask, sides, others in merged:
        rows = torch.from_numpy(np.flatnonzero(mask)).to(sides[0].device, non_blocking=True)
        groups.append(RowGroup(rows, torch.cat([side[rows] for side in sides], 1), torch.cat(others, 1)))
    return groups


def check_step(largest: float, lr: float, dtype: torch.dtype) -> None:
    """Check, before θ changes, that a step of size lr along a gradient of such entries at most can be computed.

    Raises:
        NumericalError: it overflows the type of θ.
    """
    limit = torch.finfo(dtype).max / 2  # Sums are rounded.
    if not (abs(lr) <= limit and max(abs(lr), 1) * largest <= limit):
        raise NumericalError(
            f"a step of θ must be finite in {dtype}, but the outer learning rate is {lr:.3g} and the hypergradient up "
            f"to {largest:.3g}, so θ is left as it was; lower the outer learning rate"
        )


def not_finite() -> NumericalError:
    """Return what to raise where a gradient holds NaN or infinity."""
    return NumericalError(
        "the hypergradient of the structure holds NaN or infinity, so θ is left as it was; look at the features and "
        "the losses, or lower the learning rates"
    )


def _row_dots(a: Tensor, i: Tensor, b: Tensor, j: Tensor) -> Tensor:
    """Return Σ_r a[i, r] b[j, r], in chunks that bound the memory of the gathered rows."""
    parts = zip(torch.split(i, 1 << 16), torch.split(j, 1 << 16), strict=True)
    return torch.cat([(a[k] * b[m]).sum(1) for k, m in parts])


class FactorAccumulator:
    """G_t of a structure, as a list of factor pairs."""

    def __init__(self, num_nodes: int, like: Tensor) -> None:
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._degree = like.new_zeros(num_nodes)

    def add(self, tracer: GraphTracer, cotangents: Sequence[Tensor | None]) -> None:
        r"""Add the factor pairs of one step.

        With s = d^{-1/2}, a product with Â contributes the pair (s ⊙ U, s ⊙ V) to A, and to the degrees

        .. math:: q_i = -\tfrac{1}{2 d_i} \sum_j \hat A_{ij} (U V^\top + V U^\top)_{ij}
            = -\tfrac{1}{2 d_i} \sum_r (U \odot \hat A V + V \odot \hat A U)_{ir}.
        """
        graph = tracer.value
        products = [(y, u) for y, u in zip(graph.take_products(), cotangents, strict=True) if u is not None]
        # The degrees are the product of A with ones, but that is no pair: one column for all steps is enough.
        for u in (u for y, u in products if y.operand.ndim == 1):
            self._degree += u
        self._pairs += [(u, y.operand) for y, u in products if not y.normalised and y.operand.ndim == 2]
        normalised = [(y, u) for y, u in products if y.normalised]
        if not normalised:
            return
        sums = torch.zeros_like(self._degree)
        scale = graph.scale[:, None]
        for y, u in normalised:
            # The sweep has multiplied the cotangent with Â already where its way led on to the operand.
            propagated = y.propagated(u)
            if propagated is None:
                propagated = graph.normalised @ u
            sums += (u * y.result).addcmul_(y.operand, propagated).sum(1)
            self._pairs.append((scale * u, scale * y.operand))
        self._degree -= sums / (2 * graph.degree)

    def value(self) -> FactorPairs:
        """Return the factor pairs gathered so far."""
        return FactorPairs(tuple(self._pairs), self._degree.clone())
