"""Features of which every process holds some rows."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lds._sparse import SparseMatrix, csr_tensor
from lds.distributed._ranks import Ranks


class _Product(torch.autograd.Function):
    """X W: each rank multiplies its rows, and all have the thin result."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, features: ShardedFeatures) -> Tensor:
        ctx.features = features
        return features.ranks.gather(features.own @ weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _TransposedProduct.apply(grad, ctx.features), None  # type: ignore[no-untyped-call]


class _TransposedProduct(torch.autograd.Function):
    """Xᵀ U: the sum of what the rows of each rank give."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, features: ShardedFeatures) -> Tensor:
        ctx.features = features
        return features.ranks.sum(features.transposed @ grad[features.start : features.stop])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Product.apply(grad, ctx.features), None  # type: ignore[no-untyped-call]


class ShardedFeatures:
    """Features X of which every rank holds the rows of as many nodes, used through `x @ weight` and `x.rows(nodes)`.

    Args:
        x: all rows, of which this rank copies its own: a tensor or `SparseMatrix` [N, F], the former perhaps over a
            memory-mapped file, of which only these rows are read.
        ranks: the processes.

    Example:
        One process, where `torchrun` starts several:

        >>> import torch.distributed as dist
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> x = ShardedFeatures(torch.eye(3), Ranks())
        >>> (x @ torch.ones(3, 1)).flatten().tolist()
        [1.0, 1.0, 1.0]
        >>> dist.destroy_process_group()
    """

    def __init__(self, x: Tensor | SparseMatrix, ranks: Ranks) -> None:
        count, width = x.shape
        self.ranks = ranks
        self.start, self.stop = (count * k // ranks.size for k in (ranks.rank, ranks.rank + 1))
        self.shape, self.dtype = torch.Size((count, width)), x.dtype
        self.own: Any
        if isinstance(x, SparseMatrix):
            self.own = x.rows(torch.arange(self.start, self.stop))
        else:
            self.own = x[self.start : self.stop].clone()

    @cached_property
    def transposed(self) -> Any:
        """The transpose of the own rows."""
        return self.own.T

    def __matmul__(self, weight: Tensor) -> Tensor:
        """Return X W for W of shape [F, r], differentiable in W as often as one likes."""
        return _Product.apply(weight, self)  # type: ignore[no-untyped-call, no-any-return]

    @property
    def T(self) -> ShardedTranspose:  # noqa: N802 - the name that torch and numpy have for it
        """The transpose, used through `x.T @ cotangent`."""
        return ShardedTranspose(self)

    def rows(self, nodes: Tensor) -> Tensor | SparseMatrix:
        """Return the rows of some nodes, given in ascending order, on every rank."""
        own = nodes[(nodes >= self.start) & (nodes < self.stop)] - self.start
        if not isinstance(self.own, SparseMatrix):
            return self.ranks.gather(self.own[own])
        csr = self.own.rows(own).csr
        counts = self.ranks.gather(csr.crow_indices().diff().long())
        col, values = self.ranks.gather(csr.col_indices().long()), self.ranks.gather(csr.values())
        row = torch.repeat_interleave(torch.arange(len(nodes)), counts)
        return SparseMatrix(csr_tensor(row, col, values, (len(nodes), self.shape[1])))

    def whole(self) -> Tensor | SparseMatrix:
        """Return all rows, for a model that does more with them than a product."""
        return self.rows(torch.arange(self.shape[0]))


class ShardedTranspose:
    """The transpose of features of which every rank holds some rows."""

    def __init__(self, features: ShardedFeatures) -> None:
        self._features = features

    def __matmul__(self, cotangent: Tensor) -> Tensor:
        """Return Xᵀ U for U of shape [N, r], on every rank."""
        return _TransposedProduct.apply(cotangent, self._features)  # type: ignore[no-untyped-call, no-any-return]
