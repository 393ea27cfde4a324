"""Whether the objectives and Φ have a gradient path to what they depend on, by what the sweep reaches.

`_walk` looks at the graphs for what no derivative can show of itself, `_spot` at the values of one step.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from lds._frames import frames_of_ours
from lds._updater import State
from lds.errors import DerivativeWarning, InputError, UnreachedWarning
from lds.hypergrad._dynamics import Costate, Dynamics, Increments, Step, StepGraph
from lds.hypergrad._guards import Watcher
from lds.hypergrad._outer import Outer


class Attached(Watcher):
    """Checks that F and Φ have a gradient path to what they depend on, and notes which outer variables have none."""

    def __init__(self) -> None:
        self._end = -1
        self._unseen = False
        self._looks = 0
        self._reached: set[int] = set()

    def start(self, dynamics: Dynamics, final: State, graph: StepGraph) -> None:
        """Note where the sweep begins, and whether the outer objective is somebody else's to differentiate."""
        self._end, self._unseen = final.step - dynamics.start, dynamics.attached

    def before(self, t: int, dynamics: Dynamics, step: Step, graph: StepGraph, costate: Costate) -> None:
        """Raise InputError if nothing of the step's result has a gradient path."""
        if not any(isinstance(y, Tensor) and y.requires_grad for y in graph.results):
            raise InputError(
                f"the step of {type(dynamics.updater).__name__} must be differentiable in the state and in the "
                "outer variables, but its result is detached from both; compute it without .detach(), .item() or "
                "torch.no_grad()"
            )

    def after(self, t: int, costate: Costate, increments: Increments) -> None:
        """Raise InputError if F reaches nothing."""
        reached = [i for i, cotangents in enumerate(increments) if any(c is not None for c in cotangents)]
        if t == self._end and not reached and all(p is None for p in costate):
            raise InputError(
                "the outer objective must depend on params or on outer, but its value has no gradient path to either; "
                "compute it from the arguments it is called with (of a module: params, call = functional(module), then "
                "call(params, x)), without .item(), .detach() or torch.no_grad()"
            )
        self._reached.update(reached)
        self._looks += 1

    def warn_unreached(self, outer: Outer, steps: int) -> None:
        """Warn of outer variables that neither F nor any of the swept steps reached; not where F was not seen."""
        if self._unseen:
            return
        paths = [path for i, path in enumerate(outer.paths) if i not in self._reached]
        if steps and paths and self._looks == steps + 1:  # A resumed sweep has not seen all.
            warnings.warn(
                f"nothing depends on {', '.join(paths)}, neither the outer objective nor any of the {steps} steps that "
                "were swept, so its hypergradient is zero; use it in the objectives or in the updater, take a larger "
                "horizon if earlier steps use it, or leave it out of outer",
                UnreachedWarning,
                stacklevel=frames_of_ours(),
            )


@contextmanager
def settled_by_differences() -> Iterator[None]:
    """Keep the warnings of `Attached` and `Spot` quiet, where central differences will tell all that they can."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DerivativeWarning)
        warnings.simplefilter("ignore", UnreachedWarning)
        yield
