"""One sweep in progress: Algorithm 2 of LDS-GNN, a step at a time."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any

import optree
import torch
from torch import Tensor

from lds._random import FRESH_DRAW, FRESH_STEP, OUTER_DRAW, OUTER_STEP, STEP, reseed
from lds.errors import InputError
from lds.hypergrad._arguments import Noise, check_noise
from lds.hypergrad._attached import check_attached
from lds.hypergrad._dynamics import CheckedObjective, Dynamics, StepGraph
from lds.hypergrad._finite import all_finite, check_depth, check_objective
from lds.hypergrad._leaves import differentiable, is_differentiable, norm
from lds.hypergrad._logs import NormLog, ScalarLog
from lds.hypergrad._outer import Accumulator
from lds.hypergrad._replay import replay_error
from lds.hypergrad._saved import fits
from lds.hypergrad._steady import TensorAccumulator
from lds.hypergrad._trajectory import Trajectory
from lds.hypergrad.memory import Tape
from lds.hypergrad.memory._tape import ResumableTape
from lds.updaters import Objective, PyTree, State


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
        self.costate_norms = NormLog(trajectory.horizon + 1, len(self._dynamics.spec.paths))
        self._increment_norms = ScalarLog(trajectory.horizon + 1)
        self.replay_error: float | None = None
        self._closely = False
        self._increments: list[Sequence[Tensor | None]] = []

    def __iter__(self) -> Iterator[int]:
        trajectory, segments = self._trajectory, list(self._trajectory.segments)
        resumable = self._resumable()
        self._start()
        t = trajectory.steps
        if resumable is not None and (progress := resumable.progress()) is not None:
            t = self._restore(progress)
        self._check(t)
        yield t
        while t > trajectory.steps - trajectory.horizon:
            t -= 1
            if t < segments[-1].first:
                segments.pop()
                self._leave_for(segments[-1].dynamics)
            self._step(t, segments[-1].tape)
            if resumable is not None and (trajectory.steps - t) % resumable.save_every == 0:
                resumable.save(self._progress(t))
            self._check(t)
            yield t

    def look_closely(self) -> None:
        """Have every number looked at before it is yielded."""
        self._closely = True

    def check_finite(self) -> None:
        """Raise NumericalError if a number of this sweep, which has ended, is NaN or infinite.

        The norms that were noted tell whether one may be; a second sweep then says which.
        """
        assert self.outer_loss is not None
        trajectory = self._trajectory
        norms = [*self.costate_norms.totals(), *self._increment_norms.floats()]
        if not all(map(math.isfinite, [*norms, self.outer_loss.item()])):
            again = Sweep(
                trajectory,
                self._objective,
                noise="replay" if self._replay else "resample",
                check_replay=False,
                initial_costate=self._initial_costate,
            )
            again.look_closely()
            again.costate_norms = NormLog(trajectory.horizon + 1, len(self._dynamics.spec.paths), torch.float64)
            for _ in zip(range(len(self._increment_norms)), again, strict=False):  # As far as this one went.
                pass

    @property
    def contributions(self) -> list[float] | None:
        """What each step added to G, as a norm; None where an outer variable draws."""
        return None if self._dynamics.outer.random else self._increment_norms.floats()

    @property
    def param_norms(self) -> list[float]:
        """‖P_t‖ on the params."""
        return self.costate_norms.totals(self._dynamics.spec.params)

    def _check(self, t: int) -> None:
        if not self._closely:
            return
        trajectory, spec = self._trajectory, self._dynamics.spec
        assert self.outer_loss is not None
        if t == trajectory.steps:
            check_objective(self.outer_loss.item(), trajectory.final_state.step, spec.paths, self._after)
        # Slots that start at zero: the root in Adam has no bounded derivative there, and nothing needs it.
        end = spec.params if t == 0 else len(spec.paths)
        costate, increments = self.cotangents[:end], self._increments
        if not all_finite([costate, increments]):
            check_depth(
                t,
                (spec.paths[:end], costate),
                (self._dynamics.outer.paths, increments),
                self.costate_norms.totals(),
                self.param_norms,
                trajectory.steps,
            )

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
        _, increments = self.pull_back(StepGraph(leaves, tracers, [loss]), [torch.ones_like(loss)])
        self._note(self.cotangents, increments)

    def _step(self, t: int, tape: Tape) -> None:
        """P_{t+1}, G_{t+1} become P_t, G_t."""
        dynamics = self._dynamics
        to_state = t > 0 or self._initial_costate
        if all(p is None for p in self.cotangents):
            self._note(self.cotangents if to_state else None, [])
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
        unreached, increments = self.pull_back(graph, self.cotangents, to_state=to_state)
        self._note(self.cotangents if to_state else None, increments)
        if self._replay and t == self._trajectory.steps - 1:
            check_attached(dynamics, t, step.leaves, step.draws, self._after, unreached=unreached, asked=asked)
        self._after = step.leaves

    def pull_back(
        self, graph: StepGraph, cotangents: Sequence[Tensor | None], *, to_state: bool = True
    ) -> tuple[list[int], list[Sequence[Tensor | None]]]:
        """One joint VJP; return which outer variables it did not reach, and the cotangents of each."""
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
        increments: list[Sequence[Tensor | None]] = []
        for index, (accumulator, tracer, end) in enumerate(zip(self._accumulators, graph.tracers, ends, strict=True)):
            accumulator.add(tracer, found[begin:end])
            increments.append(found[begin:end])
            if all(c is None for c in found[begin:end]):
                unreached.append(index)
            begin = end
        self.cotangents = result
        return unreached, increments

    def _note(self, costate: Sequence[Tensor | None] | None, increments: list[Sequence[Tensor | None]]) -> None:
        assert self.outer_loss is not None
        if costate is not None:
            self.costate_norms.append(costate, like=self.outer_loss)
        found = [c for cotangents in increments for c in cotangents if c is not None]
        self._increment_norms.append(norm(found, like=self.outer_loss))
        self._increments = increments if self._closely else []

    def _progress(self, t: int) -> dict[str, Any]:
        """What `_restore` needs to go on below t."""
        return {
            "t": t,
            "outer_loss": self.outer_loss,
            "cotangents": self.cotangents,
            "sums": [a.sums for a in self._accumulators if isinstance(a, TensorAccumulator)],
            "costate_norms": self.costate_norms.rows(),
            "increment_norms": self._increment_norms.floats(),
            "replay_error": self.replay_error,
        }

    def _restore(self, progress: dict[str, Any]) -> int:
        """Go on from what an earlier process saved; return its t."""
        tape, trajectory, outer_loss = self._resumable(), self._trajectory, self.outer_loss
        assert tape is not None
        assert outer_loss is not None
        state, mine = self._dynamics.spec.flatten(trajectory.final_state), self._progress(trajectory.steps)
        if not fits(progress, mine, state, trajectory.horizon):
            raise tape.damaged_progress()
        if not torch.equal(progress["outer_loss"], outer_loss):
            raise InputError(
                f"the sweep that was interrupted had another outer objective: {progress['outer_loss']:.6g}, now "
                f"{outer_loss:.6g}; call with the same one, or remove the folder"
            )
        for accumulator, sums in zip(self._accumulators, progress["sums"], strict=True):
            assert isinstance(accumulator, TensorAccumulator)
            accumulator.sums = sums
        self.cotangents = progress["cotangents"]
        self.costate_norms.restore(progress["costate_norms"], like=outer_loss)
        for value in progress["increment_norms"][1:]:  # The first is that of `_start`.
            self._increment_norms.append(torch.tensor(value, dtype=torch.float64))
        self.replay_error = progress["replay_error"]
        self._after = tape.load(progress["t"]).leaves
        return int(progress["t"])


def _add(a: Any, b: Any) -> Any:
    return optree.tree_map(operator.add, a, b)
