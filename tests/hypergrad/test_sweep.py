"""The sweep yields the hypergradient of every truncation depth, and the costates."""

import itertools

import optree
import pytest
import torch

from lds.errors import InputError
from lds.hypergrad import Derived, KeepStates, Reverse, hypergradient, record, sweep
from lds.updaters import SGD, Adam, AdamSlots, State
from tests.oracles import DOUBLE, regression, relative_error, same_bits, unroll

UPDATERS = {
    "sgd": SGD(lambda outer: outer["lr"]),
    "momentum": SGD(0.05, momentum=lambda outer: outer["momentum"]),
    "adam": Adam(0.05),
}
all_updaters = pytest.mark.parametrize("updater", UPDATERS.values(), ids=UPDATERS.keys())


def recorded(problem, updater, **options):
    return record(problem.inner, problem.params, problem.outer, updater=updater, **options)


@all_updaters
def test_every_depth_is_the_hypergradient_of_that_horizon(updater):
    problem = regression(dropout=0.5)
    depths = list(sweep(recorded(problem, updater, steps=9, seed=4), problem.outer_objective))
    assert [step.t for step in depths] == list(range(9, -1, -1))
    for k, step in enumerate(depths):
        separate = hypergradient(*problem, updater=updater, steps=9, method=Reverse(k), seed=4)
        assert same_bits(step.grad, separate.grad)


@all_updaters
def test_costates_are_the_derivatives_by_the_state(updater):
    """P_t is ∂F/∂(w, slots) at t, by autograd through the remaining steps."""
    problem = regression()
    for t, costate, _ in sweep(recorded(problem, updater, steps=6), problem.outer_objective):
        start = unroll(problem, updater, t).state
        leaves, spec = optree.tree_flatten((start.params, start.slots))
        wanted = [x.requires_grad_() for x in leaves if isinstance(x, torch.Tensor)]
        state = State(*optree.tree_unflatten(spec, leaves), t)
        for s in range(t, 6):
            state = State(*updater.step(state, problem.outer, problem.inner)[:2], s + 1)
        loss = problem.outer_objective(state.params, problem.outer)
        expected = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
        assert relative_error([x for x in optree.tree_leaves(costate[:2]) if x is not None], list(expected)) <= 1e-10


def test_costates_have_the_structure_of_the_state():
    problem = regression()
    trajectory = recorded(problem, Adam(0.05), steps=2)
    for _, costate, grad in sweep(trajectory, problem.outer_objective):
        assert isinstance(costate, State)
        assert isinstance(costate.slots, AdamSlots)
        assert costate.slots.steps is None
        assert optree.tree_structure(costate.slots.m) == optree.tree_structure(problem.params)
        assert optree.tree_structure(grad) == optree.tree_structure(problem.outer)


def test_a_sweep_can_be_stopped_and_run_again():
    problem = regression(dropout=0.5)
    trajectory = recorded(problem, Adam(0.05), steps=6)
    first = list(itertools.islice(sweep(trajectory, problem.outer_objective), 3))
    again = list(sweep(trajectory, problem.outer_objective))
    assert same_bits([s.grad for s in first], [s.grad for s in again[:3]])
    assert len(again) == 7


def test_another_outer_objective_can_be_swept_over_the_same_trajectory():
    problem = regression()
    other = problem._replace(outer_objective=lambda p, o: p["scale"] ** 2 * o["lr"])
    trajectory = recorded(problem, SGD(0.05), steps=5)
    for asked in (problem, other):
        *_, last = sweep(trajectory, asked.outer_objective)
        assert relative_error(last.grad, unroll(asked, SGD(0.05), 5).grad) <= 1e-10


def test_what_was_yielded_does_not_change_later():
    problem = regression()
    kept, copies = [], []
    for step in sweep(recorded(problem, Adam(0.05), steps=5), problem.outer_objective):
        kept.append((step.costate[:2], step.grad))
        copies.append(optree.tree_map(torch.clone, kept[-1]))
    assert same_bits(kept, copies)


def test_the_horizon_of_the_trajectory_ends_the_sweep():
    problem = regression()
    for horizon, ends in ((0, [9]), (3, [9, 8, 7, 6]), (20, list(range(9, -1, -1)))):
        trajectory = recorded(problem, SGD(0.05), steps=9, horizon=horizon)
        assert [t for t, _, _ in sweep(trajectory, problem.outer_objective)] == ends


class Resets:
    """w ← θ: the state before has no say."""

    def init(self, params):
        return ()

    def step(self, state, outer, inner):
        return outer * 1.0, ()


def test_a_costate_that_vanishes_stays_zero():
    w, theta = torch.ones(2), torch.tensor([2.0, 3.0])
    trajectory = record(lambda w, o: w.sum(), w, theta, updater=Resets(), steps=3)
    depths = list(sweep(trajectory, lambda w, o: w.square().sum()))
    assert [step.costate.params.tolist() for step in depths] == [[4, 6], [0, 0], [0, 0], [0, 0]]
    assert [step.grad.tolist() for step in depths] == [[0, 0], [4, 6], [4, 6], [4, 6]]
    result = hypergradient(lambda w, o: w.sum(), lambda w, o: w.square().sum(), w, theta, updater=Resets(), steps=3)
    assert result.diagnostics.costate_norms == pytest.approx([52**0.5, 0, 0])


@pytest.mark.parametrize("memory", [None, KeepStates()], ids=["graphs", "states"])
@pytest.mark.parametrize("derived", [False, True])
@pytest.mark.parametrize("swept", [0, 2])
def test_outer_variables_that_were_changed_in_place_are_an_error(memory, derived, swept):
    """An optimizer's step between the recording and the sweep: two values of θ in one hypergradient."""
    theta = torch.tensor(1.0, dtype=DOUBLE)
    trajectory = record(
        lambda w, o: (w - o) ** 2, torch.tensor(0.0, dtype=DOUBLE), Derived(torch.exp, theta) if derived else theta,
        updater=SGD(0.1), steps=5, memory=memory,
    )  # fmt: skip
    steps = sweep(trajectory, lambda w, o: 2 * w + o**2)
    for _ in range(swept):
        next(steps)
    theta.add_(1)
    with pytest.raises(InputError, match=r"^outer was changed in place between the recording and the sweep, but both"):
        next(steps)
