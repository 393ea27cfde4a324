"""What the models have in common."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from lds.errors import InputError


def layer_shapes(in_channels: int, hidden_channels: int, out_channels: int, num_layers: int) -> list[tuple[int, int]]:
    """Return the (input, output) widths of every layer.

    Raises:
        InputError: num_layers or hidden_channels is not positive.
    """
    for name, value in (("num_layers", num_layers), ("hidden_channels", hidden_channels)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    return list(pairwise([in_channels, *[hidden_channels] * (num_layers - 1), out_channels]))


def check_dropout(p: float) -> float:
    """Return a probability of dropout.

    Raises:
        InputError: it is not in [0, 1).
    """
    if not 0 <= p < 1:
        raise InputError(f"dropout must lie in [0, 1), got {p}")
    return p


def drop(x: Tensor, p: float) -> Tensor:
    """Return x with entries zeroed with probability p and the others divided by 1 − p.

    `torch.nn.functional.dropout` draws its mask one double at a time on the CPU, four times as slow.
    """
    return x * torch.rand_like(x).ge_(p).div_(1 - p)
