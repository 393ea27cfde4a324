"""Edge probabilities on a given set of pairs, for graphs of any size and any message-passing backbone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from lds.errors import InputError
from lds.graph._candidate_graph import ActiveGraph, CandidateGraph, DrawnGraph
from lds.graph._candidate_index import CandidateIndex
from lds.graph._factors import FactorAccumulator, FactorPairs, check_step
from lds.graph._pairs import canonical_pairs, weighted_pairs
from lds.graph._sampled import GraphTracer

# Probabilities are counted in units so small, as integers: their sum is the same in any order.
_UNIT = 2.0**-32


class CandidateTracer(GraphTracer):
    """A candidate graph in one step of the sweep: the inputs are its products and its edge weights.

    Parts of the graph that the objective used are inputs too.
    """

    value: CandidateGraph

    def inputs(self) -> Sequence[Tensor | GradientEdge]:
        """Return the gradient edges of the products that Φ made, and the edge weights where it used them."""
        found: list[Tensor | GradientEdge] = []
        for part in self.value.parts():
            found += part.product_edges()
            if part.leaf is not None:
                found.append(part.leaf)
        return found


class _Part(GraphTracer):
    """One graph of a tracer."""

    def __init__(self, graph: CandidateGraph) -> None:
        self.value = graph


class CandidateGradient:
    """The gradient in the edge probabilities of candidate pairs.

    Args:
        index: the candidates.
        factors: factor pairs and degree terms on the whole graph; None stands for zero.
        weights: one number per candidate, shape [C]; None stands for zero.
        touched: places among the candidates, and the gradients to add there; a place may come more than once.
    """

    def __init__(
        self,
        index: CandidateIndex,
        factors: FactorPairs | None = None,
        weights: Tensor | None = None,
        touched: Sequence[tuple[Tensor, Tensor]] = (),
    ) -> None:
        self._index = index
        self.factors, self.weights = factors, weights
        self._touched = tuple(touched)

    def __add__(self, other: CandidateGradient) -> CandidateGradient:
        """Return the sum."""
        factors = _sum(self.factors, other.factors)
        return CandidateGradient(
            self._index, factors, _sum(self.weights, other.weights), self._touched + other._touched
        )

    def at(self, row: Tensor, col: Tensor) -> Tensor:
        """Return the gradient at the candidates row < col, of the shape of row."""
        places = self._index.places(row, col)
        found, values = self.entries()
        if found is None:
            return values[places]
        result = values.new_zeros(len(self._index))
        result[found] = values
        return result[places]

    def entries(self) -> tuple[Tensor | None, Tensor]:
        """Return the places of all candidates with a gradient, sorted, and the gradients; None are all places."""
        if self.factors is None and self.weights is None and self._touched:
            places, position = torch.unique(torch.cat([places for places, _ in self._touched]), return_inverse=True)
            values = torch.cat([values for _, values in self._touched])
            return places, values.new_zeros(places.shape).index_add_(0, position, values)
        total = None if self.factors is None else self.factors.at(self._index.row, self._index.col)
        total = _sum(total, self.weights)
        assert total is not None
        for places, values in self._touched:
            total = total.index_add(0, places, values)
        return None, total


def _sum(one: Any, other: Any) -> Any:
    return one if other is None else other if one is None else one + other


class CandidateAccumulator:
    """G_t of candidate pairs."""

    def __init__(self, index: CandidateIndex, like: Tensor) -> None:
        self._index, self._like = index, like
        self._factors: FactorAccumulator | None = None
        self._weights: Tensor | None = None
        self._touched: list[tuple[Tensor, Tensor]] = []

    def add(self, tracer: CandidateTracer, cotangents: Sequence[Tensor | None]) -> None:
        """Add the factor pairs and the weight gradients of one step."""
        remaining = iter(cotangents)
        for part in tracer.value.parts():
            products = list(islice(remaining, len(part.product_edges())))
            weights = None if part.leaf is None else next(remaining)
            if isinstance(part, ActiveGraph):
                self._add_active(part, products, weights)
            else:
                self._add_whole(part, products, weights)

    def value(self) -> CandidateGradient:
        """Return the sum so far."""
        factors = None if self._factors is None else self._factors.value()
        weights = None if self._weights is None else self._weights.clone()
        if factors is None and weights is None and not self._touched:
            weights = torch.zeros_like(self._like)
        return CandidateGradient(self._index, factors, weights, self._touched)

    def _add_whole(self, graph: CandidateGraph, products: Sequence[Tensor | None], weights: Tensor | None) -> None:
        if products:
            if self._factors is None:
                self._factors = FactorAccumulator(graph.num_nodes, self._like)
            self._factors.add(_Part(graph), products)
        if weights is not None:
            self._weights = weights if self._weights is None else self._weights + weights

    def _add_active(self, graph: ActiveGraph, products: Sequence[Tensor | None], weights: Tensor | None) -> None:
        """Add what a part of a graph gives; at once, for it has rows of its own."""
        sums = FactorAccumulator(graph.num_nodes, self._like)
        sums.add(_Part(graph), products)
        factors, touched = sums.value(), graph.touched
        listed = _sum(factors.at(*graph.candidates), weights)
        self._touched += map(self._own, [(touched.listed, listed), (touched.outside, factors.degree[touched.row])])

    def _own(self, touched: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return those of some places, with their gradients, whose probabilities lie here."""
        return touched


