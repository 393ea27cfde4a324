"""Coefficients of an updater: constants, or functions of the outer variables."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from lds.errors import InputError
from lds.updaters._protocol import PyTree

Coefficient: TypeAlias = float | Tensor | Callable[[PyTree], Tensor]


def resolve(coefficient: Coefficient, outer: PyTree) -> float | Tensor:
    """Return the value of a coefficient at these outer variables."""
    return coefficient(outer) if callable(coefficient) else coefficient


def check_constant(name: str, value: Coefficient, low: float, high: float, *, high_open: bool = False) -> None:
    """Raise InputError unless a constant coefficient lies in [low, high] (or [low, high))."""
    if isinstance(value, int | float) and not (low <= value < high or (value == high and not high_open)):
        interval = f"[{low}, {high}{')' if high_open else ']'}"
        raise InputError(f"{name} must lie in {interval}, got {value!r}")
