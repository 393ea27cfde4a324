"""What an inner updater Φ is: a pure `init`/`step` pair over a state.

With it: inner gradients, and optimizers of other libraries as updaters. Below the engine and the updaters of the
package, which both build on it; `lds.updaters` hands it to users.
"""

from __future__ import annotations

import inspect
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeAlias, cast, runtime_checkable

import optree
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lds.errors import InputError

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


def gradient(inner: Objective, params: PyTree, outer: PyTree) -> PyTree:
    r"""Return the inner gradient :math:`\nabla_w L(w, \theta)`, differentiable where grad mode is enabled.

    Args:
        inner: objective, (params, outer) -> scalar tensor.
        params: pytree of floating-point tensors w.
        outer: pytree of outer variables θ.

    Returns:
        A pytree like `params`; leaves that the objective does not use get zeros.

    Raises:
        InputError: the objective depends on none of the params.
    """
    create_graph = torch.is_grad_enabled()
    leaves, spec = optree.tree_flatten(params)
    with torch.enable_grad():
        leaves = [x if x.requires_grad else x.detach().requires_grad_() for x in leaves]
        loss = inner(spec.unflatten(leaves), outer)
        found: Sequence[Tensor | None] = [None] * len(leaves)
        if loss.requires_grad:  # Of a tensor that is no param, perhaps: a module's own weight.
            found = torch.autograd.grad(loss, leaves, create_graph=create_graph, allow_unused=True)
    grads = []
    for x, g in zip(leaves, found, strict=True):
        # An embedding with sparse=True gives a sparse one.
        grads.append(torch.zeros_like(x) if g is None else g.to_dense() if g.is_sparse else g)
    if all(map(partial(operator.is_, None), found)):
        raise InputError(
            "the inner objective must depend on params, but its value has no gradient path to any of them; compute it "
            "from the params it is called with (of a module: params, call = functional(module), then call(params, x)), "
            "and do not detach them"
        )
    return spec.unflatten(grads)


class GradientUpdater(ABC):
    """An updater that takes one inner gradient a step, at the params, and works on that.

    A subclass writes `init` and `update`, gets `step`, and can stand inside `ClipByNorm` and `ClipByValue`.
    """

    @abstractmethod
    def init(self, params: PyTree) -> PyTree:
        """Return the slots that belong to fresh `params`."""

    @abstractmethod
    def update(self, grads: PyTree, state: State, outer: PyTree) -> State:
        """Return the next state, differentiable in all three arguments; `grads` is a pytree like `state.params`."""

    def step(self, state: State, outer: PyTree, inner: Objective) -> State:
        """Return the state after one update with the inner gradient."""
        return self.update(gradient(inner, state.params, outer), state, outer)


class FunctionalSlots(NamedTuple):
    """Slots of `Functional` with a function of the outer variables.

    Attributes:
        slots: those of the optimizer.
        steps: number of steps taken.
    """

    slots: PyTree
    steps: int


@dataclass(frozen=True)
class Functional(GradientUpdater):
    """A functional optimizer in the style of TorchOpt, such as `torchopt.adam(1e-3)`, as an updater.

    Ren et al., `TorchOpt <https://arxiv.org/abs/2211.06934>`_ (JMLR 2023). Its adaptive optimizers have ε outside the
    root, so that a zero gradient makes the hypergradient NaN; pass them an `eps_root`, such as 1e-16.

    With a function of the outer variables that returns an optimizer, its coefficients are learned, as in
    `Functional(lambda outer: torchopt.adam(outer["lr"], betas=(outer["beta"], 0.999), eps_root=1e-16))`. It is called
    in every step. TorchOpt hands some coefficients to torch as numbers, such as `alpha` of `Tensor.add`; where they are
    tensors, a product stands in for that.

    Args:
        optimizer: a pair of pure functions, `init(params) -> slots` and
            `update(grads, slots, *, params, inplace) -> (updates, slots)`; or a function (outer) -> such a pair.
        outer: outer variables to show to the function where slots are to be made, before any step. Their values do not
            matter, for the first step makes the slots again; without them, stand-ins do for most functions.

    Raises:
        InputError: there is no such pair; or, when it begins, the function fails on the stand-ins.
    """

    optimizer: Any
    outer: PyTree = None

    def __post_init__(self) -> None:
        if not (_is_functional(self.optimizer) or (callable(self.optimizer) and not isinstance(self.optimizer, type))):
            raise InputError(
                "Functional needs an optimizer with init and update such as torchopt.adam(1e-3), or a function of the "
                f"outer variables that returns one, got {_kind(self.optimizer)}"
            )

    def init(self, params: PyTree) -> PyTree:
        """Return the optimizer's state."""
        if _is_functional(self.optimizer):
            return self.optimizer.init(params)
        shown = [self.outer] if self.outer is not None else [_StandIn.of(x) for x in (0.5, 0.01, -1.0, -3.0, 2.0)]
        problem: Exception | None = None
        for outer in shown:
            try:
                optimizer = self.optimizer(outer)
            except Exception as error:  # Whatever a function raises on a stand-in.
                problem = error
            else:
                return FunctionalSlots(self._checked(optimizer).init(params), 0)
        raise InputError(
            "Functional calls the function before there are outer variables, with stand-ins, but there it raised "
            f"{type(problem).__name__}: {problem}; give it outer variables as an example, Functional(function, outer)"
        ) from problem

    def update(self, grads: PyTree, state: State, outer: PyTree) -> State:
        """Return the state after one update of the optimizer."""
        optimizer, slots = self.optimizer, state.slots
        learned = not _is_functional(optimizer)
        if learned:
            optimizer, steps = self._checked(optimizer(outer)), slots.steps
            # The first slots may depend on the outer variables.
            slots = slots.slots if steps else optimizer.init(state.params)
            with _TensorScalars():
                updates, slots = optimizer.update(grads, slots, params=state.params, inplace=False)
            slots = FunctionalSlots(slots, steps + 1)
        else:
            updates, slots = optimizer.update(grads, slots, params=state.params, inplace=False)
        return State(optree.tree_map(lambda w, u: w + u, state.params, updates), slots)

    def _checked(self, optimizer: Any) -> Any:
        if not _is_functional(optimizer):
            raise InputError(
                "the function of Functional must return an optimizer with init(params) and update(grads, slots, *, "
                f"params, inplace), got {_kind(optimizer)}"
            )
        return optimizer


