"""What a memory policy is: a choice of what the recorder keeps, and of what the sweep computes again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from lds.errors import DataError
from lds.hypergrad._dynamics import Dynamics, StepGraph


@dataclass
class Step:
    """Step t as a tape hands it to the sweep.

    Attributes:
        leaves: leaves of the state before the step.
        draws: what the step was shown of the outer variables.
        graph: the step's graph of autograd, where it was kept; good for one sweep.
    """

    leaves: Sequence[Any]
    draws: Sequence[Any]
    graph: StepGraph | None = None


class Tape(Protocol):
    """The recorded steps `first` ≤ t < `last` of one trajectory."""

    def advance(self, t: int, leaves: list[Any]) -> list[Any]:
        """Take step t, keep what `load` will need, return the next leaves; called once for every t, upwards."""
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


@runtime_checkable
class ResumableTape(Tape, Protocol):
    """A tape that outlives its process, and keeps the sweep's progress too."""

    save_every: int

    def resume(self) -> Resumed | None:
        """Return where an earlier process left off recording, None if it had not begun."""
        ...

    def save(self, progress: Mapping[str, Any]) -> None:
        """Keep the sweep's progress in place of what was saved before."""
        ...

    def progress(self) -> dict[str, Any] | None:
        """Return what an earlier process saved of its sweep, once."""
        ...

    def damaged_progress(self) -> DataError:
        """Return what to raise where the sweep's progress is not what was saved."""
        ...

    def remove(self) -> None:
        """Forget everything."""
        ...

    def close(self) -> None:
        """Let others go on with what is kept; the tape is of no use then."""
        ...


@contextmanager
def closed_on_error(*tapes: Tape | None) -> Iterator[None]:
    """Close tapes when an error passes: its traceback may keep them alive, and with them what they hold."""
    try:
        yield
    except BaseException:
        for tape in tapes:
            if isinstance(tape, ResumableTape):
                tape.close()
        raise


class Memory(Protocol):
    """A memory policy, handed to `record` or to `Reverse` as `memory=`."""

    def tape(self, dynamics: Dynamics, leaves: Sequence[Any], first: int, last: int) -> Tape:
        """Return an empty tape for the steps `first` ≤ t < `last` from states with leaves like `leaves`."""
        ...
