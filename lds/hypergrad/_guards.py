"""Guards: what must hold of arguments, numbers and steps, and what to say where it does not.

They stand beside the algorithm: the recorder and the methods ask the functions, and the sweep calls the watchers with
what it has at every step. As long as all is well, hardly any number is read: norms and losses stay on their device
until the end. If one of them is not finite, the steps are run again and every number is checked, so that the error can
say where it began.
"""

from __future__ import annotations

import cmath
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import Any, Literal, TypeAlias

import optree
import torch
from torch import Tensor

from lds._random import forked
from lds._updater import State
from lds.errors import InputError, NumericalError, ReplayError
from lds.hypergrad._dynamics import Costate, Dynamics, Increments, StateSpec, Step, StepGraph
from lds.hypergrad._logs import NormLog, ScalarLog, TotalLog
from lds.hypergrad._outer import Accumulators, Outer, copied, is_differentiable
from lds.hypergrad._suspects import unrepeatable

Noise: TypeAlias = Literal["replay", "resample"]

# Costates this many times as large as the first ones count as exploding. In single precision (1.2e-7), what the last
# steps add to the hypergradient then keeps about one digit.
EXPLOSION = 1e6
# A recomputed step may differ from the recorded one by rounding (kernels that add in any order), not by more.
REPLAY_TOLERANCE = 100
# Types of a range that sums do not leave by themselves, and a number far from its end.
_WIDE, _FAR = (torch.float32, torch.float64), 1e30
# How many of the last finite values a message lists.
_SHOWN = 3


def check_count(name: str, value: object, *, least: int = 0) -> None:
    """Raise InputError unless the value is an integer ≥ `least`, which may be one of numpy."""
    if isinstance(value, bool) or not hasattr(type(value), "__index__") or operator.index(value) < least:  # type: ignore[arg-type]
        raise InputError(f"{name} must be an integer >= {least}, got {value!r}")


def check_noise(noise: object) -> None:
    """Raise InputError unless the value is one of `Noise`."""
    if noise not in ("replay", "resample"):
        raise InputError(f'noise must be "replay" or "resample", got {noise!r}')


def check_memory(memory: object) -> None:
    """Raise InputError unless the value is a memory policy, or None."""
    if memory is not None:
        _check_has("memory", memory, "tape", "a memory policy such as Checkpoint()")


def check_method(method: object) -> None:
    """Raise InputError unless the value is a method of differentiation."""
    _check_has("method", method, "solve", "a method such as Reverse(horizon=20)")


def _check_has(name: str, value: object, method: str, needed: str) -> None:
    if isinstance(value, type):
        raise InputError(f"{name} must be {needed}, got the class {value.__name__}; make an object of it")
    if not callable(getattr(value, method, None)):
        raise InputError(f"{name} must be {needed}, with a method `{method}`, got {value!r}")


def explosion(norms: Sequence[float]) -> int | None:
    """Return the first depth at which a costate norm is more than `EXPLOSION` times the first, None if there is none.

    Args:
        norms: ‖P_{T−k}‖ on the params at the depths k = 0, 1, …: slots have units of their own, and one that is nearly
            zero, such as Adam's v of a weight that is hardly used, has a large costate without any explosion.
    """
    first = norms[0] if norms else 0.0
    return next((k for k, p in enumerate(norms) if not p <= EXPLOSION * first), None) if first > 0 else None


def faults(paths: Sequence[str], parts: Sequence[Any]) -> list[str]:
    """Return what is wrong with each of the parts, pytrees of tensors, that holds NaN or infinity, by its path."""
    found = []
    for path, part in zip(paths, parts, strict=True):
        tensors = [x for x in optree.tree_leaves(part) if is_differentiable(x)]
        if any(bool(x.isnan().any()) for x in tensors):
            found.append(f"{path} holds NaN")
        elif not all(bool(x.isfinite().all()) for x in tensors):
            found.append(f"{path} holds infinity")
    return found


def all_finite(tree: Any) -> bool:
    """Tell whether all tensors of a pytree are finite, by one number that is read."""
    leaves = [tree] if isinstance(tree, Tensor) else optree.tree_leaves(tree)
    with torch.no_grad():
        tensors = [x for x in leaves if is_differentiable(x) and x.numel()]
        # A sum is fast, but may be infinite where no number is; the largest magnitude is not.
        return (
            not tensors
            or _finite_sum([x.sum() if x.ndim else x for x in tensors])
            or _finite_sum(list(torch._foreach_norm(tensors, math.inf)))
        )


