"""The recorder: runs the inner updater forward and keeps what the sweep will need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from lds._random import forked
from lds.errors import InputError, NumericalError
from lds.hypergrad._arguments import check_count, check_memory
from lds.hypergrad._dynamics import Dynamics
from lds.hypergrad._finite import check_losses
from lds.hypergrad._heap import keep_freed_memory
from lds.hypergrad._logs import ScalarLog
from lds.hypergrad.memory import KeepGraphs, Memory, Tape
from lds.hypergrad.memory._tape import ResumableTape, closed_on_error
from lds.updaters import Objective, PyTree, State, Updater


@dataclass(frozen=True)
class Segment:
    """Steps `first` ≤ t of a trajectory that one call of `record` took, up to the next segment.

    Attributes:
        first: the first step that was kept.
        dynamics: Φ, bound to the problem as it was then.
        tape: what the memory policy kept.
    """

    first: int
    dynamics: Dynamics
    tape: Tape


@dataclass
class Trajectory:
    """What `record` returns: what was kept of the last iterates of Φ, and all that is needed to run them again.

    Attributes:
        steps: number of steps T that were taken, those of earlier trajectories that it goes on from among them.
        horizon: number of steps that can be swept back over, at most T.
        final_state: the state after the last step; pass it as `state=` to the next `record` for a warm start.
        inner_losses: values of the inner objective that the last `max(horizon, 1)` steps of this recording computed,
            where they did.
        dynamics: Φ, bound to the problem.
        segments: what was kept, in the order of the steps; empty if the horizon is 0.
    """

    steps: int
    horizon: int
    final_state: State
    inner_losses: list[float]
    dynamics: Dynamics
    segments: tuple[Segment, ...]


def record(
    inner: Objective,
    params: PyTree,
    outer: PyTree,
    *,
    updater: Updater,
    steps: int,
    horizon: int | None = None,
    seed: int = 0,
    state: State | None = None,
    after: Trajectory | None = None,
    memory: Memory | None = None,
) -> Trajectory:
    r"""Run `steps` steps of the inner updater and keep the last `horizon` iterates.

    .. math:: w_{t+1} = \Phi(w_t, \theta), \quad t = 0, \dots, T-1

    Memory is O(horizon) or less, whatever `steps` is. Randomness inside Φ is a function of the seed and the step
    number; the caller's generators (torch, numpy, random) are left as they were, and no tensor of the caller is
    changed.

    Args:
        inner: inner objective, (params, outer) -> scalar tensor.
        params: pytree of floating-point tensors w_0.
        outer: pytree of the outer variables θ.
        updater: Φ, see `lds.updaters.Updater`.
        steps: number of steps T ≥ 0.
        horizon: number of iterates to keep, ≥ 0; None keeps all, and more than `steps` keeps `steps`.
        seed: seed of the randomness inside Φ.
        state: the `final_state` of an earlier trajectory to go on from instead of `params`; its step counter, and with
            it the stream of random numbers, goes on too.
        after: an earlier trajectory to go on from, with its iterates in reach of `horizon`: updates of θ may be closer
            together than the horizon is long. Its steps are swept with the θ and the draws that they were recorded
            with, and the hypergradient adds up over all of them.
        memory: what to keep of the iterates, see `lds.hypergrad.memory`; `KeepGraphs()` when None.

    Raises:
        InputError: an argument is out of range, params are no floating-point tensors, the objective is no scalar, Φ
            returns another structure than it was given, or the earlier trajectory has another one, or is on disk.
        NumericalError: the inner objective is NaN or infinite in a step.
    """
    check_count("steps", steps)
    if horizon is not None:
        check_count("horizon", horizon)
    check_memory(memory)
    keep_freed_memory()
    begin = 0
    if after is not None:
        if state is not None:
            raise InputError("state and after both say where to go on from; give one of them")
        begin, state = after.steps, after.final_state

    def bind() -> tuple[Dynamics, list[Any]]:
        return Dynamics.bind(inner, params, outer, updater, seed, state, start)

    start = begin
    dynamics, leaves = bind()
    end = begin + steps
    kept = steps if horizon is None else min(horizon, steps)
    first = end - kept
    segments, reach = _within_reach(after, dynamics, None if horizon is None else horizon - kept)
    tape = (KeepGraphs() if memory is None else memory).tape(dynamics, leaves, first, end) if kept else None
    losses = ScalarLog(max(kept, 1))
    with closed_on_error(tape):
        if isinstance(tape, ResumableTape) and (resumed := tape.resume()) is not None:
            begin, leaves = resumed.t, resumed.leaves
            for earlier in resumed.losses:
                losses.append(torch.tensor(earlier, dtype=torch.float64))
        with forked(dynamics.cuda), torch.no_grad():
            for t in range(begin, end):
                if tape is None or t < first:
                    leaves = dynamics.advance(t, leaves, dynamics.draws(t))
                else:
                    leaves = tape.advance(t, leaves)
                if (loss := dynamics.inner.take()) is not None:
                    losses.append(loss)
        try:
            check_losses(losses, bind, start, end)
        except NumericalError:
            if isinstance(tape, ResumableTape):
                tape.remove()  # A second call would not see the steps before the horizon again.
            raise
    final = dynamics.spec.unflatten(leaves, dynamics.start + end)
    if tape is not None:
        segments = (*segments, Segment(first, dynamics, tape))
    return Trajectory(end, kept + reach, final, losses.floats(), dynamics, segments)


def _within_reach(after: Trajectory | None, dynamics: Dynamics, horizon: int | None) -> tuple[tuple[Segment, ...], int]:
    """Return what of an earlier trajectory the last `horizon` of its steps need, and how many of them there are."""
    if after is None:
        return (), 0
    if after.dynamics.outer.spec != dynamics.outer.spec:
        raise InputError(
            "outer must have the same structure as in the trajectory to go on from, "
            f"{after.dynamics.outer.spec}, got {dynamics.outer.spec}"
        )
    reach = after.horizon if horizon is None else min(horizon, after.horizon)
    if reach == 0:
        return (), 0
    if any(isinstance(segment.tape, ResumableTape) for segment in after.segments):
        raise InputError("a trajectory on disk cannot be gone on from; record it with another memory policy")
    ends = [*(segment.first for segment in after.segments[1:]), after.steps]
    first = after.steps - reach
    return tuple(s for s, end in zip(after.segments, ends, strict=True) if end > first), reach
