"""Φ bound to one problem: the map from state to state that recorder, sweep and forward mode all run."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from operator import attrgetter
from typing import Any, NamedTuple, Protocol, TypeAlias

import optree
import torch
from torch import Tensor

from lds._random import DRAW, STEP, reseed
from lds._updater import Objective, PyTree, State, Updater
from lds.errors import InputError
from lds.hypergrad._met import Met, met
from lds.hypergrad._outer import Outer, Tracer, is_differentiable

# P_t as a cotangent for each leaf of the state, and what a step adds to G_t as the cotangents of each tracer's inputs;
# None stands for zero.
Costate: TypeAlias = Sequence[Tensor | None]
Increments: TypeAlias = Sequence[Sequence[Tensor | None]]


class StateSpec:
    """The structure that every state of one trajectory shares, params and slots alike.

    Args:
        leaves: leaves of (params, slots).
        spec: their structure.
    """

    def __init__(self, leaves: Sequence[Any], spec: optree.PyTreeSpec) -> None:
        self.spec = spec
        self.params = spec.child(0)
        self.num_params = self.params.num_leaves  # The leaves that are params come first.
        self.differentiable = [is_differentiable(x) for x in leaves]
        self.kinds = list(map(_kind, leaves))

    @cached_property
    def paths(self) -> list[str]:
        """What to call each leaf."""
        roots = ("state.params", "state.slots")
        return [accessor[1:].codify(roots[accessor.path[0]]) for accessor in self.spec.accessors()]

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
        for place, (leaf, kind) in enumerate(zip(leaves, self.kinds, strict=True)):
            found = _kind(leaf)
            if found != kind:
                raise InputError(
                    f"an updater's step must keep shapes and dtypes, but changed {self.paths[place]}: needed "
                    f"{_describe(kind)}, got {_describe(found)}"
                )
        return leaves

    def inputs(self, leaves: Sequence[Any]) -> list[Any]:
        """Return the leaves of a state, or the first of them, as leaves of a new graph."""
        # Φ may write to leaves without a derivative, such as counters, so it gets copies.
        return [
            x.detach().requires_grad_() if can else x.clone() if isinstance(x, Tensor) else x
            for x, can in zip(leaves, self.differentiable, strict=False)
        ]

    def unflatten(self, leaves: Sequence[Any], step: int) -> State:
        """Return the state with these leaves."""
        params, slots = optree.tree_unflatten(self.spec, leaves)
        return State(params, slots, step)


def flattened(state: State) -> tuple[list[Any], StateSpec]:
    """Return the leaves of a state, and their structure."""
    tree: PyTree = (state.params, state.slots)
    leaves, spec = optree.tree_flatten(tree)
    return leaves, StateSpec(leaves, spec)


def _kind(leaf: Any) -> Any:
    return (leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else type(leaf)


def _describe(kind: Any) -> str:
    return f"{tuple(kind[0])} {kind[1]}" if isinstance(kind, tuple) else kind.__name__


VERSION = attrgetter("_version")  # Counts the writes to a tensor.
_HERE = threading.local()


def inside_objective() -> bool:
    """Tell whether this thread is inside of an objective that the engine evaluates."""
    return getattr(_HERE, "depth", 0) > 0


@contextmanager
def _inside() -> Iterator[None]:
    """Say so while an objective is evaluated."""
    _HERE.depth = getattr(_HERE, "depth", 0) + 1
    try:
        yield
    finally:
        _HERE.depth -= 1


def checked(function: Callable[..., Tensor], name: str) -> Callable[..., Tensor]:
    """Return the user's objective: differentiable in any grad mode, checked to return a scalar and to write nothing."""

    def objective(params: PyTree, outer: PyTree, *batch: Any) -> Tensor:
        leaves = optree.tree_leaves(params)
        versions = list(map(VERSION, leaves))
        try:
            with _inside(), torch.enable_grad():
                value = function(params, outer, *batch)
        except TypeError:
            _check_arguments(function, name, batch)
            raise
        except RuntimeError as error:
            if "is not differentiable with respect to argument" not in str(error):
                raise
            raise InputError(
                f"the {name} must be differentiable in all that it computes from, but torch has no derivative here: "
                f"{error}; write it with other operations, such as (weight[y] * cross_entropy(x, y, "
                "reduction='none')).mean() for learned weights of classes"
            ) from error
        except StopIteration as error:
            raise InputError(
                f"the {name} ran off the end of an iterator: it is called once a step, and again where a step is run "
                "again or looked at; give the batches as batches="
            ) from error
        if versions != list(map(VERSION, leaves)):
            accessors = optree.tree_accessors(params)
            written = [a for a, x, v in zip(accessors, leaves, versions, strict=True) if x._version != v]
            raise InputError(
                f"the {name} must not write to params, but changed {written[0].codify('params')} in place, such as by "
                "an embedding with max_norm or by a projection; work on a copy, or do it in the updater's step"
            )
        if not isinstance(value, Tensor) or value.ndim != 0:
            found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"the {name} must return a scalar tensor, got {found}; reduce it with .mean() or .sum()")
        return value

    objective.__wrapped__ = function  # type: ignore[attr-defined]
    if hasattr(function, "value_and_grad"):
        objective.value_and_grad = partial(_checked_gradient, function, name)  # type: ignore[attr-defined]
    return objective


