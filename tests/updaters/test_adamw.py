"""AdamW takes the steps of torch.optim.AdamW, but for where ε stands."""

import torch

from lds.updaters import Adam, AdamW
from tests.oracles import relative_error, same_bits
from tests.updaters.torch_optim import assert_differs_by_epsilon, run


def test_fifty_steps_agree_with_torch():
    assert_differs_by_epsilon(AdamW, torch.optim.AdamW, lr=0.02, betas=(0.8, 0.99), weight_decay=0.1)


def test_the_default_weight_decay_is_that_of_torch():
    assert_differs_by_epsilon(AdamW, torch.optim.AdamW)


def test_without_weight_decay_it_is_adam():
    assert same_bits(run(AdamW(0.02, weight_decay=0)), run(Adam(0.02)))


def test_weight_decay_is_decoupled():
    assert relative_error(run(AdamW(0.02, weight_decay=0.5)), run(Adam(0.02, weight_decay=0.5))) > 1e-2
