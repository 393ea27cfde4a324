"""A sampled graph, and the tape of its products that the sweep reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from lds.errors import InputError
from lds.graph._sparse import csr_tensor, product


class Use(NamedTuple):
    """One product Y = S M on the tape, where S is A or Â."""

    edge: GradientEdge
    operand: Tensor
    result: Tensor
    versions: tuple[int, int]
    normalised: bool


class SampledGraph:
    r"""An undirected graph without self loops that a model uses through products only.

    .. math:: \hat A = \tilde D^{-1/2} (A + I) \tilde D^{-1/2}, \qquad \tilde D = \mathrm{diag}(A 1 + 1)

    Args:
        num_nodes: number of nodes N.
        row: one end i of every edge {i, j}, int64 of shape [E]; each edge appears once.
        col: the other end j.
        weight: edge weights, floating point of shape [E].
    """

    def __init__(self, num_nodes: int, row: Tensor, col: Tensor, weight: Tensor) -> None:
        self.num_nodes = num_nodes
        self.row, self.col, self.weight = row, col, weight
        self._tape: list[Use] | None = None

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
        values = self.weight * self.scale[self.row] * self.scale[self.col]
        return csr_tensor(
            torch.cat([self.row, self.col, nodes]),
            torch.cat([self.col, self.row, nodes]),
            torch.cat([values, values, self.degree.reciprocal()]),
            (self.num_nodes, self.num_nodes),
        )

    def matmul(self, m: Tensor) -> Tensor:
        """Return A M for M of shape [N, r]."""
        return self._product(self.adjacency, m, self.matmul, normalised=False)

    def propagate(self, m: Tensor) -> Tensor:
        """Return Â M for M of shape [N, r], the propagation of a GCN."""
        return self._product(self.normalised, m, self.propagate, normalised=True)

    def traced(self) -> SampledGraph:
        """Return this graph with an empty tape, on which every product leaves its gradient edge and its operand."""
        graph = copy(self)
        graph._tape = []
        return graph

    def take_tape(self) -> list[Use]:
        """Return the tape and clear it.

        Raises:
            InputError: an operand or a result was changed in place after the product.
        """
        assert self._tape is not None
        # Cleared: graph, tape and autograd nodes refer to each other in a cycle that only a garbage collection frees.
        tape, self._tape = self._tape, []
        for use in tape:
            if (use.operand._version, use.result._version) != use.versions:
                raise InputError(
                    "the operand and the result of a graph product must not be changed in place, but one was; "
                    "use the out-of-place operation, e.g. x.relu() for x.relu_()"
                )
        return tape

    def edges_on_tape(self) -> Sequence[GradientEdge]:
        """Return the gradient edges of all products so far, the inputs of the vector-Jacobian product."""
        return [use.edge for use in self._tape or ()]

    def _product(self, csr: Tensor, m: Tensor, transpose: Callable[[Tensor], Tensor], *, normalised: bool) -> Tensor:
        # The backward pass of a product is a product on the tape too, unless it is the sweep's own.
        if self._tape is None or not torch.is_grad_enabled():
            return product(csr, m, transpose)
        if not m.requires_grad:
            m = m.detach().requires_grad_()  # Not the result: a leaf of autograd must not be changed in place.
        result = product(csr, m, transpose)
        versions = (m._version, result._version)
        self._tape.append(Use(get_gradient_edge(result), m.detach(), result.detach(), versions, normalised))
        return result
