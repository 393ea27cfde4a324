"""AdamW: Adam with decoupled weight decay."""

from __future__ import annotations

from dataclasses import dataclass

from lds.updaters._adam import Adam
from lds.updaters._coefficient import Coefficient


@dataclass(frozen=True)
class AdamW(Adam):
    r"""Loshchilov and Hutter, `Decoupled Weight Decay Regularization <https://arxiv.org/abs/1711.05101>`_ (ICLR 2019).

    .. math:: w_{t+1} = (1 - \eta\lambda)\, w_t - \eta\, \hat m / \sqrt{\hat v + \epsilon^2}

    with m̂ and v̂ those of `Adam` without weight decay. The update is `torch.optim.AdamW` but for ε, which stands inside
    the root for the reason that `Adam` gives.

    Args:
        lr: step size η, given as for `Adam`.
        betas: decay rates (β₁, β₂), given as `lr` is.
        eps: ε, at least 1e-18.
        weight_decay: λ, given as `lr` is.
        amsgrad: as for `Adam`.
        maximize: go up the inner objective: −∇L stands in for ∇L.

    Raises:
        InputError: a constant coefficient outside its range.

    Example:
        >>> import torch
        >>> from lds.hypergrad import hypergradient
        >>> from lds.updaters import AdamW
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> hypergradient(*problem, updater=AdamW(lr=0.1, weight_decay=0.01), steps=2).grad
        tensor(0.0065)
    """

    weight_decay: Coefficient = 1e-2

    def _decoupled(self) -> bool:
        return True
