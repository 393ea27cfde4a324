"""Updaters that break one clause of the contract each are caught, and told which."""

import itertools

import optree
import pytest
import torch

from lds.errors import ContractError, InputError, LDSError
from lds.hypergrad import Reverse
from lds.updaters import SGD, State, check_updater, gradient
from tests.oracles import DOUBLE, Problem, same_bits


def descend(params, grads, rate=0.05):
    return optree.tree_map(lambda w, g: w - rate * g, params, grads)


class Descent:
    """Gradient descent, to be broken in one way each."""

    def init(self, params):
        return ()

    def step(self, state, outer, inner):
        return self.descend(state, gradient(inner, state.params, outer))

    def descend(self, state, grads):
        return State(descend(state.params, grads))


class Forgets(Descent):
    def descend(self, state, grads):
        return State({"layers": state.params["layers"]})


class ReturnsLists(Descent):
    def step(self, state, outer, inner):
        return list(super().step(state, outer, inner))


class TurnsSlotsIntoAList(Descent):
    def init(self, params):
        return (torch.zeros(()),)

    def descend(self, state, grads):
        return State(descend(state.params, grads), list(state.slots))


class LosesPrecision(Descent):
    def descend(self, state, grads):
        return State(optree.tree_map(lambda w: w.to(torch.float32), descend(state.params, grads)))


class GainsPrecision(Descent):
    """In float64 nothing is wrong with it."""

    def descend(self, state, grads):
        return State(descend(state.params, optree.tree_map(torch.Tensor.double, grads)))


class GrowsItsSlots(Descent):
    def init(self, params):
        return torch.zeros(1)

    def descend(self, state, grads):
        return State(descend(state.params, grads), torch.cat([state.slots, state.slots]))


class WritesToItsInput(Descent):
    def descend(self, state, grads):
        with torch.no_grad():
            optree.tree_map_(lambda w, g: w.sub_(0.05 * g), state.params, grads)
        return state


class WritesToTheOuterVariables(Descent):
    def step(self, state, outer, inner):
        with torch.no_grad():
            outer["lr"].mul_(0.9)
        return super().step(state, outer, inner)


class WritesToItsParamsAtFirst(Descent):
    def init(self, params):
        optree.tree_map_(lambda w: w.mul_(2), params)
        return ()


class Counts(Descent):
    def __init__(self):
        self.counter = itertools.count(1)

    def descend(self, state, grads):
        return State(descend(state.params, grads, 0.05 / next(self.counter)))


class LooksAtTheGradMode(Descent):
    def descend(self, state, grads):
        return State(descend(state.params, grads, 0.05 if torch.is_grad_enabled() else 0.04))


class CallsBackward(Descent):
    def step(self, state, outer, inner):
        inner(state.params, outer).backward()
        return self.descend(state, optree.tree_map(lambda w: w.grad, state.params))


class TakesGradientsWithoutAGraph(Descent):
    def step(self, state, outer, inner):
        leaves, spec = optree.tree_flatten(state.params)
        grads = torch.autograd.grad(inner(state.params, outer), leaves)
        return self.descend(state, optree.tree_unflatten(spec, grads))


class CutsTheStateOff(Descent):
    def step(self, state, outer, inner):
        detached = optree.tree_map(torch.detach, state.params)
        return self.descend(state, gradient(inner, detached, outer))


class CutsTheLearningRateOff(Descent):
    def step(self, state, outer, inner):
        return State(descend(state.params, gradient(inner, state.params, outer), outer["lr"].item()))


class CutsOneCoefficientOff(Descent):
    """Right in all but one of its outer variables."""

    def step(self, state, outer, inner):
        decay = 1 - outer["lr"] * outer["weight_decay"].detach()
        params = optree.tree_map(lambda w: decay * w, state.params)
        return State(descend(params, gradient(inner, state.params, outer), outer["lr"]))


class ReadsGlobals(Descent):
    """The same within a run, another in the next."""

    starts = itertools.count()

    def init(self, params):
        self.rate = 0.05 + 1e-3 * next(self.starts)
        return ()

    def descend(self, state, grads):
        return State(descend(state.params, grads, self.rate))


class DividesByARoot(Descent):
    def descend(self, state, grads):
        return State(optree.tree_map(lambda w, g: w - 0.05 * g / (g.square().sqrt() + 1e-8), state.params, grads))


