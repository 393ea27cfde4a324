"""What was saved of a sweep, looked at before the sweep goes on from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor


def fits(saved: Mapping[str, Any], begin: Mapping[str, Any], leaves: Sequence[Any], horizon: int) -> bool:
    """Tell whether the saved progress of a sweep has the types and shapes that this sweep's would have.

    Args:
        saved: what was saved.
        begin: what this sweep would save before its first step.
        leaves: leaves of a state.
        horizon: number of steps of the sweep.
    """
    if saved.keys() != begin.keys() or type(saved["t"]) is not int:
        return False
    done = begin["t"] - saved["t"]
    if not 0 < done <= horizon or not isinstance(saved["replay_error"], float | None):
        return False
    lists = [saved[name] for name in ("sums", "cotangents", "costate_norms", "increment_norms")]
    sums, cotangents, rows, increments = lists
    if not all(isinstance(x, list) for x in lists) or not all(isinstance(x, list) for x in (*sums, *rows)):
        return False
    # The costate before the first step of all need not be computed.
    if len(increments) != done + 1 or len(rows) not in (done, done + 1) or any(len(row) != len(leaves) for row in rows):
        return False
    if not all(type(x) is float for x in [*increments, *(x for row in rows for x in row)]):
        return False
    if [len(part) for part in sums] != [len(part) for part in begin["sums"]] or len(cotangents) != len(leaves):
        return False
    pairs = [(saved["outer_loss"], begin["outer_loss"])]
    pairs += [pair for part, like in zip(sums, begin["sums"], strict=True) for pair in zip(part, like, strict=True)]
    pairs += [pair for pair in zip(cotangents, leaves, strict=True) if pair[0] is not None]
    return all(_alike(*pair) for pair in pairs)


def _alike(x: Any, like: Any) -> bool:
    if not (isinstance(x, Tensor) and isinstance(like, Tensor)):
        return False
    return (x.dtype, x.shape, x.layout, x.device) == (like.dtype, like.shape, like.layout, like.device)
