"""Numbers that are not finite stop with the step, the variable and the last finite norms; explosions are located."""

import gc
import math
import re

import pytest
import torch

from lds.errors import InputError, NumericalError
from lds.hypergrad import (
    Binomial,
    Checkpoint,
    Derived,
    Disk,
    FiniteDifference,
    Forward,
    Implicit,
    KeepStates,
    Reverse,
    hypergradient,
    record,
    sweep,
    truncation_curve,
)
from lds.hypergrad._guards import EXPLOSION, all_finite, explosion
from lds.hypergrad._logs import NormLog, ScalarLog
from lds.updaters import SGD, Adam, State, gradient
from tests.oracles import DOUBLE, Problem


def quadratic(rate, dtype=DOUBLE, factor=1.0):
    """Gradient descent by SGD(1.0) with w_{t+1} = rate · w_t."""
    return Problem(
        lambda p, o: (1 - rate) / 2 * (p["w"] - 0 * o["a"]).square().sum() + o["a"] * p["w"].sum() * 1e-3,
        lambda p, o: factor * p["w"].sum(),
        {"w": torch.ones(2, dtype=dtype)},
        {"a": torch.tensor(0.5, dtype=dtype)},
    )


def stops(*words, method=None, problem, steps=5, updater=None):
    with pytest.raises(NumericalError) as caught:
        hypergradient(*problem, updater=updater or SGD(1.0), steps=steps, method=method)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert re.search(word, message), message
    return message


def inner_that_breaks_at(step, value):
    """log of a number that is positive until step."""

    def inner(p, o):
        return (
            (p["w"] - o["a"]).square().sum() + 0.0 * torch.where(p["t"] > step - 0.5, value, 0.0).sum() + p["t"].sum()
        )

    return inner


class Counting:
    """Gradient descent on w; t counts the steps."""

    def init(self, params):
        return ()

    def step(self, state, outer, inner):
        grads = gradient(inner, state.params, outer)
        params = {"w": state.params["w"] - 0.1 * grads["w"], "t": state.params["t"] + 1 + 0 * grads["t"]}
        return State(params, ())


class Breaking(SGD):
    """Divides the params by zero in one step."""

    def __init__(self, at):
        super().__init__(1.0)
        object.__setattr__(self, "at", at)

    def step(self, state, outer, inner):
        new = super().step(state, outer, inner)
        return new._replace(params={"w": new.params["w"] / (0.0 if state.step == self.at else 1.0)})


METHODS = [
    Reverse(),
    Reverse(2),
    Reverse(0),
    Reverse(memory=KeepStates()),
    Reverse(memory=Checkpoint()),
    Forward(),
    FiniteDifference(),
]


class TestTheInnerObjective:
    @pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
    @pytest.mark.parametrize("value", [math.nan, math.inf])
    @pytest.mark.parametrize("step", [0, 3, 7])
    def test_says_the_step_and_the_last_finite_values(self, method, value, step):
        """Steps that are long out of the horizon are found as well."""
        problem = Problem(
            inner_that_breaks_at(step, value),
            lambda p, o: p["w"].sum(),
            {"w": torch.ones(2, dtype=DOUBLE), "t": torch.zeros((), dtype=DOUBLE)},
            {"a": torch.tensor(0.5, dtype=DOUBLE)},
        )
        found = stops(
            f"inner objective must be finite, but is nan at step {step}, where the state is finite",
            "lower the inner learning rate",
            problem=problem,
            updater=Counting(),
            steps=9,
            method=method,
        )
        last = [str(t) for t in range(max(step - 3, 0), step)]
        assert (f" at {', '.join(last)})" if last else "values: none)") in found

    def test_names_the_variable(self):
        stops(r"at step 2, where state.params\['w'\] holds infinity", problem=quadratic(0.5), updater=Breaking(1))

    def test_without_a_horizon(self):
        problem = quadratic(-1e60)
        with pytest.raises(NumericalError, match="inner objective must be finite"):
            record(problem.inner, problem.params, problem.outer, updater=SGD(1.0), steps=50, horizon=0)

    def test_the_step_counts_on_after_a_warm_start(self):
        problem = quadratic(-1e60)
        state = record(problem.inner, problem.params, problem.outer, updater=SGD(1.0), steps=2).final_state
        with pytest.raises(NumericalError, match=r"at step [3-4]"):
            record(problem.inner, problem.params, problem.outer, updater=SGD(1.0), steps=9, state=state)

    def test_one_that_does_not_repeat(self):
        calls = iter([0.0, 0.0, math.nan])
        with pytest.raises(NumericalError, match="not where these were run again"):
            record(
                lambda w, o: (w * o).square().sum() + next(calls, 0.0),
                torch.ones(2),
                torch.tensor(1.0),
                updater=SGD(0.1),
                steps=3,
            )

    def test_many_large_values_are_no_infinity(self):
        """Those that are dropped are added up, and 1e308 + 1e308 is infinite."""
        trajectory = record(
            lambda w, o: 1e308 + (w * o).sum(),
            torch.ones(2, dtype=DOUBLE),
            torch.ones((), dtype=DOUBLE),
            updater=SGD(0.1),
            steps=9,
            horizon=2,
        )
        assert trajectory.inner_losses == [1e308] * 2


