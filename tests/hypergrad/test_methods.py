"""The hypergradient of Reverse against three oracles: full unroll, central differences, closed form."""

import gc
import itertools
import weakref

import optree
import pytest
import torch

from lds.errors import ForeignTensorWarning
from lds.hypergrad import KeepStates, Reverse, hypergradient, record, sweep
from lds.hypergrad.memory._states import Slab
from lds.updaters import SGD, Adam, State, gradient
from tests.oracles import (
    DOUBLE,
    Problem,
    central_differences,
    regression,
    relative_error,
    ridge,
    same_bits,
    unroll,
)


def lr(outer):
    return outer["lr"]


def momentum(outer):
    return outer["momentum"]


def betas():
    return (lambda outer: outer["betas"][0], lambda outer: outer["betas"][1])


UPDATERS = {
    "sgd": SGD(0.05),
    "sgd-learned": SGD(lr),
    "momentum": SGD(0.05, momentum=0.9),
    "momentum-learned": SGD(lr, momentum=momentum),
    "nesterov": SGD(0.05, momentum=0.9, nesterov=True),
    "nesterov-learned": SGD(lr, momentum=momentum, nesterov=True),
    "adam": Adam(0.05),
    "adam-learned": Adam(lr, betas()),
}
all_updaters = pytest.mark.parametrize("updater", UPDATERS.values(), ids=UPDATERS.keys())


@all_updaters
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("horizon", [None, 0, 1, 4, 9, 10, 50])
def test_equals_the_unroll(updater, dropout, horizon):
    problem = regression(dropout=dropout)
    found = hypergradient(*problem, updater=updater, steps=10, method=Reverse(horizon), seed=3)
    expected = unroll(problem, updater, 10, horizon=horizon, seed=3)
    assert relative_error(found.grad, expected.grad) <= 1e-10
    assert same_bits(found.params, expected.state.params)
    assert found.outer_loss == pytest.approx(expected.loss, rel=1e-14)


@all_updaters
def test_equals_central_differences(updater):
    problem = regression(dropout=0.5)
    found = hypergradient(*problem, updater=updater, steps=8)
    assert relative_error(found.grad, central_differences(problem, updater, 8)) <= 1e-6


def test_what_the_updater_does_not_read_has_no_hypergradient():
    """Guards the tests above: the learned coefficients matter, and only where they are read."""
    problem = regression()
    learned = hypergradient(*problem, updater=Adam(lr, betas()), steps=5).grad
    direct = [2 * x for x in problem.outer["betas"]]
    assert all((g - d).abs() > 1e-3 for g, d in zip(learned["betas"], direct, strict=True))
    assert learned["momentum"] == 2 * problem.outer["momentum"]


@pytest.mark.parametrize("updater", [SGD(0.5), SGD(0.2, momentum=0.8)], ids=["sgd", "momentum"])
def test_ridge_equals_the_closed_form(updater):
    problem, minimiser, expected = ridge()
    found = hypergradient(*problem, updater=updater, steps=400)
    assert relative_error(found.params, minimiser) <= 1e-10
    assert relative_error(found.grad, expected) <= 1e-8
    assert found.diagnostics.inner_gradient_norm <= 1e-10


def test_truncation_at_the_minimum_converges_geometrically():
    problem, minimiser, expected = ridge()
    converged = problem._replace(params=minimiser)
    errors = [
        relative_error(hypergradient(*converged, updater=SGD(0.5), steps=40, method=Reverse(k)).grad, expected)
        for k in (5, 10, 20, 40)
    ]
    assert all(later < earlier / 3 for earlier, later in itertools.pairwise(errors))


def test_the_default_method_sweeps_over_all_steps():
    problem = regression()
    default = hypergradient(*problem, updater=SGD(0.05), steps=7)
    assert default.diagnostics.steps_swept == 7
    assert same_bits(default.grad, hypergradient(*problem, updater=SGD(0.05), steps=7, method=Reverse(7)).grad)


def test_zero_steps_leave_the_direct_gradient():
    problem = regression()
    found = hypergradient(*problem, updater=SGD(lr), steps=0)
    assert same_bits(found.params, problem.params)
    assert torch.allclose(found.grad["sample_weights"], 0.2 * problem.outer["sample_weights"], rtol=1e-14)
    assert torch.allclose(found.grad["lr"], 2 * problem.outer["lr"], rtol=1e-14)
    assert found.grad["log_penalty"][0] == 0
    assert found.diagnostics.steps_swept == 0
    assert found.diagnostics.inner_losses == []


