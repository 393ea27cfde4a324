"""Graphs drawn from a structure: what a structure is asked for, and the record of a graph's products for the sweep."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from copy import copy
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from lds._compat import OwnedEdge, owned_edge
from lds._sparse import csr_tensor, multiply
from lds.errors import InputError
from lds.hypergrad import Accumulator


class Product(NamedTuple):
    """One product Y = S M that was made with a graph, S = A or Â: M, Y, and Y's place in the graph of autograd."""

    edge: OwnedEdge
    operand: Tensor
    result: Tensor
    versions: tuple[int, int]
    normalised: bool
    backward: _Backward | None = None

    def propagated(self, cotangent: Tensor) -> Tensor | None:
        """Return S U for the cotangent U of Y, if the sweep has computed that on its way to M; else None."""
        if self.backward is None or not _same(self.backward.cotangent, cotangent):
            return None
        return self.backward.result


class NotedProduct(NamedTuple):
    """A product Â M that a formula took by itself: its cotangent U, M, Â M over a number, Â U, and that number."""

    cotangent: Tensor
    operand: Tensor
    result: Tensor
    back: Tensor
    share: float = 1.0


class _Backward:
    """The product of a cotangent that the last backward pass without a graph, that of a sweep, made."""

    def __init__(self, transpose: Callable[[Tensor], Tensor]) -> None:
        self._transpose = transpose
        self.cotangent: Tensor | None = None
        self.result: Tensor | None = None

    def __call__(self, cotangent: Tensor) -> Tensor:
        result = self._transpose(cotangent)
        if not torch.is_grad_enabled():
            self.cotangent, self.result = cotangent, result
        return result


def _dropped(p: float) -> int:
    """Return how many of 2^16 numbers are dropped."""
    return min(round(p * 2**16), 2**16 - 1)


def _same(a: Tensor | None, b: Tensor) -> bool:
    """Tell whether two tensors hold the same numbers: other passes than the sweep's may have gone back over a product.

    Compared by value, which takes a small part of the time of a product.
    """
    return a is not None and a.dtype == b.dtype and torch.equal(a, b)


class _Record(list[Product]):
    """The products that were made with a graph; a list, but one that can be referred to weakly."""


