"""Checks on the numbers and names that an object is made with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from lds.errors import InputError


def text_fault(text: str) -> str | None:
    """Return what keeps a text from being a name or a path; None where nothing does."""
    if "\0" in text:
        return "holds a NUL character"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "is no text in UTF-8"
    return None


def meant(name: object, known: Iterable[str]) -> str:
    """Return what to add to a message on an unknown name: "; did you mean …?", or "" where nothing known is near it."""
    from difflib import get_close_matches

    by_lower = {other.lower(): other for other in known}
    found = get_close_matches(str(name)[:80].lower(), by_lower, n=1)
    return f"; did you mean {by_lower[found[0]]}?" if found else ""


def check_integers(owner: object, *names: str) -> None:
    """Raise InputError unless these attributes are integers ≥ 1."""
    for name in names:
        check_integer(name, getattr(owner, name))


def check_sizes(owner: object, *names: str) -> None:
    """Raise InputError unless these attributes are finite numbers ≥ 0."""
    for name in names:
        check(name, getattr(owner, name), "finite and >= 0", lambda x: math.isfinite(x) and x >= 0)


def check_integer(name: str, value: object) -> None:
    """Raise InputError unless the value is an integer ≥ 1."""
    check(name, value, "an integer >= 1", lambda x: isinstance(x, int) and x >= 1)


def check(name: str, value: object, needed: str, accept: Callable[[float], bool]) -> None:
    """Raise InputError unless the value is a number that is accepted."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not accept(value):
        raise InputError(f"{name} must be {needed}, got {value!r}")
