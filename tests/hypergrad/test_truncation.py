"""The truncation curve: every depth against the full hypergradient."""

import math

import optree
import pytest
import torch

from lds.errors import InputError, NumericalError
from lds.hypergrad import Derived, TruncationCurve, record, sweep, truncation_curve
from lds.updaters import SGD, Adam
from tests.hypergrad.test_outer import StraightThrough
from tests.oracles import DOUBLE, regression


def flat(tree):
    return torch.cat([x.flatten() for x in optree.tree_leaves(tree)])


@pytest.mark.parametrize("updater", [SGD(0.05, momentum=0.5), Adam(0.05)], ids=["momentum", "adam"])
def test_equals_what_the_sweep_yields(updater):
    problem = regression(dropout=0.5)
    trajectory = record(problem.inner, problem.params, problem.outer, updater=updater, steps=12, seed=3)
    curve = truncation_curve(trajectory, problem.outer_objective)
    steps = list(sweep(trajectory, problem.outer_objective))
    full = flat(steps[-1].grad)
    for k, step in enumerate(steps):
        grad = flat(step.grad)
        assert curve.relative_error[k] == pytest.approx(float((grad - full).norm() / full.norm()), abs=1e-12)
        assert curve.cosine[k] == pytest.approx(float(grad @ full / grad.norm() / full.norm()), abs=1e-12)
        costate = torch.cat([x.flatten() for x in optree.tree_leaves(step.costate[:2]) if isinstance(x, torch.Tensor)])
        assert curve.costate_norm[k] == pytest.approx(float(costate.norm()), rel=1e-12)
    assert curve.relative_error[-1] == 0
    assert curve.cosine[-1] == pytest.approx(1)


def test_geometric_decay_by_hand():
    """L = ½w² − θw, F = w: step k before the end adds η (1 − η)^k, so the error at depth k is (1 − η)^k."""
    eta, steps = 0.25, 60

    def inner(w, theta):
        return 0.5 * w * w - theta * w

    trajectory = record(
        inner, torch.zeros((), dtype=DOUBLE), torch.ones((), dtype=DOUBLE), updater=SGD(eta), steps=steps
    )
    curve = truncation_curve(trajectory, lambda w, theta: w)
    full = 1 - (1 - eta) ** steps
    for k in range(steps):
        assert curve.relative_error[k] == pytest.approx(((1 - eta) ** k - (1 - eta) ** steps) / full, rel=1e-6)
    assert math.isnan(curve.cosine[0])  # No direct gradient.
    assert curve.cosine[1] == pytest.approx(1)
    assert curve.horizon(0.05) == math.ceil(math.log(0.05) / math.log(1 - eta))


def test_small_errors_keep_their_digits():
    """Through differences of norms they would end at the root of machine precision, 1e-8."""

    def inner(w, theta):
        return 0.5 * (w * w).sum() - (theta * w).sum()

    start = torch.zeros(3, dtype=DOUBLE)
    trajectory = record(inner, start, torch.ones(3, dtype=DOUBLE), updater=SGD(0.5), steps=50)
    curve = truncation_curve(trajectory, lambda w, theta: w.sum())
    assert curve.relative_error[40] == pytest.approx(0.5**40, rel=1e-2)


def test_a_derived_variable_counts_by_its_theta():
    problem = regression()
    theta = optree.tree_map(torch.clone, problem.outer)
    derived = {"h": Derived(lambda theta: optree.tree_map(lambda x: 2 * x, theta), theta)}
    curves = []
    for outer, view in ((derived, lambda o: o["h"]), (problem.outer, lambda o: optree.tree_map(lambda x: 2 * x, o))):
        trajectory = record(
            lambda p, o, view=view: problem.inner(p, view(o)), problem.params, outer, updater=SGD(0.02), steps=6
        )
        curves.append(truncation_curve(trajectory, lambda p, o, view=view: problem.outer_objective(p, view(o))))
    assert curves[0].relative_error == pytest.approx(curves[1].relative_error, abs=1e-12)


def test_horizon_of_an_error_that_rises_again():
    curve = TruncationCurve([1.0, 0.04, 0.2, 0.03, 0.0], [0.0] * 5, [0.0] * 5)
    assert curve.horizon() == curve.horizon(0.05) == 3
    assert curve.horizon(2.0) == 0


def test_a_variable_without_inner_products():
    trajectory = record(
        lambda w, outer: 0.5 * w * w - outer["noisy"] * w,
        torch.ones((), dtype=DOUBLE),
        {"noisy": StraightThrough(torch.ones((), dtype=DOUBLE))},
        updater=SGD(0.1),
        steps=2,
    )
    with pytest.raises(InputError, match=r"outer\['noisy'\] must have a method gram\(gradients\)"):
        truncation_curve(trajectory, lambda w, outer: w * outer["noisy"])


def test_a_hypergradient_of_zero():
    zero = torch.zeros((), dtype=DOUBLE)
    trajectory = record(lambda w, theta: 0.5 * w * w * theta, zero, zero + 1, updater=SGD(0.1), steps=2)
    with pytest.raises(NumericalError, match=r"must be finite and not zero .* squared norm is 0\.0"):
        truncation_curve(trajectory, lambda w, theta: w)
