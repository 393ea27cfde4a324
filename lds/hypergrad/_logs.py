"""Numbers that are noted at every step and read from their device at once, at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class ScalarLog:
    """The last `capacity` values of a scalar, on its device.

    One preallocated tensor: small ones, each kept between large ones that come and go, would fragment the heap.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._values: Tensor | None = None
        self._dropped: Tensor | None = None
        self._count = 0

    def append(self, value: Tensor) -> None:
        """Add a value, in place of the oldest where all places are taken."""
        if self._values is None:
            self._values = value.new_empty(self._capacity)
        place = self._values[self._count % self._capacity]
        if self._count >= self._capacity:
            # NaN and infinity stay in a sum.
            self._dropped = place.clone() if self._dropped is None else self._dropped.add_(place)
        place.copy_(value)
        self._count += 1

    def __len__(self) -> int:
        return min(self._count, self._capacity)

    def floats(self) -> list[float]:
        """Return the values, oldest first, read from their device at once."""
        if self._values is None:
            return []
        values: list[float] = self._values[: len(self)].tolist()
        begin = self._count % self._capacity if self._count > self._capacity else 0
        return values[begin:] + values[:begin]

    def suspicious(self) -> bool:
        """Tell whether a value may have been NaN or infinite, those that are not kept among them."""
        dropped = 0.0 if self._dropped is None else self._dropped.item()
        return not math.isfinite(dropped) or not all(map(math.isfinite, self.floats()))


class NormLog:
    """2-norms of the tensors in a list, a row a step.

    Args:
        rows: number of steps, at most.
        columns: number of tensors.
        dtype: type to square in; that of each tensor when None, where squares of large numbers become infinite.
    """

    def __init__(self, rows: int, columns: int, dtype: torch.dtype | None = None) -> None:
        self._shape = rows, columns
        self._dtype = dtype
        self._values: Tensor | None = None
        self._zero: Tensor | None = None
        self._count = 0

    def append(self, tensors: Sequence[Tensor | None], like: Tensor) -> None:
        """Add the norms of the tensors, None standing for zero, in the dtype and on the device of the scalar `like`."""
        if self._values is None or self._zero is None:
            self._values = torch.zeros(self._shape, dtype=self._dtype or like.dtype, device=like.device)
            self._zero = self._values.new_zeros(())
        found = [x for x in tensors if x is not None]
        if found:
            norms = iter(torch._foreach_norm(found, 2, self._dtype))
            row = [self._zero if x is None else next(norms).to(self._zero) for x in tensors]
            torch.stack(row, out=self._values[self._count])
        self._count += 1

    def last(self) -> float:
        """Return the norm over all tensors at the newest step."""
        assert self._values is not None
        return float(torch.linalg.vector_norm(self._values[self._count - 1]))

    def totals(self, columns: int | None = None) -> list[float]:
        """Return the norm over all tensors, or over the first of them, at every step."""
        if self._values is None:
            return []
        # In double precision: squares of norms that the dtype holds need not be in its range.
        norms: list[float] = torch.linalg.vector_norm(self._values[: self._count, :columns].double(), dim=1).tolist()
        return norms

    def rows(self) -> list[list[float]]:
        """Return the norms of every tensor at every step."""
        return [] if self._values is None else self._values[: self._count].tolist()

    def restore(self, rows: Sequence[Sequence[float]], like: Tensor) -> None:
        """Go on from what `rows` returned."""
        self._values, self._zero = like.new_zeros(self._shape), torch.zeros_like(like)
        self._count = len(rows)
        if rows:
            self._values[: self._count] = torch.tensor(rows, dtype=torch.float64)
