"""Adam, differentiable where a gradient is zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import optree
import torch

from lds._updater import GradientUpdater, PyTree, State
from lds.updaters._coefficient import (
    Coefficient,
    add_scaled,
    average,
    average_square,
    check_eps,
    check_real,
    check_share,
    check_size,
    each,
    is_zero,
    one_minus,
    resolve,
    zeros,
)


class AdamSlots(NamedTuple):
    """Slots of `Adam` and `AdamW`: first and second moments (pytrees like params) and the number of steps taken."""

    m: PyTree
    v: PyTree
    steps: int


@dataclass(frozen=True)
class Adam(GradientUpdater):
    r"""Adam with ε inside the root, from Kingma and Ba, `Adam <https://arxiv.org/abs/1412.6980>`_ (ICLR 2015).

    .. math::
        g_t = \nabla_w L(w_t) + \lambda w_t, \quad
        m_{t+1} = \beta_1 m_t + (1-\beta_1) g_t, \quad v_{t+1} = \beta_2 v_t + (1-\beta_2) g_t^2, \quad
        w_{t+1} = w_t - \eta\, \hat m / \sqrt{\hat v + \epsilon^2}

    with the bias corrections m̂ = m_{t+1}/(1−β₁^{t+1}) and v̂ = v_{t+1}/(1−β₂^{t+1}). The update is `torch.optim.Adam`
    but for ε: √v̂ + ε has an infinite derivative at v̂ = 0 (an unused weight), which turns a hypergradient into NaN.

    Args:
        lr: step size η; a constant (number or tensor), a function of the outer variables such as
            `lambda outer: outer["lr"]`, or a schedule. Its value is a scalar for all params or a pytree like params.
        betas: decay rates (β₁, β₂), each given likewise.
        eps: ε, at least 1e-18 (its square must be a normal float32).
        weight_decay: λ of the penalty λ/2 ‖w‖², given as `lr` is.

    Raises:
        InputError: a constant coefficient outside its range.
    """

    lr: Coefficient = 1e-3
    betas: tuple[Coefficient, Coefficient] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: Coefficient = 0.0

    def __post_init__(self) -> None:
        check_size("lr", self.lr)
        check_share("betas[0]", self.betas[0])
        check_share("betas[1]", self.betas[1])
        check_eps(self.eps)
        check_size("weight_decay", self.weight_decay)

    def init(self, params: PyTree) -> AdamSlots:
        """Return zero moments and a zero count."""
        check_real(self, params)
        return AdamSlots(zeros(params), zeros(params), 0)

    def update(self, grads: PyTree, state: State, outer: PyTree) -> State:
        """Return the state after one step of Adam."""
        w, spec = optree.tree_flatten(state.params)
        g = spec.flatten_up_to(grads)
        lr = resolve("lr", self.lr, w, state, outer)
        if not is_zero(self.weight_decay):
            g = each(add_scaled, g, w, resolve("weight_decay", self.weight_decay, w, state, outer))
        return self._move(w, g, lr, spec, state, outer)

    def _move(self, w: list[Any], g: list[Any], lr: Any, spec: optree.PyTreeSpec, state: State, outer: PyTree) -> State:
        """Return the state after one step from the leaves w along the leaves g, without weight decay."""
        beta1 = resolve("betas[0]", self.betas[0], w, state, outer)
        beta2 = resolve("betas[1]", self.betas[1], w, state, outer)
        count, squared_eps = state.slots.steps + 1, self.eps**2
        correction1 = each(lambda beta: 1 - beta**count, beta1)
        correction2 = each(lambda beta: 1 - beta**count, beta2)
        m = each(average, spec.flatten_up_to(state.slots.m), g, beta1, each(one_minus, beta1))
        v = each(average_square, spec.flatten_up_to(state.slots.v), g, beta2, each(one_minus, beta2))
        # The corrections go into the rate and ε: one operation less on every leaf, and in float32 v is not divided by
        # a small number and squared ε added to it, which loses digits of the derivative.
        rate = each(lambda lr, c1, c2: lr * c2**0.5 / c1, lr, correction1, correction2)
        floor = each(lambda correction: squared_eps * correction, correction2)
        w = each(lambda w, m, v, rate, floor: w - rate * m / torch.sqrt(v + floor), w, m, v, rate, floor)
        slots = AdamSlots(spec.unflatten(m), spec.unflatten(v), count)
        return State(spec.unflatten(w), slots)
