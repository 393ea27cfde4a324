"""Engine, updaters, graphs and learners on the device of LDS_TEST_DEVICE, held against the CPU and the plain unroll.

    LDS_TEST_DEVICE=cuda scripts/test tests/test_devices.py

Without it they run on the CPU. On another device sums may come in another order, so most comparisons are to rounding.
"""

import math
from functools import partial

import numpy as np
import optree
import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy, dropout

from lds import LDSClassifier
from lds._random import cuda_devices, forked, reseed
from lds.graph import AllPairs, CandidatePairs, GivenGraph, SparseMatrix, random_pairs
from lds.hypergrad import Binomial, Checkpoint, Forward, KeepGraphs, KeepStates, Offload, Reverse, hypergradient, record
from lds.learner import FixedGraphLearner, StructureLearner
from lds.nn import GCN
from lds.updaters import SGD, Adam, AdamW, RMSprop
from tests.learner.problems import blocks
from tests.oracles import DOUBLE, regression, relative_error, unroll

N = 150
POLICIES = [KeepGraphs(), KeepGraphs(0), KeepStates(), Checkpoint(), Binomial(3), Offload()]
SHORT = {"tau": 2, "inner_steps": 6, "max_epochs": 2, "samples": 2}


def on_cpu(tree):
    return optree.tree_map(lambda x: x.detach().cpu() if isinstance(x, torch.Tensor) else x, tree)


@pytest.mark.parametrize("memory", POLICIES, ids=repr)
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_the_engine_is_the_plain_unroll(memory, rate, device):
    problem = regression(dropout=rate, device=device)
    found = hypergradient(*problem, updater=Adam(0.05), steps=12, seed=3, method=Reverse(memory=memory))
    expected = unroll(problem, Adam(0.05), 12, seed=3)
    assert relative_error(on_cpu(found.grad), on_cpu(expected.grad)) < 1e-10
    assert (found.diagnostics.replay_error or 0.0) < 1e-12
    assert {x.device for x in optree.tree_leaves(found.grad)} == {device}


def test_forward_and_reverse_agree(device):
    problem = regression(device=device)
    one, other = (
        hypergradient(*problem, updater=SGD(0.05, momentum=0.5), steps=6, method=method)
        for method in (Forward(), Reverse())
    )
    assert relative_error(on_cpu(one.grad), on_cpu(other.grad)) < 1e-10


@pytest.mark.parametrize("updater", [SGD(0.05, momentum=0.7), Adam(0.05), AdamW(0.05), RMSprop(0.01)], ids=repr)
def test_updaters_step_as_on_the_cpu(updater, device):
    there, here = (
        record(p.inner, p.params, p.outer, updater=updater, steps=8, horizon=0).final_state.params
        for p in (regression(device=device), regression())
    )
    assert relative_error(on_cpu(there), here) < 1e-10


def test_the_generators_of_the_caller_are_left_alone(device):
    problem = regression(dropout=0.3, device=device)

    def states():
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(k) for k in cuda_devices())]

    before = states()
    hypergradient(*problem, updater=SGD(0.05), steps=3)
    assert all(map(torch.equal, before, states()))


def test_dropout_where_no_variable_lives_is_run_again_as_it_was(device):
    """Params and outer variables are on the CPU, and the loss drops numbers on the device."""
    torch.zeros(1, device=device)
    params, outer = {"w": torch.ones(50, dtype=DOUBLE)}, {"c": torch.ones((), dtype=DOUBLE)}

    def loss(p, o):
        return (dropout(p["w"].to(device), 0.5).sum() - o["c"].to(device)).square().cpu()

    found = [
        hypergradient(loss, loss, params, outer, updater=SGD(1e-4), steps=5, method=Reverse(memory=memory))
        for memory in (KeepGraphs(math.inf), KeepStates())
    ]
    assert torch.equal(found[0].grad["c"], found[1].grad["c"])
    assert found[1].diagnostics.replay_error == 0


def test_all_devices_are_seeded(device):
    def drawn():
        with forked(cuda_devices()):
            reseed(1, 2, cuda=cuda_devices())
            return torch.rand(5, device=device)

    torch.zeros(1, device=device)
    assert torch.equal(drawn(), drawn())