class DividesByTheNorm(Descent):
    """Fails only where the whole gradient is zero."""

    def descend(self, state, grads):
        norm = torch.cat([g.reshape(-1) for g in optree.tree_leaves(grads)]).norm()
        return State(descend(state.params, grads, 0.05 / norm))


class KeepsMomentumToItself(Descent):
    """Two identical calls differ from the very first step on, and later ones too."""

    momentum = None

    def descend(self, state, grads):
        self.momentum = grads if self.momentum is None else optree.tree_map(lambda v, g: v + g, self.momentum, grads)
        self.momentum = optree.tree_map(torch.Tensor.detach, self.momentum)
        return State(descend(state.params, self.momentum))


class ClampsInPlaceWithoutEffect(Descent):
    def descend(self, state, grads):
        new = descend(state.params, grads)
        with torch.no_grad():
            optree.tree_map(lambda w: w.clamp_(-1e3, 1e3), state.params)
        return State(new)


BROKEN = [
    (Forgets, "structure", "step changed the structure of the state: needed .*scale.*, got"),
    (ReturnsLists, "structure", r"step must return State\(params, slots\), got list"),
    (TurnsSlotsIntoAList, "structure", "step changed the structure of the state"),
    (LosesPrecision, "structure", r"changed state.params\['layers'\].*: needed \(4,\) torch.float64, got .*float32"),
    (GainsPrecision, "structure", r"changed state.params\['layers'\].*: needed \(4,\) torch.float32, got .*float64"),
    (GrowsItsSlots, "structure", r"changed state.slots: needed \(1,\) torch.float32, got \(2,\) torch.float32"),
    (WritesToItsInput, "purity", r"step changed its arguments: state.params.* \(relative error 0.0"),
    (WritesToTheOuterVariables, "purity", r"step changed its arguments: outer\['lr'\] .* \(relative error 0.1"),
    (WritesToItsParamsAtFirst, "purity", r"init changed its argument: params.* \(relative error 1\)"),
    (Counts, "purity", "two results for the same arguments: state.params"),
    (LooksAtTheGradMode, "purity", "depends on the grad mode: state.params"),
    (CallsBackward, "purity", r"step wrote to state.params.*\.grad"),
    (TakesGradientsWithoutAGraph, "derivative", r"outer\['penalty'\].* by central differences but .*create_graph=True"),
    (CutsTheStateOff, "derivative", r"outer\['penalty'\].* by central differences but"),
    (CutsTheLearningRateOff, "derivative", r"outer\['lr'\].* but 0 by autograd \(relative error 1\)"),
    (CutsOneCoefficientOff, "derivative", r"outer\['weight_decay'\].* but 0 by autograd \(relative error 1\)"),
    (ReadsGlobals, "purity", "two results for the same arguments: state.params"),
    (KeepsMomentumToItself, "purity", "two results for the same arguments: state.params"),
    (ClampsInPlaceWithoutEffect, "purity", r"step wrote to state.params.* in place, though its value is the same"),
    (DividesByARoot, "zeros", "weights that the inner objective does not use make .* entries of .* NaN"),
    (DividesByTheNorm, "zeros", "zero inner gradients make .* of the final params.* NaN"),
]


@pytest.mark.filterwarnings("ignore:Using backward:UserWarning")
@pytest.mark.parametrize(("make", "clause", "complaint"), BROKEN, ids=[make.__name__ for make, *_ in BROKEN])
def test_an_updater_is_caught(make, clause, complaint):
    with pytest.raises(ContractError, match=complaint) as caught:
        check_updater(make())
    assert str(caught.value).startswith(f"{make.__name__} breaks the contract of updaters, clause {clause}: ")
    assert "\n" not in str(caught.value)


def test_what_was_to_be_broken_is_accepted():
    check_updater(Descent())


def test_an_engine_that_disagrees_is_caught(monkeypatch):
    solve = Reverse.solve

    def wrong(method, problem):
        result = solve(method, problem)
        return type(result)(**{**vars(result), "grad": optree.tree_map(lambda g: g * (1 + 1e-6), result.grad)})

    monkeypatch.setattr(Reverse, "solve", wrong)
    with pytest.raises(ContractError, match=r"clause hypergradient: the hypergradient at horizon 6 .* error 1e-06"):
        check_updater(Descent())


