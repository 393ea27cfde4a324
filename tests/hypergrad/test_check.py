"""check_hypergradient passes what is right, and names what is wrong."""

import itertools
import math

import optree
import pytest
import torch

from lds.errors import HypergradientCheckError, InputError, LDSError, PremiseWarning, UnreachedWarning
from lds.hypergrad import Derived, FiniteDifference, Forward, Implicit, KeepStates, Reverse, check_hypergradient
from lds.updaters import SGD, Adam, State, gradient
from tests.hypergrad.test_methods import all_updaters, lr
from tests.hypergrad.test_outer import StraightThrough
from tests.oracles import DOUBLE, Problem, regression


def small(**changes):
    """Two params, a penalty and a learning rate; everything in float32, as a user has it."""
    problem = {
        "inner": lambda w, o: (w - 1).square().sum() + o["a"] * w.pow(4).sum(),
        "outer_objective": lambda w, o: w.pow(3).sum() + o["a"] ** 2,
        "params": torch.tensor([0.5, 2.0]),
        "outer": {"a": torch.tensor(0.1), "lr": torch.tensor(0.05)},
    }
    return Problem(**{**problem, **changes})


def caught(problem, *words, updater=None, steps=4, **options):
    """Assert that the check raises one line that begins with the first word and has the others."""
    with pytest.raises(HypergradientCheckError) as error:
        check_hypergradient(*problem, updater=updater or SGD(lr), steps=steps, **options)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(words[0]), message
    for word in words[1:]:
        assert word in message, message
    return message


class TestWhatIsRight:
    @all_updaters
    def test_passes(self, updater):
        report = check_hypergradient(*regression(dropout=0.5), updater=updater, steps=4, max_entries=3)
        assert [leaf.path for leaf in report.leaves] == [
            "outer['betas'][0]",
            "outer['betas'][1]",
            "outer['log_penalty'][0]",
            "outer['log_penalty'][1]",
            "outer['lr']",
            "outer['momentum']",
            "outer['sample_weights']",
        ]
        assert [len(leaf.analytic) for leaf in report.leaves] == [1, 1, 1, 4, 1, 1, 4]
        assert report.error == max(leaf.error for leaf in report.leaves) <= 1e-6
        for leaf in report.leaves:
            scale = leaf.numeric.abs().max()
            assert leaf.error == pytest.approx(
                ((leaf.analytic - leaf.numeric).abs().max() / scale).item() if scale else 0
            )

    @pytest.mark.parametrize("method", [None, Reverse(), Reverse(memory=KeepStates()), Forward(), FiniteDifference()])
    @pytest.mark.parametrize("steps", [0, 1, 3])
    def test_passes_with_any_method(self, method, steps):
        report = check_hypergradient(*small(), updater=Adam(lr), steps=steps, method=method)
        assert report.error <= 1e-7
        assert report.leaves[0].analytic.dtype == DOUBLE

    def test_passes_at_a_minimum_with_implicit(self):
        problem = small(outer={"a": torch.tensor(0.1)})
        assert check_hypergradient(*problem, updater=SGD(0.1), steps=150, method=Implicit()).error <= 1e-5

    def test_derived(self):
        theta = {"log": torch.tensor(-2.0)}
        problem = small(outer={"a": Derived(lambda t: t["log"].exp(), theta), "lr": torch.tensor(0.05)})
        report = check_hypergradient(*problem, updater=SGD(lr), steps=3)
        assert report.leaves[0].path == "outer['a'].theta['log']"
        assert report.leaves[0].analytic[0] != 0

    def test_empty_and_no_variables(self):
        problem = small(outer={"a": torch.tensor(0.1), "none": torch.ones(0)})
        assert check_hypergradient(*problem, updater=SGD(0.1), steps=2).leaves[1].error == 0
        plain = Problem(lambda w, o: w.square().sum(), lambda w, o: w.sum(), torch.ones(2), {})
        assert check_hypergradient(*plain, updater=SGD(0.1), steps=2).error == 0

    def test_the_entries_are_those_of_the_seed(self):
        def run(seed):
            return check_hypergradient(*regression(), updater=SGD(lr), steps=2, max_entries=2, seed=seed).leaves[-1]

        first, again, other = run(0), run(0), run(1)
        assert torch.equal(first.numeric, again.numeric)
        assert not torch.equal(first.numeric, other.numeric)

    def test_kinks_that_are_passed_at_a_distance(self):
        """A wide layer of rectifiers has kinks within any step, each of them a small part of the slope."""
        generator = torch.Generator().manual_seed(0)
        x, w = (torch.randn(*s, generator=generator) for s in ((300, 4), (4, 50)))

        def inner(w, outer):
            return torch.relu(x.to(w) @ w + outer).square().mean() + torch.relu(x.to(w) @ w * outer).mean()

        problem = Problem(inner, lambda w, o: torch.relu(x.to(w) @ w).mean(), w, torch.tensor(0.3))
        assert check_hypergradient(*problem, updater=SGD(0.5), steps=5).error <= 1e-3

    def test_the_caller_is_left_alone(self):
        problem = small()
        tensors = [x.requires_grad_() for x in optree.tree_leaves((problem.params, problem.outer))]
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        check_hypergradient(*problem, updater=SGD(lr), steps=2)
        assert torch.equal(torch.rand(3), expected)
        assert all(x.grad is None and x.dtype == torch.float32 for x in tensors)


