r"""Reverse mode: Algorithm 2 of LDS-GNN, a sweep back over the recorded steps.

Franceschi et al., `Learning Discrete Structures for Graph Neural Networks <https://arxiv.org/abs/1903.11960>`_ (ICML
2019):

.. math::
    P_T = \partial_w F(w_T, \theta), \quad G_T = \partial_\theta F(w_T, \theta), \quad
    P_{t-1} = P_t\, \partial_w \Phi(w_{t-1}, \theta), \quad
    G_{t-1} = P_t\, \partial_\theta \Phi(w_{t-1}, \theta) + G_t

`outer_graph`, `pull_back` and `reverse` are the whole algorithm. What is checked and noted on the way is left to
watchers, see `_guards`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, compress, islice, repeat
from typing import Any, NamedTuple, TypeVar, overload

import optree
import torch
from torch import Tensor

from lds._autograd import vjp
from lds._keywords import explained
from lds._random import FRESH_DRAW, FRESH_STEP, INIT, OUTER_DRAW, OUTER_STEP, forked, reseed
from lds._show import short
from lds._updater import InnerObjective, Objective, PyTree, State, Updater
from lds.errors import InputError, NumericalError
from lds.hypergrad._attached import Attached, Walk
from lds.hypergrad._diagnostics import (
    HypergradientResult,
    Method,
    SweepDiagnostics,
    no_params_grad,
    remaining_share,
)
from lds.hypergrad._dynamics import Costate, Dynamics, Increments, Step, StepGraph, checked
from lds.hypergrad._guards import (
    NOBODY,
    Finite,
    Noise,
    Notes,
    Replay,
    Unchanged,
    Watcher,
    Watchers,
    all_finite,
    check_count,
    check_grad,
    check_memory,
    check_method,
    check_noise,
    check_unchanged,
    explosion,
    faults,
)
from lds.hypergrad._outer import Accumulator, Accumulators, copied, is_differentiable
from lds.hypergrad._record import Diagnostics, Problem, Trajectory, close_all, later_gradient_norm, no_inner, remove_all
from lds.hypergrad._spot import Spot
from lds.hypergrad._traced import SameAsEager, Traced
from lds.hypergrad.memory import Memory
from lds.hypergrad.memory._resume import Progress
from lds.hypergrad.memory._tape import ResumableTape


@torch.enable_grad()
def outer_graph(dynamics: Dynamics, state: State, objective: Objective) -> StepGraph:
    """F(w_T, θ) with its graph, from which all methods begin."""
    leaves = dynamics.spec.inputs(dynamics.spec.flatten(state))
    tracers, outer = dynamics.outer.trace(dynamics.draws(state.step - dynamics.start, OUTER_DRAW))
    params = dynamics.spec.unflatten(leaves, state.step).params
    reseed(dynamics.seed, state.step, OUTER_STEP, cuda=dynamics.cuda)
    return StepGraph(leaves, tracers, [checked(objective, "outer objective")(params, outer)])


def pull_back(
    graph: StepGraph, costate: Costate, accumulators: Sequence[Accumulator], *, to_state: bool = True
) -> tuple[Costate, Increments]:
    """One joint vector-Jacobian product: P ← P ∂Φ/∂w, and G ← P ∂Φ/∂θ + G; returns P and what G gained."""
    flowing = [(y, p) for y, p in zip(graph.results, costate, strict=True) if p is not None and y.requires_grad]
    asked = [to_state and isinstance(x, Tensor) and x.requires_grad for x in graph.leaves]
    shown = [tracer.inputs() for tracer in graph.tracers]
    inputs = [*compress(graph.leaves, asked), *chain.from_iterable(shown)]
    found: Iterator[Tensor | None] = repeat(None)
    if flowing and inputs:
        results, cotangents = zip(*flowing, strict=True)
        found = iter(vjp(results, inputs, cotangents))
    before: list[Tensor | None] = []
    for ask in asked:
        before.append(next(found) if ask else None)
    increments: list[list[Tensor | None]] = []
    for accumulator, tracer, named in zip(accumulators, graph.tracers, shown, strict=True):
        increments.append(list(islice(found, len(named))))
        accumulator.add(tracer, increments[-1])
    return before, increments


def first_costate(
    dynamics: Dynamics, state: State, objective: Objective | Costate, sums: Accumulators, watch: Watcher
) -> Costate:
    """P_T and G_T: F at the final state, pulled back from P = 1; or P_T as it is given, for an F that autograd has."""
    if isinstance(objective, Sequence):  # What else is no function is the user's, and refused below.
        like = next(p for p in objective if p is not None)
        zero = torch.zeros((), dtype=torch.float64, device=like.device)
        watch.start(dynamics, state, StepGraph([], [], [zero]))
        watch.after(state.step - dynamics.start, objective, [])
        return objective
    graph = outer_graph(dynamics, state, objective)
    watch.start(dynamics, state, graph)
    costate, increments = pull_back(graph, [torch.ones_like(graph.results[0])], sums.current)
    watch.after(state.step - dynamics.start, costate, increments)
    return costate


def reverse(
    trajectory: Trajectory,
    objective: Objective | Costate,
    watch: Watcher = NOBODY,
    *,
    noise: Noise = "replay",
    to_start: bool = True,
) -> Iterator[tuple[int, Costate, Accumulators]]:
    """Algorithm 2: yields (t, P_t, G_t) for t = T, T−1, …, T−horizon; iterate inside `forked`.

    Without `to_start` the step from w_0 is pulled back to θ only, and P_0 is all None.
    """
    sums = Accumulators(trajectory.dynamics.outer)
    costate = first_costate(trajectory.dynamics, trajectory.final_state, objective, sums, watch)
    end, costate = watch.begin(trajectory.steps, costate, sums)
    yield end, costate, sums
    for segment in reversed(trajectory.segments):
        accumulators = sums.of(segment.dynamics.outer)
        for t in reversed(range(segment.first, min(segment.end, end))):
            if all(p is None for p in costate):  # Nothing flows further back.
                watch.after(t, costate, [])
            else:
                step = segment.tape.load(t)
                graph = step_graph(segment.dynamics, t, step, noise)
                watch.before(t, segment.dynamics, step, graph, costate)
                costate, increments = pull_back(graph, costate, accumulators, to_state=t > 0 or to_start)
                watch.after(t, costate, increments)
                del step, graph, increments  # Free this graph before the next one is made.
            yield t, costate, sums


def step_graph(dynamics: Dynamics, t: int, step: Step, noise: Noise) -> StepGraph:
    """The graph of step t: the one that was kept, or that of the step taken again."""
    if noise == "resample":
        return dynamics.linearise(t, step.leaves, dynamics.draws(t, FRESH_DRAW), FRESH_STEP)
    return step.graph or dynamics.linearise(t, step.leaves, step.draws)


def _params_gradient(dynamics: Dynamics, step: Step, costate: Costate, noise: Noise, *, arrived: bool) -> PyTree:
    """dF/dw_0, a pytree like the params, from P_1 at the first step, or from P_0 where the sweep has `arrived`."""
    if not arrived:
        check_unchanged(dynamics.outer, "params_grad", "ask for it first")
        with forked(dynamics.cuda):
            graph = step_graph(dynamics, 0, step, noise)
            costate, _ = pull_back(replace(graph, tracers=[]), costate, [])
    return dynamics.spec.params.unflatten(_through_slots(dynamics, step.leaves, costate))


def _through_slots(dynamics: Dynamics, leaves: Sequence[Any], costate: Costate) -> list[Tensor]:
    """P_0 on the params, and on the slots where Φ makes them of the params."""
    count = dynamics.spec.num_params
    found = [torch.zeros_like(x) if p is None else p for x, p in zip(leaves, costate[:count], strict=False)]
    if dynamics.fresh and any(p is not None for p in costate[count:]):
        params = dynamics.spec.inputs(leaves[:count])
        with forked(dynamics.cuda), torch.enable_grad():
            reseed(dynamics.seed, INIT, cuda=dynamics.cuda)
            slots = optree.tree_leaves(dynamics.updater.init(dynamics.spec.params.unflatten(params)))
        pairs = zip(slots, costate[count:], strict=True)
        made = [(y, p) for y, p in pairs if p is not None and isinstance(y, Tensor) and y.requires_grad]
        if made:
            ys, ps = zip(*made, strict=True)
            more = torch.autograd.grad(ys, params, ps, allow_unused=True)
            found = [x if y is None else x + y for x, y in zip(found, more, strict=True)]
    if not all_finite(found):
        faulty = faults(dynamics.spec.paths[:count], found)
        raise NumericalError(
            f"the gradient in w_0 must be finite, but {'; '.join(f'that of {fault}' for fault in faulty)}; look for an "
            "infinite derivative, such as that of sqrt, norm or log at 0, or take fewer or smaller steps"
        )
    return found


def _to_start(trajectory: Trajectory, t: int, costate: Costate, noise: Noise, *, arrived: bool) -> Callable[[], PyTree]:
    """Return what computes dF/dw_0 at the end of a sweep that went back to t."""
    if t > 0:
        return partial(_out_of_reach, t)
    if not trajectory.segments:  # Of no steps at all.
        dynamics, final = trajectory.dynamics, trajectory.final_state
        return partial(_params_gradient, dynamics, Step(dynamics.spec.flatten(final), ()), costate, noise, arrived=True)
    first = trajectory.segments[0]
    step = first.tape.load(0)
    # Where the tape keeps them they are rows among those of other steps; `unroll` asks at once.
    kept = Step(step.leaves if first.dynamics.attached else copied(step.leaves), step.draws)
    return partial(_params_gradient, first.dynamics, kept, costate, noise, arrived=arrived)


def _out_of_reach(t: int) -> PyTree:
    raise InputError(
        f"params_grad needs a sweep over all steps, but this one stopped at step {t} and takes what lies before as a "
        "constant; use Reverse() with neither horizon nor tol; for the first-order gradient see "
        "`lds.hypergrad.unroll`"
    )


def check_finite(
    trajectory: Trajectory, objective: Objective | Costate, notes: Notes, *, noise: Noise, to_start: bool
) -> None:
    """Raise NumericalError if a number of a sweep that has ended is NaN or infinite.

    The noted norms tell whether there is one. If so, the sweep is repeated over the same steps, and every number is
    checked.
    """
    if notes.is_finite():
        return
    again = Notes(trajectory.horizon, trajectory.dynamics.spec, to_start=to_start)
    watch = Watchers(again, Finite(again, trajectory.dynamics, trajectory.final_state))
    sweep = reverse(trajectory, objective, watch, noise=noise, to_start=to_start)
    for _ in islice(sweep, len(notes.increments)):
        pass


class UsualWatchers(Watchers):
    """The watchers of a sweep that a user asked for.

    Args:
        trajectory: what is swept.
        noise: as for `sweep`.
        check_replay: as for `sweep`.
        to_start: whether the costate of w_0 is asked for.

    Attributes:
        notes: what the sweep notices.
        replay: its replay check.
        attached: what it reached.
    """

    def __init__(self, trajectory: Trajectory, *, noise: Noise, check_replay: bool, to_start: bool) -> None:
        check_unchanged(trajectory.dynamics.outer)
        repeats = check_replay and noise == "replay"
        self.notes = Notes(trajectory.horizon, trajectory.dynamics.spec, to_start=to_start)
        self.replay = Replay(compare=repeats)
        self.attached = Attached()
        watchers: list[Watcher] = [Unchanged(), self.replay, self.notes, self.attached]
        if isinstance(trajectory.dynamics.updater, Traced):
            watchers.append(SameAsEager(trajectory.steps - trajectory.horizon, trajectory.steps))
        # What is solved again and again is not looked at every time: a problem of `unroll`, or one gone on with.
        dynamics = trajectory.dynamics
        if not (dynamics.attached or dynamics.start or trajectory.begin) or dynamics.met.is_due():
            walk = Walk()
            watchers.append(walk)
            # Once a trajectory, not once for each recording that it goes on by.
            if repeats and trajectory.begin == 0:
                watchers.append(Spot(walk))
        tape = trajectory.segments[-1].tape if trajectory.segments else None
        if isinstance(tape, ResumableTape):  # The only segment: a trajectory on disk cannot be continued.
            arguments = {"noise": noise, "check_replay": check_replay}
            watchers.append(Progress(tape, trajectory.steps, trajectory.horizon, self.notes, self.replay, arguments))
        super().__init__(*watchers)


class SweepStep(NamedTuple):
    """What `sweep` yields at t: the costate P_t (a `State` of cotangents) and the accumulator G_t (like `outer`).

    Example:
        >>> import torch
        >>> from lds.hypergrad import record, sweep
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> trajectory = record(problem[0], *problem[2:], updater=SGD(0.25), steps=2)
        >>> *_, last = sweep(trajectory, problem[1])
        >>> last.t, last.costate.params, last.grad
        (0, tensor(0.3125), tensor(0.9375))
    """

    t: int
    costate: State
    grad: PyTree

    def __repr__(self) -> str:
        return short(self)


@explained
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

    Example:
        >>> import torch
        >>> from lds.hypergrad import record, sweep
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> trajectory = record(problem[0], *problem[2:], updater=SGD(0.25), steps=2)
        >>> [(t, float(grad)) for t, costate, grad in sweep(trajectory, problem[1])]
        [(2, 0.0), (1, 0.625), (0, 0.9375)]
    """
    check_noise(noise)
    dynamics, final = trajectory.dynamics, trajectory.final_state
    usual = UsualWatchers(trajectory, noise=noise, check_replay=check_replay, to_start=True)
    watch = Watchers(usual, Finite(usual.notes, dynamics, final))
    steps = reverse(trajectory, outer_objective, watch, noise=noise)
    leaves = dynamics.spec.flatten(final)
    while True:
        # Forked a step at a time: between two of them the caller's code runs, on the caller's generators.
        with forked(dynamics.cuda):
            check_unchanged(dynamics.outer)
            found = next(steps, None)
            if found is None:
                return
            t, costate, sums = found
            grad = sums.value()
            check_grad(dynamics.outer, grad, trajectory.steps - t)
        filled = [
            (torch.zeros_like(x) if p is None else p) if is_differentiable(x) else None
            for x, p in zip(leaves, costate, strict=True)
        ]
        yield SweepStep(t, dynamics.spec.unflatten(filled, final.step), grad)