def _finite_sum(numbers: list[Tensor]) -> bool:
    if len({(x.dtype, x.device) for x in numbers}) > 1:
        device = numbers[0].device
        numbers = [x.to(device, torch.promote_types(x.dtype, torch.float64)) for x in numbers]
    return cmath.isfinite(reduce(operator.add, numbers).item())


def check_grad(outer: Outer, grad: Any, steps: int, bound: float | None = None) -> None:
    """Raise NumericalError unless all tensors of a hypergradient, a pytree like `outer`, are finite.

    What is no tensor in it, such as the factor pairs of a structure, is left to its own checks.

    Args:
        outer: the outer variables.
        grad: the hypergradient.
        steps: number of steps that it goes back over.
        bound: a number that the norm of the sum of what F and each step added does not exceed, where it is known.
    """
    # A sum of finite numbers is finite where the sum of their sizes is far from the largest number; what is derived is
    # multiplied once more.
    plain = all(v.is_tensor and v.derived.leaves[0].dtype in _WIDE for v in outer.steady)
    if plain and bound is not None and bound < _FAR:
        return
    if not all_finite(grad):
        check_theta(outer)
        found = faults(outer.paths, outer.spec.flatten_up_to(grad))
        raise NumericalError(
            f"the hypergradient must be finite, but {'; '.join(f'that of {fault}' for fault in found)} after {steps} "
            "steps; look for an infinite derivative, such as that of sqrt, norm or log at 0, or take fewer or smaller "
            "steps"
        )


def check_theta(outer: Outer) -> None:
    """Raise InputError if an outer variable is not finite: asked where something else is not."""
    parts = [(variable.name, variable.derived.leaves) for variable in outer.steady]
    if found := faults([name for name, _ in parts], [leaves for _, leaves in parts]):
        raise InputError(
            f"outer must be finite, but {', '.join(found)}; look at the last step of the outer optimizer, or at where "
            "it came from"
        )


def check_objective(value: float, step: int, paths: Sequence[str], leaves: Sequence[Any], outer: Outer) -> None:
    """Raise NumericalError unless the outer objective at the state (paths, leaves) is finite."""
    if not math.isfinite(value):
        check_theta(outer)
        found = faults(paths, leaves) or ["the state is finite"]
        raise NumericalError(
            f"the outer objective must be finite, but is {value} after step {step}, where {', '.join(found)}; lower "
            "the inner learning rate, or look at the outer objective and its data"
        )


def check_losses(losses: ScalarLog, bind: Callable[[], tuple[Dynamics, list[Any]]], begin: int, end: int) -> None:
    """Raise NumericalError if the inner objective was not finite at a step, by running the steps again.

    Args:
        losses: what was noted.
        bind: returns Φ and the state before step `begin`.
        begin: the first step.
        end: the step after the last one.
    """
    if not losses.suspicious():
        return
    dynamics, leaves = bind()
    check_theta(dynamics.outer)
    seen: list[tuple[int, float]] = []
    with forked(dynamics.cuda):
        for t in range(begin, end):
            before, (leaves, _, value) = leaves, dynamics.advance(t, leaves)
            if value is not None and not bool(value.isfinite()):
                found = faults(dynamics.spec.paths, before)
                state = f"where {', '.join(found)}" if found else "where the state is finite"
                raise NumericalError(
                    f"the inner objective must be finite, but is {value.item()} at step {dynamics.start + t}, {state} "
                    f"(last finite values: {last_finite(seen)}); lower the inner learning rate, or look at the inner "
                    "objective and its data"
                )
            if value is not None:
                seen = [*seen[1 - _SHOWN :], (dynamics.start + t, value.item())]
    for kept in losses.floats():
        if not math.isfinite(kept):
            raise NumericalError(
                f"the inner objective must be finite, but was {kept} in one of the last {len(losses)} steps, and not "
                "where these were run again; make it a function of its arguments"
            )


def last_finite(values: Iterable[tuple[int, float]]) -> str:
    """Return the last finite ones of (step, value) in words."""
    shown = [(t, x) for t, x in values if math.isfinite(x)][-_SHOWN:]
    listed = ", ".join(f"{x:.3g}" for _, x in shown)
    return f"{listed} at {', '.join(str(t) for t, _ in shown)}" if shown else "none"


