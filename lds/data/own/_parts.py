"""What several formats of own data hold: labels, names of nodes, and edges, which have no weights."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lds.errors import DataError

# What a column of integers becomes in pandas once a cell of it is empty.
_INTEGRAL = re.compile(r"^(-?\d+)\.0+$")
# numpy gives every text of an array the room of the longest.
_LONGEST_NAME = 1000
# What XML cannot hold, and what would break a line of a table.
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def numbered(labels: Sequence[str]) -> tuple[Tensor, list[str]]:
    """Return class numbers, int64 of shape [N], and the names of the classes, in the order of their numbers.

    A label that is empty, nan or the number -1, however written, leaves a node unlabelled: -1. 2.0 is the class 2.
    Classes are numbered in the order of integers where all names are integers, else in that of texts.
    """
    stripped = [_INTEGRAL.sub(r"\1", label.strip()) for label in labels]
    names = [name for name in set(stripped) if not _is_missing(name)]
    names.sort(key=(lambda name: (int(name), name)) if all(map(_is_integer, names)) else (lambda name: (0, name)))
    numbers = {name: number for number, name in enumerate(names)}
    return torch.tensor([numbers.get(label, -1) for label in stripped], dtype=torch.int64), names


def name_fault(name: str) -> str | None:
    """Return what keeps a text from being the name of a node; None where nothing does."""
    if not name:
        return "is empty"
    if len(name) > _LONGEST_NAME:
        return f"has {len(name)} characters, more than {_LONGEST_NAME}"
    return "holds a control character" if _CONTROL.search(name) else None


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


def _is_missing(name: str) -> bool:
    try:
        return not name or float(name) == -1 or math.isnan(float(name))
    except ValueError:
        return False


def _is_integer(name: str) -> bool:
    # Python reads no integer of more than 4300 digits.
    return name.removeprefix("-").isdecimal() and len(name) < 1000