def _checked_gradient(function: Any, name: str, params: PyTree, outer: PyTree) -> tuple[Tensor, PyTree] | None:
    """Return what `KnowsGradient.value_and_grad` does, checked to be a scalar and a pytree like the params."""
    with _inside():
        found: Any = function.value_and_grad(params, outer)
    if found is None:
        return None
    if not isinstance(found, tuple) or len(found) != 2:
        raise InputError(
            f"value_and_grad of the {name} must return (value, gradient), got {type(found).__name__}; return None "
            "where autograd is to find the gradient"
        )
    value, gradient = found
    if not isinstance(value, Tensor) or value.ndim != 0:
        raise InputError(
            f"value_and_grad of the {name} must return a scalar tensor first, got {_describe(_kind(value))}"
        )
    (leaves, spec), (grads, grads_spec) = optree.tree_flatten(params), optree.tree_flatten(gradient)
    if spec != grads_spec:
        raise InputError(
            f"value_and_grad of the {name} must return a gradient like the params: needed {spec}, got {grads_spec}"
        )
    for place, (needed, came) in enumerate(zip(map(_kind, leaves), map(_kind, grads), strict=True)):
        if came != needed:
            raise InputError(
                f"value_and_grad of the {name} must return a gradient like the params, but that of "
                f"{optree.tree_accessors(params)[place].codify('params')}, {_describe(needed)}, came as "
                f"{_describe(came)}"
            )
    return value, gradient


