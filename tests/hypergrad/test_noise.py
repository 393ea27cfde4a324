"""Randomness inside Φ repeats in the sweep, and the caller's generators are left alone."""

import itertools
import random
import sys
from functools import partial

import numpy as np
import pytest
import torch

from lds import _random
from lds._random import DRAW, INIT, STEP, forked, mix, reseed
from lds.errors import InputError, ReplayError
from lds.hypergrad import KeepStates, Reverse, hypergradient, record, sweep
from lds.updaters import SGD, Adam, State, gradient
from tests.oracles import DOUBLE, Problem, regression, relative_error, same_bits, unroll

X = torch.linspace(-1, 1, 30, dtype=DOUBLE).reshape(10, 3)


def torch_rows():
    return torch.randperm(10)[:3].tolist()


def numpy_rows():
    return np.random.choice(10, 3, replace=False).tolist()


def python_rows():
    return random.sample(range(10), 3)


# Runs every step again in the sweep.
REPLAY = Reverse(memory=KeepStates())
SOURCES = {"torch": torch_rows, "numpy": numpy_rows, "random": python_rows}
all_sources = pytest.mark.parametrize("rows", SOURCES.values(), ids=SOURCES.keys())


def minibatches(rows, log=None):
    """An inner objective on three random rows of data a step."""

    def inner(w, outer):
        chosen = rows()
        if log is not None:
            log.append(chosen)
        return outer * torch.tanh(X[chosen] @ w).square().mean() + 0.1 * (w - 1).square().sum()

    return Problem(inner, lambda w, o: w.square().sum(), torch.ones(3, dtype=DOUBLE), torch.tensor(2.0, dtype=DOUBLE))


def generator_states():
    numpy_state = np.random.get_state()
    return (
        torch.get_rng_state().tolist(),
        random.getstate(),
        (numpy_state[0], numpy_state[1].tolist(), *numpy_state[2:]),
    )


@all_sources
def test_the_sweep_sees_the_recorded_draws_in_reverse(rows):
    log = []
    problem = minibatches(rows, log)
    result = hypergradient(*problem, updater=SGD(0.3), steps=6, method=Reverse(4, memory=KeepStates()))
    recorded, (last, *swept) = log[:6], log[6:]
    spot, *swept = swept  # The last step is evaluated once more, a little way off.
    assert [last, *swept] == recorded[:1:-1]
    assert spot == last
    assert len({tuple(chosen) for chosen in recorded}) > 3
    assert result.diagnostics.replay_error == 0.0
    assert relative_error(result.grad, unroll(minibatches(rows), SGD(0.3), 6, horizon=4).grad) <= 1e-10


@all_sources
def test_the_seed_decides(rows):
    problem = minibatches(rows)
    first, again, other = (hypergradient(*problem, updater=Adam(0.1), steps=6, seed=s).grad for s in (7, 7, 8))
    assert same_bits(first, again)
    assert relative_error(other, first) > 1e-3


def test_the_seed_decides_whatever_the_caller_drew():
    problem = regression(dropout=0.5)
    first = hypergradient(*problem, updater=Adam(0.05), steps=6).grad
    torch.rand(3)
    random.random()
    np.random.rand()
    assert same_bits(hypergradient(*problem, updater=Adam(0.05), steps=6).grad, first)


class AllThree:
    """An updater that draws from every generator, in `init` too."""

    def init(self, params):
        return self.draw()

    def step(self, state, outer, inner):
        return State(state.params - self.draw() * gradient(inner, state.params, outer), self.draw())

    def draw(self):
        return 0.05 * (torch.rand((), dtype=DOUBLE) + random.random() + np.random.rand())


def noisy_problem():
    problem = minibatches(lambda: torch_rows()[:1] + numpy_rows()[:1] + python_rows()[:1])
    return problem._replace(outer_objective=lambda w, o: w.square().sum() * torch.rand(()) * np.random.rand())


