"""Checks of arguments."""

from __future__ import annotations

from typing import Literal, TypeAlias

from lds.errors import InputError

Noise: TypeAlias = Literal["replay", "resample"]


def check_count(name: str, value: object, *, least: int = 0) -> None:
    """Raise InputError unless the value is an integer ≥ `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} must be an integer >= {least}, got {value!r}")


def check_memory(memory: object) -> None:
    """Raise InputError unless the value is a memory policy, or None."""
    if memory is not None:
        _check_has("memory", memory, "tape", "a memory policy such as Checkpoint()")


def check_method(method: object) -> None:
    """Raise InputError unless the value is a method of differentiation."""
    _check_has("method", method, "solve", "a method such as Reverse(horizon=20)")


def _check_has(name: str, value: object, method: str, needed: str) -> None:
    if isinstance(value, type):
        raise InputError(f"{name} must be {needed}, got the class {value.__name__}; make an object of it")
    if not callable(getattr(value, method, None)):
        raise InputError(f"{name} must be {needed}, with a method `{method}`, got {value!r}")


def check_noise(noise: object) -> None:
    """Raise InputError unless the value is one of `Noise`."""
    if noise not in ("replay", "resample"):
        raise InputError(f'noise must be "replay" or "resample", got {noise!r}')
