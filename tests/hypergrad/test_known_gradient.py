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
    hypergradient,
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
        self.asked = 0

    def __call__(self, params, penalty):
        z = self.x @ params["w"] + params["b"]
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(z, self.y)
        return entropy + 0.5 * (penalty * params["w"].square()).sum()

    def value_and_grad(self, params, penalty):
        self.asked += 1
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
    assert logistic.asked == 1
    assert relative_error(found["w"], gradient(lambda *x: inner(*x), params, penalty)["w"]) <= 1e-12


def test_none_and_batches_leave_it_to_autograd():
    class Never(Logistic):
        def value_and_grad(self, params, penalty):
            self.asked += 1

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
        (lambda value, g: (value, {**g, "w": g["w"][:1]}), r"params\['w'\].*shape \(3,\).*came as .*shape \(1,\)"),
        (lambda value, g: (value, {**g, "w": None}), "gradient like the params"),
        (lambda value, g: (value, {"w": g["w"]}), "gradient like the params: needed"),
        (lambda value, g: (value, {**g, "w": g["w"].half()}), "came as torch.float16"),
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
