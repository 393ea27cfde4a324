"""`unroll` on the kinds of models that higher, TorchOpt and Betty test with, against one graph in float64."""

import warnings

import pytest
import torch
from torch import nn

from lds.hypergrad import Binomial, Checkpoint, KeepGraphs, KeepStates, Offload, Reverse, functional, unroll
from lds.updaters import SGD, Adam
from tests.hypergrad.test_unroll import error, grads, leaves_of, plain
from tests.oracles import DOUBLE

POLICIES = [KeepGraphs(), KeepGraphs(0), KeepStates(), Checkpoint(), Binomial(2), Offload()]


class Convolutions(nn.Module):
    """Convolution, BatchNorm, ReLU in place, pooling."""

    shape = (4, 1, 8, 8)

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3, momentum=1.0, affine=True), nn.ReLU(inplace=True),
            nn.MaxPool2d(2), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3, track_running_stats=False), nn.ReLU(inplace=True),
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3, 2),
        )  # fmt: skip

    def forward(self, x):
        return self.layers(x)


class Recurrent(nn.Module):
    """A layer that returns its outputs and its last hidden state."""

    shape = (5, 4, 3)

    def __init__(self, layer, **more):
        super().__init__()
        self.layer, self.head = layer(3, 4, **more), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.layer(x)[0][-1])


class Cells(nn.Module):
    """A cell in a loop."""

    shape = (5, 4, 3)

    def __init__(self, cell):
        super().__init__()
        self.cell, self.head = cell(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        hidden = None
        for step in x:
            hidden = self.cell(step, hidden)
        return self.head(hidden[0] if isinstance(hidden, tuple) else hidden)


class Shared(nn.Module):
    """One layer at two places, one tied weight, one layer that is used in part, and one that is never used."""

    shape = (4, 3)

    def __init__(self):
        super().__init__()
        self.first, self.twice, self.last = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.again, self.never = self.twice, nn.Linear(2, 2)
        self.tied = nn.Linear(3, 4, bias=False)
        self.tied.weight = self.first.weight

    def forward(self, x):
        hidden = torch.tanh(self.again(torch.tanh(self.twice(torch.tanh(self.first(x) + self.tied(x))))))
        return nn.functional.linear(hidden, self.last.weight)  # Without its bias.


class Frozen(nn.Module):
    """Layers that do not learn below and between those that do, with dropout."""

    shape = (4, 3)

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Dropout(0.3), nn.Tanh(), nn.Linear(4, 4), nn.LayerNorm(4),
            nn.Linear(4, 2),
        )  # fmt: skip
        for index in (0, 5):
            self.layers[index].requires_grad_(False)

    def forward(self, x):
        return self.layers(x)


MODELS = {
    "convolutions": Convolutions,
    "rnn": lambda: Recurrent(nn.RNN),
    "rnn, relu, two layers": lambda: Recurrent(nn.RNN, nonlinearity="relu", num_layers=2),
    "lstm": lambda: Recurrent(nn.LSTM),
    "gru": lambda: Recurrent(nn.GRU),
    "rnn cell": lambda: Cells(nn.RNNCell),
    "lstm cell": lambda: Cells(nn.LSTMCell),
    "gru cell": lambda: Cells(nn.GRUCell),
    "shared": Shared,
    "frozen": Frozen,
}


def problem(name):
    torch.manual_seed(0)
    module = MODELS[name]().double()
    x, y = torch.randn(*module.shape, dtype=DOUBLE), torch.randn(4, 2, dtype=DOUBLE)
    weights, call = functional(module)

    def inner(p, o):
        errors = (call(p, x) - y).square().mean(1)
        return (o["samples"].sigmoid() * errors).sum() + o["l2"].exp() * sum(w.square().sum() for w in p.values())

    outer = {"samples": torch.linspace(-1, 1, 4, dtype=DOUBLE), "l2": torch.tensor(-3.0, dtype=DOUBLE)}

    def loss(w):
        with torch.random.fork_rng([]):
            torch.manual_seed(1)
            return (call(w, x.flip(-1)) - y).square().mean()

    return inner, *leaves_of(weights, outer), loss


@pytest.mark.parametrize("updater", [SGD(0.1, momentum=0.9), Adam(0.01, eps=1e-3)], ids=type)
@pytest.mark.parametrize("name", MODELS)
def test_is_exact_under_every_policy(name, updater):
    inner, params, outer, loss = problem(name)
    needed = grads(loss(plain(inner, params, outer, updater=updater, steps=5)), params, outer)
    for memory in POLICIES:
        w = unroll(inner, params, outer, updater=updater, steps=5, method=Reverse(memory=memory))
        assert error(grads(loss(w), params, outer), needed) < 1e-10, memory


@pytest.mark.parametrize("name", MODELS)
def test_is_exact_differentiated_twice(name):
    inner, params, outer, loss = problem(name)
    updater = SGD(0.1, momentum=0.9)

    def curvature(run):
        first = grads(loss(run(inner, params, outer, updater=updater, steps=3)), params, outer, create_graph=True)
        return grads(sum(g.square().sum() for g in first), params, outer)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert error(curvature(unroll), curvature(plain)) < 1e-10


def test_the_first_order_gradients_by_name():
    """First-order MAML, T1–T2, and DARTS with the exact Hessian product in place of its finite difference."""
    inner, params, outer, loss = problem("frozen")
    updater = SGD(0.1)
    # First-order MAML: the derivative at w_T stands for that at w_0.
    w = unroll(inner, params, {k: x.detach() for k, x in outer.items()}, updater=updater, steps=3)
    w = {name: x.detach().requires_grad_() for name, x in w.items()}
    first_order = torch.autograd.grad(loss(w), list(w.values()))
    through = {name: x.detach() + params[name] - params[name].detach() for name, x in w.items()}
    assert error(first_order, torch.autograd.grad(loss(through), list(params.values()))) < 1e-13
    # T1–T2: the last step alone, whatever the steps before.
    start = {name: x.detach() for name, x in params.items()}
    found = grads(loss(unroll(inner, start, outer, updater=updater, steps=5, method=Reverse(horizon=1))), outer)
    before = unroll(inner, start, {k: x.detach() for k, x in outer.items()}, updater=updater, steps=4)

    def last(p, o):
        with torch.enable_grad():
            return inner(p, o)

    from lds._random import STEP, forked, reseed
    from lds.updaters import State

    with forked(), torch.enable_grad():
        reseed(0, 4, STEP)
        leaf = {name: x.detach().requires_grad_() for name, x in before.items()}
        after = updater.step(State(leaf, updater.init(leaf), 4), outer, last)
    assert error(found, grads(loss(after[0]), outer)) < 1e-12
    # DARTS: one step ahead; its finite difference of ∂²L/∂θ∂w · ∂F comes close.
    found = grads(loss(unroll(inner, start, outer, updater=updater, steps=1)), outer)
    ahead = unroll(inner, start, {k: x.detach() for k, x in outer.items()}, updater=updater, steps=1)
    leaf = {name: x.detach().requires_grad_() for name, x in ahead.items()}
    slope = torch.autograd.grad(loss(leaf), list(leaf.values()))
    epsilon = 1e-4 / float(sum(g.square().sum() for g in slope).sqrt())

    def mixed(sign):
        moved = {name: x + sign * epsilon * g for (name, x), g in zip(start.items(), slope, strict=True)}
        with forked():
            reseed(0, 0, STEP)
            return grads(inner(moved, outer), outer)

    needed = [-0.1 * (up - down) / (2 * epsilon) for up, down in zip(mixed(1), mixed(-1), strict=True)]
    assert error(found, needed) < 1e-6
