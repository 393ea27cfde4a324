"""The backward sweep, open to the caller between its steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from lds._random import forked
from lds.hypergrad._arguments import Noise
from lds.hypergrad._backward import Sweep
from lds.hypergrad._finite import check_grad
from lds.hypergrad._trajectory import Trajectory
from lds.updaters import Objective, PyTree, State


class SweepStep(NamedTuple):
    """What `sweep` yields at t: the costate P_t (a `State` of cotangents) and the accumulator G_t (like `outer`)."""

    t: int
    costate: State
    grad: PyTree


def sweep(
    trajectory: Trajectory,
    outer_objective: Objective,
    *,
    noise: Noise = "replay",
    check_replay: bool = True,
) -> Iterator[SweepStep]:
    r"""Sweep back over a trajectory, yielding the costate and the accumulated hypergradient at every depth.

    Algorithm 2 of Franceschi et al., `Learning Discrete Structures for Graph Neural Networks
    <https://arxiv.org/abs/1903.11960>`_ (ICML 2019):

    .. math::
        P_T = \partial_w F(w_T, \theta), \quad G_T = \partial_\theta F(w_T, \theta), \quad
        P_{t-1} = P_t\, \partial_w \Phi(w_{t-1}, \theta), \quad
        G_{t-1} = P_t\, \partial_\theta \Phi(w_{t-1}, \theta) + G_t

    with one joint vector-Jacobian product a step. G_{T-k} is the hypergradient truncated at depth k, so one sweep
    yields the whole truncation-depth curve; stop it at any t.

    Args:
        trajectory: what `record` returned.
        outer_objective: F, (params, outer) -> scalar tensor.
        noise: "replay" repeats the draws that Φ made when it was recorded; "resample" makes new ones.
        check_replay: compare every recomputed state with the recorded one, by value ("replay" only).

    Yields:
        (t, P_t, G_t) for t = T, T−1, …, T−horizon. P_t is a `State` of cotangents, zeros where nothing flows and None
        for leaves that are no floating-point tensors; G_t is a pytree like `outer`.

    Raises:
        InputError: the outer objective is no scalar, or Φ detaches its result from the state or from θ.
        NumericalError: the outer objective, P_t or G_t is NaN or infinite. P_0 may be, on slots: where they start at
            zero, Φ need not have a derivative in them.
        ReplayError: a recomputed state differs from the recorded one.
    """
    run = Sweep(trajectory, outer_objective, noise=noise, check_replay=check_replay, initial_costate=True)
    run.look_closely()
    depths = iter(run)
    while True:
        # Forked a step at a time: between two of them the caller's code runs, on the caller's generators.
        with forked(trajectory.dynamics.cuda):
            t = next(depths, None)
            if t is None:
                return
            grad = run.grad()
            check_grad(trajectory.dynamics.outer, grad, trajectory.steps - t)
        yield SweepStep(t, run.costate(), grad)
