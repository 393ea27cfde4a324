"""Edges of a user's own have no weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lds.errors import DataError


def refuse_weights(path: Path, parts: Mapping[str, Any]) -> None:
    """Check the parts of a file for edges with weights, which a learned graph, as `lds export` writes it, has too.

    Raises:
        DataError: there are weights.
    """
    there = {str(name).removesuffix("_data") for name, value in parts.items() if value is not None}
    if not (weights := there & {"edge_weight", "adj_t"}):
        return
    if lacking := [name for name in ("x", "y") if name not in there]:
        none = " and no ".join(lacking)
        raise DataError(
            f"{path} must hold features x and labels y, but has no {none}, like a graph of lds export; "
            "save x and y of your nodes with its edge_index, and no edge_weight"
        )
    raise DataError(
        f"{path} must hold plain edges as edge_index, since every edge starts with probability 1, "
        f"but {min(weights)} came; keep the edges that count, and drop it"
    )
