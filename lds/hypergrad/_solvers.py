"""Linear solvers for the implicit hypergradient: what they know of a matrix is its products with vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]

# The power iteration starts from a random vector, the same in every call. A regular one, such as all ones, may have no
# part in the eigenvector that is sought.
POWER_STEPS = 20
POWER_SEED = 0


@dataclass(frozen=True)
class Solution:
    """An approximate solution v of H v = b.

    Attributes:
        vector: v.
        iterations: number of products with H (of eigenvalues for "dense") that finding it took.
        residual: ‖b − H v‖ / ‖b‖.
        rate: by how much the residual shrank in an iteration, where the iteration is stationary; NaN elsewhere.
    """

    vector: Tensor
    iterations: int
    residual: float
    rate: float = math.nan


class Matrix:
    """A matrix M by its products M u; if it is symmetric, it notes the Rayleigh quotients uᵀMu / uᵀu that it meets."""

    def __init__(self, product: Product, symmetric: bool) -> None:
        self.product = product
        self._symmetric = symmetric
        self.range = (math.nan, math.nan)
        self.count = 0

    def __call__(self, vector: Tensor) -> Tensor:
        """Return M u."""
        self.count += 1
        result = self.product(vector)
        if self._symmetric and (square := float(vector.dot(vector))) > 0:
            self.meet(float(vector.dot(result)) / square)
        return result

    def meet(self, *quotients: float) -> None:
        """Widen the range of Rayleigh quotients by some more."""
        known = [x for x in (*self.range, *quotients) if not math.isnan(x)]
        self.range = (min(known), max(known)) if known else self.range


class _FlatDirectionError(Exception):
    """Conjugate gradients met a direction without curvature."""


def conjugate_gradients(matrix: Matrix, b: Tensor, tol: float, max_iterations: int) -> Solution:
    """Solve by conjugate gradients, with `scipy.sparse.linalg.cg` in float64."""
    # Here, and not above: it takes as long to import as the rest of the engine.
    from scipy.sparse.linalg import LinearOperator, cg

    begin = matrix.count

    def product(vector: Any) -> Any:
        direction = torch.from_numpy(np.asarray(vector)).to(b)
        result = matrix(direction)
        if not float(direction.dot(result)):
            raise _FlatDirectionError
        return result.double().cpu().numpy()

    size = b.numel()
    operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
    found = np.zeros(size)

    def keep(iterate: Any) -> None:
        if np.isfinite(iterate).all():
            found[:] = iterate

    # Along a direction without curvature the step is infinite: what was found before is kept, and its residual tells.
    with np.errstate(all="ignore"), suppress(_FlatDirectionError):
        cg(operator, b.double().cpu().numpy(), rtol=tol, atol=0.0, maxiter=max_iterations, callback=keep)
    iterations = matrix.count - begin
    vector = torch.from_numpy(found).to(b)
    return Solution(vector, iterations, relative(b - matrix.product(vector), b))


def series(step: Product, b: Tensor, tol: float, max_iterations: int) -> Solution:
    r"""Sum :math:`\sum_k M^k b`, which solves (I − M) v = b if all eigenvalues of M are below 1 in modulus."""
    term, total = b, b.clone()
    residual = math.inf
    for k in range(1, max_iterations + 1):
        term = step(term)
        residual = relative(term, b)
        if residual <= tol or not math.isfinite(residual):
            break
        if k < max_iterations:
            total += term
    return Solution(total, k, residual, residual ** (1 / k))


def largest_eigenvalue(matrix: Matrix, like: Tensor) -> float:
    """Estimate the largest eigenvalue in modulus by the power iteration."""
    generator = torch.Generator().manual_seed(POWER_SEED)
    vector = torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)
    size = 0.0
    for _ in range(POWER_STEPS):
        vector = matrix(vector / vector.norm())
        size = float(vector.norm())
        if not 0 < size < math.inf:
            break
    return size


def dense(matrix: Matrix, b: Tensor) -> Solution:
    """Solve by the eigenvalues of the explicit matrix; directions without curvature are left out."""
    n = b.numel()
    columns = [matrix.product(unit) for unit in torch.eye(n, dtype=b.dtype, device=b.device)]
    explicit = torch.stack(columns)
    explicit = (explicit + explicit.T) / 2
    if not bool(explicit.isfinite().all()):
        return Solution(torch.full_like(b, math.nan), n, math.nan)
    values, vectors = torch.linalg.eigh(explicit)
    matrix.meet(float(values[0]), float(values[-1]))
    kept = values.abs() > rounding(b) * values.abs().max()
    inverse = torch.where(kept, 1 / torch.where(kept, values, 1.0), 0.0)
    vector = vectors @ (inverse * (vectors.T @ b))
    return Solution(vector, n, relative(b - explicit @ vector, b))


def rounding(like: Tensor) -> float:
    """Return the size, relative to the largest eigenvalue, that rounding gives to an eigenvalue of zero."""
    return like.numel() * torch.finfo(like.dtype).eps


def relative(residual: Tensor, b: Tensor) -> float:
    """Return ‖residual‖ / ‖b‖, zero where both are."""
    size = float(residual.norm())
    return size / float(b.norm()) if size else 0.0
