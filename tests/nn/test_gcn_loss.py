"""The closed form of a GCN's loss against the network and autograd: values, derivatives of all orders, whole sweeps."""

import weakref

import optree
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lds.graph import CandidatePairs, SampledGraph, SparseMatrix
from lds.hypergrad import (
    Checkpoint,
    Forward,
    Implicit,
    KeepGraphs,
    KeepStates,
    Reverse,
    hypergradient,
    unroll,
)
from lds.nn import GCN, GCNLoss
from lds.nn._gcn_loss import has_formula
from lds.updaters import SGD, Adam, ClipByNorm, RMSprop, State, gradient
from tests.graph.oracles import DenseGraph, FixedWeights, dense_hypergradient, structure_of, theta
from tests.oracles import DOUBLE, Problem, relative_error

DECAY = 0.02


class Case:
    """A GCN on random features: its losses by the network, and by formula."""

    def __init__(self, n=30, layers=2, *, seed=0, dtype=DOUBLE, sparse=False, dropout=0.4, hidden=5, decay=DECAY):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(n, 7, generator=generator, dtype=DOUBLE).to(dtype)
        x = x * (torch.rand(x.shape, generator=generator) < 0.5)
        self.x = SparseMatrix.from_dense(x) if sparse else x
        self.y = torch.randint(3, (n,), generator=generator)
        order = torch.randperm(n, generator=generator)
        self.train, self.val = order[: n // 4], order[n // 4 : n // 2]
        self.module = GCN(7, 3, num_layers=layers, hidden_channels=hidden, dropout=dropout).to(dtype)
        self.params = {
            name: torch.randn(p.shape, generator=generator, dtype=DOUBLE).to(dtype)
            for name, p in self.module.named_parameters()
        }
        self.decay, self.dropout = decay, dropout
        self.formula = GCNLoss(self.x, self.train, self.y[self.train], 3, decay)
        self.formula_val = GCNLoss(self.x, self.val, self.y[self.val], 3)

    def network(self, params, graph):
        self.module.train()
        logits = torch.func.functional_call(self.module, params, (self.x, graph))[self.train]
        penalty = params["weights.0"].square().sum()
        return nn.functional.cross_entropy(logits, self.y[self.train]) + 0.5 * self.decay * penalty

    def network_val(self, params, graph):
        self.module.eval()
        logits = torch.func.functional_call(self.module, params, (self.x, graph))[self.val]
        return nn.functional.cross_entropy(logits, self.y[self.val])

    def closed(self, params, graph):
        return self.formula(list(params.values()), graph, self.dropout)

    def closed_val(self, params, graph):
        return self.formula_val(list(params.values()), graph)

    def problem(self, structure, *, by="closed"):
        """With a learned factor of the loss, so that the gradient is scaled by what needs a derivative itself."""
        inner, outer = getattr(self, by), getattr(self, f"{by}_val")
        return Problem(
            lambda w, o: o["factor"] * inner(w, o["structure"]) + penalty(w),
            lambda w, o: outer(w, o["structure"]),
            self.params,
            {"structure": structure, "factor": torch.tensor(0.8, dtype=DOUBLE)},
        )


def penalty(params):
    """Without it a factor of the loss would make no difference to Adam."""
    return 0.01 * sum(w.square().sum() for w in params.values())


def check(case, structure, updater, steps=3, memory=None, tolerance=1e-10):
    expected = dense_hypergradient(case.problem(structure, by="network"), updater, steps, seed=3)
    method = Reverse(memory=memory)
    found = hypergradient(*case.problem(structure), updater=updater, steps=steps, seed=3, method=method)
    grad = dict(found.grad, structure=found.grad["structure"].to_dense())
    assert expected.grad["structure"].any()
    assert expected.grad["factor"] != 0
    assert relative_error(grad, expected.grad) <= tolerance
    assert abs(found.outer_loss - expected.loss) <= tolerance * abs(expected.loss)
    return found


class Known:
    """The loss of a case as an objective that knows its gradient."""

    def __init__(self, case):
        self.case, self.asked = case, 0

    def __call__(self, params, outer):
        return self.case.closed(params, outer["structure"])

    def value_and_grad(self, params, outer):
        self.asked += 1
        value, grads = self.case.formula.value_and_grad(list(params.values()), outer["structure"], self.case.dropout)
        return value, dict(zip(params, grads, strict=True))


def graph_of(kind, n, seed):
    torch.manual_seed(seed)
    if kind == "candidates":
        pairs = torch.randint(n, (2, 3 * n))
        return CandidatePairs(n, pairs[:, :n], candidates=pairs, dtype=DOUBLE).draw()
    graph = structure_of(theta("sparse" if kind == "weighted" else kind, n, seed=seed)).draw()
    if kind == "weighted":
        graph = SampledGraph(n, graph.row, graph.col, torch.rand(graph.row.shape, dtype=DOUBLE))
    return graph


@settings(max_examples=60, deadline=None)
@given(
    layers=st.integers(1, 4),
    kind=st.sampled_from(["random", "sparse", "isolated", "empty", "complete", "weighted", "candidates"]),
    sparse=st.booleans(),
    dropout=st.sampled_from([0.0, 0.3, 0.5, 0.9]),
    decay=st.sampled_from([0.0, 0.1]),
    n=st.integers(4, 25),
    hidden=st.integers(1, 6),
    seed=st.integers(0, 1000),
)
def test_values_and_two_derivatives_are_those_of_the_network(layers, kind, sparse, dropout, decay, n, hidden, seed):
    case = Case(n, layers, sparse=sparse, dropout=dropout, decay=decay, hidden=hidden, seed=seed)
    graph = graph_of(kind, n, seed)
    found = []
    for loss in (case.network, case.closed):
        weights = {name: w.clone().requires_grad_() for name, w in case.params.items()}
        scale = torch.tensor(1.7, dtype=DOUBLE, requires_grad=True)
        torch.manual_seed(seed)
        value = loss(weights, graph)
        state = torch.get_rng_state()
        leaves = list(weights.values())
        grads = torch.autograd.grad(scale * value, leaves, create_graph=True)
        torch.manual_seed(seed)
        cotangents = [torch.randn_like(g) for g in grads]
        more = torch.autograd.grad([*grads, value], [*leaves, scale], [*cotangents, torch.tensor(0.3, dtype=DOUBLE)])
        found.append(((value, *grads, *more), state))
    (expected, before), (ours, after) = found
    assert torch.equal(before, after)  # The same numbers were drawn.
    for x, y in zip(ours, expected, strict=True):
        # Where the softmax is close to 0 or 1, derivatives are small differences of larger numbers.
        assert (x - y).norm() <= 1e-10 * y.norm() + 1e-12


def test_the_gradient_without_a_graph_is_the_same():
    case, graph = Case(), graph_of("sparse", 30, 0)
    weights = {name: w.requires_grad_() for name, w in case.params.items()}
    grads = []
    for create_graph in (False, True):
        torch.manual_seed(0)
        loss = case.closed(weights, graph)
        grads.append(torch.autograd.grad(loss, list(weights.values()), create_graph=create_graph))
    assert all(map(torch.equal, *grads))


def test_finite_differences_of_both_derivatives():
    case, graph = Case(12, 3, dropout=0.0), graph_of("sparse", 12, 0)
    leaves = [w.clone().requires_grad_() for w in case.params.values()]

    def loss(*weights):
        return case.formula(weights, graph)

    assert torch.autograd.gradcheck(loss, leaves)
    assert torch.autograd.gradgradcheck(loss, leaves)


def test_a_third_derivative_goes_through_the_plain_operations():
    case, graph = Case(12, 3), graph_of("sparse", 12, 0)
    found = []
    for loss in (case.network, case.closed):
        weights = {name: w.clone().requires_grad_() for name, w in case.params.items()}
        leaves = list(weights.values())
        torch.manual_seed(0)
        value = loss(weights, graph)
        for _ in range(3):
            value = sum((g * g).sum() for g in torch.autograd.grad(value, leaves, create_graph=True))
        found.append([value, *torch.autograd.grad(value, leaves)])
    for x, y in zip(*found, strict=True):
        assert relative_error(x.detach(), y.detach()) <= 1e-10


UPDATERS = {
    "sgd": SGD(0.3),
    "momentum": SGD(0.2, momentum=0.8, nesterov=True),
    "adam": Adam(0.05),
    "learned": Adam(lambda outer: 0.05 * outer["factor"]),
    "clipped": ClipByNorm(RMSprop(0.02), 0.1),
}


@pytest.mark.parametrize("updater", UPDATERS.values(), ids=UPDATERS.keys())
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_hypergradients_equal_the_dense_oracle(updater, layers):
    check(Case(40, layers, sparse=layers == 2), structure_of(theta("random", 40)), updater)


@pytest.mark.parametrize("memory", [KeepGraphs(), KeepGraphs(0), KeepStates(), Checkpoint()], ids=repr)
def test_all_memory_policies_give_the_same(memory):
    structure = structure_of(theta("sparse", 30))
    found = check(Case(), structure, Adam(0.05), steps=5, memory=memory)
    usual = check(Case(), structure, Adam(0.05), steps=5)
    assert torch.equal(found.grad["structure"].to_dense(), usual.grad["structure"].to_dense())
    assert found.diagnostics.replay_error in (None, 0)


def test_single_precision():
    case, structure = Case(40, dtype=torch.float32), structure_of(theta("random", 40, dtype=torch.float32))
    problem = case.problem(structure)._replace(outer={"structure": structure, "factor": torch.tensor(0.8)})
    plain = case.problem(structure, by="network")._replace(outer=problem.outer)
    grads = [hypergradient(*p, updater=Adam(0.05), steps=3, seed=3).grad["structure"] for p in (problem, plain)]
    assert relative_error(grads[0].to_dense(), grads[1].to_dense()) <= 1e-5


def test_candidates_equal_all_pairs():
    n = 20
    pairs = torch.triu_indices(n, n, 1)
    edges = pairs[:, torch.rand(pairs.shape[1], generator=torch.Generator().manual_seed(0)) < 0.2]
    structure = CandidatePairs(n, edges, candidates=pairs, dtype=DOUBLE)
    case = Case(n)
    grads = [
        hypergradient(*case.problem(structure, by=by), updater=Adam(0.05), steps=3).grad["structure"].at(*pairs)
        for by in ("closed", "network")
    ]
    assert relative_error(*grads) <= 1e-10


def test_is_the_derivative_in_the_weights_of_a_fixed_graph():
    generator = torch.Generator().manual_seed(0)
    row, col = torch.triu_indices(25, 25, 1)[:, ::2]
    weight, direction = (torch.rand(row.shape, generator=generator, dtype=DOUBLE) for _ in range(2))
    case = Case(25, 3)

    def asked(weight):
        return case.problem(FixedWeights(25, row, col, weight))

    grad = hypergradient(*asked(weight), updater=Adam(0.05), steps=4).grad["structure"]
    up, down = (
        hypergradient(*asked(weight + e * direction), updater=Adam(0.05), steps=4, method=Reverse(0)).outer_loss
        for e in (1e-5, -1e-5)
    )
    slope = (grad.at(row, col) * direction).sum().item()
    assert abs(slope - (up - down) / 2e-5) <= 1e-6 * abs(slope)


class ByLoss:
    """A step whose size is the value of the loss: both the loss and its gradient carry cotangents."""

    def init(self, params):
        return ()

    def step(self, state, outer, inner):
        value, grads = inner(state.params, outer), gradient(inner, state.params, outer)
        return State(optree.tree_map(lambda w, g: w - 0.1 * value * g, state.params, grads))


class ByProduct:
    """A step along a Hessian-vector product, whose own derivative is a third one."""

    def init(self, params):
        return ()

    def step(self, state, outer, inner):
        leaves, spec = optree.tree_flatten(state.params)
        with torch.enable_grad():
            leaves = [x if x.requires_grad else x.detach().requires_grad_() for x in leaves]
            grads = torch.autograd.grad(inner(spec.unflatten(leaves), outer), leaves, create_graph=True)
            size = sum(g.square().sum() for g in grads)
            more = torch.autograd.grad(size, leaves, create_graph=True)
        return State(spec.unflatten([x - 0.1 * g - 0.05 * h for x, g, h in zip(leaves, grads, more, strict=True)]))


@pytest.mark.parametrize("updater", [ByLoss(), ByProduct()])
def test_other_uses_of_the_loss_in_a_step(updater):
    check(Case(dropout=0.0), structure_of(theta("sparse", 30)), updater)


def test_implicit():
    structure = structure_of(theta("complete", 12))
    case = Case(12, 1, dropout=0.0, decay=1.0)
    grads = [
        hypergradient(*case.problem(structure, by=by), updater=SGD(0.3), steps=40, method=Implicit())
        for by in ("closed", "network")
    ]
    assert relative_error(*(g.grad["structure"].to_dense() for g in grads)) <= 1e-8


@pytest.mark.parametrize("method", [Forward(), Reverse()])
def test_on_a_fixed_graph(method):
    """The graph is a constant that the objectives capture; there is no record."""
    case, graph = Case(), graph_of("sparse", 30, 0)
    outer = {"factor": torch.tensor(0.8, dtype=DOUBLE)}
    grads = []
    for loss in (case.closed, case.network):
        problem = Problem(
            lambda w, o, f=loss: o["factor"] * f(w, graph) + penalty(w),
            lambda w, o: case.network_val(w, graph),
            case.params,
            outer,
        )
        grads.append(hypergradient(*problem, updater=Adam(0.05), steps=3, method=method).grad["factor"])
    torch.testing.assert_close(*grads, rtol=1e-10, atol=0)


def test_unrolled_twice():
    case, graph = Case(), graph_of("sparse", 30, 0)
    found = []
    for loss in (case.closed, case.network):
        start = {name: w.clone().requires_grad_() for name, w in case.params.items()}
        end = unroll(lambda w, o, f=loss: f(w, graph), start, {}, updater=SGD(0.1), steps=2)
        leaves = list(start.values())
        grads = torch.autograd.grad(case.network_val(end, graph), leaves, create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in grads), leaves))
    assert relative_error(*(torch.cat([x.flatten() for x in f]) for f in found)) <= 1e-9


