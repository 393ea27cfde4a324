"""Coefficients that change from step to step.

Every schedule counts with `State.step`, which goes on after a warm start: in an outer loop that starts each time where
the last one ended, a learned `PerStep` of T values is past its end from the second outer step on, where all but the
last have a hypergradient of zero. Put it into `Restart(…, T)`, or begin with `state._replace(step=0)`.

The numbers of a schedule are coefficients themselves: numbers, tensors, functions of the outer variables, or other
schedules. A schedule of your own is any object with a method `at(step, outer)`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import optree
from torch import Tensor

from lds._updater import PyTree
from lds.errors import InputError
from lds.updaters._coefficient import Coefficient, check_coefficient, evaluate

__all__ = ["Cosine", "Exponential", "Linear", "PerStep", "Piecewise", "Restart"]

_ANY = (-math.inf, math.inf)


@dataclass(frozen=True)
class PerStep:
    r"""One value a step, :math:`c_t = v_{\min(t, n-1)}`: the last of n values is held.

    So values that are learned have a hypergradient of zero, but for the last, wherever all steps come after the first
    n: as in an outer loop with warm starts. `Restart(PerStep(…), n)` begins again every n steps.

    Args:
        values: v; a sequence of numbers, a vector, or a function of the outer variables that returns a vector (so that
            each step's value is learned) or a pytree like params of tensors with one row a step.

    Raises:
        InputError: there are no values, or they are of another kind.

    Example:
        >>> from lds.updaters import SGD
        >>> from lds.updaters.schedules import PerStep
        >>> updater = SGD(lr=PerStep([0.3, 0.2, 0.1]))
    """

    values: Sequence[float] | Tensor | Callable[[PyTree], PyTree]

    def __post_init__(self) -> None:
        values = self.values
        if isinstance(values, Tensor):
            _check_rows(values)
        elif not callable(values):
            if not isinstance(values, Sequence) or not values:
                raise InputError(f"PerStep needs at least one value, a vector or a function, got {values!r}")
            for index, value in enumerate(values):
                if not isinstance(value, float | int):
                    raise InputError(f"values[{index}] of PerStep must be a number, got {type(value).__name__}")

    def at(self, step: int, outer: PyTree = None) -> PyTree:
        """Return the value in a step."""
        values = self.values
        if not callable(values):
            return values[min(step, len(values) - 1)]

        def row(x: Tensor) -> Tensor:
            _check_rows(x)
            return x[min(step, len(x) - 1)]

        return optree.tree_map(row, values(outer))


@dataclass(frozen=True)
class Linear:
    r"""From one value to another in a straight line, :math:`(1-s)\,a + s\,b` with :math:`s = \min(t/n, 1)`; a warm-up.

    Args:
        start: a.
        end: b, held from step n on.
        steps: n ≥ 1.

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> from lds.updaters import SGD
        >>> from lds.updaters.schedules import Linear
        >>> updater = SGD(lr=Linear(0.1, 0.0, steps=10))
    """

    start: Coefficient
    end: Coefficient
    steps: int

    def __post_init__(self) -> None:
        _check_ends(self)

    def at(self, step: int, outer: PyTree = None) -> PyTree:
        """Return the value in a step."""
        return _between(self, min(step / self.steps, 1.0), step, outer)


@dataclass(frozen=True)
class Cosine:
    r"""From one value to another along half a cosine, as in `SGDR <https://arxiv.org/abs/1608.03983>`_ (ICLR 2017).

    .. math:: (1-s)\,a + s\,b, \qquad s = (1 - \cos(\pi \min(t/n, 1))) / 2

    Args:
        start: a.
        end: b, held from step n on.
        steps: n ≥ 1.

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> from lds.updaters import SGD
        >>> from lds.updaters.schedules import Cosine
        >>> updater = SGD(lr=Cosine(0.1, 0.0, steps=10))
    """

    start: Coefficient
    end: Coefficient
    steps: int

    def __post_init__(self) -> None:
        _check_ends(self)

    def at(self, step: int, outer: PyTree = None) -> PyTree:
        """Return the value in a step."""
        return _between(self, (1 - math.cos(math.pi * min(step / self.steps, 1.0))) / 2, step, outer)


@dataclass(frozen=True)
class Exponential:
    r"""A geometric sequence, :math:`c_t = a\,\gamma^t`.

    Args:
        start: a.
        rate: γ.

    Raises:
        InputError: an argument is no coefficient.

    Example:
        >>> from lds.updaters import SGD
        >>> from lds.updaters.schedules import Exponential
        >>> updater = SGD(lr=Exponential(0.1, 0.5))
    """

    start: Coefficient
    rate: Coefficient

    def __post_init__(self) -> None:
        check_coefficient("start", self.start, *_ANY)
        check_coefficient("rate", self.rate, *_ANY)

    def at(self, step: int, outer: PyTree = None) -> PyTree:
        """Return the value in a step."""
        start, rate = evaluate(self.start, step, outer), evaluate(self.rate, step, outer)
        return optree.tree_broadcast_map(lambda a, b: a * b**step, start, rate)


@dataclass(frozen=True)
class Piecewise:
    """One coefficient after another; a schedule among them counts from the beginning of its piece.

    A warm-up of 10 steps before a cosine: `Piecewise([Linear(0, 0.1, 10), Cosine(0.1, 0, 90)], boundaries=[10])`.

    Args:
        pieces: the coefficients, one more than boundaries.
        boundaries: the steps at which the second piece, the third and so on begin, increasing.

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> from lds.updaters import SGD
        >>> from lds.updaters.schedules import Piecewise
        >>> updater = SGD(lr=Piecewise([0.1, 0.01], boundaries=[5]))
    """

    pieces: Sequence[Coefficient]
    boundaries: Sequence[int]

    def __post_init__(self) -> None:
        boundaries = list(self.boundaries)
        if len(self.pieces) != len(boundaries) + 1:
            raise InputError(
                f"Piecewise needs one piece more than boundaries, got {len(self.pieces)} pieces and "
                f"{len(boundaries)} boundaries"
            )
        for index, piece in enumerate(self.pieces):
            check_coefficient(f"pieces[{index}]", piece, *_ANY)
        if any(not _is_count(x) for x in boundaries) or boundaries != sorted(set(boundaries)):
            raise InputError(f"boundaries must be increasing integers >= 1, got {self.boundaries!r}")

    def at(self, step: int, outer: PyTree = None) -> PyTree:
        """Return the value in a step."""
        index = bisect_right(self.boundaries, step)
        return evaluate(self.pieces[index], step - (self.boundaries[index - 1] if index else 0), outer)


@dataclass(frozen=True)
class Restart:
    r"""A schedule that begins again every n steps, :math:`c_{t \bmod n}`.

    `Restart(Cosine(0.1, 0, 50), 50)` is SGDR, the warm restarts of `Loshchilov and Hutter
    <https://arxiv.org/abs/1608.03983>`_ (ICLR 2017); `Restart(PerStep(lambda outer: outer["lrs"]), T)` gives every call
    of T steps in an outer loop with warm starts the same T values to learn.

    Args:
        schedule: what begins again.
        every: n ≥ 1.

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> from lds.updaters import SGD
        >>> from lds.updaters.schedules import PerStep, Restart
        >>> updater = SGD(lr=Restart(PerStep([0.3, 0.1]), every=2))
    """

    schedule: Coefficient
    every: int

    def __post_init__(self) -> None:
        check_coefficient("schedule", self.schedule, *_ANY)
        if not _is_count(self.every):
            raise InputError(f"every must be an integer >= 1, got {self.every!r}")

    def at(self, step: int, outer: PyTree = None) -> PyTree:
        """Return the value in a step."""
        return evaluate(self.schedule, step % self.every, outer)


def _between(schedule: Linear | Cosine, share: float, step: int, outer: PyTree) -> PyTree:
    """Return (1 − share)·start + share·end."""
    start, end = evaluate(schedule.start, step, outer), evaluate(schedule.end, step, outer)
    return optree.tree_broadcast_map(lambda a, b: (1 - share) * a + share * b, start, end)


def _check_ends(schedule: Linear | Cosine) -> None:
    check_coefficient("start", schedule.start, *_ANY)
    check_coefficient("end", schedule.end, *_ANY)
    if not _is_count(schedule.steps):
        raise InputError(f"steps must be an integer >= 1, got {schedule.steps!r}")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _check_rows(x: Tensor) -> None:
    if not isinstance(x, Tensor) or x.ndim == 0 or len(x) == 0:
        found = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"PerStep needs at least one value, a tensor with one row a step, got {found}")
