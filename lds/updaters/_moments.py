"""What Adam and its relatives share: running means of the gradients and of their squares, and their bias."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

from lds._updater import PyTree, State
from lds.updaters._coefficient import (
    Coefficient,
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
from lds.updaters._descent import Descent, Leaves


class AdamSlots(NamedTuple):
    """Slots of `Adam` and its relatives: pytrees like params, and the number of steps taken.

    Attributes:
        m: first moments.
        v: second moments; of `Adamax`, decayed largest gradients.
        steps: number of steps taken.
        largest: largest second moments so far, with `amsgrad`; () without.
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