def check_unchanged(outer: Outer, now: str = "the sweep", advice: str = "sweep first") -> None:
    """Raise InputError if an outer variable was changed in place since the trajectory was recorded."""
    for variable in outer.steady:
        if variable.versions != [x._version for x in variable.derived.leaves]:
            raise InputError(
                f"{variable.name} was changed in place between the recording and {now}, but both must see the same "
                f"value; {advice}, or update a copy"
            )


class Watcher:
    """Looks on while the sweep runs, and raises where something is wrong; derive from it and override what you need."""

    def start(self, dynamics: Dynamics, final: State, graph: StepGraph) -> None:
        """Look at F before it is pulled back.

        Args:
            dynamics: Φ, as it was bound last.
            final: the final state.
            graph: F and its graph.
        """

    def before(self, t: int, dynamics: Dynamics, step: Step, graph: StepGraph, costate: Costate) -> None:
        """Look at step t before it is pulled back.

        Args:
            t: the step.
            dynamics: Φ, as it was bound when the step was recorded.
            step: what was recorded; its graph, if it was kept, is `graph`.
            graph: the step's graph.
            costate: P_{t+1}, None standing for zero.
        """

    def after(self, t: int, costate: Costate, increments: Increments) -> None:
        """Look at what came of it.

        Args:
            t: the step; T for F.
            costate: P_t; all None where it was not asked for.
            increments: P_{t+1} ∂Φ/∂θ, the cotangents of each outer variable's tracer; empty where P_{t+1} is zero, for
                then the step is left out.
        """

    def begin(self, t: int, costate: Costate, sums: Accumulators) -> tuple[int, Costate]:
        """Return where the sweep begins, (t, P_t), once F is pulled back: a sweep that was cut off goes on later."""
        return t, costate


NOBODY = Watcher()


class Watchers(Watcher):
    """Several watchers as one, in the order in which they look."""

    def __init__(self, *watchers: Watcher) -> None:
        self._watchers = watchers
        self._start = [w.start for w in watchers if type(w).start is not Watcher.start]
        # Only those that look: on a small problem a call counts.
        self._before = [w.before for w in watchers if type(w).before is not Watcher.before]
        self._after = [w.after for w in watchers if type(w).after is not Watcher.after]

    def start(self, dynamics: Dynamics, final: State, graph: StepGraph) -> None:
        """Have all look at F."""
        for look in self._start:
            look(dynamics, final, graph)

    def before(self, t: int, dynamics: Dynamics, step: Step, graph: StepGraph, costate: Costate) -> None:
        """Have all look at step t before it is pulled back."""
        for look in self._before:
            look(t, dynamics, step, graph, costate)

    def after(self, t: int, costate: Costate, increments: Increments) -> None:
        """Have all look at what came of it."""
        for look in self._after:
            look(t, costate, increments)

    def begin(self, t: int, costate: Costate, sums: Accumulators) -> tuple[int, Costate]:
        """Return where the last of them has the sweep begin."""
        for watcher in self._watchers:
            t, costate = watcher.begin(t, costate, sums)
        return t, costate


class Unchanged(Watcher):
    """Checks that the outer variables still have the values that the steps were recorded with."""

    def before(self, t: int, dynamics: Dynamics, step: Step, graph: StepGraph, costate: Costate) -> None:
        """Raise InputError if one was changed in place."""
        check_unchanged(dynamics.outer)


class Replay(Watcher):
    """Checks that a step that is run again gives the state that was recorded.

    Args:
        compare: whether to look at all.

    Attributes:
        error: the largest relative difference; None if no step was compared.
        recorded: the recorded state that the next step must reach when it is run again.
    """

    def __init__(self, *, compare: bool) -> None:
        self._compare = compare
        self.error: float | None = None
        self.recorded: Sequence[Any] = ()

    def start(self, dynamics: Dynamics, final: State, graph: StepGraph) -> None:
        """Note the final state."""
        self.recorded = leaves_of(final)

    def before(self, t: int, dynamics: Dynamics, step: Step, graph: StepGraph, costate: Costate) -> None:
        """Raise ReplayError if a leaf of the result differs from the recorded one by more than rounding."""
        if self._compare and step.graph is None:
            self.error = max(self.error or 0.0, step_error(dynamics, t, step, graph.results, self.recorded))
        self.recorded = step.leaves


