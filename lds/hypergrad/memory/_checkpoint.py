"""Keep a few iterates, compute the others again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lds.hypergrad._dynamics import Dynamics, Step, StepResult
from lds.hypergrad._guards import check_count
from lds.hypergrad._outer import copied
from lds.hypergrad.memory._states import Slab


@dataclass(frozen=True)
class Checkpoint:
    r"""Keep every k-th iterate; the sweep runs a segment of k steps again, then each of its steps with a graph.

    Chen et al., `Training Deep Nets with Sublinear Memory Cost <https://arxiv.org/abs/1604.06174>`_ (2016).

    Memory: horizon/k + k states, :math:`O(\sqrt{T})` at k = ⌈√horizon⌉. Time: two more runs of Φ than a plain unroll.

    Args:
        every: k ≥ 1; None takes ⌈√horizon⌉.

    Raises:
        InputError: `every` is no integer ≥ 1.

    Example:
        >>> import torch
        >>> from lds.hypergrad import Checkpoint, Reverse, hypergradient
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> hypergradient(*problem, updater=SGD(0.25), steps=2, method=Reverse(memory=Checkpoint())).grad
        tensor(0.9375)
    """

    every: int | None = None

    def __post_init__(self) -> None:
        if self.every is not None:
            check_count("every", self.every, least=1)

    def tape(self, dynamics: Dynamics, leaves: Sequence[Any], first: int, last: int) -> CheckpointTape:
        """Return an empty tape."""
        every = math.isqrt(last - first - 1) + 1 if self.every is None else min(self.every, last - first)
        return CheckpointTape(dynamics, leaves, first, last, every)


class CheckpointTape:
    """A slab of checkpoints, and one of the segment that the sweep is in."""

    def __init__(self, dynamics: Dynamics, leaves: Sequence[Any], first: int, last: int, every: int) -> None:
        self._dynamics = dynamics
        self._first, self._last, self._every = first, last, every
        self._checkpoints = Slab(-(-(last - first) // every), leaves)
        self._states = Slab(every, leaves)
        self._draws: list[Sequence[Any]] = [()] * every
        self._segment = -1

    def advance(self, t: int, leaves: list[Any]) -> StepResult:
        """Keep the state where it begins a segment, take the step."""
        segment, row = divmod(t - self._first, self._every)
        if row == 0:
            self._checkpoints.store(segment, leaves)
            self._segment = segment
        return self._run(t, leaves)

    def load(self, t: int) -> Step:
        """Return the step, running its segment again where that is not the one at hand."""
        segment, row = divmod(t - self._first, self._every)
        if segment != self._segment:
            leaves = copied(self._checkpoints.load(segment))
            begin = self._first + segment * self._every
            for step in range(begin, min(begin + self._every, self._last)):
                leaves = self._run(step, leaves).leaves
            self._segment = segment
        # The first state comes from the checkpoints: the replay check reads it after the others were overwritten.
        leaves = self._states.load(row) if row else self._checkpoints.load(segment)
        return Step(leaves, self._draws[row])

    def _run(self, t: int, leaves: list[Any]) -> StepResult:
        row = (t - self._first) % self._every
        self._states.store(row, leaves)
        result = self._dynamics.advance(t, leaves)
        self._draws[row] = result.draws
        return result


@dataclass(frozen=True)
class Binomial:
    r"""Keep a fixed number of iterates, placed so that the fewest steps run again.

    Griewank and Walther, `Algorithm 799: Revolve <https://doi.org/10.1145/347837.347846>`_ (ACM TOMS 2000).

    Memory: `snapshots` + 1 states, whatever the horizon is. Time: with :math:`\binom{s+r}{s} \ge T` no step runs
    more than r times beyond the one with a graph.

    Args:
        snapshots: number s ≥ 1 of states that are kept at once, the first of the window included.

    Raises:
        InputError: `snapshots` is no integer ≥ 1.

    Example:
        >>> import torch
        >>> from lds.hypergrad import Binomial, Reverse, hypergradient
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> hypergradient(*problem, updater=SGD(0.25), steps=2, method=Reverse(memory=Binomial(snapshots=2))).grad
        tensor(0.9375)
    """

    snapshots: int

    def __post_init__(self) -> None:
        check_count("snapshots", self.snapshots, least=1)

    def tape(self, dynamics: Dynamics, leaves: Sequence[Any], first: int, last: int) -> BinomialTape:
        """Return an empty tape."""
        return BinomialTape(dynamics, leaves, first, last, min(self.snapshots, last - first))


class BinomialTape:
    """A stack of states, the deepest at its bottom."""

    def __init__(self, dynamics: Dynamics, leaves: Sequence[Any], first: int, last: int, snapshots: int) -> None:
        self._dynamics = dynamics
        self._last, self._snapshots = last, snapshots
        self._slab = Slab(snapshots, leaves)
        self._times: list[int] = []
        self._next = first
        self._ahead: list[Any] | None = None

    def advance(self, t: int, leaves: list[Any]) -> StepResult:
        """Keep the state where a snapshot is due, take the step."""
        if t == self._next:
            self._push(t, leaves, self._last)
        if t == self._last - 1:
            # The sweep begins here, so this state need not be computed again.
            self._ahead = copied(leaves)
        return self._dynamics.advance(t, leaves)

    def load(self, t: int) -> Step:
        """Return the step, running on from the nearest snapshot before it and placing those that are free."""
        if t == self._last - 1 and self._ahead is not None:
            leaves, self._ahead = self._ahead, None
            return Step(leaves, self._dynamics.draws(t))
        while self._times[-1] > t:
            self._times.pop()
        # A copy: the row is overwritten before the replay check reads it.
        begin, leaves = self._times[-1], copied(self._slab.load(len(self._times) - 1))
        self._plan(t + 1)
        for step in range(begin, t):
            leaves = self._dynamics.advance(step, leaves).leaves
            if step + 1 == self._next:
                self._push(step + 1, leaves, t + 1)
        return Step(leaves, self._dynamics.draws(t))

    def _push(self, t: int, leaves: Sequence[Any], end: int) -> None:
        self._slab.store(len(self._times), leaves)
        self._times.append(t)
        self._plan(end)

    def _plan(self, end: int) -> None:
        """Choose where, between the last snapshot and `end`, the next one goes; nowhere when none is free."""
        free, begin = self._snapshots - len(self._times), self._times[-1]
        self._next = begin + split(end - begin, free) if free and end - begin > 1 else -1


def split(steps: int, snapshots: int) -> int:
    r"""Return after how many of `steps` ≥ 2 steps to place the next of `snapshots` ≥ 1 free snapshots.

    With :math:`\beta(s, r) = \binom{s+r}{s}` the longest window that s states (the one at its begin included) can
    sweep over while no step runs more than r times without a graph, and r the least such number for this window, m is
    optimal for

    .. math:: \beta(s, r-2) \le m \le \beta(s, r-1), \quad \beta(s-1, r-1) \le \text{steps} - m \le \beta(s-1, r)
    """
    states, repeats = snapshots + 1, 1
    while math.comb(states + repeats, states) < steps:
        repeats += 1
    return min(math.comb(states + repeats - 1, states), steps - math.comb(states + repeats - 2, states - 1))
