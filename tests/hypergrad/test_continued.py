"""Trajectories that go on from others: the horizon reaches over updates of θ."""

import optree
import pytest
import torch

from lds.errors import InputError
from lds.hypergrad import Derived, Disk, KeepStates, Reverse, record, sweep
from lds.updaters import SGD, Adam
from tests.oracles import regression, relative_error, same_bits, unroll


def chain(problem, updater, lengths, outers=None, **options):
    """Trajectories of these lengths, each from where the one before ended."""
    trajectory = None
    for steps, outer in zip(lengths, outers or [problem.outer] * len(lengths), strict=True):
        trajectory = record(
            problem.inner, problem.params, outer, updater=updater, steps=steps, seed=4, after=trajectory, **options
        )
    return trajectory


def grads(trajectory, problem):
    return [(step.t, step.grad, step.costate) for step in sweep(trajectory, problem.outer_objective)]


@pytest.mark.parametrize("horizon", [None, 0, 1, 3, 4, 7, 9, 20])
@pytest.mark.parametrize("memory", [None, KeepStates()], ids=["graphs", "states"])
def test_pieces_equal_the_whole(horizon, memory):
    problem = regression(dropout=0.5)
    whole = chain(problem, Adam(0.05), [9], horizon=horizon, memory=memory)
    pieces = chain(problem, Adam(0.05), [3, 2, 4], horizon=horizon, memory=memory)
    assert (pieces.steps, pieces.horizon) == (whole.steps, whole.horizon)
    assert same_bits(pieces.final_state.params, whole.final_state.params)
    expected, found = grads(whole, problem), grads(pieces, problem)
    assert [t for t, *_ in found] == [t for t, *_ in expected]
    for (_, grad, costate), (_, other, other_costate) in zip(found, expected, strict=True):
        # Sums are added up a segment at a time, so the last digits may differ.
        assert relative_error(grad, other) <= 2e-14  # 1.8e-14 on torch 2.4.
        assert same_bits(costate.params, other_costate.params)


def test_a_window_can_be_swept_again_and_again():
    """As a learner does: a sweep after every window, over steps that earlier sweeps went over."""
    problem = regression(dropout=0.5)
    trajectory = None
    for count in range(1, 5):
        trajectory = record(
            problem.inner,
            problem.params,
            problem.outer,
            updater=Adam(0.05),
            steps=2,
            horizon=5,
            seed=4,
            after=trajectory,
        )
        found = Reverse(5).differentiate(trajectory, problem.outer_objective)
        assert found.diagnostics.steps_swept == min(5, 2 * count)
        expected = unroll(problem, Adam(0.05), 2 * count, horizon=5, seed=4)
        assert relative_error(found.grad, expected.grad) <= 1e-12
    assert len(trajectory.segments) == 3  # Windows out of reach are let go.


def test_every_window_is_differentiated_at_its_own_theta():
    """With θ, then θ + δ, the hypergradient is that of θ ↦ F after the first steps at θ and the last at θ + δ."""
    problem = regression()
    shifted = optree.tree_map(lambda x: x + 0.01, problem.outer)
    trajectory = chain(problem, SGD(lambda outer: outer["lr"]), [4, 3], [problem.outer, shifted])
    *_, last = sweep(trajectory, problem.outer_objective)

    outer = optree.tree_map(lambda x: x.clone().requires_grad_(), problem.outer)
    params = optree.tree_map(lambda x: x.detach().requires_grad_(), problem.params)
    for t in range(7):
        values = outer if t < 4 else optree.tree_map(lambda x: x + 0.01, outer)
        loss = problem.inner(params, values)
        leaves, spec = optree.tree_flatten(params)
        steps = torch.autograd.grad(loss, leaves, create_graph=True)
        params = optree.tree_unflatten(spec, [w - values["lr"] * g for w, g in zip(leaves, steps, strict=True)])
    loss = problem.outer_objective(params, optree.tree_map(lambda x: x + 0.01, outer))
    leaves, spec = optree.tree_flatten(outer)
    expected = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    assert relative_error(last.grad, optree.tree_unflatten(spec, expected)) <= 1e-12


