"""Every updater of the package keeps the contract, with coefficients of every kind."""

import optree
import pytest
import torch

from lds.updaters import (
    ASGD,
    SGD,
    Adadelta,
    Adafactor,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    ClipByNorm,
    ClipByValue,
    Groups,
    Lion,
    Muon,
    NAdam,
    RAdam,
    RMSprop,
    Rprop,
    State,
    Updater,
    check_updater,
)
from lds.updaters.schedules import Cosine, PerStep
from tests.oracles import DOUBLE, regression


def learned(value):
    """A function of the outer variables of `check_updater` that has this value there."""
    return lambda outer: value / 0.05 * outer["lr"]


def like_params(value):
    """A number, scalars and tensors, in a pytree like the params of `check_updater`."""

    def function(outer):
        x = value / 0.05 * outer["lr"]
        return {
            "layers": [{"w": x * torch.ones(3, 4, dtype=DOUBLE), "b": value}, (x * torch.ones(1, dtype=DOUBLE),)],
            "scale": x,
        }

    return function


def per_param(kind):
    """A kind with one scalar for each param in the place of one for each entry."""
    if kind is not like_params:
        return kind
    return lambda value: lambda outer: optree.tree_map(lambda x: torch.as_tensor(x).mean(), like_params(value)(outer))


KINDS = {
    "number": lambda value: value,
    "tensor": lambda value: torch.tensor(value, dtype=DOUBLE),
    "learned": learned,
    "learned-per-parameter": like_params,
    "learned-per-step": lambda value: PerStep(
        lambda outer: learned(value)(outer) * torch.linspace(1, 0.5, 4, dtype=DOUBLE)
    ),
    "schedule": lambda value: Cosine(learned(value), value / 2, 5),
}

UPDATERS = {
    "sgd": lambda c: SGD(c(0.05)),
    "sgd-all": lambda c: SGD(c(0.05), c(0.7), nesterov=True, weight_decay=c(0.1)),
    "adam": lambda c: Adam(c(0.05), (c(0.8), c(0.9)), eps=1e-3, weight_decay=c(0.1)),
    "adamw": lambda c: AdamW(c(0.05), (c(0.8), c(0.9)), weight_decay=c(0.1)),
    "rmsprop": lambda c: RMSprop(c(0.05), c(0.8), weight_decay=c(0.1)),
    "rmsprop-all": lambda c: RMSprop(c(0.05), c(0.8), weight_decay=c(0.1), momentum=c(0.7), centered=True),
    "adagrad": lambda c: Adagrad(c(0.05), c(0.1), c(0.1), initial_accumulator_value=0.1),
    "lion": lambda c: Lion(c(0.05), (c(0.8), c(0.9)), c(0.1)),
    "sgd-dampened": lambda c: SGD(c(0.05), c(0.7), weight_decay=c(0.1), dampening=c(0.3)),
    "sgd-up": lambda c: SGD(c(1e-3), c(0.7), maximize=True),
    "adam-amsgrad": lambda c: Adam(c(0.05), (c(0.8), c(0.9)), eps=1e-3, amsgrad=True),
    "adadelta": lambda c: Adadelta(c(0.5), c(0.8), 1e-3, c(0.1)),
    "adafactor": lambda c: Adafactor(c(0.05), per_param(c)(-0.8), d=c(1.3), weight_decay=c(0.1)),
    "adamax": lambda c: Adamax(c(0.05), (c(0.8), c(0.9)), weight_decay=c(0.1)),
    "asgd": lambda c: ASGD(c(0.05), c(0.1), c(0.7), 2, c(0.1)),
    "nadam": lambda c: NAdam(c(0.05), (c(0.8), c(0.9)), weight_decay=c(0.1), momentum_decay=c(0.2)),
    "radam": lambda c: RAdam(c(0.05), (c(0.8), c(0.9)), weight_decay=c(0.1)),
    "rprop": lambda c: Rprop(c(0.01), (c(0.5), c(1.2))),
    "clip-by-value": lambda c: ClipByValue(SGD(c(0.05)), c(0.1)),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("make", UPDATERS.values(), ids=UPDATERS.keys())
def test_updaters_keep_the_contract(make, kind):
    updater = make(kind)
    assert isinstance(updater, Updater)
    check_updater(updater)


# One norm for all params, so not per parameter.
@pytest.mark.parametrize("kind", [k for k in KINDS if k != "learned-per-parameter"])
@pytest.mark.parametrize("max_norm", [0.1, 100.0], ids=["clipped", "unclipped"])
def test_clipping_by_norm_keeps_the_contract(kind, max_norm):
    check_updater(ClipByNorm(Adam(0.05), KINDS[kind](max_norm)))


@pytest.mark.parametrize(
    "updater",
    [
        Adam(0.05),
        Adam(lambda o: o["lr"], (lambda o: o["betas"][0], lambda o: o["betas"][1])),
        SGD(lambda o: o["lr"], momentum=lambda o: o["momentum"]),
        Adam(0.05, (0.0, 0.0)),
        ClipByValue(ClipByNorm(RMSprop(lambda o: o["lr"], momentum=lambda o: o["momentum"]), 0.1), 0.05),
    ],
    ids=["adam", "adam-learned", "sgd-learned", "adam-without-memory", "nested"],
)
def test_updaters_keep_the_contract_on_another_problem(updater):
    check_updater(updater, *regression(), steps=8, horizon=2)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "learned-per-parameter"])
def test_groups_keep_the_contract(kind):
    c = KINDS[kind]
    updaters = {"matrix": Muon(c(0.05), c(0.1), c(0.7)), "rest": ClipByNorm(AdamW(c(0.05), weight_decay=c(0.1)), 1.0)}
    check_updater(Groups(updaters, lambda name, w: "matrix" if w.ndim == 2 else "rest"))


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "learned-per-parameter"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_matrices_keep_the_contract(kind, nesterov):
    c = KINDS[kind]
    check_updater(Muon(c(0.05), c(0.1), c(0.7), nesterov))


def test_params_that_depend_on_each_other_keep_the_contract():
    """Each step takes its derivatives in each of them by itself."""

    class Alternating:
        def init(self, params):
            return ()

        def step(self, state, outer, inner):
            with torch.enable_grad():
                a, b = state.params["a"], state.params["b"]
                g = torch.autograd.grad(inner(state.params, outer), [a, b], create_graph=True)
                a = a - 0.1 * g[0]
                b = b - 0.1 * g[1] * a
            return State({"a": a, "b": b})

    def inner(w, o):
        return ((w["a"] * w["b"] - o).square() + w["a"].square() * 0.3).sum()

    def outer_objective(w, o):
        return (w["a"] * w["b"] + w["a"]).square().sum()

    params = {name: torch.tensor([x], dtype=torch.float64) for name, x in (("a", 1.0), ("b", 2.0))}
    check_updater(Alternating(), inner, outer_objective, params, torch.tensor([0.7], dtype=torch.float64))
