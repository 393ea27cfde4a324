"""`unroll` between two looks takes all steps in one graph: the same bits, and the same errors."""

import warnings

import pytest
import torch
from torch import nn

from lds.errors import InputError, NumericalError
from lds.hypergrad import Checkpoint, Derived, KeepGraphs, Reverse, _met, functional, unroll
from lds.hypergrad import _unroll as module
from lds.updaters import SGD, Adam, ClipByNorm, RMSprop, State

DOUBLE = torch.float64


@pytest.fixture
def connected(monkeypatch):
    """How many calls took their steps in one graph."""
    calls = []
    monkeypatch.setattr(_met, "_MET", {})
    connect = module.connect

    def counted(problem):
        found = connect(problem)
        calls.append(found is not None)
        return found

    monkeypatch.setattr(module, "connect", counted)
    return calls


UPDATERS = {
    "sgd": SGD(0.1),
    "momentum": SGD(0.05, momentum=0.9, nesterov=True),
    "learned rate": SGD(lambda outer: outer["lr"].exp()),
    "adam": Adam(lambda outer: outer["lr"].exp()),
    "rmsprop": RMSprop(0.01, momentum=0.5),
    "clipped": ClipByNorm(SGD(0.1), 0.5),
}


def problem(dtype=DOUBLE):
    torch.manual_seed(0)
    x, y = torch.randn(12, 4, dtype=dtype), torch.randn(12, dtype=dtype)
    net = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.3), nn.Tanh(), nn.Linear(5, 1)).to(dtype)
    params, call = functional(net)
    outer = {
        "weights": torch.randn(12, dtype=dtype, requires_grad=True),
        "lr": torch.tensor(-3.0, dtype=dtype, requires_grad=True),
        "scale": torch.tensor([0.5, 2.0], dtype=dtype, requires_grad=True),
    }
    w = {name: p.detach().requires_grad_() for name, p in params.items()}

    def inner(p, o):
        loss = (o["weights"].sigmoid() * (call(p, x).squeeze(-1) - y).square()).mean()
        return loss + o["scale"].square().sum() * sum(v.square().sum() for v in p.values()) * 0.01

    def loss(p):
        return (p["3.weight"].tanh() @ (p["0.weight"] @ x.T).tanh()).square().mean()

    return inner, w, outer, loss


def gradients(inner, w, outer, loss, **options):
    found = unroll(inner, w, outer, **options)
    inputs = [*w.values(), *outer.values()]
    grads = torch.autograd.grad(loss(found), inputs, allow_unused=True)
    return [*found.values(), *(torch.zeros_like(x) if g is None else g for x, g in zip(inputs, grads, strict=True))]


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("updater", UPDATERS.values(), ids=UPDATERS)
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_every_call_has_the_same_bits(updater, steps, dtype, connected):
    inner, w, outer, loss = problem(dtype)
    first, *others = (gradients(inner, w, outer, loss, updater=updater, steps=steps, seed=3) for _ in range(6))
    assert connected == [False, False, True, False, True, True]
    for found in others:
        assert all(torch.equal(x, y) for x, y in zip(first, found, strict=True))


def test_a_slot_that_starts_at_the_params(connected):
    class Averages:
        """SGD beside an average of all iterates, which begins at w_0."""

        def init(self, params):
            return {name: p.clone() for name, p in params.items()}

        def step(self, state, outer, inner):
            params, slots = SGD(0.1).step(state, outer, inner).params, state.slots
            mean = {name: 0.5 * slots[name] + 0.5 * p for name, p in params.items()}
            return type(state)({name: p + 0.1 * mean[name] for name, p in params.items()}, mean, state.step + 1)

    inner, w, outer, loss = problem()
    first, *others = (gradients(inner, w, outer, loss, updater=Averages(), steps=3) for _ in range(3))
    for found in others:
        assert all(torch.equal(x, y) for x, y in zip(first, found, strict=True))
    assert any(connected)


class Alternating:
    """Gauss-Seidel: the new b is computed from the new a, and the slot is what b was computed from."""

    def init(self, params):
        return params["a"].clone()

    def step(self, state, outer, inner):
        with torch.enable_grad():
            a, b = state.params["a"], state.params["b"]
            loss = inner(state.params, outer) + 0.1 * (a * state.slots).sum()
            g = torch.autograd.grad(loss, [a, b], create_graph=True)
            a = a - 0.1 * g[0]
            b = b - 0.1 * g[1] * a
        return State({"a": a, "b": b}, a)


