"""Keep the inner gradient of each step, and few iterates: the others are made again by the updater's `update` alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optree
import torch
from torch import Tensor

from lds._updater import GradientUpdater, Objective, PyTree, State, gradient
from lds.errors import InputError
from lds.hypergrad._dynamics import Dynamics, Step, StepResult
from lds.hypergrad._guards import check_count
from lds.hypergrad._module import BufferUpdater
from lds.hypergrad._outer import copied
from lds.hypergrad._traced import Traced, known_step
from lds.hypergrad.memory._states import Slab


@dataclass(frozen=True)
class KeepGradients:
    r"""Keep the inner gradient of every step and every k-th iterate; a segment is made again by updates alone.

    .. math:: w_{t+1} = \text{update}(g_t, w_t, \theta), \qquad g_t = \nabla_w L(w_t, \theta)

    So a segment of k steps costs no inner objective, no gradient and no data, and has the same bits. For updaters with
    an `update`: those of the package, clipped or in groups, any `GradientUpdater`, and optimizers of TorchOpt.

    Memory: horizon gradients, the size of the params each, and horizon/k + k states, :math:`O(\sqrt{T})` of them at
    k = ⌈√horizon⌉; for Adam a third of `KeepStates`, with momentum a half. Time: one more run of Φ than a plain unroll,
    as `KeepStates`, and one more `update` a step.

    Args:
        every: k ≥ 1; None takes ⌈√horizon⌉.

    Raises:
        InputError: `every` is no integer ≥ 1. When it begins: the updater is no `GradientUpdater` or has a `step` of
            its own, the params carry buffers, or `update` gives another state when it is called again.

    Example:
        >>> import torch
        >>> from lds.hypergrad import KeepGradients, Reverse, hypergradient
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> hypergradient(*problem, updater=SGD(0.25), steps=2, method=Reverse(memory=KeepGradients())).grad
        tensor(0.9375)
    """

    every: int | None = None

    def __post_init__(self) -> None:
        if self.every is not None:
            check_count("every", self.every, least=1)

    def tape(self, dynamics: Dynamics, leaves: Sequence[Any], first: int, last: int) -> GradientsTape:
        """Return an empty tape."""
        if reason := unfit(dynamics):
            raise InputError(
                f"KeepGradients makes states again by the updater's update alone, but {reason}; use Checkpoint(), "
                "KeepStates() or KeepGraphs()"
            )
        every = math.isqrt(last - first - 1) + 1 if self.every is None else min(self.every, last - first)
        return GradientsTape(dynamics, leaves, first, last, every)


def unfit(dynamics: Dynamics) -> str | None:
    """Return in words why gradients do not tell the states of a trajectory, None where they do."""
    updater = dynamics.updater
    if isinstance(updater, BufferUpdater):
        return "the params carry buffers, which the inner objective renews"
    if not isinstance(updater, GradientUpdater):
        return f"{type(updater).__name__} is no GradientUpdater: it has a step, and no update of a gradient"
    if type(updater).step not in (GradientUpdater.step, Traced.step) or "step" in vars(updater):
        return f"{type(updater).__name__} has a step of its own, which need not be its update at the inner gradient"
    return None


class GradientsTape:
    """A slab of gradients, one of checkpoints, and one of the segment that the sweep is in."""

    def __init__(self, dynamics: Dynamics, leaves: Sequence[Any], first: int, last: int, every: int) -> None:
        self._dynamics = dynamics
        self._first, self._last, self._every = first, last, every
        count = dynamics.spec.num_params
        self._gradients = Slab(last - first, leaves[:count])
        self._checkpoints = Slab(-(-(last - first) // every), leaves)
        self._states = Slab(every, leaves)
        self._segment = -1

    def advance(self, t: int, leaves: list[Any]) -> StepResult:
        """Keep the state where it begins a segment, take the step, keep its gradient."""
        segment, row = divmod(t - self._first, self._every)
        if row == 0:
            self._checkpoints.store(segment, leaves)

        def keep(gradients: PyTree) -> None:
            self._gradients.store(t - self._first, optree.tree_leaves(gradients))

        noting = replace(self._dynamics, updater=_Noting(self._dynamics.updater, keep))
        result = noting.advance(t, leaves)
        if t == self._first:
            self._check(t, result)
        return result

    def load(self, t: int) -> Step:
        """Return the step, making the states of its segment again where that is not the one at hand."""
        segment, row = divmod(t - self._first, self._every)
        if segment != self._segment:
            begin = self._first + segment * self._every
            leaves = copied(self._checkpoints.load(segment))
            for step in range(begin + 1, min(begin + self._every, self._last)):
                leaves = self._update(step - 1, leaves).leaves
                self._states.store(step - begin, leaves)
            self._segment = segment
        # The first state comes from the checkpoints: the replay check reads it after the others were overwritten.
        leaves = self._states.load(row) if row else self._checkpoints.load(segment)
        draws = self._dynamics.draws(t)
        if not isinstance(self._dynamics.updater, Traced):
            return Step(leaves, draws)
        # Its derivative does not need the gradient to be computed again.
        return Step(leaves, draws, known_step(self._dynamics, t, leaves, draws, self._known(t)))

    def _known(self, t: int) -> PyTree:
        """Return the gradient of step t; a copy, which an update may write to."""
        return self._dynamics.spec.params.unflatten(copied(self._gradients.load(t - self._first)))

    def _update(self, t: int, leaves: list[Any]) -> StepResult:
        """Take step t by its gradient."""
        gradients = self._known(t)
        known = replace(self._dynamics, updater=_Known(self._dynamics.updater, gradients), batches=None)
        return known.advance(t, leaves)

    def _check(self, t: int, result: StepResult) -> None:
        """Raise InputError if the first update gives another state when it is called again."""
        again = self._update(t, copied(self._checkpoints.load(0))).leaves
        for path, x, y in zip(self._dynamics.spec.paths, result.leaves, again, strict=True):
            if not (torch.equal(x, y) or bool(x.isnan().any()) if isinstance(x, Tensor) else x == y):
                raise InputError(
                    "KeepGradients makes states again by the updater's update alone, but that of "
                    f"{type(self._dynamics.updater).__name__} gave another {path} when it was called again with the "
                    "same gradient: it draws random numbers, or reads something besides its arguments; use Checkpoint()"
                )


def _eager(params: PyTree, outer: PyTree, inner: Objective) -> PyTree:
    return gradient(inner, params, outer)


@dataclass(frozen=True)
class _Noting:
    """A gradient updater that shows each gradient to `keep`, and does what it would do without."""

    updater: Any
    keep: Callable[[PyTree], None]

    def init(self, params: PyTree) -> PyTree:
        return self.updater.init(params)

    def step(self, state: State, outer: PyTree, inner: Objective) -> State:
        traced = isinstance(self.updater, Traced)
        gradients = (self.updater.traced if traced else _eager)(state.params, outer, inner)
        self.keep(gradients)
        new: State = self.updater.update(gradients, state, outer)
        return new


@dataclass(frozen=True)
class _Known:
    """A gradient updater that is given the gradient."""

    updater: Any
    gradients: PyTree

    def init(self, params: PyTree) -> PyTree:
        return self.updater.init(params)

    def step(self, state: State, outer: PyTree, inner: Objective) -> State:
        new: State = self.updater.update(self.gradients, state, outer)
        return new
