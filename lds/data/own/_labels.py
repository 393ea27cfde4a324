"""Class numbers for labels that are texts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def numbered(labels: Sequence[str]) -> tuple[Tensor, list[str]]:
    """Return class numbers, int64 of shape [N], and the names of the classes, in the order of their numbers.

    An empty label, or -1, leaves a node unlabelled: -1. Classes are numbered in the order of integers where all names
    are integers, else in that of texts.
    """
    stripped = [label.strip() for label in labels]
    names = list(set(stripped) - {"", "-1"})
    names.sort(key=(lambda name: (int(name), name)) if all(map(_is_integer, names)) else (lambda name: (0, name)))
    numbers = {name: number for number, name in enumerate(names)}
    return torch.tensor([numbers.get(label, -1) for label in stripped], dtype=torch.int64), names


def _is_integer(name: str) -> bool:
    # Python reads no integer of more than 4300 digits.
    return name.removeprefix("-").isdecimal() and len(name) < 1000
