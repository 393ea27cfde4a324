"""The contract of updaters, as one check to run on any of them; above the engine, which must agree with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import optree
import torch
from torch import Tensor

from lds._random import INIT, OUTER_STEP, STEP, cuda_devices, forked, reseed
from lds._updater import Objective, PyTree, State, Updater, as_updater
from lds.errors import ContractError, InputError, LDSError
from lds.hypergrad import Problem, Reverse
from lds.hypergrad._attached import settled_by_differences
from lds.hypergrad._finite_difference import slope
from lds.hypergrad._outer import Theta

TWO_RESULTS = "step gave two results for the same arguments"
# Rounding errors that two computations of the same value may differ by.
_ROUNDING = 100
_CHANGE = 2e-6
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
            variables "lr" = 0.05, "momentum" = 0.7, "betas" = (0.8, 0.9), "weight_decay" = 0.01 and "penalty"; where
            `init` refuses its params, one whose params are matrices.
        outer_objective: its outer objective, smooth as the inner one.
        params: its params, in float64.
        outer: its outer variables, tensors in float64.
        steps: number of steps of each run.
        horizon: depth of the truncated hypergradient.
        tolerance: relative error of the derivatives against central differences.

    Raises:
        ContractError: the updater breaks a clause; the message says which, and by how much.
        InputError: no updater, or an incomplete problem.

    Example:
        >>> from lds.updaters import SGD, check_updater
        >>> check_updater(SGD(0.1, momentum=0.9))
    """
    problem = _problem(as_updater(updater), steps, inner, outer_objective, params, outer)
    name = type(problem.updater).__name__
    with _clause("structure", name):
        # Before any other: what an updater keeps to itself shows in its very first step.
        first, again = (_first_step(problem) for _ in range(2))
    with _clause("purity", name):
        trees: list[PyTree] = [first, again]
        if optree.tree_structure(trees[0]) == optree.tree_structure(trees[1]):
            _compare(TWO_RESULTS, ("state", again, first), rounding=_ROUNDING)
    with _clause("structure", name):
        _check_structure(problem)
    with _clause("purity", name):
        _check_purity(problem)
    with _clause("derivative", name):
        _check_derivative(problem, tolerance)
    with _clause("hypergradient", name):
        _check_hypergradient(problem, horizon, tolerance * _SAME)
    with _clause("zeros", name):
        _check_zeros(problem)


@contextmanager
def _clause(clause: str, name: str) -> Iterator[None]:
    try:
        yield
    except LDSError as error:
        raise ContractError(f"{name} breaks the contract of updaters, clause {clause}: {error}") from error


def _problem(updater: Updater, steps: int, inner: Any, outer_objective: Any, params: PyTree, outer: PyTree) -> Problem:
    given = {"inner": inner, "outer_objective": outer_objective, "params": params, "outer": outer}
    here = [name for name, value in given.items() if value is not None]
    if not here:
        problem = example(updater, steps)
        try:
            updater.init(clone(problem.params))
        except InputError:  # Such as that of Muon, which takes matrices alone.
            return replace(problem, **matrices(problem))
        return problem
    if len(here) < len(given):
        raise InputError(
            "check_updater needs all of inner, outer_objective, params and outer, or none; got only " + ", ".join(here)
        )
    for name, tree in (("params", params), ("outer", outer)):
        for path, x in _named(name, tree):
            if not isinstance(x, Tensor) or x.dtype != torch.float64:
                found = x.dtype if isinstance(x, Tensor) else type(x).__name__
                raise InputError(f"check_updater takes differences, so {path} must be in float64, got {found}")
    # The updater may turn out to write to what it is given.
    return Problem(inner, outer_objective, clone(params), clone(outer), updater, steps)


def _first_step(problem: Problem) -> State:
    params = clone(problem.params)
    state: State = detach(run_step(problem, as_leaves(State(params, problem.updater.init(params)))))
    return state


def _check_structure(problem: Problem) -> None:
    for asked in (problem, quadratic(problem, torch.float32), quadratic(problem, torch.float64)):
        state: PyTree = State(asked.params, asked.updater.init(asked.params))
        for _ in range(3):
            new: PyTree = run_step(asked, as_leaves(state))
            needed, found = (optree.tree_structure(tree) for tree in (state, new))
            if found != needed:
                raise ContractError(f"step changed the structure of the state: needed {needed}, got {found}")
            for (path, x), y in zip(_named("state", new), optree.tree_leaves(state), strict=True):
                if _kind(x) != _kind(y):
                    raise ContractError(f"step changed {path}: needed {_kind(y)}, got {_kind(x)}")
            state = new