class TestTheGeneratorsOfTheCaller:
    def test_are_left_alone(self):
        problem, before = noisy_problem(), generator_states()
        trajectory = record(problem.inner, problem.params, problem.outer, updater=AllThree(), steps=3)
        assert generator_states() == before
        for _ in sweep(trajectory, problem.outer_objective):
            assert generator_states() == before
        assert generator_states() == before
        result = hypergradient(*problem, updater=AllThree(), steps=3)
        assert generator_states() == before
        assert result.diagnostics.inner_gradient_norm > 0
        assert generator_states() == before

    def test_are_left_alone_when_the_sweep_is_stopped(self):
        problem, before = noisy_problem(), generator_states()
        trajectory = record(problem.inner, problem.params, problem.outer, updater=AllThree(), steps=3)
        stopped = sweep(trajectory, problem.outer_objective)
        next(stopped)
        stopped.close()
        assert generator_states() == before

    def test_are_left_alone_after_an_error(self):
        problem, before = noisy_problem(), generator_states()
        with pytest.raises(ZeroDivisionError):
            hypergradient(lambda w, o: 1 / 0 if torch.rand(()) + 1 else None, *problem[1:], updater=AllThree(), steps=3)
        assert generator_states() == before

    def test_may_be_used_between_two_yields(self):
        problem = noisy_problem()
        trajectory = record(problem.inner, problem.params, problem.outer, updater=AllThree(), steps=3)
        undisturbed = [s.grad for s in sweep(trajectory, problem.outer_objective)]
        torch.manual_seed(0)
        expected = [torch.rand(()).item() for _ in range(4)]
        torch.manual_seed(0)
        grads, drawn = [], []
        for step in sweep(trajectory, problem.outer_objective):
            grads.append(step.grad)
            drawn.append(torch.rand(()).item())
            random.random()
        assert drawn == expected
        assert same_bits(grads, undisturbed)

    def test_do_not_decide_the_slots(self):
        problem = noisy_problem()
        torch.manual_seed(1)
        first = record(problem.inner, problem.params, problem.outer, updater=AllThree(), steps=0, seed=3)
        torch.manual_seed(2)
        again = record(problem.inner, problem.params, problem.outer, updater=AllThree(), steps=0, seed=3)
        assert same_bits(first.final_state, again.final_state)


def test_an_updater_that_draws_equals_the_unroll():
    problem = noisy_problem()
    for horizon in (None, 3):
        found = hypergradient(*problem, updater=AllThree(), steps=7, method=Reverse(horizon), seed=2)
        assert relative_error(found.grad, unroll(problem, AllThree(), 7, horizon=horizon, seed=2).grad) <= 1e-10


