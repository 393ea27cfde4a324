"""What an inner updater Φ is: a pure `init`/`step` pair over a state.

With it: inner gradients, and optimizers of other libraries as updaters. Below the engine and the updaters of the
package, which both build on it; `lds.updaters` hands it to users.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias, cast, runtime_checkable

import optree
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lds._autograd import vjp
from lds._show import short
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

    Example:
        >>> import torch
        >>> from lds.updaters import SGD, State
        >>> w = torch.tensor(1.0)
        >>> State(w, SGD(0.1, momentum=0.9).init(w))
        State(step=0, params=1 (float32), slots=0 (float32))
    """

    params: PyTree
    slots: PyTree = ()
    step: int = 0

    def __repr__(self) -> str:
        return short(self)


class WithBuffers(NamedTuple):
    """Params of a module with the buffers that the state carries along; what `functional(…, buffers=True)` returns.

    Attributes:
        params: the trainable parameters by name, which the updater trains.
        buffers: the persistent buffers by name, such as BatchNorm's running statistics, which the calls of a step
            renew. Integers, such as `num_batches_tracked`, are float64 here.

    Example:
        >>> import torch
        >>> from lds.hypergrad import functional
        >>> params, call = functional(torch.nn.BatchNorm1d(2), buffers=True)
        >>> sorted(params.params), sorted(params.buffers)
        (['bias', 'weight'], ['num_batches_tracked', 'running_mean', 'running_var'])
    """

    params: dict[str, Tensor]
    buffers: dict[str, Tensor]

    def __repr__(self) -> str:
        return short(self)


def trained(params: PyTree) -> PyTree:
    """Return the params without buffers."""
    return params.params if isinstance(params, WithBuffers) else params


@runtime_checkable
class KnowsGradient(Protocol):
    """An inner objective that knows its gradient, so that nothing has to be differentiated twice.

    A plain function is an objective; this is for one whose gradient is a formula. `gradient`, and with it every updater
    of the package, takes what `value_and_grad` returns in place of autograd's. In the first, second, fourth, eighth, …
    call the engine compares value, gradient, and a product with the gradient's derivative with autograd's.

    Example:
        >>> import torch
        >>> from lds.hypergrad import hypergradient
        >>> from lds.updaters import SGD
        >>> class Ridge:
        ...     def __init__(self, x, y):
        ...         self.x, self.y = x, y
        ...     def __call__(self, w, penalty):
        ...         return 0.5 * (self.x @ w - self.y).square().sum() + 0.5 * penalty * w.square().sum()
        ...     def value_and_grad(self, w, penalty):
        ...         return self(w, penalty), self.x.T @ (self.x @ w - self.y) + penalty * w
        >>> ridge, w, penalty = Ridge(torch.eye(2), torch.ones(2)), torch.zeros(2), torch.tensor(1.0)
        >>> hypergradient(ridge, lambda w, _: w.sum(), w, penalty, updater=SGD(0.25), steps=2).grad
        tensor(-0.1250)
    """

    def __call__(self, params: PyTree, outer: PyTree) -> Tensor:
        """Return the value L(w, θ)."""
        ...

    def value_and_grad(self, params: PyTree, outer: PyTree) -> tuple[Tensor, PyTree] | None:
        """Return the value and the gradient in the params, a pytree like them; None leaves it to autograd.

        The gradient is differentiable in `params` and in `outer` where grad mode is enabled. The value is noted alone,
        and need not be.
        """
        ...


