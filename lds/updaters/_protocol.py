"""What an inner updater Φ is: a pure `init`/`step` pair over a state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

PyTree: TypeAlias = Any
Objective: TypeAlias = Callable[[PyTree, PyTree], Tensor]


class State(NamedTuple):
    """Everything an inner updater carries from one step to the next.

    Attributes:
        params: pytree of floating-point tensors, the weights w_t.
        slots: any pytree, what else Φ remembers (momentum, Adam's m and v, counters); () when nothing.
        step: number of steps taken so far. The engine sets it; an updater may read it and need not return it.
    """

    params: PyTree
    slots: PyTree = ()
    step: int = 0


@runtime_checkable
class Updater(Protocol):
    """One step of inner optimization, w_{t+1} = Φ(w_t, θ), as two pure methods; no base class is needed."""

    def init(self, params: PyTree) -> PyTree:
        """Return the slots that belong to fresh `params`."""
        ...

    def step(self, state: State, outer: PyTree, inner: Objective) -> State:
        """Return the next state, differentiable in `state` and in `outer`.

        `inner(params, outer)` is the inner objective. Leaves of the result have the structure, shapes and dtypes
        of the leaves of `state`. Return `State(params, slots)` or just the pair `(params, slots)`.
        """
        ...
