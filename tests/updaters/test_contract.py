"""Every updater of the package passes the contract, and updaters that break it are caught."""

import optree
import pytest
import torch

from lds.updaters import SGD, Adam, State, Updater, gradient
from tests.contracts import check_updater_contract

UPDATERS = [
    pytest.param(SGD(lr=0.05), id="sgd"),
    pytest.param(SGD(lr=0.05, momentum=0.9), id="momentum"),
    pytest.param(SGD(lr=0.05, momentum=0.9, nesterov=True), id="nesterov"),
    pytest.param(SGD(lambda o: o["lr"], momentum=lambda o: o["momentum"]), id="momentum-learned"),
    pytest.param(SGD(lambda o: o["lr"], momentum=lambda o: o["momentum"], nesterov=True), id="nesterov-learned"),
    pytest.param(SGD(torch.tensor(0.05), momentum=torch.tensor(0.9)), id="tensor-coefficients"),
    pytest.param(Adam(lr=0.05), id="adam"),
    pytest.param(Adam(lr=0.05, betas=(0.0, 0.0), eps=1e-3), id="adam-without-memory"),
    pytest.param(Adam(lambda o: o["lr"], (lambda o: o["betas"][0], lambda o: o["betas"][1])), id="adam-learned"),
]


@pytest.mark.parametrize("updater", UPDATERS)
def test_updater_keeps_the_contract(updater):
    assert isinstance(updater, Updater)
    check_updater_contract(updater)


class Descent:
    """Gradient descent, to be broken in one way each."""

    def init(self, params):
        return ()

    def step(self, state, outer, inner):
        return self.descend(state, gradient(inner, state.params, outer))

    def descend(self, state, grads):
        return State(optree.tree_map(lambda w, g: w - 0.05 * g, state.params, grads))


class WritesToItsInput(Descent):
    def descend(self, state, grads):
        with torch.no_grad():
            optree.tree_map_(lambda w, g: w.sub_(0.05 * g), state.params, grads)
        return state


class Forgets(Descent):
    def descend(self, state, grads):
        return State({"layers": state.params["layers"]})


class TurnsRandom(Descent):
    def descend(self, state, grads):
        return State(optree.tree_map(lambda w, g: w - torch.rand(()) * g, state.params, grads))


class CutsTheOuterVariables(Descent):
    def step(self, state, outer, inner):
        detached = {k: v.detach() for k, v in outer.items() if isinstance(v, torch.Tensor)}
        return super().step(state, {**outer, **detached}, inner)


class CutsTheStateOff(Descent):
    def step(self, state, outer, inner):
        detached = optree.tree_map(torch.detach, state.params)
        return self.descend(state, gradient(inner, detached, outer))


class DividesByARoot(Descent):
    def descend(self, state, grads):
        return State(optree.tree_map(lambda w, g: w - 0.05 * g / (g.square().sqrt() + 1e-8), state.params, grads))


@pytest.mark.parametrize(
    ("updater", "complaint"),
    [
        (WritesToItsInput(), "changed its arguments"),
        (Forgets(), "structure"),
        (TurnsRandom(), "two results"),
        (CutsTheOuterVariables(), "detached from it"),
        (CutsTheStateOff(), "not the derivative"),
        (DividesByARoot(), "NaN"),
    ],
)
def test_the_contract_catches(updater, complaint):
    with pytest.raises((AssertionError, ValueError), match=complaint):
        check_updater_contract(updater)


def test_the_contract_accepts_what_was_to_be_broken():
    check_updater_contract(Descent())
