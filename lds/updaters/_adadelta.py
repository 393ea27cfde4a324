"""Adadelta: steps as large as the steps before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from lds._updater import PyTree, State
from lds.updaters._coefficient import (
    Coefficient,
    Descent,
    Leaves,
    average_square,
    check_coefficient,
    check_number,
    check_real,
    check_size,
    each,
    one_minus,
    subtract_scaled,
    zeros,
)


class AdadeltaSlots(NamedTuple):
    """Slots of `Adadelta`: mean squares of the gradients and of the steps, pytrees like params.

    Example:
        >>> import torch
        >>> from lds.updaters import Adadelta
        >>> Adadelta().init(torch.zeros(2))
        AdadeltaSlots(v=tensor([0., 0.]), u=tensor([0., 0.]))
    """

    v: PyTree
    u: PyTree


@dataclass(frozen=True)
class Adadelta(Descent):
    r"""Zeiler, `ADADELTA: An Adaptive Learning Rate Method <https://arxiv.org/abs/1212.5701>`_ (2012).

    .. math::
        g_t = \nabla_w L(w_t) + \lambda w_t, \quad v_{t+1} = \rho v_t + (1-\rho) g_t^2, \quad
        d_t = \sqrt{\frac{u_t + \epsilon}{v_{t+1} + \epsilon}}\; g_t, \quad
        u_{t+1} = \rho u_t + (1-\rho) d_t^2, \quad w_{t+1} = w_t - \eta\, d_t

    as `torch.optim.Adadelta` does it: ε stands inside of both roots, so that all is differentiable at zero.

    Args:
        lr: η, given as for `SGD`.
        rho: decay rate ρ, given as `lr` is.
        eps: ε, at least 1e-36.
        weight_decay: λ, given as `lr` is.
        maximize: go up the inner objective: −∇L stands in for ∇L.

    Raises:
        InputError: a constant coefficient outside its range.

    Example:
        >>> import torch
        >>> from lds.hypergrad import hypergradient
        >>> from lds.updaters import Adadelta
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> hypergradient(*problem, updater=Adadelta(lr=0.1), steps=2).grad
        tensor(4.1467e-07)
    """

    lr: Coefficient = 1.0
    rho: Coefficient = 0.9
    eps: float = 1e-6
    weight_decay: Coefficient = 0.0

    def __post_init__(self) -> None:
        check_size("lr", self.lr)
        check_coefficient("rho", self.rho, 0, 1)
        check_number("eps", self.eps, 1e-36)
        check_size("weight_decay", self.weight_decay)

    def init(self, params: PyTree) -> AdadeltaSlots:
        """Return zero mean squares."""
        check_real(self, params)
        return AdadeltaSlots(zeros(params), zeros(params))

    def _update(self, now: Leaves) -> State:
        lr, rho, eps = now.value("lr", self.lr), now.value("rho", self.rho), self.eps
        now.add_penalty(self.weight_decay)
        rest, u = each(one_minus, rho), now.flat(now.state.slots.u)
        v = each(average_square, now.flat(now.state.slots.v), now.g, rho, rest)
        d = each(lambda g, u, v: torch.sqrt(u + eps) / torch.sqrt(v + eps) * g, now.g, u, v)
        u = each(average_square, u, d, rho, rest)
        return State(now.tree(each(subtract_scaled, now.w, d, lr)), AdadeltaSlots(now.tree(v), now.tree(u)))
