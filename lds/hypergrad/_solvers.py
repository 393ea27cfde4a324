"""Linear solvers for the implicit hypergradient: what they know of a matrix is its products with vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]

# The power iteration starts from a random vector, the same in every call. A regular one, such as all ones, may have no
# part in the eigenvector that is sought.
POWER_STEPS = 20
POWER_SEED = 0
# A second look at a solution takes the residual down by this factor.
LOOK = 0.01


@dataclass(frozen=True)
class Solution:
    """An approximate solution v of H v = b.

    Attributes:
        vector: v.
        iterations: number of products with H (of eigenvalues for "dense") that finding it took.
        residual: ‖b − H v‖ / ‖b‖.
        rate: by how much the residual shrank in an iteration, where the iteration is stationary; NaN elsewhere.
        error: estimated ‖v − H⁻¹b‖ / ‖v‖; infinite where nothing is known.
    """

    vector: Tensor
    iterations: int
    residual: float
    rate: float = math.nan
    error: float = math.inf


# From (b, tol, max_iterations) to a solution of H v = b.
Solve = Callable[[Tensor, float, int], Solution]


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


def refined(solve: Solve, product: Product, b: Tensor, tol: float, max_iterations: int) -> Solution:
    r"""Solve H v = b, and go on until a second look changes v by at most the share `tol`.

    .. math:: \|H e - (b - H v)\| \le 0.01\, \|b - H v\|, \qquad v \leftarrow v + e

    A small residual is no small error: along an eigenvector of curvature c, v is off by the residual there over c. The
    look solves for the residual itself, in which such directions are what is left. It ends where e is rounding.
    """
    found = solve(b, tol, max_iterations)
    if not found.residual <= tol:
        return found
    vector, iterations, residual, rate, error = found.vector, found.iterations, found.residual, found.rate, math.inf
    while True:
        rest = b - product(vector)
        residual = relative(rest, b)
        if residual == 0:
            error = 0.0
        if error <= tol or iterations >= max_iterations:
            break
        look = solve(rest, LOOK, max_iterations - iterations)
        vector, iterations = vector + look.vector, iterations + look.iterations
        rate = rate if math.isnan(look.rate) else look.rate
        # A look that was cut short may not have got to what is left.
        before, error = error, relative(look.vector, vector) if look.residual <= LOOK else math.inf
        if not error < before / 2:
            break
    return replace(found, vector=vector, iterations=iterations, residual=residual, rate=rate, error=error)


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
    residuals = [1.0]
    for k in range(1, max_iterations + 1):
        term = step(term)
        residuals.append(relative(term, b))
        if residuals[-1] <= tol or not math.isfinite(residuals[-1]):
            break
        if k < max_iterations:
            total += term
    # Of the later half: what shrinks fast is gone by then.
    middle = residuals[k // 2]
    rate = (residuals[k] / middle) ** (1 / (k - k // 2)) if middle else 0.0
    return Solution(total, k, residuals[k], rate)


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


class Dense:
    """Solves by the eigenvalues of the explicit matrix; directions without curvature are left out.

    Args:
        matrix: the symmetric matrix.
        like: a vector, for its length, dtype and device.
    """

    def __init__(self, matrix: Matrix, like: Tensor) -> None:
        columns = [matrix.product(unit) for unit in torch.eye(like.numel(), dtype=like.dtype, device=like.device)]
        explicit = torch.stack(columns)
        self._explicit = (explicit + explicit.T) / 2
        self._finite = bool(self._explicit.isfinite().all())
        if self._finite:
            values, self._vectors = torch.linalg.eigh(self._explicit)
            matrix.meet(float(values[0]), float(values[-1]))
            kept = values.abs() > rounding(like) * values.abs().max()
            self._inverse = torch.where(kept, 1 / torch.where(kept, values, 1.0), 0.0)
            self._error = rounding(like) * float(values.abs().max() * self._inverse.abs().max())

    def __call__(self, b: Tensor, tol: float, max_iterations: int) -> Solution:
        """Return the solution, which takes no iterations but the number of eigenvalues."""
        if not self._finite:
            return Solution(torch.full_like(b, math.nan), b.numel(), math.nan)
        vector = self._vectors @ (self._inverse * (self._vectors.T @ b))
        residual = relative(b - self._explicit @ vector, b)
        return Solution(vector, b.numel(), residual, error=self._error)


def rounding(like: Tensor) -> float:
    """Return the size, relative to the largest eigenvalue, that rounding gives to an eigenvalue of zero."""
    return like.numel() * torch.finfo(like.dtype).eps


def relative(residual: Tensor, b: Tensor) -> float:
    """Return ‖residual‖ / ‖b‖, zero where both are."""
    size = float(residual.norm())
    return size / float(b.norm()) if size else 0.0
