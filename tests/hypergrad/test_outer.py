"""Outer variables: plain tensors that something or nothing depends on, and leaves that draw anew in every step."""

import optree
import pytest
import torch

from lds.errors import InputError
from lds.hypergrad import KeepStates, OuterVariable, Reverse, hypergradient, record, sweep
from lds.updaters import SGD, Adam
from tests.oracles import DOUBLE, Problem, relative_error, same_bits, unroll

UPDATERS = {"sgd": SGD(0.1), "momentum": SGD(0.1, momentum=0.5), "adam": Adam(0.1)}
all_updaters = pytest.mark.parametrize("updater", UPDATERS.values(), ids=UPDATERS.keys())


class TestUse:
    """Who depends on an outer variable decides about its hypergradient."""

    def problem(self):
        def inner(w, outer):
            return (outer["inner"] * (w - 1).square()).sum() + outer["separable"].exp()

        def outer_objective(w, outer):
            return (w.square() * outer["objective"]).sum()

        names = ("inner", "objective", "separable", "nothing")
        outer = {name: torch.tensor([0.5, 0.25], dtype=DOUBLE) for name in names}
        outer["separable"] = torch.tensor(0.5, dtype=DOUBLE)
        return Problem(inner, outer_objective, torch.tensor([3.0, 2.0], dtype=DOUBLE), outer)

    @pytest.mark.filterwarnings("ignore::lds.errors.UnreachedWarning")
    @all_updaters
    @pytest.mark.parametrize("horizon", [None, 0, 2])
    def test_zeros_where_nothing_depends(self, updater, horizon):
        problem = self.problem()
        grad = hypergradient(*problem, updater=updater, steps=5, method=Reverse(horizon)).grad
        expected = unroll(problem, updater, 5, horizon=horizon).grad
        assert relative_error(grad, expected) <= 1e-10
        assert grad["separable"] == 0
        assert torch.equal(grad["nothing"], torch.zeros(2, dtype=DOUBLE))
        assert grad["objective"].all()
        assert bool(grad["inner"].any()) is (horizon != 0)

    def test_an_objective_on_some_of_the_params(self):
        """P_T reaches one leaf alone, so that what moves the others has no part in the last step."""
        problem = Problem(
            lambda p, o: o["a"] * (p["a"] - 1) ** 2 + (p["b"] - p["a"] * o["b"]) ** 2,
            lambda p, o: p["a"] ** 2,
            {"a": torch.tensor(3.0, dtype=DOUBLE), "b": torch.tensor(2.0, dtype=DOUBLE)},
            {"a": torch.tensor(0.5, dtype=DOUBLE), "b": torch.tensor(0.3, dtype=DOUBLE)},
        )
        for updater in UPDATERS.values():
            found = hypergradient(*problem, updater=updater, steps=4).grad
            assert relative_error(found, unroll(problem, updater, 4).grad) <= 1e-10

    @pytest.mark.filterwarnings("ignore::lds.errors.UnreachedWarning")
    @pytest.mark.parametrize("value", [0.0, 1.0, -2.0])
    def test_at_a_step_function_nothing_flows(self, value):
        """The inner objective depends on the sign only: its derivative is zero, and that is no mistake."""
        outer = torch.tensor(value, dtype=DOUBLE)

        def inner(w, outer):
            return torch.where(outer >= 0, 1.0, 2.0) * w.square().sum()

        problem = Problem(inner, lambda w, o: w.sum(), torch.ones(2, dtype=DOUBLE), outer)
        assert hypergradient(*problem, updater=SGD(0.1), steps=3).grad == 0


class StraightThrough:
    """Bernoulli(θ), drawn anew in every step; the derivative of a sample by its probability is taken as one."""

    def __init__(self, probabilities):
        self.probabilities = probabilities
        self.draws = []

    def draw(self):
        self.draws.append(torch.bernoulli(self.probabilities))
        return self.draws[-1]

    def trace(self, draw):
        return Leaf(draw)

    def accumulator(self):
        return Sum(torch.zeros_like(self.probabilities))


class Leaf:
    def __init__(self, draw):
        self.value = draw.clone().requires_grad_()

    def inputs(self):
        return [self.value]


class Sum:
    def __init__(self, zeros):
        self.total = zeros

    def add(self, tracer, cotangents):
        assert isinstance(tracer, Leaf)
        (cotangent,) = cotangents
        if cotangent is not None:
            self.total = self.total + cotangent

    def value(self):
        return self.total


def straight_through(theta):
    return torch.bernoulli(theta.detach()) + (theta - theta.detach())


