"""Lion: steps by the sign of the momentum."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lds._updater import PyTree, State
from lds.updaters._coefficient import (
    Coefficient,
    Descent,
    Leaves,
    average,
    check_real,
    check_share,
    check_size,
    each,
    one_minus,
    subtract_scaled,
    zeros,
)


@dataclass(frozen=True)
class Lion(Descent):
    r"""Chen et al., `Symbolic Discovery of Optimization Algorithms <https://arxiv.org/abs/2302.06675>`_ (NeurIPS 2023).

    .. math::
        w_{t+1} = (1 - \eta\lambda)\, w_t - \eta \operatorname{sign}(\beta_1 m_t + (1-\beta_1) g_t), \qquad
        m_{t+1} = \beta_2 m_t + (1-\beta_2) g_t

    The derivative of the sign is zero wherever it has one. So nothing flows back through gradients and momentum: the
    hypergradient with respect to what only the inner objective or the betas see is zero, and that with respect to
    η, λ and w_0 is exact.

    Args:
        lr: step size η; a constant (number or tensor), a function of the outer variables such as
            `lambda outer: outer["lr"]`, or a schedule. Its value is a scalar for all params, or a pytree like params or
            like their upper part.
        betas: decay rates (β₁, β₂), each given as `lr` is.
        weight_decay: λ, given as `lr` is.
        maximize: go up the inner objective: −∇L stands in for ∇L.

    Raises:
        InputError: a constant coefficient outside its range.

    Example:
        >>> import torch
        >>> from lds.hypergrad import hypergradient
        >>> from lds.updaters import Lion
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> hypergradient(*problem, updater=Lion(lr=0.1), steps=2).grad
        tensor(0.)
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

    def _update(self, now: Leaves) -> State:
        m, lr = now.flat(now.state.slots), now.value("lr", self.lr)
        beta1, beta2 = now.value("betas[0]", self.betas[0]), now.value("betas[1]", self.betas[1])
        now.decay(lr, self.weight_decay)
        d = each(torch.sign, each(average, m, now.g, beta1, each(one_minus, beta1)))
        m = each(average, m, now.g, beta2, each(one_minus, beta2))
        return State(now.tree(each(subtract_scaled, now.w, d, lr)), now.tree(m))
