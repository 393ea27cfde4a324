"""Forward mode against reverse mode, and against oracles that the engine did not compute."""

import gc
import weakref

import optree
import pytest
import torch

from lds._random import STEP, forked, reseed
from lds.errors import InputError
from lds.hypergrad import Derived, Forward, hypergradient
from lds.updaters import SGD, Adam, AdamW, RMSprop, State, gradient
from tests.hypergrad.test_methods import all_updaters, betas, lr, momentum
from tests.hypergrad.test_outer import StraightThrough
from tests.oracles import DOUBLE, Problem, central_differences, regression, relative_error, same_bits, unroll


@all_updaters
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_equals_reverse(updater, dropout):
    problem = regression(dropout=dropout)
    found = hypergradient(*problem, updater=updater, steps=8, method=Forward(), seed=3)
    expected = hypergradient(*problem, updater=updater, steps=8, seed=3)
    assert relative_error(found.grad, expected.grad) <= 1e-10
    assert optree.tree_structure(found.grad) == optree.tree_structure(problem.outer)
    assert same_bits(found.state, expected.state)
    assert found.outer_loss == expected.outer_loss
    assert found.diagnostics.inner_losses == expected.diagnostics.inner_losses
    assert found.diagnostics.inner_gradient_norm == expected.diagnostics.inner_gradient_norm


@pytest.mark.parametrize(
    "updater",
    [
        AdamW(lr, betas(), weight_decay=momentum),
        RMSprop(lr, alpha=lambda outer: outer["betas"][0], centered=True, momentum=momentum),
    ],
    ids=["adamw", "rmsprop"],
)
def test_equals_oracles(updater):
    problem = regression(dropout=0.5)
    found = hypergradient(*problem, updater=updater, steps=6, method=Forward(), seed=1)
    assert relative_error(found.grad, unroll(problem, updater, 6, seed=1).grad) <= 1e-10
    assert relative_error(found.grad, central_differences(problem, updater, 6, seed=1)) <= 1e-6


