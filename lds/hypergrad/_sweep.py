"""The backward sweep: Algorithm 2 of LDS-GNN."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from lds._random import FRESH_DRAW, FRESH_STEP, OUTER_DRAW, OUTER_STEP, STEP, forked, reseed
from lds.errors import InputError, ReplayError
from lds.hypergrad._outer import Accumulator, TensorVariable, Tracer, is_differentiable
from lds.hypergrad._trajectory import CheckedObjective, Trajectory
from lds.updaters import Objective, PyTree, State

Noise: TypeAlias = Literal["replay", "resample"]

# A recomputed step may differ from the recorded one by rounding (kernels that add in any order), not by more.
REPLAY_TOLERANCE = 100


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
        ReplayError: a recomputed state differs from the recorded one.
    """
    run = Sweep(trajectory, outer_objective, noise=noise, check_replay=check_replay)
    depths = iter(run)
    while True:
        # Forked a step at a time: between two of them the caller's code runs, on the caller's generators.
        with forked(trajectory.cuda):
            t = next(depths, None)
        if t is None:
            return
        yield SweepStep(t, run.costate(), run.grad())


class Sweep:
    """One sweep in progress: iterating runs it, a step at a time, and yields t. Iterate inside `forked`."""

    def __init__(self, trajectory: Trajectory, outer_objective: Objective, *, noise: Noise, check_replay: bool) -> None:
        check_noise(noise)
        self._trajectory = trajectory
        self._objective = CheckedObjective(outer_objective, "outer objective")
        self._replay = noise == "replay"
        self._check_replay = check_replay and self._replay
        self._accumulators: list[Accumulator] = [v.accumulator() for v in trajectory.outer.variables]
        self.cotangents: list[Tensor | None] = []
        self.outer_loss: Tensor | None = None
        self.replay_error: float | None = 0.0 if self._check_replay else None

    def __iter__(self) -> Iterator[int]:
        trajectory = self._trajectory
        self._start()
        yield trajectory.steps
        for t in range(trajectory.steps - 1, trajectory.steps - trajectory.horizon - 1, -1):
            self._step(t)
            yield t

    def costate(self) -> State:
        """Return P_t."""
        trajectory = self._trajectory
        leaves = trajectory.spec.flatten(trajectory.final_state)
        filled = [
            (torch.zeros_like(x) if p is None else p) if is_differentiable(x) else None
            for x, p in zip(leaves, self.cotangents, strict=True)
        ]
        return trajectory.spec.unflatten(filled, trajectory.final_state.step)

    def grad(self) -> PyTree:
        """Return G_t."""
        return self._trajectory.outer.unflatten([a.value() for a in self._accumulators])

    def costate_norm(self) -> Tensor:
        """Return ‖P_t‖, the 2-norm over the whole state."""
        present = [p for p in self.cotangents if p is not None]
        assert self.outer_loss is not None
        if not present:
            return self.outer_loss.new_zeros(())
        norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(present)))
        return norm

    @torch.enable_grad()
    def _start(self) -> None:
        """P_T and G_T, the direct gradient."""
        trajectory = self._trajectory
        seed, step, cuda = trajectory.seed, trajectory.start + trajectory.steps, trajectory.cuda
        leaves = _differentiable(trajectory.leaves(trajectory.steps))
        reseed(seed, step, OUTER_DRAW, cuda=cuda)
        tracers = trajectory.outer.trace(trajectory.outer.draw())
        reseed(seed, step, OUTER_STEP, cuda=cuda)
        state = trajectory.spec.unflatten(leaves, step)
        loss = self._objective(state.params, trajectory.outer.unflatten([tracer.value for tracer in tracers]))
        if not loss.requires_grad:
            raise InputError(
                "the outer objective must depend on params or on outer, but its value has no gradient path to either; "
                "compute it from the arguments it is called with, without .item(), .detach() or torch.no_grad()"
            )
        self.outer_loss = loss.detach()
        self.cotangents = self._pull_back([loss], [torch.ones_like(loss)], leaves, tracers)

    @torch.enable_grad()
    def _step(self, t: int) -> None:
        """P_{t+1}, G_{t+1} become P_t, G_t."""
        trajectory = self._trajectory
        if all(p is None for p in self.cotangents):
            return  # Nothing flows further back.
        leaves = _differentiable(trajectory.leaves(t))
        draws = self._draws(t)
        tracers = trajectory.outer.trace(draws)
        results = self._run_updater(t, leaves, [tracer.value for tracer in tracers])
        if self._check_replay:
            self._compare(t, results)
        if not any(isinstance(y, Tensor) and y.requires_grad for y in results):
            raise InputError(
                f"the step of {type(trajectory.updater).__name__} must be differentiable in the state and in the "
                "outer variables, but its result is detached from both; compute it without .detach(), .item() or "
                "torch.no_grad()"
            )
        self.cotangents = self._pull_back(results, self.cotangents, leaves, tracers, updater_step=t)

    def _draws(self, t: int) -> list[Any]:
        trajectory = self._trajectory
        if self._replay or not trajectory.outer.random:
            return trajectory.draws(t)
        reseed(trajectory.seed, trajectory.start + t, FRESH_DRAW, cuda=trajectory.cuda)
        return trajectory.outer.draw()

    def _run_updater(self, t: int, leaves: Sequence[Any], values: Sequence[Any]) -> list[Any]:
        trajectory = self._trajectory
        step = trajectory.start + t
        reseed(trajectory.seed, step, STEP if self._replay else FRESH_STEP, cuda=trajectory.cuda)
        state = trajectory.spec.unflatten(leaves, step)
        outer = trajectory.outer.unflatten(values)
        return trajectory.spec.flatten(trajectory.updater.step(state, outer, trajectory.inner))

    def _pull_back(
        self,
        results: Sequence[Any],
        cotangents: Sequence[Tensor | None],
        leaves: Sequence[Any],
        tracers: Sequence[Tracer],
        updater_step: int | None = None,
    ) -> list[Tensor | None]:
        """One joint vector-Jacobian product: accumulate on the outer variables, return the cotangents of the leaves."""
        outputs = [(y, p) for y, p in zip(results, cotangents, strict=True) if p is not None and y.requires_grad]
        places = [i for i, leaf in enumerate(leaves) if is_differentiable(leaf)]
        inputs = [leaves[i] for i in places]
        sizes = []
        for tracer in tracers:
            named = tracer.inputs()
            sizes.append(len(named))
            inputs.extend(named)
        if not outputs:
            return [None] * len(leaves)
        found = torch.autograd.grad([y for y, _ in outputs], inputs, [p for _, p in outputs], allow_unused=True)
        result: list[Tensor | None] = [None] * len(leaves)
        for i, cotangent in zip(places, found, strict=False):
            result[i] = cotangent
        position = len(places)
        for index, (tracer, size) in enumerate(zip(tracers, sizes, strict=True)):
            part = found[position : position + size]
            position += size
            self._accumulators[index].add(tracer, part)
            if updater_step == self._trajectory.steps - 1 and all(c is None for c in part):
                self._check_attached(updater_step, index, [p is not None for p in cotangents])
        return result

    def _compare(self, t: int, results: Sequence[Any]) -> None:
        """Raise ReplayError where a recomputed leaf differs from the recorded one by more than rounding."""
        trajectory = self._trajectory
        recorded = trajectory.leaves(t + 1)
        for path, new, old in zip(trajectory.spec.paths, results, recorded, strict=True):
            if not isinstance(new, Tensor):
                error = 0.0 if new == old else float("inf")
            elif torch.equal(new, old):
                continue
            else:
                error = _relative_error(new.detach(), old)
            assert self.replay_error is not None
            self.replay_error = max(self.replay_error, error)
            eps = torch.finfo(new.dtype).eps if is_differentiable(new) else 0.0
            if error > REPLAY_TOLERANCE * eps:
                raise ReplayError(
                    f"replaying step {t} gave another {path} than was recorded (relative difference {error:.2g}): "
                    "Φ or the inner objective reads something besides its arguments and the torch, numpy and random "
                    "generators, such as an iterator that moved on; make it a function of its arguments, or use "
                    'noise="resample"'
                )

    def _check_attached(self, t: int, index: int, reached: Sequence[bool]) -> None:
        """Raise InputError if a leaf with a cotangent depends on an outer tensor, but autograd sees no path."""
        trajectory = self._trajectory
        variable = trajectory.outer.variables[index]
        if not (isinstance(variable, TensorVariable) and self._replay):
            return
        values = trajectory.draws(t)
        theta = variable.tensor
        # Towards zero, so that probabilities stay probabilities and positive numbers stay positive.
        moved = [*values[:index], torch.where(theta == 0, 1e-3, theta * (1 - 1e-3)), *values[index + 1 :]]
        with torch.no_grad():
            # On copies: without gradients, as when recording, Φ may write to the state it is given.
            before, after = (
                self._run_updater(t, _differentiable(trajectory.leaves(t), copy=True), v) for v in (values, moved)
            )
        for x, y, old, asked in zip(before, after, trajectory.leaves(t + 1), reached, strict=True):
            # A step that does not repeat itself bit by bit differs anyway, so nothing can be told from it.
            if asked and torch.equal(x, old) and not torch.equal(x, y):
                raise InputError(
                    f"the step of {type(trajectory.updater).__name__} must be differentiable in "
                    f"{trajectory.outer.paths[index]}: its result changes with that variable but is detached from it; "
                    "take inner gradients with lds.updaters.gradient (or create_graph=True), and use no .detach(), "
                    ".item() or torch.no_grad()"
                )


def check_noise(noise: object) -> None:
    """Raise InputError unless the value is one of `Noise`."""
    if noise not in ("replay", "resample"):
        raise InputError(f'noise must be "replay" or "resample", got {noise!r}')


def _differentiable(leaves: Sequence[Any], *, copy: bool = False) -> list[Any]:
    if copy:
        leaves = [x.clone() if isinstance(x, Tensor) else x for x in leaves]
    return [x.detach().requires_grad_() if is_differentiable(x) else x for x in leaves]


def _relative_error(new: Tensor, old: Tensor) -> float:
    if not is_differentiable(new):
        return float("inf")
    both_nan = new.isnan() & old.isnan()
    difference = torch.where(both_nan | (new == old), 0.0, (new - old).abs())
    error = float(difference.max() / old.abs().nan_to_num().max().clamp(min=torch.finfo(old.dtype).tiny))
    return float("inf") if error != error else error
