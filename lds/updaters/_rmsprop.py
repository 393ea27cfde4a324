"""RMSprop, differentiable where a gradient is zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from lds._updater import PyTree, State
from lds.updaters._coefficient import (
    Coefficient,
    Descent,
    Leaves,
    add_scaled,
    average,
    average_square,
    check_coefficient,
    check_eps,
    check_real,
    check_share,
    check_size,
    each,
    is_zero,
    one_minus,
    subtract_scaled,
    zeros,
)


class RMSpropSlots(NamedTuple):
    """Slots of `RMSprop`: mean square and mean of the gradients, momentum; pytrees like params, () where not kept.

    Example:
        >>> import torch
        >>> from lds.updaters import RMSprop
        >>> RMSprop().init(torch.zeros(2))
        RMSpropSlots(v=tensor([0., 0.]), mean=(), b=())
    """

    v: PyTree
    mean: PyTree
    b: PyTree


@dataclass(frozen=True)
class RMSprop(Descent):
    r"""RMSprop with ε inside the root, from Hinton's lecture 6e of "Neural Networks for Machine Learning" (2012).

    .. math::
        g_t = \nabla_w L(w_t) + \lambda w_t, \quad v_{t+1} = \alpha v_t + (1-\alpha) g_t^2, \quad
        b_{t+1} = \mu b_t + g_t / \sqrt{v_{t+1} + \epsilon^2}, \quad w_{t+1} = w_t - \eta\, b_{t+1}

    Centered (Graves, https://arxiv.org/abs/1308.0850), the root is that of v − ḡ² + ε² with the running mean
    ḡ_{t+1} = α ḡ_t + (1−α) g_t. The update is `torch.optim.RMSprop` but for ε, which stands inside the root for the
    reason that `Adam` gives, and for rounding: where it makes v − ḡ² negative, 0 stands in (torch gets NaN).

    Args:
        lr: step size η; a constant (number or tensor), a function of the outer variables such as
            `lambda outer: outer["lr"]`, or a schedule. Its value is a scalar for all params, or a pytree like params or
            like their upper part.
        alpha: decay rate α, given as `lr` is.
        eps: ε, at least 1e-18 (its square must be a normal float32).
        weight_decay: λ, given as `lr` is.
        momentum: μ, given as `lr` is; the constant 0 keeps no slots for it.
        centered: subtract the square of the mean gradient.
        maximize: go up the inner objective: −∇L stands in for ∇L.

    Raises:
        InputError: a constant coefficient outside its range.

    Example:
        >>> import torch
        >>> from lds.hypergrad import hypergradient
        >>> from lds.updaters import RMSprop
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> hypergradient(*problem, updater=RMSprop(lr=0.1), steps=2).grad
        tensor(1.9999)
    """

    lr: Coefficient = 1e-2
    alpha: Coefficient = 0.99
    eps: float = 1e-8
    weight_decay: Coefficient = 0.0
    momentum: Coefficient = 0.0
    centered: bool = False

    def __post_init__(self) -> None:
        check_size("lr", self.lr)
        check_share("alpha", self.alpha)
        check_eps(self.eps)
        check_size("weight_decay", self.weight_decay)
        check_coefficient("momentum", self.momentum, 0, 1)

    def init(self, params: PyTree) -> RMSpropSlots:
        """Return zeros for what is kept."""
        check_real(self, params)
        mean = zeros(params) if self.centered else ()
        return RMSpropSlots(zeros(params), mean, () if is_zero(self.momentum) else zeros(params))

    def _update(self, now: Leaves) -> State:
        lr, alpha = now.value("lr", self.lr), now.value("alpha", self.alpha)
        rest, squared_eps = each(one_minus, alpha), self.eps**2
        now.add_penalty(self.weight_decay)
        slots = now.state.slots
        v = each(average_square, now.flat(slots.v), now.g, alpha, rest)
        slots = slots._replace(v=now.tree(v))
        if self.centered:
            mean = each(average, now.flat(slots.mean), now.g, alpha, rest)
            slots = slots._replace(mean=now.tree(mean))
            v = each(lambda v, mean: torch.clamp(v - mean * mean, min=0), v, mean)
        d = each(lambda g, v: g / torch.sqrt(v + squared_eps), now.g, v)
        if not is_zero(self.momentum):
            d = each(add_scaled, d, now.flat(slots.b), now.value("momentum", self.momentum))
            slots = slots._replace(b=now.tree(d))
        return State(now.tree(each(subtract_scaled, now.w, d, lr)), slots)