class Double(torch.autograd.Function):
    """The identity with a backward that is twice too large, at all entries or at the last."""

    @staticmethod
    def forward(ctx, x, last):
        ctx.last = last
        return x.clone()

    @staticmethod
    def backward(ctx, cotangent):
        factor = torch.full_like(cotangent, 2.0)
        if ctx.last:
            factor.view(-1)[:-1] = 1.0
        return cotangent * factor, None


class Descent:
    """Gradient descent with momentum whose parts a test can spoil."""

    def __init__(self, grads=gradient, spoil=lambda name, value: value):
        self.grads, self.spoil = grads, spoil

    def init(self, params):
        return torch.zeros_like(params)

    def step(self, state, outer, inner):
        g = self.grads(inner, state.params, outer)
        b = 0.5 * self.spoil("slots", state.slots) + g
        return State(state.params - self.spoil("lr", outer["lr"]) * b, b)


def without_graph(inner, w, outer):
    with torch.enable_grad():
        w = w if w.requires_grad else w.detach().requires_grad_()
        (g,) = torch.autograd.grad(inner(w, outer), w)
    return g


def detached(which):
    return Descent(spoil=lambda name, value: value.detach() if name == which else value)


class TestDetached:
    def test_the_spoiled_updater_is_right_when_it_is_not(self):
        assert check_hypergradient(*small(), updater=Descent(), steps=4).error <= 1e-7

    def test_inner_gradients_without_a_graph_where_the_learning_rate_alone_is_learned(self):
        problem = small(
            inner=lambda w, o: (w - 1).square().sum() + w.pow(4).sum() / 10,
            outer_objective=lambda w, o: w.pow(3).sum(),
            outer={"lr": torch.tensor(0.05)},
        )
        words = ("right after one step but not after 4", "Descent", "use the state", "create_graph=True")
        caught(problem, "outer['lr']: Reverse() gives", "central differences", *words, updater=Descent(without_graph))

    @pytest.mark.parametrize("method", [None, Forward()])
    def test_inner_gradients_without_a_graph(self, method):
        caught(
            small(),
            "the step of Descent must be differentiable in outer['a']",
            updater=Descent(without_graph),
            method=method,
        )

    @pytest.mark.parametrize("method", [None, Reverse(), Forward()])
    def test_an_outer_variable_in_the_step(self, method):
        caught(
            small(), "the step of Descent must be differentiable in outer['lr']", updater=detached("lr"), method=method
        )

    def test_an_outer_variable_in_a_part_of_the_inner_objective(self):
        problem = small(inner=lambda w, o: (w - 1).square().sum() + (o["a"].detach() + o["a"] / 3) * w.pow(4).sum())
        message = caught(
            problem, "outer['a']: Reverse() gives", "wrong from the first step on", "SGD", "use outer['a']"
        )
        assert "outer['lr']" not in message

    @pytest.mark.parametrize("steps", [0, 1, 4])
    def test_an_outer_variable_in_the_outer_objective(self, steps):
        problem = small(outer_objective=lambda w, o: w.pow(3).sum() + 3 * o["a"].item() ** 2)
        message = caught(problem, "outer['a']: ", "before any step", "look at the outer objective", steps=steps)
        assert ("nothing of outer['a'] arrives" in message) is (steps == 0)
        assert "outer['lr']" not in message

    @pytest.mark.filterwarnings("ignore::lds.errors.UnreachedWarning")
    def test_slots(self):
        problem = small(outer={"a": torch.tensor(0.1), "lr": torch.tensor(0.05), "unused": torch.tensor(1.0)})
        message = caught(problem, "outer['", "right after one step", "use the state", updater=detached("slots"))
        assert "wrong as well: outer['" in message
        assert "unused" not in message