def test_derived_variables_are_pulled_back_through_each_window_of_their_own():
    problem = regression()

    def derived():
        names = optree.tree_map(torch.clone, problem.outer)
        return {"all": Derived(lambda theta: optree.tree_map(lambda x: x * 1.0, theta), names)}

    def inner(params, outer):
        return problem.inner(params, outer["all"])

    def outer_objective(params, outer):
        return problem.outer_objective(params, outer["all"])

    trajectory = None
    for steps in (3, 4):
        trajectory = record(inner, problem.params, derived(), updater=SGD(0.05), steps=steps, seed=4, after=trajectory)
    *_, last = sweep(trajectory, outer_objective)
    expected = unroll(problem, SGD(0.05), 7, seed=4)
    assert relative_error(last.grad["all"], expected.grad) <= 1e-12


def test_a_recording_of_no_steps_is_swept_with_the_theta_of_the_steps_before_it():
    """θ₁ records four steps, θ₂ none: F is differentiated at θ₂, the steps at θ₁."""
    problem = regression()
    shifted = optree.tree_map(lambda x: x + 0.01, problem.outer)
    trajectory = chain(problem, SGD(lambda outer: outer["lr"]), [4, 0], [problem.outer, shifted])
    *_, last = sweep(trajectory, problem.outer_objective)

    outer, later = (optree.tree_map(lambda x: x.clone().requires_grad_(), tree) for tree in (problem.outer, shifted))
    params = optree.tree_map(lambda x: x.detach().requires_grad_(), problem.params)
    for _ in range(4):
        leaves, spec = optree.tree_flatten(params)
        steps = torch.autograd.grad(problem.inner(params, outer), leaves, create_graph=True)
        params = optree.tree_unflatten(spec, [w - outer["lr"] * g for w, g in zip(leaves, steps, strict=True)])
    loss = problem.outer_objective(params, later)
    (leaves, spec), others = optree.tree_flatten(outer), optree.tree_leaves(later)
    found = torch.autograd.grad(loss, [*leaves, *others], allow_unused=True, materialize_grads=True)
    expected = [a + b for a, b in zip(found[: len(leaves)], found[len(leaves) :], strict=True)]
    assert relative_error(last.grad, optree.tree_unflatten(spec, expected)) <= 1e-12


class TestErrors:
    def test_two_places_to_go_on_from(self):
        problem = regression()
        first = chain(problem, SGD(0.05), [2])
        with pytest.raises(InputError, match="state and after both say where to go on from; give one"):
            chain(problem, SGD(0.05), [2, 2], state=first.final_state)

    def test_another_structure_of_theta(self):
        problem = regression()
        with pytest.raises(InputError, match="outer must have the same structure as in the trajectory to go on from"):
            chain(problem, SGD(0.05), [2, 2], [problem.outer, {**problem.outer, "more": torch.zeros(2)}])

    def test_a_trajectory_on_disk(self, tmp_path):
        problem = regression()
        first = chain(problem, SGD(0.05), [3], memory=Disk(tmp_path / "tape"))
        with pytest.raises(InputError, match="a trajectory on disk cannot be continued"):
            record(problem.inner, problem.params, problem.outer, updater=SGD(0.05), steps=2, after=first)

    def test_theta_changed_in_place_between_the_windows(self):
        problem = regression()
        outer = optree.tree_map(torch.clone, problem.outer)
        first = record(problem.inner, problem.params, outer, updater=SGD(0.05), steps=3)
        outer["lr"].mul_(0.5)
        second = record(problem.inner, problem.params, outer, updater=SGD(0.05), steps=3, after=first)
        with pytest.raises(InputError, match="was changed in place between the recording and the sweep"):
            list(sweep(second, problem.outer_objective))
