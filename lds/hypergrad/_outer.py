"""Outer variables as the engine sees them.

The engine asks four things of an outer variable: a *draw* (the value that Φ sees in one step), a *tracer* around a
draw (the same value, differentiable), an *accumulator* that takes the tracers' cotangents, and its final value.
A plain tensor is its own draw. A random structure draws a graph a step and accumulates thin factors; the engine
knows nothing of graphs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import optree
from torch import Tensor
from torch.autograd.graph import GradientEdge

from lds.errors import InputError
from lds.hypergrad._leaves import is_differentiable
from lds.hypergrad._steady import Derived, DerivedVariable, TensorVariable

# Outer variables whose draw is the same in every step of a trajectory.
STEADY = (TensorVariable, DerivedVariable)


class Tracer(Protocol):
    """A differentiable stand-in for an outer variable during one step of the sweep."""

    @property
    def value(self) -> Any:
        """What Φ (or the outer objective) is called with."""
        ...

    def inputs(self) -> Sequence[Tensor | GradientEdge]:
        """Return what to name among the inputs of the vector-Jacobian product; asked after Φ ran."""
        ...


class Accumulator(Protocol):
    """The running sum G_t of one outer variable."""

    def add(self, tracer: Any, cotangents: Sequence[Tensor | None]) -> None:
        """Add the cotangents of `tracer.inputs()`; None stands for zero."""
        ...

    def value(self) -> Any:
        """Return G_t as of now, which can be added to another; later calls of `add` do not change what was returned."""
        ...


@runtime_checkable
class OuterVariable(Protocol):
    """A leaf of `outer` that is not a plain tensor."""

    def draw(self) -> Any:
        """Return the value for one step; runs in a random scope of its own, so it may sample."""
        ...

    def trace(self, draw: Any) -> Tracer:
        """Return a tracer that has the value of `draw`."""
        ...

    def accumulator(self) -> Accumulator:
        """Return a zero accumulator."""
        ...


class Outer:
    """The outer variables of one problem: a pytree, flattened once.

    Raises:
        InputError: a leaf is neither a floating-point tensor nor an `OuterVariable`.
    """

    def __init__(self, tree: Any) -> None:
        accessors, leaves, self.spec = optree.tree_flatten_with_accessor(tree)
        self.paths = [accessor.codify("outer") for accessor in accessors]
        self.variables: list[OuterVariable] = [
            _as_variable(name, leaf) for name, leaf in zip(self.paths, leaves, strict=True)
        ]
        self.random = not all(isinstance(v, STEADY) for v in self.variables)

    def unflatten(self, leaves: Sequence[Any]) -> Any:
        """Return a pytree like the outer variables."""
        return optree.tree_unflatten(self.spec, leaves)

    def draw(self) -> list[Any]:
        """Return one draw a variable."""
        return [variable.draw() for variable in self.variables]

    def check_unchanged(self, now: str = "the sweep", advice: str = "sweep first") -> None:
        """Raise InputError if an outer variable was changed in place since the trajectory was recorded."""
        for path, variable in zip(self.paths, self.variables, strict=True):
            if isinstance(variable, STEADY) and variable.changed():
                raise InputError(
                    f"{path} was changed in place between the recording and {now}, but both must see the same "
                    f"value; {advice}, or update a copy"
                )

    def trace(self, draws: Sequence[Any]) -> list[Tracer]:
        """Return one tracer a variable."""
        return [variable.trace(draw) for variable, draw in zip(self.variables, draws, strict=True)]


def _as_variable(name: str, leaf: Any) -> OuterVariable:
    if isinstance(leaf, Tensor):
        if not is_differentiable(leaf):
            raise InputError(f"{name} must be a floating-point tensor, got {leaf.dtype}; convert it with .float()")
        return TensorVariable(leaf)
    if isinstance(leaf, Derived):
        return DerivedVariable(name, leaf)
    if isinstance(leaf, OuterVariable):
        return leaf
    raise InputError(
        f"{name} must be a floating-point tensor, got {type(leaf).__name__}; wrap numbers with torch.tensor(...), "
        "and keep constants out of `outer`"
    )