class TestWrongDerivatives:
    @pytest.mark.parametrize("method", [None, Forward()])
    def test_of_one_variable(self, method):
        problem = small(inner=lambda w, o: (w - 1).square().sum() + Double.apply(o["a"], False) * w.pow(4).sum())
        name = "Reverse()" if method is None else "Forward()"
        message = caught(problem, f"outer['a']: {name} gives", "wrong from the first step on", method=method)
        assert "outer['lr']" not in message

    def test_of_one_entry_in_many(self):
        """The seed's sample does not have it; the random direction does."""
        outer = {"a": torch.linspace(0.1, 0.3, 60), "lr": torch.tensor(0.05)}
        problem = small(
            inner=lambda w, o: (Double.apply(o["a"], True) * (w - 1).square()).sum(),
            outer_objective=lambda w, o: w.pow(3).sum(),
            params=torch.linspace(0.5, 2.0, 60),
            outer=outer,
        )
        message = caught(problem, "outer['a'] along a random direction: Reverse() gives", max_entries=3)
        assert "outer['lr']" not in message
        caught(problem, "outer['a'][59]: Reverse() gives", max_entries=60)

    def test_within_the_tolerance(self):
        problem = small(outer_objective=lambda w, o: w.pow(3).sum() + 0.9 * o["a"] + 0.1 * o["a"].item())
        caught(problem, "outer['a']: ")
        check_hypergradient(*problem, updater=SGD(lr), steps=4, rtol=0.5)
        check_hypergradient(*problem, updater=SGD(lr), steps=4, atol=0.11)
        caught(problem, "outer['a']: ", atol=0.09)

    def test_numbers_in_the_message(self):
        problem = Problem(
            lambda w, o: w.square().sum(), lambda w, o: Double.apply(o, False) * 3, torch.ones(1), torch.ones(2, 2)
        )
        problem = problem._replace(outer_objective=lambda w, o: (Double.apply(o, False) * 3).sum())
        caught(problem, "outer[0, 0]: Reverse() gives 6, central differences 3 (relative error 1)", updater=SGD(0.1))

    def test_of_a_truncated_sweep(self):
        caught(small(), "outer['", "the sweep is truncated", method=Reverse(1))
        caught(small(), "outer['", "the sweep is truncated", method=Reverse(tol=0.5), steps=12)

    def test_away_from_the_premise(self):
        with pytest.warns(PremiseWarning):
            caught(small(), "outer['", "Implicit() is exact under its premise only", method=Implicit())


