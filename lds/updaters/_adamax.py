"""Adamax: Adam with a running maximum in the place of the second moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from lds._updater import State
from lds.updaters._adam import AdamSlots, Moments, corrections
from lds.updaters._coefficient import Coefficient, Leaves, each


@dataclass(frozen=True)
class Adamax(Moments):
    r"""Adamax, from section 7 of Kingma and Ba, `Adam <https://arxiv.org/abs/1412.6980>`_ (ICLR 2015).

    .. math::
        g_t = \nabla_w L(w_t) + \lambda w_t, \quad m_{t+1} = \beta_1 m_t + (1-\beta_1) g_t, \quad
        u_{t+1} = \max(\beta_2 u_t,\, |g_t| + \epsilon), \quad
        w_{t+1} = w_t - \frac{\eta}{1 - \beta_1^{t+1}}\, m_{t+1} / u_{t+1}

    as `torch.optim.Adamax` does it. The derivative of the maximum is that of the larger of the two, and half of each
    where they are equal; that of the absolute value is 0 at 0. Both are exact but on a set of measure zero.

    Args:
        lr: step size η, given as for `Adam`.
        betas: decay rates (β₁, β₂), given as `lr` is.
        eps: ε, at least 1e-18.
        weight_decay: λ, given as `lr` is.
        maximize: go up the inner objective: −∇L stands in for ∇L.

    Raises:
        InputError: a constant coefficient outside its range.

    Example:
        >>> import torch
        >>> from lds.hypergrad import hypergradient
        >>> from lds.updaters import Adamax
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> hypergradient(*problem, updater=Adamax(lr=0.1), steps=2).grad
        tensor(0.0342)
    """

    lr: Coefficient = 2e-3

    def _move(self, now: Leaves, count: int, lr: Any, beta1: Any, beta2: Any, m: list[Any]) -> State:
        eps = self.eps
        u = each(lambda u, g, beta: torch.maximum(beta * u, g.abs() + eps), now.flat(now.state.slots.v), now.g, beta2)
        rate = each(lambda lr, correction: lr / correction, lr, corrections(beta1, count))
        w = each(lambda w, m, u, rate: w - rate * m / u, now.w, m, u, rate)
        return State(now.tree(w), AdamSlots(now.tree(m), now.tree(u), count))
