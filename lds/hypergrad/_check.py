"""A check of hypergradients against central differences, for the user's own objectives and updaters."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optree
import torch
from torch import Tensor

from lds._frames import frames_of_ours
from lds._keywords import explained
from lds._show import Shown, short
from lds._updater import InnerObjective, Objective, PyTree, Updater
from lds.errors import HypergradientCheckError, InputError, NumericalError, ReplayError, UnreachedWarning
from lds.hypergrad._attached import settled_by_differences
from lds.hypergrad._diagnostics import HypergradientResult, Method
from lds.hypergrad._finite_difference import WIDER, Probe, Prober, evaluate
from lds.hypergrad._forward import Forward
from lds.hypergrad._guards import check_objective
from lds.hypergrad._outer import Theta, is_differentiable, unit
from lds.hypergrad._record import Problem, Trajectory, no_inner
from lds.hypergrad._reverse import Reverse
from lds.hypergrad.memory import KeepStates

DETACHED = (
    "leave out .detach(), .item() and torch.no_grad(), correct the backward of your torch.autograd.Function, or see "
    "whether torch has a derivative wrong, as that of weight_norm (the list is in docs/troubleshooting.md)"
)
ATTACHED = f"take inner gradients with lds.updaters.gradient (or create_graph=True), and {DETACHED}"
SMOOTH = "look for rounding, sorting, thresholds and absolute values on the way, move θ, or take fewer steps"


@dataclass(frozen=True, repr=False)
class LeafCheck(Shown):
    """One tensor of θ: what was compared, entry by entry, and last, for a large one, along a random direction.

    Attributes:
        path: what it is called, such as outer['lr'].
        analytic: what the method gave.
        numeric: central differences.
        error: largest difference, relative to the largest of the numeric values.

    Example:
        >>> import torch
        >>> from lds.hypergrad import check_hypergradient
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> check = check_hypergradient(*problem, updater=SGD(0.25), steps=2)
        >>> [(leaf.path, leaf.error < 1e-6) for leaf in check.leaves]
        [('outer', True)]
    """

    path: str
    analytic: Tensor
    numeric: Tensor
    error: float


@dataclass(frozen=True, repr=False)
class HypergradientCheck(Shown):
    """What `check_hypergradient` returns: one entry for every tensor of θ.

    Example:
        >>> import torch
        >>> from lds.hypergrad import check_hypergradient
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> check = check_hypergradient(*problem, updater=SGD(0.25), steps=2)
        >>> [(leaf.path, leaf.error < 1e-6) for leaf in check.leaves]
        [('outer', True)]
    """

    leaves: tuple[LeafCheck, ...]

    @property
    def error(self) -> float:
        """The largest relative error."""
        return max((leaf.error for leaf in self.leaves), default=0.0)

    def _rows(self) -> list[tuple[str, str]]:
        return [("error", short(self.error)), *((leaf.path, f"error {leaf.error:.3g}") for leaf in self.leaves)]


@explained
def check_hypergradient(
    inner: InnerObjective | None,
    outer_objective: Objective,
    params: PyTree,
    outer: PyTree,
    *,
    updater: Updater,
    steps: int,
    method: Method[Any] | None = None,
    seed: int = 0,
    rtol: float = 1e-5,
    atol: float | None = None,
    max_entries: int = 10,
    batches: object = None,
) -> HypergradientCheck:
    r"""Check hypergradients against central differences in float64, as `torch.autograd.gradcheck` checks gradients.

    .. math:: \Big| \frac{dF}{d\theta} - \frac{F(\theta + h) - F(\theta - h)}{2h} \Big|
        \le \text{atol} + \text{rtol} \cdot \max \Big|\frac{\Delta F}{2h}\Big| + \epsilon

    with the maximum over the tensor of θ, and ε the difference to the quotient of a larger step. Before that, the inner
    problem is run twice with one seed, and replayed from its states. Choose a small problem and few steps: each entry
    takes four runs of the inner problem.

    Args:
        inner: inner objective L, (params, outer) -> scalar tensor; with `batches`, (params, outer, batch).
        outer_objective: F, (params, outer) -> scalar tensor.
        params: pytree of floating-point tensors w_0, converted to float64 here.
        outer: pytree of the outer variables θ, tensors or `Derived`; converted too.
        updater: Φ, see `lds.updaters.Updater`.
        steps: number of inner steps T.
        method: what to check; `Reverse()`, replaying every step, when None.
        seed: seed of the randomness inside Φ and inside F, and of the entries and the direction.
        rtol: relative tolerance.
        atol: absolute tolerance; None takes the rounding of F, divided by h, so that the check is as sharp whatever
            the units of F are.
        max_entries: tensors of θ with more entries are checked at so many of them, and along a random direction.
        batches: minibatches for the inner objective, see `hypergradient`; their tensors are converted too.

    Returns:
        What was compared.

    Raises:
        HypergradientCheckError: a hypergradient is not the derivative, F has none, a number is not finite, or the inner
            problem is not the same when it is run again. The message names the tensor of θ and the likely cause.
        UnreachedWarning: a tensor of θ has no effect at all; as a warning.
        InputError: the problem cannot be run in float64, or not at all; or an outer variable draws anew in every step.

    Example:
        >>> import torch
        >>> from lds.hypergrad import check_hypergradient
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> check = check_hypergradient(*problem, updater=SGD(0.25), steps=2)
        >>> [(leaf.path, leaf.error < 1e-6) for leaf in check.leaves]
        [('outer', True)]
    """
    given = Problem(inner or no_inner, outer_objective, params, outer, updater, steps, seed, batches=batches)
    theta = Theta(outer, "check_hypergradient")
    problem = replace(given, params=double(params), outer=theta.outer([x.double() for x in theta.tensors]))
    if batches is not None:
        problem = replace(problem, inner=lambda params, outer, batch: given.inner(params, outer, double(batch)))
    try:
        check_deterministic(problem, run_in_float64(given, problem))
    except NumericalError as error:
        raise HypergradientCheckError(str(error)) from error
    return _Check(problem, method, rtol, atol).run(max_entries)


class _Check:
    """A method against differences, on a problem in float64."""

    def __init__(self, problem: Problem, method: Method[Any] | None, rtol: float, atol: float | None) -> None:
        self._problem = problem
        self._method: Method[Any] = Reverse(memory=KeepStates()) if method is None else method
        self._name = f"{type(self._method).__name__}()"
        self._rtol, self._atol = rtol, atol
        self._theta = Theta(problem.outer, "check_hypergradient")

    def run(self, max_entries: int) -> HypergradientCheck:
        """Compare, tensor by tensor; raise for the worst of what differs."""
        if isinstance(self._method, Reverse) and self._method.noise == "replay":
            _solve(replace(self._method, memory=KeepStates(), check_replay=True), self._problem)
        grads = optree.tree_leaves(_solve(self._method, self._problem).grad)
        prober = Prober(self._problem, self._theta)
        leaves, failures = [], []
        for index, (path, tensor, grad) in enumerate(zip(self._theta.paths, self._theta.tensors, grads, strict=True)):
            compared = [
                _Compared(index, direction, label, float((grad * direction).sum()), prober(index, direction))
                for label, direction in _directions(path, tensor, max_entries, self._problem.seed)
            ]
            if self._problem.steps and compared and all(c.analytic == 0 and c.probe.flat for c in compared):
                warnings.warn(
                    f"{path} has no effect at all: {self._name} gives 0, and the outer objective stays the same to the "
                    "last bit when it changes; use the outer variables that the objectives are called with, not a copy "
                    "or a closure, or leave it out of outer",
                    UnreachedWarning,
                    stacklevel=frames_of_ours(),
                )
            scale = max((abs(c.probe.value) for c in compared), default=0.0)
            failures += [failure for c in compared if (failure := self._failure(c, scale)) is not None]
            analytic = torch.tensor([c.analytic for c in compared], dtype=torch.float64)
            numeric = torch.tensor([c.probe.value for c in compared], dtype=torch.float64)
            error = max((c.error(scale) for c in compared), default=0.0)
            leaves.append(LeafCheck(path, analytic, numeric, error))
        if failures:
            raise HypergradientCheckError(self._message(failures))
        return HypergradientCheck(tuple(leaves))

    def _wrong(self, c: _Compared, scale: float) -> bool:
        return c.probe.contradicts(c.analytic, rtol=self._rtol, atol=self._floor(c.probe), scale=scale)

    def _floor(self, probe: Probe) -> float:
        return probe.noise if self._atol is None else self._atol

    def _failure(self, c: _Compared, scale: float) -> _Failure | None:
        """Return what is wrong about one comparison."""
        probe = c.probe
        if not probe.finite:
            return _Failure(c, math.inf, f"the outer objective is not finite at a distance of {probe.size:.1g}")
        if not probe.steady and abs(c.analytic - probe.value) > self._floor(probe) + self._rtol * scale:
            return _Failure(
                c,
                c.error(scale),
                f"{self._name} gives {c.analytic:.6g}, central differences {probe.value:.6g} over ±{probe.size:.1g} "
                f"and {probe.wide:.6g} over ±{WIDER * probe.size:.1g}, so the outer objective jumps or has a kink near "
                f"by, or is too sensitive to tell; {SMOOTH}",
            )
        if probe.kink:
            return _Failure(
                c,
                c.error(scale),
                f"{self._name} gives {c.analytic:.6g}, but the slope of the outer objective is {probe.left:.6g} below "
                f"and {probe.right:.6g} above, so it is not differentiable here; {SMOOTH}",
            )
        if self._wrong(c, scale):
            error = c.error(scale)
            return _Failure(
                c,
                error,
                f"{self._name} gives {c.analytic:.6g}, central differences {probe.value:.6g} (relative error "
                f"{error:.2g})",
                unexplained=True,
            )
        return None

    def _message(self, failures: Sequence[_Failure]) -> str:
        worst = max(failures, key=lambda failure: failure.error)
        cause = f"; {self._cause(worst.compared)}" if worst.unexplained else ""
        path = self._theta.paths[worst.compared.index]
        others = sorted({self._theta.paths[f.compared.index] for f in failures} - {path})
        also = f"; wrong as well: {', '.join(others)}" if others else ""
        return f"{worst.compared.label}: {worst.text}{cause}{also}"

    def _cause(self, c: _Compared) -> str:
        """Say where to look, from the number of steps after which the hypergradient goes wrong."""
        method, steps = self._method, self._problem.steps
        if isinstance(method, Reverse) and not (method.horizon is None and method.tol is None):
            return "the sweep is truncated, so this is an approximation; check Reverse()"
        if not (isinstance(method, Forward) or (isinstance(method, Reverse) and method.noise == "replay")):
            return (
                f"{self._name} is exact under its premise only; see its warnings and its docstring, or check Reverse()"
            )
        path = self._theta.paths[c.index]
        updater = type(self._problem.updater).__name__
        vanished = f"nothing of {path} arrives, " if c.analytic == 0 else ""
        if steps == 0 or self._is_wrong_after(0, c):
            return f"{vanished}it is wrong before any step is taken, so look at the outer objective: {DETACHED}"
        if steps == 1 or self._is_wrong_after(1, c):
            return (
                f"{vanished}it is wrong from the first step on, so look at how the step of {updater} and the inner "
                f"objective use {path}: {ATTACHED}"
            )
        return (
            f"{vanished}it is right after one step but not after {steps}, so look at how the step of {updater} and the "
            f"inner objective use the state: {ATTACHED}"
        )

    def _is_wrong_after(self, steps: int, c: _Compared) -> bool:
        problem = replace(self._problem, steps=steps)
        try:
            with settled_by_differences():
                grads = optree.tree_leaves(self._method.solve(problem).grad)
        except (InputError, NumericalError, ReplayError):
            return True
        probe = Prober(problem, self._theta)(c.index, c.direction)
        again = replace(c, analytic=float((grads[c.index] * c.direction).sum()), probe=probe)
        return self._wrong(again, abs(probe.value))


@dataclass(frozen=True)
class _Compared:
    """The derivative along one direction in one tensor of θ, twice."""

    index: int
    direction: Tensor
    label: str
    analytic: float
    probe: Probe

    def error(self, scale: float) -> float:
        """Return the difference relative to a scale."""
        difference = abs(self.analytic - self.probe.value)
        return difference / scale if scale else (math.inf if difference else 0.0)


@dataclass(frozen=True)
class _Failure:
    """What is wrong with one comparison."""

    compared: _Compared
    error: float
    text: str
    unexplained: bool = False


def _directions(path: str, tensor: Tensor, max_entries: int, seed: int) -> list[tuple[str, Tensor]]:
    """Return the entries of a small tensor; of a large one some of them, and a random direction."""
    generator = torch.Generator().manual_seed(seed)
    chosen, count = list(range(tensor.numel())), tensor.numel()
    if count > max_entries:
        chosen = sorted(torch.randperm(count, generator=generator)[:max_entries].tolist())
    found = []
    for i in chosen:
        place = [int(x) for x in torch.unravel_index(torch.tensor(i), tensor.shape)] if tensor.ndim else ""
        found.append((f"{path}{place}", unit(tensor, i)))
    if count > max_entries:
        direction = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)
        found.append((f"{path} along a random direction", direction / direction.norm()))
    return found


def _solve(method: Method[Any], problem: Problem) -> HypergradientResult[Any]:
    """Solve; what a method refuses of a problem that runs is a finding."""
    try:
        with settled_by_differences():
            return method.solve(problem)
    except (InputError, NumericalError, ReplayError) as error:
        raise HypergradientCheckError(str(error)) from error


def double(params: PyTree) -> PyTree:
    """Return the params, or a batch, in float64."""
    return optree.tree_map(lambda x: x.detach().double() if is_differentiable(x) and not x.is_complex() else x, params)


def run_in_float64(given: Problem, problem: Problem) -> tuple[Trajectory, float]:
    """Run the problem in float64; raise InputError where the objectives or Φ can run, but not in float64."""
    needed = (
        "check_hypergradient needs objectives and an updater that compute in the dtype of their arguments, float64 here"
    )
    advice = "convert the data that they close over, with .double() or .to(params.dtype), before you check"
    dtypes: dict[str, torch.dtype] = {}

    def noted(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(params: PyTree, outer: PyTree, *batch: Any) -> Tensor:
            value = function(params, outer, *batch)
            dtypes[name] = value.dtype if isinstance(value, Tensor) else torch.float64
            return value

        if hasattr(function, "value_and_grad"):
            call.value_and_grad = function.value_and_grad  # type: ignore[attr-defined]
        return call

    inner, outer_objective = noted("inner", problem.inner), noted("outer", problem.outer_objective)
    try:
        run = evaluate(replace(problem, inner=inner, outer_objective=outer_objective))
    except (RuntimeError, TypeError, InputError) as error:
        evaluate(given)
        raise InputError(f"{needed}, but: {str(error).splitlines()[0]}; {advice}") from error
    for name, dtype in dtypes.items():
        if dtype != torch.float64:
            raise InputError(f"{needed}, but the {name} objective returns {dtype}; {advice}")
    return run


def check_deterministic(problem: Problem, first: tuple[Trajectory, float]) -> None:
    """Raise HypergradientCheckError where another run with the same seed ends elsewhere.

    Raises:
        NumericalError: an objective is NaN or infinite.
    """
    second = evaluate(problem)
    spec, final = first[0].dynamics.spec, first[0].final_state
    check_objective(first[1], final.step, spec.paths, spec.flatten(final), first[0].dynamics.outer)
    states = [spec.flatten(trajectory.final_state) for trajectory, _ in (first, second)]
    differing = [
        path
        for path, x, y in zip(spec.paths, *states, strict=True)
        if not (torch.allclose(x, y, rtol=0.0, atol=0.0, equal_nan=True) if isinstance(x, Tensor) else x == y)
    ]
    if first[1] != second[1]:
        differing.append("the outer objective")
    if differing:
        raise HypergradientCheckError(
            f"two runs with one seed must end in the same bits, but differ in {differing[0]}: Φ or an objective reads "
            "something besides its arguments and the torch, numpy and random generators, such as an iterator that "
            "moved on; make it a function of its arguments"
        )
