"""The contract of updaters, as one check to run on any of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import optree
import torch
from torch import Tensor

from lds.errors import ContractError, InputError, LDSError
from lds.updaters._adapter import as_updater
from lds.updaters._check_problem import Problem, example, half_used, quadratic
from lds.updaters._protocol import Objective, PyTree, State, Updater
from lds.updaters._unroll import as_leaves, clone, detach, run_step, unroll

# Change of the outer variables for a central difference, and rounding errors of the difference that are forgiven.
_CHANGE, _ROUNDING = 2e-6, 100
# Share of the tolerance within which two computations of the same derivative by autograd must agree.
_SAME = 1e-4


@torch.enable_grad()
def check_updater(
    updater: Updater,
    inner: Objective | None = None,
    outer_objective: Objective | None = None,
    params: PyTree = None,
    outer: PyTree = None,
    *,
    steps: int = 6,
    horizon: int = 3,
    tolerance: float = 1e-6,
) -> None:
    """Raise ContractError unless an updater is all that the engine takes it for.

    The clauses: `step` keeps the structure, shapes and dtypes of the state, in float32 and float64 (structure); it
    changes none of its arguments, and its result depends on them, the seed of the random numbers and nothing else, not
    on the grad mode either (purity); one graph through all steps gives the derivative that central differences
    give, with respect to each outer variable (derivative); the engine's hypergradient, whole and truncated, is that of
    such a graph (hypergradient); unused weights and a flat inner objective make nothing infinite or NaN (zeros).

    Args:
        updater: Φ, or an optimizer that `as_updater` takes.
        inner: inner objective of a problem of your own. Without one, the check has a small network with the outer
            variables "lr" = 0.05, "momentum" = 0.7, "betas" = (0.8, 0.9), "weight_decay" = 0.01 and "penalty".
        outer_objective: its outer objective, smooth as the inner one.
        params: its params, in float64.
        outer: its outer variables, tensors in float64.
        steps: number of steps of each run.
        horizon: depth of the truncated hypergradient.
        tolerance: relative error of the derivatives against central differences.

    Raises:
        ContractError: the updater breaks a clause; the message says which, and by how much.
        InputError: no updater, or an incomplete problem.
    """
    updater = as_updater(updater)
    problem = _problem(inner, outer_objective, params, outer)
    name = type(updater).__name__
    with _clause("structure", name):
        _check_structure(updater, problem)
    with _clause("purity", name):
        _check_purity(updater, problem)
    with _clause("derivative", name):
        _check_derivative(updater, problem, steps, tolerance)
    with _clause("hypergradient", name):
        _check_hypergradient(updater, problem, steps, horizon, tolerance * _SAME)
    with _clause("zeros", name):
        _check_zeros(updater, problem, steps)


@contextmanager
def _clause(clause: str, name: str) -> Iterator[None]:
    try:
        yield
    except LDSError as error:
        raise ContractError(f"{name} breaks the contract of updaters, clause {clause}: {error}") from error


def _problem(inner: Any, outer_objective: Any, params: PyTree, outer: PyTree) -> Problem:
    given = [inner is not None, outer_objective is not None, params is not None, outer is not None]
    if not any(given):
        return example()
    if not all(given):
        raise InputError(
            "check_updater needs all of inner, outer_objective, params and outer, or none; got only "
            + ", ".join(name for name, here in zip(Problem._fields, given, strict=True) if here)
        )
    for name, tree in (("params", params), ("outer", outer)):
        for path, x in _named(name, tree):
            if not isinstance(x, Tensor) or x.dtype != torch.float64:
                found = x.dtype if isinstance(x, Tensor) else type(x).__name__
                raise InputError(f"check_updater takes differences, so {path} must be in float64, got {found}")
    # The updater may turn out to write to what it is given.
    return Problem(inner, outer_objective, clone(params), clone(outer))


def _check_structure(updater: Updater, problem: Problem) -> None:
    for asked in (problem, quadratic(problem, torch.float32), quadratic(problem, torch.float64)):
        state: PyTree = State(asked.params, updater.init(asked.params))
        for _ in range(3):
            new: PyTree = run_step(updater, as_leaves(state), asked)
            needed, found = (optree.tree_structure(tree) for tree in (state, new))
            if found != needed:
                raise ContractError(f"step changed the structure of the state: needed {needed}, got {found}")
            for (path, x), y in zip(_named("state", new), optree.tree_leaves(state), strict=True):
                if _kind(x) != _kind(y):
                    raise ContractError(f"step changed {path}: needed {_kind(y)}, got {_kind(x)}")
            state = new


def _check_purity(updater: Updater, problem: Problem) -> None:
    params = clone(problem.params)
    state = State(params, updater.init(params))
    _compare("init changed its argument", ("params", params, problem.params))
    # Any step but the first: slots are no longer zeros.
    state = as_leaves(run_step(updater, as_leaves(state), problem))
    before, outer = clone(state), clone(problem.outer)
    first = detach(run_step(updater, state, problem))
    _compare("step changed its arguments", ("state", state, before), ("outer", problem.outer, outer))
    for path, x in (*_named("state.params", state.params), *_named("outer", problem.outer)):
        if x.grad is not None:
            raise ContractError(f"step wrote to {path}.grad; take inner gradients with lds.updaters.gradient")
    second = detach(run_step(updater, state, problem))
    _compare("step gave two results for the same arguments", ("state", second, first), rounding=_ROUNDING)
    with torch.no_grad():
        third = run_step(updater, state, problem)
    _compare("the result of step depends on the grad mode", ("state", third, first), rounding=_ROUNDING)


def _check_derivative(updater: Updater, problem: Problem, steps: int, tolerance: float) -> None:
    loss, grads, _ = unroll(updater, problem, steps)
    generator = torch.Generator().manual_seed(0)
    leaves, spec = optree.tree_flatten(problem.outer)
    for index, (path, x) in enumerate(_named("outer", problem.outer)):
        direction = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)

        def moved(change: float, index: int = index, direction: Tensor = direction) -> float:
            others = [*leaves[:index], leaves[index] + change * direction, *leaves[index + 1 :]]
            return unroll(updater, problem._replace(outer=optree.tree_unflatten(spec, others)), steps, depth=0)[0]

        # Two differences, extrapolated to no change at all: an error of fourth order.
        near, far = ((moved(change) - moved(-change)) / (2 * change) for change in (_CHANGE, 2 * _CHANGE))
        expected = (4 * near - far) / 3
        found = float((grads[index] * direction).sum())
        floor = _ROUNDING * torch.finfo(torch.float64).eps * abs(loss) / _CHANGE
        if not abs(found - expected) <= tolerance * max(abs(found), abs(expected)) + floor:
            raise ContractError(
                f"along a random direction of {path} the derivative is {expected:.6g} by central differences but "
                f"{found:.6g} by autograd (relative error {_ratio(found - expected, expected):.2g}); take inner "
                "gradients with lds.updaters.gradient (or create_graph=True), and use no .detach(), .item() or "
                "torch.no_grad()"
            )


def _check_hypergradient(updater: Updater, problem: Problem, steps: int, horizon: int, tolerance: float) -> None:
    # The engine imports this package.
    from lds.hypergrad import Reverse, hypergradient

    for depth in (steps, horizon):
        found = hypergradient(*problem, updater=updater, steps=steps, method=Reverse(horizon=depth))
        _, expected, params = unroll(updater, problem, steps, depth=depth)
        for what, ours, theirs in (
            ("the final params", found.params, optree.tree_leaves(params)),
            (f"the hypergradient at horizon {depth}", found.grad, expected),
        ):
            error = _relative_error(optree.tree_leaves(ours), theirs)
            if not error <= tolerance:
                raise ContractError(
                    f"{what} of the engine and of one graph through all steps differ (relative error {error:.2g}); "
                    "step must be a function of its arguments alone"
                )


def _check_zeros(updater: Updater, problem: Problem, steps: int) -> None:
    for what, scale in (("weights that the inner objective does not use", 1.0), ("zero inner gradients", 0.0)):
        _, grads, params = unroll(updater, half_used(problem, scale), steps)
        outer = optree.tree_unflatten(optree.tree_structure(problem.outer), grads)
        for path, x in (*_named("the final params", params), *_named("the hypergradient", outer)):
            bad = int((~torch.isfinite(x)).sum())
            if bad:
                raise ContractError(
                    f"{what} make {bad} of {x.numel()} entries of {path} NaN or infinite; write the step so that "
                    "its derivative is finite where a gradient is zero, such as √(v + ε²) in place of √v + ε"
                )


def _compare(complaint: str, *trees: tuple[str, PyTree, PyTree], rounding: float = 0) -> None:
    """Raise ContractError where two trees differ by more than so many rounding errors."""
    for name, found, expected in trees:
        for (path, x), y in zip(_named(name, found), optree.tree_leaves(expected), strict=True):
            if isinstance(x, Tensor):
                size = torch.finfo(x.dtype).eps if x.is_floating_point() else 0.0
                error = _relative_error([x.detach()], [y.detach()])
                if not error <= rounding * size:
                    raise ContractError(f"{complaint}: {path} differs (relative error {error:.2g})")
            elif x != y:
                raise ContractError(f"{complaint}: {path} differs, {x!r} is not {y!r}")


def _relative_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest error over all leaves, each relative to its leaf; a leaf of all zeros, to all leaves."""
    most = max((float(y.double().abs().max()) for y in expected if y.numel()), default=0.0)
    worst = 0.0
    for x, y in zip(found, expected, strict=True):
        if y.numel() and not torch.equal(x, y):
            error = _ratio(float((x.double() - y.double()).abs().max()), float(y.double().abs().max()) or most)
            worst = error if error != error else max(worst, error)
    return worst


def _ratio(error: float, size: float) -> float:
    return abs(error / size) if size else float("inf")


def _kind(x: Any) -> str:
    return f"{tuple(x.shape)} {x.dtype}" if isinstance(x, Tensor) else type(x).__name__


def _named(name: str, tree: PyTree) -> list[tuple[str, Any]]:
    accessors, leaves, _ = optree.tree_flatten_with_accessor(tree)
    return [(accessor.codify(name), leaf) for accessor, leaf in zip(accessors, leaves, strict=True)]
