"""Numbers of every step, noted on their device and read at the end: losses, and norms.

On a small problem a number that is noted by itself takes as long as some operations of the step. So what is small
waits, and is worked up for many steps at once; what is large is worked up at once, for it would take memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

# How many steps wait, at most, and how many bytes in all.
_STEPS = 32
_BYTES = 1 << 18
# So many are worked up row by row, more of them column by column.
_FEW = 3
# The square of such a number, and of its inverse, is in the range of single precision with digits to spare.
_SQUARED = 1e-12


class ScalarLog:
    """The last `capacity` values of a scalar, on its device.

    One preallocated tensor: small ones, each kept between large ones that come and go, would fragment the heap.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._values: Tensor | None = None
        self._dropped: Tensor | None = None
        self._count = 0
        self._waiting: list[Tensor] = []
        self._read: list[float] | None = None

    def append(self, value: Tensor) -> None:
        """Add a value, in place of the oldest where all places are taken."""
        self._waiting.append(value)
        self._read = None
        # A scalar that is a part of a large tensor would keep all of it.
        if len(self._waiting) == _STEPS or value.untyped_storage().nbytes() > _BYTES // _STEPS:
            self._note()

    def _note(self) -> None:
        """Move what waits to its place."""
        if not self._waiting:
            return
        if self._values is None:
            self._values = self._waiting[0].new_empty(self._capacity)
        block = torch.stack([x.to(self._values) for x in self._waiting])
        self._waiting = []
        while len(block):
            begin = self._count % self._capacity
            new, block = block[: self._capacity - begin], block[self._capacity - begin :]
            places = self._values[begin : begin + len(new)]
            if self._count >= self._capacity:
                # The mean needs their sum. NaN and infinity stay visible in it.
                gone = places.sum(dtype=torch.float64)
                self._dropped = gone if self._dropped is None else self._dropped + gone
            places.copy_(new)
            self._count += len(new)

    def __len__(self) -> int:
        return min(self._count + len(self._waiting), self._capacity)

    def floats(self) -> list[float]:
        """Return the values, oldest first, read from their device at once."""
        if self._read is None and not self._count and 0 < len(self._waiting) <= self._capacity:
            like = self._waiting[0]
            self._read = torch.stack([x.to(like) for x in self._waiting]).tolist()
        if self._read is None:
            self._note()
            if self._values is None:
                return []
            values: list[float] = self._values[: len(self)].tolist()
            begin = self._count % self._capacity if self._count > self._capacity else 0
            self._read = values[begin:] + values[:begin]
        return self._read.copy()

    def mean(self) -> float:
        """Return the mean of all values, those that are not kept among them; NaN where there is none."""
        values = self.floats()
        dropped = 0.0 if self._dropped is None else self._dropped.item()
        count = self._count + len(self._waiting)
        if not count:
            return math.nan
        try:
            return (dropped + math.fsum(values)) / count
        except OverflowError:  # The mean is in the range of floats, the sum is not.
            return math.fsum(x / count for x in (dropped, *values))

    def suspicious(self) -> bool:
        """Tell whether a value may have been NaN or infinite, those that are not kept among them."""
        values = self.floats()
        dropped = 0.0 if self._dropped is None else self._dropped.item()
        return not math.isfinite(dropped) or not all(map(math.isfinite, values))


