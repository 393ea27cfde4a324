"""Lion: steps by the sign of the momentum."""

from __future__ import annotations

from dataclasses import dataclass

import optree
import torch

from lds._updater import GradientUpdater, PyTree, State
from lds.updaters._coefficient import (
    Coefficient,
    average,
    check_real,
    check_share,
    check_size,
    decayed,
    each,
    is_zero,
    one_minus,
    resolve,
    subtract_scaled,
    zeros,
)


@dataclass(frozen=True)
class Lion(GradientUpdater):
    r"""Chen et al., `Symbolic Discovery of Optimization Algorithms <https://arxiv.org/abs/2302.06675>`_ (NeurIPS 2023).

    .. math::
        w_{t+1} = (1 - \eta\lambda)\, w_t - \eta \operatorname{sign}(\beta_1 m_t + (1-\beta_1) g_t), \qquad
        m_{t+1} = \beta_2 m_t + (1-\beta_2) g_t

    The derivative of the sign is zero wherever it has one. So nothing flows back through gradients and momentum: the
    hypergradient with respect to what only the inner objective or the betas see is zero, and that with respect to
    η, λ and w_0 is exact.

    Args:
        lr: step size η; a constant (number or tensor), a function of the outer variables such as
            `lambda outer: outer["lr"]`, or a schedule. Its value is a scalar for all params or a pytree like params.
        betas: decay rates (β₁, β₂), each given likewise.
        weight_decay: λ, given as `lr` is.

    Raises:
        InputError: a constant coefficient outside its range.
    """

    lr: Coefficient = 1e-4
    betas: tuple[Coefficient, Coefficient] = (0.9, 0.99)
    weight_decay: Coefficient = 0.0

    def __post_init__(self) -> None:
        check_size("lr", self.lr)
        check_share("betas[0]", self.betas[0])
        check_share("betas[1]", self.betas[1])
        check_size("weight_decay", self.weight_decay)

    def init(self, params: PyTree) -> PyTree:
        """Return zero momentum."""
        check_real(self, params)
        return zeros(params)

    def update(self, grads: PyTree, state: State, outer: PyTree) -> State:
        """Return the state after one step of Lion."""
        w, spec = optree.tree_flatten(state.params)
        g = spec.flatten_up_to(grads)
        m = spec.flatten_up_to(state.slots)
        lr = resolve("lr", self.lr, w, state, outer)
        beta1 = resolve("betas[0]", self.betas[0], w, state, outer)
        beta2 = resolve("betas[1]", self.betas[1], w, state, outer)
        if not is_zero(self.weight_decay):
            decay = resolve("weight_decay", self.weight_decay, w, state, outer)
            w = each(decayed, w, lr, decay)
        d = each(torch.sign, each(average, m, g, beta1, each(one_minus, beta1)))
        m = each(average, m, g, beta2, each(one_minus, beta2))
        w = each(subtract_scaled, w, d, lr)
        return State(spec.unflatten(w), spec.unflatten(m))
