"""Matrices of scipy and numpy: sparse ones to and from torch, products with dense ones, and rows of a safe size."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from lds.errors import InputError

with warnings.catch_warnings():
    # torch announces once a process that sparse CSR is in beta; nothing that a user of this package could act on.
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
    torch.eye(1).to_sparse_csr()

# Squares of such numbers, and the norms of rows of them, are exact enough in any type.
_SAFE = (1e-4, 1e15)


class _Product(torch.autograd.Function):
    """Y = S M, whose backward is `transpose_product`, itself differentiable."""

    @staticmethod
    def forward(ctx: Any, dense: Tensor, csr: Tensor, transpose_product: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.transpose_product = transpose_product
        return plain_product(csr, dense)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.transpose_product(grad), None, None


def plain_product(csr: Tensor, dense: Tensor) -> Tensor:
    """Return S M with no regard to autograd, written to new memory that `csr @ dense` would fill with zeros first."""
    result = dense.new_empty(csr.shape[0], dense.shape[1])
    return torch.addmm(result, csr, dense, beta=0, out=result)


def multiply(csr: Tensor, dense: Tensor, transpose_product: Callable[[Tensor], Tensor]) -> Tensor:
    """Return S M for a sparse CSR tensor S and a dense M of shape [N, r]."""
    if dense.ndim != 2 or dense.shape[0] != csr.shape[1]:
        raise InputError(f"a sparse product needs a matrix with {csr.shape[1]} rows, got shape {tuple(dense.shape)}")
    result: Tensor = _Product.apply(dense, csr, transpose_product)  # type: ignore[no-untyped-call]
    return result


def csr_tensor(row: Tensor, col: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return the CSR tensor with these distinct entries.

    On the CPU scipy's counting sort is used, five times as fast as a comparison sort at the size of a sampled graph.
    """
    if row.is_cpu:
        coo = scipy.sparse.coo_matrix(
            (values.numpy(), (row.numpy().astype(np.int32), col.numpy().astype(np.int32))), shape
        )
        coo.has_canonical_format = True  # Distinct entries: scipy need not look for duplicates.
        return from_scipy(coo.tocsr())
    return sorted_csr(row, col, values, shape)


