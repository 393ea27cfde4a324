"""Updaters of one's own: two methods, no base class, any slots."""

import math

import pytest
import torch

from lds.hypergrad import KeepStates, Reverse, hypergradient, record, sweep
from lds.updaters import SGD, State, Updater, gradient
from tests.oracles import DOUBLE, Problem, central_differences, relative_error, same_bits, unroll

W = torch.tensor([1.5, -0.5, 0.25], dtype=DOUBLE)
OUTER = {"curvature": torch.tensor([0.5, 1.0, 2.0], dtype=DOUBLE), "rate": torch.tensor(0.1, dtype=DOUBLE)}


def inner(w, outer):
    return (outer["curvature"] * torch.cosh(w - 1)).sum() + (w[0] * w[1]) ** 2


PROBLEM = Problem(inner, lambda w, outer: (w + 1).square().sum() * outer["rate"], W, OUTER)


class SmoothSign:
    """Moves by the learned rate against the softened sign of the gradient."""

    def init(self, params):
        return ()

    def step(self, state, outer, inner):
        direction = torch.tanh(5 * gradient(inner, state.params, outer))
        return State(state.params - outer["rate"] * direction)


class HeavyBall:
    """Slots in a dict with a counter, a Python flag and masks; returns a plain pair."""

    def init(self, params):
        return {
            "velocity": torch.zeros_like(params),
            "count": 0,
            "seen": torch.zeros(params.shape, dtype=torch.bool),
            "ticks": torch.zeros(2, dtype=torch.int64),
            "extra": [None, "label", 0.5],
        }

    def step(self, state, outer, inner):
        slots = dict(state.slots)
        grads = gradient(inner, state.params, outer)
        slots["count"] += 1
        slots["ticks"] = slots["ticks"] + slots["count"]
        slots["seen"] = slots["seen"] | (grads > 0)
        decay = 0.9 * (1 - 1 / (1 + slots["count"]))
        slots["velocity"] = decay * slots["velocity"] - outer["rate"] * torch.where(slots["seen"], grads, grads / 2)
        return state.params + slots["velocity"] / (1 + 0.1 * slots["ticks"].sum()), slots


class Newton:
    """Calls autograd itself, twice."""

    def init(self, params):
        return ()

    def step(self, state, outer, inner):
        w = state.params
        (g,) = torch.autograd.grad(inner(w, outer), w, create_graph=True)
        with torch.enable_grad():
            (h,) = torch.autograd.grad(g.sum(), w, create_graph=True)
        return State(w - outer["rate"] * g / (1 + h.square()).sqrt())


class ExtraGradient:
    """Asks for the gradient at a point that is not the state's."""

    def init(self, params):
        return ()

    def step(self, state, outer, inner):
        ahead = state.params - outer["rate"] * gradient(inner, state.params, outer)
        return State(state.params - outer["rate"] * gradient(inner, ahead, outer))


class FixedPoint:
    """w ← cos(θ w): no inner objective at all."""

    def init(self, params):
        return ()

    def step(self, state, outer, inner):
        return State(torch.cos(outer["curvature"] * state.params))


class Decaying:
    """Reads the number of the step from the state."""

    def init(self, params):
        return ()

    def step(self, state, outer, inner):
        return State(state.params - outer["rate"] / (1 + state.step) * gradient(inner, state.params, outer))


class Averaging:
    """The slots depend on θ and the params do not read them until they are swapped."""

    def init(self, params):
        return params

    def step(self, state, outer, inner):
        w = state.params - 0.1 * gradient(inner, state.params, outer)
        average = state.slots + outer["rate"] * (w - state.slots)
        return (average, w) if state.step % 3 == 2 else (w, average)


CUSTOM = [SmoothSign(), HeavyBall(), Newton(), ExtraGradient(), FixedPoint(), Decaying(), Averaging()]
all_custom = pytest.mark.parametrize("updater", CUSTOM, ids=[type(u).__name__ for u in CUSTOM])


