"""A sweep that goes on where it was cut off, as a watcher that keeps its progress on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lds._updater import State
from lds.errors import InputError
from lds.hypergrad._dynamics import Costate, Dynamics, Increments, StepGraph
from lds.hypergrad._guards import Notes, Replay, Watcher, all_finite
from lds.hypergrad._outer import Accumulators, SteadyAccumulator
from lds.hypergrad.memory._tape import ResumableTape


class Progress(Watcher):
    """Saves the sweep's progress on its tape, and leads it on from what an earlier process saved.

    Args:
        tape: where the progress is kept.
        steps: T.
        horizon: number of steps of the sweep, at most.
        notes: what was noted goes on too; its watcher is called before this one.
        replay: the same for the replay error.
        arguments: those of the sweep that it must go on with.
    """

    def __init__(
        self,
        tape: ResumableTape,
        steps: int,
        horizon: int,
        notes: Notes,
        replay: Replay,
        arguments: Mapping[str, str | bool],
    ) -> None:
        self._tape = tape
        self._arguments = dict(arguments)
        self._steps, self._horizon = steps, horizon
        self._notes, self._replay = notes, replay
        self._sums: Accumulators | None = None
        self._final: Sequence[Any] = ()

    def start(self, dynamics: Dynamics, final: State, graph: StepGraph) -> None:
        """Note what a state looks like."""
        self._final = dynamics.spec.flatten(final)

    def begin(self, t: int, costate: Costate, sums: Accumulators) -> tuple[int, Costate]:
        """Go on from what was saved, if anything was.

        Raises:
            DataError: what was saved is damaged.
            InputError: it is of another outer objective, or of a sweep with other arguments.
        """
        self._sums = sums
        saved = self._tape.progress()
        if saved is None:
            return t, costate
        here = self._progress(t, costate)
        if not fits(saved, here, self._final, self._horizon):
            raise self._tape.damaged_progress()
        if not torch.equal(saved["outer_loss"], here["outer_loss"]):
            raise InputError(
                f"the sweep that was interrupted had another outer objective: {saved['outer_loss']:.6g}, now "
                f"{here['outer_loss']:.6g}; call with the same one, or remove the folder"
            )
        if differing := [key for key, value in self._arguments.items() if saved["arguments"][key] != value]:
            key = differing[0]
            raise InputError(
                f"the sweep that was interrupted had {key}={saved['arguments'][key]!r}, now {self._arguments[key]!r}; "
                "call with the same, or remove the folder"
            )
        if not all_finite([saved["cotangents"], saved["sums"]]):
            return t, costate  # From the end again, so that the error names the step where it began.
        for accumulator, gathered in zip(_steady(sums), saved["sums"], strict=True):
            accumulator.sums = gathered
        self._notes.costates.restore(saved["costate_norms"], like=here["outer_loss"])
        for value in saved["increment_norms"][1:]:  # The first is that of F.
            self._notes.increments.append([torch.tensor(value, dtype=torch.float64)], like=here["outer_loss"])
        self._replay.error, self._replay.recorded = saved["replay_error"], self._tape.load(saved["t"]).leaves
        return saved["t"], saved["cotangents"]

    def after(self, t: int, costate: Costate, increments: Increments) -> None:
        """Save every so many steps."""
        if 0 < t < self._steps and (self._steps - t) % self._tape.save_every == 0:
            self._tape.save(self._progress(t, costate))

    def _progress(self, t: int, costate: Costate) -> dict[str, Any]:
        """Return what `begin` needs to go on below t."""
        assert self._sums is not None
        return {
            "t": t,
            "outer_loss": self._notes.loss,
            "cotangents": list(costate),
            "sums": [accumulator.sums for accumulator in _steady(self._sums)],
            "costate_norms": self._notes.costates.rows(),
            "increment_norms": self._notes.increments.floats(),
            "replay_error": self._replay.error,
            "arguments": self._arguments,
        }


def _steady(sums: Accumulators) -> list[SteadyAccumulator]:
    return [a for a in sums.current if isinstance(a, SteadyAccumulator)]


def fits(saved: Mapping[str, Any], begin: Mapping[str, Any], leaves: Sequence[Any], horizon: int) -> bool:
    """Tell whether the saved progress of a sweep has the types and shapes that this sweep's would have.

    Args:
        saved: what was saved.
        begin: what this sweep would save before its first step.
        leaves: leaves of a state.
        horizon: number of steps of the sweep.
    """
    if saved.keys() != begin.keys() or type(saved["t"]) is not int:
        return False
    kept = saved["arguments"]
    if not isinstance(kept, dict) or kept.keys() != begin["arguments"].keys():
        return False
    done = begin["t"] - saved["t"]
    if not 0 < done <= horizon or not isinstance(saved["replay_error"], float | None):
        return False
    lists = [saved[name] for name in ("sums", "cotangents", "costate_norms", "increment_norms")]
    sums, cotangents, rows, increments = lists
    if not all(isinstance(x, list) for x in lists) or not all(isinstance(x, list) for x in (*sums, *rows)):
        return False
    # The costate before the first step of all need not be computed.
    if len(increments) != done + 1 or len(rows) not in (done, done + 1) or any(len(row) != len(leaves) for row in rows):
        return False
    if not all(type(x) is float for x in [*increments, *(x for row in rows for x in row)]):
        return False
    if [len(part) for part in sums] != [len(part) for part in begin["sums"]] or len(cotangents) != len(leaves):
        return False
    pairs = [(saved["outer_loss"], begin["outer_loss"])]
    pairs += [pair for part, like in zip(sums, begin["sums"], strict=True) for pair in zip(part, like, strict=True)]
    pairs += [pair for pair in zip(cotangents, leaves, strict=True) if pair[0] is not None]
    return all(_alike(*pair) for pair in pairs)


def _alike(x: Any, like: Any) -> bool:
    if not (isinstance(x, Tensor) and isinstance(like, Tensor)):
        return False
    return (x.dtype, x.shape, x.layout, x.device) == (like.dtype, like.shape, like.layout, like.device)
