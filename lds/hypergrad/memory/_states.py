"""Keep every iterate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lds.hypergrad._dynamics import Dynamics, Step, StepResult


class Slab:
    """Rows of states, one preallocated tensor a leaf.

    Slabs rather than a list of tensors: many small allocations of mixed lifetime fragment the heap, which costs
    more memory than the states themselves. Each leaf keeps its strides (see `dense_strides`).
    """

    def __init__(self, rows: int, leaves: Sequence[Any], device: torch.device | str | None = None) -> None:
        self._kinds = [(x.shape, x.numel(), x.device) if isinstance(x, Tensor) else None for x in leaves]
        self._columns: list[Any] = [
            x.new_empty(rows * x.numel(), device=device) if isinstance(x, Tensor) else [None] * rows for x in leaves
        ]
        self._strides: list[list[Sequence[int]]] = [[()] * rows for _ in leaves]

    def store(self, row: int, leaves: Sequence[Any]) -> None:
        """Copy leaves into a row."""
        for column, kind, strides, leaf in zip(self._columns, self._kinds, self._strides, leaves, strict=True):
            if kind is None:
                column[row] = leaf
            else:
                strides[row] = dense_strides(leaf)
                column.as_strided(kind[0], strides[row], row * kind[1]).copy_(leaf)

    def load(self, row: int) -> list[Any]:
        """Return the leaves of a row, on the device they came from; views of the slab where that is its own."""
        return [
            column[row] if kind is None else column.as_strided(kind[0], strides[row], row * kind[1]).to(kind[2])
            for column, kind, strides in zip(self._columns, self._kinds, self._strides, strict=True)
        ]


def dense_strides(leaf: Tensor) -> Sequence[int]:
    """Return the strides of a leaf, in memory without gaps or overlaps.

    A step that is run again draws its noise in the order of memory, and a kernel may add in that order: a copy in
    another order is another number.
    """
    return leaf.stride() if leaf.is_contiguous() else torch.empty_like(leaf, device="meta").stride()


@dataclass(frozen=True)
class KeepStates:
    """Keep every iterate; the sweep runs each step once more.

    Memory: horizon × (size of the state). Time: one more run of Φ than a plain unroll.

    Example:
        >>> import torch
        >>> from lds.hypergrad import KeepStates, Reverse, hypergradient
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> hypergradient(*problem, updater=SGD(0.25), steps=2, method=Reverse(memory=KeepStates())).grad
        tensor(0.9375)
    """

    def tape(self, dynamics: Dynamics, leaves: Sequence[Any], first: int, last: int) -> StatesTape:
        """Return an empty tape."""
        return StatesTape(dynamics, Slab(last - first, leaves), first)


@dataclass(frozen=True)
class Offload:
    """Keep every iterate on another device, by default in the memory of the CPU.

    Memory: horizon × (size of the state) over there, one state on the device that computes.

    Args:
        device: where the iterates are kept.

    Example:
        >>> import torch
        >>> from lds.hypergrad import Offload, Reverse, hypergradient
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> hypergradient(*problem, updater=SGD(0.25), steps=2, method=Reverse(memory=Offload("cpu"))).grad
        tensor(0.9375)
    """

    device: torch.device | str = "cpu"

    def tape(self, dynamics: Dynamics, leaves: Sequence[Any], first: int, last: int) -> StatesTape:
        """Return an empty tape."""
        return StatesTape(dynamics, Slab(last - first, leaves, self.device), first)


class StatesTape:
    """A row for every state, and what each step was shown."""

    def __init__(self, dynamics: Dynamics, slab: Slab, first: int) -> None:
        self._dynamics = dynamics
        self._slab = slab
        self._first = first
        self._draws: list[Sequence[Any]] = []

    def advance(self, t: int, leaves: list[Any]) -> StepResult:
        """Keep the state, take the step."""
        self._slab.store(t - self._first, leaves)
        result = self._dynamics.advance(t, leaves)
        self._draws.append(result.draws)
        return result

    def load(self, t: int) -> Step:
        """Return the state and the draws."""
        return Step(self._slab.load(t - self._first), self._draws[t - self._first])