class _StandIn(Tensor):
    """A scalar that stands for outer variables of any structure."""

    @staticmethod
    def of(value: float) -> _StandIn:
        return torch.tensor(value).as_subclass(_StandIn)

    def __getitem__(self, key: Any) -> Any:
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self


class _TensorScalars(TorchFunctionMode):
    """Lets `alpha` of `Tensor.add` and `value` of `Tensor.addcmul` and `addcdiv` be tensors, with their derivatives."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        key = {"add": "alpha", "sub": "alpha", "addcmul": "value", "addcdiv": "value"}.get(name.rstrip("_"))
        if key and isinstance(kwargs.get(key), Tensor) and len(args) > 1:
            args = (args[0], kwargs.pop(key) * args[1], *args[2:])
        return func(*args, **kwargs)


def _kind(candidate: object) -> str:
    return f"the class {candidate.__name__}" if isinstance(candidate, type) else type(candidate).__name__


def as_updater(candidate: object) -> Updater:
    """Return an updater: what has `init` and `step` as it is, and an optimizer in the style of TorchOpt wrapped.

    Raises:
        InputError: the candidate is neither; it is a class, or an optimizer of torch.optim.
    """
    name = candidate.__name__ if isinstance(candidate, type) else type(candidate).__name__
    if isinstance(candidate, type):
        raise InputError(f"an updater must be an object, got the class {name}; make one, such as {_made(candidate)}")
    if isinstance(candidate, torch.optim.Optimizer):
        raise InputError(
            f"an updater needs methods init and step that return what they compute, but torch.optim.{name} writes to "
            "its parameters; take lds.updaters.from_torch(optimizer, module), or an updater of lds.updaters"
        )
    has = {method: callable(getattr(candidate, method, None)) for method in ("init", "step")}
    if all(has.values()):
        return cast(Updater, candidate)
    if _is_functional(candidate):
        return Functional(candidate)
    missing = "step" if has["init"] else "init"
    hint = ""
    if inspect.isroutine(candidate):
        hint = "; if it is a function of the outer variables that returns an optimizer, give Functional(function)"
    raise InputError(f"an updater needs methods init and step, but {name} has no {missing}{hint}")


def _made(kind: type) -> str:
    """Return how to make an object of a class that was given in its place."""
    if issubclass(kind, torch.optim.Optimizer):
        return f"lds.updaters.from_torch({kind.__name__}(module.parameters()), module)"
    return f"{kind.__name__}(0.1)" if issubclass(kind, GradientUpdater) else f"{kind.__name__}()"


def _is_functional(candidate: object) -> bool:
    """Tell whether an object is an optimizer in the style of TorchOpt."""
    made = not isinstance(candidate, type) and callable(getattr(candidate, "init", None))
    return made and callable(getattr(candidate, "update", None)) and _takes_params(candidate)


def _takes_params(candidate: Any) -> bool:
    """Tell whether `update` is called in the style of TorchOpt, (grads, slots, *, params, inplace)."""
    try:
        parameters = inspect.signature(candidate.update).parameters
    except (TypeError, ValueError):
        return False
    return {"params", "inplace"} <= set(parameters)
