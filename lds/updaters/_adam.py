"""Adam, differentiable where a gradient is zero; and what its relatives share: running means, and their bias."""

from __future__ import annotations

import operator
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lds._updater import PyTree, State
from lds.updaters._coefficient import (
    Coefficient,
    Descent,
    Leaves,
    average,
    average_square,
    check_eps,
    check_real,
    check_share,
    check_size,
    each,
    one_minus,
    zeros,
)


class AdamSlots(NamedTuple):
    """Slots of `Adam` and its relatives: pytrees like params, and the number of steps taken.

    Attributes:
        m: first moments.
        v: second moments; of `Adamax`, decayed largest gradients.
        steps: number of steps taken.
        largest: largest second moments so far, with `amsgrad`; () without.

    Example:
        >>> import torch
        >>> from lds.updaters import Adam
        >>> Adam().init(torch.zeros(2))
        AdamSlots(m=tensor([0., 0.]), v=tensor([0., 0.]), steps=0, largest=())
    """

    m: PyTree
    v: PyTree
    steps: int
    largest: PyTree = ()


@dataclass(frozen=True)
class Moments(Descent):
    """An updater with Adam's coefficients and first moments."""

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

    def init(self, params: PyTree) -> PyTree:
        """Return zero moments and a zero count."""
        check_real(self, params)
        return AdamSlots(zeros(params), zeros(params), 0)

    def _decoupled(self) -> bool:
        """Tell whether weight decay shrinks the weights themselves and is no part of the gradient."""
        return False

    def _update(self, now: Leaves) -> State:
        lr = now.value("lr", self.lr)
        if self._decoupled():
            now.decay(lr, self.weight_decay)
        else:
            now.add_penalty(self.weight_decay)
        beta1, beta2 = now.value("betas[0]", self.betas[0]), now.value("betas[1]", self.betas[1])
        m = each(average, now.flat(now.state.slots.m), now.g, beta1, each(one_minus, beta1))
        return self._move(now, now.state.slots.steps + 1, lr, beta1, beta2, m)

    @abstractmethod
    def _move(self, now: Leaves, count: int, lr: Any, beta1: Any, beta2: Any, m: list[Any]) -> State:
        """Return the state after step number `count`, the new first moments of which are m."""


def second_moments(now: Leaves, beta2: Any) -> list[Any]:
    """Return the new running means of the squared gradients."""
    v: list[Any] = each(average_square, now.flat(now.state.slots.v), now.g, beta2, each(one_minus, beta2))
    return v


def corrections(beta: Any, count: int) -> Any:
    """Return 1 − βᵗ, the share of a running mean that t gradients make up."""
    return each(lambda beta: 1 - beta**count, beta)


@dataclass(frozen=True)
class Adam(Moments):
    r"""Adam with ε inside the root, from Kingma and Ba, `Adam <https://arxiv.org/abs/1412.6980>`_ (ICLR 2015).

    .. math::
        g_t = \nabla_w L(w_t) + \lambda w_t, \quad
        m_{t+1} = \beta_1 m_t + (1-\beta_1) g_t, \quad v_{t+1} = \beta_2 v_t + (1-\beta_2) g_t^2, \quad
        w_{t+1} = w_t - \eta\, \hat m / \sqrt{\hat v + \epsilon^2}

    with the bias corrections m̂ = m_{t+1}/(1−β₁^{t+1}) and v̂ = v_{t+1}/(1−β₂^{t+1}). The update is `torch.optim.Adam`
    but for ε: √v̂ + ε has an infinite derivative at v̂ = 0 (an unused weight), which turns a hypergradient into NaN.

    Args:
        lr: step size η; a constant (number or tensor), a function of the outer variables such as
            `lambda outer: outer["lr"]`, or a schedule. Its value is a scalar for all params, or a pytree like params or
            like their upper part.
        betas: decay rates (β₁, β₂), each given as `lr` is.
        eps: ε, at least 1e-18 (its square must be a normal float32).
        weight_decay: λ of the penalty λ/2 ‖w‖², given as `lr` is.
        amsgrad: put the largest v so far in the place of v (Reddi et al., `On the Convergence of Adam and Beyond
            <https://arxiv.org/abs/1904.09237>`_, ICLR 2018). The derivative is that of the larger of the two, and half
            of each where they are equal.
        maximize: go up the inner objective: −∇L stands in for ∇L.

    Raises:
        InputError: a constant coefficient outside its range.

    Example:
        >>> import torch
        >>> from lds.hypergrad import hypergradient
        >>> from lds.updaters import Adam
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> hypergradient(*problem, updater=Adam(lr=0.1), steps=2).grad
        tensor(0.0063)
    """

    amsgrad: bool = False

    def init(self, params: PyTree) -> AdamSlots:
        """Return zero moments and a zero count."""
        slots: AdamSlots = super().init(params)
        return slots._replace(largest=zeros(params)) if self.amsgrad else slots

    def _move(self, now: Leaves, count: int, lr: Any, beta1: Any, beta2: Any, m: list[Any]) -> State:
        squared_eps = self.eps**2
        v = second_moments(now, beta2)
        slots = AdamSlots(now.tree(m), now.tree(v), count)
        if self.amsgrad:
            v = each(torch.maximum, now.flat(now.state.slots.largest), v)
            slots = slots._replace(largest=now.tree(v))
        correction1, correction2 = corrections(beta1, count), corrections(beta2, count)
        # The corrections go into the rate and ε: one operation less on every leaf, and in float32 v is not divided by
        # a small number and squared ε added to it, which loses digits of the derivative.
        rate = each(lambda lr, c1, c2: lr * c2**0.5 / c1, lr, correction1, correction2)
        floor = each(lambda correction: squared_eps * correction, correction2)
        w = each(_moved, now.w, m, each(operator.add, v, floor), rate)
        return State(now.tree(w), slots)


def _moved(w: Tensor, m: Tensor, square: Tensor, rate: Any) -> Tensor:
    """Return w − rate · m / √square."""
    if type(rate) is float:
        return torch.addcdiv(w, m, square.sqrt(), value=-rate)
    moved: Tensor = w - rate * m / square.sqrt()
    return moved
