"""SGD takes the steps of torch.optim.SGD."""

import pytest
import torch

from lds.errors import InputError
from lds.updaters import SGD
from tests.oracles import DOUBLE, relative_error
from tests.updaters.torch_optim import run, torch_run


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True},
        {"weight_decay": 0.1},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    ],
    ids=["plain", "momentum", "nesterov", "weight-decay", "all"],
)
def test_fifty_steps_agree_with_torch(options):
    assert relative_error(run(SGD(0.03, **options)), torch_run(torch.optim.SGD, lr=0.03, **options)) <= 1e-12


def test_without_momentum_there_are_no_slots():
    assert SGD(0.1).init(torch.ones(2)) == ()


def test_a_learned_momentum_has_slots():
    slots = SGD(0.1, momentum=lambda outer: outer).init(torch.ones(2, dtype=DOUBLE))
    assert torch.equal(slots, torch.zeros(2, dtype=DOUBLE))


def test_nesterov_needs_a_momentum():
    with pytest.raises(InputError, match="nesterov=True needs a momentum, got momentum=0"):
        SGD(0.1, nesterov=True)
