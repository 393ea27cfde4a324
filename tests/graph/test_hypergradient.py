"""The factored structure gradient, over a whole sweep, against a dense A as a leaf of autograd."""

import gc
import weakref

import optree
import pytest
import torch
from torch import nn

from lds.data import load
from lds.errors import UnreachedWarning
from lds.graph import AllPairs, FactorPairs, SampledGraph, SparseMatrix
from lds.hypergrad import KeepStates, Reverse, hypergradient, sweep
from lds.hypergrad import record as record_trajectory
from lds.nn import GCN
from lds.updaters import SGD, Adam
from tests.graph.oracles import (
    MODELS,
    DenseGraph,
    FixedWeights,
    dense_hypergradient,
    node_classification,
    structure_of,
    theta,
)
from tests.oracles import DOUBLE, Problem, relative_error, unroll

UPDATERS = {"sgd": SGD(0.3), "momentum": SGD(0.2, momentum=0.8), "adam": Adam(0.05)}


def check(problem, updater, steps, *, horizon=None, tolerance=1e-10):
    found = hypergradient(*problem, updater=updater, steps=steps, method=Reverse(horizon), seed=3)
    method = Reverse(horizon, memory=KeepStates())
    replayed = hypergradient(*problem, updater=updater, steps=steps, method=method, seed=3)
    assert replayed.diagnostics.replay_error == (None if horizon == 0 else 0)
    assert torch.equal(replayed.grad["structure"].to_dense(), found.grad["structure"].to_dense())
    expected = dense_hypergradient(problem, updater, steps, horizon=horizon, seed=3)
    assert expected.grad["structure"].any()
    grad = dict(found.grad, structure=found.grad["structure"].to_dense())
    assert relative_error(grad, expected.grad) <= tolerance
    assert abs(found.outer_loss - expected.loss) <= tolerance * abs(expected.loss)
    return found


@pytest.mark.parametrize("updater", UPDATERS.values(), ids=UPDATERS.keys())
@pytest.mark.parametrize("model", MODELS.keys())
def test_equals_the_dense_oracle(model, updater):
    check(node_classification(structure_of(theta("random", 50)), model), updater, steps=4)


@pytest.mark.parametrize("kind", ["sparse", "isolated", "empty", "complete"])
@pytest.mark.parametrize("model", ["gcn-2", "mean"])
def test_on_graphs_of_every_kind(kind, model):
    structure = structure_of(theta(kind, 60))
    check(node_classification(structure, model), Adam(0.05), steps=3)


def test_on_a_larger_graph():
    check(node_classification(structure_of(theta("sparse", 300)), "gcn-2"), Adam(0.05), steps=2)


@pytest.mark.parametrize("horizon", [0, 1, 3])
def test_truncated(horizon):
    problem = node_classification(structure_of(theta("sparse", 50)))
    found = check(problem, Adam(0.05), steps=6, horizon=horizon)
    assert found.diagnostics.steps_swept == horizon


def test_every_depth_of_one_sweep():
    """What `sweep` yields at a depth is not changed by the steps after it."""
    problem = node_classification(structure_of(theta("sparse", 50)))
    trajectory = record_trajectory(*problem[:1], *problem[2:], updater=Adam(0.05), steps=5, horizon=4, seed=3)
    grads = [step.grad["structure"] for step in sweep(trajectory, problem.outer_objective)]
    assert len(grads) == 5
    for depth, grad in enumerate(grads):
        expected = dense_hypergradient(problem, Adam(0.05), 5, horizon=depth, seed=3)
        assert relative_error(grad.to_dense(), expected.grad["structure"]) <= 1e-10


def test_sparse_and_dense_features_agree():
    structure = structure_of(theta("sparse", 50))
    dense = check(node_classification(structure), Adam(0.05), steps=4)
    problem = node_classification(structure, wrap=SparseMatrix.from_dense)
    sparse = check(problem, Adam(0.05), steps=4)
    assert relative_error(sparse.grad["structure"].to_dense(), dense.grad["structure"].to_dense()) <= 1e-12


