"""Probabilities on given pairs: the same gradient as on all pairs, and the same through edge weights."""

import pytest
import torch

from lds.errors import InputError
from lds.graph import CandidatePairs, KNNGraph, random_pairs
from lds.hypergrad import hypergradient
from lds.updaters import SGD, Adam
from tests.graph.oracles import MODELS, dense_hypergradient, node_classification
from tests.oracles import DOUBLE, relative_error

N = 40
NO_EDGES = torch.zeros(2, 0, dtype=torch.int64)


def randint(high, shape, seed=0):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def candidates(structure):
    """All pairs of a structure, whatever their probability."""
    pairs, _ = structure.edges(-1.0)
    return pairs


@pytest.fixture
def structure():
    """Half of the candidates random, in (0, 1); some 0 and some 1."""
    made = CandidatePairs(N, randint(N, (2, 60)), candidates=random_pairs(N, 200, seed=1), dtype=DOUBLE)
    theta = made.state()
    half = torch.arange(theta.numel()) % 2 == 0
    made.restore_(torch.where(half, torch.rand(theta.shape, generator=torch.Generator().manual_seed(2)), theta))
    return made


@pytest.mark.parametrize("updater", [SGD(0.2, momentum=0.8), Adam(0.05)])
@pytest.mark.parametrize("model", MODELS.keys())
def test_products_give_the_dense_gradient(model, updater, structure):
    problem = node_classification(structure, model)
    found = hypergradient(*problem, updater=updater, steps=3, seed=3).grad["structure"]
    expected = dense_hypergradient(problem, updater, 3, seed=3).grad["structure"]
    row, col = candidates(structure)
    assert expected[row, col].any()
    assert relative_error(found.at(row, col), expected[row, col]) <= 1e-10


class Weighted(torch.nn.Module):
    """A two-layer GCN that is written with messages along weighted edges."""

    def __init__(self, gcn):
        super().__init__()
        self.weights = gcn.weights

    def forward(self, x, graph):
        for number, weight in enumerate(self.weights):
            x = self.propagate(x @ weight, graph.edge_index, graph.edge_weight)
            x = x if number else x.relu()
        return x

    @staticmethod
    def propagate(m, edge_index, edge_weight):
        source, target = edge_index
        degree = edge_weight.new_ones(m.shape[0]).index_add(0, target, edge_weight)
        scale = degree.rsqrt()[:, None]
        messages = (scale * m)[source] * edge_weight[:, None]
        return scale * (torch.zeros_like(m).index_add(0, target, messages) + scale * m)


def test_edge_weights_give_the_gradient_of_the_products(monkeypatch, structure):
    problem = node_classification(structure, "gcn-2")
    monkeypatch.setitem(MODELS, "gcn-2", lambda f, c: Weighted(plain(f, c)))
    weighted = node_classification(structure, "gcn-2")
    monkeypatch.undo()
    monkeypatch.setitem(MODELS, "gcn-2", plain)
    problem = node_classification(structure, "gcn-2")
    row, col = candidates(structure)
    by_products, by_weights = (
        hypergradient(*p, updater=Adam(0.05), steps=3, seed=3).grad["structure"].at(row, col)
        for p in (problem, weighted)
    )
    assert by_products.any()
    assert relative_error(by_weights, by_products) <= 1e-10


def plain(features, classes):
    from lds.nn import GCN

    return GCN(features, classes, hidden_channels=8, dropout=0.0)


def test_edges_start_with_probability_one_and_other_candidates_with_zero():
    edges = torch.tensor([[0, 1, 5, 3], [1, 0, 2, 3]])  # Both directions, and a self loop.
    made = CandidatePairs(6, edges, candidates=torch.tensor([[4, 2], [0, 5]]))
    assert candidates(made).T.tolist() == [[0, 1], [0, 4], [2, 5]]
    assert made.state().tolist() == [1.0, 0.0, 1.0]
    assert made.expected_edges == 2
    assert made.edges()[0].T.tolist() == [[0, 1], [2, 5]]


def test_projection_clips_and_leaves_other_pairs_alone(structure):
    problem = node_classification(structure, "gcn-2")
    gradient = hypergradient(*problem, updater=Adam(0.05), steps=2).grad["structure"]
    row, col = candidates(structure)
    before = structure.state()
    expected = (before - 50.0 * gradient.at(row, col)).clamp(0, 1)
    structure.project_(gradient, 50.0)
    assert torch.allclose(structure.state(), expected, atol=1e-14)
    assert (expected == 0).any()
    assert (expected == 1).any()


def test_draws_have_the_probabilities(structure):
    theta = structure.state()
    torch.manual_seed(0)
    draws = 2000
    counts = sum(structure.draw().drawn for _ in range(draws))
    assert torch.equal(counts[theta == 0], torch.zeros_like(counts[theta == 0]))
    assert (counts[theta == 1] == draws).all()
    inside = (theta > 0) & (theta < 1)
    z = (counts - draws * theta)[inside] / (draws * theta * (1 - theta))[inside].sqrt()
    assert abs(float(z.square().mean()) - 1) < 5 * (2 / int(inside.sum())) ** 0.5


def test_a_graph_lists_every_candidate_with_weight_zero_or_one(structure):
    graph = structure.draw()
    c = candidates(structure).shape[1]
    assert graph.edge_index.shape == (2, 2 * c)
    assert torch.equal(graph.edge_index[:, :c], graph.edge_index[:, c:].flip(0))
    assert graph.num_edges == int(graph.edge_weight.sum()) // 2


def test_no_candidate_is_refused():
    with pytest.raises(InputError, match="at least one pair"):
        CandidatePairs(5, NO_EDGES)


def test_random_pairs():
    pairs = random_pairs(100, 500, seed=3)
    assert (pairs[0] < pairs[1]).all()
    assert 400 < pairs.shape[1] <= 500
    assert torch.equal(pairs, random_pairs(100, 500, seed=3))
    assert not torch.equal(pairs, random_pairs(100, 500, seed=4))
    with pytest.raises(InputError, match="between 0 and half"):
        random_pairs(10, 30, seed=0)


def test_knn_pairs_can_be_candidates():
    from torch_geometric.data import Data

    data = Data(x=torch.randn(30, 4, generator=torch.Generator().manual_seed(0)), edge_index=NO_EDGES)
    assert CandidatePairs(30, NO_EDGES, candidates=KNNGraph(4)(data)).expected_edges == 0