def _check_arguments(function: object, name: str, batch: Sequence[Any]) -> None:
    """Raise InputError if an objective that failed does not take what it was called with."""
    if not callable(function):
        raise InputError(f"the {name} must be a function, got {type(function).__name__}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # As of some functions in C.
        return
    try:
        signature.bind(None, None, *batch)
    except TypeError as error:
        needed, advice = "(params, outer)", "of a batch, give batches=… along"
        if batch:
            needed, advice = "(params, outer, batch), since batches were given", "let it take the batch"
        elif name == "outer objective":
            advice = "batches are for the inner objective alone, so close over the data"
        raise InputError(f"the {name} must take {needed}, but takes {signature}; {advice}") from error


class Batched(Protocol):
    """Batches that are a function of the step."""

    def bind(self, inner: Callable[..., Tensor], step: int, cuda: frozenset[int]) -> Objective:
        """Return the inner objective with the batch of a step; seeds the generators."""
        ...

    def over(self, count: int) -> Batched:
        """Return batches whose objective is the mean over so many."""
        ...


class StepResult(NamedTuple):
    """What came of a step, cut off from any graph.

    Attributes:
        leaves: leaves of the state after it.
        draws: the draw of each outer variable that the step used.
        loss: the inner objective, where Φ evaluated it.
    """

    leaves: list[Any]
    draws: Sequence[Any]
    loss: Tensor | None


def _cut_off(results: Sequence[Any], draws: Sequence[Any], loss: Tensor | None) -> StepResult:
    return StepResult([x.detach() if isinstance(x, Tensor) else x for x in results], draws, loss)


@dataclass
class StepGraph:
    """A function of a state and of θ with its graph of autograd: a step of Φ, F, or the inner gradient.

    Attributes:
        leaves: leaves of the state; those that can carry a cotangent are leaves of autograd.
        tracers: stand-ins for the outer variables.
        results: leaves of what it returned.
        draws: the draw of each outer variable, which its stand-in has the value of.
        loss: the inner objective on the way, where it was evaluated.
    """

    leaves: list[Any]
    tracers: list[Tracer]
    results: list[Any]
    draws: Sequence[Any] = ()
    loss: Tensor | None = None

    def result(self) -> StepResult:
        """Return what came of the step, cut off from the graph."""
        return _cut_off(self.results, self.draws, self.loss)


@dataclass
class Step:
    """Step t as a memory policy hands it to the sweep.

    Attributes:
        leaves: leaves of the state before the step.
        draws: the draw of each outer variable that the step used.
        graph: the step's graph of autograd, where it was kept; good for one sweep.
    """

    leaves: Sequence[Any]
    draws: Sequence[Any]
    graph: StepGraph | None = None


@dataclass(frozen=True)
class Dynamics:
    """w_{t+1} = Φ(w_t, θ) on flat leaves; a function of (t, leaves, draws), whatever noise Φ makes.

    Every method runs inside `forked`. A step uses one draw of every outer variable: a new one, or the one passed as
    `draws`. A new one is a function of the seed and the step, as all noise is.

    Attributes:
        updater: Φ.
        inner: the inner objective, checked; it takes the batch too where there are batches.
        outer: the outer variables.
        spec: the structure of the state.
        seed: seed of all noise.
        start: `State.step` at t = 0, which is not 0 after a warm start.
        cuda: the CUDA devices whose generators are seeded.
        batches: the batches, if there are any.
        fresh: whether the slots at t = 0 are those that Φ makes of the params there.
        attached: whether autograd goes through it, as for `unroll`.
    """

    updater: Updater
    inner: Callable[..., Tensor]
    outer: Outer
    spec: StateSpec
    seed: int
    start: int
    cuda: frozenset[int]
    batches: Batched | None = None
    fresh: bool = False
    attached: bool = False

    @cached_property
    def met(self) -> Met:
        """What is known of the problem from earlier calls of `unroll`."""
        return met(self.inner, self.updater, (self.spec.spec, *self.spec.kinds))

    def objective(self, t: int) -> Objective:
        """Return the inner objective as step t sees it; seed the generators after that."""
        return self.inner if self.batches is None else self.batches.bind(self.inner, self.start + t, self.cuda)

    def draws(self, t: int, stream: int = DRAW) -> list[Any]:
        """Return a draw of every outer variable for step t."""
        if self.outer.random:
            reseed(self.seed, self.start + t, stream, cuda=self.cuda)
        return self.outer.draw()

    def advance(self, t: int, leaves: Sequence[Any], draws: Sequence[Any] | None = None) -> StepResult:
        """Take step t without a graph; Φ may write to `leaves`."""
        draws = self.draws(t) if draws is None else draws
        with torch.no_grad():
            # Leaves ask for gradients so that a Φ that calls torch.autograd.grad itself can.
            pairs = zip(leaves, self.spec.differentiable, strict=True)
            leaves = [x.requires_grad_() if can else x for x, can in pairs]
            results, loss = self.step(t, leaves, self.outer.unflatten(draws))
        return _cut_off(results, draws, loss)

    def linearise(
        self, t: int, leaves: Sequence[Any], draws: Sequence[Any] | None = None, stream: int = STEP
    ) -> StepGraph:
        """Take step t with a graph."""
        with torch.enable_grad():
            draws = self.draws(t) if draws is None else draws
            tracers, outer = self.outer.trace(draws)
            leaves = self.spec.inputs(leaves)
            results, loss = self.step(t, leaves, outer, stream)
        return StepGraph(leaves, tracers, results, draws, loss)

    def step(self, t: int, leaves: Sequence[Any], outer: PyTree, stream: int = STEP) -> tuple[list[Any], Tensor | None]:
        """Return the leaves of Φ's result, in the grad mode of the caller, and the inner objective."""
        loss: Tensor | None = None
        objective = self.objective(t)

        def inner(params: PyTree, outer: PyTree) -> Tensor:
            nonlocal loss
            value = objective(params, outer)
            loss = value.detach()
            return value

        inner.traced_as = self.inner  # type: ignore[attr-defined]
        if (known := getattr(objective, "value_and_grad", None)) is not None:

            def value_and_grad(params: PyTree, outer: PyTree) -> tuple[Tensor, PyTree] | None:
                nonlocal loss
                found: tuple[Tensor, PyTree] | None = known(params, outer)
                loss = loss if found is None else found[0].detach()
                return found

            inner.value_and_grad = value_and_grad  # type: ignore[attr-defined]
        state = self.spec.unflatten(leaves, self.start + t)
        reseed(self.seed, self.start + t, stream, cuda=self.cuda)
        try:
            new = self.updater.step(state, outer, inner)
        except RuntimeError as error:
            if "does not require grad" not in str(error):
                raise
            raise InputError(
                f"the step of {type(self.updater).__name__} must take gradients of what autograd sees, but "
                f"torch.autograd.grad said: {error}; take them with lds.updaters.gradient, or compute the loss under "
                "torch.enable_grad()"
            ) from error
        results = self.spec.flatten(new)
        if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            torch.clear_autocast_cache()  # An autocast around the call would keep the weights of every step in it.
        return results, loss
