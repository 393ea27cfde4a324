"""Leaves of a state, as the engine passes them around."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def is_differentiable(leaf: Any) -> bool:
    """Tell whether a leaf can carry a cotangent."""
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())


def differentiable(leaves: Sequence[Any]) -> list[Any]:
    """Return the leaves as leaves of a new graph."""
    return [x.detach().requires_grad_() if is_differentiable(x) else x for x in leaves]


def detached(leaves: Sequence[Any]) -> list[Any]:
    """Return the leaves cut off from any graph."""
    return [x.detach() if isinstance(x, Tensor) else x for x in leaves]


def copied(leaves: Sequence[Any]) -> list[Any]:
    """Return the leaves in memory of their own."""
    return [x.detach().clone() if isinstance(x, Tensor) else x for x in leaves]


def norm(tensors: Sequence[Tensor], like: Tensor) -> Tensor:
    """Return the 2-norm over all tensors, of the dtype and on the device of the real scalar `like`."""
    if not tensors:
        return torch.zeros_like(like)
    norms = [x.to(like) for x in torch._foreach_norm(list(tensors))]
    result: Tensor = torch.linalg.vector_norm(torch.stack(norms)) if len(norms) > 1 else norms[0]
    return result


class ScalarLog:
    """The last `capacity` values of a scalar, on its device.

    One preallocated tensor: small ones, each kept between large ones that come and go, would fragment the heap.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._values: Tensor | None = None
        self._count = 0

    def append(self, value: Tensor) -> None:
        """Add a value, in place of the oldest where all places are taken."""
        if self._values is None:
            self._values = value.new_empty(self._capacity)
        self._values[self._count % self._capacity] = value
        self._count += 1

    def __len__(self) -> int:
        return min(self._count, self._capacity)

    def last(self) -> float:
        """Return the newest value."""
        assert self._values is not None
        return self._values[(self._count - 1) % self._capacity].item()

    def floats(self) -> list[float]:
        """Return the values, oldest first, read from their device at once."""
        if self._values is None:
            return []
        values: list[float] = self._values[: len(self)].tolist()
        begin = self._count % self._capacity if self._count > self._capacity else 0
        return values[begin:] + values[:begin]
