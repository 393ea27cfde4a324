"""Muon: steps by matrices of momentum, made orthogonal."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import optree
import torch
from torch import Tensor

from lds._updater import PyTree, State
from lds.errors import InputError
from lds.updaters._coefficient import (
    Coefficient,
    Descent,
    Leaves,
    average,
    check_coefficient,
    check_eps,
    check_real,
    check_size,
    each,
    one_minus,
    zeros,
)

_ADJUSTMENTS = (None, "original", "match_rms_adamw")


@dataclass(frozen=True)
class Muon(Descent):
    r"""Jordan et al., `Muon: An optimizer for hidden layers <https://kellerjordan.github.io/posts/muon/>`_ (2024).

    .. math::
        b_{t+1} = \mu b_t + (1-\mu) \nabla_w L(w_t), \quad
        X_0 = B/\max(\lVert B \rVert, \epsilon), \quad A_k = X_k X_k^\top, \quad
        X_{k+1} = a X_k + (b A_k + c A_k^2) X_k, \\
        w_{t+1} = (1 - \eta\lambda)\, w_t - \eta r\, X_K

    with B = b_{t+1} or, Nesterov, μ b_{t+1} + (1−μ) ∇L, transposed where it has more rows than columns. This
    Newton-Schulz iteration brings all singular values near 1. For a matrix with n rows and m columns,
    r = √max(1, n/m), or 0.2 √max(n, m) with `adjust_lr_fn="match_rms_adamw"`.

    The steps are those of `torch.optim.Muon`, in the precision of params. torch iterates in bfloat16, the map of which
    has no derivative; with `dtype=torch.bfloat16` the steps have torch's bits, and their derivative is that of the
    iteration without rounding, at the same point, of which the engine warns (`DerivativeWarning`).

    Args:
        lr: step size η, given as for `SGD`.
        weight_decay: λ, given as `lr` is.
        momentum: μ, given as `lr` is.
        nesterov: look ahead along the momentum.
        ns_coefficients: (a, b, c), numbers.
        eps: ε, at least 1e-18.
        ns_steps: K, the number of iterations.
        adjust_lr_fn: "original" (as None), or "match_rms_adamw".
        maximize: go up the inner objective: −∇L stands in for ∇L.
        dtype: precision of the iteration; None is that of params.

    Raises:
        InputError: a constant outside its range; params that are no matrices.

    Example:
        Matrices to Muon and the rest to AdamW::

            Groups({"muon": Muon(0.02), "adamw": AdamW(1e-3)}, lambda name, w: "muon" if w.ndim == 2 else "adamw")
    """

    lr: Coefficient = 1e-3
    weight_decay: Coefficient = 0.1
    momentum: Coefficient = 0.95
    nesterov: bool = True
    ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315)
    eps: float = 1e-7
    ns_steps: int = 5
    adjust_lr_fn: str | None = None
    dtype: torch.dtype | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_size("lr", self.lr)
        check_size("weight_decay", self.weight_decay)
        check_coefficient("momentum", self.momentum, 0, 1)
        check_eps(self.eps)
        if len(self.ns_coefficients) != 3:
            raise InputError(f"ns_coefficients must be three numbers (a, b, c), got {self.ns_coefficients!r}")
        if not isinstance(self.ns_steps, int) or not 0 <= self.ns_steps < 100:
            raise InputError(f"ns_steps must be an integer in [0, 100), got {self.ns_steps!r}")
        if self.adjust_lr_fn not in _ADJUSTMENTS:
            raise InputError(
                f"adjust_lr_fn must be one of {', '.join(map(repr, _ADJUSTMENTS))}, got {self.adjust_lr_fn!r}"
            )

    def init(self, params: PyTree) -> PyTree:
        """Return zero momentum."""
        check_real(self, params)
        for accessor, w in zip(optree.tree_accessors(params), optree.tree_leaves(params), strict=True):
            if w.ndim != 2:
                raise InputError(
                    f"Muon needs matrices, but {accessor.codify('params')} has shape {tuple(w.shape)}; give such to "
                    "another updater: Groups({'muon': Muon(…), 'rest': AdamW(…)}, "
                    "lambda name, w: 'muon' if w.ndim == 2 else 'rest')"
                )
        return zeros(params)

    def _update(self, now: Leaves) -> State:
        lr, momentum = now.value("lr", self.lr), now.value("momentum", self.momentum)
        rest = each(one_minus, momentum)
        b = each(average, now.flat(now.state.slots), now.g, momentum, rest)
        d = each(average, b, now.g, momentum, rest) if self.nesterov else b
        d = each(self._orthogonal, d)
        now.decay(lr, self.weight_decay)
        w = each(lambda w, d, lr: w - self._ratio(*w.shape) * lr * d, now.w, d, lr)
        return State(now.tree(w), now.tree(b))

    def _ratio(self, rows: int, columns: int) -> float:
        if self.adjust_lr_fn == "match_rms_adamw":
            return 0.2 * math.sqrt(max(rows, columns))
        return math.sqrt(max(1, rows / columns))

    def _orthogonal(self, x: Tensor) -> Tensor:
        result = self._iterate(x)
        if self.dtype in (None, x.dtype):
            return result
        with torch.no_grad():
            rounding = self._iterate(x.to(self.dtype)).to(x.dtype) - result
        return result + rounding

    def _iterate(self, x: Tensor) -> Tensor:
        a, b, c = self.ns_coefficients
        wide = x.shape[0] <= x.shape[1]
        x = x if wide else x.T
        x = x / torch.linalg.vector_norm(x).clamp(min=self.eps)
        for _ in range(self.ns_steps):
            gram = x @ x.T
            x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        return x if wide else x.T
