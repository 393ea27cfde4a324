"""The recorder: runs the inner updater forward and keeps its last iterates."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optree
import torch
from torch import Tensor

from lds._random import DRAW, INIT, STEP, cuda_devices, forked, reseed
from lds.errors import InputError
from lds.hypergrad._outer import Outer, is_differentiable
from lds.updaters import Objective, PyTree, State, Updater


class StateSpec:
    """The structure that every state of one trajectory shares, params and slots alike."""

    def __init__(self, state: State) -> None:
        tree: PyTree = (state.params, state.slots)
        accessors, leaves, self.spec = optree.tree_flatten_with_accessor(tree)
        roots = ("state.params", "state.slots")
        self.paths = [accessor[1:].codify(roots[accessor.path[0]]) for accessor in accessors]
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


class RingBuffer:
    """The last `capacity` states, in one preallocated slab a leaf.

    Slabs rather than a list of tensors: many small allocations of mixed lifetime fragment the heap, which costs
    more memory than the states themselves.
    """

    def __init__(self, capacity: int, leaves: Sequence[Any]) -> None:
        self._capacity = capacity
        self._slabs: list[Any] = [
            x.new_empty((capacity, *x.shape)) if isinstance(x, Tensor) else [None] * capacity for x in leaves
        ]

    def store(self, t: int, leaves: Sequence[Any]) -> None:
        """Keep the leaves of state t in place of those of state t − capacity."""
        row = t % self._capacity
        for slab, leaf in zip(self._slabs, leaves, strict=True):
            slab[row] = leaf

    def load(self, t: int) -> list[Any]:
        """Return the leaves of state t; tensors are views of the slabs."""
        return [slab[t % self._capacity] for slab in self._slabs]


class CheckedObjective:
    """The user's inner objective: differentiable in any grad mode, checked to be a scalar, its last value kept."""

    def __init__(self, function: Objective, name: str) -> None:
        self._function = function
        self._name = name
        self._last: Tensor | None = None

    def __call__(self, params: PyTree, outer: PyTree) -> Tensor:
        """Return the value of the objective."""
        with torch.enable_grad():
            value = self._function(params, outer)
        if not isinstance(value, Tensor) or value.ndim != 0:
            found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(
                f"the {self._name} must return a scalar tensor, got {found}; reduce it with .mean() or .sum()"
            )
        self._last = value.detach()
        return value

    def take(self) -> Tensor | None:
        """Return the last value since this was asked before, None if there is none."""
        last, self._last = self._last, None
        return last


@dataclass
class Trajectory:
    """What `record` returns: the last iterates of Φ and all that is needed to run them again.

    Attributes:
        steps: number of steps T that were taken.
        horizon: number of steps that can be swept back over, at most T.
        final_state: the state after the last step; pass it as `state=` to the next `record` for a warm start.
        inner_losses: values of the inner objective that the last `max(horizon, 1)` steps computed, where they did.
    """

    steps: int
    horizon: int
    final_state: State
    inner_losses: list[Tensor]
    updater: Updater
    inner: CheckedObjective
    outer: Outer
    spec: StateSpec
    seed: int
    cuda: frozenset[int]
    _buffer: RingBuffer | None
    _draws: dict[int, list[Any]]

    @property
    def start(self) -> int:
        """Number of steps taken before this trajectory began (not 0 after a warm start)."""
        return self.final_state.step - self.steps

    def leaves(self, t: int) -> list[Any]:
        """Return the leaves of the state before step t, T − horizon ≤ t ≤ T."""
        if t == self.steps:
            return self.spec.flatten(self.final_state)
        assert self._buffer is not None
        return self._buffer.load(t)

    def draws(self, t: int) -> list[Any]:
        """Return what step t was shown of the outer variables, T − horizon ≤ t < T."""
        return self._draws[t % self.horizon]


