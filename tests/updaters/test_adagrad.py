"""Adagrad takes the steps of torch.optim.Adagrad, but for where ε stands."""

import pytest
import torch

from lds.hypergrad import record
from lds.updaters import Adagrad
from tests.oracles import same_bits
from tests.updaters.torch_optim import assert_differs_by_epsilon, flat_problem, run


@pytest.mark.parametrize(
    "options",
    [{}, {"lr_decay": 0.1}, {"weight_decay": 0.1}, {"lr_decay": 0.1, "initial_accumulator_value": 0.2}],
    ids=["plain", "lr-decay", "weight-decay", "initial-value"],
)
def test_fifty_steps_agree_with_torch(options):
    assert_differs_by_epsilon(Adagrad, torch.optim.Adagrad, lr=0.1, **options)


def test_the_learning_rate_decays_on_after_a_warm_start():
    problem = flat_problem()
    updater = Adagrad(0.1, lr_decay=0.5)
    first = record(problem.inner, problem.params, problem.outer, updater=updater, steps=3, horizon=0)
    both = record(
        problem.inner, problem.params, problem.outer, updater=updater, steps=4, horizon=0, state=first.final_state
    )
    assert same_bits(both.final_state.params, run(updater, 7))