@dataclass(frozen=True)
class Reverse:
    r"""Reverse mode: record the last iterates, then sweep back over them (see `lds.hypergrad.sweep`).

    With `tol` the truncation is adaptive: the sweep stops as soon as the costates that are left, if they go on
    shrinking at the rate ρ of the last five steps, hold at most the share `tol` of those that were swept,

    .. math:: \|P_t\|\, \rho / (1-\rho) \le \text{tol} \sum_{s \ge t} \|P_s\|

    Args:
        horizon: truncation depth, the number of steps to sweep back over at most; None sweeps over all of them, and 0
            leaves the direct gradient ∂F/∂θ.
        tol: share of the costate norms that may be left out; None sweeps over the whole horizon.
        memory: what the recorder keeps, see `lds.hypergrad.memory`; `KeepGraphs()` when None.
        noise: "replay" repeats the draws of the recorded steps; "resample" makes new ones, as the published code did.
        check_replay: compare every recomputed state with the recorded one, by value.

    Raises:
        InputError: the horizon is no integer ≥ 0, tol is negative, `memory` is no memory policy, or `noise` is neither
            "replay" nor "resample".

    Example:
        >>> import torch
        >>> from lds.hypergrad import Reverse, hypergradient
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> hypergradient(*problem, updater=SGD(0.25), steps=2, method=Reverse(horizon=1)).grad  # the last step alone
        tensor(0.6250)
    """

    horizon: int | None = None
    tol: float | None = None
    memory: Memory | None = None
    noise: Noise = "replay"
    check_replay: bool = True

    def __post_init__(self) -> None:
        if self.horizon is not None:
            check_count("horizon", self.horizon)
        if self.tol is not None and not self.tol >= 0:
            raise InputError(f"tol must be a number >= 0 or None, got {self.tol!r}")
        check_memory(self.memory)
        check_noise(self.noise)

    def solve(self, problem: Problem) -> HypergradientResult[SweepDiagnostics]:
        """Run the inner problem and return the hypergradient."""
        trajectory = problem.record(self.horizon, self.memory)
        try:
            return self.differentiate(trajectory, problem.outer_objective)
        except BaseException:
            close_all(trajectory)
            raise

    def differentiate(
        self, trajectory: Trajectory, outer_objective: Objective | Costate, *, to_start: bool = False
    ) -> HypergradientResult[SweepDiagnostics]:
        """Return the hypergradient at the end of a trajectory that is recorded already.

        The second half of `hypergradient`, for a loop that goes on from its trajectories (`record(..., after=)`). What
        the recorder kept decides the horizon; `tol`, `noise` and `check_replay` are this method's.

        Args:
            trajectory: what `record` returned.
            outer_objective: F, (params, outer) -> scalar tensor; or P_T itself, a tensor or None for each leaf of the
                state, where F is somebody else's to differentiate.
            to_start: whether to pull the step from w_0 back to w_0 too, so that `params_grad` costs nothing more.

        Raises:
            InputError, NumericalError, ReplayError: as for `sweep`.
        """
        dynamics, final = trajectory.dynamics, trajectory.final_state
        watch = UsualWatchers(trajectory, noise=self.noise, check_replay=self.check_replay, to_start=False)
        notes = watch.notes
        last: Costate = ()  # P_1, where the sweep itself does not go on to w_0.
        with forked(dynamics.cuda):
            for place in reverse(trajectory, outer_objective, watch, noise=self.noise, to_start=to_start):
                t, costate, sums = place
                if t == 1 and not to_start:
                    last = costate
                if self.tol is not None and t > 0 and remaining_share(notes.costates.totals()) <= self.tol:
                    break
            check_finite(trajectory, outer_objective, notes, noise=self.noise, to_start=False)
        grad, asked = sums.value(), not dynamics.attached  # For `unroll` asks for nothing else.
        check_grad(dynamics.outer, grad, trajectory.steps - t, math.fsum(notes.increments.floats()) if asked else None)
        watch.attached.warn_unreached(dynamics.outer, trajectory.steps - t)
        params_grad = no_params_grad
        if to_start or asked:
            params_grad = _to_start(trajectory, t, last or costate, self.noise, arrived=to_start)
        remove_all(trajectory)
        diagnostics = SweepDiagnostics(
            inner_losses=trajectory.inner_losses,
            _inner_gradient_norm=later_gradient_norm(dynamics, final),
            steps_swept=trajectory.steps - t,
            costate_norms=notes.costates.totals() if asked else [],
            # Norms of what a random variable gains would be norms of thin factors, not of its gradient.
            contributions=notes.increments.floats() if asked and not dynamics.outer.random else None,
            replay_error=watch.replay.error,
            explodes_at=explosion(notes.param_norms) if asked else None,
        )
        return HypergradientResult(grad, final.params, notes.outer_loss, final, diagnostics, params_grad)


