"""SGD takes the steps of torch.optim.SGD."""

import pytest
import torch

from lds.errors import InputError
from lds.hypergrad import record
from lds.updaters import SGD, Adam
from tests.oracles import DOUBLE, Problem, regression, relative_error


def torch_run(problem, optimizer_class, steps, **options):
    """The params after some steps of an optimizer of torch."""
    params = {k: v.clone().requires_grad_() for k, v in problem.params.items()}
    optimizer = optimizer_class(params.values(), **options)
    for _ in range(steps):
        optimizer.zero_grad()
        problem.inner(params, problem.outer).backward()
        optimizer.step()
    return {k: v.detach() for k, v in params.items()}


def flat_problem():
    """The regression problem with its params in a flat dict, as torch.optim wants a list."""
    nested = regression()
    first, (last,) = nested.params["layers"]

    def nest(p):
        return {"layers": [{"w": p["w"], "b": p["b"]}, (p["last"],)], "scale": p["scale"]}

    params = {"w": first["w"], "b": first["b"], "last": last, "scale": nested.params["scale"]}
    return Problem(lambda p, o: nested.inner(nest(p), o), None, params, nested.outer)


@pytest.mark.parametrize(
    "options",
    [{"lr": 0.03}, {"lr": 0.03, "momentum": 0.9}, {"lr": 0.03, "momentum": 0.9, "nesterov": True}],
    ids=["plain", "momentum", "nesterov"],
)
def test_fifty_steps_agree_with_torch(options):
    problem = flat_problem()
    found = record(problem.inner, problem.params, problem.outer, updater=SGD(**options), steps=50, horizon=0)
    expected = torch_run(problem, torch.optim.SGD, 50, **options)
    assert relative_error(found.final_state.params, expected) <= 1e-12


def test_without_momentum_there_are_no_slots():
    assert SGD(0.1).init(torch.ones(2)) == ()


def test_a_learned_momentum_has_slots():
    slots = SGD(0.1, momentum=lambda outer: outer).init(torch.ones(2, dtype=DOUBLE))
    assert torch.equal(slots, torch.zeros(2, dtype=DOUBLE))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SGD(-0.1), "lr must lie in .* got -0.1"),
        (lambda: SGD(float("nan")), "lr must lie in .* got nan"),
        (lambda: SGD(float("inf")), "lr must lie in .* got inf"),
        (lambda: SGD(0.1, momentum=1.1), "momentum must lie in .* got 1.1"),
        (lambda: SGD(0.1, momentum=-1), "momentum must lie in .* got -1"),
        (lambda: SGD(0.1, nesterov=True), "nesterov=True needs a momentum, got momentum=0"),
        (lambda: Adam(-1), "lr must lie in .* got -1"),
        (lambda: Adam(betas=(1.0, 0.9)), r"betas\[0\] must lie in .* got 1.0"),
        (lambda: Adam(betas=(0.9, -0.1)), r"betas\[1\] must lie in .* got -0.1"),
        (lambda: Adam(eps=0.0), "eps must lie in .* got 0.0"),
    ],
)
def test_a_coefficient_out_of_range_is_refused(make, words):
    with pytest.raises(InputError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_the_ends_of_the_ranges_are_accepted():
    SGD(0, momentum=1)
    Adam(0, betas=(0, 0), eps=1e-18)