def test_in_place_writes_to_weights_are_found():
    case, graph = Case(), graph_of("sparse", 30, 0)
    leaves = [w.clone().requires_grad_() for w in case.params.values()]
    loss = case.formula(leaves, graph)
    with torch.no_grad():
        leaves[0].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, leaves)


def test_the_graph_of_a_step_is_freed_without_the_garbage_collector(no_collector, monkeypatch):
    alive = []
    traced = SampledGraph.traced
    monkeypatch.setattr(SampledGraph, "traced", lambda self: alive.append(weakref.ref(g := traced(self))) or g)
    problem = Case().problem(structure_of(theta("sparse", 30)))
    for updater in (Adam(0.05), ByProduct()):
        hypergradient(*problem, updater=updater, steps=3)
    assert len(alive) >= 8
    assert [ref() for ref in alive] == [None] * len(alive)


class TestWhereItApplies:
    def test_to_a_network_as_it_is(self):
        case, graph = Case(), graph_of("sparse", 30, 0)
        assert has_formula(case.module, list(case.params.values()), case.x, graph)
        assert has_formula(case.module, list(case.params.values()), case.x, graph_of("candidates", 30, 0))

    @pytest.mark.parametrize("kind", ["subclass", "hook", "pre-hook", "forward", "parametrized", "dtype", "autocast"])
    def test_to_no_other(self, kind):
        case, graph = Case(), graph_of("sparse", 30, 0)
        module, weights = case.module, list(case.params.values())
        if kind == "subclass":
            module = type("Mine", (GCN,), {})(7, 3)
        elif kind == "hook":
            module.register_forward_hook(lambda *args: None)
        elif kind == "pre-hook":
            module.register_forward_pre_hook(lambda *args: None)
        elif kind == "forward":
            module.forward = lambda x, graph: x
        elif kind == "parametrized":
            nn.utils.parametrize.register_parametrization(module.weights, "0", nn.Tanh())
        elif kind == "dtype":
            weights = [w.float() for w in weights]
        with torch.autocast("cpu", enabled=kind == "autocast"):
            assert not has_formula(module, weights, case.x, graph)

    def test_to_no_other_graph(self):
        case, graph = Case(), graph_of("sparse", 30, 0)
        weights = list(case.params.values())
        assert not has_formula(case.module, weights, case.x, DenseGraph(graph, torch.zeros(30, 30, dtype=DOUBLE)))

        class Other(SampledGraph):
            def propagate(self, m):
                return self.matmul(m)

        assert not has_formula(case.module, weights, case.x, Other(30, graph.row, graph.col, graph.weight))

        class Masked(SampledGraph):
            """Another mask, which says nothing of what it holds where it is not zero."""

            def dropout_mask(self, like, p):
                return like.new_full(like.shape, 0.5)

        assert not has_formula(case.module, weights, case.x, Masked(30, graph.row, graph.col, graph.weight))