def graph_problem(device):
    g = torch.Generator().manual_seed(0)
    x = torch.zeros(N, 30, dtype=DOUBLE).scatter_(1, torch.rand(N, 30, generator=g).topk(5).indices, 0.2)
    y, nodes = torch.randint(3, (N,), generator=g).to(device), torch.randperm(N, generator=g).to(device)
    edges = torch.randint(N, (2, 2 * N), generator=g).to(device)
    with forked():
        torch.manual_seed(0)
        model = GCN(30, 3, dropout=0.0).to(device, DOUBLE)
    features = SparseMatrix.from_dense(x.to(device))

    def loss(part, params, graph):
        return cross_entropy(functional_call(model, params, (features, graph))[part], y[part])

    params = {name: p.detach() for name, p in model.named_parameters()}
    return edges, partial(loss, nodes[:70]), partial(loss, nodes[70:]), params


def structure_of(kind, edges):
    if kind == "all pairs":
        return AllPairs(N, edges, dtype=DOUBLE)
    return CandidatePairs(N, edges, candidates=random_pairs(N, 900, seed=1), dtype=DOUBLE)


@pytest.mark.parametrize("kind", ["all pairs", "candidates"])
def test_structures_step_as_on_the_cpu(kind, device):
    states = []
    for where in (torch.device("cpu"), device):
        edges, inner, outer, params = graph_problem(where)
        structure = structure_of(kind, edges)  # Of 0 and 1, so that both draw the same graph.
        found = hypergradient(inner, outer, params, structure, updater=Adam(0.05, eps=1e-5), steps=4)
        structure.project_(found.grad, 0.5)
        states.append(structure.state())
        assert states[-1].device == where
    assert states[0].any()
    assert relative_error(states[1].cpu(), states[0]) < 1e-10


@pytest.mark.parametrize("kind", ["all pairs", "candidates"])
def test_draws_are_those_of_the_seed(kind, device):
    structure = structure_of(kind, graph_problem(device)[0])
    structure.restore_(structure.state().mul_(0.6))

    def drawn():
        with forked(cuda_devices()):
            reseed(7, cuda=cuda_devices())
            return structure.draw()

    one, other = drawn(), drawn()
    assert one.row.device == device
    assert torch.equal(one.row, other.row)
    assert torch.equal(one.col, other.col)
    dense = one.adjacency.to_dense()
    assert torch.equal(dense, dense.T)
    assert int(dense.sum()) == 2 * one.num_edges
    assert abs(one.num_edges - structure.expected_edges) < 6 * math.sqrt(structure.expected_edges)


def test_sparse_features_multiply_as_dense_ones(device):
    g = torch.Generator().manual_seed(1)
    dense = torch.randn(9, 5, generator=g, dtype=DOUBLE).relu().to(device)
    matrix, weight = SparseMatrix.from_dense(dense), torch.randn(5, 3, generator=g, dtype=DOUBLE).to(device)
    rows = torch.tensor([7, 0, 3], device=device)
    torch.testing.assert_close(matrix @ weight, dense @ weight)
    torch.testing.assert_close(matrix.T.csr.to_dense(), dense.T.contiguous())
    torch.testing.assert_close(matrix.rows(rows).csr.to_dense(), dense[rows])


@pytest.mark.parametrize("edges", ["all pairs", "candidates"])
def test_the_learner_fits(edges, device):
    options = {} if edges == "all pairs" else {"edges": CandidatePairs}
    learner = StructureLearner(graph=GivenGraph(), **SHORT, **options)
    fit = learner.fit(blocks().to(device), seed=1)
    assert fit.logits.device == device
    assert fit.logits.isfinite().all()
    assert fit.structure.state().device == device


def test_the_fixed_learner_fits_as_on_the_cpu(device):
    there, here = (
        FixedGraphLearner(GivenGraph(), model=partial(GCN, dropout=0.0), steps=10).fit(
            blocks(dtype=DOUBLE).to(d), seed=1
        )
        for d in (device, "cpu")
    )
    assert relative_error(there.logits.cpu(), here.logits) < 1e-6


def test_the_estimator_takes_the_device(device):
    data = blocks()
    y = np.where(data.train_mask | data.val_mask, data.y, -1)
    model = LDSClassifier(**SHORT, n_neighbors=5, random_state=0, device=str(device)).fit(data.x.numpy(), y)
    assert model.label_distributions_.shape == (48, 2)
    assert np.isfinite(model.predict_proba(data.x.numpy())).all()
    assert model.graph_.shape == (48, 48)
