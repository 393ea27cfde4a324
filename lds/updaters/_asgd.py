"""Averaged stochastic gradient descent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from lds._updater import PyTree, State
from lds.updaters._coefficient import (
    Coefficient,
    Descent,
    Leaves,
    add_scaled,
    check_coefficient,
    check_number,
    check_size,
    decayed,
    each,
    subtract_scaled,
    zeros,
)


class ASGDSlots(NamedTuple):
    """Slots of `ASGD`: the average of the weights, a pytree like params, and the number of steps taken.

    Example:
        >>> import torch
        >>> from lds.updaters import ASGD
        >>> ASGD().init(torch.zeros(2))
        ASGDSlots(mean=tensor([0., 0.]), steps=0)
    """

    mean: PyTree
    steps: int


@dataclass(frozen=True)
class ASGD(Descent):
    r"""Polyak and Juditsky, `Acceleration of Stochastic Approximation by Averaging
    <https://doi.org/10.1137/0330046>`_ (SIAM Journal on Control and Optimization, 1992).

    .. math::
        \eta_t = \eta / (1 + \lambda\eta t)^\alpha, \quad
        w_{t+1} = (1 - \lambda\eta_t)\, w_t - \eta_t (\nabla_w L(w_t) + \kappa w_t), \quad
        \bar w_{t+1} = \bar w_t + (w_{t+1} - \bar w_t) / \max(1, t - t_0)

    with t the number of steps taken before, as `torch.optim.ASGD` does it. The slots hold the average w̄, which no step
    depends on. Where η is a schedule, η_t has its value in step t; torch takes that of the step before.

    Args:
        lr: η, given as for `SGD`.
        lambd: λ, given as `lr` is.
        alpha: exponent α, given as `lr` is.
        t0: t₀, a number: the step from which on the average is one.
        weight_decay: κ, given as `lr` is.
        maximize: go up the inner objective: −∇L stands in for ∇L.

    Raises:
        InputError: a constant coefficient outside its range.

    Example:
        >>> import torch
        >>> from lds.hypergrad import hypergradient
        >>> from lds.updaters import ASGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> hypergradient(*problem, updater=ASGD(lr=0.1), steps=2).grad
        tensor(0.5904)
    """  # noqa: D205 (The title of the paper does not fit on a line.)

    lr: Coefficient = 1e-2
    lambd: Coefficient = 1e-4
    alpha: Coefficient = 0.75
    t0: float = 1e6
    weight_decay: Coefficient = 0.0

    def __post_init__(self) -> None:
        check_size("lr", self.lr)
        check_size("lambd", self.lambd)
        check_coefficient("alpha", self.alpha, float("-inf"), float("inf"))
        check_number("t0", self.t0, 0)
        check_size("weight_decay", self.weight_decay)

    def init(self, params: PyTree) -> ASGDSlots:
        """Return averages of zero, which the first step overwrites, and a zero count."""
        return ASGDSlots(zeros(params), 0)

    def _update(self, now: Leaves) -> State:
        lambd, alpha = now.value("lambd", self.lambd), now.value("alpha", self.alpha)
        old, t = now.state.slots
        lr = now.value("lr", self.lr)
        lr = each(lambda lr, lambd, alpha: lr / (1 + lambd * lr * t) ** alpha, lr, lambd, alpha)
        now.add_penalty(self.weight_decay)
        w = each(subtract_scaled, each(decayed, now.w, lr, lambd), now.g, lr)
        share = 1 / max(1, t - self.t0)
        mean = now.flat(old)
        mean = w if share == 1 else each(add_scaled, mean, each(subtract_scaled, w, mean, 1), share)
        return State(now.tree(w), ASGDSlots(now.tree(mean), t + 1))