class TestReplayError:
    def problem(self):
        numbers = itertools.count(1)

        def inner(params, outer):
            return (outer["a"] * params["w"] * next(numbers)).square().sum()

        params = {"w": torch.ones(2, dtype=DOUBLE)}
        return Problem(inner, lambda p, o: p["w"].sum(), params, {"a": torch.tensor(0.1, dtype=DOUBLE)})

    def test_names_the_step_and_the_leaf(self):
        with pytest.raises(ReplayError, match=r"step 3 gave another state\.params\['w'\] than was recorded") as caught:
            hypergradient(*self.problem(), updater=SGD(0.01), steps=4, method=REPLAY)
        assert "iterator" in str(caught.value)
        assert 'noise="resample"' in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_names_a_slot(self):
        class Counts:
            def __init__(self):
                self.calls = 0

            def init(self, params):
                return {"calls": [0], "moment": torch.zeros(())}

            def step(self, state, outer, inner):
                self.calls += 1
                return State(state.params * outer, {"calls": [self.calls], "moment": state.slots["moment"]})

        with pytest.raises(ReplayError, match=r"step 1 gave another state\.slots\['calls'\]\[0\] "):
            hypergradient(
                lambda w, o: w.sum(), lambda w, o: w.sum(), torch.ones(2), torch.ones(2), updater=Counts(), steps=2,
                method=REPLAY,
            )  # fmt: skip

    def test_a_warm_start_counts_the_steps_of_its_own_trajectory(self):
        state = record(*self.problem()[:1], *self.problem()[2:], updater=SGD(0.01), steps=4).final_state
        with pytest.raises(ReplayError, match="step 1 "):
            hypergradient(*self.problem(), updater=SGD(0.01), steps=2, state=state, method=REPLAY)

    @pytest.mark.parametrize(
        "method",
        [
            Reverse(memory=KeepStates(), check_replay=False),
            Reverse(noise="resample"),
            Reverse(check_replay=False),
        ],
    )
    def test_can_be_turned_off(self, method):
        result = hypergradient(*self.problem(), updater=SGD(0.01), steps=4, method=method)
        assert torch.isfinite(result.grad["a"])
        assert result.diagnostics.replay_error is None

    def test_the_default_policy_looks_at_the_last_step(self):
        with pytest.raises(ReplayError, match=r"step 3 .* numbers, an iterator, which moves on; give the batches as"):
            hypergradient(*self.problem(), updater=SGD(0.01), steps=4)

    @pytest.mark.filterwarnings("ignore::lds.errors.UnreachedWarning")
    def test_turned_off_an_unused_outer_variable_is_no_error(self):
        problem = self.problem()
        outer = {**problem.outer, "unused": torch.tensor(1.0)}
        method = Reverse(memory=KeepStates(), check_replay=False)
        result = hypergradient(*problem._replace(outer=outer), updater=SGD(0.01), steps=4, method=method)
        assert result.grad["unused"] == 0

    def test_a_nan_that_repeats_is_none(self):
        """Counters and notes in the slots may hold NaN; nothing that is differentiated does."""

        class Noting(SGD):
            def init(self, params):
                return {"seen": torch.tensor(float("nan"))}

            def step(self, state, outer, inner):
                new = SGD(0.1).step(state._replace(slots=SGD(0.1).init(state.params)), outer, inner)
                return new._replace(slots={"seen": state.slots["seen"].detach()})

        result = hypergradient(
            lambda w, o: (o * w).square().sum(), lambda w, o: w.sum(), torch.ones(2), torch.tensor(1.0),
            updater=Noting(0.1), steps=3, method=REPLAY,
        )  # fmt: skip
        assert torch.isnan(result.state.slots["seen"])
        assert result.diagnostics.replay_error == 0.0

    @pytest.mark.parametrize(("size", "passes"), [(1e-15, True), (1e-12, False)])
    def test_rounding_is_none(self, size, passes):
        signs = itertools.count()

        def inner(w, outer):
            return outer * (1 + size * (next(signs) % 2)) * w.square().sum()

        def run():
            problem = Problem(inner, lambda w, o: w.sum(), *torch.ones(2, dtype=DOUBLE))
            return hypergradient(*problem, updater=SGD(10.0), steps=1, method=REPLAY)

        if passes:
            assert 0 < run().diagnostics.replay_error < 1e-13
        else:
            with pytest.raises(ReplayError):
                run()

    def test_a_step_that_looks_at_the_grad_mode_is_told_of_it(self):
        class Different(SGD):
            def step(self, state, outer, inner):
                new = super().step(state, outer, inner)
                return new if torch.is_grad_enabled() else new._replace(params=new.params * 1.01)

        with pytest.raises(ReplayError, match="step 1 must give the same state with a graph as without one, but diff"):
            hypergradient(
                lambda w, o: (o * w).square().sum(), lambda w, o: w.sum(), torch.ones(2), torch.tensor(1.0),
                updater=Different(0.1), steps=2, method=REPLAY,
            )  # fmt: skip


class TestResample:
    @pytest.mark.parametrize("updater", [SGD(0.05), Adam(0.05)])
    def test_differs_with_dropout(self, updater):
        problem = regression(dropout=0.5)
        replayed, resampled = (
            hypergradient(*problem, updater=updater, steps=6, method=Reverse(noise=noise))
            for noise in ("replay", "resample")
        )
        assert same_bits(resampled.params, replayed.params)
        assert resampled.outer_loss == replayed.outer_loss
        assert relative_error(resampled.grad["sample_weights"], replayed.grad["sample_weights"]) > 1e-3

    @pytest.mark.parametrize("updater", [SGD(0.05), Adam(0.05)])
    def test_is_the_same_without_noise(self, updater):
        replayed, resampled = (
            hypergradient(*regression(), updater=updater, steps=6, method=Reverse(noise=noise)).grad
            for noise in ("replay", "resample")
        )
        assert same_bits(resampled, replayed)

    def test_draws_are_new_and_seeded(self):
        logs = []
        for seed in (1, 1, 2):
            logs.append([])
            hypergradient(
                *minibatches(torch_rows, logs[-1]),
                updater=SGD(0.3),
                steps=6,
                method=Reverse(noise="resample"),
                seed=seed,
            )
        assert logs[0] == logs[1] != logs[2]
        assert len({tuple(chosen) for chosen in logs[0]}) > 8


