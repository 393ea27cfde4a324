"""Functional optimizers plug in by their shape."""

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import optree
import pytest
import torch

from lds.errors import ContractError, InputError
from lds.hypergrad import record
from lds.updaters import SGD, Adam, ClipByNorm, GradientUpdater, Updater, as_updater, check_updater
from tests.oracles import relative_error, same_bits
from tests.updaters.torch_optim import flat_problem, run, torch_run


@pytest.fixture
def torchopt():
    return pytest.importorskip("torchopt", reason="TorchOpt is not installed; it comes with the extra `bench`")


class HeavyBall(NamedTuple):
    """An optimizer in the style of TorchOpt that writes in place if it may."""

    lr: float

    def init(self, params):
        return optree.tree_map(torch.zeros_like, params), 0

    def update(self, grads, state, *, params=None, inplace=True):
        assert params is not None
        if inplace:
            pytest.fail("the gradients are written to")
        velocity = optree.tree_map(lambda v, g: 0.9 * v + g, state[0], grads)
        return optree.tree_map(lambda v: -self.lr * v, velocity), (velocity, state[1] + 1)


class TestAnyFunctionalOptimizer:
    def test_takes_its_steps(self):
        updater = as_updater(HeavyBall(0.03))
        assert isinstance(updater, Updater)
        assert isinstance(updater, GradientUpdater)
        assert relative_error(run(updater), run(SGD(0.03, 0.9))) <= 1e-13

    def test_keeps_the_contract(self):
        check_updater(HeavyBall(0.03))

    def test_stands_inside_a_wrapper(self):
        found = run(ClipByNorm(HeavyBall(0.03), 0.1))
        assert relative_error(found, run(ClipByNorm(SGD(0.03, 0.9), 0.1))) <= 1e-13


class TestTorchOpt:
    def test_sgd_agrees_with_torch(self, torchopt):
        found = run(as_updater(torchopt.sgd(0.03, momentum=0.9)))
        assert relative_error(found, torch_run(torch.optim.SGD, lr=0.03, momentum=0.9)) <= 1e-12

    def test_adam_agrees_with_torch(self, torchopt):
        found = run(as_updater(torchopt.adam(0.02, betas=(0.8, 0.99))))
        # It corrects the bias in float32.
        assert relative_error(found, torch_run(torch.optim.Adam, lr=0.02, betas=(0.8, 0.99))) <= 1e-6

    @pytest.mark.parametrize(
        "make",
        [
            lambda t: t.sgd(0.05),
            lambda t: t.sgd(0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
            lambda t: t.adam(0.05, eps_root=1e-12),
            lambda t: t.adamw(0.05, eps_root=1e-12),
            lambda t: t.chain(t.transform.trace(0.9), t.sgd(0.05)),
            lambda t: t.sgd(t.schedule.linear_schedule(0.1, 0.01, 3, 1)),
        ],
        ids=["sgd", "nesterov", "adam", "adamw", "chain", "schedule"],
    )
    def test_optimizers_keep_the_contract(self, torchopt, make):
        check_updater(make(torchopt))

    def test_a_clipping_that_detaches_the_norm_is_found_out(self, torchopt):
        with pytest.raises(ContractError, match=r"clause derivative: .* outer\['penalty'\]"):
            check_updater(torchopt.chain(torchopt.clip.clip_grad_norm(0.1), torchopt.sgd(0.05)))
        check_updater(ClipByNorm(torchopt.sgd(0.05), 0.1))

    def test_a_root_of_zero_is_found_out(self, torchopt):
        with pytest.raises(ContractError, match=r"Functional breaks .* clause zeros"):
            check_updater(torchopt.adam(0.05))

    def test_a_warm_start_goes_on(self, torchopt):
        problem, updater = flat_problem(), as_updater(torchopt.adam(0.02))

        def go(steps, state=None):
            return record(
                problem.inner, problem.params, problem.outer, updater=updater, steps=steps, horizon=0, state=state
            ).final_state

        assert same_bits(go(4, go(3)), go(7))


def test_torchopt_is_not_imported():
    code = "import sys, lds.updaters, lds.hypergrad; print('torchopt' in sys.modules)"
    root = Path(__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert found.stdout.strip() == "False"


def test_an_updater_is_returned_as_it_is():
    updater = Adam()
    assert as_updater(updater) is updater


class Init:
    def init(self, params):
        return ()


class Step:
    def step(self, state, outer, inner):
        return state


class OtherUpdate(Init):
    def update(self, grads, state, params=None):
        return grads, state


@pytest.mark.parametrize(
    ("candidate", "missing"),
    [
        (Init(), "an updater needs methods init and step, but Init has no step"),
        (Step(), "an updater needs methods init and step, but Step has no init"),
        (OtherUpdate(), "an updater needs methods init and step, but OtherUpdate has no step"),
        (0.1, "an updater needs methods init and step, but float has no init"),
        (None, "an updater needs methods init and step, but NoneType has no init"),
        (
            torch.optim.SGD([torch.ones(1)], 0.1),
            r"an updater needs .* torch.optim.SGD writes .* take lds.updaters.from_torch\(optimizer, module\)",
        ),
        (SGD, r"an updater must be an object, got the class SGD; make one, such as SGD\(0.1\)"),
        (Step, r"an updater must be an object, got the class Step; make one, such as Step\(\)"),
        (
            torch.optim.Adam,
            r"must be an object, got the class Adam; make one, such as .*from_torch\(Adam\(module.param.*",
        ),
        (lambda outer: None, r"function has no init; if it is a function of the outer .* give Functional\(function\)"),
    ],
)
def test_anything_else_is_refused(candidate, missing):
    with pytest.raises(InputError, match=missing):
        as_updater(candidate)