@settings(max_examples=40, deadline=None)
@given(
    layers=st.integers(1, 3),
    kind=st.sampled_from(["random", "sparse", "isolated", "empty", "complete", "candidates"]),
    sparse=st.booleans(),
    dropout=st.sampled_from([0.0, 0.5]),
    updater=st.sampled_from([SGD(0.1), SGD(0.1, momentum=0.9), Adam(0.05), ClipByNorm(SGD(0.1), 0.5)]),
    memory=st.sampled_from([KeepGraphs(), KeepStates(), Checkpoint()]),
    n=st.integers(8, 20),
    seed=st.integers(0, 1000),
)
def test_sweeps_with_the_known_gradient_are_those_of_autograd(layers, kind, sparse, dropout, updater, memory, n, seed):
    case = Case(n, layers, sparse=sparse, dropout=dropout, seed=seed)
    torch.manual_seed(seed)
    if kind == "candidates":
        pairs = torch.randint(n, (2, 3 * n))
        structure = CandidatePairs(n, pairs[:, :n], candidates=pairs, dtype=DOUBLE)
    else:
        structure = structure_of(theta(kind, n, seed=seed))
    known = Known(case)
    outer = lambda params, outer: case.closed_val(params, outer["structure"])  # noqa: E731
    found, expected = (
        hypergradient(
            inner,
            outer,
            case.params,
            {"structure": structure},
            updater=updater,
            steps=3,
            seed=seed,
            method=Reverse(memory=memory),
        )
        for inner in (known, lambda *x: known(*x))
    )
    assert known.asked
    pairs = structure.edges(-1.0)[0]
    ours, theirs = (x.grad["structure"].at(*pairs) for x in (found, expected))
    assert relative_error(found.params, expected.params) <= 1e-9
    assert (ours - theirs).norm() <= 1e-9 * theirs.norm() + 1e-12
    assert found.diagnostics.inner_losses == pytest.approx(expected.diagnostics.inner_losses)
