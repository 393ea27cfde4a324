"""Names of nodes that every format of a graph can carry."""

from __future__ import annotations

import re

# numpy gives every text of an array the room of the longest.
_LONGEST = 1000
# What XML cannot hold, and what would break a line of a table.
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def fault(name: str) -> str | None:
    """Return what keeps a text from being the name of a node; None where nothing does."""
    if not name:
        return "is empty"
    if len(name) > _LONGEST:
        return f"has {len(name)} characters, more than {_LONGEST}"
    return "holds a control character" if _CONTROL.search(name) else None
