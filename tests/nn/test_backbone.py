"""A model of torch_geometric as the model of a learner."""

import pytest
import torch
import torch_geometric.nn
from torch import nn

from lds.errors import InputError
from lds.graph import CandidatePairs, random_pairs
from lds.learner import StructureLearner
from lds.nn import Backbone
from lds.updaters import Adam
from tests.graph.oracles import DenseGraph
from tests.graph.test_candidate_pairs import N, check, structure_of
from tests.learner.problems import blocks
from tests.oracles import DOUBLE, Problem


def gcn(features, classes):
    return torch_geometric.nn.GCN(features, 5, 2, classes, dropout=0.0)


class Twin(nn.Module):
    """The same network on a dense graph, where that is what comes."""

    def __init__(self, features, classes):
        super().__init__()
        self.backbone = Backbone(gcn(features, classes))

    def forward(self, x, graph):
        if not isinstance(graph, DenseGraph):
            return self.backbone(x, graph)
        first, second = self.backbone.model.convs
        h = (graph.propagate(x @ first.lin.weight.T) + first.bias).relu()
        return graph.propagate(h @ second.lin.weight.T) + second.bias


def test_hypergradient_equals_the_dense_oracle():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 6, generator=generator, dtype=DOUBLE)
    y = torch.randint(3, (N,), generator=generator)
    torch.manual_seed(0)
    module = Twin(6, 3).to(DOUBLE)

    def loss(params, outer, nodes):
        logits = torch.func.functional_call(module, params, (x, outer["structure"]))
        return nn.functional.cross_entropy(logits[nodes], y[nodes])

    params = {name: p.detach().clone() for name, p in module.named_parameters()}
    problem = Problem(
        lambda params, outer: loss(params, outer, slice(0, 10)),
        lambda params, outer: loss(params, outer, slice(10, 20)),
        params,
        {"structure": structure_of()},
    )
    check(problem, Adam(0.05), steps=3)


def edges(num_nodes, edge_index, *, dtype):
    return CandidatePairs(num_nodes, edge_index, candidates=random_pairs(num_nodes, 60, seed=0), dtype=dtype)


def test_in_a_learner():
    learner = StructureLearner(tau=2, inner_steps=6, max_epochs=2, samples=2, model=Backbone.factory(gcn), edges=edges)
    first, again = (learner.fit(blocks()) for _ in range(2))
    assert torch.equal(first.logits, again.logits)
    assert torch.equal(first.structure.state(), again.structure.state())
    theta = first.structure.state()
    assert bool(((theta > 0) & (theta < 1)).any())


def test_on_all_pairs():
    with pytest.raises(InputError, match="only edges=CandidatePairs has"):
        StructureLearner(tau=2, model=Backbone.factory(gcn)).fit(blocks())