def root(p, o):
    return (p["w"] - 1).square().sum().sqrt()


class TestTheSweep:
    @pytest.mark.parametrize(
        "method", [*METHODS[:5], Forward(), FiniteDifference(), Implicit()], ids=lambda m: type(m).__name__
    )
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_the_outer_objective(self, method, value):
        problem = quadratic(0.5)._replace(outer_objective=lambda p, o: p["w"].sum() + value)
        stops(
            f"outer objective must be finite, but is {value} after step 5, where the state is f",
            problem=problem,
            method=method,
        )

    def test_the_outer_objective_at_a_state_that_is_not_finite(self):
        stops(r"after step 5, where state.params\['w'\] holds infinity", problem=quadratic(0.5), updater=Breaking(4))

    @pytest.mark.parametrize("memory", [None, KeepStates(), Checkpoint(), Binomial(2)])
    @pytest.mark.parametrize("noise", ["replay", "resample"])
    def test_a_costate(self, memory, noise):
        """The root has no derivative at w_2, where its value is finite."""

        class Rooted(SGD):
            def step(self, state, outer, inner):
                new = super().step(state, outer, inner)
                extra = (
                    (state.params["w"] - state.params["w"].detach()).square().sum().sqrt() if state.step == 2 else 0.0
                )
                return new._replace(params={"w": new.params["w"] + extra})

        words = (r"the costate must be finite, but that of state.params\['w'\] holds NaN at step 2, depth 3", "sqrt")
        message = stops(*words, problem=quadratic(0.5), updater=Rooted(1.0), method=Reverse(memory=memory, noise=noise))
        assert "last finite costate norms: 1.41, 0.707, 0.354 at 5, 4, 3)" in message

    def test_a_costate_on_disk(self, tmp_path):
        stops(
            "the costate must be finite",
            problem=quadratic(0.5)._replace(outer_objective=root),
            updater=Fixed(),
            method=Reverse(memory=Disk(tmp_path / "x")),
        )

    def test_the_direct_gradient(self):
        problem = quadratic(0.5)._replace(outer_objective=lambda p, o: p["w"].sum() + (o["a"] - 0.5).square().sqrt())
        stops(
            r"the hypergradient must be finite, but that of outer\['a'\] holds NaN at step 5, depth 0", problem=problem
        )

    def test_what_a_step_adds(self):
        problem = quadratic(0.5)
        updater = SGD(lambda o: 1.0 + (o["a"] - 0.5).square().sqrt())
        stops(
            r"that of outer\['a'\] holds NaN at step 4, depth 1",
            "last finite costate norms: 1.41",
            problem=problem,
            updater=updater,
        )

    def test_a_derived_one(self):
        problem = quadratic(0.5)._replace(outer={"a": Derived(torch.sqrt, torch.tensor(0.0, dtype=DOUBLE))})
        stops(
            r"the hypergradient must be finite, but that of outer\['a'\] holds infinity after 5 steps", problem=problem
        )

    def test_the_generator_yields_nothing_that_is_not_finite(self):
        problem = quadratic(0.5)
        updater = SGD(lambda o: 1.0 + (o["a"] - 0.5).square().sqrt())
        steps = sweep(record(*problem[:1], *problem[2:], updater=updater, steps=5), problem.outer_objective)
        assert next(steps).t == 5
        with pytest.raises(NumericalError, match="at step 4, depth 1"):
            next(steps)

    def test_the_truncation_curve(self):
        problem = quadratic(0.5)
        trajectory = record(*problem[:1], *problem[2:], updater=SGD(lambda o: (o["a"] - 0.5).square().sqrt()), steps=5)
        with pytest.raises(NumericalError, match="at step 4, depth 1"):
            truncation_curve(trajectory, problem.outer_objective)

    def test_finite_numbers_whose_squares_are_not_pass(self):
        """In single precision the square of 1e25 is infinite; the norm is not."""
        result = hypergradient(*quadratic(0.5, torch.float32, 1e25), updater=SGD(1.0), steps=5)
        small = hypergradient(*quadratic(0.5, torch.float32, 1.0), updater=SGD(1.0), steps=5)
        assert result.diagnostics.costate_norms[0] == pytest.approx(2**0.5 * 1e25, rel=1e-6)
        for name in ("costate_norms", "contributions"):
            large, expected = (getattr(r.diagnostics, name) for r in (result, small))
            assert large == pytest.approx([1e25 * x for x in expected], rel=1e-5)
        assert result.diagnostics.contraction == pytest.approx(small.diagnostics.contraction, rel=1e-5)
        assert result.diagnostics.explodes_at is None
        assert result.grad["a"].isfinite()
        assert result.grad["a"] != 0

    def test_the_sweep_says_where_costates_began_to_explode(self):
        """w stays at 0 while its costate grows by 1e30 a step."""
        problem = quadratic(-1e30, torch.float32)._replace(params={"w": torch.zeros(2)}, outer={"a": torch.tensor(0.0)})
        message = stops(
            "holds infinity at step 3, depth 2", "explode from depth 1 on", "horizon below 1", problem=problem
        )
        assert "1.41, 1.41e+30 at 5, 4)" in message

    def test_slots_that_start_at_zero_do_not_matter_at_w_0(self):
        """The root has no derivative there; nothing comes of it."""
        problem = quadratic(0.5)
        trajectory = record(*problem[:1], *problem[2:], updater=Rooting(), steps=2)
        last = list(sweep(trajectory, problem.outer_objective))[-1]
        assert not all_finite(last.costate.slots)
        assert all_finite(last.costate.params)
        assert all_finite(last.grad)


