"""KeepGradients makes states again without objective and data, for updaters that are an update of a gradient."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from lds.errors import InputError
from lds.hypergrad import (
    Batches,
    KeepGradients,
    KeepGraphs,
    KeepStates,
    Reverse,
    functional,
    hypergradient,
    record,
    unroll,
)
from lds.updaters import SGD, Adam, ClipByNorm, ClipByValue, GradientUpdater, Groups, State, schedules
from tests.oracles import regression, same_bits

STEPS = 13


def both(problem, updater, **options):
    return [
        hypergradient(*problem, updater=updater, steps=STEPS, method=Reverse(memory=m), **options)
        for m in (KeepGradients(), KeepStates())
    ]


@pytest.mark.parametrize(
    "updater",
    [
        ClipByNorm(Adam(lambda outer: outer["lr"]), 0.1),
        ClipByValue(SGD(0.05, momentum=0.9), 0.01),
        Groups({"a": Adam(0.05), "b": SGD(0.1)}, lambda name, w: "a" if w.ndim else "b"),
        SGD(schedules.Cosine(0.1, 0.0, STEPS), momentum=0.9, dampening=0.5),
        Adam(0.05, amsgrad=True),
    ],
    ids=["norm", "value", "groups", "schedule", "amsgrad"],
)
def test_wrappers_have_the_same_bits(updater):
    found, expected = both(regression(dropout=0.5), updater)
    assert same_bits(found.grad, expected.grad)
    assert same_bits(found.state, expected.state)
    assert found.diagnostics.replay_error in (0.0, None)


class Counted(torch.utils.data.Dataset):
    """Batches that count how often one is fetched."""

    def __init__(self):
        self.fetched = 0

    def __len__(self):
        return STEPS

    def __getitem__(self, i):
        self.fetched += 1
        return torch.tensor([float(i)])


def test_neither_objective_nor_data_are_asked_for_where_states_are_made_again():
    data, calls = Counted(), []

    def inner(w, outer, batch):
        calls.append(1)
        return ((w - batch) * outer).square().sum()

    trajectory = record(
        inner, torch.ones(1), torch.ones(()), updater=SGD(0.01, momentum=0.9), steps=STEPS, memory=KeepGradients(),
        batches=Batches(data, 1),
    )  # fmt: skip
    assert len(calls) == data.fetched == STEPS
    for t in reversed(range(STEPS)):
        trajectory.segments[-1].tape.load(t)
    assert len(calls) == data.fetched == STEPS


def test_keeps_gradients_and_few_states():
    trajectory = record(
        lambda w, o: (w * o).square().sum(), torch.ones(1000), torch.ones(()), updater=Adam(0.1), steps=100,
        memory=KeepGradients(),
    )  # fmt: skip
    tape = trajectory.segments[-1].tape
    slabs = [tape._gradients, tape._checkpoints, tape._states]
    numbers = sum(c.numel() for slab in slabs for c in slab._columns if isinstance(c, torch.Tensor))
    assert numbers == 1000 * (100 + 3 * (10 + 10))


class Noisy(GradientUpdater):
    """Langevin steps, which draw."""

    def init(self, params):
        return ()

    def update(self, grads, state, outer):
        return State(state.params - 0.1 * grads + 0.01 * torch.randn_like(state.params))


class Late(GradientUpdater):
    """Reads how often it was called."""

    def __init__(self):
        self.calls = 0

    def init(self, params):
        return ()

    def update(self, grads, state, outer):
        self.calls += 1
        return State(state.params - 0.1 / self.calls * grads)


class OwnStep(SGD):
    def step(self, state, outer, inner):
        return super().step(state, outer, inner)


@dataclass
class Plain:
    def init(self, params):
        return ()

    def step(self, state, outer, inner):
        return State(state.params * 0.9)


@pytest.mark.parametrize(
    ("updater", "message"),
    [
        (Noisy(), r"that of Noisy gave another state\.params when it was called again .* draws random numbers"),
        (Late(), r"that of Late gave another state\.params when it was called again"),
        (OwnStep(0.1), "OwnStep has a step of its own"),
        (Plain(), "Plain is no GradientUpdater"),
    ],
    ids=lambda x: type(x).__name__,
)
@pytest.mark.parametrize("steps", [1, 9])
def test_what_has_no_update_alone_is_refused(updater, message, steps):
    with pytest.raises(InputError, match=message):
        record(
            lambda w, o: (nn.functional.dropout(w) * o).square().sum(), torch.ones(3), torch.ones(()), updater=updater,
            steps=steps, memory=KeepGradients(),
        )  # fmt: skip


def test_an_update_may_draw_where_the_objective_does_not():
    found, expected = (
        hypergradient(lambda w, o: (w * o).square().sum(), lambda w, o: w.sum(), torch.ones(3), torch.ones(()),
                      updater=Noisy(), steps=9, method=Reverse(memory=m))
        for m in (KeepGradients(), KeepStates())
    )  # fmt: skip
    assert same_bits(found.grad, expected.grad)


def test_params_with_buffers_are_refused():
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    params, call = functional(net, buffers=True)
    x = torch.randn(5, 3)
    with pytest.raises(InputError, match="the params carry buffers"):
        unroll(
            lambda p, o: (call(p, x) * o).square().sum(), params, torch.ones((), requires_grad=True), updater=SGD(0.1),
            steps=3, method=Reverse(memory=KeepGradients()),
        )  # fmt: skip


def test_a_horizon_and_an_unroll():
    problem = regression()
    found, expected = (
        hypergradient(*problem, updater=Adam(0.05), steps=STEPS, method=Reverse(7, memory=m))
        for m in (KeepGradients(3), KeepGraphs())
    )
    assert same_bits(found.grad, expected.grad)
