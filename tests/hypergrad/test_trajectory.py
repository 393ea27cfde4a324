"""The recorder: warm starts, memory, and states left alone."""

import math
import os
import subprocess
import sys

import optree
import pytest
import torch

from lds.hypergrad import Reverse, hypergradient, record, sweep
from lds.updaters import SGD, Adam, State, gradient
from tests.oracles import DOUBLE, Problem, regression, relative_error, same_bits, unroll

UPDATERS = {
    "sgd": SGD(lambda outer: outer["lr"]),
    "nesterov": SGD(0.05, momentum=0.8, nesterov=True),
    "adam": Adam(lambda outer: outer["lr"]),
}
all_updaters = pytest.mark.parametrize("updater", UPDATERS.values(), ids=UPDATERS.keys())


def recorded(problem, updater, steps, **options):
    return record(problem.inner, problem.params, problem.outer, updater=updater, steps=steps, **options)


class TestWarmStart:
    @all_updaters
    @pytest.mark.parametrize("dropout", [0.0, 0.5])
    def test_ten_and_ten_steps_are_twenty(self, updater, dropout):
        problem = regression(dropout=dropout)
        whole = recorded(problem, updater, 20, seed=5)
        half = recorded(problem, updater, 10, seed=5)
        rest = recorded(problem, updater, 10, seed=5, state=half.final_state)
        assert half.final_state.step == 10
        assert rest.final_state.step == 20
        assert same_bits(rest.final_state, whole.final_state)

    @all_updaters
    def test_its_sweep_is_the_end_of_the_whole_one(self, updater):
        problem = regression(dropout=0.5)
        whole = sweep(recorded(problem, updater, 20, seed=5), problem.outer_objective)
        half = recorded(problem, updater, 10, seed=5)
        rest = recorded(problem, updater, 10, seed=5, state=half.final_state)
        steps = list(sweep(rest, problem.outer_objective))
        assert len(steps) == 11
        assert same_bits([s.grad for s in steps], [next(whole).grad for _ in steps])

    def test_through_hypergradient_with_other_outer_variables(self):
        problem, updater = regression(dropout=0.5), Adam(0.05)
        first = hypergradient(*problem, updater=updater, steps=4, seed=5)
        moved = problem._replace(outer=optree.tree_map(lambda x, g: x - 0.1 * g, problem.outer, first.grad))
        second = hypergradient(*moved, updater=updater, steps=4, seed=5, state=first.state)
        expected = unroll(moved, updater, 4, seed=5, state=first.state)
        assert relative_error(second.grad, expected.grad) <= 1e-10
        assert second.state.step == 8

    def test_the_state_is_not_written_to(self):
        problem, updater = regression(), WritesInPlaceWhenRecorded()
        first = recorded(problem, updater, 3).final_state
        before = optree.tree_map(torch.clone, (first.params, first.slots))
        recorded(problem, updater, 3, state=first)
        assert same_bits((first.params, first.slots), before)

    def test_no_steps_return_the_state(self):
        problem = regression()
        first = recorded(problem, Adam(0.05), 3).final_state
        assert same_bits(recorded(problem, Adam(0.05), 0, state=first).final_state, first)


class WritesInPlaceWhenRecorded:
    """Heavy ball that saves memory where no graph is wanted."""

    def init(self, params):
        return optree.tree_map(torch.zeros_like, params)

    def step(self, state, outer, inner):
        grads = gradient(inner, state.params, outer)
        if torch.is_grad_enabled():
            slots = optree.tree_map(lambda b, g: 0.9 * b + g, state.slots, grads)
            return State(optree.tree_map(lambda w, b: w - 0.05 * b, state.params, slots), slots)
        optree.tree_map_(lambda b, g: b.mul_(0.9).add_(g), state.slots, grads)
        optree.tree_map_(lambda w, b: w.sub_(0.05 * b), state.params, state.slots)
        return state


