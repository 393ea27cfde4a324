"""Adam, differentiable where a gradient is zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import optree
import torch

from lds.updaters._coefficient import Coefficient, check_constant, resolve
from lds.updaters._protocol import Objective, PyTree, State, gradient


class AdamSlots(NamedTuple):
    """Slots of `Adam`: first and second moments (pytrees like params) and the number of steps taken."""

    m: PyTree
    v: PyTree
    steps: int


@dataclass(frozen=True)
class Adam:
    r"""Adam with ε inside the root, from Kingma and Ba, `Adam <https://arxiv.org/abs/1412.6980>`_ (ICLR 2015).

    .. math::
        m_{t+1} = \beta_1 m_t + (1-\beta_1) g_t, \quad v_{t+1} = \beta_2 v_t + (1-\beta_2) g_t^2, \quad
        w_{t+1} = w_t - \eta\, \hat m / \sqrt{\hat v + \epsilon^2}

    with the bias corrections m̂ = m_{t+1}/(1−β₁^{t+1}) and v̂ = v_{t+1}/(1−β₂^{t+1}). The update is `torch.optim.Adam`
    but for ε: √v̂ + ε has an infinite derivative at v̂ = 0 (an unused weight), which turns a hypergradient into NaN.

    Args:
        lr: step size η; a number, a tensor, or a function of the outer variables, e.g. `lambda outer: outer["lr"]`.
        betas: decay rates (β₁, β₂), each given likewise.
        eps: ε, at least 1e-18 (its square must be a normal float32).

    Raises:
        InputError: a constant coefficient outside its range.
    """

    lr: Coefficient = 1e-3
    betas: tuple[Coefficient, Coefficient] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        check_constant("lr", self.lr, 0, float("inf"), high_open=True)
        check_constant("betas[0]", self.betas[0], 0, 1, high_open=True)
        check_constant("betas[1]", self.betas[1], 0, 1, high_open=True)
        check_constant("eps", self.eps, 1e-18, float("inf"), high_open=True)

    def init(self, params: PyTree) -> AdamSlots:
        """Return zero moments and a zero count."""

        def zeros() -> PyTree:
            return optree.tree_map(lambda x: x.new_zeros(x.shape), params)

        return AdamSlots(zeros(), zeros(), 0)

    def step(self, state: State, outer: PyTree, inner: Objective) -> State:
        """Return the state after one step of Adam."""
        lr, beta1, beta2 = (resolve(c, outer) for c in (self.lr, *self.betas))
        count = state.slots.steps + 1
        correction1, correction2 = 1 - beta1**count, 1 - beta2**count
        grads = gradient(inner, state.params, outer)
        m = optree.tree_map(lambda m, g: beta1 * m + (1 - beta1) * g, state.slots.m, grads)
        v = optree.tree_map(lambda v, g: beta2 * v + (1 - beta2) * g * g, state.slots.v, grads)
        params = optree.tree_map(
            lambda w, m, v: w - lr / correction1 * m / torch.sqrt(v / correction2 + self.eps**2),
            state.params,
            m,
            v,
        )
        return State(params, AdamSlots(m, v, count))
