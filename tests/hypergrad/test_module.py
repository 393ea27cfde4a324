"""A module as a function of its parameters: nothing of it changes, and its gradients are those of the unroll."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lds.errors import InputError
from lds.hypergrad import KeepStates, Reverse, functional, hypergradient
from lds.updaters import SGD, Adam
from tests.oracles import DOUBLE, Problem, relative_error, same_bits, unroll

X = torch.linspace(-1, 1, 24, dtype=DOUBLE).reshape(8, 3)


class Tied(nn.Module):
    """Two layers that share their weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


class Shared(nn.Module):
    """One layer and one batch normalisation at two places each."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)
        self.again, self.norm_again = self.first, self.norm

    def forward(self, x):
        x = torch.tanh(self.norm(self.first(x)))
        return self.last(torch.tanh(self.norm_again(self.again(x))))


def frozen():
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    module[0].requires_grad_(False)
    return module


MODULES = {
    "batch norm": lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)),
    "dropout": lambda: nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)),
    "tied": Tied,
    "shared": Shared,
    "frozen": frozen,
}


@pytest.fixture(params=MODULES.values(), ids=MODULES.keys())
def module(request):
    torch.manual_seed(0)
    return request.param().double()


def problem(module):
    params, call = functional(module)

    def inner(params, outer):
        penalty = sum((outer.exp() * p.square()).sum() for p in params.values())
        return (call(params, X) - 0.5).square().mean() + penalty

    return Problem(inner, lambda p, o: call(p, X[:5]).square().mean(), params, torch.tensor(-3.0, dtype=DOUBLE))


@pytest.mark.parametrize("updater", [SGD(0.1, momentum=0.9), Adam(0.05)], ids=["sgd", "adam"])
@pytest.mark.parametrize("method", [Reverse(), Reverse(memory=KeepStates())], ids=["graphs", "states"])
def test_equals_the_unroll_and_leaves_the_module_alone(module, updater, method):
    before = copy.deepcopy(module.state_dict())
    asked = problem(module)
    found = hypergradient(*asked, updater=updater, steps=5, method=method)
    assert relative_error(found.grad, unroll(asked, updater, 5).grad) <= 1e-12
    assert found.grad != 0
    assert same_bits(dict(module.state_dict()), dict(before))
    assert all(p.grad is None for p in module.parameters())


def test_shared_parameters_come_once_and_frozen_ones_not_at_all():
    assert sorted(functional(Tied())[0]) == ["first.bias", "first.weight", "second.bias"]
    assert sorted(functional(frozen())[0]) == ["2.bias", "2.weight"]


def test_both_places_of_a_shared_parameter_are_reached():
    torch.manual_seed(0)
    module = Tied().double()
    params, call = functional(module)
    doubled = {name: 2 * p for name, p in params.items()}
    other = copy.deepcopy(module)
    with torch.no_grad():
        for p in other.parameters():
            p *= 2
    assert torch.equal(call(doubled, X), other(X))


def test_a_module_at_two_places_keeps_its_parameters():
    torch.manual_seed(0)
    module = Shared().double()
    before = list(module.parameters())
    params, call = functional(module)
    assert sorted(params) == sorted(name for name, _ in module.named_parameters())
    other = copy.deepcopy(module)
    with torch.no_grad():
        for p in other.parameters():
            p *= 2
    assert torch.equal(call({name: 2 * p for name, p in params.items()}, X), other(X))
    assert all(p is q for p, q in zip(module.parameters(), before, strict=True))
    assert torch.equal(module.norm.running_mean, torch.zeros(3, dtype=DOUBLE))
    with pytest.raises(RuntimeError):  # Also after an error inside.
        call(params, X[:, :2])
    assert all(p is q for p, q in zip(module.parameters(), before, strict=True))


@pytest.mark.parametrize("change", [lambda p: {**p, "more": 1}, lambda p: dict(list(p.items())[1:]), list, Tied])
def test_a_call_needs_the_params_of_the_module(change):
    params, call = functional(Tied())
    with pytest.raises(InputError, match=r"Tied must be called with all of its params, a dict with first.weight, "):
        call(Tied() if change is Tied else change(params), X)


def test_needs_a_trainable_parameter():
    with pytest.raises(InputError, match="Linear must have a trainable parameter, got none; set requires_grad=True"):
        functional(nn.Linear(2, 2).requires_grad_(False))


class Checkpointed(nn.Module):
    """Runs its first layers again in the backward pass."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Sequential(nn.Linear(3, 4), nn.Tanh()), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(checkpoint(self.first, x, use_reentrant=False))


class TestCheckpoints:
    """What is run again after the call would see the module's own weights, and the hypergradient be wrong."""

    def problem(self, call, params):
        def inner(p, o):
            return (call(p, X) - 1).square().mean() + o * sum(w.square().sum() for w in p.values())

        return Problem(inner, lambda p, o: call(p, X.flip(0)).square().mean(), params, torch.tensor(0.1, dtype=DOUBLE))

    def test_inside_of_the_module_are_refused(self):
        params, call = functional(Checkpointed().double())
        for _ in range(2):  # Not only the first time.
            with pytest.raises(
                InputError, match=r"checkpoints its part Sequential, .* checkpoint the whole call: check"
            ):
                hypergradient(*self.problem(call, params), updater=SGD(0.1), steps=3)

    def test_around_the_call_are_right(self):
        net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
        params, call = functional(net)
        problem = self.problem(lambda p, x: checkpoint(call, p, x, use_reentrant=False), params)
        expected = unroll(self.problem(call, params), SGD(0.1), 3).grad
        assert relative_error(hypergradient(*problem, updater=SGD(0.1), steps=3).grad, expected) <= 1e-12
        assert not any(part._forward_pre_hooks for part in net.modules())