@pytest.mark.parametrize("params", [torch.ones(3, dtype=DOUBLE), [torch.ones(3, dtype=DOUBLE)], (torch.ones(2), {})])
def test_params_and_outer_may_be_any_pytree(params):
    outer = torch.tensor(0.3, dtype=DOUBLE)

    def inner(params, outer):
        return sum((x**3).sum() for x in optree.tree_leaves(params)) * outer

    problem = Problem(inner, lambda params, outer: inner(params, 2.0), params, outer)
    found = hypergradient(*problem, updater=SGD(0.05), steps=4)
    assert relative_error(found.grad, unroll(problem, SGD(0.05), 4).grad) <= 1e-10
    assert optree.tree_structure(found.params) == optree.tree_structure(params)


def test_without_outer_variables_the_inner_problem_is_still_solved():
    problem, minimiser, _ = ridge()
    fixed = problem._replace(
        inner=lambda w, outer: problem.inner(w, problem.outer),
        outer_objective=lambda w, outer: problem.outer_objective(w, problem.outer),
        outer={},
    )
    found = hypergradient(*fixed, updater=SGD(0.5), steps=400, method=Reverse(2))
    assert found.grad == {}
    assert relative_error(found.params, minimiser) <= 1e-10


@pytest.mark.filterwarnings("ignore::lds.errors.UnreachedWarning")
def test_empty_tensors_are_carried():
    params = {"w": torch.ones(2, dtype=DOUBLE), "none": torch.ones(0, 3, dtype=DOUBLE)}
    outer = {"a": torch.tensor(0.5, dtype=DOUBLE), "none": torch.ones(0, dtype=DOUBLE)}

    def inner(params, outer):
        return outer["a"] * params["w"].square().sum() + params["none"].sum() + outer["none"].sum()

    problem = Problem(inner, lambda p, o: p["w"].sum(), params, outer)
    for updater in (SGD(0.1), Adam(0.1)):
        found = hypergradient(*problem, updater=updater, steps=3)
        assert relative_error(found.grad, unroll(problem, updater, 3).grad) <= 1e-10


class TestLeavesTheCallerAlone:
    @pytest.mark.parametrize("updater", [SGD(lr, momentum=0.9), Adam(lr)])
    @pytest.mark.parametrize("wanted", [False, True])
    def test_tensors_and_their_flags(self, updater, wanted):
        problem = regression(dropout=0.5)
        tensors = optree.tree_leaves((problem.params, problem.outer))
        for x in tensors:
            x.requires_grad_(wanted)
        before = [x.detach().clone() for x in tensors]
        versions = [x._version for x in tensors]
        result = hypergradient(*problem, updater=updater, steps=4, seed=1)
        assert result.diagnostics.inner_gradient_norm > 0
        assert same_bits([x.detach() for x in tensors], before)
        assert [x._version for x in tensors] == versions
        assert all(x.requires_grad is wanted and x.grad is None and x.is_leaf for x in tensors)
        returned = optree.tree_leaves((result.grad, result.params, result.state))
        assert not any(x.requires_grad for x in returned if isinstance(x, torch.Tensor))
        plain = hypergradient(*regression(dropout=0.5), updater=updater, steps=4, seed=1)
        assert same_bits(result.grad, plain.grad)

    def test_a_graph_that_the_outer_variables_came_from(self):
        problem = regression()
        source = torch.tensor(0.05, dtype=DOUBLE, requires_grad=True)
        outer = dict(problem.outer, lr=source * 1)
        result = hypergradient(*problem._replace(outer=outer), updater=SGD(lr), steps=4)
        assert source.grad is None
        outer["lr"].backward(result.grad["lr"])  # The caller's graph is whole, and takes the hypergradient on.
        assert torch.equal(source.grad, result.grad["lr"])

    def test_parameters_of_a_module(self):
        module = torch.nn.Linear(3, 2, dtype=DOUBLE)
        x = torch.ones(4, 3, dtype=DOUBLE)

        def inner(params, outer):
            return outer * torch.func.functional_call(module, params, (x,)).square().sum()

        problem = Problem(inner, lambda p, o: p["weight"].sum(), dict(module.named_parameters()), torch.ones(()))
        before = [p.detach().clone() for p in module.parameters()]
        hypergradient(*problem, updater=Adam(0.1), steps=3)
        assert same_bits([p.detach() for p in module.parameters()], before)
        assert all(p.grad is None for p in module.parameters())

    def test_a_parameter_that_the_objective_closes_over(self):
        fixed = torch.tensor(2.0, requires_grad=True)
        with pytest.warns(ForeignTensorWarning) as caught:
            hypergradient(
                lambda w, o: fixed * o * w.square(),
                lambda w, o: fixed * w.square(),
                torch.tensor(1.0),
                torch.tensor(1.0),
                updater=SGD(0.1),
                steps=3,
            )
        assert len(caught) == 2
        assert all(warning.filename == __file__ for warning in caught)
        assert fixed.grad is None

    def test_even_if_the_updater_calls_backward(self):
        class Backward:
            def init(self, params):
                return ()

            def step(self, state, outer, inner):
                inner(state.params, outer).backward()
                return State(state.params - 0.1 * state.params.grad)

        w, theta = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
        result = hypergradient(
            lambda w, o: (o * w.square()).sum(),
            lambda w, o: (o * w).sum(),
            w,
            theta,
            updater=Backward(),
            steps=3,
            method=Reverse(0),
        )
        assert torch.allclose(result.grad, torch.full((2,), 0.8**3))
        assert w.grad is None
        assert theta.grad is None

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
    def test_its_grad_mode(self, mode):
        problem = regression()
        with mode():
            found = hypergradient(*problem, updater=Adam(lr), steps=4)
            assert torch.is_grad_enabled() is (mode is torch.enable_grad)
            trajectory = record(problem.inner, problem.params, problem.outer, updater=Adam(lr), steps=4)
            for _ in sweep(trajectory, problem.outer_objective):
                assert torch.is_grad_enabled() is (mode is torch.enable_grad)
        assert relative_error(found.grad, unroll(problem, Adam(lr), 4).grad) <= 1e-10


