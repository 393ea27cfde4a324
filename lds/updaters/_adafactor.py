"""Adafactor: second moments of a matrix kept as a row and a column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lds._updater import PyTree, State
from lds.errors import InputError
from lds.updaters._coefficient import (
    Coefficient,
    Descent,
    Leaves,
    check_coefficient,
    check_number,
    check_real,
    check_size,
    each,
)


class AdafactorSlots(NamedTuple):
    """Slots of `Adafactor`.

    Attributes:
        row: mean squares of the rows, a pytree like params; None for vectors and scalars.
        column: mean squares of the columns, likewise.
        v: mean squares of vectors and scalars, likewise; None for matrices.
        steps: number of steps taken.

    Example:
        >>> import torch
        >>> from lds.updaters import Adafactor
        >>> Adafactor().init(torch.zeros(2))
        AdafactorSlots(row=None, column=None, v=tensor([0., 0.]), steps=0)
    """

    row: PyTree
    column: PyTree
    v: PyTree
    steps: int


@dataclass(frozen=True)
class Adafactor(Descent):
    r"""Shazeer and Stern, `Adafactor <https://arxiv.org/abs/1804.04235>`_ (ICML 2018).

    .. math::
        \beta_t = 1 - t^\tau, \quad v_t = \beta_t v_{t-1} + (1-\beta_t) g_t^2, \quad
        u_t = g_t / \sqrt{\max(v_t, \epsilon_1^2)}, \quad
        \alpha_t = \max(\epsilon_2, \mathrm{rms}(w_{t-1})) \min(\eta, 1/\sqrt t), \\
        w_t = (1 - \eta\lambda)\, w_{t-1} - \alpha_t\, u_t / \max(1, \mathrm{rms}(u_t)/d), \quad t = 1, 2, …

    as `torch.optim.Adafactor` does it. For params of two or more dimensions, v_t is the product of the mean squares of
    rows and columns (the last two dimensions), each averaged as above, divided by their mean. The root mean squares
    are part of the derivative. Where a maximum or minimum is the bound, the derivative of what is bounded is zero.

    Args:
        lr: η, given as for `SGD`.
        beta2_decay: exponent τ, given as `lr` is, but as a scalar for each matrix; at most 0.
        eps: (ε₁, ε₂), numbers of at least 1e-18; ε₁ = None is the rounding unit of the dtype.
        d: largest root mean square of a step before its scale, given as `lr` is; at least 1.
        weight_decay: λ, given as `lr` is.
        maximize: go up the inner objective: −∇L stands in for ∇L.

    Raises:
        InputError: a constant outside its range.

    Example:
        >>> import torch
        >>> from lds.hypergrad import hypergradient
        >>> from lds.updaters import Adafactor
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> hypergradient(*problem, updater=Adafactor(lr=0.1), steps=2).grad
        tensor(0.0355)
    """

    lr: Coefficient = 1e-2
    beta2_decay: Coefficient = -0.8
    eps: tuple[float | None, float] = (None, 1e-3)
    d: Coefficient = 1.0
    weight_decay: Coefficient = 0.0

    def __post_init__(self) -> None:
        check_size("lr", self.lr)
        check_coefficient("beta2_decay", self.beta2_decay, float("-inf"), 0)
        if not isinstance(self.eps, tuple) or len(self.eps) != 2:
            raise InputError(f"eps of Adafactor must be a pair such as (None, 1e-3), got {self.eps!r}")
        if self.eps[0] is not None:
            check_number("eps[0]", self.eps[0], 1e-18)
        check_number("eps[1]", self.eps[1], 1e-18)
        check_coefficient("d", self.d, 1, float("inf"), high_open=True)
        check_size("weight_decay", self.weight_decay)

    def init(self, params: PyTree) -> AdafactorSlots:
        """Return zero mean squares and a zero count."""
        check_real(self, params)
        now = Leaves(params, State(params), None, False)
        rows = [w.new_zeros((*w.shape[:-1], 1)) if w.ndim > 1 else None for w in now.w]
        columns = [w.new_zeros((*w.shape[:-2], 1, w.shape[-1])) if w.ndim > 1 else None for w in now.w]
        v = [torch.zeros_like(w) if w.ndim < 2 else None for w in now.w]
        return AdafactorSlots(now.tree(rows), now.tree(columns), now.tree(v), 0)

    def _update(self, now: Leaves) -> State:
        slots, t = now.state.slots, now.state.slots.steps + 1
        lr, d = now.value("lr", self.lr), now.value("d", self.d)
        rest = each(lambda tau: t**tau, now.value("beta2_decay", self.beta2_decay))
        least, smallest = self.eps[1] ** 2, t**-0.5

        def length(w: Tensor, lr: Any) -> Any:
            rate = lr.clamp(max=smallest) if isinstance(lr, Tensor) else min(lr, smallest)
            return w.square().mean().clamp(min=least).sqrt() * rate

        lengths = each(length, now.w, lr)
        now.decay(lr, self.weight_decay)
        kept = [
            self._second_moments(*x) for x in zip(*map(now.flat, slots[:3]), now.g, _listed(rest, now), strict=True)
        ]

        def step(w: Tensor, g: Tensor, kept: tuple[Any, ...], length: Any, d: Any) -> Tensor:
            u = g * kept[3].clamp(min=self._eps(g) ** 2).rsqrt()
            # The root of a maximum, so that it has a derivative at u = 0.
            excess = (u.square().mean() / (d * d)).clamp(min=1).sqrt()
            moved: Tensor = w - length * u / excess
            return moved

        w = each(step, now.w, now.g, kept, lengths, d)
        rows, columns, v, _ = (list(part) for part in zip(*kept, strict=True))
        return State(now.tree(w), AdafactorSlots(now.tree(rows), now.tree(columns), now.tree(v), t))

    def _second_moments(self, row: Any, column: Any, v: Any, g: Tensor, rest: Any) -> tuple[Any, Any, Any, Tensor]:
        """Return what is kept of the second moments of a leaf, and the second moments."""
        if g.ndim > 1 and isinstance(rest, Tensor) and rest.ndim:
            raise InputError(
                f"beta2_decay must be one number for each matrix, as all of a row and of a column share it, got shape "
                f"{tuple(rest.shape)} for a param of shape {tuple(g.shape)}"
            )
        square = g * g
        if g.ndim < 2:
            v = v + rest * (square - v)
            return None, None, v, v
        row = row + rest * (square.mean(-1, keepdim=True) - row)
        column = column + rest * (square.mean(-2, keepdim=True) - column)
        return row, column, None, row @ column / row.mean(-2, keepdim=True).clamp(min=self._eps(g))

    def _eps(self, like: Tensor) -> float:
        return torch.finfo(like.dtype).eps if self.eps[0] is None else self.eps[0]


def _listed(value: Any, now: Leaves) -> list[Any]:
    return value if isinstance(value, list) else [value] * len(now.w)