@runtime_checkable
class Updater(Protocol):
    """One step of inner optimization, w_{t+1} = Φ(w_t, θ), as two pure methods; no base class is needed.

    Example:
        >>> import torch
        >>> from lds.updaters import State, gradient
        >>> class Descent:
        ...     def init(self, params):
        ...         return ()
        ...     def step(self, state, outer, inner):
        ...         grads = gradient(inner, state.params, outer)
        ...         return State(state.params - 0.1 * grads)
        >>> Descent().step(State(torch.tensor(1.0)), None, lambda w, outer: w**2).params.detach()
        tensor(0.8000)
    """

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

    The objective may be any, such as that of one player of several, and params a part of those of a step. What it
    captures counts as constant, though it may depend on params (the other player's answer to them). One that
    `KnowsGradient` is asked for it.

    Args:
        inner: objective, (params, outer) -> scalar tensor.
        params: pytree of floating-point tensors w.
        outer: pytree of outer variables θ.

    Returns:
        A pytree like `params`; leaves that the objective does not use get zeros.

    Raises:
        InputError: the objective is no real scalar, it depends on none of the params, or its gradient is sparse.

    Example:
        >>> import torch
        >>> from lds.updaters import gradient
        >>> gradient(lambda w, outer: outer * w**2, torch.tensor(3.0), torch.tensor(2.0)).detach()
        tensor(12.)
    """
    if (known := getattr(inner, "value_and_grad", None)) is not None and (pair := known(params, outer)) is not None:
        return pair[1]
    create_graph = torch.is_grad_enabled()
    leaves, spec = optree.tree_flatten(params)
    with torch.enable_grad():
        # Views, so that the paths that lead to params by what the objective captures do not count.
        leaves = [x.view_as(x) if x.requires_grad else x.detach().requires_grad_() for x in leaves]
        loss = inner(spec.unflatten(leaves), outer)
        found: Sequence[Tensor | None] = [None] * len(leaves)
        if loss.requires_grad:  # Of a tensor that is no param, perhaps: a module's own weight.
            if loss.numel() != 1 or loss.is_complex():
                raise InputError(
                    f"an inner objective must be a real scalar, got {loss.dtype} of shape {tuple(loss.shape)}; reduce "
                    "it with .mean() or .sum(), and take the real part"
                )
            found = vjp([loss], leaves, [torch.ones_like(loss)], create_graph=create_graph)
    grads, missing = [], 0
    for x, g in zip(leaves, found, strict=True):
        if g is None:
            missing += 1
        elif g.is_sparse:
            raise InputError(
                f"inner gradients must be dense, got a sparse one of shape {tuple(g.shape)}; build the embedding with "
                "sparse=False"
            )
        grads.append(torch.zeros_like(x) if g is None else g)
    if missing == len(grads):
        raise InputError(
            "the inner objective must depend on params, but its value has no gradient path to any of them; compute it "
            "from the params it is called with (of a module: params, call = functional(module), then call(params, x)), "
            "and do not detach them"
        )
    return spec.unflatten(grads)


class GradientUpdater(ABC):
    """An updater that takes one inner gradient per step, at the params, and works on that.

    A subclass writes `init` and `update`, gets `step`, and can stand inside `ClipByNorm` and `ClipByValue`.

    Attributes:
        by_leaf: whether the step is an update that computes no param of the new state from another one of it.

    Example:
        >>> import torch
        >>> from lds.updaters import GradientUpdater, State
        >>> class Signed(GradientUpdater):
        ...     def init(self, params):
        ...         return ()
        ...     def update(self, grads, state, outer):
        ...         return State(state.params - 0.1 * grads.tanh())
        >>> Signed().step(State(torch.tensor(9.0)), None, lambda w, outer: w**2).params.detach()
        tensor(8.9000)
    """

    by_leaf: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if {"update", "step"} & vars(cls).keys():  # Which need not be as those of the class above.
            cls.by_leaf = vars(cls).get("by_leaf", False)

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

    Example:
        >>> from lds.updaters import FunctionalSlots
        >>> FunctionalSlots(slots=(), steps=0)
        FunctionalSlots(slots=(), steps=0)
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
    in every step. So it helps with `dampening` too, where TorchOpt's first call differs from all later ones.

    Args:
        optimizer: a pair of pure functions, `init(params) -> slots` and
            `update(grads, slots, *, params, inplace) -> (updates, slots)`; or a function (outer) -> such a pair.
        outer: outer variables to show to the function where slots are to be made, before any step. Their values do not
            matter, for the first step makes the slots again; without them, stand-ins do for most functions.

    Raises:
        InputError: there is no such pair; or, when it begins, the function fails on the stand-ins.

    Example:
        >>> import torchopt  # doctest: +SKIP
        >>> from lds.updaters import Functional
        >>> updater = Functional(lambda outer: torchopt.adam(outer["lr"]))  # the rate is learned
    """

    optimizer: Any
    outer: PyTree = None

    def __post_init__(self) -> None:
        if not (_is_functional(self.optimizer) or (callable(self.optimizer) and not isinstance(self.optimizer, type))):
            raise InputError(
                "Functional needs an optimizer with init and update such as torchopt.adam(1e-3), or a function of the "
                f"outer variables that returns one, got {_kind(self.optimizer)}"
            )
        # Copies, as the example may be the outer variables themselves.
        copies = optree.tree_map(lambda x: x.detach().clone() if isinstance(x, Tensor) else x, self.outer)
        object.__setattr__(self, "outer", copies)

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
        if _is_functional(self.optimizer):
            if state.step and not hasattr(self, "_called"):
                _call_once(self.optimizer, grads, state.params)
            object.__setattr__(self, "_called", True)
            updates, slots = self.optimizer.update(grads, state.slots, params=state.params, inplace=False)
        else:
            before, steps = state.slots
            with _Tracked():
                optimizer = self._checked(self.optimizer(optree.tree_map(_Learned.of, outer)))
                # The first slots may depend on the outer variables.
                before = before if steps else optimizer.init(state.params)
                if steps:
                    _call_once(optimizer, grads, state.params)
                result = optimizer.update(grads, before, params=state.params, inplace=False)
            updates, slots = optree.tree_map(_plain, result)
            slots = FunctionalSlots(slots, steps + 1)
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


class _Learned(Tensor):
    """A tensor that torch takes for a number where it needs one, as it asks for no gradient; the one that does, inside.

    torch refuses a tensor with a gradient as `alpha` of `Tensor.add` and the like, where TorchOpt puts coefficients.
    """

    tensor: Tensor

    @staticmethod
    def of(x: Any) -> Any:
        if not isinstance(x, Tensor) or isinstance(x, _Learned):
            return x
        shown = x.detach().as_subclass(_Learned)
        shown.tensor = x
        return shown


def _plain(x: Any) -> Any:
    return x.tensor if isinstance(x, _Learned) else x


@torch.no_grad()
def _call_once(optimizer: Any, grads: PyTree, params: PyTree) -> None:
    """Let an optimizer that remembers whether it was called, as TorchOpt's momentum does, know of steps before."""
    grads, params = optree.tree_map(torch.Tensor.detach, grads), optree.tree_map(torch.Tensor.detach, params)
    optimizer.update(grads, optimizer.init(params), params=params, inplace=False)


_FACTORS = {"add": "alpha", "sub": "alpha", "addcmul": "value", "addcdiv": "value"}


_NUMBERS = {Tensor.__float__, Tensor.item, Tensor.tolist, Tensor.__int__, Tensor.numpy}


class _Tracked(TorchFunctionMode):
    """Computes with what is inside of `_Learned` tensors."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given: PyTree = (args, kwargs or {})
        learned = [isinstance(x, _Learned) for x in optree.tree_leaves(given) if isinstance(x, Tensor)]
        if not any(learned):
            return func(*args, **(kwargs or {}))
        args, kwargs = optree.tree_map(_plain, given)
        if func in _NUMBERS and args[0].is_floating_point():
            raise InputError(
                "the optimizer of Functional made a number of an outer variable, by float(), .item() or math, which "
                "cuts its derivative off; take an updater of lds.updaters in its place, or give it a number"
            )
        factor = _FACTORS.get(getattr(func, "__name__", "").rstrip("_"))
        if isinstance(kwargs.get(factor), Tensor):
            args = (args[0], kwargs.pop(factor) * args[1], *args[2:])
        result = func(*args, **kwargs)
        return optree.tree_map(_Learned.of, result) if all(learned) else result


def _kind(candidate: object) -> str:
    return f"the class {candidate.__name__}" if isinstance(candidate, type) else type(candidate).__name__


def as_updater(candidate: object) -> Updater:
    """Return an updater: what has `init` and `step` as it is, and an optimizer in the style of TorchOpt wrapped.

    Raises:
        InputError: the candidate is neither; it is a class, or an optimizer of torch.optim.

    Example:
        >>> from lds.updaters import SGD, as_updater
        >>> as_updater(SGD(0.1)) == SGD(0.1)  # an updater stays as it is; an optimizer of TorchOpt is wrapped
        True
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
