"""NAdam: Adam with Nesterov momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import optree
import torch

from lds._updater import PyTree, State
from lds.updaters._adam import Moments, corrections, second_moments
from lds.updaters._coefficient import Coefficient, Leaves, check_real, check_size, each, zeros


class NAdamSlots(NamedTuple):
    """Slots of `NAdam`.

    Attributes:
        m: first moments, a pytree like params.
        v: second moments, likewise.
        steps: number of steps taken.
        product: μ₁μ₂⋯; a number where it depends on numbers alone, else a pytree like params.

    Example:
        >>> import torch
        >>> from lds.updaters import NAdam
        >>> NAdam().init(torch.zeros(2))
        NAdamSlots(m=tensor([0., 0.]), v=tensor([0., 0.]), steps=0, product=1.0)
    """

    m: PyTree
    v: PyTree
    steps: int
    product: PyTree


@dataclass(frozen=True)
class NAdam(Moments):
    r"""NAdam, from Dozat, `Incorporating Nesterov Momentum into Adam
    <https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ>`_ (ICLR workshop 2016).

    .. math::
        \mu_t = \beta_1 (1 - 0.96^{t\psi}/2), \quad
        w_t = w_{t-1} - \eta \left( \frac{1 - \mu_t}{1 - \prod_{i \le t} \mu_i}\, g_t
        + \frac{\mu_{t+1}}{1 - \prod_{i \le t+1} \mu_i}\, m_t \right) / \sqrt{\hat v_t + \epsilon^2}, \quad t = 1, 2, …

    with g, m and v̂ those of `Adam`. The update is `torch.optim.NAdam` but for ε, which stands inside the root for the
    reason that `Adam` gives.

    Args:
        lr: step size η, given as for `Adam`.
        betas: decay rates (β₁, β₂), given as `lr` is.
        eps: ε, at least 1e-18.
        weight_decay: λ, given as `lr` is.
        momentum_decay: ψ, given as `lr` is.
        decoupled_weight_decay: shrink the weights by 1 − ηλ, as `AdamW` does, in place of the penalty of `Adam`.
        maximize: go up the inner objective: −∇L stands in for ∇L.

    Raises:
        InputError: a constant coefficient outside its range.

    Example:
        >>> import torch
        >>> from lds.hypergrad import hypergradient
        >>> from lds.updaters import NAdam
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> hypergradient(*problem, updater=NAdam(lr=0.1), steps=2).grad
        tensor(0.0336)
    """  # noqa: D205 (The title of the paper does not fit on a line.)

    lr: Coefficient = 2e-3
    momentum_decay: Coefficient = 4e-3
    decoupled_weight_decay: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size("momentum_decay", self.momentum_decay)

    def init(self, params: PyTree) -> NAdamSlots:
        """Return zero moments, a zero count, and products of one."""
        check_real(self, params)
        constant = all(isinstance(x, float | int) for x in (self.betas[0], self.momentum_decay))
        ones = 1.0 if constant else optree.tree_map(torch.ones_like, params)
        return NAdamSlots(zeros(params), zeros(params), 0, ones)

    def _decoupled(self) -> bool:
        return self.decoupled_weight_decay

    def _move(self, now: Leaves, count: int, lr: Any, beta1: Any, beta2: Any, m: list[Any]) -> State:
        decay = now.value("momentum_decay", self.momentum_decay)
        mu, after = (each(lambda b, d, t=t: b * (1 - 0.96 ** (t * d) / 2), beta1, decay) for t in (count, count + 1))
        product = now.state.slots.product
        number = isinstance(product, float)
        product = each(lambda product, mu: product * mu, product if number else now.flat(product), mu)
        v, correction2 = second_moments(now, beta2), corrections(beta2, count)
        rate = each(lambda lr, c2: lr * c2**0.5, lr, correction2)
        of_g = each(lambda rate, mu, product: rate * (1 - mu) / (1 - product), rate, mu, product)
        of_m = each(lambda rate, mu, product: rate * mu / (1 - product * mu), rate, after, product)
        floor = each(lambda c2: self.eps**2 * c2, correction2)
        d = each(lambda g, m, of_g, of_m: of_g * g + of_m * m, now.g, m, of_g, of_m)
        w = each(lambda w, d, v, floor: w - d / torch.sqrt(v + floor), now.w, d, v, floor)
        slots = NAdamSlots(now.tree(m), now.tree(v), count, product if number else now.tree(product))
        return State(now.tree(w), slots)