def test_a_derivative_that_is_slightly_wrong_is_caught_where_the_outer_objective_bends_sharply():
    """Three percent off; the quotient over a wide step is off by more, so no allowance is made for it."""

    class Less(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return 0.97 * grad

    class Off(Descent):
        def step(self, state, outer, inner):
            return State(descend(state.params, gradient(inner, state.params, outer), Less.apply(outer["lr"])))

    problem = (
        lambda w, o: (w["a"] - 1).square().sum(),
        lambda w, o: w["a"].square().sum() + (w["a"].abs() + 1e-5).log().sum(),
        {"a": torch.zeros(3, dtype=DOUBLE)},
        {"lr": torch.tensor(1e-4, dtype=DOUBLE)},
    )
    check_updater(SGD(lambda o: o["lr"]), *problem)
    with pytest.raises(ContractError, match=r"clause derivative: .*outer\['lr'\].* \(relative error 0.03\)"):
        check_updater(Off(), *problem)


def test_random_updaters_are_accepted():
    class Langevin(Descent):
        def descend(self, state, grads):
            return State(optree.tree_map(lambda w, g: w - 0.05 * g + 0.01 * torch.randn_like(w), state.params, grads))

    check_updater(Langevin())


def test_the_error_is_one_of_the_package_and_an_assertion():
    assert issubclass(ContractError, LDSError)
    assert issubclass(ContractError, AssertionError)


def problem():
    """A problem with one outer variable, which only the updater sees."""
    target = torch.tensor([1.0, -2.0, 0.5], dtype=DOUBLE)
    return Problem(
        lambda w, lr: torch.cosh(w - target).sum(),
        lambda w, lr: (w + target).square().sum(),
        torch.zeros(3, dtype=DOUBLE),
        torch.tensor(0.1, dtype=DOUBLE),
    )


class TestProblemsOfOnesOwn:
    def test_are_used(self):
        class Detached(Descent):
            def step(self, state, outer, inner):
                return State(state.params - outer.detach() * gradient(inner, state.params, outer))

        check_updater(SGD(lambda lr: lr), *problem())
        with pytest.raises(ContractError, match=r"direction of outer the derivative is .* but 0 by autograd"):
            check_updater(Detached(), *problem())

    def test_are_left_as_they_were(self):
        class Scales(Descent):
            def step(self, state, outer, inner):
                with torch.no_grad():
                    state.params.mul_(2)
                    outer.mul_(2)
                return super().step(state, outer, inner)

            def init(self, params):
                params.mul_(2)
                return ()

        asked = problem()
        with pytest.raises(ContractError):
            check_updater(Scales(), *asked)
        assert same_bits((asked.params, asked.outer), (problem().params, problem().outer))

    def test_must_be_complete(self):
        with pytest.raises(InputError, match=r"all of inner, outer_objective, params and outer.* only inner, params"):
            check_updater(SGD(0.1), problem().inner, params=problem().params)

    @pytest.mark.parametrize("name", ["params", "outer"])
    def test_must_be_in_double_precision(self, name):
        asked = problem()
        asked = asked._replace(**{name: getattr(asked, name).float()})
        with pytest.raises(InputError, match=f"{name} must be in float64, got torch.float32"):
            check_updater(SGD(0.1), *asked)


def test_the_tolerance_is_the_callers():
    class SlightlyWrong(Descent):
        """Its derivative in the learning rate is off by a part in a thousand."""

        def step(self, state, outer, inner):
            rate = outer["lr"] * 0.999 + (outer["lr"] * 0.001).detach()
            return State(descend(state.params, gradient(inner, state.params, outer), rate))

    check_updater(SlightlyWrong(), tolerance=1e-2)
    with pytest.raises(ContractError, match=r"outer\['lr'\]"):
        check_updater(SlightlyWrong())


def test_neither_updater_nor_optimizer():
    with pytest.raises(InputError, match="an updater needs methods init and step, but int has no init"):
        check_updater(3)


def test_the_callers_random_numbers_and_grad_mode_are_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    with torch.no_grad():
        check_updater(SGD(0.1))
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.rand(2), expected)