class AlternatingUpdate(SGD):
    """The same as an update, in a class that inherits from one that works leaf by leaf."""

    def update(self, grads, state, outer):
        a = state.params["a"] - 0.1 * grads["a"]
        return State({"a": a, "b": state.params["b"] - 0.1 * grads["b"] * a})


@pytest.mark.parametrize("updater", [Alternating(), AlternatingUpdate(0.1)], ids=["step", "update"])
def test_params_that_depend_on_each_other(updater, connected):
    """Each step takes its derivatives in each leaf by itself, whatever graph lies behind it."""

    def inner(w, o):
        return ((w["a"] * w["b"] - o).square() + w["a"].square() * 0.3).sum()

    def found(**options):
        w = {name: torch.tensor([x], dtype=DOUBLE, requires_grad=True) for name, x in (("a", 1.0), ("b", 2.0))}
        o = torch.tensor([0.7], dtype=DOUBLE, requires_grad=True)
        solved = unroll(inner, w, o, updater=updater, steps=3)
        value = (solved["a"] * solved["b"] + solved["a"]).square().sum()
        return [*solved.values(), *torch.autograd.grad(value, [o, *w.values()], **options)]

    first, second, third = (found() for _ in range(3))
    assert connected == [False, False, True]
    assert all(torch.equal(x, y) and torch.equal(x, z) for x, y, z in zip(first, second, third, strict=True))
    for x, y in zip(first, found(create_graph=True), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=0)


class Squashed(SGD):
    """Saves what it returns for the backward."""

    def update(self, grads, state, outer):
        params = super().update(grads, state, outer).params
        return State({name: p.tanh() for name, p in params.items()})


@pytest.mark.parametrize("updater", [SGD(0.1), Squashed(0.1)], ids=["sgd", "saved"])
@pytest.mark.parametrize("return_state", [False, True])
def test_w_may_be_written_to(updater, return_state, connected):
    inner, w, outer, loss = problem()

    def found():
        solved = unroll(inner, w, outer, updater=updater, steps=2, return_state=return_state)
        solved, state = solved if return_state else (solved, None)
        kept = None if state is None else state.params["0.weight"].clone()
        solved["0.weight"].mul_(0.5)
        assert state is None or torch.equal(kept, state.params["0.weight"])
        return torch.autograd.grad(loss(solved), [*w.values(), outer["weights"]], allow_unused=True)

    first, second, third = (found() for _ in range(3))
    assert connected == [False, False, True]
    for grads in (second, third):
        assert all(x is y is None or torch.equal(x, y) for x, y in zip(first, grads, strict=True))


def test_w_is_not_a_tensor_of_the_callers(connected):
    """Where Φ hands on θ, or a constant of its own, as it is."""
    constant = torch.ones(2, dtype=DOUBLE)

    class Takes:
        def init(self, params):
            return ()

        def step(self, state, outer, inner):
            return State({"a": outer, "b": constant, "c": state.params["c"]})

    theta = torch.zeros(2, dtype=DOUBLE, requires_grad=True)
    w = {name: torch.full((2,), 3.0, dtype=DOUBLE) for name in "abc"}
    for _ in range(3):
        solved = unroll(None, w, theta, updater=Takes(), steps=1)
        for x in solved.values():
            x.add_(1.0)
        (solved["a"].square().sum() + solved["c"].sum()).backward()
    assert connected[-1]
    assert torch.equal(theta.grad, torch.full((2,), 6.0, dtype=DOUBLE))
    assert bool((theta == 0).all() and (constant == 1).all() and (w["c"] == 3).all())


def test_a_derived_variable(connected):
    inner, w, outer, loss = problem()

    def found():
        theta = outer["weights"].detach().requires_grad_()
        derived = outer | {"weights": Derived(lambda x: x.exp() - 1, theta)}
        return torch.autograd.grad(
            loss(unroll(inner, w, derived, updater=SGD(0.1), steps=3)), [theta, outer["lr"]], allow_unused=True
        )[0]

    first, *others = (found() for _ in range(6))
    assert sum(connected) == 3
    assert all(torch.equal(first, other) for other in others)


