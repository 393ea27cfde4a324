"""Adam takes the steps of torch.optim.Adam, but for where ε stands."""

import torch

from lds.hypergrad import hypergradient, record
from lds.updaters import Adam, State
from tests.oracles import DOUBLE
from tests.updaters.test_sgd import flat_problem, relative_error, torch_run


def run(problem, steps, **options):
    return record(problem.inner, problem.params, problem.outer, updater=Adam(**options), steps=steps).final_state.params


def test_fifty_steps_agree_with_torch():
    # The two differ by ε relative to √v̂, so an ε far below every gradient lets them be compared tightly.
    options = {"lr": 0.02, "betas": (0.8, 0.99), "eps": 1e-14}
    problem = flat_problem()
    assert relative_error(run(problem, 50, **options), torch_run(problem, torch.optim.Adam, 50, **options)) <= 1e-10


def test_a_large_epsilon_differs_from_torch():
    options = {"lr": 0.02, "eps": 1.0}
    problem = flat_problem()
    assert relative_error(run(problem, 50, **options), torch_run(problem, torch.optim.Adam, 50, **options)) > 1e-2


def test_epsilon_stands_inside_the_root():
    w, gradient, eps = torch.tensor([1.0, 2.0], dtype=DOUBLE), torch.tensor([3.0, 1e-3], dtype=DOUBLE), 0.5
    updater = Adam(lr=0.1, eps=eps)
    state = State(w, updater.init(w))
    new = updater.step(state, (), lambda w, outer: (gradient * w).sum())
    # After one step m̂ = g and v̂ = g².
    expected = w - 0.1 * gradient / (gradient**2 + eps**2).sqrt()
    assert torch.allclose(new.params.detach(), expected, rtol=1e-14, atol=0)


def test_the_first_step_has_the_length_of_the_learning_rate():
    problem = flat_problem()
    moved = run(problem, 1, lr=0.02)
    lengths = [(moved[k] - problem.params[k]).abs() for k in moved]
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