class TestDiagnostics:
    def test_costate_norms_and_losses(self):
        problem = regression(dropout=0.5)
        updater = Adam(lr)
        result = hypergradient(*problem, updater=updater, steps=8, method=Reverse(5, memory=KeepStates()), seed=2)
        trajectory = record(problem.inner, problem.params, problem.outer, updater=updater, steps=8, horizon=5, seed=2)
        norms = []
        for _, costate, _ in sweep(trajectory, problem.outer_objective):
            parts = optree.tree_leaves((costate.params, costate.slots))
            norms.append(torch.cat([x.flatten() for x in parts]).norm().item())
        assert result.diagnostics.costate_norms == pytest.approx(norms, rel=1e-14)
        assert len(norms) == 6
        assert result.diagnostics.steps_swept == 5
        assert result.diagnostics.replay_error == 0.0
        assert len(result.diagnostics.inner_losses) == 5

    def test_losses_are_those_of_the_inner_objective(self):
        problem = regression()
        result = hypergradient(*problem, updater=SGD(0.05), steps=6, method=Reverse(2))
        states = [unroll(problem, SGD(0.05), t).state.params for t in (4, 5)]
        expected = [problem.inner(params, problem.outer).item() for params in states]
        assert result.diagnostics.inner_losses == pytest.approx(expected, rel=1e-14)
        assert result.outer_loss == problem.outer_objective(result.params, problem.outer).item()

    def test_inner_gradient_norm(self):
        problem = regression()
        result = hypergradient(*problem, updater=SGD(0.05), steps=6)
        grads = optree.tree_leaves(gradient(problem.inner, result.params, problem.outer))
        expected = torch.cat([g.detach().flatten() for g in grads]).norm().item()
        assert result.diagnostics.inner_gradient_norm == pytest.approx(expected, rel=1e-14)

    def test_an_unchecked_replay_reports_no_error(self):
        problem = regression()
        for method in (Reverse(check_replay=False), Reverse(noise="resample")):
            assert hypergradient(*problem, updater=SGD(0.05), steps=2, method=method).diagnostics.replay_error is None

    @pytest.mark.filterwarnings("ignore::lds.errors.UnreachedWarning")
    def test_an_outer_objective_that_ignores_params_has_no_costate(self):
        problem = regression()
        direct = problem._replace(outer_objective=lambda p, o: o["lr"] ** 2)
        calls = []
        direct = direct._replace(inner=lambda p, o: calls.append(0) or problem.inner(p, o))
        result = hypergradient(*direct, updater=SGD(lr), steps=3)
        assert len(calls) == 3, "steps were run again for nothing"
        assert result.diagnostics.costate_norms == [0.0] * 3
        assert torch.allclose(result.grad["lr"], 2 * problem.outer["lr"], rtol=1e-14)

    def test_a_kept_result_does_not_keep_the_trajectory(self, monkeypatch):
        buffers = []
        init = Slab.__init__

        def spy(self, *args):
            init(self, *args)
            buffers.append(weakref.ref(self))

        monkeypatch.setattr(Slab, "__init__", spy)
        result = hypergradient(*regression(), updater=SGD(0.05), steps=3, method=Reverse(memory=KeepStates()))
        gc.collect()
        assert [ref() for ref in buffers] == [None]
        assert result.diagnostics.inner_gradient_norm > 0
