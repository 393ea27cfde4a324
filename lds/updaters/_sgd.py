"""Stochastic gradient descent."""

from __future__ import annotations

from dataclasses import dataclass

import optree

from lds._updater import GradientUpdater, PyTree, State
from lds.errors import InputError
from lds.updaters._coefficient import (
    Coefficient,
    add_scaled,
    check_coefficient,
    check_size,
    each,
    is_zero,
    resolve,
    subtract_scaled,
    zeros,
)


@dataclass(frozen=True)
class SGD(GradientUpdater):
    r"""Gradient descent with optional (Nesterov) momentum, as `torch.optim.SGD` does it.

    .. math::
        g_t = \nabla_w L(w_t) + \lambda w_t, \qquad b_{t+1} = \mu b_t + g_t, \qquad
        w_{t+1} = w_t - \eta\, b_{t+1} \quad\text{or, Nesterov,}\quad w_t - \eta\,(g_t + \mu b_{t+1})

    with L the inner objective and b_0 = 0.

    Args:
        lr: step size η; a constant (number or tensor), a function of the outer variables such as
            `lambda outer: outer["lr"]`, or a schedule. Its value is a scalar for all params or a pytree like params.
        momentum: μ, given likewise; the constant 0 keeps no slots.
        nesterov: look ahead along the momentum.
        weight_decay: λ, given likewise.

    Raises:
        InputError: a constant coefficient outside its range, or `nesterov` without momentum.
    """

    lr: Coefficient
    momentum: Coefficient = 0.0
    nesterov: bool = False
    weight_decay: Coefficient = 0.0

    def __post_init__(self) -> None:
        check_size("lr", self.lr)
        check_coefficient("momentum", self.momentum, 0, 1)
        check_size("weight_decay", self.weight_decay)
        if self.nesterov and is_zero(self.momentum):
            raise InputError("nesterov=True needs a momentum, got momentum=0; set e.g. momentum=0.9")

    def init(self, params: PyTree) -> PyTree:
        """Return zero momentum buffers, or () without momentum."""
        return () if is_zero(self.momentum) else zeros(params)

    def update(self, grads: PyTree, state: State, outer: PyTree) -> State:
        """Return the state after one step of gradient descent."""
        w, spec = optree.tree_flatten(state.params)
        g = spec.flatten_up_to(grads)
        lr = resolve("lr", self.lr, w, state, outer)
        if not is_zero(self.weight_decay):
            g = each(add_scaled, g, w, resolve("weight_decay", self.weight_decay, w, state, outer))
        if is_zero(self.momentum):
            return State(spec.unflatten(each(subtract_scaled, w, g, lr)))
        momentum = resolve("momentum", self.momentum, w, state, outer)
        b = each(add_scaled, g, spec.flatten_up_to(state.slots), momentum)
        d = each(add_scaled, g, b, momentum) if self.nesterov else b
        w = each(subtract_scaled, w, d, lr)
        return State(spec.unflatten(w), spec.unflatten(b))