def leaves_of(state: State) -> list[Any]:
    """Return the leaves of a state."""
    tree: Any = (state.params, state.slots)
    return optree.tree_leaves(tree)


def step_error(dynamics: Dynamics, t: int, step: Step, results: Sequence[Any], recorded: Sequence[Any]) -> float:
    """Return how much the result of step t, computed again with a graph, differs from the recorded one.

    Raises:
        ReplayError: it differs by more than rounding.
    """
    try:
        return replay_error(dynamics, t, results, recorded)
    except ReplayError:
        if not _repeats(dynamics, t, step, recorded):
            raise
        return _error_of_formula(t, results, recorded)


def replay_error(dynamics: Dynamics, t: int, results: Sequence[Any], recorded: Sequence[Any]) -> float:
    """Return the largest relative difference between the leaves of step t's result, computed again and recorded.

    Raises:
        ReplayError: a leaf differs by more than rounding.
    """
    if _all_equal_on_device(results, recorded):
        return 0.0
    largest = 0.0
    for path, new, old in zip(dynamics.spec.paths, results, recorded, strict=True):
        if not isinstance(new, Tensor):
            error = 0.0 if new == old else float("inf")
        elif torch.equal(new, old):
            continue
        else:
            error = _relative_error(new.detach(), old)
        largest = max(largest, error)
        eps = torch.finfo(new.dtype).eps if is_differentiable(new) else 0.0
        if error > REPLAY_TOLERANCE * eps:
            raise ReplayError(
                f"replaying step {t} gave another {path} than was recorded (relative difference {error:.2g}): "
                f"{unrepeatable(dynamics.updater, dynamics.inner)}"
            )
    return largest


def _all_equal_on_device(results: Sequence[Any], recorded: Sequence[Any]) -> bool:
    """Tell whether all leaves are tensors of one device, not the CPU, and equal; by one number that is read.

    `torch.equal` makes the host wait for the device once a leaf. On the CPU it is faster than this.
    """
    devices = {x.device if isinstance(x, Tensor) else None for x in (*results, *recorded)}
    if len(devices) != 1 or not devices.isdisjoint({None, torch.device("cpu")}):
        return False
    return equal_by_one_reading(results, recorded)


