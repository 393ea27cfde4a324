"""Traced: the bits of eager steps, and one clear error where a step is not what was traced."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from lds.errors import InputError, UnreachedWarning
from lds.hypergrad import (
    Batches,
    Checkpoint,
    Forward,
    KeepGradients,
    KeepGraphs,
    KeepStates,
    Reverse,
    Traced,
    functional,
    hypergradient,
    unroll,
)
from lds.updaters import SGD, Adam, ClipByNorm, Groups
from tests.oracles import regression, relative_error, same_bits
from tests.oracles import unroll as full_unroll

DOUBLE = torch.float64
UPDATERS = {
    "momentum": SGD(0.05, momentum=0.9),
    "learned lr": Adam(lambda outer: outer["lr"]),
    "clipped": ClipByNorm(Adam(0.05), 0.1),
    "groups": Groups({"a": Adam(0.05), "b": SGD(0.1)}, lambda name, w: "a" if w.ndim else "b"),
}
POLICIES = [KeepGraphs(), KeepGraphs(0), KeepStates(), KeepGradients(), Checkpoint()]


@pytest.mark.parametrize("memory", POLICIES, ids=repr)
@pytest.mark.parametrize("updater", UPDATERS.values(), ids=UPDATERS.keys())
def test_equals_eager_steps(updater, memory):
    problem = regression()
    found = hypergradient(*problem, updater=Traced(updater), steps=11, method=Reverse(memory=memory))
    expected = hypergradient(*problem, updater=updater, steps=11)
    assert same_bits(found.params, expected.params)
    assert relative_error(found.grad, expected.grad) <= 1e-13
    assert relative_error(found.grad, full_unroll(problem, updater, 11).grad) <= 1e-12
    assert relative_error(found.params_grad, expected.params_grad) <= 1e-13


def solve(inner, w=None, outer=None, steps=6, updater=None, **options):
    w = torch.ones(3, dtype=DOUBLE) if w is None else w
    outer = torch.tensor(0.3, dtype=DOUBLE) if outer is None else outer
    updater = Traced(SGD(0.1, momentum=0.9)) if updater is None else updater
    return hypergradient(inner, lambda w, o: w.square().sum(), w, outer, updater=updater, steps=steps, **options)


class Changes:
    """An objective that reads a number which changes."""

    def __init__(self):
        self.calls = 0

    def __call__(self, w, o):
        self.calls += 1
        return (w * o).square().sum() * (1 + self.calls)


def branches(w, o):
    return (w * o).square().sum() * (2 if w.sum() > 0 else 1)


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (branches, "looks at values"),
        (lambda w, o: (w * o).square().sum() * w.sum().item(), "looks at values"),
        (lambda w, o: (nn.functional.dropout(w, 0.5) * o).square().sum(), "draws random numbers"),
        (lambda w, o: (w * o + torch.randn(3)).square().sum(), "draws random numbers"),
        (Changes(), "of an eager step 5 differs"),
    ],
    ids=["branch", "item", "dropout", "noise", "state"],
)
@pytest.mark.parametrize("memory", [KeepGraphs(), KeepGradients(), KeepStates()], ids=repr)
def test_what_is_another_in_every_step_is_refused(inner, message, memory):
    with pytest.raises(InputError, match=message):
        solve(inner, method=Reverse(memory=memory))


def test_batches_buffers_and_second_derivatives_are_refused():
    x = torch.randn(8, 3, dtype=DOUBLE)
    with pytest.raises(InputError, match="with batches it is another one in every step"):
        solve(lambda w, o, b: (b[0] @ w * o).square().mean(), batches=Batches(TensorDataset(x), 4))
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).double()
    params, call = functional(net, buffers=True)
    with pytest.raises(InputError, match="with buffers in the params"):
        unroll(lambda p, o: (call(p, x) * o).square().sum(), params, torch.ones((), requires_grad=True),
               updater=Traced(SGD(0.1)), steps=2)  # fmt: skip
    with pytest.raises(InputError, match="Traced needs an updater that works on the inner gradient alone"):
        Traced(type("Own", (SGD,), {"step": lambda self, *a: SGD.step(self, *a)})(0.1))
    theta = torch.tensor(0.3, dtype=DOUBLE, requires_grad=True)
    w = unroll(
        lambda w, o: (w * o).square().sum(), torch.ones(3, dtype=DOUBLE), theta, updater=Traced(SGD(0.1)), steps=3
    )
    with pytest.raises(InputError, match="can be differentiated once"):
        torch.autograd.grad(w.sum(), theta, create_graph=True)
    with pytest.raises(InputError, match="can be differentiated once"):
        solve(lambda w, o: (w * o).square().sum(), method=Forward())


def test_a_network_in_place_and_unused_weights():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(),
                        nn.Linear(16, 3)).double()  # fmt: skip
    params, call = functional(net)
    params["unused"] = torch.ones(2, dtype=DOUBLE)
    x, y = torch.randn(7, 1, 6, 6, dtype=DOUBLE), torch.arange(7) % 3

    def loss(p, o):
        p = {k: v for k, v in p.items() if k != "unused"}
        return (nn.functional.cross_entropy(call(p, x), y, reduction="none") * o["w"].sigmoid()).mean()

    outer = {"w": torch.zeros(7, dtype=DOUBLE), "idle": torch.zeros(2, dtype=DOUBLE)}
    results = []
    for updater in (Traced(Adam(0.01)), Adam(0.01)):
        with pytest.warns(UnreachedWarning, match="idle"):
            results.append(
                hypergradient(
                    loss, loss, params, outer, updater=updater, steps=5, method=Reverse(memory=KeepGradients())
                )
            )
    found, expected = results
    assert relative_error(found.grad, expected.grad) <= 1e-12
    assert same_bits(found.params, expected.params)


def test_the_objective_is_called_for_the_trace_and_for_the_checks_alone():
    counts = []
    for steps in (5, 50):
        calls = []
        solve(lambda w, o, calls=calls: calls.append(1) or (w * o).square().sum(), steps=steps)
        counts.append(len(calls))
    assert counts[0] == counts[1] <= 8


def test_what_the_objective_closes_over_may_change_between_trajectories():
    scale, updater = {"value": 1.0}, Traced(SGD(0.1))

    def inner(w, o):
        return (w * o).square().sum() * scale["value"]

    for scale["value"] in (1.0, 2.0):
        found, expected = (solve(inner, updater=u) for u in (updater, SGD(0.1)))
        assert relative_error(found.grad, expected.grad) <= 1e-13


def test_foreign_tensors_are_still_seen():
    foreign = torch.ones(3, dtype=DOUBLE, requires_grad=True)
    with pytest.warns(UserWarning, match="neither in params nor in outer"):
        solve(lambda w, o: (w * o * foreign).square().sum())