class Rooting:
    """A step that grows with the root of a slot that starts at zero."""

    def init(self, params):
        return torch.zeros(2, dtype=DOUBLE)

    def step(self, state, outer, inner):
        grad = gradient(inner, state.params, outer)["w"]
        return State({"w": state.params["w"] - 0.1 * grad * (1 + state.slots.sqrt())}, state.slots + grad.square())


class Fixed(SGD):
    """Stays at w = 1, where the root of (w − 1)² has no derivative."""

    def __init__(self):
        super().__init__(0.0)


class TestExplosion:
    def test_of_growing_costates(self):
        result = hypergradient(
            *quadratic(-100.0)._replace(params={"w": torch.zeros(2, dtype=DOUBLE)}), updater=SGD(1.0), steps=9
        )
        assert result.diagnostics.explodes_at == 4  # 100³ is not more than a million times, 100⁴ is.

    def test_of_steady_ones(self):
        assert hypergradient(*quadratic(0.9), updater=SGD(1.0), steps=9).diagnostics.explodes_at is None

    def test_slots_have_units_of_their_own(self):
        """The costate of Adam's v at a tiny gradient is huge; that of w is not."""
        problem = Problem(
            lambda w, o: 1e-9 * (w - o).square().sum(), lambda w, o: w.sum(), *torch.zeros(2, 3, dtype=DOUBLE).unbind()
        )
        problem = problem._replace(outer=torch.ones(3, dtype=DOUBLE))
        found = hypergradient(*problem, updater=Adam(1e-3, eps=1e-12), steps=9).diagnostics
        assert max(found.costate_norms) > EXPLOSION * found.costate_norms[0]
        assert found.explodes_at is None

    @pytest.mark.parametrize(
        ("norms", "depth"),
        [
            ([], None),
            ([0.0, 1.0], None),
            ([1.0], None),
            ([1.0, 1e7, 1.0], 1),
            ([1.0, math.nan], 1),
            ([2.0, 1e6], None),
            ([1.0, EXPLOSION], None),
        ],
    )
    def test_of_norms(self, norms, depth):
        assert explosion(norms) == depth