def _check_purity(problem: Problem) -> None:
    params = clone(problem.params)
    state = State(params, problem.updater.init(params))
    _compare("init changed its argument", ("params", params, problem.params))
    # Any step but the first: slots are no longer zeros.
    state = as_leaves(run_step(problem, as_leaves(state)))
    before, outer = clone(state), clone(problem.outer)
    versions = {path: x._version for path, x in _tensors(state, problem.outer)}
    first = detach(run_step(problem, state))
    _compare("step changed its arguments", ("state", state, before), ("outer", problem.outer, outer))
    if written := [path for path, x in _tensors(state, problem.outer) if x._version != versions[path]]:
        raise ContractError(f"step wrote to {written[0]} in place, though its value is the same; make a new tensor")
    for path, x in (*_named("state.params", state.params), *_named("outer", problem.outer)):
        if x.grad is not None:
            raise ContractError(f"step wrote to {path}.grad; take inner gradients with lds.updaters.gradient")
    second = detach(run_step(problem, state))
    _compare(TWO_RESULTS, ("state", second, first), rounding=_ROUNDING)
    with torch.no_grad():
        third = run_step(problem, state)
    _compare("the result of step depends on the grad mode", ("state", third, first), rounding=_ROUNDING)


def _check_derivative(problem: Problem, tolerance: float) -> None:
    loss, grads, _ = unroll(problem)
    theta = Theta(problem.outer, "check_updater")
    generator = torch.Generator().manual_seed(0)
    for index, (path, x) in enumerate(zip(theta.paths, theta.tensors, strict=True)):
        direction = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
        # Two differences, extrapolated to no change at all: an error of fourth order.
        near, far = (slope(problem, theta, index, direction, h) for h in (_CHANGE, 2 * _CHANGE))
        expected, found = (4 * near - far) / 3, float((grads[index] * direction).sum())
        rounding = _ROUNDING * torch.finfo(torch.float64).eps * abs(loss) / _CHANGE
        if not abs(found - expected) <= tolerance * max(abs(found), abs(expected)) + rounding:
            raise ContractError(
                f"along a random direction of {path} the derivative is {expected:.6g} by central differences but "
                f"{found:.6g} by autograd (relative error {_ratio(found - expected, expected):.2g}); take inner "
                "gradients with lds.updaters.gradient (or create_graph=True), and use no .detach(), .item() or "
                "torch.no_grad()"
            )


def _check_hypergradient(problem: Problem, horizon: int, tolerance: float) -> None:
    for depth in (problem.steps, horizon):
        with settled_by_differences():
            found = Reverse(horizon=depth).solve(problem)
        _, expected, params = unroll(problem, depth=depth)
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


def _check_zeros(problem: Problem) -> None:
    for what, scale in (("weights that the inner objective does not use", 1.0), ("zero inner gradients", 0.0)):
        _, grads, params = unroll(half_used(problem, scale))
        outer = optree.tree_unflatten(optree.tree_structure(problem.outer), grads)
        for path, x in (*_named("the final params", params), *_named("the hypergradient", outer)):
            bad = int((~torch.isfinite(x)).sum())
            if bad:
                raise ContractError(
                    f"{what} make {bad} of {x.numel()} entries of {path} NaN or infinite; write the step so that "
                    "its derivative is finite where a gradient is zero, such as √(v + ε²) in place of √v + ε"
                )


def _tensors(state: PyTree, outer: PyTree) -> list[tuple[str, Tensor]]:
    return [(path, x) for path, x in (*_named("state", state), *_named("outer", outer)) if isinstance(x, Tensor)]


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


class Unrolled(NamedTuple):
    """Outer loss, hypergradient (leaves like those of the outer variables) and final params."""

    loss: float
    grads: list[Tensor]
    params: PyTree


def unroll(problem: Problem, *, depth: int | None = None) -> Unrolled:
    """Run the updater with one graph through the last `depth` steps, all by default, on the engine's numbers."""
    steps = problem.steps
    leaves, spec = optree.tree_flatten(as_leaves(problem.outer))
    asked = replace(problem, outer=optree.tree_unflatten(spec, leaves))
    cuda = cuda_devices()
    start = 0 if depth is None else max(steps - depth, 0)
    with forked(cuda):
        reseed(0, INIT, cuda=cuda)
        state = State(problem.params, problem.updater.init(problem.params))
        for t in range(steps):
            with torch.set_grad_enabled(t >= start):
                # Views, for one leaf may depend on another, and the step takes derivatives in each by itself.
                state = as_leaves(state) if t <= start else _map_tensors(lambda x: x.view_as(x), state)
                state = run_step(asked, state)
        with torch.enable_grad():
            params = as_leaves(state.params) if start == steps else state.params
            reseed(0, steps, OUTER_STEP, cuda=cuda)
            loss = problem.outer_objective(params, asked.outer)
            grads: Sequence[Tensor] = [torch.zeros_like(x) for x in leaves]
            if loss.requires_grad:
                grads = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    return Unrolled(loss.item(), list(grads), detach(params))


