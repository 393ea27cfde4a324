"""RAdam: Adam that waits until its second moments are worth something."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds._updater import State
from lds.updaters._adam import AdamSlots, Moments, corrections, second_moments
from lds.updaters._coefficient import Leaves, each


@dataclass(frozen=True)
class RAdam(Moments):
    r"""Liu et al., `On the Variance of the Adaptive Learning Rate <https://arxiv.org/abs/1908.03265>`_ (ICLR 2020).

    .. math::
        \rho_\infty = \frac{2}{1-\beta_2} - 1, \quad
        \rho_t = \rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t}, \quad
        w_t = w_{t-1} - \eta\, \hat m_t \begin{cases}
        \sqrt{\frac{(\rho_t-4)(\rho_t-2)\rho_\infty}{(\rho_\infty-4)(\rho_\infty-2)\rho_t}}
        \sqrt{1-\beta_2^t} / \sqrt{v_t + \epsilon^2} & \rho_t > 5 \\ 1 & \text{else} \end{cases},
        \quad t = 1, 2, …

    with g, m̂ and v those of `Adam`. The update is `torch.optim.RAdam` but for ε, which stands inside the root for the
    reason that `Adam` gives. The update jumps at ρ_t = 5; the derivative in β₂ is that of the side it is on.

    Args:
        lr: step size η, given as for `Adam`.
        betas: decay rates (β₁, β₂), given as `lr` is.
        eps: ε, at least 1e-18.
        weight_decay: λ, given as `lr` is.
        decoupled_weight_decay: shrink the weights by 1 − ηλ, as `AdamW` does, in place of the penalty of `Adam`.
        maximize: go up the inner objective: −∇L stands in for ∇L.

    Raises:
        InputError: a constant coefficient outside its range.

    Example:
        >>> import torch
        >>> from lds.hypergrad import hypergradient
        >>> from lds.updaters import RAdam
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> hypergradient(*problem, updater=RAdam(lr=0.1), steps=2).grad
        tensor(0.6143)
    """

    decoupled_weight_decay: bool = False

    def _decoupled(self) -> bool:
        return self.decoupled_weight_decay

    def _move(self, now: Leaves, count: int, lr: Any, beta1: Any, beta2: Any, m: list[Any]) -> State:
        v, squared_eps = second_moments(now, beta2), self.eps**2

        def factor(v: Tensor, beta: Any) -> Any:
            correction = 1 - beta**count
            limit = 2 / (1 - beta) - 1
            length = limit - 2 * count * beta**count / correction
            long = length > 5
            if isinstance(long, Tensor):
                # The branch that is not taken must be finite all the same: its derivative is multiplied by zero.
                limit, length = torch.where(long, limit, 7.0), torch.where(long, length, 6.0)
            elif not long:
                return 1.0
            rectified = (length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length)
            adaptive = (rectified * correction) ** 0.5 / torch.sqrt(v + squared_eps)
            return torch.where(long, adaptive, 1.0) if isinstance(long, Tensor) else adaptive

        rate = each(lambda lr, correction: lr / correction, lr, corrections(beta1, count))
        w = each(lambda w, m, rate, factor: w - rate * m * factor, now.w, m, rate, each(factor, v, beta2))
        return State(now.tree(w), AdamSlots(now.tree(m), now.tree(v), count))
