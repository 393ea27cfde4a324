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

from lds.errors import InputError

PyTree: TypeAlias = Any
Objective: TypeAlias = Callable[[PyTree, PyTree], Tensor]
# An inner objective where there are batches, or where there are none.
InnerObjective: TypeAlias = Objective | Callable[[PyTree, PyTree, Any], Tensor]


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
        grads.append(torch.zeros_like(x) if g is None else g)
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


@dataclass(frozen=True)
class FunctionalUpdater(GradientUpdater):
    """A functional optimizer in the style of TorchOpt, such as `torchopt.adam(1e-3)`, as an updater.

    Ren et al., `TorchOpt <https://arxiv.org/abs/2211.06934>`_ (JMLR 2023). Its adaptive optimizers have ε outside the
    root, so that a zero gradient makes the hypergradient NaN; pass them an `eps_root`, such as 1e-16.

    Args:
        optimizer: a pair of pure functions, `init(params) -> slots` and
            `update(grads, slots, *, params, inplace) -> (updates, slots)`.
    """

    optimizer: Any

    def init(self, params: PyTree) -> PyTree:
        """Return the optimizer's state."""
        return self.optimizer.init(params)

    def update(self, grads: PyTree, state: State, outer: PyTree) -> State:
        """Return the state after one update of the optimizer."""
        updates, slots = self.optimizer.update(grads, state.slots, params=state.params, inplace=False)
        return State(optree.tree_map(lambda w, u: w + u, state.params, updates), slots)


def as_updater(candidate: object) -> Updater:
    """Return an updater: what has `init` and `step` as it is, and an optimizer in the style of TorchOpt wrapped.

    Raises:
        InputError: the candidate is neither; it is a class, or an optimizer of torch.optim.
    """
    name = type(candidate).__name__
    if isinstance(candidate, type):
        raise InputError(
            f"an updater must be an object, got the class {candidate.__name__}; make one, such as SGD(0.1)"
        )
    if isinstance(candidate, torch.optim.Optimizer):
        raise InputError(
            f"an updater needs methods init and step that return what they compute, but torch.optim.{name} writes to "
            f"its parameters; take lds.updaters.{name}(lr=…) if there is one, or write an updater, see lds.updaters"
        )
    has = {method: callable(getattr(candidate, method, None)) for method in ("init", "step", "update")}
    if has["init"] and has["step"]:
        return cast(Updater, candidate)
    if has["init"] and has["update"] and _takes_params(candidate):
        return FunctionalUpdater(candidate)
    missing = "step" if has["init"] else "init"
    raise InputError(f"an updater needs methods init and step, but {name} has no {missing}")


def _takes_params(candidate: Any) -> bool:
    """Tell whether `update` is called in the style of TorchOpt, (grads, slots, *, params, inplace)."""
    try:
        parameters = inspect.signature(candidate.update).parameters
    except (TypeError, ValueError):
        return False
    return {"params", "inplace"} <= set(parameters)