@all_custom
@pytest.mark.parametrize("horizon", [None, 0, 1, 3])
def test_equals_the_unroll(updater, horizon):
    assert isinstance(updater, Updater)
    found = hypergradient(*PROBLEM, updater=updater, steps=6, method=Reverse(horizon))
    expected = unroll(PROBLEM, updater, 6, horizon=horizon)
    assert relative_error(found.grad, expected.grad) <= 1e-10
    assert same_bits((found.state.params, found.state.slots), (expected.state.params, expected.state.slots))


@all_custom
def test_equals_central_differences(updater):
    found = hypergradient(*PROBLEM, updater=updater, steps=6).grad
    assert relative_error(found, central_differences(PROBLEM, updater, 6)) <= 1e-6


class Following:
    """One of the new params is computed from another one of them, and autograd is called by the updater itself."""

    def init(self, params):
        return ()

    def step(self, state, outer, inner):
        w, follower = state.params
        g, h = torch.autograd.grad(inner(state.params, outer), [w, follower], create_graph=True)
        moved = w - outer["rate"] * g
        return State((moved, follower - outer["rate"] * h + 0.3 * moved))


def test_params_that_are_computed_from_each_other():
    def pulled(params, outer):
        return inner(params[0], outer) + (params[0] * params[1]).square().sum()

    problem = Problem(
        pulled, lambda params, outer: outer["rate"] * (params[0] + params[1]).square().sum(), (W, W.flip(0)), OUTER
    )
    found = hypergradient(*problem, updater=Following(), steps=5).grad
    assert relative_error(found, central_differences(problem, Following(), 5)) <= 1e-6
    assert relative_error(unroll(problem, Following(), 5).grad, found) <= 1e-10


@all_custom
def test_a_warm_start_goes_on(updater):
    problem = (PROBLEM.inner, PROBLEM.params, PROBLEM.outer)
    whole = record(*problem, updater=updater, steps=8).final_state
    half = record(*problem, updater=updater, steps=4).final_state
    assert same_bits(record(*problem, updater=updater, steps=4, state=half).final_state, whole)


def test_what_carries_no_cotangent_is_carried_all_the_same():
    updater = HeavyBall()
    trajectory = record(PROBLEM.inner, PROBLEM.params, PROBLEM.outer, updater=updater, steps=4, horizon=2)
    slots = trajectory.final_state.slots
    assert slots["count"] == 4
    assert slots["ticks"].tolist() == [10, 10]
    assert slots["seen"].any()
    assert slots["extra"] == [None, "label", 0.5]
    for _, costate, _ in sweep(trajectory, PROBLEM.outer_objective):
        assert costate.slots["velocity"].shape == W.shape
        assert costate.slots["count"] is costate.slots["ticks"] is costate.slots["seen"] is None
        assert costate.slots["extra"] == [None, None, None]


def test_a_fixed_point_has_the_derivative_of_the_implicit_function():
    """w = cos(θ w) gives dw/dθ = −w sin(θ w) / (1 + θ sin(θ w))."""
    theta = torch.tensor(0.8, dtype=DOUBLE)

    class Cosine:
        def init(self, params):
            return ()

        def step(self, state, outer, inner):
            return torch.cos(outer * state.params), ()

    result = hypergradient(None, lambda w, o: w, torch.tensor(0.5, dtype=DOUBLE), theta, updater=Cosine(), steps=120)
    w = result.params.item()
    assert w == pytest.approx(math.cos(0.8 * w), rel=1e-14)
    expected = -w * math.sin(0.8 * w) / (1 + 0.8 * math.sin(0.8 * w))
    assert result.grad.item() == pytest.approx(expected, rel=1e-12)
    assert result.diagnostics.inner_losses == []


@pytest.mark.filterwarnings("ignore::lds.errors.UnreachedWarning")
def test_slots_alone_may_depend_on_the_outer_variables():
    """The cotangent must pass through the slots: with params alone this hypergradient is zero."""

    class Delayed:
        def init(self, params):
            return torch.zeros_like(params)

        def step(self, state, outer, inner):
            return state.params + state.slots, outer * state.params

    problem = Problem(None, lambda w, o: w.sum(), torch.ones(2, dtype=DOUBLE), torch.tensor([0.3, 0.4], dtype=DOUBLE))
    one, two = (hypergradient(*problem, updater=Delayed(), steps=n).grad for n in (1, 2))
    assert one.tolist() == [0, 0]
    assert two.tolist() == [1, 1]


