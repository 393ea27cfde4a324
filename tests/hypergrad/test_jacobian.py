"""`jacobian`: all rows of dF/dθ from one recording."""

import optree
import pytest
import torch

from lds.errors import InputError
from lds.hypergrad import Checkpoint, Derived, Disk, Forward, KeepGraphs, KeepStates, Reverse, jacobian
from lds.updaters import SGD, Adam
from tests.hypergrad.test_unroll import error, plain
from tests.oracles import DOUBLE, regression

PROBLEM = regression(dropout=0.3)


@pytest.mark.parametrize("memory", [KeepGraphs(), KeepStates(), Checkpoint()], ids=repr)
def test_of_w_is_that_of_one_graph(memory):
    theta = torch.tensor([0.3, -0.2], dtype=DOUBLE)

    def inner(w, o):
        return ((w["a"].sin() - o["t"]) ** 2).sum() * o["t"][0].exp() + torch.nn.functional.dropout(w["a"]).pow(4).sum()

    def w_of(t):
        return plain(inner, {"a": torch.ones(3, 2, dtype=DOUBLE)}, {"t": t}, updater=Adam(0.05), steps=4)["a"]

    found = jacobian(
        inner, lambda w, o: w["a"], {"a": torch.ones(3, 2, dtype=DOUBLE)}, {"t": theta}, updater=Adam(0.05), steps=4,
        method=Reverse(memory=memory),
    )  # fmt: skip
    assert found.jacobian["t"].shape == (3, 2, 2)
    assert error([found.jacobian["t"]], [torch.autograd.functional.jacobian(w_of, theta)]) < 1e-13
    assert torch.equal(found.values, found.params["a"])


def test_of_several_losses():
    def losses(p, o):
        return torch.stack([PROBLEM.outer_objective(p, o), p["scale"] * o["lr"]])

    found = jacobian(PROBLEM.inner, losses, PROBLEM.params, PROBLEM.outer, updater=SGD(0.1), steps=6)
    assert found.values.shape == (2,)
    assert found.jacobian["sample_weights"].shape == (2, 8)
    assert found.state.step == 6
    outer = optree.tree_map(lambda x: x.clone().requires_grad_(), PROBLEM.outer)
    w = plain(PROBLEM.inner, PROBLEM.params, outer, updater=SGD(0.1), steps=6)
    leaves = optree.tree_leaves(outer)
    needed = torch.autograd.grad(w["scale"] * outer["lr"], leaves, allow_unused=True, materialize_grads=True)
    assert error([x[1] for x in optree.tree_leaves(found.jacobian)], needed) < 1e-12


def test_in_derived_variables_from_one_run_of_the_inner_problem():
    theta, calls = torch.tensor([0.1, 0.4], dtype=DOUBLE), []

    def inner(w, o):
        calls.append(1)
        return ((w - o) ** 2).sum()

    w0 = torch.zeros(2, dtype=DOUBLE)
    found = jacobian(inner, lambda w, o: w, w0, Derived(torch.exp, theta), updater=SGD(0.1), steps=3)
    assert len(calls) <= 8  # Recorded once with graphs, which the second sweep makes anew; guards add two.
    assert error([found.jacobian], [torch.diag((1 - 0.8**3) * theta.exp())]) < 1e-13


@pytest.mark.parametrize(
    ("match", "more"),
    [
        ("must return a real tensor", {"outer_objective": lambda w, o: 3}),
        ("must return a real tensor .* got \\(0,\\)", {"outer_objective": lambda w, o: w[:0]}),
        ("needs Reverse", {"method": Forward()}),
        ("without Disk", {"method": Reverse(memory=Disk("nowhere"))}),
        ("method must be a method", {"method": "reverse"}),
    ],
)
def test_slips_are_told(match, more):
    given = {"inner": lambda w, o: (w * o).square().sum(), "outer_objective": lambda w, o: w, "method": None, **more}
    with pytest.raises(InputError, match=match):
        jacobian(params=torch.ones(2), outer=torch.tensor(1.0), updater=SGD(0.1), steps=2, **given)