def masked_regression(dropout=0.0):
    generator = torch.Generator().manual_seed(0)
    x, x_val = (torch.randn(n, 6, generator=generator, dtype=DOUBLE) for n in (12, 9))
    theta = torch.rand(6, generator=generator, dtype=DOUBLE)
    outer = {"mask": theta, "log_penalty": torch.tensor(-2.0, dtype=DOUBLE)}

    def inner(w, outer):
        rows = torch.nn.functional.dropout(x, dropout, training=dropout > 0)
        return torch.tanh(rows @ (w * outer["mask"]) - 1).square().mean() + outer["log_penalty"].exp() * w @ w

    def outer_objective(w, outer):
        return (x_val @ (w * outer["mask"]) - 1).square().mean()

    return Problem(inner, outer_objective, torch.ones(6, dtype=DOUBLE), outer)


def with_variable(problem):
    variable = StraightThrough(problem.outer["mask"])
    return problem._replace(outer={**problem.outer, "mask": variable}), variable


class TestARandomVariable:
    @all_updaters
    @pytest.mark.parametrize("dropout", [0.0, 0.5])
    @pytest.mark.parametrize("horizon", [None, 0, 1, 3])
    def test_equals_the_unroll_on_the_same_draws(self, updater, dropout, horizon):
        problem = masked_regression(dropout)
        asked, variable = with_variable(problem)
        assert isinstance(variable, OuterVariable)
        found = hypergradient(*asked, updater=updater, steps=7, method=Reverse(horizon), seed=4)

        def show(outer):
            return {**outer, "mask": straight_through(outer["mask"])}

        expected = unroll(problem, updater, 7, horizon=horizon, seed=4, show=show)
        assert found.outer_loss == pytest.approx(expected.loss, rel=1e-14)
        assert same_bits(found.params, expected.state.params)
        assert relative_error(found.grad, expected.grad) <= 1e-10

    def test_draws_once_a_step_and_once_for_the_outer_objective(self):
        asked, variable = with_variable(masked_regression())
        hypergradient(*asked, updater=SGD(0.1), steps=7)
        assert len(variable.draws) == 8
        assert len({tuple(draw.tolist()) for draw in variable.draws}) > 4

    def test_the_sweep_uses_the_draws_that_were_stored(self):
        """A drawing that cannot be repeated: the sweep must not repeat it."""
        problem = masked_regression()
        asked, variable = with_variable(problem)
        generator = torch.Generator().manual_seed(11)
        variable.draw = lambda: torch.bernoulli(variable.probabilities, generator=generator)
        found = hypergradient(*asked, updater=Adam(0.1), steps=7, method=Reverse(4, memory=KeepStates()))
        generator.manual_seed(11)

        def show(outer):
            theta = outer["mask"]
            return {**outer, "mask": torch.bernoulli(theta.detach(), generator=generator) + (theta - theta.detach())}

        expected = unroll(problem, Adam(0.1), 7, horizon=4, show=show)
        assert found.diagnostics.replay_error == 0.0
        assert relative_error(found.grad, expected.grad) <= 1e-10

    def test_resample_draws_anew(self):
        asked, variable = with_variable(masked_regression())
        resampled = hypergradient(*asked, updater=SGD(0.1), steps=7, method=Reverse(noise="resample"))
        assert len(variable.draws) == 15
        replayed = hypergradient(*asked, updater=SGD(0.1), steps=7)
        assert same_bits(resampled.params, replayed.params)
        assert relative_error(resampled.grad["mask"], replayed.grad["mask"]) > 1e-3

    def test_every_depth_of_one_sweep(self):
        asked, _ = with_variable(masked_regression(0.5))
        trajectory = record(asked.inner, asked.params, asked.outer, updater=Adam(0.1), steps=6)
        for k, step in enumerate(sweep(trajectory, asked.outer_objective)):
            separate = hypergradient(*asked, updater=Adam(0.1), steps=6, method=Reverse(k))
            assert same_bits(step.grad, separate.grad)

    def test_a_warm_start_goes_on_drawing(self):
        asked, variable = with_variable(masked_regression())
        half = record(asked.inner, asked.params, asked.outer, updater=Adam(0.1), steps=5)
        record(asked.inner, asked.params, asked.outer, updater=Adam(0.1), steps=5, state=half.final_state)
        halves = variable.draws[:]
        variable.draws.clear()
        record(asked.inner, asked.params, asked.outer, updater=Adam(0.1), steps=10)
        assert same_bits(halves, variable.draws)

    def test_the_draw_for_the_outer_objective_is_no_draw_of_a_step(self):
        asked, variable = with_variable(masked_regression())
        variable.draw = lambda: torch.rand(6, dtype=DOUBLE)
        seen = []
        asked = asked._replace(outer_objective=lambda w, o: seen.append(o["mask"].tolist()) or w.sum())
        result = hypergradient(*asked, updater=SGD(0.1), steps=3)
        drawn = []
        asked = asked._replace(inner=lambda w, o: drawn.append(o["mask"].tolist()) or w.sum())
        record(asked.inner, asked.params, asked.outer, updater=SGD(0.1), steps=3, state=result.state)
        assert seen[0] != drawn[0]


