"""What the diagnostics say, against a problem whose costates are known, and the truncation that follows from them."""

import itertools
import math

import pytest
import torch

from lds.errors import InputError
from lds.hypergrad import Derived, Reverse, SweepDiagnostics, hypergradient, plot_diagnostics
from lds.hypergrad._diagnostics import remaining_share
from lds.updaters import SGD, Adam
from tests.hypergrad.test_outer import masked_regression, with_variable
from tests.oracles import DOUBLE, Problem, regression, relative_error, ridge, same_bits, unroll


def geometric(rate):
    """Gradient descent whose costate is `rate`^k, and whose contribution at depth k is rate^(k−1) · (1 − rate)."""

    def inner(w, outer):
        return (1 - rate) * (w - outer).square().sum() / 2

    params, outer = torch.zeros(1, dtype=DOUBLE), torch.ones(1, dtype=DOUBLE)
    return Problem(inner, lambda w, o: w.sum(), params, outer)


def diagnostics(norms):
    return SweepDiagnostics([], lambda: 0.0, len(norms) - 1, norms, None, None)


@pytest.mark.parametrize("rate", [0.5, 0.9, 1.0, 1.1])
def test_norms_contributions_and_contraction_of_a_known_map(rate):
    found = hypergradient(*geometric(rate), updater=SGD(1.0), steps=20).diagnostics
    assert found.costate_norms == pytest.approx([rate**k for k in range(20)])
    truncated = hypergradient(*geometric(rate), updater=SGD(1.0), steps=20, method=Reverse(7)).diagnostics
    assert truncated.costate_norms == pytest.approx([rate**k for k in range(8)])
    assert found.contributions == pytest.approx([0, *(rate ** (k - 1) * abs(1 - rate) for k in range(1, 21))])
    assert found.contraction == pytest.approx(rate)


def test_contributions_are_differences_of_the_truncated_hypergradients():
    problem = regression(dropout=0.5)
    updater = Adam(lambda outer: outer["lr"])
    found = hypergradient(*problem, updater=updater, steps=6).diagnostics.contributions
    grads = [unroll(problem, updater, 6, horizon=h).grad for h in range(7)]

    def flat(grad):
        parts = [grad["lr"], grad["momentum"], *grad["betas"], *grad["log_penalty"], grad["sample_weights"]]
        return torch.cat([x.flatten() for x in parts])

    expected = [flat(grads[0]).norm().item()]
    expected += [(flat(b) - flat(a)).norm().item() for a, b in itertools.pairwise(grads)]
    assert found == pytest.approx(expected, rel=1e-9)


def test_contributions_of_variables_that_draw_are_not_known():
    problem, _ = with_variable(masked_regression())
    assert hypergradient(*problem, updater=SGD(0.1), steps=3).diagnostics.contributions is None


def test_norms_of_derived_and_mixed_dtypes():
    outer = {"a": Derived(torch.exp, torch.tensor(0.0, dtype=DOUBLE)), "b": torch.tensor(1.0)}
    found = hypergradient(
        lambda w, o: (o["a"] * w[0]).square().sum() + (o["b"] * w[1]).square().sum(),
        lambda w, o: w[0].sum() + w[1].sum(),
        [torch.ones(2, dtype=DOUBLE), torch.ones(3)],
        outer,
        updater=SGD(0.1),
        steps=4,
    )
    assert all(map(math.isfinite, found.diagnostics.costate_norms))
    assert found.diagnostics.costate_norms[0] == pytest.approx(5**0.5)
    assert found.diagnostics.contributions[1] > 0


class TestSuggestedHorizon:
    @pytest.mark.parametrize("tol", [0.1, 0.01, 1e-4])
    def test_leaves_out_the_share_asked_for(self, tol):
        rate = 0.8
        suggested = diagnostics([rate**k for k in range(100)]).suggested_horizon(tol)
        left_out = [rate ** (h + 1) / (1 - rate ** (h + 1)) for h in (suggested, suggested - 1)]
        assert left_out[0] <= tol < left_out[1]

    def test_beyond_the_steps_swept(self):
        rate = 0.9
        short, long = (diagnostics([rate**k for k in range(n)]).suggested_horizon(0.01) for n in (10, 200))
        assert abs(short - long) <= 1

    def test_there_is_none_where_costates_do_not_shrink(self):
        assert diagnostics([1.0] * 20).suggested_horizon() is None
        assert diagnostics([1.1**k for k in range(20)]).suggested_horizon() is None

    def test_nothing_is_left_after_a_zero(self):
        assert diagnostics([1.0, 0.5, 0.0, 0.0]).suggested_horizon() == 2

    def test_a_zero_is_no_part_of_the_contraction(self):
        assert diagnostics([1.0, 0.5, 0.25, 0.125, 0.0]).contraction == pytest.approx(0.5)

    def test_one_norm_tells_nothing(self):
        assert math.isnan(diagnostics([1.0]).contraction)
        assert diagnostics([1.0]).suggested_horizon() is None


@pytest.mark.parametrize(
    ("norms", "share"),
    [([1.0] * 9, math.inf), ([2.0**k for k in range(9)], math.inf), ([0.5**k for k in range(5)], math.inf), ([0.0], 0)],
)
def test_remaining_share_where_nothing_is_known(norms, share):
    assert remaining_share(norms) == share


class TestAdaptiveTruncation:
    @pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-8])
    @pytest.mark.parametrize("updater", [SGD(0.5), SGD(0.2, momentum=0.8)], ids=["sgd", "momentum"])
    def test_stops_where_the_rest_is_within_the_tolerance(self, updater, tol):
        problem, minimiser, _ = ridge()
        problem = problem._replace(params=minimiser)
        full, found = (hypergradient(*problem, updater=updater, steps=400, method=Reverse(tol=t)) for t in (None, tol))
        assert found.diagnostics.steps_swept < 300
        assert relative_error(found.grad, full.grad) <= 3 * tol
        assert len(found.diagnostics.costate_norms) == found.diagnostics.steps_swept + 1

    def test_smaller_tolerances_sweep_further(self):
        swept = [
            hypergradient(*ridge()[0], updater=SGD(0.5), steps=300, method=Reverse(tol=tol)).diagnostics.steps_swept
            for tol in (1e-1, 1e-3, 1e-6, 0)
        ]
        assert swept == sorted(set(swept))
        assert swept[-1] == 300

    def test_never_stops_where_costates_do_not_shrink(self):
        found = hypergradient(*geometric(1.1), updater=SGD(1.0), steps=30, method=Reverse(tol=0.5))
        assert found.diagnostics.steps_swept == 30

    def test_the_horizon_still_bounds_it(self):
        problem = regression()
        found, expected = (
            hypergradient(*problem, updater=SGD(0.05), steps=9, method=Reverse(4, tol=tol)) for tol in (1e-9, None)
        )
        assert same_bits(found.grad, expected.grad)

    @pytest.mark.parametrize("tol", [-1.0, math.nan])
    def test_refuses(self, tol):
        with pytest.raises(InputError, match="tol must be a number >= 0 or None, got"):
            Reverse(tol=tol)


def test_plot():
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="plots need matplotlib")
    found = hypergradient(*geometric(0.7), updater=SGD(1.0), steps=40).diagnostics
    axes = plot_diagnostics(found)
    costates, contributions = (line.get_ydata() for line in axes.get_lines()[:2])
    assert list(costates) == found.costate_norms
    assert list(contributions) == found.contributions
    assert "suggested horizon" in axes.get_legend().get_texts()[-1].get_text()
    assert plot_diagnostics(found, axes) is axes
    pyplot.close("all")
