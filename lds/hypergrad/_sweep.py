"""The backward sweep: Algorithm 2 of LDS-GNN."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import optree
import torch
from torch import Tensor

from lds._random import FRESH_DRAW, FRESH_STEP, OUTER_DRAW, OUTER_STEP, STEP, forked, reseed
from lds.errors import InputError
from lds.hypergrad._attached import check_attached
from lds.hypergrad._dynamics import CheckedObjective, Dynamics, StepGraph
from lds.hypergrad._leaves import ScalarLog, differentiable, is_differentiable, norm
from lds.hypergrad._outer import Accumulator
from lds.hypergrad._replay import replay_error
from lds.hypergrad._steady import TensorAccumulator
from lds.hypergrad._trajectory import Trajectory
from lds.hypergrad.memory import Tape
from lds.hypergrad.memory._tape import ResumableTape
from lds.updaters import Objective, PyTree, State

Noise: TypeAlias = Literal["replay", "resample"]


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
    run = Sweep(trajectory, outer_objective, noise=noise, check_replay=check_replay, initial_costate=True)
    depths = iter(run)
    while True:
        # Forked a step at a time: between two of them the caller's code runs, on the caller's generators.
        with forked(trajectory.dynamics.cuda):
            t = next(depths, None)
        if t is None:
            return
        yield SweepStep(t, run.costate(), run.grad())


class Sweep:
    """One sweep in progress: iterating runs it, a step at a time, and yields t. Iterate inside `forked`.

    Without `initial_costate` the step from w_0 is pulled back to the outer variables only.
    """

    def __init__(
        self,
        trajectory: Trajectory,
        outer_objective: Objective,
        *,
        noise: Noise,
        check_replay: bool,
        initial_costate: bool,
    ) -> None:
        check_noise(noise)
        self._trajectory = trajectory
        self._dynamics = trajectory.dynamics
        self._objective = CheckedObjective(outer_objective, "outer objective")
        self._replay = noise == "replay"
        self._check_replay = check_replay and self._replay
        self._initial_costate = initial_costate
        self._accumulators: list[Accumulator] = [v.accumulator() for v in self._dynamics.outer.variables]
        self._later: list[list[Any]] = []  # What the accumulators of segments hold that the sweep has left.
        self._after: Sequence[Any] = ()
        self.cotangents: list[Tensor | None] = []
        self.outer_loss: Tensor | None = None
        self.costate_norms = ScalarLog(trajectory.horizon + 1)
        self.contributions = None if self._dynamics.outer.random else ScalarLog(trajectory.horizon + 1)
        self.replay_error: float | None = None

    def __iter__(self) -> Iterator[int]:
        trajectory, segments = self._trajectory, list(self._trajectory.segments)
        resumable = self._resumable()
        self._start()
        t = trajectory.steps
        if resumable is not None and (progress := resumable.progress()) is not None:
            t = self._restore(progress)
        yield t
        while t > trajectory.steps - trajectory.horizon:
            t -= 1
            if t < segments[-1].first:
                segments.pop()
                self._leave_for(segments[-1].dynamics)
            self._step(t, segments[-1].tape)
            if resumable is not None and (trajectory.steps - t) % resumable.save_every == 0:
                resumable.save(self._progress(t))
            yield t

    def costate(self) -> State:
        """Return P_t."""
        trajectory = self._trajectory
        leaves = self._dynamics.spec.flatten(trajectory.final_state)
        filled = [
            (torch.zeros_like(x) if p is None else p) if is_differentiable(x) else None
            for x, p in zip(leaves, self.cotangents, strict=True)
        ]
        return self._dynamics.spec.unflatten(filled, trajectory.final_state.step)

    def grad(self) -> PyTree:
        """Return G_t."""
        parts = [[a.value() for a in self._accumulators], *self._later]
        return self._dynamics.outer.unflatten([reduce(_add, values) for values in zip(*parts, strict=True)])

    def _resumable(self) -> ResumableTape | None:
        # On its own: a trajectory on disk is not gone on from.
        tapes = [segment.tape for segment in self._trajectory.segments]
        return tapes[-1] if tapes and isinstance(tapes[-1], ResumableTape) else None

    def take_increments(self) -> list[Any]:
        """Return what was added to G since this was asked before, a value an outer variable; `grad` forgets it."""
        values = [a.value() for a in self._accumulators]
        self._accumulators = [v.accumulator() for v in self._dynamics.outer.variables]
        return values

    def _leave_for(self, dynamics: Dynamics) -> None:
        """Go on with Φ as an earlier recording bound it: at the values that θ had then."""
        self._later.append([a.value() for a in self._accumulators])
        self._dynamics = dynamics
        self._accumulators = [v.accumulator() for v in dynamics.outer.variables]

    @torch.enable_grad()
    def _start(self) -> None:
        """P_T and G_T, the direct gradient."""
        trajectory, dynamics = self._trajectory, self._dynamics
        dynamics.outer.check_unchanged()
        step = dynamics.start + trajectory.steps
        self._after = dynamics.spec.flatten(trajectory.final_state)
        leaves = differentiable(self._after)
        tracers = dynamics.outer.trace(dynamics.draws(trajectory.steps, OUTER_DRAW))
        reseed(dynamics.seed, step, OUTER_STEP, cuda=dynamics.cuda)
        state = dynamics.spec.unflatten(leaves, step)
        loss = self._objective(state.params, dynamics.outer.unflatten([tracer.value for tracer in tracers]))
        if not loss.requires_grad:
            raise InputError(
                "the outer objective must depend on params or on outer, but its value has no gradient path to either; "
                "compute it from the arguments it is called with, without .item(), .detach() or torch.no_grad()"
            )
        self.outer_loss = loss.detach()
        self.pull_back(StepGraph(leaves, tracers, [loss]), [torch.ones_like(loss)])

    def _step(self, t: int, tape: Tape) -> None:
        """P_{t+1}, G_{t+1} become P_t, G_t."""
        dynamics = self._dynamics
        to_state = t > 0 or self._initial_costate
        if all(p is None for p in self.cotangents):
            self._note_norms([] if to_state else None, [])
            return  # Nothing flows further back.
        dynamics.outer.check_unchanged()
        step = tape.load(t)
        graph = step.graph
        if graph is None or not self._replay:
            draws = step.draws
            if dynamics.outer.random and not self._replay:
                draws = dynamics.draws(t, FRESH_DRAW)
            graph = dynamics.linearise(t, step.leaves, draws, STEP if self._replay else FRESH_STEP)
            if self._check_replay:
                error = replay_error(dynamics.spec.paths, t, graph.results, self._after)
                self.replay_error = max(self.replay_error or 0.0, error)
        if not any(isinstance(y, Tensor) and y.requires_grad for y in graph.results):
            raise InputError(
                f"the step of {type(dynamics.updater).__name__} must be differentiable in the state and in the "
                "outer variables, but its result is detached from both; compute it without .detach(), .item() or "
                "torch.no_grad()"
            )
        asked = [p is not None for p in self.cotangents]
        unreached = self.pull_back(graph, self.cotangents, to_state=to_state)
        if self._replay and t == self._trajectory.steps - 1:
            check_attached(dynamics, t, step.leaves, step.draws, self._after, unreached=unreached, asked=asked)
        self._after = step.leaves

    def pull_back(self, graph: StepGraph, cotangents: Sequence[Tensor | None], *, to_state: bool = True) -> list[int]:
        """One joint vector-Jacobian product; return the indices of the outer variables that it did not reach."""
        outputs = [(y, p) for y, p in zip(graph.results, cotangents, strict=True) if p is not None and y.requires_grad]
        places = [i for i, leaf in enumerate(graph.leaves) if to_state and is_differentiable(leaf)]
        inputs = [graph.leaves[i] for i in places]
        ends = []
        for tracer in graph.tracers:
            inputs.extend(tracer.inputs())
            ends.append(len(inputs))
        result: list[Tensor | None] = [None] * len(graph.leaves)
        found: Sequence[Tensor | None] = [None] * len(inputs)
        if outputs and inputs:
            found = torch.autograd.grad([y for y, _ in outputs], inputs, [p for _, p in outputs], allow_unused=True)
        for i, cotangent in zip(places, found, strict=False):
            result[i] = cotangent
        begin, unreached = len(places), []
        for index, (accumulator, tracer, end) in enumerate(zip(self._accumulators, graph.tracers, ends, strict=True)):
            accumulator.add(tracer, found[begin:end])
            if all(c is None for c in found[begin:end]):
                unreached.append(index)
            begin = end
        self.cotangents = result
        self._note_norms(result if to_state else None, found[len(places) :])
        return unreached

    def _note_norms(self, costate: Sequence[Tensor | None] | None, contribution: Sequence[Tensor | None]) -> None:
        assert self.outer_loss is not None
        for log, cotangents in ((self.costate_norms, costate), (self.contributions, contribution)):
            if log is not None and cotangents is not None:
                log.append(norm([c for c in cotangents if c is not None], like=self.outer_loss))

    def _progress(self, t: int) -> dict[str, Any]:
        """What `_restore` needs to go on below t."""
        return {
            "t": t,
            "outer_loss": self.outer_loss,
            "cotangents": self.cotangents,
            "sums": [a.sums for a in self._accumulators if isinstance(a, TensorAccumulator)],
            "costate_norms": self.costate_norms.floats(),
            "contributions": None if self.contributions is None else self.contributions.floats(),
            "replay_error": self.replay_error,
        }

    def _restore(self, progress: dict[str, Any]) -> int:
        """Go on from what an earlier process saved; return its t."""
        if not torch.equal(progress["outer_loss"], cast("Tensor", self.outer_loss)):
            raise InputError(
                "the sweep that was interrupted had another outer objective: its value was "
                f"{progress['outer_loss']:.6g}, now it is {self.outer_loss:.6g}; call with the same one, or remove "
                "the folder"
            )
        for accumulator, sums in zip(self._accumulators, progress["sums"], strict=True):
            assert isinstance(accumulator, TensorAccumulator)
            accumulator.sums = sums
        self.cotangents = progress["cotangents"]
        for log, name in ((self.costate_norms, "costate_norms"), (self.contributions, "contributions")):
            assert log is not None  # A trajectory on disk has no outer variables that draw.
            for value in progress[name][1:]:  # The first is that of `_start`.
                log.append(torch.tensor(value, dtype=torch.float64))
        self.replay_error = progress["replay_error"]
        t: int = progress["t"]
        tape = self._resumable()
        assert tape is not None
        self._after = tape.load(t).leaves if t < self._trajectory.steps else self._after
        return t


def check_noise(noise: object) -> None:
    """Raise InputError unless the value is one of `Noise`."""
    if noise not in ("replay", "resample"):
        raise InputError(f'noise must be "replay" or "resample", got {noise!r}')


def _add(a: Any, b: Any) -> Any:
    return optree.tree_map(operator.add, a, b)