def test_at_gathers_from_the_same_gradient():
    grad = hypergradient(*node_classification(structure_of(theta("sparse", 50))), updater=SGD(0.3), steps=2).grad
    row, col = torch.triu_indices(50, 50, 1)
    dense = grad["structure"].to_dense()
    assert relative_error(grad["structure"].at(row, col), dense[row, col]) <= 1e-12
    assert relative_error(grad["structure"].at(col, row), dense[row, col]) <= 1e-12
    assert torch.equal(dense, dense.T)


def test_expanded_cotangents():
    """The gradient of a plain sum is a tensor of stride zero."""
    structure = structure_of(theta("sparse", 40))
    problem = Problem(
        lambda w, outer: outer["structure"].propagate(w * torch.ones(40, 2, dtype=DOUBLE)).square().sum() / 40,
        lambda w, outer: (outer["structure"].propagate(w * torch.ones(40, 2, dtype=DOUBLE))).sum(),
        torch.tensor(0.7, dtype=DOUBLE),
        {"structure": structure},
    )
    check(problem, SGD(0.1), steps=3)


def test_an_objective_that_ignores_the_graph():
    structure = structure_of(theta("sparse", 40))
    problem = Problem(
        lambda w, outer: (w - 1).square().sum(),
        lambda w, outer: w.square().sum(),
        torch.zeros(3, dtype=DOUBLE),
        {"structure": structure},
    )
    with pytest.warns(UnreachedWarning, match=r"nothing depends on outer\['structure'\]"):
        grad = hypergradient(*problem, updater=SGD(0.1), steps=3).grad["structure"]
    assert torch.equal(grad.to_dense(), torch.zeros(40, 40, dtype=DOUBLE))


@pytest.mark.parametrize("model", ["gcn-2", "appnp", "mean", "both"])
@pytest.mark.parametrize("updater", [SGD(0.2, momentum=0.5), Adam(0.05)], ids=["momentum", "adam"])
def test_is_the_derivative_in_the_weights_of_a_fixed_graph(model, updater):
    """On a graph with weights the loss is smooth in them, and differences of it need no oracle at all."""
    generator = torch.Generator().manual_seed(0)
    row, col = torch.triu_indices(25, 25, 1)
    row, col = row[::2], col[::2]
    weight = torch.rand(row.shape, generator=generator, dtype=DOUBLE)
    direction = torch.randn(row.shape, generator=generator, dtype=DOUBLE)

    def asked(weight):
        return node_classification(FixedWeights(25, row, col, weight), model)

    found = hypergradient(*asked(weight), updater=updater, steps=4)
    losses = [
        hypergradient(*asked(weight + e * direction), updater=updater, steps=4, method=Reverse(0)).outer_loss
        for e in (1e-5, -1e-5)
    ]
    expected = (losses[0] - losses[1]) / 2e-5
    slope = (found.grad["structure"].at(row, col) * direction).sum().item()
    assert abs(slope - expected) <= 1e-6 * abs(expected)


def test_weighted_graphs_equal_the_dense_oracle():
    row, col = torch.triu_indices(30, 30, 1)
    generator = torch.Generator().manual_seed(1)
    weight = torch.rand(row.shape, generator=generator, dtype=DOUBLE)
    for model in ("gcn-3", "mean"):
        check(node_classification(FixedWeights(30, row, col, weight), model), Adam(0.05), steps=3)


def test_resampled_noise_draws_other_graphs():
    problem = node_classification(structure_of(theta("random", 40)))
    replay, resample = (
        hypergradient(*problem, updater=Adam(0.05), steps=3, method=Reverse(noise=noise))
        for noise in ("replay", "resample")
    )
    assert replay.outer_loss == resample.outer_loss
    assert not torch.equal(replay.grad["structure"].to_dense(), resample.grad["structure"].to_dense())


