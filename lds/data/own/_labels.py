"""Class numbers for labels that are texts."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor

# What a column of integers becomes in pandas once a cell of it is empty.
_INTEGRAL = re.compile(r"^(-?\d+)\.0+$")


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


def _is_missing(name: str) -> bool:
    try:
        return not name or float(name) == -1 or math.isnan(float(name))
    except ValueError:
        return False


def _is_integer(name: str) -> bool:
    # Python reads no integer of more than 4300 digits.
    return name.removeprefix("-").isdecimal() and len(name) < 1000