def record(
    inner: Objective,
    params: PyTree,
    outer: PyTree,
    *,
    updater: Updater,
    steps: int,
    horizon: int | None = None,
    seed: int = 0,
    state: State | None = None,
) -> Trajectory:
    r"""Run `steps` steps of the inner updater and keep the last `horizon` iterates.

    .. math:: w_{t+1} = \Phi(w_t, \theta), \quad t = 0, \dots, T-1

    Memory is O(horizon), whatever `steps` is. Randomness inside Φ is a function of the seed and the step number; the
    caller's generators (torch, numpy, random) are left as they were, and no tensor of the caller is changed.

    Args:
        inner: inner objective, (params, outer) -> scalar tensor.
        params: pytree of floating-point tensors w_0.
        outer: pytree of the outer variables θ.
        updater: Φ, see `lds.updaters.Updater`.
        steps: number of steps T ≥ 0.
        horizon: number of iterates to keep, ≥ 0; None keeps all, and more than `steps` keeps `steps`.
        seed: seed of the randomness inside Φ.
        state: the `final_state` of an earlier trajectory to go on from instead of `params`; its step counter, and with
            it the stream of random numbers, goes on too.

    Raises:
        InputError: an argument is out of range, params are no floating-point tensors, the objective is no scalar, or Φ
            returns another structure than it was given.
    """
    _check_updater(updater)
    check_count("steps", steps)
    if horizon is not None:
        check_count("horizon", horizon)
    variables = Outer(outer)
    state = _initial_state(updater, params, outer, seed) if state is None else state
    if not isinstance(state, State):
        raise InputError(f"state must be the State that a trajectory ended in, got {type(state).__name__}")
    spec = StateSpec(state)
    # Φ may write to the state it is given; the caller's tensors are not its to write to.
    leaves = [x.detach().clone() if isinstance(x, Tensor) else x for x in spec.flatten(state)]
    start, kept = state.step, steps if horizon is None else min(horizon, steps)
    buffer = RingBuffer(kept, leaves) if kept else None
    draws: dict[int, list[Any]] = {}
    losses: deque[Tensor] = deque(maxlen=max(kept, 1))
    objective = CheckedObjective(inner, "inner objective")
    cuda = cuda_devices(x for x in (*leaves, *optree.tree_leaves(outer)) if isinstance(x, Tensor))

    with forked(cuda), torch.no_grad():
        draw = None
        for t in range(steps):
            if draw is None or variables.random:
                reseed(seed, start + t, DRAW, cuda=cuda)
                draw = variables.draw()
            if buffer is not None and t >= steps - kept:
                buffer.store(t, leaves)
                draws[t % kept] = draw
            reseed(seed, start + t, STEP, cuda=cuda)
            # Leaves ask for gradients so that a Φ that calls torch.autograd.grad itself can.
            leaves = [x.requires_grad_() if is_differentiable(x) else x for x in leaves]
            new = updater.step(spec.unflatten(leaves, start + t), variables.unflatten(draw), objective)
            leaves = [x.detach() if isinstance(x, Tensor) else x for x in spec.flatten(new)]
            if (loss := objective.take()) is not None:
                losses.append(loss)
        final = spec.unflatten(leaves, start + steps)
    return Trajectory(steps, kept, final, list(losses), updater, objective, variables, spec, seed, cuda, buffer, draws)


def _check_updater(updater: Updater) -> None:
    for method in ("init", "step"):
        if not callable(getattr(updater, method, None)):
            raise InputError(f"an updater needs methods init and step, but {type(updater).__name__} has no {method}")


def _initial_state(updater: Updater, params: PyTree, outer: PyTree, seed: int) -> State:
    accessors, leaves, _ = optree.tree_flatten_with_accessor(params)
    if not leaves:
        raise InputError("params must hold at least one floating-point tensor, got an empty pytree")
    for accessor, leaf in zip(accessors, leaves, strict=True):
        if not is_differentiable(leaf):
            found = str(leaf.dtype) if isinstance(leaf, Tensor) else type(leaf).__name__
            raise InputError(f"{accessor.codify('params')} must be a floating-point tensor, got {found}")
    cuda = cuda_devices(x for x in (*leaves, *optree.tree_leaves(outer)) if isinstance(x, Tensor))
    with forked(cuda), torch.no_grad():
        reseed(seed, INIT, cuda=cuda)
        params = optree.tree_map(torch.Tensor.detach, params)
        return State(params, updater.init(params))


def check_count(name: str, value: object) -> None:
    """Raise InputError unless the value is an integer ≥ 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InputError(f"{name} must be an integer >= 0, got {value!r}")
