"""One call for the hypergradient, with the differentiation strategy as an object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Protocol

import optree
import torch
from torch import Tensor

from lds._random import DRAW, STEP, forked, reseed
from lds.hypergrad._outer import Outer
from lds.hypergrad._sweep import Noise, Sweep, check_noise
from lds.hypergrad._trajectory import check_count, record
from lds.updaters import Objective, PyTree, State, Updater, gradient


@dataclass(frozen=True)
class Problem:
    """A bilevel problem and how far to run it: the arguments of `hypergradient` but the method."""

    inner: Objective
    outer_objective: Objective
    params: PyTree
    outer: PyTree
    updater: Updater
    steps: int
    seed: int
    state: State | None


@dataclass
class Diagnostics:
    """What a method noticed on its way.

    Attributes:
        steps_swept: number of steps that the sweep went back over.
        costate_norms: ‖P_{T−k}‖ over the whole state, k = 0 … steps_swept. It bounds what deeper steps can still add.
        inner_losses: values of the inner objective at the last `max(steps_swept, 1)` steps.
        replay_error: largest relative difference between a recomputed and a recorded state; None when not compared.
    """

    steps_swept: int
    costate_norms: list[float]
    inner_losses: list[float]
    replay_error: float | None
    _inner_gradient_norm: Callable[[], float] = field(repr=False)

    @cached_property
    def inner_gradient_norm(self) -> float:
        """‖∇_w L(w_T, θ)‖, zero at a stationary point; evaluated when first asked for, at the values θ has then."""
        return self._inner_gradient_norm()


@dataclass(frozen=True)
class HypergradientResult:
    """What `hypergradient` returns.

    Attributes:
        grad: pytree like `outer`, dF/dθ.
        params: w_T.
        outer_loss: F(w_T, θ).
        state: the whole final state; pass it as `state=` for a warm start.
        diagnostics: see `Diagnostics`.
    """

    grad: PyTree
    params: PyTree
    outer_loss: float
    state: State
    diagnostics: Diagnostics


class Method(Protocol):
    """A way to differentiate through the inner problem."""

    def solve(self, problem: Problem) -> HypergradientResult:
        """Run the inner problem and return the hypergradient."""
        ...


@dataclass(frozen=True)
class Reverse:
    """Reverse mode: record the last iterates, then sweep back over them (see `lds.hypergrad.sweep`).

    Args:
        horizon: truncation depth, the number of steps to sweep back over; None sweeps over all of them, and 0 leaves
            the direct gradient ∂F/∂θ.
        noise: "replay" repeats the draws of the recorded steps; "resample" makes new ones, as the published code did.
        check_replay: compare every recomputed state with the recorded one, by value.

    Raises:
        InputError: the horizon is no integer ≥ 0, or the noise is another word.
    """

    horizon: int | None = None
    noise: Noise = "replay"
    check_replay: bool = True

    def __post_init__(self) -> None:
        if self.horizon is not None:
            check_count("horizon", self.horizon)
        check_noise(self.noise)

    def solve(self, problem: Problem) -> HypergradientResult:
        """Run the inner problem and return the hypergradient."""
        trajectory = record(
            problem.inner,
            problem.params,
            problem.outer,
            updater=problem.updater,
            steps=problem.steps,
            horizon=self.horizon,
            seed=problem.seed,
            state=problem.state,
        )
        run = Sweep(trajectory, problem.outer_objective, noise=self.noise, check_replay=self.check_replay)
        with forked(trajectory.cuda):
            norms = [run.costate_norm() for _ in run]
        assert run.outer_loss is not None
        diagnostics = Diagnostics(
            steps_swept=trajectory.horizon,
            costate_norms=_floats(norms),
            inner_losses=_floats(trajectory.inner_losses),
            replay_error=run.replay_error,
            # Not the trajectory: a kept result must not keep the recorded iterates alive.
            _inner_gradient_norm=partial(
                _inner_gradient_norm,
                trajectory.inner,
                trajectory.final_state,
                trajectory.outer,
                trajectory.seed,
                trajectory.cuda,
            ),
        )
        return HypergradientResult(
            grad=run.grad(),
            params=trajectory.final_state.params,
            outer_loss=run.outer_loss.item(),
            state=trajectory.final_state,
            diagnostics=diagnostics,
        )


def hypergradient(
    inner: Objective,
    outer_objective: Objective,
    params: PyTree,
    outer: PyTree,
    *,
    updater: Updater,
    steps: int,
    method: Method | None = None,
    seed: int = 0,
    state: State | None = None,
) -> HypergradientResult:
    r"""Return the gradient of the outer objective after unrolled inner optimization.

    .. math:: \frac{d}{d\theta} F(w_T(\theta), \theta), \qquad w_{t+1} = \Phi(w_t, \theta)

    Nothing is written to `.grad`, and no tensor of the caller is changed.

    Args:
        inner: inner objective L, (params, outer) -> scalar tensor.
        outer_objective: F, (params, outer) -> scalar tensor.
        params: pytree of floating-point tensors w_0.
        outer: pytree of the outer variables θ; those that nothing depends on get zeros.
        updater: Φ, see `lds.updaters.Updater`.
        steps: number of inner steps T.
        method: how to differentiate; `Reverse()`, the full sweep, when None.
        seed: seed of the randomness inside Φ and inside F.
        state: a state to go on from instead of `params` (warm start).

    Raises:
        InputError: an argument, an objective or Φ is not what it must be; see `record` and `sweep`.
        ReplayError: a recomputed inner step differs from the recorded one.
    """
    problem = Problem(inner, outer_objective, params, outer, updater, steps, seed, state)
    return (Reverse() if method is None else method).solve(problem)


def _floats(values: list[Tensor]) -> list[float]:
    return torch.stack(values).tolist() if values else []


def _inner_gradient_norm(inner: Objective, state: State, outer: Outer, seed: int, cuda: frozenset[int]) -> float:
    with forked(cuda), torch.no_grad():
        reseed(seed, state.step, DRAW, cuda=cuda)
        values = outer.unflatten(outer.draw())
        reseed(seed, state.step, STEP, cuda=cuda)
        grads = optree.tree_leaves(gradient(inner, state.params, values))
    return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in grads])))
