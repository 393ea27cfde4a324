"""Every memory policy gives the hypergradient of the plain unroll, with the bits of every other, at its own cost."""

import math
from functools import cache

import optree
import pytest
import torch

from lds.errors import InputError
from lds.hypergrad import (
    Binomial,
    Checkpoint,
    Disk,
    KeepGradients,
    KeepGraphs,
    KeepStates,
    Offload,
    Reverse,
    hypergradient,
    record,
    sweep,
)
from lds.hypergrad.memory._checkpoint import split
from lds.updaters import SGD, Adam, State
from tests.hypergrad.test_outer import masked_regression, with_variable
from tests.oracles import regression, relative_error, ridge, same_bits, unroll

POLICIES = {
    "states": KeepStates(),
    "no graph": KeepGraphs(0),
    "some graphs": KeepGraphs(20_000),
    "all graphs": KeepGraphs(math.inf),
    "gradients": KeepGradients(),
    "gradients 1": KeepGradients(1),
    "gradients 5": KeepGradients(5),
    "checkpoint": Checkpoint(),
    "checkpoint 1": Checkpoint(1),
    "checkpoint 4": Checkpoint(4),
    "checkpoint 99": Checkpoint(99),
    "binomial 1": Binomial(1),
    "binomial 3": Binomial(3),
    "binomial 99": Binomial(99),
    "offload": Offload(),
    "disk": "disk",
}
UPDATERS = {"momentum": SGD(0.05, momentum=0.9), "adam": Adam(lambda outer: outer["lr"])}


@pytest.fixture(params=POLICIES.values(), ids=POLICIES.keys())
def memory(request, tmp_path):
    return Disk(tmp_path / "trajectory", save_every=3) if request.param == "disk" else request.param


class Counting:
    """An updater that counts its steps."""

    def __init__(self, updater):
        self.updater, self.init = updater, updater.init
        self.runs = 0

    def step(self, state, outer, inner):
        self.runs += 1
        return self.updater.step(state, outer, inner)


@pytest.mark.parametrize("updater", UPDATERS.values(), ids=UPDATERS.keys())
@pytest.mark.parametrize("steps", [1, 2, 11])
@pytest.mark.parametrize("horizon", [None, 3])
def test_equals_the_unroll_with_noise(memory, updater, steps, horizon):
    problem = regression(dropout=0.5)
    found = hypergradient(*problem, updater=updater, steps=steps, method=Reverse(horizon, memory=memory), seed=4)
    expected = unroll(problem, updater, steps, horizon=horizon, seed=4)
    assert same_bits(found.params, expected.state.params)
    assert relative_error(found.grad, expected.grad) <= 1e-13
    assert found.diagnostics.replay_error in (0.0, None)


@pytest.mark.parametrize("updater", UPDATERS.values(), ids=UPDATERS.keys())
def test_has_the_bits_of_every_other_policy(memory, updater):
    problem = regression(dropout=0.5)
    found, expected = (
        hypergradient(*problem, updater=updater, steps=13, method=Reverse(memory=m)) for m in (memory, KeepStates())
    )
    assert same_bits(found.grad, expected.grad)
    assert same_bits(found.state, expected.state)
    assert found.diagnostics.costate_norms == expected.diagnostics.costate_norms
    assert found.diagnostics.inner_losses == expected.diagnostics.inner_losses