@pytest.mark.parametrize("horizon", [None, 3])
def test_an_updater_may_write_in_place_while_recorded(horizon):
    problem, updater = regression(), WritesInPlaceWhenRecorded()
    before = optree.tree_map(torch.clone, (problem.params, problem.outer))
    # The problem has outer variables that this updater does not use: those are looked at most closely.
    found = hypergradient(*problem, updater=updater, steps=6, method=Reverse(horizon))
    assert same_bits((problem.params, problem.outer), before)
    pure = hypergradient(*problem, updater=SGD(0.05, momentum=0.9), steps=6, method=Reverse(horizon))
    assert relative_error(found.params, pure.params) <= 1e-14
    assert relative_error(found.grad, pure.grad) <= 1e-12


@pytest.mark.parametrize("steps", [0, 1, 4])
@pytest.mark.parametrize("horizon", [0, 1, 3, None])
def test_horizon_does_not_change_the_run(steps, horizon):
    problem = regression(dropout=0.5)
    trajectory = recorded(problem, Adam(0.05), steps, horizon=horizon)
    assert trajectory.steps == steps
    assert trajectory.horizon == min(steps, steps if horizon is None else horizon)
    assert same_bits(trajectory.final_state, unroll(problem, Adam(0.05), steps).state)


def test_params_need_not_be_contiguous():
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(7, 5, generator=generator, dtype=DOUBLE) for _ in range(2))
    problem = Problem(
        lambda w, o: torch.tanh(o * x @ w).square().mean(),
        lambda w, o: w.square().sum(),
        w.t()[:, :3],
        torch.tensor(1.0, dtype=DOUBLE),
    )
    for params in (problem.params, torch.ones(1, dtype=DOUBLE).expand(5, 3)):
        asked = problem._replace(params=params)
        found = hypergradient(*asked, updater=Adam(0.05), steps=5)
        assert relative_error(found.grad, unroll(asked, Adam(0.05), 5).grad) <= 1e-10


PEAK = """
import torch
from lds.hypergrad import KeepStates, Reverse, hypergradient
from lds.updaters import SGD

def anonymous_memory():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("RssAnon"))

def peak(steps, horizon):
    seen = []

    def inner(w, outer):
        seen.append(anonymous_memory())
        return outer * w.square().sum()

    params = torch.ones(1 << 17)
    method = Reverse(horizon, memory=KeepStates())
    hypergradient(
        inner, lambda w, o: w.sum(), params, torch.tensor(0.1), updater=SGD(0.1), steps=steps, method=method
    )
    return max(seen)

torch.set_num_threads(1)
peak(40, 40)  # What is made once a process.
print(*(peak(*asked) for asked in ((20, 20), (2000, 20), (40, 40))))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read where Linux shows it")
def test_memory_grows_with_the_horizon_and_not_with_the_steps():
    """20 iterates take 10 MiB: 2000 steps may not need 10 % more than 20 do, and 20 more iterates need as much."""
    # Every tensor gets pages of its own, given back when it is freed: measured are tensors, not the heap's gaps.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", PEAK]
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    short, long, deep = map(float, output.split())
    assert long - short <= 1
    assert deep - long == pytest.approx(10, abs=1)


@pytest.mark.parametrize("horizon", [None, 0, 1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_mean_loss_is_that_of_all_steps(horizon, dtype):
    problem = regression(dtype=dtype)
    whole = record(*problem[:1], *problem[2:], updater=SGD(0.05), steps=6).inner_losses
    trajectory = record(*problem[:1], *problem[2:], updater=SGD(0.05), steps=6, horizon=horizon)
    assert len(trajectory.inner_losses) == (6 if horizon is None else max(horizon, 1))
    assert trajectory.mean_loss == pytest.approx(math.fsum(whole) / 6, rel=1e-15)


def test_the_mean_loss_of_no_steps_is_no_number():
    problem = regression()
    assert math.isnan(record(*problem[:1], *problem[2:], updater=SGD(0.05), steps=0).mean_loss)
