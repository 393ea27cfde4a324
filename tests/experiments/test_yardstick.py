"""The exact problem: leave-one-out errors and gradients against their definitions."""

import importlib

import pytest
import torch


@pytest.fixture
def script():
    return importlib.import_module("yardstick")


@pytest.fixture
def exact(script):
    found, theta, _ = script.problem("iris", 0)
    return found, 0.2 + 0.6 * theta


def test_leave_one_out_is_fitting_without_each_node(script, exact):
    found, theta = exact
    errors = []
    labelled = found.labelled
    for place in range(len(labelled)):
        rest = torch.cat([labelled[:place], labelled[place + 1 :]])
        predicted, _ = script.Yardstick(found.x, found.targets, rest, found.pairs).solve(theta)
        errors.append((predicted - found.targets)[labelled[place]].square().sum())
    torch.testing.assert_close(found.solve(theta)[1], torch.stack(errors).mean())


def test_the_gradient_against_central_differences(exact):
    found, theta = exact
    theta.requires_grad_()
    (gradient,) = torch.autograd.grad(found.solve(theta)[1], theta)
    with torch.no_grad():
        for place in range(0, theta.numel(), 97):
            moved = torch.zeros_like(theta)
            moved[place] = 1e-5
            difference = (found.solve(theta + moved)[1] - found.solve(theta - moved)[1]) / 2e-5
            assert float(gradient[place]) == pytest.approx(float(difference), rel=1e-4, abs=1e-9)


def test_learning_lowers_the_outer_loss(script):
    row = script.run("iris", 0, 5, 10.0)
    assert row["outer_loss_after"] < row["outer_loss_before"]
