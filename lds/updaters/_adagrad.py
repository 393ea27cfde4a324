"""Adagrad, differentiable where a gradient is zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import optree
import torch

from lds._updater import PyTree, State
from lds.updaters._coefficient import (
    Coefficient,
    Descent,
    Leaves,
    check_eps,
    check_number,
    check_real,
    check_size,
    each,
    is_zero,
    subtract_scaled,
)


class AdagradSlots(NamedTuple):
    """Slots of `Adagrad`: sums of squares, a pytree like params, and the number of steps taken.

    Example:
        >>> import torch
        >>> from lds.updaters import Adagrad
        >>> Adagrad().init(torch.zeros(2))
        AdagradSlots(v=tensor([0., 0.]), steps=0)
    """

    v: PyTree
    steps: int


@dataclass(frozen=True)
class Adagrad(Descent):
    r"""Adagrad with ε inside the root, from Duchi, Hazan and Singer, https://jmlr.org/papers/v12/duchi11a.html (2011).

    .. math::
        g_t = \nabla_w L(w_t) + \lambda w_t, \quad v_{t+1} = v_t + g_t^2, \quad
        w_{t+1} = w_t - \frac{\eta}{1 + t\,\delta}\, g_t / \sqrt{v_{t+1} + \epsilon^2}

    with t the number of steps taken before. The update is `torch.optim.Adagrad` but for ε, which stands inside the root
    for the reason that `Adam` gives.

    Args:
        lr: step size η; a constant (number or tensor), a function of the outer variables such as
            `lambda outer: outer["lr"]`, or a schedule. Its value is a scalar for all params, or a pytree like params or
            like their upper part.
        lr_decay: δ, given as `lr` is.
        weight_decay: λ, given as `lr` is.
        initial_accumulator_value: v_0, a number.
        eps: ε, at least 1e-18 (its square must be a normal float32).
        maximize: go up the inner objective: −∇L stands in for ∇L.

    Raises:
        InputError: a constant coefficient outside its range.

    Example:
        >>> import torch
        >>> from lds.hypergrad import hypergradient
        >>> from lds.updaters import Adagrad
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> hypergradient(*problem, updater=Adagrad(lr=0.1), steps=2).grad
        tensor(0.0319)
    """

    lr: Coefficient = 1e-2
    lr_decay: Coefficient = 0.0
    weight_decay: Coefficient = 0.0
    initial_accumulator_value: float = 0.0
    eps: float = 1e-10

    def __post_init__(self) -> None:
        check_size("lr", self.lr)
        check_size("lr_decay", self.lr_decay)
        check_size("weight_decay", self.weight_decay)
        check_number("initial_accumulator_value", self.initial_accumulator_value, 0)
        check_eps(self.eps)

    def init(self, params: PyTree) -> AdagradSlots:
        """Return the initial sums of squares and a zero count."""
        check_real(self, params)
        v = optree.tree_map(lambda x: x.new_full(x.shape, self.initial_accumulator_value), params)
        return AdagradSlots(v, 0)

    def _update(self, now: Leaves) -> State:
        old, steps = now.state.slots
        lr, squared_eps = now.value("lr", self.lr), self.eps**2
        if not is_zero(self.lr_decay):
            lr_decay = now.value("lr_decay", self.lr_decay)
            lr = each(lambda lr, decay: lr / (1 + steps * decay), lr, lr_decay)
        now.add_penalty(self.weight_decay)
        v = each(lambda v, g: v + g * g, now.flat(old), now.g)
        d = each(lambda g, v: g / torch.sqrt(v + squared_eps), now.g, v)
        return State(now.tree(each(subtract_scaled, now.w, d, lr)), AdagradSlots(now.tree(v), steps + 1))