def laid_out(layout):
    """A convolution and a matrix, with dropout, whose weights lie in memory in another order than their indices."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, 6, 6, generator=generator)
    params = {
        "conv": 0.2 * torch.randn(4, 3, 3, 3, generator=generator),
        "last": torch.randn(1, 4, generator=generator),
        "flat": torch.randn(5, generator=generator)[:, None],
    }
    params = {name: layout(w) for name, w in params.items()}

    def loss(params, outer):
        weights = torch.nn.functional.dropout(params["conv"], 0.5)
        hidden = torch.conv2d(x, weights).relu().mean((2, 3))
        noise = torch.rand_like(params["flat"]) * params["flat"]
        error = hidden @ torch.nn.functional.dropout(params["last"], 0.5).T - 1
        return error.square().mean() + outer.exp() * (params["conv"].square().sum() + noise.square().sum())

    return loss, loss, params, torch.tensor(-3.0)


LAYOUTS = {
    "channels last": lambda w: w.contiguous(memory_format=torch.channels_last) if w.ndim == 4 else w,
    "transposed": lambda w: w.mT.contiguous().mT,
    "with gaps": lambda w: torch.stack([w, w], -1)[..., 0],
    "expanded": lambda w: w[:, :1].expand(w.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("updater", UPDATERS.values(), ids=UPDATERS.keys())
def test_noise_is_drawn_in_the_order_of_memory_of_the_recorded_params(memory, updater, layout):
    loss, _, params, outer = laid_out(layout)
    updater = Adam(0.05) if isinstance(updater, Adam) else updater
    found, expected = (
        hypergradient(loss, loss, params, outer, updater=updater, steps=6, method=Reverse(memory=m))
        for m in (memory, KeepGraphs(math.inf))
    )
    assert same_bits(found.grad, expected.grad)
    assert same_bits(found.params, expected.params)
    assert [w.stride() for w in found.params.values()] == [w.stride() for w in expected.params.values()]


def test_a_trajectory_can_be_swept_again_and_after_half_a_sweep(memory):
    problem = regression(dropout=0.5)
    trajectory = record(problem.inner, *problem[2:], updater=Adam(0.05), steps=11, horizon=9, memory=memory)

    def depths(count):
        return [grad for _, (_, _, grad) in zip(range(count), sweep(trajectory, problem.outer_objective), strict=False)]

    half, whole, again = depths(5), depths(10), depths(10)
    assert len(whole) == 10
    assert same_bits(half, whole[:5])
    assert same_bits(whole, again)


@pytest.mark.parametrize(
    "memory", [p for n, p in POLICIES.items() if n != "disk"], ids=[n for n in POLICIES if n != "disk"]
)
def test_outer_variables_that_draw(memory):
    """Policies that run steps again must show them the same draws."""
    problem, _ = with_variable(masked_regression())
    found, expected = (
        hypergradient(*problem, updater=Adam(0.1), steps=7, method=Reverse(5, memory=m)) for m in (memory, KeepStates())
    )
    assert same_bits(found.grad, expected.grad)


@pytest.mark.parametrize(
    ("memory", "runs"),
    [
        (KeepGraphs(math.inf), 16),
        (KeepGraphs(0), 32),
        (KeepStates(), 32),
        (Offload(), 32),
        (Checkpoint(16), 32),  # The last segment is at hand.
        (Checkpoint(), 16 + 12 + 16),
        (Checkpoint(1), 16 + 15 + 16),
        (Binomial(16), 32),
        (Binomial(1), 16 + 16 + 15 * 14 // 2),
    ],
    ids=repr,
)
def test_runs_as_many_steps_as_it_says(memory, runs):
    updater = Counting(SGD(0.05))
    hypergradient(*ridge()[0], updater=updater, steps=16, method=Reverse(memory=memory))
    assert updater.runs == runs + 1  # And the last step once more, a little way off.


@pytest.mark.parametrize(("steps", "snapshots"), [(2, 2), (7, 3), (40, 4), (100, 5)])
def test_binomial_runs_the_fewest_steps(steps, snapshots):
    @cache
    def fewest(steps, states):
        """By trying every place for the next snapshot."""
        if steps == 1:
            return 0
        if states == 1:
            return steps * (steps - 1) // 2
        return min(m + fewest(steps - m, states - 1) + fewest(m, states) for m in range(1, steps))

    updater = Counting(SGD(0.05))
    hypergradient(*ridge()[0], updater=updater, steps=steps, method=Reverse(memory=Binomial(snapshots)))
    # The recorder runs all steps, the oracle only those before the last; the sweep runs each once with a graph, and the
    # last one once more, a little way off.
    assert updater.runs == fewest(steps, snapshots) + 1 + steps + 1


def test_split_leaves_steps_on_both_sides():
    assert all(1 <= split(steps, free) < steps for steps in range(2, 200) for free in range(1, 12))


class TestGraphs:
    def graphs(self, budget, steps=12):
        """Which steps of a trajectory have a graph."""
        problem = regression()
        trajectory = record(problem.inner, *problem[2:], updater=Adam(0.05), steps=steps, memory=KeepGraphs(budget))
        return [trajectory.segments[-1].tape.load(t).graph is not None for t in reversed(range(steps))][::-1]

    def test_are_kept_of_the_last_steps(self):
        kept = self.graphs(20_000)
        assert 0 < sum(kept) < 12
        assert kept == sorted(kept)

    def test_the_budget_counts_the_iterates_too(self):
        sizes = [sum(self.graphs(budget)) for budget in (0, 5_000, 20_000, 80_000, math.inf)]
        assert sizes == sorted(sizes)
        assert sizes[0] == 0
        assert sizes[-1] == 12

    def test_there_is_none_where_the_iterates_take_all(self):
        size = sum(x.nbytes for x in optree.tree_leaves(regression().params))
        assert sum(self.graphs(12 * 3 * size)) == 0  # The params and Adam's two moments.

    def test_what_every_step_saves_counts_once(self):
        """Data and θ are saved by every step, and are there without it."""
        data = torch.randn(1000, 100)
        trajectory = record(
            lambda w, o: (data @ w).square().mean() * o, torch.ones(100), torch.tensor(1.0), updater=SGD(0.01),
            steps=10, memory=KeepGraphs(200_000),
        )  # fmt: skip
        assert all(trajectory.segments[-1].tape.load(t).graph is not None for t in reversed(range(10)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KeepGraphs(-1), "budget must be a number of bytes >= 0, got -1"),
        (lambda: KeepGraphs(math.nan), "budget must be a number of bytes >= 0, got nan"),
        (lambda: Checkpoint(0), "every must be an integer >= 1, got 0"),
        (lambda: Checkpoint(2.0), "every must be an integer >= 1, got 2.0"),
        (lambda: KeepGradients(0), "every must be an integer >= 1, got 0"),
        (lambda: Binomial(0), "snapshots must be an integer >= 1, got 0"),
        (lambda: Disk("x", save_every=0), "save_every must be an integer >= 1, got 0"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        make()


class CountingInPlace(SGD):
    """Keeps an integer in a tensor, and writes to it."""

    def init(self, params):
        return {"steps": torch.tensor(0)}

    def step(self, state, outer, inner):
        count = state.slots["steps"].add_(1)
        params = super().step(State(state.params), outer, inner).params
        return State({**params, "scale": params["scale"] * 0.99 ** count.item()}, {"steps": count})


def test_counters_may_be_written_to(memory):
    if isinstance(memory, KeepGradients):
        pytest.skip("this updater has a step of its own")
    problem = regression()
    found, expected = (
        hypergradient(*problem, updater=CountingInPlace(0.05), steps=7, method=Reverse(memory=m))
        for m in (memory, Checkpoint(3))
    )
    assert found.state.slots["steps"] == 7
    assert same_bits(found.grad, expected.grad)
    assert relative_error(found.grad, unroll(problem, Fresh(0.05), 7).grad) <= 1e-12


class Fresh(CountingInPlace):
    """The same on a counter of its own."""

    def step(self, state, outer, inner):
        return super().step(state._replace(slots={"steps": state.slots["steps"].clone()}), outer, inner)
