"""Functional optimizers with learned coefficients."""

from typing import NamedTuple

import optree
import pytest
import torch

from lds.errors import InputError
from lds.hypergrad import Checkpoint, Disk, Reverse, hypergradient, record
from lds.updaters import SGD, ClipByNorm, Functional, check_updater
from tests.oracles import DOUBLE, Problem, central_differences, regression, relative_error, same_bits, unroll
from tests.updaters.torch_optim import run

torchopt = pytest.importorskip("torchopt", reason="TorchOpt is not installed; it comes with the extra `bench`")

MAKES = {
    "sgd": lambda o: torchopt.sgd(o["lr"]),
    "momentum": lambda o: torchopt.sgd(o["lr"], momentum=o["b1"], weight_decay=o["decay"]),
    "nesterov": lambda o: torchopt.sgd(o["lr"], momentum=o["b1"], nesterov=True),
    "adam": lambda o: torchopt.adam(o["lr"], betas=(o["b1"], o["b2"]), eps_root=1e-16, weight_decay=o["decay"]),
    "adamw": lambda o: torchopt.adamw(o["lr"], betas=(o["b1"], o["b2"]), eps_root=1e-16, weight_decay=o["decay"]),
    "adamax": lambda o: torchopt.adamax(o["lr"], betas=(o["b1"], o["b2"])),
    "radam": lambda o: torchopt.radam(o["lr"], betas=(o["b1"], 0.9)),
    "dampening": lambda o: torchopt.sgd(o["lr"], momentum=o["b1"], dampening=o["decay"]),
    "rmsprop": lambda o: torchopt.rmsprop(o["lr"], alpha=o["b2"]),
    "adagrad": lambda o: torchopt.adagrad(o["lr"]),
    "adadelta": lambda o: torchopt.adadelta(o["lr"], rho=o["b2"]),
    "transformed": lambda o: torchopt.adam(
        (o["lr"].log() - 1).exp(), betas=(1 - o["b1"] / 4, o["b2"] ** 2), eps_root=1e-16
    ),
    "schedule": lambda o: torchopt.sgd(lambda count: o["lr"] * o["b1"] ** count),
    "chain": lambda o: torchopt.chain(torchopt.transform.trace(o["b1"]), torchopt.sgd(o["lr"])),
}


def problem():
    whole = regression()
    values = {"lr": 0.05, "b1": 0.8, "b2": 0.9, "decay": 0.1}
    outer = {k: torch.tensor(v, dtype=DOUBLE) for k, v in values.items()}
    return Problem(
        lambda p, o: whole.inner(p, whole.outer),
        lambda p, o: whole.outer_objective(p, whole.outer) + sum(x**2 for x in o.values()),
        whole.params,
        outer,
    )


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_every_coefficient_has_its_derivative(make):
    asked, updater = problem(), Functional(make)
    found = hypergradient(*asked, updater=updater, steps=6).grad
    assert relative_error(found, unroll(asked, updater, 6).grad) <= 1e-10
    assert relative_error(found, central_differences(asked, updater, 6)) <= 1e-6


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_the_steps_are_those_of_the_optimizer_with_numbers(make):
    asked = problem()
    numbers = {k: x.item() for k, x in asked.outer.items()}
    if make in (MAKES["transformed"], MAKES["schedule"]):
        numbers = asked.outer
    assert (
        relative_error(run(Functional(make), 8, problem=asked), run(Functional(make(numbers)), 8, problem=asked))
        <= 1e-6
    )


def test_a_number_made_of_an_outer_variable_is_refused():
    # Its square root is one of math.
    with pytest.raises(InputError, match=r"made a number of an outer variable, .* cuts its derivative off"):
        run(Functional(lambda o: torchopt.radam(o["lr"], betas=(0.9, o["b2"]))), 8, problem=problem())
    with pytest.raises(InputError, match=r"made a number of an outer variable"):
        run(Functional(lambda o: torchopt.sgd(o["lr"].item())), 8, problem=problem())


@pytest.mark.parametrize("learned", [True, False])
def test_a_new_optimizer_goes_on_where_another_stood(learned):
    """TorchOpt's momentum remembers whether it was called."""
    asked = problem()

    def go(steps, state=None):
        if learned:
            updater = Functional(lambda o: torchopt.sgd(o["lr"], momentum=o["b1"]))
        else:
            updater = torchopt.sgd(0.05, momentum=0.8)
        return record(
            asked.inner, asked.params, asked.outer, updater=updater, steps=steps, horizon=0, state=state
        ).final_state

    assert same_bits(go(4, go(3)), go(7))