class TestNotDifferentiable:
    def test_a_jump(self):
        problem = small(outer_objective=lambda w, o: w.sum() + (o["a"] * 5).round())
        caught(problem, "outer['a']: Reverse() gives", "jumps or has a kink near by", "rounding", "move θ")

    def test_a_kink_whose_sides_cancel(self):
        """At 0 the slope of |θ| is taken as 0, and so do central differences."""
        problem = small(outer_objective=lambda w, o: w.sum() + o["b"].abs())
        problem = problem._replace(outer={**problem.outer, "b": torch.tensor(0.0)})
        message = caught(
            problem, "outer['b']: Reverse() gives 0, but the slope", "is -1 below and 1 above", "not differen"
        )
        assert "outer['lr']" not in message

    def test_a_kink_in_the_step(self):
        """The rectifier switches where θ is, and takes the slope of one side."""
        problem = small(inner=lambda w, o: (w - 1).square().sum() + ((o["a"] - 0.125).clamp(min=0.0) * w).sum())
        problem = problem._replace(outer={"a": torch.tensor(0.125), "lr": torch.tensor(0.05)})
        caught(problem, "outer['a']: Reverse() gives", "is not differentiable here")


class TestNotFinite:
    def test_the_hypergradient(self):
        problem = small(outer_objective=lambda w, o: w.sum() + (o["a"] - 0.5).square().sqrt())
        problem = problem._replace(outer={"a": torch.tensor(0.5), "lr": torch.tensor(0.05)})
        caught(problem, "the hypergradient must be finite, but that of outer['a'] holds NaN", "sqrt")

    def test_the_outer_objective_near_by(self):
        problem = small(outer_objective=lambda w, o: w.sum() + (o["a"] - 0.5 + 1e-7).sqrt())
        problem = problem._replace(outer={"a": torch.tensor(0.5), "lr": torch.tensor(0.05)})
        caught(problem, "outer['a']: the outer objective is not finite at a distance of 6e-06")

    def test_the_outer_objective(self):
        caught(small(), "the inner objective must be finite", "lower the inner learning", updater=SGD(9.0), steps=12)


class TestNotRepeatable:
    @pytest.mark.filterwarnings("ignore::lds.errors.UnreachedWarning")
    def test_a_slot_that_holds_nan_is_none(self):
        class Noting(SGD):
            def init(self, params):
                return {"seen": torch.tensor(math.nan)}

            def step(self, state, outer, inner):
                new = super().step(state._replace(slots=super().init(state.params)), outer, inner)
                return new._replace(slots=state.slots)

        check_hypergradient(*small(), updater=Noting(0.05), steps=3)

    def test_an_iterator_that_moves_on(self):
        batches = itertools.count()
        problem = small(inner=lambda w, o: (w - next(batches) % 7).square().sum() + o["a"] * w.pow(2).sum())
        caught(problem, "two runs with one seed must end in the same bits, but differ in state.params", "iterator")

    def test_an_outer_objective_that_moves_on(self):
        batches = itertools.count()
        problem = small(outer_objective=lambda w, o: w.pow(3).sum() + next(batches))
        caught(problem, "two runs with one seed must end in the same bits, but differ in the outer objective")

    def test_one_that_comes_round_in_every_run_is_caught_by_the_replay(self):
        """As many calls a run as batches: two runs end in the same bits, a step that is run again does not."""
        batches = itertools.cycle([0.0, 1.0, 5.0])
        problem = small(inner=lambda w, o: (w - next(batches)).square().sum() + o["a"] * w.pow(2).sum())
        for method in (None, Reverse()):
            caught(problem, "replaying step 2 gave another state.params", steps=3, method=method)


