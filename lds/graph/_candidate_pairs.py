"""Edge probabilities on a given set of pairs, for graphs of any size and any message-passing backbone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from lds.errors import InputError
from lds.graph._factors import FactorAccumulator, FactorPairs, check_step
from lds.graph._pairs import canonical_pairs, weighted_pairs
from lds.graph._sampled import GraphTracer, SampledGraph


class CandidateGraph(SampledGraph):
    """A graph drawn from candidate pairs: usable through products, or as `edge_index` with `edge_weight`.

    The edge index lists every candidate, the weights say which were drawn (1) and which were not (0): the
    straight-through gradient of a candidate that was not drawn is a gradient in its weight too.

    Args:
        num_nodes: number of nodes N.
        row: one end of every candidate, int64 of shape [C].
        col: the other end.
        drawn: 0 or 1 for every candidate, floating point of shape [C].
    """

    def __init__(self, num_nodes: int, row: Tensor, col: Tensor, drawn: Tensor) -> None:
        there = drawn.nonzero().flatten()
        super().__init__(num_nodes, row[there], col[there], drawn[there])
        self._candidates = row, col
        self.drawn = drawn

    @cached_property
    def edge_index(self) -> Tensor:
        """All candidates in both directions, int64 of shape [2, 2C]."""
        row, col = self._candidates
        return torch.stack([torch.cat([row, col]), torch.cat([col, row])])

    @property
    def edge_weight(self) -> Tensor:
        """Weights of the edges in `edge_index`, shape [2C]."""
        return self.drawn.repeat(2)

    def traced(self) -> CandidateGraph:
        """Return this graph with an empty record of products, and weights that autograd follows."""
        graph: CandidateGraph = super().traced()  # type: ignore[assignment]
        graph.drawn = self.drawn.detach().requires_grad_()
        return graph


class CandidateTracer(GraphTracer):
    """A candidate graph in one step of the sweep: the inputs are its products and its edge weights."""

    value: CandidateGraph

    def inputs(self) -> Sequence[Tensor | GradientEdge]:
        """Return the gradient edges of the products that Φ made, and the edge weights."""
        return [*super().inputs(), self.value.drawn]


class CandidateGradient:
    """The gradient in the edge probabilities of candidate pairs: factor pairs, and one number per candidate."""

    def __init__(self, factors: FactorPairs, weights: Tensor) -> None:
        self.factors = factors
        self.weights = weights

    def __add__(self, other: CandidateGradient) -> CandidateGradient:
        """Return the sum."""
        return CandidateGradient(self.factors + other.factors, self.weights + other.weights)

    def at(self, row: Tensor, col: Tensor) -> Tensor:
        """Return the gradient at the candidates, shape [C]."""
        return self.factors.at(row, col) + self.weights


class CandidateAccumulator:
    """G_t of candidate pairs."""

    def __init__(self, num_nodes: int, like: Tensor) -> None:
        self._factors = FactorAccumulator(num_nodes, like)
        self._weights = torch.zeros_like(like)

    def add(self, tracer: CandidateTracer, cotangents: Sequence[Tensor | None]) -> None:
        """Add the factor pairs and the weight gradients of one step."""
        *products, weights = cotangents
        self._factors.add(tracer, products)
        if weights is not None:
            self._weights += weights

    def value(self) -> CandidateGradient:
        """Return the sum so far."""
        return CandidateGradient(self._factors.value(), self._weights.clone())


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
        self._row, self._col = canonical_pairs(torch.cat([edge_index, further], 1), num_nodes)
        if not self._row.numel():
            raise InputError("a structure on candidate pairs needs at least one pair, got none; name some candidates")
        row, col, start = weighted_pairs(edge_index, num_nodes, probability, dtype)
        places = torch.searchsorted(self._row * num_nodes + self._col, row * num_nodes + col)
        self._theta = torch.zeros(self._row.shape, dtype=dtype, device=edge_index.device)
        self._theta[places] = start

    @property
    def pairs(self) -> Tensor:
        """The candidates i < j, int64 of shape [2, C], in the order of `state`."""
        return torch.stack([self._row, self._col])

    @property
    def expected_edges(self) -> float:
        """Sum of all probabilities, the expected number of undirected edges."""
        return float(self._theta.sum(dtype=torch.float64))

    def draw(self) -> CandidateGraph:
        """Return a graph A ~ Bernoulli(θ), drawn with torch's default generator."""
        drawn = torch.rand(self._theta.shape, dtype=torch.float64, device=self._theta.device) < self._theta
        return CandidateGraph(self.num_nodes, self._row, self._col, drawn.to(self._theta.dtype))

    def trace(self, draw: CandidateGraph) -> CandidateTracer:
        """Return a tracer around a drawn graph."""
        return CandidateTracer(draw)

    def accumulator(self) -> CandidateAccumulator:
        """Return a zero accumulator."""
        return CandidateAccumulator(self.num_nodes, self._theta)

    def gram(self, gradients: Sequence[CandidateGradient]) -> Tensor:
        """Return the inner products of gradients, float64 of shape [n, n]."""
        rows = torch.stack([gradient.at(self._row, self._col) for gradient in gradients]).double()
        return rows @ rows.T

    def project_(self, gradient: CandidateGradient, lr: float) -> None:
        """Take the step θ ← clip_[0,1](θ − lr · gradient) in place.

        Raises:
            NumericalError: the gradient or the step is not finite; θ is left as it was.
        """
        step = gradient.at(self._row, self._col)
        check_step(float(torch.linalg.vector_norm(step, torch.inf)), lr, step.dtype)
        self._theta.sub_(step, alpha=lr).clamp_(0, 1)

    def edges(self, threshold: float = 0.0) -> tuple[Tensor, Tensor]:
        """Return the pairs i < j with θ_ij > threshold, int64 of shape [2, E], and their probabilities."""
        there = (self._theta > threshold).nonzero().flatten()
        return torch.stack([self._row[there], self._col[there]]), self._theta[there]

    def state(self) -> Tensor:
        """Return a copy of θ, in the order of the candidates; `restore_` takes it back."""
        return self._theta.clone()

    def restore_(self, state: Tensor) -> None:
        """Set θ to what `state` returned."""
        self._theta.copy_(state)
