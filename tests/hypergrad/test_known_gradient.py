"""Inner objectives that know their gradient: the same hypergradient as by autograd, and no formula that is wrong."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lds.errors import InputError
from lds.hypergrad import (
    Checkpoint,
    FiniteDifference,
    Forward,
    Implicit,
    KeepGradients,
    KeepGraphs,
    KeepStates,
    Reverse,
    check_hypergradient,
    functional,
    hypergradient,
    record,
    unroll,
)
from lds.updaters import SGD, Adam, AdamW, ClipByNorm, KnowsGradient, Lion, gradient
from tests.oracles import DOUBLE, relative_error


class Logistic:
    """Logistic regression with a penalty for each weight; as a function, or one that knows its gradient."""

    def __init__(self, n=12, d=3, seed=0, dtype=DOUBLE):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(n, d, generator=generator, dtype=DOUBLE).to(dtype)
        self.y = (torch.rand(n, generator=generator) < 0.5).to(dtype)
        self.w = torch.randn(d, generator=generator, dtype=DOUBLE).to(dtype)
        self.penalty = torch.rand(d, generator=generator, dtype=DOUBLE).to(dtype)
        self.asked = []  # No number, which would make another problem of it.

    def __call__(self, params, penalty):
        z = self.x @ params["w"] + params["b"]
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(z, self.y)
        return entropy + 0.5 * (penalty * params["w"].square()).sum()

    def value_and_grad(self, params, penalty):
        self.asked.append(1)
        off = ((self.x @ params["w"] + params["b"]).sigmoid() - self.y) / len(self.y)
        return self(params, penalty), {"w": self.x.T @ off + penalty * params["w"], "b": off.sum()}

    def outer(self, params, penalty):
        return (params["w"] - 0.3).square().sum() + params["b"] ** 2 + 0.1 * penalty.sum()

    def problem(self, *, known):
        inner = self if known else lambda params, penalty: self(params, penalty)
        return inner, self.outer, {"w": self.w, "b": self.w.new_zeros(())}, self.penalty


UPDATERS = [SGD(0.3), SGD(0.3, momentum=0.9, nesterov=True), Adam(0.1), AdamW(0.1), ClipByNorm(SGD(0.3), 0.1)]
METHODS = [
    *(Reverse(memory=memory) for memory in (KeepGraphs(), KeepStates(), Checkpoint(), KeepGradients())),
    Reverse(3),
    Forward(),
    FiniteDifference(),
    Implicit(),
    Implicit("fixed_point"),
]


@settings(max_examples=60, deadline=None)
@given(
    updater=st.sampled_from(UPDATERS),
    method=st.sampled_from(METHODS),
    n=st.integers(1, 12),
    d=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
@pytest.mark.filterwarnings("ignore::lds.errors.PremiseWarning")
def test_the_hypergradient_is_that_of_autograd(updater, method, n, d, seed):
    logistic = Logistic(n, d, seed)
    found, expected = (
        hypergradient(*logistic.problem(known=known), updater=updater, steps=8, method=method)
        for known in (True, False)
    )
    assert logistic.asked
    assert relative_error(found.grad, expected.grad) <= 1e-7
    assert relative_error(found.params["w"], expected.params["w"]) <= 1e-9
    assert found.diagnostics.inner_losses == pytest.approx(expected.diagnostics.inner_losses)


def test_params_grad_and_unroll_are_those_of_autograd():
    logistic = Logistic()
    found = []
    for known in (True, False):
        inner, outer, params, penalty = logistic.problem(known=known)
        penalty = penalty.clone().requires_grad_()
        result = unroll(inner, params, penalty, updater=Adam(0.1), steps=5)
        direct = hypergradient(inner, outer, params, penalty.detach(), updater=Adam(0.1), steps=5)
        (grad,) = torch.autograd.grad(outer(result, penalty), [penalty])
        found.append([grad, direct.grad, direct.params_grad["w"]])
    for x, y in zip(*found, strict=True):
        assert relative_error(x, y) <= 1e-12
    assert relative_error(found[0][0], found[0][1]) <= 1e-12


def test_gradient_asks_for_it_and_a_protocol_says_who_knows():
    logistic = Logistic()
    inner, _, params, penalty = logistic.problem(known=True)
    assert isinstance(inner, KnowsGradient)
    assert not isinstance(logistic.problem(known=False)[0], KnowsGradient)
    found = gradient(inner, params, penalty)
    assert len(logistic.asked) == 1
    assert relative_error(found["w"], gradient(lambda *x: inner(*x), params, penalty)["w"]) <= 1e-12


def test_none_and_batches_leave_it_to_autograd():
    class Never(Logistic):
        def value_and_grad(self, params, penalty):
            self.asked.append(1)

    logistic = Never()
    found, expected = (
        hypergradient(*logistic.problem(known=known), updater=SGD(0.3), steps=4) for known in (True, False)
    )
    assert logistic.asked
    assert torch.equal(found.grad, expected.grad)
    assert found.diagnostics.inner_losses == expected.diagnostics.inner_losses

    class Batched(Logistic):
        def __call__(self, params, penalty, batch=1.0):
            return batch * super().__call__(params, penalty)

    logistic = Batched()
    batches = [torch.tensor(1.0, dtype=DOUBLE), torch.tensor(2.0, dtype=DOUBLE)]
    hypergradient(*logistic.problem(known=True), updater=SGD(0.3), steps=4, batches=batches)
    assert not logistic.asked


def off_by(change):
    """Return a logistic regression whose value_and_grad went through a change."""

    class Off(Logistic):
        def value_and_grad(self, params, penalty):
            value, grads = super().value_and_grad(params, penalty)
            return change(value, grads)

    return Off()


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda value, g: (value * 1.1, g), "its value is not that of a call"),
        (lambda value, g: (value, {**g, "w": g["w"] * 1.1}), "its gradient is not that of the value"),
        (lambda value, g: (value, {**g, "w": g["w"].detach()}), "the derivative of its gradient"),
        (lambda value, g: (value, {k: x.detach() for k, x in g.items()}), "the derivative of its gradient"),
        (lambda value, g: (value, {**g, "w": g["w"][:1]}), r"params\['w'\], \(3,\) torch\.\w+, came as \(1,\) torch"),
        (lambda value, g: (value, {**g, "w": None}), "gradient like the params"),
        (lambda value, g: (value, {"w": g["w"]}), "gradient like the params: needed"),
        (
            lambda value, g: (value, {**g, "w": g["w"].half()}),
            r"params\[\'w\'\], \(3,\) torch\.\w+, came as \(3,\) torch.float16",
        ),
        (lambda value, g: (value.expand(2), g), "must return a scalar tensor first"),
        (lambda value, g: (1.0, g), "must return a scalar tensor first, got float"),
        (lambda value, g: g["w"], r"must return \(value, gradient\), got Tensor"),
    ],
)
def test_a_wrong_formula_is_refused(change, words, dtype):
    right, wrong = Logistic(), off_by(change)
    for one in (right, wrong):
        one.__init__(dtype=dtype)
    with pytest.raises(InputError, match=f"(?s)value_and_grad of the inner objective.*{words}"):
        hypergradient(*wrong.problem(known=True), updater=SGD(0.3), steps=3)
    hypergradient(*right.problem(known=True), updater=SGD(0.3), steps=3)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_wrong_formula_is_refused_by_every_method(method):
    for _ in range(3):  # Not the first time only: what was found is looked at again.
        wrong = off_by(lambda value, g: (value, {k: 1.1 * x for k, x in g.items()}))
        with pytest.raises(InputError, match="its gradient is not that of the value"):
            hypergradient(*wrong.problem(known=True), updater=SGD(0.3), steps=8, method=method)


def test_a_wrong_formula_is_refused_without_a_sweep_and_by_the_check():
    wrong = off_by(lambda value, g: (value, {k: 1.1 * x for k, x in g.items()}))
    inner, outer, params, penalty = wrong.problem(known=True)
    with pytest.raises(InputError, match="its gradient is not that of the value"):
        record(inner, params, penalty, updater=SGD(0.3), steps=3, horizon=0)
    with pytest.raises(InputError, match="its gradient is not that of the value"):
        check_hypergradient(inner, outer, params, penalty, updater=SGD(0.3), steps=3)
    right = Logistic().problem(known=True)
    check_hypergradient(*right, updater=Adam(0.1), steps=30)


class Quadratic:
    """A quadratic loss, whose gradient at its minimum is nothing but rounding."""

    def __init__(self):
        factor = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
        self.k, self.b = factor.T @ factor / 20, factor.sum(0) / 20

    def __call__(self, w, penalty):
        return 0.5 * w @ (self.k @ w) - self.b @ w + 0.5 * penalty.exp() * w.square().sum()

    def value_and_grad(self, w, penalty):
        return self(w, penalty), self.k @ w - self.b + penalty.exp() * w


def test_rounding_at_a_minimum_is_no_fault():
    quadratic, state = Quadratic(), None
    for _ in range(9):
        result = hypergradient(
            quadratic,
            lambda w, _: (w - 1).square().sum(),
            torch.zeros(5),
            torch.tensor(-1.0),
            updater=SGD(0.1),
            steps=300,
            state=state,
        )
        state = result.state
    assert result.diagnostics.inner_gradient_norm < 1e-6


def test_rounding_where_a_loss_is_saturated_is_no_fault():
    logistic = Logistic(dtype=torch.float32)
    inner, outer, params, penalty = logistic.problem(known=True)
    far = {"w": 1e3 * logistic.x[0], "b": params["b"]}
    hypergradient(inner, outer, far, 0 * penalty + 1e-6, updater=SGD(0.1), steps=3)


def test_a_formula_may_stand_in_for_a_missing_second_derivative():
    class Distances(Logistic):
        """The distance of w to the rows of x, by an operation that torch differentiates once."""

        def __call__(self, params, penalty):
            distance = torch.cdist(params["w"][None], self.x, compute_mode="donot_use_mm_for_euclid_dist").sum()
            return distance + 0.5 * (penalty * params["w"].square()).sum() + params["b"] ** 2

        def value_and_grad(self, params, penalty):
            off = params["w"] - self.x
            grad = (off / off.norm(dim=1, keepdim=True)).sum(0) + penalty * params["w"]
            return self(params, penalty), {"w": grad, "b": 2 * params["b"]}

    inner, outer, params, penalty = Distances().problem(known=True)
    assert hypergradient(inner, outer, params, penalty, updater=SGD(0.01), steps=3).grad.isfinite().all()
    with pytest.raises(InputError, match="second derivative"):
        hypergradient(lambda *x: inner(*x), outer, params, penalty, updater=SGD(0.01), steps=3)


def test_it_is_compared_less_and_less_often():
    class Counted(Logistic):
        def __call__(self, params, penalty):
            called.append(1)
            return super().__call__(params, penalty)

        def value_and_grad(self, params, penalty):
            found = super().value_and_grad(params, penalty)
            called.pop()  # Its own.
            return found

    called, seen, state = [], [], None
    inner, outer, params, penalty = Counted().problem(known=True)
    for _ in range(9):
        state = hypergradient(inner, outer, params, penalty, updater=SGD(0.1), steps=2, state=state).state
        seen.append(bool(called))
        called.clear()
    assert seen == [True, True, False, True, False, False, False, True, False]


def test_params_with_buffers_go_by_autograd():
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1)).double()
    params, call = functional(module, buffers=True)
    x = torch.randn(8, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))

    class Never:
        def __call__(self, params, penalty):
            return call(params, x).square().mean() + penalty * sum(p.square().sum() for p in params.params.values())

        def value_and_grad(self, params, penalty):
            raise AssertionError

    outer = lambda params, _: (call(params, x) - 1).square().mean()  # noqa: E731
    penalty = torch.tensor(0.1, dtype=DOUBLE)
    found, expected = (
        hypergradient(inner, outer, params, penalty, updater=SGD(0.1), steps=3).grad
        for inner in (Never(), lambda *x: Never()(*x))
    )
    assert torch.equal(found, expected)


def test_a_formula_that_leaves_an_outer_variable_out_is_refused():
    class Constant(Logistic):
        def value_and_grad(self, params, penalty):
            return super().value_and_grad(params, penalty.detach())

    with pytest.raises(InputError, match="the derivative of its gradient"):
        hypergradient(*Constant().problem(known=True), updater=SGD(0.3), steps=3)


def test_an_updater_without_derivatives_of_its_own_takes_it():
    logistic = Logistic()
    found, expected = (
        hypergradient(*logistic.problem(known=known), updater=Lion(0.1), steps=3).grad for known in (True, False)
    )
    assert torch.equal(found, expected)


def test_a_hypergradient_inside_of_a_formula_is_refused():
    """Its result would be a constant to the one around it."""

    class Nested(Logistic):
        def value_and_grad(self, params, penalty):
            inner = lambda w, theta: (w - theta).square().sum()  # noqa: E731
            w = hypergradient(inner, inner, params["w"], penalty, updater=SGD(0.1), steps=2).params
            return self(params, penalty), {"w": w, "b": w.sum()}

    with pytest.raises(InputError, match="a hypergradient inside of an objective is a constant"):
        hypergradient(*Nested().problem(known=True), updater=SGD(0.3), steps=3)
