"""GraphSAGE through products, against a closed form and the dense oracle."""

import torch

from lds.hypergrad import hypergradient
from lds.nn import SAGE
from lds.updaters import Adam
from tests.graph.oracles import MODELS, dense_adjacency, dense_hypergradient, node_classification, structure_of, theta
from tests.oracles import DOUBLE, relative_error


def test_is_the_mean_over_neighbours():
    torch.manual_seed(0)
    model = SAGE(7, 3, num_layers=1).to(DOUBLE)
    graph = structure_of(theta("isolated", 20)).draw()
    x = torch.randn(20, 7, dtype=DOUBLE)
    a = dense_adjacency(graph)
    mean = a @ x / a.sum(1, keepdim=True).clamp(min=1)
    expected = model.own[0](x) + mean @ model.neighbours[0].weight.T
    assert torch.allclose(model(x, graph), expected, atol=1e-12)


def test_structure_gradient_equals_the_dense_one(monkeypatch):
    monkeypatch.setitem(MODELS, "sage", lambda f, c: SAGE(f, c, hidden_channels=6))
    problem = node_classification(structure_of(theta("sparse", 50)), "sage")
    found = hypergradient(*problem, updater=Adam(0.05), steps=3, seed=3).grad["structure"].to_dense()
    expected = dense_hypergradient(problem, Adam(0.05), 3, seed=3).grad["structure"]
    assert expected.any()
    assert relative_error(found, expected) <= 1e-10
