"""Arithmetic on flattened pytrees: a list has one value a leaf of params, anything else is one value for all."""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from typing import Any

import optree

from lds.updaters._protocol import PyTree


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
    """Return decay·old + rest·new, where rest = 1 − decay."""
    return decay * old + rest * new


def average_square(old: Any, new: Any, decay: Any, rest: Any) -> Any:
    """Return decay·old + rest·new², where rest = 1 − decay."""
    return decay * old + rest * new * new


def one_minus(x: Any) -> Any:
    """Return 1 − x."""
    return 1 - x
