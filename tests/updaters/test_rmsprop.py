"""RMSprop takes the steps of torch.optim.RMSprop, but for where ε stands."""

import pytest
import torch

from lds.updaters import RMSprop, State
from tests.oracles import DOUBLE
from tests.updaters.torch_optim import assert_differs_by_epsilon


@pytest.mark.parametrize(
    "options",
    [{"alpha": 0.9}, {"momentum": 0.8, "weight_decay": 0.1}, {"centered": True}, {"centered": True, "momentum": 0.8}],
    ids=["plain", "momentum", "centered", "centered-momentum"],
)
def test_fifty_steps_agree_with_torch(options):
    assert_differs_by_epsilon(RMSprop, torch.optim.RMSprop, lr=0.01, **options)


def test_it_keeps_only_the_slots_it_needs():
    w = torch.ones(2)
    assert RMSprop().init(w)[1:] == ((), ())
    assert RMSprop(momentum=0.5).init(w).mean == ()
    assert RMSprop(centered=True).init(w).b == ()
    assert torch.equal(RMSprop(momentum=lambda outer: outer).init(w).b, torch.zeros(2))


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_the_centered_variance_is_never_negative(dtype):
    # The variance of a gradient that stays the same is 0 but for rounding, which torch takes the root of.
    w = torch.full((50,), 1.0, dtype=dtype)
    slope = torch.linspace(0.1, 3, 50, dtype=dtype)
    updater = RMSprop(0.0, alpha=0.5, eps=1e-18, centered=True)
    state = State(w, updater.init(w))
    negative = False
    for _ in range(100):
        state = updater.step(state, (), lambda w, outer: (slope * w).sum())
        negative = negative or bool((state.slots.v < state.slots.mean**2).any())
        assert torch.isfinite(state.params).all()
    assert negative
