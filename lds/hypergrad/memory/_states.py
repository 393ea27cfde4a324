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

    What CUDA devices are to keep on the CPU lies in pinned memory: copies then run beside the computation. They are in
    the order of a device's stream, so that only another stream has to wait for them, by an event.
    """

    def __init__(self, rows: int, leaves: Sequence[Any], device: torch.device | str | None = None) -> None:
        self._kinds = [(x.shape, x.numel(), x.device) if isinstance(x, Tensor) else None for x in leaves]
        self._pinned = [_to_pin(x, device) for x in leaves]
        self._columns: list[Any] = [
            x.new_empty(rows * x.numel(), device=device, pin_memory=pinned) if isinstance(x, Tensor) else [None] * rows
            for x, pinned in zip(leaves, self._pinned, strict=True)
        ]
        self._stored: dict[torch.device, torch.cuda.Event] = {}  # The last copy from each device.
        self._strides: list[list[Sequence[int]]] = [[()] * rows for _ in leaves]

    def store(self, row: int, leaves: Sequence[Any]) -> None:
        """Copy leaves into a row."""
        columns = zip(self._columns, self._kinds, self._strides, self._pinned, leaves, strict=True)
        for column, kind, strides, pinned, leaf in columns:
            if kind is None:
                column[row] = leaf
            else:
                strides[row] = dense_strides(leaf)
                column.as_strided(kind[0], strides[row], row * kind[1]).copy_(leaf, non_blocking=pinned)
        for device in self._async_devices():
            self._stored.setdefault(device, _event()).record(torch.cuda.current_stream(device))

    def load(self, row: int) -> list[Any]:
        """Return the leaves of a row, on the device they came from; views of the slab where that is its own."""
        for device, event in self._stored.items():
            torch.cuda.current_stream(device).wait_event(event)
        columns = zip(self._columns, self._kinds, self._strides, self._pinned, strict=True)
        return [
            column[row]
            if kind is None
            else column.as_strided(kind[0], strides[row], row * kind[1]).to(kind[2], non_blocking=pinned)
            for column, kind, strides, pinned in columns
        ]

    def _async_devices(self) -> set[torch.device]:
        """Return the devices whose copies the host does not wait for."""
        return {kind[2] for kind, pinned in zip(self._kinds, self._pinned, strict=True) if kind is not None and pinned}


def _event() -> torch.cuda.Event:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]


def _to_pin(leaf: Any, device: torch.device | str | None) -> bool:
    """Tell whether a leaf is of a CUDA device, and to be kept on the CPU."""
    if not isinstance(leaf, Tensor) or device is None:
        return False
    return leaf.device.type == "cuda" and torch.device(device).type == "cpu"


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

    From a CUDA device the iterates go to pinned memory, and nobody waits for the copies; not yet run on such a device.

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