class Cube(torch.autograd.Function):
    """x³ without a forward-mode formula."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, cotangent):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * cotangent


def test_no_operation_needs_a_forward_mode_formula():
    matrix = torch.eye(3, dtype=DOUBLE).to_sparse()

    def inner(w, outer):
        return (torch.sparse.mm(matrix, w[:, None]).square() * outer["a"]).sum() + outer["b"] * Cube.apply(w).sum()

    outer = {"a": torch.tensor(0.5, dtype=DOUBLE), "b": torch.tensor(0.2, dtype=DOUBLE)}
    w = torch.tensor([0.5, -0.3, 0.8], dtype=DOUBLE)
    problem = Problem(inner, lambda w, outer: Cube.apply(w).sum() * outer["b"], w, outer)
    for updater in (SGD(0.1, momentum=0.5), Adam(0.1)):
        found = hypergradient(*problem, updater=updater, steps=5, method=Forward())
        assert relative_error(found.grad, unroll(problem, updater, 5).grad) <= 1e-10


def test_two_orders_are_not_enough_where_a_backward_is_no_torch():
    """A step that reverse mode can differentiate, but whose transpose is not linear for autograd."""

    class Opaque(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        def backward(ctx, cotangent):
            return torch.from_numpy(2 * cotangent.detach().numpy())

    class Step:
        def init(self, params):
            return ()

        def step(self, state, outer, inner):
            return State(state.params - Opaque.apply(outer * gradient(inner, state.params, outer)))

    w = torch.ones(2, dtype=DOUBLE)
    problem = Problem(lambda w, outer: w.square().sum(), lambda w, outer: w.sum(), w, torch.tensor(0.1, dtype=DOUBLE))
    assert hypergradient(*problem, updater=Step(), steps=3).grad != 0
    with pytest.raises(InputError, match=r"Forward\(\) needs operations whose backward is differentiable"):
        hypergradient(*problem, updater=Step(), steps=3, method=Forward())


class TestOuterVariables:
    def problem(self, wrap):
        def inner(w, outer):
            return (outer["h"]["scale"] * (w - 1).square()).sum() + outer["h"]["penalty"] * w.pow(4).sum() * outer["a"]

        theta = {"x": torch.tensor([0.1, -0.4], dtype=DOUBLE), "y": torch.tensor(0.3, dtype=DOUBLE)}

        def h(theta):
            return {"scale": theta["x"].exp(), "penalty": theta["y"] * theta["x"].sum(), "counts": torch.tensor([1])}

        outer = {"a": torch.tensor(0.5, dtype=DOUBLE), "h": wrap(h, theta)}
        return Problem(inner, lambda w, o: (w * o["h"]["scale"]).sum(), torch.tensor([3.0, 2.0], dtype=DOUBLE), outer)

    @pytest.mark.parametrize("updater", [SGD(0.05), Adam(0.1)])
    def test_derived(self, updater):
        problem = self.problem(Derived)
        found = hypergradient(*problem, updater=updater, steps=6, method=Forward()).grad
        assert relative_error(found, hypergradient(*problem, updater=updater, steps=6).grad) <= 1e-10
        assert all(x.all() for x in optree.tree_leaves(found))

    def test_derived_is_evaluated_as_often_whatever_the_steps(self):
        calls = []

        def counted(h, theta):
            return Derived(lambda theta: calls.append(0) or h(theta), theta)

        numbers = []
        for steps in (1, 9):
            calls.clear()
            hypergradient(*self.problem(counted), updater=SGD(0.05), steps=steps, method=Forward())
            numbers.append(len(calls))
        assert numbers[0] == numbers[1] <= 3

    def test_one_that_draws_is_refused(self):
        problem = Problem(
            lambda w, outer: (outer["mask"] * w.square()).sum(),
            lambda w, outer: w.sum(),
            torch.ones(2),
            {"mask": StraightThrough(torch.full((2,), 0.5))},
        )
        with pytest.raises(InputError, match=r"outer\['mask'\] is a StraightThrough, which draws anew") as caught:
            hypergradient(*problem, updater=SGD(0.1), steps=3, method=Forward())
        assert "use Reverse()" in str(caught.value)

    def test_a_complex_one_is_refused(self):
        outer = torch.tensor(1j)
        with pytest.raises(InputError, match=r"needs real outer variables, but outer is torch.complex64"):
            hypergradient(
                lambda w, o: w.square().sum(),
                lambda w, o: w.sum(),
                torch.ones(1),
                outer,
                updater=SGD(0.1),
                steps=1,
                method=Forward(),
            )

    def test_none_and_empty_ones(self):
        problem = Problem(
            lambda w, o: w.square().sum(), lambda w, o: w.sum(), torch.ones(2), {"none": torch.ones(0, 3)}
        )
        assert hypergradient(*problem, updater=SGD(0.1), steps=3, method=Forward()).grad["none"].shape == (0, 3)
        result = hypergradient(*problem._replace(outer={}), updater=SGD(0.1), steps=3, method=Forward())
        assert result.grad == {}
        assert torch.allclose(result.params, torch.full((2,), 0.8**3))

    def test_a_detached_one_is_refused(self):
        class Detached:
            def init(self, params):
                return torch.zeros((), dtype=torch.int64)

            def step(self, state, outer, inner):
                state.slots.add_(1)
                grads = gradient(inner, state.params, outer)
                step = outer["lr"].item() / state.slots
                return State(state.params - step * outer["a"] * grads, state.slots)

        outer = {"a": torch.tensor(0.5, dtype=DOUBLE), "lr": torch.tensor(0.1, dtype=DOUBLE)}
        w = torch.ones(2, dtype=DOUBLE)
        problem = Problem(lambda w, o: w.square().sum(), lambda w, o: w.sum(), w, outer)
        with pytest.raises(InputError, match=r"the step of Detached must be differentiable in outer\['lr'\]"):
            hypergradient(*problem, updater=Detached(), steps=3, method=Forward())


def test_slots_that_are_written_in_place():
    class Counting:
        def init(self, params):
            return torch.zeros((), dtype=torch.int64)

        def step(self, state, outer, inner):
            state.slots.add_(1)
            grads = gradient(inner, state.params, outer)
            return State(state.params - outer / state.slots * grads, state.slots)

    theta = torch.tensor(0.1, dtype=DOUBLE, requires_grad=True)
    problem = Problem(lambda w, o: w.square().sum(), lambda w, o: w.sum(), torch.ones(2, dtype=DOUBLE), theta)
    found = hypergradient(*problem, updater=Counting(), steps=5, method=Forward())
    (2 * torch.stack([1 - 2 * theta / k for k in range(1, 6)]).prod()).backward()
    assert found.state.slots == 5
    assert relative_error(found.grad, theta.grad) <= 1e-12


def test_a_warm_start_goes_on_with_the_noise():
    problem = regression(dropout=0.5)
    first = hypergradient(*problem, updater=Adam(lr), steps=4, seed=2)
    found = hypergradient(*problem, updater=Adam(lr), steps=3, seed=2, state=first.state, method=Forward())
    expected = unroll(problem, Adam(lr), 3, seed=2, state=first.state)
    assert found.state.step == 7
    assert relative_error(found.grad, expected.grad) <= 1e-10


def test_zero_steps_leave_the_direct_gradient():
    problem = regression()
    found = hypergradient(*problem, updater=SGD(lr), steps=0, method=Forward())
    assert same_bits(found.grad, hypergradient(*problem, updater=SGD(lr), steps=0).grad)
    assert found.grad["lr"] != 0


@pytest.mark.parametrize("steps", [-1, 2.0, None])
def test_steps_must_be_a_count(steps):
    with pytest.raises(InputError, match="steps must be an integer >= 0"):
        hypergradient(*regression(), updater=SGD(lr), steps=steps, method=Forward())


def test_the_caller_is_left_alone():
    problem = regression(dropout=0.5)
    tensors = [x.requires_grad_() for x in optree.tree_leaves((problem.params, problem.outer))]
    before = [x.detach().clone() for x in tensors]
    with forked():
        reseed(0, 0, STEP)
        expected = torch.rand(3)
        reseed(0, 0, STEP)
        result = hypergradient(*problem, updater=Adam(lr), steps=3, method=Forward())
        assert torch.equal(torch.rand(3), expected)
    assert same_bits([x.detach() for x in tensors], before)
    assert all(x.grad is None for x in tensors)
    returned = optree.tree_leaves((result.grad, result.params, result.state))
    assert not any(x.requires_grad for x in returned if isinstance(x, torch.Tensor))


def test_no_step_outlives_the_next():
    problem = regression()
    alive, most = [], []

    def inner(params, outer):
        gc.collect()
        most.append(sum(ref() is not None for ref in alive))
        alive.append(weakref.ref(params["scale"]))
        return problem.inner(params, outer)

    hypergradient(*problem._replace(inner=inner), updater=SGD(lr, momentum=0.9), steps=12, method=Forward())
    assert len(most) >= 12
    assert max(most) <= 2


def test_a_step_that_writes_to_theta_is_refused():
    problem = regression()
    theta = problem.outer["lr"]

    class Writing(SGD):
        def step(self, state, outer, inner):
            with torch.no_grad():
                theta.mul_(0.9)
            return super().step(state, outer, inner)

    with pytest.raises(InputError, match=r"outer\['lr'\] was changed in place between the recording and the sweep"):
        hypergradient(*problem, updater=Writing(0.05), steps=3, method=Forward())