class SampledGraph:
    r"""An undirected graph without self loops that a model uses through products only.

    .. math:: \hat A = \tilde D^{-1/2} (A + I) \tilde D^{-1/2}, \qquad \tilde D = \mathrm{diag}(A 1 + 1)

    Args:
        num_nodes: number of nodes N.
        row: one end i of every edge {i, j}, int64 of shape [E]; each edge appears once.
        col: the other end j.
        weight: edge weights, floating point of shape [E].

    Example:
        >>> import torch
        >>> from lds.graph import SampledGraph
        >>> graph = SampledGraph(3, torch.tensor([0]), torch.tensor([1]), torch.ones(1))
        >>> graph.matmul(torch.tensor([[1.0], [2.0], [3.0]]))
        tensor([[2.],
                [1.],
                [0.]])
    """

    def __init__(self, num_nodes: int, row: Tensor, col: Tensor, weight: Tensor) -> None:
        self.num_nodes = num_nodes
        self.row, self.col, self.weight = row, col, weight
        # Who keeps the record, and who adds to it: see `in_autograd`.
        self._kept: _Record | None = None
        self._record: weakref.ref[_Record] | None = None

    @property
    def num_edges(self) -> int:
        """Number of undirected edges E."""
        return self.row.numel()

    @cached_property
    def degree(self) -> Tensor:
        """Row sums of A + I, shape [N]; constant, for the gradient of degrees goes through `matmul` or `propagate`."""
        degree = self.weight.new_ones(self.num_nodes)
        return degree.index_add_(0, self.row, self.weight).index_add_(0, self.col, self.weight)

    @cached_property
    def scale(self) -> Tensor:
        """Diagonal of D̃^{-1/2}, shape [N]."""
        return self.degree.rsqrt()

    @cached_property
    def adjacency(self) -> Tensor:
        """A as a sparse CSR tensor."""
        row, col = torch.cat([self.row, self.col]), torch.cat([self.col, self.row])
        return csr_tensor(row, col, self.weight.repeat(2), (self.num_nodes, self.num_nodes))

    @cached_property
    def normalised(self) -> Tensor:
        """Â as a sparse CSR tensor."""
        nodes = torch.arange(self.num_nodes, device=self.row.device)
        values = self.weight * self.scale.index_select(0, self.row) * self.scale.index_select(0, self.col)
        return csr_tensor(
            torch.cat([self.row, self.col, nodes]),
            torch.cat([self.col, self.row, nodes]),
            torch.cat([values, values, self.degree.reciprocal()]),
            (self.num_nodes, self.num_nodes),
        )

    def matmul(self, m: Tensor) -> Tensor:
        """Return A M for M of shape [N, r]."""
        return self._multiply(self.adjacency, m, normalised=False)

    def propagate(self, m: Tensor) -> Tensor:
        """Return Â M for M of shape [N, r], the propagation of a GCN."""
        return self._multiply(self.normalised, m, normalised=True)

    def dropout_mask(self, like: Tensor, p: float) -> Tensor:
        """Return zeros with probability p and 1 / (1 − p) elsewhere, like a tensor with a row for each node.

        From 16 random bits an entry: p counts as the nearest multiple of 2⁻¹⁶.
        """
        dropped = _dropped(p)
        count = like.numel()
        numbers = torch.empty((count + 3) // 4, dtype=torch.int64, device=like.device).random_(-(2**63), None)
        # Back in the type of the mask before the comparison, which makes numbers of truth values slowly.
        bits = numbers.view(torch.int16)[:count].view(like.shape).to(torch.promote_types(like.dtype, torch.float32))
        return bits.ge_(dropped - 2**15).mul_(2**16 / (2**16 - dropped)).to(like.dtype)

    def dropout_scale(self, p: float) -> float:
        """Return what a dropout mask has where it is not zero."""
        return 2**16 / (2**16 - _dropped(p))

    def traced(self) -> SampledGraph:
        """Return this graph with an empty record of products, to which every product adds itself."""
        graph = copy(self)
        graph._start_record()
        return graph

    def take_products(self) -> list[Product]:
        """Return the record of products and clear it.

        Raises:
            InputError: an operand or a result was changed in place after the product.
        """
        products = self._kept
        assert products is not None
        self._start_record()
        for product in products:
            if (product.operand._version, product.result._version) != product.versions:
                raise InputError(
                    "the operand and the result of a graph product must not be changed in place, but one was; "
                    "use the out-of-place operation, e.g. x.relu() for x.relu_()"
                )
        return products

    def product_edges(self) -> Sequence[GradientEdge]:
        """Return the gradient edges of all products so far, the inputs of the vector-Jacobian product."""
        return [product.edge.edge for product in self._kept or ()]

    @property
    def _open_record(self) -> _Record | None:
        """The record, where products add to it: not those of the sweep, which runs without gradients."""
        return None if self._record is None or not torch.is_grad_enabled() else self._record()

    def note(self, operands: Sequence[Tensor]) -> list[Tensor]:
        """Note products Â M that a formula takes by itself: return a probe for each M, and one for all degrees.

        For an operation of autograd that has the graph's products inside: it takes the probes as further inputs, and
        its backward gives them the cotangents that `noted` returns. Nothing is noted, and no probe returned, but in a
        step that the sweep follows.
        """
        record = self._open_record
        if record is None:
            return []
        scale = self.scale[:, None]
        probes = []
        for operand in (*(scale * m for m in operands), self.scale):  # Of a vector, see `FactorAccumulator.add`.
            probe = operand.detach().requires_grad_()
            version = operand._version
            record.append(Product(owned_edge(probe), operand, operand, (version, version), normalised=False))
            probes.append(probe)
        return probes

    def noted(self, products: Sequence[NotedProduct]) -> list[Tensor]:
        r"""Return the cotangents of the probes of noted products.

        U is the cotangent of Â M. With s = d^{-1/2}, that of A has the pair (s ⊙ U, s ⊙ M), and that of the degrees is

        .. math:: q_i = -\tfrac{1}{2 d_i} \sum_r (U \odot \hat A M + M \odot \hat A U)_{ir}.
        """
        sums: dict[int, Tensor] = {}  # By width, as a sum over columns takes as long as all else.
        for u, m, result, back, share in products:
            total = sums.get(u.shape[1])
            sums[u.shape[1]] = (m * back if total is None else total.addcmul_(m, back)).addcmul_(u, result, value=share)
        degrees = torch.stack([total.sum(1) for total in sums.values()]).sum(0).div_(-2 * self.degree)
        scale = self.scale[:, None]
        return [*(scale * product.cotangent for product in products), degrees]

    def _start_record(self) -> None:
        self._kept = _Record()
        self._record = weakref.ref(self._kept)

    def in_autograd(self) -> SampledGraph:
        """Return this graph for autograd to hold, which adds to the record and does not keep it.

        The record refers to the nodes of autograd, and they to the graph of their products. Kept there, the record
        would close a cycle through C++, which no garbage collection finds: what a failed step leaves would stay.
        """
        if self._kept is None:
            return self
        graph = copy(self)
        graph._kept = None
        return graph

    def _multiply(self, csr: Tensor, m: Tensor, *, normalised: bool) -> Tensor:
        graph = self.in_autograd()
        transpose = graph.propagate if normalised else graph.matmul
        # Backward passes inside a step, for the gradient of the inner objective, make products that count too.
        record = self._open_record
        if record is None:
            return multiply(csr, m, transpose)
        if not m.requires_grad:
            m = m.detach().requires_grad_()  # Not the result: a leaf of autograd must not be changed in place.
        backward = _Backward(transpose)
        result = multiply(csr, m, backward)
        versions = (m._version, result._version)
        record.append(Product(owned_edge(result), m.detach(), result.detach(), versions, normalised, backward))
        return result


class GraphTracer:
    """A sampled graph in one step of the sweep: its products are the inputs of the vector-Jacobian product."""

    def __init__(self, graph: SampledGraph) -> None:
        self.value = graph.traced()

    def inputs(self) -> Sequence[Tensor | GradientEdge]:
        """Return the gradient edges of the products that Φ made."""
        return self.value.product_edges()


class Structure(Protocol):
    """Edge probabilities θ: an outer variable of the engine that also knows its projected gradient step.

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

    @property
    def num_nodes(self) -> int:
        """Number of nodes N."""
        ...

    @property
    def expected_edges(self) -> float:
        """Expected number of undirected edges."""
        ...

    def draw(self) -> SampledGraph:
        """Return a graph A ~ Bernoulli(θ)."""
        ...

    def trace(self, draw: Any) -> GraphTracer:
        """Return a tracer around a drawn graph."""
        ...

    def accumulator(self) -> Accumulator:
        """Return a zero accumulator."""
        ...

    def project_(self, gradient: Any, lr: float) -> None:
        """Take the step θ ← clip_[0,1](θ − lr · gradient) in place."""
        ...

    def edges(self, threshold: float = 0.0) -> tuple[Tensor, Tensor]:
        """Return the pairs i < j with θ_ij > threshold, int64 of shape [2, E], and their probabilities."""
        ...

    def state(self) -> Tensor:
        """Return a copy of θ."""
        ...

    def restore_(self, state: Tensor) -> None:
        """Set θ to what `state` returned."""
        ...
