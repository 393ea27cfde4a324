"""Numbers as people read them."""

from __future__ import annotations

import math
from typing import Any

from lds._statistics import Mean

NONE = "–"


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share as a percentage."""
    return NONE if share is None or math.isnan(share) else f"{100 * share:.{digits}f} %"


def percent_mean(mean: Mean) -> str:
    """Return mean ± standard deviation in per cent."""
    spread = "" if math.isnan(mean.std) else f" ± {100 * mean.std:.1f}"
    return f"{100 * mean.mean:.1f}{spread}"


def interval(mean: Mean, *, signed: bool = False) -> str:
    """Return the 95 % interval in per cent."""
    if math.isnan(mean.half_width):
        return NONE
    sign = "+" if signed else ""
    ends = (100 * (mean.mean - mean.half_width), 100 * (mean.mean + mean.half_width))
    return f"[{ends[0]:{sign}.1f}, {ends[1]:{sign}.1f}]".replace("-", "−")


def points(difference: float) -> str:
    """Return a difference of shares in percentage points."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def p_value(p: float) -> str:
    """Return a p-value."""
    if math.isnan(p):
        return NONE
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def count(number: float | None) -> str:
    """Return a number of things, with thousands apart."""
    return NONE if number is None or math.isnan(number) else f"{number:,.0f}"


def seconds(time: float | None) -> str:
    """Return a time."""
    if time is None or math.isnan(time):
        return NONE
    if time < 1:
        return f"{1000 * time:.0f} ms"
    if time < 120:
        return f"{time:.1f} s"
    if time < 7200:
        return f"{time / 60:.1f} min"
    return f"{time / 3600:.1f} h"


def mebibytes(size: float | None) -> str:
    """Return an amount of memory."""
    return NONE if size is None or math.isnan(size) else f"{size:,.0f} MiB"


def value(thing: Any) -> str:
    """Return a value of a configuration."""
    if thing is None:
        return "not given"
    if isinstance(thing, bool):
        return "yes" if thing else "no"
    if isinstance(thing, list):
        return ", ".join(map(value, thing))
    return str(thing)


def sentence(text: str) -> str:
    """Return a text as it begins a line."""
    return text[:1].upper() + text[1:]