def test_a_step_is_recorded_without_a_graph_and_swept_with_one():
    modes = []

    class Watching(SmoothSign):
        def step(self, state, outer, inner):
            modes.append(torch.is_grad_enabled())
            return super().step(state, outer, inner)

    outer = {**OUTER, "rate": OUTER["rate"].clone().requires_grad_()}
    hypergradient(*PROBLEM._replace(outer=outer), updater=Watching(), steps=3, method=Reverse(memory=KeepStates()))
    assert modes == [False, False, False, True, False, True, True]  # The fifth is the spot check.


@pytest.mark.filterwarnings("ignore::lds.errors.UnreachedWarning")
def test_what_a_step_returns_unchanged_or_with_a_graph_is_returned_as_plain_values():
    class Stubborn:
        def init(self, params):
            return {"kept": params * 2}

        @torch.enable_grad()
        def step(self, state, outer, inner):
            return State(outer["rate"] * state.params * state.slots["kept"], state.slots)

    result = hypergradient(*PROBLEM, updater=Stubborn(), steps=3)
    assert torch.equal(result.state.slots["kept"], 2 * W)
    for x in (result.params, result.state.slots["kept"]):
        assert not x.requires_grad
        assert x.grad_fn is None
    assert relative_error(result.grad, unroll(PROBLEM, Stubborn(), 3).grad) <= 1e-10


def test_losses_are_those_of_the_steps_that_asked():
    class Lazy(SmoothSign):
        def step(self, state, outer, inner):
            return super().step(state, outer, inner) if state.step % 2 else State(state.params * outer["rate"])

    assert len(hypergradient(*PROBLEM, updater=Lazy(), steps=5).diagnostics.inner_losses) == 2


def test_an_objective_that_the_updater_calls_twice_reports_its_last_value():
    result = hypergradient(*PROBLEM, updater=ExtraGradient(), steps=3)
    assert len(result.diagnostics.inner_losses) == 3


@pytest.mark.parametrize("container", [State, tuple, lambda pair: (*pair, 99)], ids=["State", "pair", "triple"])
def test_the_step_counter_belongs_to_the_engine(container):
    class Wrapped(SmoothSign):
        def step(self, state, outer, inner):
            pair = super().step(state, outer, inner)[:2]
            return State(*pair) if container is State else container(pair)

    assert hypergradient(*PROBLEM, updater=Wrapped(), steps=5).state.step == 5


class TestGradient:
    """`lds.updaters.gradient`, the tool for custom updaters."""

    def test_equals_autograd(self):
        expected = torch.autograd.functional.jacobian(lambda w: inner(w, OUTER), W)
        assert torch.allclose(gradient(inner, W, OUTER), expected, rtol=1e-14)

    def test_follows_the_grad_mode(self):
        assert gradient(inner, W, OUTER).requires_grad
        with torch.no_grad():
            assert not gradient(inner, W, OUTER).requires_grad

    def test_fills_in_zeros(self):
        params = {"used": torch.ones(2), "unused": torch.ones(3, 1)}
        grads = gradient(lambda p, o: p["used"].sum(), params, ())
        assert grads["unused"].tolist() == [[0], [0], [0]]
        assert grads["used"].tolist() == [1, 1]

    def test_leaves_its_arguments_alone(self):
        w = W.clone()
        gradient(inner, w, OUTER)
        assert not w.requires_grad
        assert w.grad is None


def test_an_updater_may_be_wrapped_around_another():
    class Clipped:
        def __init__(self, updater):
            self.updater = updater

        def init(self, params):
            return self.updater.init(params)

        def step(self, state, outer, inner):
            new = self.updater.step(state, outer, inner)
            return new._replace(params=new.params.clamp(-1, 1))

    updater = Clipped(SGD(lambda outer: outer["rate"], momentum=0.9))
    found = hypergradient(*PROBLEM, updater=updater, steps=6)
    assert relative_error(found.grad, unroll(PROBLEM, updater, 6).grad) <= 1e-10
    assert found.params.abs().max() <= 1