@pytest.mark.parametrize("noise", ["Replay", "", None, 1])
def test_another_noise_is_refused(noise):
    with pytest.raises(InputError, match='noise must be "replay" or "resample", got'):
        Reverse(noise=noise)
    problem = regression()
    trajectory = record(problem.inner, problem.params, problem.outer, updater=SGD(0.05), steps=1)
    with pytest.raises(InputError, match='noise must be "replay" or "resample", got'):
        next(sweep(trajectory, problem.outer_objective, noise=noise))


class TestSeeds:
    def test_every_seed_step_and_stream_has_numbers_of_its_own(self):
        seeds = [mix(s, t, stream) for s in range(20) for t in range(20) for stream in range(8)]
        assert len(set(seeds)) == len(seeds)
        assert all(0 <= seed < 1 << 63 for seed in seeds)

    def test_order_and_sign_matter(self):
        assert len({mix(1, 2), mix(2, 1), mix(-1, 2), mix(1, -2), mix(1), mix(1, 2, 0)}) == 6

    def test_integers_of_numpy_are_integers(self):
        assert mix(np.int64(-3), np.int32(7)) == mix(-3, 7)

    def test_streams_differ(self):
        drawn = []
        with forked():
            for stream in (DRAW, STEP, INIT):
                reseed(0, 0, stream)
                drawn += [torch.rand(()).item(), random.random(), np.random.rand()]
        assert len(set(drawn)) == 9

    def test_huge_and_negative_seeds(self):
        problem = regression(dropout=0.5)
        grads = [hypergradient(*problem, updater=SGD(0.05), steps=2, seed=s).grad for s in (-1, 0, 1 << 63)]
        assert relative_error(grads[0], grads[1]) > 1e-3
        assert relative_error(grads[2], grads[1]) > 1e-3


class TestPythonsGenerator:
    """Its memory is copied where it lies as in CPython."""

    @pytest.fixture(params=["memory", "state"], autouse=True)
    def found(self, request, monkeypatch):
        state = _random._PYTHON
        if sys.implementation.name == "cpython":
            assert state._address
        if request.param == "state":
            monkeypatch.setattr(state, "_address", 0)

    @pytest.mark.parametrize("drawn", [0, 1, 623, 624])
    @pytest.mark.parametrize("kind", ["uniform", "normal"])
    def test_goes_on_where_it_was(self, kind, drawn):
        draw = random.random if kind == "uniform" else partial(random.gauss, 0, 1)
        random.seed(5)
        for _ in range(drawn):
            draw()
        state = random.getstate()
        for _ in range(3):
            with forked():
                reseed(1, 2, 3)
                random.gauss(0, 1)
        assert random.getstate() == state

    def test_is_seeded_as_by_python(self):
        with forked():
            random.gauss(0, 1)
            reseed(1, 2)
            state = random.getstate()
        assert state == random.Random(mix(1, 2)).getstate()


class TestNumpysGenerator:
    """Its memory is copied where that is the whole state."""

    @pytest.mark.parametrize("drawn", [0, 1, 2, 3, 311, 312, 624])
    @pytest.mark.parametrize("kind", ["uniform", "normal"])
    def test_goes_on_where_it_was(self, kind, drawn):
        def numbers():
            return np.random.rand(5) if kind == "uniform" else np.random.randn(5)

        def prepare():
            np.random.seed(5)
            np.random.rand(drawn) if kind == "uniform" else np.random.randn(drawn)

        prepare()
        expected = numbers()
        prepare()
        for _ in range(3):
            with forked():
                reseed(1, 2, 3)
                np.random.randn(3)
        assert np.array_equal(numbers(), expected)

    def test_a_number_in_reserve_that_comes_back_is_kept(self):
        np.random.seed(5)
        np.random.randn(1)
        state, expected = np.random.get_state(), np.random.randn(3)
        np.random.set_state(state)
        np.random.randn(1)  # The one in reserve.
        with forked():
            reseed(1)
        np.random.set_state(state)
        with forked():
            reseed(1)
        assert np.array_equal(np.random.randn(3), expected)

    def test_another_kind_of_generator(self):
        before = np.random.get_bit_generator()
        np.random.set_bit_generator(np.random.PCG64(3))
        try:
            state = np.random.get_state(legacy=False)
            with forked():
                np.random.rand(4)
            assert np.random.get_state(legacy=False) == state
        finally:
            np.random.set_bit_generator(before)

    def test_draws_inside_are_a_function_of_the_seed(self):
        found = []
        for _ in range(2):
            np.random.randn(1)
            with forked():
                reseed(9)
                found.append(np.random.randn(3))
        assert np.array_equal(*found)
