"""The forward pass: a bilevel problem, and the recorder that runs its inner updater and keeps what the sweep needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from typing import Any, NamedTuple

import optree
import torch
from torch import Tensor, nn

from lds._keywords import explained
from lds._random import INIT, STEP, cuda_devices, forked, reseed
from lds._show import Shown
from lds._updater import InnerObjective, Objective, PyTree, State, Updater, WithBuffers, as_updater, gradient, trained
from lds.errors import InputError, NumericalError
from lds.hypergrad._batches import StepBatches, as_source
from lds.hypergrad._dynamics import Dynamics, checked, flattened, inside_objective
from lds.hypergrad._guards import check_count, check_losses, check_memory, check_unchanged
from lds.hypergrad._known_gradient import check_known_gradient
from lds.hypergrad._logs import ScalarLog, norm
from lds.hypergrad._module import BufferUpdater
from lds.hypergrad._outer import Outer, copied, is_differentiable
from lds.hypergrad._traced import Traced, check_traceable
from lds.hypergrad.memory import KeepGraphs, Memory, Tape
from lds.hypergrad.memory._tape import ResumableTape

# The largest chunk that glibc takes as a hint, less its own bookkeeping.
_HINT = 2**25 - 2**16


class Given(NamedTuple):
    """The leaves of params, the structure that they have, and the leaves of the outer variables and of the state."""

    params: list[Any]
    structure: optree.PyTreeSpec
    outer: list[Any]
    state: list[Any]


@dataclass(frozen=True, repr=False)
class Problem(Shown):
    """A bilevel problem and how far to run it: the arguments of `hypergradient` but the method.

    `attached` says that autograd goes through it, as for `unroll`, so that it may stand in an objective.

    Example:
        >>> import torch
        >>> from lds.hypergrad import Problem, Reverse
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> problem = Problem(*problem, updater=SGD(0.25), steps=2)
        >>> Reverse().solve(problem).grad
        tensor(0.9375)
    """

    inner: Callable[..., Tensor]
    outer_objective: Objective
    params: PyTree
    outer: PyTree
    updater: Updater
    steps: int
    seed: int = 0
    state: State | None = None
    batches: object = None
    attached: bool = False

    @cached_property
    def given(self) -> Given:
        """What it is given, flattened."""
        state: PyTree = self.state
        params, structure = optree.tree_flatten(self.params)
        return Given(params, structure, optree.tree_leaves(self.outer), optree.tree_leaves(state))

    @cached_property
    def cuda(self) -> frozenset[int]:
        """The CUDA devices whose generators are seeded."""
        return cuda_devices()

    def bind(self, begin: int = 0) -> tuple[Dynamics, list[Any]]:
        """Check the arguments; return Φ bound to the problem, and the leaves of the state before step `begin`.

        Runs inside `forked`.
        """
        if torch.is_inference_mode_enabled():
            raise InputError(
                "hypergradients need autograd, which torch.inference_mode() switches off for good; call outside of it "
                "(torch.no_grad() is no hindrance)"
            )
        params = self.given.params
        given = [x for x in (*params, *self.given.outer) if isinstance(x, Tensor)]
        if any(x.is_inference() for x in given):
            raise InputError(
                "hypergradients need autograd, but params or outer hold a tensor that was made under "
                "torch.inference_mode(); give a .clone() of it, made outside"
            )
        if not self.attached and inside_objective() and any(x.requires_grad for x in given):
            raise InputError(
                "a hypergradient inside of an objective is a constant to the hypergradient around it, but "
                "its params or outer require grad; take lds.hypergrad.unroll there and differentiate what it returns, "
                "or detach what it is given"
            )
        updater, outer = as_updater(self.updater), Outer(self.outer)
        _check_apart(self.params, params, outer)
        _check_coefficients(updater, outer)
        if isinstance(self.params, WithBuffers):
            if isinstance(updater, Traced):
                raise InputError(
                    "Traced runs the inner objective once, but with buffers in the params it renews them in every "
                    "step; leave Traced out, or the buffers"
                )
            updater = BufferUpdater(updater)
        # Φ may write to the state it is given; the caller's tensors are not its to write to.
        if self.state is None:
            _check_params(self.params, params)
            state = self._fresh(updater, self.given.structure.unflatten(copied(params)))
        else:
            state = self.state
            self._check_slots(updater, state)
        leaves, spec = flattened(state)
        made = len(params) if self.state is None else 0  # The others may be somebody else's.
        if len(leaves) > made:
            leaves[made:] = copied(leaves[made:])
        inner = no_inner if self.inner is no_inner else checked(self.inner, "inner objective")
        batches = None
        if self.batches is not None:
            batches = StepBatches(as_source(self.batches), self.seed, state.step + self.steps)
        dynamics = Dynamics(
            updater=updater,
            inner=inner,
            outer=outer,
            spec=spec,
            seed=self.seed,
            start=state.step - begin,
            cuda=self.cuda,
            batches=batches,
            fresh=self.state is None,
            attached=self.attached,
        )
        if isinstance(updater, Traced):
            check_traceable(dynamics, self.batches)
        elif hasattr(inner, "value_and_grad") and batches is None and not isinstance(self.params, WithBuffers):
            check_known_gradient(dynamics, begin, leaves)
        return dynamics, leaves

    def _fresh(self, updater: Updater, params: PyTree) -> State:
        """Return the state before the first step."""
        with torch.no_grad():
            reseed(self.seed, INIT, cuda=self.cuda)
            return State(params, updater.init(params))

    def _check_slots(self, updater: Updater, state: State) -> None:
        """Raise InputError unless a state to go on from has slots as this updater makes them."""
        if not isinstance(state, State):
            raise InputError(f"state must be the State that a trajectory ended in, got {type(state).__name__}")
        _check_params(state.params, optree.tree_leaves(state.params))
        fresh = self._fresh(updater, optree.tree_map(torch.Tensor.detach, state.params))
        needed, found = (optree.tree_structure(x.slots) for x in (fresh, state))
        if needed != found:
            raise InputError(
                f"state must be of the same updater, but {type(updater).__name__} needs slots {needed}, got {found}; "
                "go on with the updater that made it, or give State(state.params, updater.init(state.params))"
            )

    def record(
        self, horizon: int | None = None, memory: Memory | None = None, *, after: Trajectory | None = None
    ) -> Trajectory:
        """Run the inner problem, keeping the last `horizon` iterates; arguments and errors as for `record`."""
        check_count("steps", self.steps)
        if horizon is not None:
            check_count("horizon", horizon)
        check_memory(memory)
        problem, begin = self, 0
        if after is not None:
            if self.state is not None:
                raise InputError("state and after both say where to go on from; give one of them")
            problem, begin = replace(self, state=after.final_state), after.steps
        return _run(problem, begin, horizon, memory, after)


def _check_params(params: PyTree, leaves: list[Any]) -> None:
    """Raise InputError unless the params, a pytree with these leaves, are tensors that can be trained."""
    if isinstance(params, nn.Module):
        raise InputError(
            f"params must be a pytree of tensors, got the module {type(params).__name__}; write params, call = "
            "functional(module), and call(params, x) in the objectives"
        )
    if _buffers_lie_deeper(params, leaves):
        raise InputError(
            "params with buffers must be the whole of params, but lie deeper; make one module of all, such as an "
            "nn.ModuleDict, and call its parts by name, call.part(params, x)"
        )
    if not leaves:
        raise InputError("params must hold at least one floating-point tensor, got an empty pytree")
    for place, leaf in enumerate(leaves):
        if not is_differentiable(leaf):
            found = str(leaf.dtype) if isinstance(leaf, Tensor) else type(leaf).__name__
            advice = "convert it, or leave it out"
            if isinstance(leaf, Tensor):
                advice += "; where it is a buffer of a module, write params, call = functional(module, buffers=True)"
            elif isinstance(leaf, Iterator):
                advice = "for module.parameters(), write params, call = functional(module)"
            raise InputError(f"{_path(params, place)} must be a floating-point tensor, got {found}; {advice}")
        if type(leaf) is not Tensor and isinstance(leaf, nn.Parameter) and not leaf.requires_grad:
            raise InputError(
                f"all of params is trained, but {_path(params, place)} is a frozen Parameter (requires_grad=False); "
                "leave it out of params, as functional(module) does"
            )
    places = {id(leaf): place for place, leaf in enumerate(leaves)}
    for place, leaf in enumerate(leaves) if len(places) < len(leaves) else ():
        if (other := places[id(leaf)]) != place:
            raise InputError(
                f"every tensor of params is trained by itself, but {_path(params, place)} and {_path(params, other)} "
                "are the same one; give it once and use it twice in the objectives, or give a .clone()"
            )


def _buffers_lie_deeper(params: PyTree, leaves: list[Any]) -> bool:
    if isinstance(params, Tensor) or (type(params) is dict and len(params) == len(leaves)):
        return False
    deeper = optree.tree_leaves(params, is_leaf=lambda x: isinstance(x, WithBuffers) and x is not params)
    return any(isinstance(x, WithBuffers) for x in deeper)


def _path(params: PyTree, place: int) -> str:
    """Return what to call a leaf of the params."""
    return optree.tree_accessors(params)[place].codify("params")


def _check_apart(params: PyTree, leaves: list[Any], outer: Outer) -> None:
    """Raise InputError if a tensor is both a param and an outer variable."""
    places = {id(x): place for place, x in enumerate(leaves)}
    for variable in outer.steady:
        for theta in variable.derived.leaves:
            if (place := places.get(id(theta))) is not None:
                raise InputError(
                    f"params and outer must be apart, but {_path(params, place)} is {variable.name}; the "
                    "gradient in w_0 is `params_grad` of the result; where the objectives read θ too, give a .clone()"
                )


def _check_coefficients(updater: object, outer: Outer) -> None:
    """Raise InputError if a coefficient of the updater is a tensor that somebody seems to want the derivative in."""
    thetas = {id(x): v for v in outer.steady for x in v.derived.leaves}
    for owner, name, x in _coefficients(updater):
        if x.requires_grad or id(x) in thetas:
            what = thetas[id(x)].name if id(x) in thetas else "a tensor that requires grad"
            raise InputError(
                f"{name} of {owner} is {what}, but as a tensor it is a constant; pass a function such as lambda outer: "
                f"outer[{name!r}] to learn it, else {name}.detach().clone()"
            )


def _coefficients(updater: object) -> Iterator[tuple[str, str, Tensor]]:
    """Yield the tensors of an updater, of those within it, and of its schedules: whose it is, its name, and itself."""
    for name in getattr(updater, "__dataclass_fields__", ()):
        parts: list[Any] = [getattr(updater, name)]
        for part in parts:  # Which grows on the way.
            if isinstance(part, float | int):
                continue
            if isinstance(part, Tensor):
                yield type(updater).__name__, name, part
            elif isinstance(part, tuple | list):
                parts += part
            elif isinstance(part, Mapping):
                parts += part.values()
            elif hasattr(part, "__dataclass_fields__"):
                yield from _coefficients(part)


@dataclass(frozen=True)
class Segment:
    """The steps `first` ≤ t < `end` of a trajectory, which one call of `record` took.

    Attributes:
        first: the first step that the sweep reaches.
        end: the step after the last one.
        dynamics: Φ, bound to the problem as it was then.
        tape: what the memory policy kept.
    """

    first: int
    end: int
    dynamics: Dynamics
    tape: Tape


@dataclass(repr=False)
class Trajectory(Shown):
    """What `record` returns: what was kept of the last iterates of Φ, and all that is needed to run them again.

    Attributes:
        steps: number of steps T that were taken, those of earlier trajectories that it goes on from among them.
        horizon: number of steps that can be swept back over, at most T.
        final_state: the state after the last step; pass it as `state=` to the next `record` for a warm start.
        inner_losses: values of the inner objective that the last `max(horizon, 1)` steps of this recording computed,
            where they did.
        mean_loss: mean of the inner objective over all steps of this recording, those that were not kept among them;
            NaN where none computed it.
        begin: the step that this recording began with, 0 where it goes on from no earlier trajectory.
        dynamics: Φ, bound to the problem.
        segments: what was kept, in the order of the steps; empty if the horizon is 0.

    Example:
        >>> import torch
        >>> from lds.hypergrad import record
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> trajectory = record(problem[0], *problem[2:], updater=SGD(0.25), steps=2)
        >>> trajectory.final_state.params, trajectory.inner_losses
        (tensor(0.6250), [0.25, 0.0625])
    """

    steps: int
    horizon: int
    final_state: State
    inner_losses: list[float]
    mean_loss: float
    begin: int
    dynamics: Dynamics = field(repr=False)
    segments: tuple[Segment, ...] = field(repr=False)


@explained
def record(
    inner: InnerObjective | None,
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
    batches: object = None,
) -> Trajectory:
    r"""Run `steps` steps of the inner updater and keep the last `horizon` iterates.

    .. math:: w_{t+1} = \Phi(w_t, \theta), \quad t = 0, \dots, T-1

    Memory is O(horizon) or less, whatever `steps` is. Randomness inside Φ is a function of the seed and the step
    number; the caller's generators (torch, numpy, random) are left as they were, and no tensor of the caller is
    changed.

    Args:
        inner: inner objective, (params, outer) -> scalar tensor; with `batches`, (params, outer, batch); None where Φ
            asks for none.
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
        batches: minibatches, one per step: a sequence of them, `Batches`, or a `torch.utils.data.DataLoader` of a
            map-style dataset. That of a step is a function of the seed and of `State.step`, so a warm start goes on in
            the epoch.

    Raises:
        InputError: an argument is out of range, params are no floating-point tensors, the objective is no scalar, Φ
            returns another structure than it was given, or the earlier trajectory has another one, or is on disk.
        NumericalError: the inner objective is NaN or infinite in a step.

    Example:
        >>> import torch
        >>> from lds.hypergrad import record
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> trajectory = record(problem[0], *problem[2:], updater=SGD(0.25), steps=2)
        >>> trajectory.final_state.params, trajectory.inner_losses
        (tensor(0.6250), [0.25, 0.0625])
    """
    problem = Problem(inner or no_inner, no_objective, params, outer, updater, steps, seed, state, batches)
    return problem.record(horizon, memory, after=after)


def no_objective(params: PyTree, outer: PyTree) -> Tensor:
    """Stand for the outer objective: `record` needs none, and the sweep is given one."""
    raise AssertionError


def no_inner(params: PyTree, outer: PyTree) -> Tensor:
    """Stand for the inner objective where Φ is a map of its own."""
    raise InputError(
        "the updater, or the method, needs the inner objective, but inner is None; give an objective (params, outer) "
        'to a scalar, or an updater that asks for none (Implicit then needs solver="fixed_point")'
    )


def _run(
    problem: Problem, begin: int, horizon: int | None, memory: Memory | None, after: Trajectory | None
) -> Trajectory:
    """Take the steps from `begin` on, the last ones on the tape of a memory policy."""
    keep_freed_memory()
    with forked(problem.cuda):
        return _take(problem, begin, horizon, memory, after)


def _take(
    problem: Problem, begin: int, horizon: int | None, memory: Memory | None, after: Trajectory | None
) -> Trajectory:
    dynamics, leaves = problem.bind(begin)
    end = begin + problem.steps
    kept = problem.steps if horizon is None else min(horizon, problem.steps)
    first = end - kept
    segments: tuple[Segment, ...] = ()
    reach = kept
    if after is not None:
        earlier, segments = _within_reach(after, dynamics, None if horizon is None else horizon - kept)
        reach += earlier
    tape = (KeepGraphs() if memory is None else memory).tape(dynamics, leaves, first, end) if kept else None
    losses = ScalarLog(max(kept, 1))
    try:
        ahead = range(begin, end)
        if isinstance(tape, ResumableTape) and (resumed := tape.resume()) is not None:
            ahead, leaves = range(resumed.t, end), resumed.leaves
            for loss in resumed.losses:
                losses.append(torch.tensor(loss, dtype=torch.float64))
        with torch.no_grad():
            for t in ahead:
                step = dynamics.advance(t, leaves) if tape is None or t < first else tape.advance(t, leaves)
                leaves = step.leaves
                if step.loss is not None:
                    losses.append(step.loss)
        try:
            check_losses(losses, lambda: problem.bind(begin), begin, end)
        except NumericalError:
            if isinstance(tape, ResumableTape):
                tape.remove()  # A second call would go on from the files and never run the failing step again.
            raise
    except BaseException:
        close(tape)
        raise
    if tape is not None:
        segments = (*segments, Segment(first, end, dynamics, tape))
    noted, mean = losses.floats(), losses.mean()
    final = dynamics.spec.unflatten(leaves, dynamics.start + end)
    return Trajectory(end, reach, final, noted, mean, begin, dynamics, segments)


def close_all(trajectory: Trajectory) -> None:
    """Close the files of a trajectory after an error."""
    for segment in trajectory.segments:
        close(segment.tape)


def remove_all(trajectory: Trajectory) -> None:
    """Remove what a trajectory has on disk, once its sweep is at its end."""
    for segment in trajectory.segments:
        if isinstance(segment.tape, ResumableTape):
            segment.tape.remove()


def close(tape: Tape | None) -> None:
    """Close the file of a tape after an error, whose traceback may keep the tape alive."""
    if isinstance(tape, ResumableTape):
        tape.close()


def _within_reach(after: Trajectory, dynamics: Dynamics, horizon: int | None) -> tuple[int, tuple[Segment, ...]]:
    """Return how many of the last `horizon` steps of an earlier trajectory there are, and what was kept of them."""
    if after.dynamics.outer.spec != dynamics.outer.spec:
        raise InputError(
            "outer must have the same structure as in the trajectory to go on from, "
            f"{after.dynamics.outer.spec}, got {dynamics.outer.spec}"
        )
    reach = after.horizon if horizon is None else min(horizon, after.horizon)
    if reach and any(isinstance(segment.tape, ResumableTape) for segment in after.segments):
        raise InputError("a trajectory on disk cannot be continued; record it with another memory policy")
    first = after.steps - reach
    return reach, tuple(replace(s, first=max(s.first, first)) for s in after.segments if s.end > first)


@cache
def keep_freed_memory() -> None:
    """Make glibc keep up to 64 MiB of freed memory at hand; once a process, and without effect elsewhere.

    A step allocates a few MiB and frees them again. As long as a process has freed no large chunk, glibc hands them
    back to the system every time, and a tenth of a sweep goes into page faults. It learns from the largest chunk freed
    so far (mallopt(3), M_MMAP_THRESHOLD): this one is never touched, so it takes no memory itself.
    """
    torch.empty(_HINT, dtype=torch.uint8)


@dataclass(repr=False)
class Diagnostics(Shown):
    """What every method notices.

    Attributes:
        inner_losses: values of the inner objective at the last steps, where Φ evaluated it.

    Example:
        >>> import torch
        >>> from lds.hypergrad import hypergradient
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> result = hypergradient(*problem, updater=SGD(0.25), steps=2)
        >>> result.diagnostics.inner_losses
        [0.25, 0.0625]
    """

    inner_losses: list[float]
    _inner_gradient_norm: Callable[[], float] = field(repr=False)

    @cached_property
    def inner_gradient_norm(self) -> float:
        """‖∇_w L(w_T, θ)‖, zero at a stationary point; evaluated when first asked for. NaN without an inner objective.

        Until then w_T is kept for it, but no slots.

        Raises:
            InputError: an outer variable was changed in place since. One that draws cannot tell: ask before you change
                it, else this is the norm at its new value.
        """
        value = self._inner_gradient_norm()
        self._inner_gradient_norm = partial(float, value)
        return value


def later_gradient_norm(dynamics: Dynamics, state: State) -> Callable[[], float]:
    """Return `inner_gradient_norm` at a state as a function that keeps the params of it alone."""
    return partial(inner_gradient_norm, dynamics, State(state.params, (), state.step))


def inner_gradient_norm(dynamics: Dynamics, state: State) -> float:
    """Return ‖∇_w L‖ at a state, as the step after it would see L."""
    if dynamics.inner is no_inner:
        return math.nan
    check_unchanged(dynamics.outer, "inner_gradient_norm", "ask for it first")
    with forked(dynamics.cuda), torch.no_grad():
        outer = dynamics.outer.unflatten(dynamics.draws(state.step - dynamics.start))
        inner = dynamics.objective(state.step - dynamics.start)
        reseed(dynamics.seed, state.step, STEP, cuda=dynamics.cuda)
        grads = optree.tree_leaves(trained(gradient(inner, state.params, outer)))
    return float(norm(grads, like=torch.zeros((), dtype=torch.float64)))
