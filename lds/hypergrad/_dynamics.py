"""Φ bound to one problem: the map from state to state that recorder, sweep and forward mode all run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import optree
import torch
from torch import Tensor

from lds._random import DRAW, STEP, reseed
from lds._updater import Objective, PyTree, State, Updater
from lds.errors import InputError
from lds.hypergrad._outer import Outer, Tracer, is_differentiable


class StateSpec:
    """The structure that every state of one trajectory shares, params and slots alike."""

    def __init__(self, state: State) -> None:
        tree: PyTree = (state.params, state.slots)
        accessors, leaves, self.spec = optree.tree_flatten_with_accessor(tree)
        roots = ("state.params", "state.slots")
        self.paths = [accessor[1:].codify(roots[accessor.path[0]]) for accessor in accessors]
        self.params = optree.tree_structure(state.params).num_leaves  # So many of the leaves, the first, are params.
        self.differentiable = [is_differentiable(x) for x in leaves]
        self._kinds = [(x.shape, x.dtype) if isinstance(x, Tensor) else type(x) for x in leaves]

    def flatten(self, state: Any) -> list[Any]:
        """Return the leaves of what an updater's `step` returned, checked against the structure."""
        if not isinstance(state, tuple) or len(state) < 2:
            raise InputError(f"an updater's step must return State(params, slots), got {type(state).__name__}")
        tree: PyTree = (state[0], state[1])
        leaves, spec = optree.tree_flatten(tree)
        if spec != self.spec:
            raise InputError(
                "an updater's step must return a state of the structure it was given; "
                f"needed (params, slots) = {self.spec}, got {spec}"
            )
        for path, leaf, kind in zip(self.paths, leaves, self._kinds, strict=True):
            found = (leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else type(leaf)
            if found != kind:
                raise InputError(
                    f"an updater's step must keep shapes and dtypes, but changed {path}: needed {_describe(kind)}, "
                    f"got {_describe(found)}"
                )
        return leaves

    def inputs(self, leaves: Sequence[Any]) -> list[Any]:
        """Return the leaves of a state as leaves of a new graph."""
        # Φ may write to leaves that carry no derivative, such as counters, and the recorded ones are not its own.
        return [
            x.detach().requires_grad_() if can else x.clone() if isinstance(x, Tensor) else x
            for x, can in zip(leaves, self.differentiable, strict=True)
        ]

    def unflatten(self, leaves: Sequence[Any], step: int) -> State:
        """Return the state with these leaves."""
        params, slots = optree.tree_unflatten(self.spec, leaves)
        return State(params, slots, step)


def _describe(kind: Any) -> str:
    return f"{tuple(kind[0])} {kind[1]}" if isinstance(kind, tuple) else kind.__name__


def checked(function: Objective, name: str) -> Objective:
    """Return the user's objective: differentiable in any grad mode, its value checked to be a scalar."""

    def objective(params: PyTree, outer: PyTree) -> Tensor:
        with torch.enable_grad():
            value = function(params, outer)
        if not isinstance(value, Tensor) or value.ndim != 0:
            found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"the {name} must return a scalar tensor, got {found}; reduce it with .mean() or .sum()")
        return value

    return objective


class StepResult(NamedTuple):
    """What came of a step, cut off from any graph.

    Attributes:
        leaves: leaves of the state after it.
        draws: what it was shown of the outer variables.
        loss: the inner objective, where Φ evaluated it.
    """

    leaves: list[Any]
    draws: Sequence[Any]
    loss: Tensor | None


def _detached(leaves: Sequence[Any]) -> list[Any]:
    return [x.detach() if isinstance(x, Tensor) else x for x in leaves]


@dataclass
class StepGraph:
    """A function of a state and of θ with its graph of autograd: a step of Φ, F, or the inner gradient.

    Attributes:
        leaves: leaves of the state; those that can carry a cotangent are leaves of autograd.
        tracers: stand-ins for the outer variables.
        results: leaves of what it returned.
        draws: what the stand-ins have the values of.
        loss: the inner objective on the way, where it was evaluated.
    """

    leaves: list[Any]
    tracers: list[Tracer]
    results: list[Any]
    draws: Sequence[Any] = ()
    loss: Tensor | None = None

    def result(self) -> StepResult:
        """Return what came of the step, cut off from the graph."""
        return StepResult(_detached(self.results), self.draws, self.loss)


@dataclass
class Step:
    """Step t as a memory policy hands it to the sweep.

    Attributes:
        leaves: leaves of the state before the step.
        draws: what the step was shown of the outer variables.
        graph: the step's graph of autograd, where it was kept; good for one sweep.
    """

    leaves: Sequence[Any]
    draws: Sequence[Any]
    graph: StepGraph | None = None


@dataclass(frozen=True)
class Dynamics:
    """w_{t+1} = Φ(w_t, θ) on flat leaves; a function of (t, leaves, draws), whatever noise Φ makes.

    Every method runs inside `forked`. A step draws what it is shown of the outer variables, unless it is given what it
    was shown before; what it draws is a function of the seed and the step, as all its noise is.

    Attributes:
        updater: Φ.
        inner: the inner objective, checked.
        outer: the outer variables.
        spec: the structure of the state.
        seed: seed of all noise.
        start: the number of the step t = 0, which a warm start counts on from; t may go on from another trajectory.
        cuda: the CUDA devices whose generators are seeded.
    """

    updater: Updater
    inner: Objective
    outer: Outer
    spec: StateSpec
    seed: int
    start: int
    cuda: frozenset[int]

    def draws(self, t: int, stream: int = DRAW) -> list[Any]:
        """Return what step t is shown of the outer variables."""
        if self.outer.random:
            reseed(self.seed, self.start + t, stream, cuda=self.cuda)
        return self.outer.draw()

    def advance(self, t: int, leaves: Sequence[Any], draws: Sequence[Any] | None = None) -> StepResult:
        """Take step t without a graph."""
        draws = self.draws(t) if draws is None else draws
        with torch.no_grad():
            # Leaves ask for gradients so that a Φ that calls torch.autograd.grad itself can.
            pairs = zip(leaves, self.spec.differentiable, strict=True)
            leaves = [x.requires_grad_() if can else x for x, can in pairs]
            results, loss = self._step(t, leaves, self.outer.unflatten(draws), STEP)
        return StepResult(_detached(results), draws, loss)

    @torch.enable_grad()
    def linearise(
        self, t: int, leaves: Sequence[Any], draws: Sequence[Any] | None = None, stream: int = STEP
    ) -> StepGraph:
        """Take step t with a graph."""
        draws = self.draws(t) if draws is None else draws
        tracers, outer = self.outer.trace(draws)
        leaves = self.spec.inputs(leaves)
        results, loss = self._step(t, leaves, outer, stream)
        return StepGraph(leaves, tracers, results, draws, loss)

    def _step(self, t: int, leaves: Sequence[Any], outer: PyTree, stream: int) -> tuple[list[Any], Tensor | None]:
        """Return the leaves of Φ's result, in the grad mode of the caller, and the inner objective."""
        loss: Tensor | None = None

        def inner(params: PyTree, outer: PyTree) -> Tensor:
            nonlocal loss
            value = self.inner(params, outer)
            loss = value.detach()
            return value

        state = self.spec.unflatten(leaves, self.start + t)
        reseed(self.seed, self.start + t, stream, cuda=self.cuda)
        return self.spec.flatten(self.updater.step(state, outer, inner)), loss
