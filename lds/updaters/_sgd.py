"""Stochastic gradient descent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from lds._updater import PyTree, State
from lds.errors import InputError
from lds.updaters._coefficient import (
    Coefficient,
    Descent,
    Leaves,
    add_scaled,
    average,
    check_coefficient,
    check_size,
    each,
    is_zero,
    one_minus,
    subtract_scaled,
    zeros,
)


class DampenedSlots(NamedTuple):
    """Slots of `SGD` with dampening: momentum buffers, and the number of steps taken.

    Example:
        >>> import torch
        >>> from lds.updaters import SGD
        >>> SGD(0.1, momentum=0.9, dampening=0.1).init(torch.zeros(2))
        DampenedSlots(b=tensor([0., 0.]), steps=0)
    """

    b: PyTree
    steps: int


@dataclass(frozen=True)
class SGD(Descent):
    r"""Gradient descent with optional (Nesterov) momentum, as `torch.optim.SGD` does it.

    .. math::
        g_t = \nabla_w L(w_t) + \lambda w_t, \qquad b_{t+1} = \mu b_t + (1 - \tau)\, g_t, \qquad
        w_{t+1} = w_t - \eta\, b_{t+1} \quad\text{or, Nesterov,}\quad w_t - \eta\,(g_t + \mu b_{t+1})

    with L the inner objective and b_1 = g_0, which is not dampened.

    Args:
        lr: step size η; a constant (number or tensor), a function of the outer variables such as
            `lambda outer: outer["lr"]`, or a schedule. Its value is a scalar for all params, or a pytree like params or
            like their upper part.
        momentum: μ, given as `lr` is; the constant 0 keeps no slots.
        nesterov: look ahead along the momentum.
        weight_decay: λ, given as `lr` is.
        dampening: τ, given as `lr` is.
        maximize: go up the inner objective: −∇L stands in for ∇L.

    Raises:
        InputError: a constant coefficient outside its range, or `nesterov` without momentum or with dampening.

    Example:
        >>> import torch
        >>> from lds.hypergrad import hypergradient
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> hypergradient(*problem, updater=SGD(0.1, momentum=0.9), steps=2).grad
        tensor(0.7884)
    """

    lr: Coefficient
    momentum: Coefficient = 0.0
    nesterov: bool = False
    weight_decay: Coefficient = 0.0
    dampening: Coefficient = 0.0

    def __post_init__(self) -> None:
        check_size("lr", self.lr)
        check_coefficient("momentum", self.momentum, 0, 1)
        check_size("weight_decay", self.weight_decay)
        check_coefficient("dampening", self.dampening, 0, 1)
        if self.nesterov and is_zero(self.momentum):
            raise InputError("nesterov=True needs a momentum, got momentum=0; set e.g. momentum=0.9")
        if self.nesterov and not is_zero(self.dampening):
            raise InputError(f"nesterov=True needs dampening=0, got {self.dampening!r}; leave one of them out")

    def init(self, params: PyTree) -> PyTree:
        """Return zero momentum buffers (with dampening, and a count of zero), or () without momentum."""
        if is_zero(self.momentum):
            return ()
        return zeros(params) if is_zero(self.dampening) else DampenedSlots(zeros(params), 0)

    def _update(self, now: Leaves) -> State:
        lr = now.value("lr", self.lr)
        now.add_penalty(self.weight_decay)
        if is_zero(self.momentum):
            return State(now.tree(each(subtract_scaled, now.w, now.g, lr)))
        momentum = now.value("momentum", self.momentum)
        if is_zero(self.dampening):
            b = each(add_scaled, now.g, now.flat(now.state.slots), momentum)
            slots = now.tree(b)
        else:
            old, steps = now.state.slots
            b = now.g
            if steps:
                rest = each(one_minus, now.value("dampening", self.dampening))
                b = each(average, now.flat(old), b, momentum, rest)
            slots = DampenedSlots(now.tree(b), steps + 1)
        d = each(add_scaled, now.g, b, momentum) if self.nesterov else b
        return State(now.tree(each(subtract_scaled, now.w, d, lr)), slots)