class NormLog:
    """2-norms of the tensors in a list, a row per step, in double precision: squares of large numbers stay finite.

    Args:
        rows: number of steps, at most.
        columns: number of tensors.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self._shape = rows, columns
        self._values: Tensor | None = None
        self._count = 0
        self._waiting: list[Sequence[Tensor | None]] = []
        self._bytes = 0.0  # Of what waits.
        self._device = torch.device("cpu")
        self._totals: dict[int | None, list[float]] = {}  # What was read since the last row came.

    def append(self, tensors: Sequence[Tensor | None], like: Tensor) -> None:
        """Add the norms of the tensors, None standing for zero, on the device of `like`.

        They may be read later: they must not be written to.
        """
        self._device = like.device
        self._waiting.append(tensors)
        self._bytes += _size(tensors)
        if self._bytes > _BYTES or len(self._waiting) == _STEPS:
            self._note()

    def _note(self) -> None:
        """Work up what waits."""
        if not self._waiting:
            return
        if self._values is None:
            self._values = torch.zeros(self._shape, dtype=torch.float64, device=self._device)
        rows, self._waiting, self._bytes = self._waiting, [], 0
        self._totals = {}
        place = self._values[self._count : self._count + len(rows)]
        self._count += len(rows)
        if len(rows) <= _FEW:
            flat = list(chain.from_iterable(rows))
            found = [x for x in flat if x is not None]
            if found:
                several = iter(_norms(found, self._values))
                zero = self._values.new_zeros(())
                norms = torch.stack([zero if x is None else next(several) for x in flat])
                place.copy_(norms.view(len(rows), -1))
            return
        for column, tensors in enumerate(zip(*rows, strict=True)):
            found = [x for x in tensors if x is not None]
            if not found:
                continue
            shape, dtype = found[0].shape, found[0].dtype
            if any(x.layout != torch.strided or x.shape != shape or x.dtype != dtype for x in found):
                norms = torch.stack(_norms(found, self._values))
            else:
                block = torch.stack([_real(x) for x in found])
                norms = torch.linalg.vector_norm(block[:, None].flatten(1), dim=1, dtype=torch.float64)
            if len(found) == len(tensors):
                place[:, column] = norms
            else:
                place[[i for i, x in enumerate(tensors) if x is not None], column] = norms.to(place.device)

    def totals(self, columns: int | None = None) -> list[float]:
        """Return the norm over all tensors, or over the first of them, at every step."""
        self._note()
        if self._values is None:
            return []
        if columns not in self._totals:
            norms = torch.linalg.vector_norm(self._values[: self._count, :columns], dim=1)
            self._totals[columns] = norms.tolist()
        return self._totals[columns].copy()

    def unread(self) -> list[Tensor | None] | None:
        """Return all tensors whose norms were asked for, where none of them was worked up yet."""
        return None if self._count else list(chain.from_iterable(self._waiting))

    def rows(self) -> list[list[float]]:
        """Return the norms of every tensor at every step."""
        self._note()
        return [] if self._values is None else self._values[: self._count].tolist()

    def __len__(self) -> int:
        return self._count + len(self._waiting)

    def restore(self, rows: Sequence[Sequence[float]], like: Tensor) -> None:
        """Go on from what `rows` returned."""
        self._values = torch.zeros(self._shape, dtype=torch.float64, device=like.device)
        self._waiting, self._bytes, self._count = [], 0, len(rows)
        self._totals = {}
        if rows:
            self._values[: self._count] = torch.tensor(rows, dtype=torch.float64)


class TotalLog:
    """2-norms over the tensors in a list, one per step; the list may be longer in one step than in another.

    Args:
        rows: number of steps, at most.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._norms: NormLog | None = None
        self._columns = 1

    def append(self, tensors: Sequence[Tensor | None], like: Tensor) -> None:
        """Add the norm over the tensors, None standing for zero, on the device of `like`."""
        if self._norms is None:
            self._columns = max(len(tensors), 1)
            self._norms = NormLog(self._rows, self._columns)
        if len(tensors) != self._columns:
            found = [x for x in tensors if x is not None]
            total = norm(found, like) if found else None
            tensors = [total, *[None] * (self._columns - 1)]
        self._norms.append(tensors, like)

    def __len__(self) -> int:
        return 0 if self._norms is None else len(self._norms)

    def unread(self) -> list[Tensor | None] | None:
        """Return all tensors whose norms were asked for, where none of them was worked up yet."""
        return [] if self._norms is None else self._norms.unread()

    def floats(self) -> list[float]:
        """Return the norms, read from their device at once."""
        return [] if self._norms is None else self._norms.totals()


def norm(tensors: Sequence[Tensor], like: Tensor) -> Tensor:
    """Return the 2-norm over all tensors, in double precision, on the device of `like`."""
    if not tensors:
        return torch.zeros((), dtype=torch.float64, device=like.device)
    norms = _norms(tensors, like)
    result: Tensor = torch.linalg.vector_norm(torch.stack(norms)) if len(norms) > 1 else norms[0]
    return result


def _norms(tensors: Sequence[Tensor], like: Tensor) -> list[Tensor]:
    """Return the norms in double precision; computed in single precision where that is the type, and is enough."""
    tensors = list(map(_real, tensors))
    if not all(x.dtype == torch.float32 and x.is_cpu for x in tensors):
        return [x.to(like.device) for x in torch._foreach_norm(tensors, 2, torch.float64)]
    norms = torch.stack(torch._foreach_norm(tensors, 2)).double()  # Three times as fast.
    for place in np.flatnonzero(~((norms.numpy() >= _SQUARED) & (norms.numpy() <= 1 / _SQUARED))):
        norms[place] = torch.linalg.vector_norm(tensors[place], dtype=torch.float64)
    return list(norms.to(like.device).unbind())


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def _size(tensors: Sequence[Tensor | None]) -> float:
    """Return the bytes that tensors keep; infinite where they are no plain memory."""
    size = 0
    for x in tensors:
        if x is not None:
            if x.layout != torch.strided:
                return math.inf
            size += x.untyped_storage().nbytes()
    return size
