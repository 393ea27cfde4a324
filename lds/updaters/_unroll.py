"""The hypergradient by one graph through all steps, which the engine must agree with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import optree
import torch
from torch import Tensor

from lds._random import INIT, OUTER_STEP, STEP, cuda_devices, forked, reseed
from lds.errors import ContractError
from lds.updaters._check_problem import Problem
from lds.updaters._protocol import PyTree, State, Updater


class Unrolled(NamedTuple):
    """Outer loss, hypergradient (leaves like those of the outer variables) and final params."""

    loss: float
    grads: list[Tensor]
    params: PyTree


def unroll(updater: Updater, problem: Problem, steps: int, *, depth: int | None = None) -> Unrolled:
    """Run the updater with one graph through the last `depth` steps, all by default, on the engine's numbers."""
    leaves, spec = optree.tree_flatten(as_leaves(problem.outer))
    asked = problem._replace(outer=optree.tree_unflatten(spec, leaves))
    cuda = cuda_devices([*leaves, *optree.tree_leaves(problem.params)])
    start = 0 if depth is None else max(steps - depth, 0)
    with forked(cuda):
        reseed(0, INIT, cuda=cuda)
        state = State(problem.params, updater.init(problem.params))
        for t in range(steps):
            state = as_leaves(state) if t <= start else state
            with torch.set_grad_enabled(t >= start):
                state = run_step(updater, state, asked)
        with torch.enable_grad():
            params = as_leaves(state.params) if start == steps else state.params
            reseed(0, steps, OUTER_STEP, cuda=cuda)
            loss = problem.outer_objective(params, asked.outer)
            grads: Sequence[Tensor] = [torch.zeros_like(x) for x in leaves]
            if loss.requires_grad:
                grads = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    return Unrolled(loss.item(), list(grads), detach(params))


def run_step(updater: Updater, state: State, problem: Problem) -> State:
    """Run one step as the engine does: seeded, counted, with an objective that has a gradient in any grad mode."""

    def inner(params: PyTree, outer: PyTree) -> Tensor:
        with torch.enable_grad():
            return problem.inner(params, outer)

    cuda = cuda_devices([*optree.tree_leaves(state.params), *optree.tree_leaves(problem.outer)])
    with forked(cuda):
        reseed(0, state.step, STEP, cuda=cuda)
        result: Any = updater.step(state, problem.outer, inner)
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
