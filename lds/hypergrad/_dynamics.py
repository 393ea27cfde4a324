"""Φ bound to one problem: the map from state to state that recorder, sweep and forward mode all run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optree
import torch
from torch import Tensor

from lds._random import DRAW, INIT, STEP, cuda_devices, forked, reseed
from lds.errors import InputError
from lds.hypergrad._leaves import detached, differentiable, is_differentiable
from lds.hypergrad._outer import Outer, Tracer
from lds.updaters import Objective, PyTree, State, Updater, as_updater


class StateSpec:
    """The structure that every state of one trajectory shares, params and slots alike."""

    def __init__(self, state: State) -> None:
        tree: PyTree = (state.params, state.slots)
        accessors, leaves, self.spec = optree.tree_flatten_with_accessor(tree)
        roots = ("state.params", "state.slots")
        self.paths = [accessor[1:].codify(roots[accessor.path[0]]) for accessor in accessors]
        self.params = optree.tree_structure(state.params).num_leaves  # So many of the leaves, the first, are params.
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

    def unflatten(self, leaves: Sequence[Any], step: int) -> State:
        """Return the state with these leaves."""
        params, slots = optree.tree_unflatten(self.spec, leaves)
        return State(params, slots, step)


def _describe(kind: Any) -> str:
    return f"{tuple(kind[0])} {kind[1]}" if isinstance(kind, tuple) else kind.__name__


class CheckedObjective:
    """The user's objective: differentiable in any grad mode, checked to be a scalar, its last value kept."""

    def __init__(self, function: Objective, name: str) -> None:
        self._function = function
        self._name = name
        self.last: Tensor | None = None

    def __call__(self, params: PyTree, outer: PyTree) -> Tensor:
        """Return the value of the objective."""
        with torch.enable_grad():
            value = self._function(params, outer)
        if not isinstance(value, Tensor) or value.ndim != 0:
            found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(
                f"the {self._name} must return a scalar tensor, got {found}; reduce it with .mean() or .sum()"
            )
        self.last = value.detach()
        return value

    def take(self) -> Tensor | None:
        """Return the last value since this was asked before, None if there is none."""
        last, self.last = self.last, None
        return last


@dataclass
class StepGraph:
    """One step of Φ with its graph of autograd: from `leaves` and the tracers' inputs to `results`."""

    leaves: list[Any]
    tracers: list[Tracer]
    results: list[Any]


@dataclass(frozen=True)
class Dynamics:
    """w_{t+1} = Φ(w_t, θ) on flat leaves; a function of (t, leaves, draws), whatever noise Φ makes.

    Every method but `bind` runs inside `forked`.
    """

    updater: Updater
    inner: CheckedObjective
    outer: Outer
    spec: StateSpec
    seed: int
    start: int
    cuda: frozenset[int]

    @classmethod
    def bind(
        cls,
        inner: Objective,
        params: PyTree,
        outer: PyTree,
        updater: Updater,
        seed: int,
        state: State | None,
        begin: int = 0,
    ) -> tuple[Dynamics, list[Any]]:
        """Check the arguments of a problem; return its dynamics and the leaves of the state before step `begin`."""
        updater = as_updater(updater)
        variables = Outer(outer)
        tensors = [x for tree in (params, outer) for x in optree.tree_leaves(tree) if isinstance(x, Tensor)]
        if state is None:
            state = _initial_state(updater, params, seed, cuda_devices(tensors))
        if not isinstance(state, State):
            raise InputError(f"state must be the State that a trajectory ended in, got {type(state).__name__}")
        spec = StateSpec(state)
        # Φ may write to the state it is given; the caller's tensors are not its to write to.
        leaves = [x.detach().clone() if isinstance(x, Tensor) else x for x in spec.flatten(state)]
        cuda = cuda_devices([*(x for x in leaves if isinstance(x, Tensor)), *tensors])
        objective = CheckedObjective(inner, "inner objective")
        return cls(updater, objective, variables, spec, seed, state.step - begin, cuda), leaves

    def draws(self, t: int, stream: int = DRAW) -> list[Any]:
        """Return what step t is shown of the outer variables."""
        if self.outer.random:
            reseed(self.seed, self.start + t, stream, cuda=self.cuda)
        return self.outer.draw()

    def apply(self, t: int, leaves: Sequence[Any], values: Sequence[Any], stream: int = STEP) -> list[Any]:
        """Return the leaves of Φ's result, in the grad mode of the caller."""
        step = self.start + t
        reseed(self.seed, step, stream, cuda=self.cuda)
        state = self.spec.unflatten(leaves, step)
        return self.spec.flatten(self.updater.step(state, self.outer.unflatten(values), self.inner))

    def advance(self, t: int, leaves: Sequence[Any], draws: Sequence[Any]) -> list[Any]:
        """Take step t without a graph; return the next leaves, detached."""
        with torch.no_grad():
            # Leaves ask for gradients so that a Φ that calls torch.autograd.grad itself can.
            results = self.apply(t, [x.requires_grad_() if is_differentiable(x) else x for x in leaves], draws)
        return detached(results)

    @torch.enable_grad()
    def linearise(self, t: int, leaves: Sequence[Any], draws: Sequence[Any], stream: int = STEP) -> StepGraph:
        """Take step t with a graph."""
        # Φ may write to leaves that carry no derivative, such as counters, and the recorded ones are not its own.
        leaves = [x.clone() if isinstance(x, Tensor) and not x.requires_grad else x for x in differentiable(leaves)]
        tracers = self.outer.trace(draws)
        return StepGraph(leaves, tracers, self.apply(t, leaves, [tracer.value for tracer in tracers], stream))


def _initial_state(updater: Updater, params: PyTree, seed: int, cuda: frozenset[int]) -> State:
    accessors, leaves, _ = optree.tree_flatten_with_accessor(params)
    if not leaves:
        raise InputError("params must hold at least one floating-point tensor, got an empty pytree")
    for accessor, leaf in zip(accessors, leaves, strict=True):
        if not is_differentiable(leaf):
            found = str(leaf.dtype) if isinstance(leaf, Tensor) else type(leaf).__name__
            raise InputError(f"{accessor.codify('params')} must be a floating-point tensor, got {found}")
    with forked(cuda), torch.no_grad():
        reseed(seed, INIT, cuda=cuda)
        params = optree.tree_map(torch.Tensor.detach, params)
        return State(params, updater.init(params))
