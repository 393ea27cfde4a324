"""The recorder: runs the inner updater forward and keeps what the sweep will need."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lds._random import forked
from lds.hypergrad._arguments import check_count
from lds.hypergrad._dynamics import Dynamics
from lds.hypergrad._heap import keep_freed_memory
from lds.hypergrad._leaves import ScalarLog
from lds.hypergrad.memory import KeepGraphs, Memory, Tape
from lds.hypergrad.memory._tape import ResumableTape
from lds.updaters import Objective, PyTree, State, Updater


@dataclass
class Trajectory:
    """What `record` returns: what was kept of the last iterates of Φ, and all that is needed to run them again.

    Attributes:
        steps: number of steps T that were taken.
        horizon: number of steps that can be swept back over, at most T.
        final_state: the state after the last step; pass it as `state=` to the next `record` for a warm start.
        inner_losses: values of the inner objective that the last `max(horizon, 1)` steps computed, where they did.
        dynamics: Φ, bound to the problem.
        tape: what the memory policy kept; None if the horizon is 0.
    """

    steps: int
    horizon: int
    final_state: State
    inner_losses: list[float]
    dynamics: Dynamics
    tape: Tape | None


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
        memory: what to keep of the iterates, see `lds.hypergrad.memory`; `KeepGraphs()` when None.

    Raises:
        InputError: an argument is out of range, params are no floating-point tensors, the objective is no scalar, or Φ
            returns another structure than it was given.
    """
    check_count("steps", steps)
    if horizon is not None:
        check_count("horizon", horizon)
    keep_freed_memory()
    dynamics, leaves = Dynamics.bind(inner, params, outer, updater, seed, state)
    kept = steps if horizon is None else min(horizon, steps)
    first = steps - kept
    tape = (KeepGraphs() if memory is None else memory).tape(dynamics, leaves, first, steps) if kept else None
    losses = ScalarLog(max(kept, 1))
    begin, earlier_losses = 0, []
    if isinstance(tape, ResumableTape) and (resumed := tape.resume()) is not None:
        begin, leaves, earlier_losses = resumed.t, resumed.leaves, resumed.losses

    with forked(dynamics.cuda), torch.no_grad():
        for t in range(begin, steps):
            if tape is None or t < first:
                leaves = dynamics.advance(t, leaves, dynamics.draws(t))
            else:
                leaves = tape.advance(t, leaves)
            if (loss := dynamics.inner.take()) is not None:
                losses.append(loss)
    final = dynamics.spec.unflatten(leaves, dynamics.start + steps)
    inner_losses = [*earlier_losses, *losses.floats()][-max(kept, 1) :]
    return Trajectory(steps, kept, final, inner_losses, dynamics, tape)
