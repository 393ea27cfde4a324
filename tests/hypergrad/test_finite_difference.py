"""Central differences against reverse mode and closed forms."""

import optree
import pytest
import torch

from lds.errors import InputError
from lds.hypergrad import Derived, FiniteDifference, hypergradient
from lds.updaters import SGD, Adam, State
from tests.hypergrad.test_methods import all_updaters, lr
from tests.hypergrad.test_outer import StraightThrough
from tests.oracles import DOUBLE, Problem, regression, relative_error, same_bits


@all_updaters
def test_equals_reverse(updater):
    problem = regression(dropout=0.5)
    found = hypergradient(*problem, updater=updater, steps=5, method=FiniteDifference(), seed=3)
    expected = hypergradient(*problem, updater=updater, steps=5, seed=3)
    assert relative_error(found.grad, expected.grad) <= 1e-6
    assert same_bits(found.state, expected.state)
    assert found.outer_loss == expected.outer_loss
    assert found.diagnostics.inner_losses == expected.diagnostics.inner_losses[-1:]
    assert found.diagnostics.inner_gradient_norm == expected.diagnostics.inner_gradient_norm


def test_float32_is_right_to_two_digits():
    problem = regression(dtype=torch.float32)
    found = hypergradient(*problem, updater=SGD(lr), steps=5, method=FiniteDifference())
    expected = hypergradient(*problem, updater=SGD(lr), steps=5)
    for path in ("lr", "sample_weights"):
        # Rounding of the loss in float32 over the step is 6e-8 / 5e-3, and the steps before the loss round as well.
        assert torch.allclose(found.grad[path], expected.grad[path], rtol=1e-2, atol=1e-3)
        assert found.grad[path].dtype == torch.float32


class TestTheStep:
    def cubic(self, theta, step, dtype=DOUBLE):
        problem = Problem(
            lambda w, o: w.square().sum(), lambda w, o: o**3, torch.ones(1), torch.tensor(theta, dtype=dtype)
        )
        return hypergradient(*problem, updater=SGD(0.1), steps=1, method=FiniteDifference(step))

    @pytest.mark.parametrize("theta", [0.5, -0.25])
    def test_is_what_was_asked_for(self, theta):
        """The quotient of θ³ is 3θ² + h²."""
        found = self.cubic(theta, 1e-2)
        assert found.grad.item() - 3 * theta**2 == pytest.approx(1e-4, rel=1e-6)
        assert found.diagnostics.errors == pytest.approx(3e-4, rel=1e-6)

    def test_grows_with_large_values(self):
        assert self.cubic(20.0, 1e-2).grad.item() - 1200 == pytest.approx(0.2**2, rel=1e-6)

    def test_comes_from_the_coarsest_dtype(self):
        """In float64 θ³ at 0 gives h² = ε^(2/3); params in float32 make ε theirs."""
        assert self.cubic(0.0, None).grad.item() == pytest.approx(torch.finfo(torch.float32).eps ** (2 / 3), rel=1e-6)

    def test_that_rounding_swallows_is_refused(self):
        with pytest.raises(InputError, match=r"step must change outer in its dtype, torch.float32, but 1e-09 is lost"):
            self.cubic(1.0, 1e-9, torch.float32)

    @pytest.mark.parametrize("step", [0.0, -1e-3, float("nan"), float("inf")])
    def test_must_be_positive(self, step):
        with pytest.raises(InputError, match="step must be a number > 0 or None"):
            FiniteDifference(step)


def test_runs_are_counted():
    problem, calls = regression(), []

    def outer_objective(params, outer):
        calls.append(0)
        return problem.outer_objective(params, outer)

    counted = problem._replace(outer_objective=outer_objective)
    result = hypergradient(*counted, updater=SGD(lr), steps=2, method=FiniteDifference())
    scalars = sum(x.numel() for x in optree.tree_leaves(problem.outer))
    assert result.diagnostics.runs == len(calls) == 1 + 4 * scalars


def test_errors_are_like_the_outer_variables():
    """A leaf at a jump of F stands out, and one that nothing depends on has none."""
    outer = {
        "smooth": [torch.tensor(0.3, dtype=DOUBLE)],
        "jump": torch.tensor(0.5, dtype=DOUBLE),
        "no": torch.ones(2).double(),
    }
    problem = Problem(
        lambda w, o: o["smooth"][0].sin() * w.square().sum(),
        lambda w, o: w.sum() + o["jump"].round(),
        torch.ones(2, dtype=DOUBLE),
        outer,
    )
    errors = hypergradient(*problem, updater=SGD(0.1), steps=3, method=FiniteDifference()).diagnostics.errors
    assert errors["no"] == 0
    assert 0 < errors["smooth"][0] < 1e-3
    assert errors["jump"] > 10


def test_nothing_needs_to_be_differentiable():
    class Opaque:
        def init(self, params):
            return ()

        def step(self, state, outer, inner):
            return State(state.params * (1 - 2 * outer.item()))

    w = torch.ones(2, dtype=DOUBLE)
    problem = Problem(
        lambda w, o: w.square().sum(), lambda w, o: torch.tensor(w.sum().item()), w, torch.tensor(0.1, dtype=DOUBLE)
    )
    found = hypergradient(*problem, updater=Opaque(), steps=3, method=FiniteDifference(1e-3)).grad
    assert found.item() == pytest.approx(2 * 3 * 0.8**2 * -2, rel=1e-4)


def test_derived():
    theta = {"x": torch.tensor([0.1, -0.4], dtype=DOUBLE)}
    problem = Problem(
        lambda w, o: (o["h"] * (w - 1).square()).sum() * o["a"],
        lambda w, o: (w * o["h"]).sum(),
        torch.tensor([3.0, 2.0], dtype=DOUBLE),
        {"a": torch.tensor(0.5, dtype=DOUBLE), "h": Derived(lambda t: t["x"].exp(), theta)},
    )
    found = hypergradient(*problem, updater=SGD(0.1, momentum=0.5), steps=4, method=FiniteDifference())
    assert relative_error(found.grad, hypergradient(*problem, updater=SGD(0.1, momentum=0.5), steps=4).grad) <= 1e-7
    assert set(found.diagnostics.errors["h"]) == {"x"}
    assert torch.equal(theta["x"], torch.tensor([0.1, -0.4], dtype=DOUBLE))


def test_one_that_draws_is_refused():
    problem = Problem(
        lambda w, o: (o * w.square()).sum(), lambda w, o: w.sum(), torch.ones(2), StraightThrough(torch.full((2,), 0.5))
    )
    with pytest.raises(InputError, match=r"FiniteDifference\(\) needs .* but outer is a StraightThrough, which draws"):
        hypergradient(*problem, updater=SGD(0.1), steps=3, method=FiniteDifference())


def test_a_warm_start_goes_on_with_the_noise():
    problem = regression(dropout=0.5)
    state = hypergradient(*problem, updater=Adam(lr), steps=4, seed=2).state
    found, expected = (
        hypergradient(*problem, updater=Adam(lr), steps=3, seed=2, state=state, method=method)
        for method in (FiniteDifference(), None)
    )
    assert found.state.step == 7
    assert relative_error(found.grad, expected.grad) <= 1e-6