D = TypeVar("D", bound=Diagnostics)


@overload
def hypergradient(
    inner: InnerObjective | None,
    outer_objective: Objective,
    params: PyTree,
    outer: PyTree,
    *,
    updater: Updater,
    steps: int,
    method: None = None,
    seed: int = 0,
    state: State | None = None,
    batches: object = None,
) -> HypergradientResult[SweepDiagnostics]: ...


@overload
def hypergradient(
    inner: InnerObjective | None,
    outer_objective: Objective,
    params: PyTree,
    outer: PyTree,
    *,
    updater: Updater,
    steps: int,
    method: Method[D],
    seed: int = 0,
    state: State | None = None,
    batches: object = None,
) -> HypergradientResult[D]: ...


@explained
def hypergradient(
    inner: InnerObjective | None,
    outer_objective: Objective,
    params: PyTree,
    outer: PyTree,
    *,
    updater: Updater,
    steps: int,
    method: Method[Any] | None = None,
    seed: int = 0,
    state: State | None = None,
    batches: object = None,
) -> HypergradientResult[Any]:
    r"""Return the gradient of the outer objective after unrolled inner optimization.

    .. math:: \frac{d}{d\theta} F(w_T(\theta), \theta), \qquad w_{t+1} = \Phi(w_t, \theta)

    Nothing is written to `.grad`, and no tensor of the caller is changed.

    Args:
        inner: inner objective L, (params, outer) -> scalar tensor; with `batches`, (params, outer, batch); None where Φ
            is a map that asks for none.
        outer_objective: F, (params, outer) -> scalar tensor.
        params: pytree of floating-point tensors w_0.
        outer: pytree of the outer variables θ; those that nothing depends on get zeros.
        updater: Φ, see `lds.updaters.Updater`.
        steps: number of inner steps T.
        method: how to differentiate: `Reverse`, `Forward`, `Implicit` or `FiniteDifference`; `Reverse()`, the full
            sweep, when None.
        seed: seed of the randomness inside Φ and inside F, and of the order of batches. Two calls with one seed see the
            same noise and the same batches: in an outer loop, give each call a seed of its own, or go on with `state`.
        state: a state to go on from instead of `params` (warm start), which goes on with its noise and batches too.
        batches: minibatches, one per step, for the inner objective: a sequence of them, `Batches`, or a
            `torch.utils.data.DataLoader` of a map-style dataset. That of a step is a function of the seed and of
            `State.step`.

    Raises:
        InputError: an argument, an objective or Φ is not what it must be; see `record` and `sweep`.
        NumericalError: an objective, a costate or the hypergradient is NaN or infinite; the message names the step, the
            variable, and the last norms that were finite.
        ReplayError: a recomputed inner step differs from the recorded one.

    Example:
        >>> import torch
        >>> from lds.hypergrad import hypergradient
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> result = hypergradient(*problem, updater=SGD(0.25), steps=2)  # w ← (w + c) / 2
        >>> result.params, result.grad
        (tensor(0.6250), tensor(0.9375))
    """
    if method is None:
        method = Reverse()
    check_method(method)
    problem = Problem(inner or no_inner, outer_objective, params, outer, updater, steps, seed, state, batches)
    return method.solve(problem)
