"""Adam takes the steps of torch.optim.Adam, but for where ε stands."""

import pytest
import torch

from lds.hypergrad import hypergradient
from lds.updaters import Adam, State
from tests.oracles import DOUBLE, relative_error
from tests.updaters.torch_optim import assert_differs_by_epsilon, run, torch_run


@pytest.mark.parametrize("options", [{"betas": (0.8, 0.99)}, {"weight_decay": 0.1}], ids=["betas", "weight-decay"])
def test_fifty_steps_agree_with_torch(options):
    assert_differs_by_epsilon(Adam, torch.optim.Adam, lr=0.02, **options)


def test_a_large_epsilon_differs_from_torch():
    options = {"lr": 0.02, "eps": 1.0}
    assert relative_error(run(Adam(**options)), torch_run(torch.optim.Adam, **options)) > 1e-2


def test_epsilon_stands_inside_the_root():
    w, gradient, eps = torch.tensor([1.0, 2.0], dtype=DOUBLE), torch.tensor([3.0, 1e-3], dtype=DOUBLE), 0.5
    updater = Adam(lr=0.1, eps=eps)
    state = State(w, updater.init(w))
    new = updater.step(state, (), lambda w, outer: (gradient * w).sum())
    # After one step m̂ = g and v̂ = g².
    expected = w - 0.1 * gradient / (gradient**2 + eps**2).sqrt()
    assert torch.allclose(new.params.detach(), expected, rtol=1e-14, atol=0)


def test_the_first_step_has_the_length_of_the_learning_rate():
    start, moved = run(Adam(lr=0.02), 0), run(Adam(lr=0.02), 1)
    lengths = [(moved[k] - start[k]).abs() for k in moved]
    assert all(torch.allclose(x, torch.full_like(x, 0.02), rtol=1e-6) for x in lengths)


def test_zero_gradients_give_a_finite_hypergradient_in_single_precision():
    outer = {"used": torch.tensor(0.5), "mask": torch.tensor([1.0, 0.0])}

    def inner(w, outer):
        return (outer["used"] * outer["mask"] * (w - 3).square()).sum()

    grad = hypergradient(
        inner, lambda w, outer: w.square().sum(), torch.ones(2), outer, updater=Adam(lr=0.1, eps=1e-18), steps=10
    ).grad
    assert torch.isfinite(grad["used"])
    assert torch.isfinite(grad["mask"]).all()