class TestArguments:
    def test_data_in_float32(self):
        x = torch.ones(3, 2)
        problem = small(inner=lambda w, o: (x @ w).square().sum() + o["a"] * w.square().sum())
        with pytest.raises(
            InputError, match=r"compute in the dtype of their arguments, float64 here, but: .*Float"
        ) as error:
            check_hypergradient(*problem, updater=SGD(lr), steps=2)
        assert "convert the data that they close over, with .double()" in str(error.value)

    @pytest.mark.parametrize("which", ["inner", "outer"])
    def test_an_objective_that_casts(self, which):
        name = "inner" if which == "inner" else "outer_objective"
        function = getattr(small(), name)
        problem = small(**{name: lambda w, o: function(w, o).float()})
        with pytest.raises(InputError, match=rf"the {which} objective returns torch.float32"):
            check_hypergradient(*problem, updater=SGD(lr), steps=2)

    def test_an_updater_in_float32(self):
        class Slots(Descent):
            def init(self, params):
                return torch.zeros(2)

        with pytest.raises(InputError, match=r"float64 here, but: .*must keep shapes and dtypes.*convert the data"):
            check_hypergradient(*small(), updater=Slots(), steps=2)

    def test_what_runs_in_no_dtype_raises_as_it_does(self):
        def inner(w, outer):
            raise RuntimeError("no such luck")

        with pytest.raises(RuntimeError, match="no such luck"):
            check_hypergradient(*small(inner=inner), updater=SGD(lr), steps=2)

    def test_an_outer_variable_that_draws_is_refused(self):
        problem = small(outer=StraightThrough(torch.full((2,), 0.5)))
        with pytest.raises(
            InputError, match=r"check_hypergradient needs .* but outer is a StraightThrough, which draws"
        ):
            check_hypergradient(*problem, updater=SGD(0.1), steps=2)

    def test_the_error_is_an_assertion(self):
        assert issubclass(HypergradientCheckError, AssertionError)
        assert issubclass(HypergradientCheckError, LDSError)


def test_a_right_hypergradient_at_a_sensitive_place():
    """Steps that amplify: the figures grow, and are right all the same."""
    problem = small(inner=lambda w, o: -(w - 1).square().sum() + o["a"] * w.pow(4).sum())
    report = check_hypergradient(*problem, updater=Adam(lr, betas=(0.5, betas_of(problem))), steps=6)
    assert report.error <= 1e-5
    assert all(math.isfinite(x) for leaf in report.leaves for x in leaf.numeric)


def betas_of(problem):
    return lambda outer: 0.5 + outer["a"]


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_is_as_sharp_whatever_the_units_of_f(scale):
    """A gradient that is 3 % off, of a small outer objective too."""

    class Less(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return 0.97 * grad

    right = small(outer_objective=lambda w, o: scale * w.pow(3).sum())
    check_hypergradient(*right, updater=SGD(lr), steps=4)
    wrong = right._replace(inner=lambda w, o: (w - 1).square().sum() + Less.apply(o["a"]) * w.pow(4).sum())
    caught(wrong, "outer['a']", "relative error 0.03")


class TestNoEffect:
    """Zeros on both sides agree, and are said nevertheless."""

    def inner(self, w, o):
        return (w - o["target"]).square().sum()

    def check(self, inner):
        outer = {"target": torch.tensor(0.4, dtype=DOUBLE), "other": torch.tensor([0.2, 0.3], dtype=DOUBLE)}
        return check_hypergradient(
            inner, lambda w, o: w.exp().sum(), torch.zeros(2, dtype=DOUBLE), outer, updater=SGD(0.1), steps=3
        )

    def test_is_said(self):
        with pytest.warns(
            UnreachedWarning, match=r"outer\['other'\] has no effect at all: Reverse\(\) gives 0"
        ) as caught:
            found = self.check(self.inner)
        assert found.error <= 1e-8
        assert caught[0].filename == __file__

    def test_a_derivative_of_zero_is_an_effect(self):
        self.check(
            lambda w, o: self.inner(w, o) * (1 + (o["other"] - torch.tensor([0.2, 0.3], dtype=DOUBLE)).square().sum())
        )