def run_step(problem: Problem, state: State) -> State:
    """Run one step as the engine does: seeded, counted, with an objective that has a gradient in any grad mode."""

    def inner(params: PyTree, outer: PyTree) -> Tensor:
        with torch.enable_grad():
            return problem.inner(params, outer)

    cuda = cuda_devices()
    with forked(cuda):
        reseed(0, state.step, STEP, cuda=cuda)
        result: Any = problem.updater.step(state, problem.outer, inner)
    if not isinstance(result, tuple) or len(result) < 2:
        raise ContractError(f"step must return State(params, slots), got {type(result).__name__}")
    return State(result[0], result[1], state.step + 1)


def _map_tensors(function: Callable[[Tensor], Tensor], tree: PyTree) -> PyTree:
    return optree.tree_map(lambda x: function(x) if isinstance(x, Tensor) else x, tree)


def clone(tree: PyTree) -> PyTree:
    """Return copies of the same values."""
    return _map_tensors(lambda x: x.detach().clone(), tree)


def detach(tree: PyTree) -> PyTree:
    """Return the same values, cut off from any graph."""
    return _map_tensors(torch.Tensor.detach, tree)


def as_leaves(tree: PyTree) -> PyTree:
    """Return copies of the same values as leaves of a new graph."""
    return _map_tensors(lambda x: x.detach().clone().requires_grad_(x.is_floating_point()), tree)


def example(updater: Updater, steps: int) -> Problem:
    """Return a small network with nested params, a scalar among them, and outer variables for all coefficients."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, y, x_val, y_val = normal(8, 3), normal(8), normal(6, 3), normal(6)
    params = {"layers": [{"w": normal(3, 4), "b": normal(4)}, (normal(4),)], "scale": normal().exp()}
    outer = {
        "lr": torch.tensor(0.05, dtype=torch.float64),
        "momentum": torch.tensor(0.7, dtype=torch.float64),
        "betas": (torch.tensor(0.8, dtype=torch.float64), torch.tensor(0.9, dtype=torch.float64)),
        "weight_decay": torch.tensor(0.01, dtype=torch.float64),
        "penalty": 0.1 * normal(4).exp(),
    }

    def errors(params: PyTree, x: Tensor, y: Tensor) -> Tensor:
        first, (last,) = params["layers"]
        error: Tensor = params["scale"] * torch.tanh(x @ first["w"] + first["b"]) @ last - y
        return error.square().mean()

    def inner(params: PyTree, outer: PyTree) -> Tensor:
        penalty: Tensor = (outer["penalty"] * params["layers"][1][0].square()).sum()
        return errors(params, x, y) + penalty

    return Problem(inner, lambda params, outer: errors(params, x_val, y_val), params, outer, updater, steps)


def matrices(like: Problem) -> dict[str, Any]:
    """Return params and objectives of the example for updaters that take matrices alone."""

    def split(params: PyTree) -> PyTree:
        wide, tall = params["layers"]
        rest: PyTree = like.params
        first = {"w": wide, "b": rest["layers"][0]["b"]}
        return {"layers": [first, (tall.squeeze(1),)], "scale": rest["scale"]}

    first, (last,) = like.params["layers"]
    return {
        "params": {"layers": [first["w"], last.unsqueeze(1)]},
        "inner": lambda params, outer: like.inner(split(params), outer),
        "outer_objective": lambda params, outer: like.outer_objective(split(params), outer),
    }


def quadratic(like: Problem, dtype: torch.dtype) -> Problem:
    """Return a quadratic problem in tensors of the same structure and another dtype."""

    def inner(params: PyTree, outer: PyTree) -> Tensor:
        return torch.stack([(x - 1).square().sum() for x in optree.tree_leaves(params)]).sum()

    params, outer = (optree.tree_map(lambda x: x.to(dtype), tree) for tree in (like.params, like.outer))
    return replace(like, inner=inner, outer_objective=inner, params=params, outer=outer)


def half_used(like: Problem, scale: float) -> Problem:
    """Return a problem in tensors of the same structure, the inner objective of which uses every other weight.

    It is multiplied by a number between 0 and `scale` that depends on the outer variables.
    """

    def inner(params: PyTree, outer: PyTree) -> Tensor:
        weights = torch.cat([x.reshape(-1) for x in optree.tree_leaves(params)])
        variables = torch.cat([x.reshape(-1) for x in optree.tree_leaves(outer)])
        used = (torch.arange(len(weights), device=weights.device) % 2 == 0).to(weights.dtype)
        return scale * variables.sigmoid().mean() * (used * (weights - 3).square()).sum()

    def outer_objective(params: PyTree, outer: PyTree) -> Tensor:
        return torch.stack([x.square().sum() for x in optree.tree_leaves(params)]).sum()

    return replace(like, inner=inner, outer_objective=outer_objective)
