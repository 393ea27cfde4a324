"""What every inner updater must do, as one check to run on any of them."""

import optree
import torch

from lds.hypergrad import Reverse, hypergradient
from lds.updaters import State
from tests.oracles import (
    DOUBLE,
    Problem,
    detach,
    directional_difference,
    dot,
    regression,
    relative_error,
    same_bits,
    unroll,
)


def check_updater_contract(updater, *, steps=6, horizon=3):
    """Assert that an updater keeps its state's structure, is pure and deterministic, and differentiates right.

    Its coefficients may be functions of the outer variables `lr`, `momentum` and `betas` of `regression()`.
    """
    check_structure(updater, steps=3)
    check_purity(updater)
    check_hypergradient(updater, steps=steps, horizon=horizon)
    check_zero_gradients(updater, steps=steps)


def check_structure(updater, *, steps):
    problem = regression()
    state = State(problem.params, updater.init(problem.params))
    needed = description((state.params, state.slots))
    for t in range(steps):
        state = State(*detach(updater.step(state, problem.outer, problem.inner)[:2]), t + 1)
        assert description((state.params, state.slots)) == needed, "step changed the structure of the state"


def check_purity(updater):
    problem = regression()
    state = State(problem.params, updater.init(problem.params))
    assert same_bits(state.params, regression().params), "init changed the params"
    # Any step but the first: slots are no longer zeros.
    state = State(*detach(updater.step(state, problem.outer, problem.inner)[:2]), 1)
    before = optree.tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, (state, problem.outer))
    first, second = (detach(updater.step(state, problem.outer, problem.inner)[:2]) for _ in range(2))
    assert same_bits((state, problem.outer), before), "step changed its arguments"
    assert same_bits(first, second), "step gave two results for the same arguments"
    with torch.no_grad():
        assert same_bits(updater.step(state, problem.outer, problem.inner)[:2], first), "step depends on the grad mode"
    assert all(x.grad is None for x in optree.tree_leaves((state.params, problem.outer)))


def check_hypergradient(updater, *, steps, horizon):
    problem = regression()
    for depth in (None, horizon):
        found = hypergradient(*problem, updater=updater, steps=steps, method=Reverse(horizon=depth))
        expected = unroll(problem, updater, steps, horizon=depth)
        assert same_bits(found.params, expected.state.params), "recording changed the step"
        assert relative_error(found.grad, expected.grad) <= 1e-10, "the hypergradient is not that of the unroll"
    # A step that detaches something does so under the unroll too; differences of the loss are not fooled.
    direction, expected = directional_difference(problem, updater, steps)
    found = hypergradient(*problem, updater=updater, steps=steps)
    assert abs(dot(found.grad, direction) - expected) <= 1e-6 * abs(expected), "the hypergradient is not the derivative"


def check_zero_gradients(updater, *, steps):
    """An unused weight, and an inner objective that is flat: neither may put a NaN into the hypergradient."""
    outer = dict(regression().outer, theta=torch.tensor(0.5, dtype=DOUBLE))
    params = {"used": torch.ones(2, dtype=DOUBLE), "unused": torch.ones(2, dtype=DOUBLE)}

    def outer_objective(params, outer):
        return params["used"].square().sum() + params["unused"].square().sum()

    for scale in (1.0, 0.0):

        def inner(params, outer, scale=scale):
            return scale * outer["theta"] * (params["used"] - 3).square().sum() + 0 * params["unused"].sum()

        problem = Problem(inner, outer_objective, params, outer)
        grads = optree.tree_leaves(hypergradient(*problem, updater=updater, steps=steps).grad)
        assert all(torch.isfinite(g).all() for g in grads), "zero inner gradients make the hypergradient NaN"


def description(tree):
    """The structure of a pytree with the shape and dtype, or the type, of every leaf."""
    leaves, spec = optree.tree_flatten(tree)
    return spec, [(x.shape, x.dtype) if isinstance(x, torch.Tensor) else type(x) for x in leaves]
