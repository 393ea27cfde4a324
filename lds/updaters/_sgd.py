"""Stochastic gradient descent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import optree

from lds.errors import InputError
from lds.updaters._coefficient import Coefficient, check_constant, resolve
from lds.updaters._protocol import Objective, PyTree, State, gradient


@dataclass(frozen=True)
class SGD:
    r"""Gradient descent with optional (Nesterov) momentum, as `torch.optim.SGD` does it.

    .. math::
        b_{t+1} = \mu b_t + g_t, \qquad
        w_{t+1} = w_t - \eta\, b_{t+1} \quad\text{or, Nesterov,}\quad w_t - \eta\,(g_t + \mu b_{t+1})

    with g_t the inner gradient at w_t and b_0 = 0.

    Args:
        lr: step size η; a number, a tensor, or a function of the outer variables, e.g. `lambda outer: outer["lr"]`.
        momentum: μ, given likewise; the constant 0 keeps no slots.
        nesterov: look ahead along the momentum.

    Raises:
        InputError: a constant coefficient outside its range, or `nesterov` without momentum.
    """

    lr: Coefficient
    momentum: Coefficient = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        check_constant("lr", self.lr, 0, float("inf"), high_open=True)
        check_constant("momentum", self.momentum, 0, 1)
        if self.nesterov and not self._has_momentum:
            raise InputError("nesterov=True needs a momentum, got momentum=0; set e.g. momentum=0.9")

    @property
    def _has_momentum(self) -> bool:
        return not (isinstance(self.momentum, int | float) and self.momentum == 0)

    def init(self, params: PyTree) -> PyTree:
        """Return zero momentum buffers, or () without momentum."""
        return optree.tree_map(lambda x: x.new_zeros(x.shape), params) if self._has_momentum else ()

    def step(self, state: State, outer: PyTree, inner: Objective) -> State:
        """Return the state after one step of gradient descent."""
        lr = resolve(self.lr, outer)
        grads = gradient(inner, state.params, outer)
        if not self._has_momentum:
            return State(optree.tree_map(lambda w, g: w - lr * g, state.params, grads), ())
        momentum: Any = resolve(self.momentum, outer)
        buffers = optree.tree_map(lambda b, g: momentum * b + g, state.slots, grads)
        grads = optree.tree_map(lambda g, b: g + momentum * b, grads, buffers) if self.nesterov else buffers
        return State(optree.tree_map(lambda w, d: w - lr * d, state.params, grads), buffers)
