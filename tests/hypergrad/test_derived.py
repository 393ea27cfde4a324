"""A derived outer variable: one evaluation of h, one pull-back, the hypergradient of h inside the objective."""

import optree
import pytest
import torch

from lds.errors import InputError
from lds.hypergrad import Checkpoint, Derived, KeepStates, Reverse, hypergradient, record, sweep
from lds.updaters import SGD, Adam
from tests.oracles import DOUBLE, Problem, regression, relative_error, same_bits, unroll

METHODS = [Reverse(), Reverse(memory=KeepStates()), Reverse(3, memory=Checkpoint()), Reverse(0)]


def kernel(theta):
    """A costly map that uses theta as a whole."""
    return torch.linalg.matrix_exp(theta @ theta.T / 10)


def problems(log=None):
    """The same problem with the kernel inside the objectives, and derived once."""
    generator = torch.Generator().manual_seed(0)
    theta, x, w = (torch.randn(*shape, generator=generator, dtype=DOUBLE) for shape in ((4, 3), (4, 2), (2,)))

    def function(theta):
        if log is not None:
            log.append(theta)
        return kernel(theta)

    def inner(w, k):
        return (torch.tanh(k @ x @ w) - 1).square().sum() + 0.1 * w.square().sum()

    def outer_objective(w, k):
        return (k @ x @ w).square().mean() + 0.01 * k.square().sum()

    plain = Problem(lambda w, o: inner(w, kernel(o)), lambda w, o: outer_objective(w, kernel(o)), w, theta)
    return plain, Problem(inner, outer_objective, w, Derived(function, theta))


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_equals_the_unroll(method):
    plain, derived = problems()
    found = hypergradient(*derived, updater=Adam(0.1), steps=6, method=method)
    expected = unroll(plain, Adam(0.1), 6, horizon=method.horizon)
    assert relative_error(found.grad, expected.grad) <= 1e-12


def test_is_evaluated_once():
    log = []
    _, derived = problems(log)
    hypergradient(*derived, updater=SGD(0.1), steps=9, method=Reverse(memory=KeepStates()))
    assert len(log) == 1


def test_theta_may_be_a_pytree_and_h_too():
    problem = regression()

    def exponential(logs):
        return {"penalty": [x.exp() for x in logs["log_penalty"]], "rate": logs["lr"] ** 2, "constant": 3}

    theta = {"log_penalty": problem.outer["log_penalty"], "lr": problem.outer["lr"], "unused": torch.ones(2)}
    weights = problem.outer["sample_weights"]

    def objective(function):
        def call(params, outer):
            h = outer["h"] if isinstance(outer["h"], dict) and "rate" in outer["h"] else exponential(outer["h"])
            logs = [p.log() for p in h["penalty"]]
            shown = {"log_penalty": logs, "sample_weights": outer["weights"] * h["constant"], "lr": h["rate"]}
            return function(params, {**problem.outer, **shown})

        return call

    def rate(outer):
        h = outer["h"]
        return h["rate"] if "rate" in h else h["lr"] ** 2

    inner, outer_objective = objective(problem.inner), objective(problem.outer_objective)
    outer = {"h": Derived(exponential, theta), "weights": weights}
    found = hypergradient(inner, outer_objective, problem.params, outer, updater=SGD(rate), steps=5).grad
    plain = Problem(inner, outer_objective, problem.params, {"h": theta, "weights": weights})
    expected = unroll(plain, SGD(rate), 5).grad
    assert relative_error(found["h"], expected["h"]) <= 1e-12
    assert relative_error(found["weights"], expected["weights"]) <= 1e-12
    assert torch.equal(found["h"]["unused"], torch.zeros(2))


def test_every_depth_of_a_sweep_is_pulled_back():
    plain, derived = problems()
    trajectory = record(derived.inner, derived.params, derived.outer, updater=SGD(0.1), steps=4)
    grads = [grad for _, _, grad in sweep(trajectory, derived.outer_objective)]
    for depth, grad in enumerate(grads):
        assert relative_error(grad, unroll(plain, SGD(0.1), 4, horizon=depth).grad) <= 1e-12


def test_a_step_that_detaches_it_is_an_error():
    _, derived = problems()

    class Detaching(SGD):
        def step(self, state, outer, inner):
            return super().step(state, outer.detach(), inner)

    with pytest.raises(InputError, match=r"must be differentiable in outer: its result changes with that variable"):
        hypergradient(*derived, updater=Detaching(0.1), steps=2)


def test_refuses_what_cannot_be_pulled_back():
    with pytest.raises(InputError, match=r"theta\['k'\]\[0\] must be a floating-point tensor, got torch.int64"):
        Derived(lambda x: x, {"k": [torch.tensor(1)]})
    outer = {"k": Derived(lambda theta: theta.detach().exp(), torch.tensor(1.0))}
    with pytest.raises(InputError, match=r"the function of outer\['k'\] must return tensors that depend on theta"):
        hypergradient(
            lambda w, o: o["k"] * w.sum(), lambda w, o: w.sum(), torch.ones(2), outer, updater=SGD(0.1), steps=1
        )


def test_what_was_yielded_stays_as_it_was():
    """A function that hands θ through must not hand out the sums, which go on growing."""
    problem = regression()
    for outer in (problem.outer, {"all": Derived(lambda theta: theta, problem.outer)}):
        names = (lambda o: o["all"]) if "all" in outer else (lambda o: o)
        trajectory = record(
            lambda p, o, names=names: problem.inner(p, names(o)), problem.params, outer, updater=SGD(0.05), steps=4
        )
        steps = sweep(trajectory, lambda p, o, names=names: problem.outer_objective(p, names(o)))
        yielded, copies = [], []
        for step in steps:
            yielded.append(step.grad)
            copies.append(optree.tree_map(torch.clone, step.grad))
        assert all(same_bits(x, y) for x, y in zip(yielded, copies, strict=True))
        assert not same_bits(yielded[0], yielded[-1])
