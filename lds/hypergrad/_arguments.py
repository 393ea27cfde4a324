"""Checks of arguments."""

from __future__ import annotations

from lds.errors import InputError


def check_count(name: str, value: object, *, least: int = 0) -> None:
    """Raise InputError unless the value is an integer ≥ `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} must be an integer >= {least}, got {value!r}")
