"""torch_geometric models inside the learner."""

from functools import partial

import pytest
import torch
import torch_geometric.nn as gnn

from lds.errors import InputError
from lds.graph import CandidatePairs, random_pairs
from lds.learner import StructureLearner
from lds.nn import Backbone
from tests.learner.problems import blocks

MODELS = {
    "gcn": lambda f, c: gnn.GCN(f, 8, 2, c),
    "sgc": lambda f, c: gnn.SGConv(f, c, K=2),
    "graph-conv": lambda f, c: gnn.GraphConv(f, c),
    "appnp": lambda f, c: gnn.Sequential(
        "x, edge_index, edge_weight",
        [(torch.nn.Linear(f, c), "x -> x"), (gnn.APPNP(3, 0.1), "x, edge_index, edge_weight -> x")],
    ),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_learns_a_structure_for_a_backbone(model):
    data = blocks()
    more = random_pairs(data.num_nodes, 200, seed=0)
    learner = StructureLearner(
        model=Backbone.factory(model),
        edges=partial(CandidatePairs, candidates=more),
        inner_steps=20,
        max_epochs=1,
    )
    fit = learner.fit(data)
    start = CandidatePairs(data.num_nodes, data.edge_index, candidates=more)
    assert fit.logits.isfinite().all()
    assert not torch.equal(fit.structure.state(), start.state())


def test_needs_candidate_pairs():
    learner = StructureLearner(model=Backbone.factory(MODELS["gcn"]), max_epochs=1)
    with pytest.raises(InputError, match="CandidatePairs"):
        learner.fit(blocks())
