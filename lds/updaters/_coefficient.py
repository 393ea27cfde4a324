"""Coefficients of an updater (constants, functions of the outer variables, schedules), and a step that works with them.

An updater works on flattened pytrees: a list has one value a leaf of params, anything else is one value for all.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, Protocol, TypeAlias

import optree
import torch
from torch import Tensor

from lds._updater import GradientUpdater, PyTree, State
from lds.errors import InputError


class Schedule(Protocol):
    """A coefficient that changes from step to step; those of the package are in `lds.updaters.schedules`.

    Example:
        >>> import torch
        >>> from lds.updaters import SGD
        >>> class Halving:
        ...     def at(self, outer, step):
        ...         return outer["lr"] * 0.5**step
        >>> updater = SGD(lr=Halving())
    """

    def at(self, step: int, outer: PyTree) -> PyTree:
        """Return the value in the step that comes after `step` others."""
        ...


# A number; a tensor, which is a constant too; a function of the outer variables; a schedule. The value in a step is a
# number, a scalar tensor, or a pytree like params or like their upper part, the leaves of which are such or broadcast
# to the leaves of params below them.
Coefficient: TypeAlias = float | Tensor | Callable[[PyTree], PyTree] | Schedule

# Tuples, as a union would be made anew at every step.
_NUMBER = (float, int)
_CONSTANT = (*_NUMBER, Tensor)


def evaluate(coefficient: Coefficient, step: int, outer: PyTree) -> PyTree:
    """Return the value of a coefficient in a step, as it comes."""
    if isinstance(coefficient, _CONSTANT):
        return coefficient
    return coefficient.at(step, outer) if hasattr(coefficient, "at") else coefficient(outer)


def resolve(name: str, coefficient: Coefficient, leaves: list[Tensor], state: State, outer: PyTree) -> Any:
    """Return the value of a coefficient for the leaves of params: one for all, or a list with one for each."""
    if type(coefficient) is float:
        return coefficient
    return spread(name, evaluate(coefficient, state.step, outer), leaves, state.params)


def spread(name: str, value: PyTree, leaves: list[Tensor], params: PyTree) -> Any:
    """Return a value as `resolve` does, such that arithmetic with it keeps the shapes and dtypes of the leaves.

    Raises:
        InputError: the value is no number, no scalar tensor and no pytree like params or like their upper part.
    """
    if isinstance(value, _NUMBER):
        return value
    if isinstance(value, Tensor) and value.ndim == 0:
        # A scalar takes on the dtype of any tensor it is multiplied with, but for other scalars.
        if all(leaf.ndim or leaf.dtype == value.dtype for leaf in leaves):
            return value
        return [value if leaf.ndim else value.to(leaf.dtype) for leaf in leaves]
    values, found = optree.tree_flatten(value)
    spec = optree.tree_structure(params)
    if found != spec:
        values = [] if found.is_leaf() else by_branch(value, params)
    if len(values) != len(leaves):
        came = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else str(found)
        raise InputError(
            f"{name} must be a number, a scalar tensor or a pytree like params; needed {spec}, got {came}; "
            "return one value for all params, one for each, or one for each branch"
        )
    for index, (x, leaf) in enumerate(zip(values, leaves, strict=True)):
        _check_leaf(name, x, leaf, params, index)
    return [x.to(leaf.dtype) if isinstance(x, Tensor) else x for x, leaf in zip(values, leaves, strict=True)]


def by_branch(value: PyTree, params: PyTree) -> list[Any]:
    """Return the value for each leaf of params of a pytree like their upper part; an empty list if it is none.

    The names of a module's parameters, such as "encoder.weight", are branches of a tree too.
    """
    paths = optree.tree_paths(params)
    try:
        return optree.broadcast_prefix(value, params)
    except ValueError:
        if not (isinstance(value, dict) and isinstance(params, dict)):
            return []
    branches: dict[Any, Any] = {}
    names = [path[0] for path in paths]
    for name in names:
        above = [key for key in value if str(name) == key or str(name).startswith(f"{key}.")]
        if not above:
            return []
        branches[name] = max(above, key=len)
    if set(branches.values()) != set(value):
        return []
    return [value[branches[name]] for name in names]


def _check_leaf(name: str, value: Any, leaf: Tensor, params: PyTree, index: int) -> None:
    if isinstance(value, _NUMBER) or (isinstance(value, Tensor) and _broadcasts(value.shape, leaf.shape)):
        return
    path = optree.tree_accessors(params)[index].codify("")
    came = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise InputError(
        f"{name}{path} must be a number or a tensor that broadcasts to params{path}; "
        f"needed shape {tuple(leaf.shape)} or (), got {came}"
    )


def _broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    sizes = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(size in (1, needed) for size, needed in sizes)


def is_zero(coefficient: Coefficient) -> bool:
    """Tell whether a coefficient is the constant 0, so that its term can be left out."""
    return isinstance(coefficient, _NUMBER) and coefficient == 0


def check_coefficient(name: str, value: Coefficient, low: float, high: float, *, high_open: bool = False) -> None:
    """Raise InputError unless a coefficient is one, and lies in [low, high] (or [low, high)) if it is a number."""
    if isinstance(value, _NUMBER):
        if not (low <= value < high or (value == high and not high_open)):
            interval = f"[{low}, {high}{')' if high_open else ']'}"
            raise InputError(f"{name} must lie in {interval}, got {value!r}")
    elif not (isinstance(value, Tensor) or callable(value) or hasattr(value, "at")):
        raise InputError(
            f"{name} must be a number, a tensor, a function of the outer variables or a schedule, "
            f"got {type(value).__name__}"
        )


def check_size(name: str, value: Coefficient) -> None:
    """Raise InputError unless a coefficient is one, and lies in [0, inf) if it is a number."""
    check_coefficient(name, value, 0, float("inf"), high_open=True)


def check_share(name: str, value: Coefficient) -> None:
    """Raise InputError unless a coefficient is one, and lies in [0, 1) if it is a number."""
    check_coefficient(name, value, 0, 1, high_open=True)


def check_number(name: str, value: object, low: float) -> None:
    """Raise InputError unless a value is a number in [low, inf)."""
    if not isinstance(value, _NUMBER):
        raise InputError(f"{name} must be a number, got {type(value).__name__}")
    check_coefficient(name, value, low, float("inf"), high_open=True)


def check_eps(value: float) -> None:
    """Raise InputError unless ε is a number whose square is a normal float32."""
    check_number("eps", value, 1e-18)


def check_real(updater: object, params: PyTree) -> None:
    """Raise InputError if a param is complex, for an updater that works on squares or signs."""
    for accessor, x in zip(optree.tree_accessors(params), optree.tree_leaves(params), strict=True):
        if x.is_complex():
            raise InputError(
                f"{type(updater).__name__} needs real params, but {accessor.codify('params')} is {x.dtype}; give "
                "torch.view_as_real of it, and take torch.view_as_complex in the objectives"
            )


def zeros(params: PyTree) -> PyTree:
    """Return a pytree of zeros like params."""
    return optree.tree_map(lambda x: x.new_zeros(x.shape), params)


def each(function: Callable[..., Any], *values: Any) -> Any:
    """Return the list of function values leaf by leaf; one function value where no argument is a list."""
    # A loop and a list: a generator would cost as much as the arithmetic.
    for value in values:
        if type(value) is list:
            return list(map(function, *[x if type(x) is list else repeat(x) for x in values]))
    return function(*values)


def add_scaled(x: Any, y: Any, scale: Any) -> Any:
    """Return x + scale·y."""
    return x + scale * y


def subtract_scaled(x: Any, y: Any, scale: Any) -> Any:
    """Return x − scale·y."""
    return x - scale * y


def decayed(w: Any, lr: Any, weight_decay: Any) -> Any:
    """Return (1 − lr·weight_decay)·w."""
    return w * (1 - lr * weight_decay)


def average(old: Any, new: Any, decay: Any, rest: Any) -> Any:
    """Return decay·old + rest·new, where rest may be 1 − decay."""
    if type(rest) is float:
        return torch.add(decay * old, new, alpha=rest)
    return decay * old + rest * new


def average_square(old: Any, new: Any, decay: Any, rest: Any) -> Any:
    """Return decay·old + rest·new², where rest = 1 − decay."""
    if type(rest) is float:
        return torch.addcmul(decay * old, new, new, value=rest)
    return decay * old + rest * new * new


def one_minus(x: Any) -> Any:
    """Return 1 − x."""
    return 1 - x


class Leaves:
    """A step on flattened pytrees.

    Attributes:
        w: leaves of params.
        g: leaves of the direction to go against: the gradients, negated to maximize.
        state: the state before the step.
    """

    def __init__(self, grads: PyTree, state: State, outer: PyTree, maximize: bool) -> None:
        leaves, self._spec = optree.tree_flatten(state.params)
        self.w: list[Any] = leaves
        g: list[Any] = self._spec.flatten_up_to(grads)
        self.g = [-x for x in g] if maximize else g
        self.state, self._outer = state, outer

    def flat(self, tree: PyTree) -> list[Any]:
        """Return the leaves of a pytree like params."""
        return self._spec.flatten_up_to(tree)

    def tree(self, leaves: list[Any]) -> PyTree:
        """Return the pytree like params with these leaves."""
        return self._spec.unflatten(leaves)

    def value(self, name: str, coefficient: Coefficient) -> Any:
        """Return a coefficient's value in this step: one for all leaves, or a list with one for each."""
        return resolve(name, coefficient, self.w, self.state, self._outer)

    def add_penalty(self, weight_decay: Coefficient) -> None:
        """Add the gradient of weight_decay/2 · ‖w‖² to the direction."""
        if not is_zero(weight_decay):
            self.g = each(add_scaled, self.g, self.w, self.value("weight_decay", weight_decay))

    def decay(self, lr: Any, weight_decay: Coefficient) -> None:
        """Shrink the weights, apart from the direction."""
        if not is_zero(weight_decay):
            self.w = each(decayed, self.w, lr, self.value("weight_decay", weight_decay))


@dataclass(frozen=True)
class Descent(GradientUpdater):
    """An updater that goes down the inner objective, or up with `maximize`, each leaf of the params by itself."""

    by_leaf = True
    maximize: bool = field(default=False, kw_only=True)

    def update(self, grads: PyTree, state: State, outer: PyTree) -> State:
        """Return the state after one step along these gradients."""
        return self._update(Leaves(grads, state, outer, self.maximize))

    @abstractmethod
    def _update(self, now: Leaves) -> State:
        """Return the state after the step."""