def equal_by_one_reading(ones: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Tell whether tensors of one device are equal in pairs, by one number that is read."""
    pairs = list(zip(ones, others, strict=True))
    if any((x.shape, x.dtype, x.layout) != (y.shape, y.dtype, y.layout) for x, y in pairs):
        return False
    if any(x.layout != torch.strided for x, _ in pairs):
        return all(map(torch.equal, ones, others))
    return not pairs or bool(torch.stack([(x == y).all() for x, y in pairs]).all())


def _repeats(dynamics: Dynamics, t: int, step: Step, recorded: Sequence[Any]) -> bool:
    """Tell whether a step that is run again as it was recorded, without a graph or with one, gives the same bits."""

    def without() -> Sequence[Any]:
        return dynamics.advance(t, copied(step.leaves), step.draws).leaves

    def graph() -> Sequence[Any]:
        return dynamics.linearise(t, step.leaves, step.draws).results

    # Twice: something that differs every second time would pass once.
    return any(all(all(map(_same, run(), recorded)) for _ in range(2)) for run in (without, graph))


def _error_of_formula(t: int, results: Sequence[Any], recorded: Sequence[Any]) -> float:
    """Return how much a graph changes the result of a step that repeats without one.

    Of some operations, such as group_norm, torch computes a gradient by another formula where that is differentiated
    again. If the gradient is zero but for rounding, as that of a bias in front of a norm, so are the slots that average
    it, and they differ as much as they are large. So the difference is relative to the largest number of the state.

    Raises:
        ReplayError: that is more than rounding.
    """
    pairs = [(x, y.detach()) for x, y in zip(recorded, results, strict=True) if is_differentiable(x) and x.numel()]
    size = max((float(x.abs().max()) for x, _ in pairs), default=0.0)
    error = max((float((y - x).abs().max()) for x, y in pairs), default=0.0) / (size or 1.0)
    if not error <= max((math.sqrt(torch.finfo(x.dtype).eps) for x, _ in pairs), default=0.0):
        raise ReplayError(
            f"step {t} must give the same state with a graph as without one, but differs by {error:.2g} of its size: Φ "
            "looks at the grad mode, or magnifies rounding, as adaptive rates with a small eps do where a gradient is "
            "zero but for rounding, such as that of a bias in front of a norm; raise eps, or leave that bias out"
        )
    return error


def _same(x: Any, y: Any) -> bool:
    return torch.equal(x, y) if isinstance(x, Tensor) else x == y


def _relative_error(new: Tensor, old: Tensor) -> float:
    if not is_differentiable(new):
        return float("inf")
    both_nan = new.isnan() & old.isnan()
    difference = torch.where(both_nan | (new == old), 0.0, (new - old).abs())
    error = float(difference.max() / old.abs().nan_to_num().max().clamp(min=torch.finfo(old.dtype).tiny))
    return float("inf") if error != error else error


class Notes(Watcher):
    """What a sweep notices: the outer loss, norms of costates, and norms of what each step adds to G.

    Args:
        steps: number of steps of the sweep, at most.
        spec: the structure of the state.
        to_start: whether the costate of w_0 is asked for.
    """

    def __init__(self, steps: int, spec: StateSpec, *, to_start: bool = True) -> None:
        self._spec = spec
        self._to_start = to_start
        self.loss: Tensor | None = None
        self.costates = NormLog(steps + 1, len(spec.differentiable))
        self.increments = TotalLog(steps + 1)

    def start(self, dynamics: Dynamics, final: State, graph: StepGraph) -> None:
        """Note the outer loss."""
        self.loss = graph.results[0].detach()

    def after(self, t: int, costate: Costate, increments: Increments) -> None:
        """Note the norms."""
        assert self.loss is not None
        flat = [c for cotangents in increments for c in cotangents]
        if t > 0 or self._to_start or not len(self.increments):
            self.costates.append(costate, like=self.loss)
        self.increments.append(flat, like=self.loss)

    @property
    def outer_loss(self) -> float:
        """F(w_T, θ)."""
        assert self.loss is not None
        return self.loss.item()

    @property
    def param_norms(self) -> list[float]:
        """‖P_t‖ on the params."""
        return self.costates.totals(self._spec.num_params)

    def is_finite(self) -> bool:
        """Tell whether all numbers are finite."""
        costates, increments = self.costates.unread(), self.increments.unread()
        if costates is not None and increments is not None:  # Of a few small steps; their norms may never be asked for.
            return all_finite([costates, increments, self.loss])
        return all(map(math.isfinite, [*self.costates.totals(), *self.increments.floats(), self.outer_loss]))


class Finite(Watcher):
    """Checks that the outer loss, the costates and what is added to G are finite, number by number.

    Args:
        notes: the norms so far, noted by a watcher that is called before this one.
        dynamics: Φ.
        final: the final state.
    """

    def __init__(self, notes: Notes, dynamics: Dynamics, final: State) -> None:
        self._notes, self._dynamics, self._final = notes, dynamics, final
        self._end = final.step - dynamics.start

    def after(self, t: int, costate: Costate, increments: Increments) -> None:
        """Raise NumericalError if one of them is NaN or infinite."""
        spec, outer = self._dynamics.spec, self._dynamics.outer
        if t == self._end:
            check_objective(self._notes.outer_loss, self._final.step, spec.paths, spec.flatten(self._final), outer)
        # P_0 on the slots is left out: they start at zero, where Adam's root has no finite derivative, and nothing uses
        # it.
        end = spec.num_params if t == 0 else len(spec.differentiable)
        if all_finite([costate[:end], increments]):
            return
        named = (
            ("costate", spec.paths[:end], costate[:end]),
            ("hypergradient", outer.paths if increments else (), increments),
        )
        for name, paths, parts in named:
            if found := faults(paths, parts):
                self._raise(t, name, found)

    def _raise(self, t: int, name: str, found: Sequence[str]) -> None:
        shown = last_finite([(self._end - k, p) for k, p in enumerate(self._notes.costates.totals())])
        begins = explosion([p for p in self._notes.param_norms if math.isfinite(p)])
        cause = "the step may have an infinite derivative there, such as that of sqrt, norm or log at 0"
        if begins is not None:
            cause = (
                f"costates explode from depth {begins} on, where they exceed {EXPLOSION:.0e} times the first: "
                f"take a horizon below {begins}, or a lower inner learning rate"
            )
        raise NumericalError(
            f"the {name} must be finite, but {', '.join(f'that of {fault}' for fault in found)} at step {t}, depth "
            f"{self._end - t} of the sweep (last finite costate norms: {shown}); {cause}"
        )