class TestLogs:
    def test_what_is_dropped_is_remembered(self):
        for bad in (0, 4):
            log = ScalarLog(2)
            for i in range(6):
                log.append(torch.tensor(math.nan if i == bad else float(i)))
            assert log.suspicious()
        assert log.floats()[1] == 5.0

    def test_norms(self):
        log, like = NormLog(3, 2), torch.tensor(0.0)
        assert log.totals() == log.rows() == []
        log.append([torch.tensor([3.0, 4.0]), None], like)
        log.append([None, None], like)
        log.append([torch.tensor([3.0]), torch.tensor([4.0], dtype=DOUBLE)], like)
        assert log.rows() == [[5.0, 0.0], [0.0, 0.0], [3.0, 4.0]]
        assert log.totals() == [5.0, 0.0, 5.0]
        assert log.totals(1) == [5.0, 0.0, 3.0]
        assert log.totals()[-1] == 5.0
        again = NormLog(3, 2)
        again.restore(log.rows(), like)
        assert again.rows() == log.rows()

    @pytest.mark.parametrize("size", [1e-30, 1e-19, 1e-13, 1e-12, 1.0, 1e12, 1e13, 1e19, 1e30])
    @pytest.mark.parametrize("count", [1, 3, 100_000])
    def test_norms_in_single_precision_are_those_in_double(self, size, count):
        x = size * torch.rand(count, generator=torch.Generator().manual_seed(0)).add(0.5)
        log = NormLog(1, 3)
        log.append([x, torch.zeros(2), torch.ones(2)], x)
        expected = float(torch.linalg.vector_norm(x.double()))
        assert log.rows() == [[pytest.approx(expected, rel=1e-5), 0.0, pytest.approx(2**0.5, rel=1e-6)]]

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_a_norm_that_is_not_finite_stays_so(self, bad):
        log = NormLog(1, 2)
        log.append([torch.tensor([1.0, bad]), torch.ones(4)], torch.tensor(0.0))
        first, second = log.rows()[0]
        assert not math.isfinite(first)
        assert second == pytest.approx(2)


class TestArguments:
    @pytest.mark.parametrize("value", [3, "disk", object()])
    def test_memory(self, value):
        with pytest.raises(
            InputError, match=r"memory must be a memory policy such as Checkpoint\(\), with a method `tape`"
        ):
            Reverse(memory=value)
        with pytest.raises(InputError, match="memory must be a memory policy"):
            record(*quadratic(0.5)[:1], *quadratic(0.5)[2:], updater=SGD(0.1), steps=3, memory=value)

    @pytest.mark.parametrize("value", [3, "reverse", object()])
    def test_method(self, value):
        with pytest.raises(
            InputError, match=r"method must be a method such as Reverse\(horizon=20\), with a method `solve`"
        ):
            hypergradient(*quadratic(0.5), updater=SGD(0.1), steps=3, method=value)

    def test_classes(self):
        with pytest.raises(InputError, match="got the class Checkpoint; make an object of it"):
            Reverse(memory=Checkpoint)
        with pytest.raises(InputError, match="got the class Reverse; make an object of it"):
            hypergradient(*quadratic(0.5), updater=SGD(0.1), steps=3, method=Reverse)


def test_the_inner_gradient_norm_is_not_that_of_another_theta():
    problem = quadratic(0.5)
    outer = {"a": torch.tensor(0.5, dtype=DOUBLE)}
    results = [hypergradient(*problem[:3], outer, updater=SGD(1.0), steps=5) for _ in range(2)]
    assert results[0].diagnostics.inner_gradient_norm > 0
    outer["a"].add_(1.0)
    assert results[0].diagnostics.inner_gradient_norm > 0  # Evaluated before.
    with pytest.raises(InputError, match=r"outer\['a'\] was changed in place between the recording and inner_gradient"):
        results[1].diagnostics.inner_gradient_norm


@pytest.mark.parametrize("method", [Reverse(), Forward(), Implicit(), FiniteDifference()], ids=repr)
@pytest.mark.parametrize("where", ["inner", "outer", "updater"])
def test_nan_in_theta_is_named(method, where):
    theta = {"a": torch.tensor([1.0, math.nan]), "b": torch.tensor(1.0)}

    def inner(w, o):
        return (w - o["b"]).square().sum() * (o["a"].sum() if where == "inner" else 1.0)

    def outer_objective(w, o):
        return w.sum() * o["b"] * (o["a"].sum() if where == "outer" else 1.0)

    updater = SGD(lambda o: 0.1 * o["a"][1]) if where == "updater" else SGD(0.1)
    with pytest.raises(InputError, match=r"outer must be finite, but outer\['a'\] holds NaN; look at the last step"):
        hypergradient(inner, outer_objective, torch.zeros(2), theta, updater=updater, steps=3, method=method)


def test_diagnostics_keep_no_slots_and_nothing_once_they_were_asked():
    def count():
        gc.collect()
        return sum(type(x) is torch.Tensor and x.numel() == 12345 for x in gc.get_objects())

    problem = (lambda w, o: (w - o).square().sum(), lambda w, o: w.sum(), torch.zeros(12345), torch.tensor(1.0))
    before = count()
    kept = [hypergradient(*problem, updater=Adam(0.1), steps=2).diagnostics for _ in range(3)]
    assert count() - before <= 3
    assert all(found.inner_gradient_norm > 0 for found in kept)
    assert count() == before