class CandidatePairs:
    r"""Edge probabilities θ on a given set of pairs: an outer variable of the engine.

    Like `AllPairs`, but memory and time are O(C) in the number of candidates C instead of O(N²), and a drawn graph also
    has `edge_index` and `edge_weight`, for any backbone that takes them.

    Args:
        num_nodes: number of nodes N ≥ 1.
        edge_index: edges that start with probability 1, int64 of shape [2, E].
        candidates: further pairs, which start with probability 0, int64 of shape [2, ·].
        probability: what the edges start with in place of 1, in [0, 1], of shape [E].
        dtype: type of θ.

    Raises:
        InputError: an index is out of range, or there is no candidate at all.

    Example:
        >>> import torch
        >>> from lds.graph import CandidatePairs
        >>> theta = CandidatePairs(3, torch.tensor([[0], [1]]), candidates=torch.tensor([[0], [2]]))
        >>> theta.edges(threshold=0.0)[0]
        tensor([[0],
                [1]])
        >>> theta.expected_edges
        1.0
    """

    def __init__(
        self,
        num_nodes: int,
        edge_index: Tensor,
        *,
        candidates: Tensor | None = None,
        probability: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        further = edge_index.new_empty(2, 0) if candidates is None else candidates.to(edge_index.device)
        self.num_nodes = num_nodes
        self._index = CandidateIndex(num_nodes, *canonical_pairs(torch.cat([edge_index, further], 1), num_nodes))
        if not len(self._index):
            raise InputError("a structure on candidate pairs needs at least one pair, got none; name some candidates")
        row, col, start = weighted_pairs(edge_index, num_nodes, probability, dtype)
        theta = torch.zeros(len(self._index), dtype=dtype, device=edge_index.device)
        theta[self._index.places(row, col)] = start
        self._set_theta(theta)

    def _set_theta(self, theta: Tensor) -> None:
        self._theta = theta
        self._units = _in_units(theta)

    @property
    def pairs(self) -> Tensor:
        """The candidates i < j, int64 of shape [2, C], in the order of `state`."""
        return torch.stack([self._index.row, self._index.col]).long()

    @property
    def expected_edges(self) -> float:
        """Sum of all probabilities, the expected number of undirected edges; each is rounded to 32 binary digits."""
        return self._units * _UNIT

    def draw(self) -> CandidateGraph:
        """Return a graph A ~ Bernoulli(θ), by a key drawn with torch's default generator.

        The graph is looked up where it is used, so a loss at a few nodes costs what lies around them; until then θ
        must stay as it is.
        """
        return DrawnGraph(self._index, self._theta)

    def trace(self, draw: CandidateGraph) -> CandidateTracer:
        """Return a tracer around a drawn graph."""
        return CandidateTracer(draw)

    def accumulator(self) -> CandidateAccumulator:
        """Return a zero accumulator."""
        return CandidateAccumulator(self._index, self._theta)

    def gram(self, gradients: Sequence[CandidateGradient]) -> Tensor:
        """Return the inner products of gradients, float64 of shape [n, n]."""
        entries = [gradient.entries() for gradient in gradients]
        size = len(self._index)
        if all(places is not None for places, _ in entries):  # Where none of them has a gradient, all are left out.
            every, found = torch.unique(torch.cat([places for places, _ in entries]), return_inverse=True)  # type: ignore[misc]
            parts = found.split([values.numel() for _, values in entries])
            entries, size = [(part, values) for part, (_, values) in zip(parts, entries, strict=True)], every.numel()
        rows = self._theta.new_zeros(len(entries), size, dtype=torch.float64)
        for row, (places, values) in zip(rows, entries, strict=True):
            row[slice(None) if places is None else places] = values.double()
        return rows @ rows.T

    def project_(self, gradient: CandidateGradient, lr: float) -> None:
        """Take the step θ ← clip_[0,1](θ − lr · gradient) in place.

        Raises:
            NumericalError: the gradient or the step is not finite; θ is left as it was.
        """
        places, step = gradient.entries()
        check_step(self._largest(step), lr, step.dtype)
        if places is None:
            self._theta.sub_(step, alpha=lr).clamp_(0, 1)
            self._units = _in_units(self._theta)
        else:
            before = self._theta[places]
            after = before.sub(step, alpha=lr).clamp_(0, 1)
            self._theta[places] = after
            self._units += _in_units(after) - _in_units(before)

    def _largest(self, step: Tensor) -> float:
        return float(torch.linalg.vector_norm(step, torch.inf)) if step.numel() else 0.0

    def edges(self, threshold: float = 0.0) -> tuple[Tensor, Tensor]:
        """Return the pairs i < j with θ_ij > threshold, int64 of shape [2, E], and their probabilities."""
        there = (self._theta > threshold).nonzero().flatten()
        return torch.stack([self._index.row[there], self._index.col[there]]).long(), self._theta[there]

    def state(self) -> Tensor:
        """Return a copy of θ, in the order of the candidates; `restore_` takes it back."""
        return self._theta.clone()

    def restore_(self, state: Tensor) -> None:
        """Set θ to what `state` returned."""
        self._theta.copy_(state)
        self._units = _in_units(self._theta)


def _in_units(theta: Tensor) -> int:
    """Return the sum of probabilities, each rounded to a multiple of `_UNIT`."""
    parts: Sequence[Tensor] = torch.split(theta, 1 << 20)
    # Added on their device: a reading waits for it.
    return int(torch.stack([(part.double() / _UNIT).round_().long().sum() for part in parts]).sum())