def test_it_agrees_with_the_packages_own():
    found = run(Functional(lambda o: torchopt.sgd(o["lr"], momentum=o["b1"])), 20, problem=problem())
    assert relative_error(found, run(SGD(0.05, 0.8), 20, problem=problem())) <= 1e-12
    options = {"momentum": 0.8, "dampening": 0.4}
    found = run(Functional(lambda o: torchopt.sgd(o["lr"], **options)), 20, problem=problem())
    assert relative_error(found, run(SGD(0.05, **options), 20, problem=problem())) <= 1e-12


def test_it_keeps_the_contract():
    check_updater(
        Functional(lambda o: torchopt.adam(o["lr"], betas=o["betas"], eps_root=1e-16), {"lr": 0.1, "betas": (0.9, 0.9)})
    )
    check_updater(ClipByNorm(Functional(lambda o: torchopt.sgd(o["lr"], momentum=o["momentum"])), 0.1))


@pytest.mark.parametrize("memory", [Checkpoint(), "disk"])
def test_every_memory_policy_gives_the_same(memory, tmp_path):
    asked, updater = problem(), Functional(MAKES["adam"])
    method = Reverse(memory=Disk(tmp_path) if memory == "disk" else memory)
    expected = hypergradient(*asked, updater=updater, steps=8).grad
    assert same_bits(hypergradient(*asked, updater=updater, steps=8, method=method).grad, expected)


class Scaled(NamedTuple):
    """An optimizer whose first slots depend on its coefficient."""

    start: torch.Tensor

    def init(self, params):
        return optree.tree_map(lambda w: torch.ones_like(w) * self.start, params)

    def update(self, grads, state, *, params=None, inplace=True):
        velocity = optree.tree_map(lambda v, g: 0.9 * v + g, state, grads)
        return optree.tree_map(lambda v: -0.05 * v, velocity), velocity


def test_the_first_slots_may_depend_on_the_outer_variables():
    asked, updater = problem(), Functional(lambda o: Scaled(o["lr"]))
    found = hypergradient(*asked, updater=updater, steps=4).grad
    assert relative_error(found, central_differences(asked, updater, 4)) <= 1e-7


class TestTheFunctionIsFirstCalledOnStandIns:
    @pytest.mark.parametrize(
        "make",
        [
            lambda o: torchopt.sgd(o),
            lambda o: torchopt.sgd(o.rates[0]["lr"]),
            lambda o: torchopt.adam(1 - o["x"].exp()),
            lambda o: torchopt.adam(1e-3, betas=(o["x"].sigmoid(), 1 - 10 ** o["y"])),
        ],
    )
    def test_of_any_structure(self, make):
        assert Functional(make).init(torch.ones(2)).steps == 0

    def test_an_example_helps_where_they_fail(self):
        def make(outer):
            first, second = outer["betas"]
            return torchopt.adam(outer["lr"], betas=(first, second))

        with pytest.raises(
            InputError, match=r"with stand-ins, but there it raised TypeError: .* Functional\(function, outer\)"
        ):
            Functional(make).init(torch.ones(2))
        assert Functional(make, {"lr": 0.1, "betas": (0.9, 0.99)}).init(torch.ones(2)).steps == 0


def test_the_example_may_be_the_outer_variable_itself():
    rate = torch.tensor(0.1, dtype=DOUBLE)
    grad = hypergradient(
        lambda w, lr: w.square().sum() / 2,
        lambda w, lr: w.sum(),
        torch.ones(2, dtype=DOUBLE),
        rate,
        updater=Functional(torchopt.sgd, rate),
        steps=1,
    ).grad
    assert torch.allclose(grad, torch.tensor(-2.0, dtype=DOUBLE))


class TestErrors:
    @pytest.mark.parametrize(
        ("given", "words"), [(0.1, "got float"), (SGD, "got the class SGD"), (None, "got NoneType")]
    )
    def test_no_optimizer(self, given, words):
        with pytest.raises(InputError, match=f"Functional needs an optimizer with init and update .* {words}"):
            Functional(given)

    def test_the_function_returns_none(self):
        with pytest.raises(InputError, match=r"the function of Functional must return an optimizer .* got SGD"):
            Functional(lambda o: SGD(0.1)).init(torch.ones(2))