def test_only_where_it_takes_as_much_memory(connected):
    inner, w, outer, loss = problem()
    for method in (Reverse(memory=Checkpoint()), Reverse(2), Reverse(memory=KeepGraphs(budget=0))):
        for _ in range(4):
            w_detached = {name: p.detach() for name, p in w.items()}
            found = unroll(inner, w_detached, outer, updater=SGD(0.1), steps=5, method=method)
            loss(found).backward()
    assert not any(connected)


def test_larger_params_are_another_problem(connected):
    """Whether their graphs fit is not known from smaller ones of the same code."""

    def inner(w, o):
        return (w.square() * o).sum()

    def solve(size):
        outer = torch.ones((), dtype=DOUBLE, requires_grad=True)
        w = unroll(inner, torch.ones(size, dtype=DOUBLE), outer, updater=SGD(0.1), steps=2, method=method)
        w.sum().backward()

    method = Reverse(memory=KeepGraphs(budget=1e5))
    for _ in range(4):
        solve(4)
    assert connected == [False, False, True, False]
    for _ in range(3):  # The fifth to seventh call, between two looks.
        solve(40_000)
    assert not any(connected[4:])


def test_the_step_that_is_not_finite_is_named(connected):
    inner, w, outer, _ = problem()
    scale = [0.0]

    def bad(p, o):
        return inner(p, o) / (1 - scale[0])

    for _ in range(3):
        unroll(bad, w, outer, updater=SGD(0.1), steps=4)
    scale[0] = 1.0
    with pytest.raises(NumericalError, match="step 0"):
        unroll(bad, w, outer, updater=SGD(0.1), steps=4)


def test_a_derivative_that_is_not_finite_is_named(connected):
    inner, w, outer, _ = problem()
    for _ in range(2):
        gradients(inner, w, outer, lambda p: p["0.weight"].sum(), updater=SGD(0.1), steps=2)
    with pytest.raises(NumericalError, match="derivative of the loss in w_T"):
        gradients(inner, w, outer, lambda p: (p["0.weight"] * 0).sqrt().sum(), updater=SGD(0.1), steps=2)
    assert connected[-1]


@pytest.mark.parametrize("which", ["params", "outer"])
def test_a_change_between_the_two_passes(which, connected):
    inner, w, outer, loss = problem()
    for _ in range(2):
        first = gradients(inner, w, outer, loss, updater=SGD(0.1), steps=2)
    found = unroll(inner, w, outer, updater=SGD(0.1), steps=2)
    assert connected[-1]
    with torch.no_grad():
        (w["0.weight"] if which == "params" else outer["weights"]).add_(1.0)
    if which == "outer":
        with pytest.raises(InputError, match="changed in place"):
            loss(found).backward()
    else:  # It ran from a copy.
        (g,) = torch.autograd.grad(loss(found), outer["weights"])
        assert torch.equal(g, first[len(w) + len(w)])


def test_differentiated_again(connected):
    inner, w, outer, loss = problem()
    for _ in range(2):
        first = gradients(inner, w, outer, loss, updater=SGD(0.1), steps=2)
    found = unroll(inner, w, outer, updater=SGD(0.1), steps=2)
    assert connected[-1]
    value = loss(found)
    grads = [torch.autograd.grad(value, outer["weights"], retain_graph=True)[0] for _ in range(2)]
    (once,) = torch.autograd.grad(value, outer["weights"], create_graph=True)
    assert all(torch.equal(g, first[2 * len(w)]) for g in grads)
    torch.testing.assert_close(once, grads[0], rtol=1e-12, atol=1e-14)
    (twice,) = torch.autograd.grad(once.sum(), outer["weights"])
    assert bool((twice != 0).any())


def test_the_generators_are_left_alone(connected):
    inner, w, outer, loss = problem()
    for _ in range(6):
        torch.manual_seed(5)
        gradients(inner, w, outer, loss, updater=SGD(0.1), steps=2)
        assert torch.initial_seed() == 5
        assert torch.rand(()) == torch.rand((), generator=torch.Generator().manual_seed(5))
    assert any(connected)


def test_nothing_is_warned(connected):
    inner, w, outer, loss = problem()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(6):
            gradients(inner, w, outer, loss, updater=UPDATERS["learned rate"], steps=2)
    assert any(connected)
