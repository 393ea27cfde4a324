"""Every updater of the package keeps the contract, with coefficients of every kind."""

import pytest
import torch

from lds.updaters import (
    SGD,
    Adagrad,
    Adam,
    AdamW,
    ClipByNorm,
    ClipByValue,
    Lion,
    RMSprop,
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
