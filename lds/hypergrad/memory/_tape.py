"""What a memory policy is: a choice of what the recorder keeps, and of what the sweep computes again.

To write one, write a class with `tape`, and the tape that it returns with `advance` and `load`; `KeepStates` is the
shortest example.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lds.errors import DataError
from lds.hypergrad._dynamics import Dynamics, Step, StepResult


class Tape(Protocol):
    """The recorded steps `first` ≤ t < `last` of one trajectory.

    `Dynamics.advance` may write to the leaves that it is given: keep a copy of them, or take the step from a copy. What
    `load` returned must keep its values until the step before it was loaded and compared with it. The draws of a step
    may be kept, or made again by `Dynamics.draws(t)`: they have the same bits. A tape that rounds what it keeps needs
    `check_replay=False`.
    """

    def advance(self, t: int, leaves: list[Any]) -> StepResult:
        """Take step t, keep what `load` will need, return what came of it; called once for every t, upwards."""
        ...

    def load(self, t: int) -> Step:
        """Return step t; called downwards from `last` − 1, and from there again for another sweep."""
        ...


@dataclass
class Resumed:
    """Where an earlier process left off recording: the state before step `t`, and losses of steps before it."""

    t: int
    leaves: list[Any]
    losses: list[float]


class ResumableTape(Tape, ABC):
    """A tape that outlives its process, and keeps the sweep's progress too."""

    save_every: int

    @abstractmethod
    def resume(self) -> Resumed | None:
        """Return where an earlier process left off recording, None if it had not begun."""

    @abstractmethod
    def save(self, progress: Mapping[str, Any]) -> None:
        """Keep the sweep's progress in place of what was saved before."""

    @abstractmethod
    def progress(self) -> dict[str, Any] | None:
        """Return what an earlier process saved of its sweep, once."""

    @abstractmethod
    def damaged_progress(self) -> DataError:
        """Return what to raise where the sweep's progress is not what was saved."""

    @abstractmethod
    def remove(self) -> None:
        """Forget everything."""

    @abstractmethod
    def close(self) -> None:
        """Let others go on with what is kept; the tape is of no use then."""


class Memory(Protocol):
    """A memory policy, handed to `record` or to `Reverse` as `memory=`.

    Example:
        >>> from lds.hypergrad import Checkpoint, Reverse
        >>> method = Reverse(memory=Checkpoint(every=10))  # whatever has the methods of a `Memory`
    """

    def tape(self, dynamics: Dynamics, leaves: Sequence[Any], first: int, last: int) -> Tape:
        """Return an empty tape for the steps `first` ≤ t < `last` from states with leaves like `leaves`."""
        ...
