"""What must hold of a problem before its hypergradient can be checked: it runs in float64, and the same each time."""

from __future__ import annotations

from dataclasses import replace

import optree
import torch
from torch import Tensor

from lds.errors import HypergradientCheckError, InputError
from lds.hypergrad._finite import check_objective
from lds.hypergrad._finite_difference import evaluate
from lds.hypergrad._leaves import is_differentiable
from lds.hypergrad._problem import Problem
from lds.hypergrad._trajectory import Trajectory
from lds.updaters import Objective, PyTree


def double(params: PyTree) -> PyTree:
    """Return the params in float64."""
    return optree.tree_map(lambda x: x.detach().double() if is_differentiable(x) and not x.is_complex() else x, params)


def run_in_float64(given: Problem, problem: Problem) -> tuple[Trajectory, float]:
    """Run the problem in float64; raise InputError where the objectives or Φ can run, but not in float64."""
    needed = (
        "check_hypergradient needs objectives and an updater that compute in the dtype of their arguments, float64 here"
    )
    advice = "convert the data that they close over, with .double() or .to(params.dtype), before you check"
    dtypes: dict[str, torch.dtype] = {}

    def noted(name: str, function: Objective) -> Objective:
        def call(params: PyTree, outer: PyTree) -> Tensor:
            value = function(params, outer)
            dtypes[name] = value.dtype if isinstance(value, Tensor) else torch.float64
            return value

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
    check_objective(first[1], final.step, spec.paths, spec.flatten(final))
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
