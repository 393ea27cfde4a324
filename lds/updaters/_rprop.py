"""Rprop: steps by the sign of the gradient, which grow while it stays the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lds._updater import PyTree, State
from lds.errors import InputError
from lds.updaters._coefficient import (
    Coefficient,
    Descent,
    Leaves,
    check_coefficient,
    check_number,
    check_real,
    check_size,
    each,
    zeros,
)


class RpropSlots(NamedTuple):
    """Slots of `Rprop`.

    Attributes:
        previous: gradients of the step before, 0 where a sign changed; a pytree like params.
        size: step sizes, likewise.
        steps: number of steps taken.

    Example:
        >>> import torch
        >>> from lds.updaters import Rprop
        >>> Rprop().init(torch.zeros(2))
        RpropSlots(previous=tensor([0., 0.]), size=tensor([0., 0.]), steps=0)
    """

    previous: PyTree
    size: PyTree
    steps: int


@dataclass(frozen=True)
class Rprop(Descent):
    r"""Riedmiller and Braun, `A direct adaptive method <https://doi.org/10.1109/ICNN.1993.298623>`_ (ICNN 1993).

    .. math::
        s_{t+1} = s_t \cdot \begin{cases} \eta_+ & g_t\, p_t > 0 \\ \eta_- & g_t\, p_t < 0 \\ 1 & \text{else}
        \end{cases} \text{, clipped to } [s_-, s_+], \quad
        p_{t+1} = \begin{cases} 0 & g_t\, p_t < 0 \\ g_t & \text{else} \end{cases}, \quad
        w_{t+1} = w_t - s_{t+1} \operatorname{sign}(p_{t+1})

    with s_0 = η and p_0 = 0, as `torch.optim.Rprop` does it. The derivative of the sign is zero wherever it has one, as
    for `Lion`: the hypergradient is exact in η, η₊, η₋ and w_0, and zero in what only the inner objective sees. A step
    size that is clipped passes on no derivative.

    Args:
        lr: initial step size η, given as for `SGD`; only its value in the first step counts.
        etas: (η₋, η₊), each given as `lr` is.
        step_sizes: (s₋, s₊), numbers.
        maximize: go up the inner objective: −∇L stands in for ∇L.

    Raises:
        InputError: a constant outside its range.

    Example:
        >>> import torch
        >>> from lds.hypergrad import hypergradient
        >>> from lds.updaters import Rprop
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> hypergradient(*problem, updater=Rprop(lr=0.1), steps=2).grad
        tensor(0.)
    """

    lr: Coefficient = 1e-2
    etas: tuple[Coefficient, Coefficient] = (0.5, 1.2)
    step_sizes: tuple[float, float] = (1e-6, 50.0)

    def __post_init__(self) -> None:
        check_size("lr", self.lr)
        check_coefficient("etas[0]", self.etas[0], 0, 1)
        check_coefficient("etas[1]", self.etas[1], 1, float("inf"), high_open=True)
        for index, size in enumerate(self.step_sizes):
            check_number(f"step_sizes[{index}]", size, 0)
        if self.step_sizes[0] > self.step_sizes[1]:
            raise InputError(f"step_sizes must be (smallest, largest), got {self.step_sizes!r}")

    def init(self, params: PyTree) -> RpropSlots:
        """Return zeros; the first step puts its sizes there."""
        check_real(self, params)
        return RpropSlots(zeros(params), zeros(params), 0)

    def _update(self, now: Leaves) -> State:
        slots = now.state.slots
        low, high = self.step_sizes
        smaller, larger = now.value("etas[0]", self.etas[0]), now.value("etas[1]", self.etas[1])
        sizes = now.flat(slots.size)
        if not slots.steps:
            sizes = each(lambda w, lr: lr * torch.ones_like(w), now.w, now.value("lr", self.lr))

        def resized(size: Tensor, g: Tensor, p: Tensor, smaller: Any, larger: Any) -> Tensor:
            one, product = torch.ones_like(g), g * p
            factor = torch.where(product > 0, larger * one, torch.where(product < 0, smaller * one, one))
            return (size * factor).clamp(low, high)

        previous = now.flat(slots.previous)
        sizes = each(resized, sizes, now.g, previous, smaller, larger)
        g = each(lambda g, p: torch.where(g * p < 0, torch.zeros_like(g), g), now.g, previous)
        w = each(lambda w, g, size: w - g.sign() * size, now.w, g, sizes)
        return State(now.tree(w), RpropSlots(now.tree(g), now.tree(sizes), slots.steps + 1))