def sorted_csr(row: Tensor, col: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return the tensor of `csr_tensor` by operations of torch for which the host waits for no device.

    The entries of a row keep their order, so that products with the tensor have the same bits every time. Indices take
    32 bits where that is enough: kernels read half as much.
    """
    row, order = torch.sort(row, stable=True)
    index = torch.int32 if max(*shape, row.numel()) <= torch.iinfo(torch.int32).max else torch.int64
    starts = torch.searchsorted(row, torch.arange(shape[0] + 1, device=row.device))
    return torch.sparse_csr_tensor(starts.to(index), col[order].to(index), values[order], shape, check_invariants=False)


def row_places(starts: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the entries of some rows of a CSR matrix lie, row after row, and how many each has; int64.

    Args:
        starts: where each row begins, and the last one ends, shape [N + 1].
        rows: numbers of rows, shape [M].
    """
    begin = starts[rows].long()
    counts = starts[rows + 1] - begin
    places = torch.repeat_interleave(begin - (counts.cumsum(0) - counts), counts)
    return places.add_(torch.arange(places.numel(), device=places.device)), counts


def from_scipy(matrix: scipy.sparse.csr_matrix) -> Tensor:
    """Return a CSR tensor that shares the memory of a scipy matrix."""
    return torch.sparse_csr_tensor(
        torch.from_numpy(matrix.indptr),
        torch.from_numpy(matrix.indices),
        torch.from_numpy(matrix.data),
        matrix.shape,
        check_invariants=False,
    )


def to_scipy(csr: Tensor) -> scipy.sparse.csr_matrix:
    """Return a scipy matrix that shares the memory of a CSR tensor on the CPU."""
    parts = (csr.values().numpy(), csr.col_indices().numpy(), csr.crow_indices().numpy())
    return scipy.sparse.csr_matrix(parts, (csr.shape[0], csr.shape[1]))


def of_safe_size(x: Any) -> Any:
    """Return rows times powers of two, so that the largest number of each lies in [1/2, 1) where it is tiny or huge.

    scikit-learn takes rows of a norm below 10 ε for zeros, 1.2e-6 in single precision, and squares of huge ones for
    infinity: features in metres or mol/l have such rows. A power of two leaves the digits as they are, and the cosine.

    Shapes: dense or CSR [N, F] → the same.
    """
    most: Any = abs(x).max(1)
    largest = np.asarray(most if isinstance(x, np.ndarray) else most.toarray()).ravel()
    off = (largest > 0) & ((largest < _SAFE[0]) | (largest > _SAFE[1]))
    if not off.any():
        return x
    exponent = np.where(off, -np.frexp(largest)[1], 0)
    if isinstance(x, np.ndarray):
        return np.ldexp(x, exponent[:, None])
    rows: Any = x.tocsr().copy()
    rows.data = np.ldexp(rows.data, np.repeat(exponent, np.diff(rows.indptr)))
    return rows


class SparseMatrix:
    """A constant sparse matrix, such as bag-of-words features, that is used through `x @ weight`.

    Args:
        csr: sparse CSR tensor of shape [N, F].

    Example:
        >>> import torch
        >>> from lds.graph import SparseMatrix
        >>> SparseMatrix(torch.eye(2).to_sparse_csr()) @ torch.ones(2, 1)
        tensor([[1.],
                [1.]])
    """

    def __init__(self, csr: Tensor) -> None:
        self.csr = csr

    @classmethod
    def from_dense(cls, x: Tensor) -> SparseMatrix:
        """Return the sparse form of a dense matrix of shape [N, F]."""
        row, col = x.nonzero(as_tuple=True)
        return cls(csr_tensor(row, col, x[row, col], (x.shape[0], x.shape[1])))

    @property
    def shape(self) -> torch.Size:
        """Shape [N, F]."""
        return self.csr.shape

    @property
    def dtype(self) -> torch.dtype:
        """Type of the entries."""
        return self.csr.dtype

    @cached_property
    def T(self) -> SparseMatrix:  # noqa: N802 - the name that torch and numpy have for it
        """The transpose, shape [F, N]."""
        if self.csr.is_cpu:
            transpose = SparseMatrix(from_scipy(to_scipy(self.csr).T.tocsr()))
            # The second derivative comes back here; another object, for a cycle would keep both for long.
            transpose.T = SparseMatrix(self.csr)
            return transpose
        starts, col, values = self.csr.crow_indices(), self.csr.col_indices(), self.csr.values()
        row = torch.repeat_interleave(
            torch.arange(self.shape[0], device=col.device), starts.diff(), output_size=col.numel()
        )
        return SparseMatrix(csr_tensor(col.long(), row, values, (self.shape[1], self.shape[0])))

    def rows(self, numbers: Tensor) -> SparseMatrix:
        """Return the matrix of some rows, shape [M, F]."""
        if self.csr.is_cpu:
            return SparseMatrix(from_scipy(to_scipy(self.csr)[numbers.numpy()]))
        starts, col, values = self.csr.crow_indices(), self.csr.col_indices(), self.csr.values()
        places, counts = row_places(starts, numbers)
        ends = torch.zeros(numbers.numel() + 1, dtype=torch.int64, device=col.device)
        torch.cumsum(counts, 0, out=ends[1:])
        shape = (numbers.numel(), self.shape[1])
        return SparseMatrix(
            torch.sparse_csr_tensor(ends.to(col.dtype), col[places], values[places], shape, check_invariants=False)
        )

    def __matmul__(self, dense: Tensor) -> Tensor:
        """Return the product with a dense matrix of shape [F, r]."""
        return multiply(self.csr, dense, lambda grad: self.T @ grad)