def test_two_structures_side_by_side():
    """Each graph has a record of products of its own."""
    first, second = structure_of(theta("random", 30)), structure_of(theta("sparse", 30, seed=1))
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)

    def objective(w, outer):
        h = torch.tanh(outer["first"].propagate(x @ w))
        return (outer["second"].matmul(h) - 1).square().mean()

    def show(outer):
        return {name: DenseGraph(s.draw(), outer[name]) for name, s in (("first", first), ("second", second))}

    problem = Problem(objective, objective, torch.ones(4, 2, dtype=DOUBLE), {"first": first, "second": second})
    found = hypergradient(*problem, updater=SGD(0.2), steps=3)
    moved = {name: torch.zeros(30, 30, dtype=DOUBLE) for name in problem.outer}
    expected = unroll(problem._replace(outer=moved), SGD(0.2), 3, show=show).grad
    for name, g in expected.items():
        assert relative_error(found.grad[name].to_dense(), (g + g.T).fill_diagonal_(0)) <= 1e-10


def test_cora_in_single_precision(data_root):

    data = load("cora", root=data_root, retain=0.5)
    structure = AllPairs(data.num_nodes, data.edge_index)
    x = SparseMatrix.from_dense(data.x)
    module = GCN(1433, 7)
    train, val = (data[mask].nonzero().flatten() for mask in ("train_mask", "val_mask"))

    def loss(params, outer, nodes):
        logits = torch.func.functional_call(module, params, (x, outer["structure"]))
        return nn.functional.cross_entropy(logits[nodes], data.y[nodes])

    def inner(params, outer):
        module.train()
        return loss(params, outer, train) + 2.5e-4 * params["weights.0"].square().sum()

    def outer_objective(params, outer):
        module.eval()
        return loss(params, outer, val)

    params = {name: p.detach().clone() for name, p in module.named_parameters()}
    problem = Problem(inner, outer_objective, params, {"structure": structure})
    check(problem, Adam(0.02, eps=1e-5), steps=3, tolerance=1e-4)


def test_no_matrix_of_all_pairs_in_a_step(no_large_tensors):
    """Neither in an inner step, nor in one of the sweep, nor in a draw."""
    n = 1500
    edges = torch.randint(n, (2, 3 * n), generator=torch.Generator().manual_seed(0))
    structure = AllPairs(n, edges)
    structure.project_(FactorPairs((), torch.full((n,), -1e-4)), 1.0)  # No θ is zero, as after a step on real data.
    problem = node_classification(structure)
    with no_large_tensors(n * n // 4) as seen:
        structure.draw()
        hypergradient(*problem, updater=Adam(0.05), steps=3)
    assert seen.largest >= n
    with pytest.raises(AssertionError, match="numbers"), no_large_tensors(n * n // 4):
        structure.to_dense()


@pytest.mark.parametrize("kernel", ["torch", "native"], indirect=True)
def test_projection_allocates_blocks_only(no_large_tensors, monkeypatch, kernel):
    n = 1600
    monkeypatch.setattr("lds.graph._step._BAND", 1)
    structure = AllPairs(n, torch.randint(n, (2, 2 * n), generator=torch.Generator().manual_seed(0)))
    grad = hypergradient(*node_classification(structure, "gcn-1"), updater=SGD(0.1), steps=2).grad["structure"]
    columns = 4 + 2 * sum(left.shape[1] for left, _ in grad.pairs)
    assert n * columns < n * n // 6
    with no_large_tensors(n * n // 6) as seen:
        structure.project_(grad, 1.0)
    assert seen.largest >= (64 * n if kernel == "torch" else n)


def test_the_record_of_products_is_freed_without_the_garbage_collector(no_collector):
    """It refers to autograd's nodes and they to the graph: left in place, the cycle keeps every step alive."""
    alive = []
    traced = SampledGraph.traced

    def spy(self):
        graph = traced(self)
        alive.append(weakref.ref(graph))
        return graph

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SampledGraph, "traced", spy)
        result = hypergradient(
            *node_classification(structure_of(theta("sparse", 50)), "appnp"), updater=Adam(0.05), steps=4
        )
    assert len(alive) == 5
    assert optree.tree_leaves(result.params)
    assert [ref() for ref in alive] == [None] * 5


def test_repeated_hypergradients_leave_nothing_behind(no_collector):
    problem = node_classification(structure_of(theta("sparse", 50)))

    def tensors():
        return sum(issubclass(type(x), torch.Tensor) for x in gc.get_objects())

    def run():
        hypergradient(*problem, updater=Adam(0.05), steps=3)

    run()
    before = tensors()
    for _ in range(3):
        run()
    assert tensors() == before