class Product:
    """θ = a bᵀ that Φ multiplies by vectors, never formed: the tracer names a probe that Φ's run creates."""

    def __init__(self, a, b):
        self.a, self.b = a, b

    def draw(self):
        return self

    def trace(self, draw):
        return ProbedProduct(self)

    def accumulator(self):
        return Pairs(self)

    def times(self, x):
        return self.a * (self.b @ x)


class ProbedProduct:
    def __init__(self, product):
        self.product = product
        self.operands, self.probes = [], []

    @property
    def value(self):
        return self

    def times(self, x):
        self.operands.append(x)
        self.probes.append(torch.zeros_like(self.product.a).requires_grad_())
        return self.product.times(x) + self.probes[-1]

    def inputs(self):
        return self.probes


class Pairs:
    """The factor pairs (U, V) of the gradient Σ U Vᵀ by θ, pulled back to a and b at the end."""

    def __init__(self, product):
        self.product, self.pairs = product, []

    def add(self, tracer, cotangents):
        assert len(cotangents) == len(tracer.probes)
        for u, v in zip(cotangents, tracer.operands, strict=True):
            if u is not None:
                self.pairs.append((u, v.detach()))

    def value(self):
        zero = torch.zeros_like(self.product.a)
        by_a = sum((u * (self.product.b @ v) for u, v in self.pairs), zero)
        by_b = sum(((self.product.a @ u) * v for u, v in self.pairs), zero)
        return {"a": by_a, "b": by_b}


def test_a_variable_whose_inputs_appear_while_the_updater_runs():
    """First-order probes: exact here, since the inner objective uses the product linearly in the params' gradient."""
    a, b, c = torch.rand(3, 4, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)

    class Step:
        def init(self, params):
            return ()

        def step(self, state, outer, inner):
            return torch.tanh(outer.times(state.params)) + outer.times(c) * state.params, ()

    class Dense:
        def __init__(self, outer):
            self.a, self.b = outer["a"], outer["b"]

        times = Product.times

    problem = Problem(None, lambda w, o: w.square().sum() + o.times(w).sum(), c, {"a": a, "b": b})
    expected = unroll(problem, Step(), 5, show=Dense)
    found = hypergradient(*problem._replace(outer=Product(a, b)), updater=Step(), steps=5)
    assert found.outer_loss == pytest.approx(expected.loss, rel=1e-14)
    assert relative_error(found.grad, expected.grad) <= 1e-10


class Squared:
    """The derived variable h(θ) = θ², drawn as a value and traced from θ."""

    def __init__(self, theta):
        self.theta = theta

    def draw(self):
        return self.theta**2

    def trace(self, draw):
        tracer = Leaf(self.theta)
        named = [tracer.value]
        tracer.value = tracer.value**2
        tracer.inputs = lambda: named
        return tracer

    def accumulator(self):
        return Sum(torch.zeros_like(self.theta))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
def test_a_tracer_may_compute_whatever_the_grad_mode(mode):
    problem = masked_regression()
    asked = problem._replace(outer={**problem.outer, "mask": Squared(problem.outer["mask"])})
    expected = unroll(problem, Adam(0.1), 4, show=lambda outer: {**outer, "mask": outer["mask"] ** 2}).grad
    with mode():
        found = hypergradient(*asked, updater=Adam(0.1), steps=4).grad
    assert relative_error(found, expected) <= 1e-10


@pytest.mark.parametrize(
    ("leaf", "came"),
    [
        (0.1, "got float"),
        (3, "got int"),
        ("a", "got str"),
        (torch.tensor(3), "got torch.int64"),
        (torch.tensor([True]), "got torch.bool"),
    ],
)
def test_a_leaf_that_is_no_outer_variable_is_refused(leaf, came):
    outer = {"ok": torch.ones(1), "rates": [torch.ones(1), leaf]}
    with pytest.raises(InputError, match=r"outer\['rates'\]\[1\] must be a floating-point tensor") as caught:
        record(lambda w, o: w.sum(), torch.ones(1), outer, updater=SGD(0.1), steps=1)
    assert came in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::lds.errors.UnreachedWarning")
def test_the_hypergradient_is_a_pytree_like_the_outer_variables():
    outer = {"a": (torch.ones(()), [torch.ones(2)]), "b": StraightThrough(torch.full((3,), 0.5))}
    grad = hypergradient(
        lambda w, o: w.square().sum() * o["a"][0], lambda w, o: w.sum(), torch.ones(2), outer, updater=SGD(0.1), steps=1
    ).grad
    assert optree.tree_structure(grad) == optree.tree_structure(outer)
