"""torch_geometric models inside the learner."""

from functools import partial

import pytest
import torch
import torch_geometric.nn as gnn

from lds.errors import InputError
from lds.graph import CandidatePairs, random_pairs
from lds.learner import StructureLearner
from lds.nn import Backbone
from lds.nn.gat import WeightedGATConv
from lds.updaters import Adam
from tests.graph.oracles import DenseGraph
from tests.graph.test_candidate_pairs import N, check, structure_of
from tests.learner.problems import blocks
from tests.oracles import DOUBLE, Problem

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


@pytest.mark.parametrize("model", [gnn.GraphSAGE, gnn.GIN, gnn.GAT])
def test_edge_weights_must_count(model):
    with pytest.raises(InputError, match=rf"{model.__name__} ignores them.* take lds.nn.SAGE, .*WeightedGATConv"):
        Backbone(torch.nn.Sequential(torch.nn.Identity(), model(4, 8, 2, 2)))


@pytest.mark.parametrize("model", [gnn.GCN(4, 8, 2, 2, cached=True), gnn.SGConv(4, 2, cached=True)], ids=["gcn", "sgc"])
def test_no_layer_may_keep_the_first_graph(model):
    with pytest.raises(InputError, match=r"but (GCNConv|SGConv) keeps the first; set cached=False"):
        Backbone(model)


class TestGAT:
    def graph(self):
        generator = torch.Generator().manual_seed(0)
        edges = torch.randint(12, (2, 30), generator=generator)
        drawn = torch.arange(30) % 3 > 0
        return edges[:, edges[0] != edges[1]], drawn[edges[0] != edges[1]]

    def layer(self, **options):
        torch.manual_seed(0)
        return WeightedGATConv(5, 3, heads=2, concat=False, **options).double()

    def test_edges_of_weight_zero_are_as_if_not_there(self):
        edges, drawn = self.graph()
        x = torch.randn(12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        layer = self.layer()
        plain = gnn.GATConv(5, 3, heads=2, concat=False).double()
        plain.load_state_dict(layer.state_dict())
        assert torch.allclose(layer(x, edges, drawn.double()), plain(x, edges[:, drawn]), atol=1e-12)
        assert not torch.allclose(layer(x, edges, drawn.double()), plain(x, edges), atol=1e-3)

    def test_gradient_in_the_weights(self):
        edges, drawn = self.graph()
        x = torch.randn(12, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        layer = self.layer()
        weight = (0.5 * drawn.double() + 0.1).requires_grad_()
        assert torch.autograd.gradcheck(lambda w: layer(x, edges, w), weight)
        weight = drawn.double().requires_grad_()
        layer(x, edges, weight).square().sum().backward()
        assert weight.grad[~drawn].any()

    def test_in_the_learner(self):
        class GAT(torch.nn.Module):
            def __init__(self, features, classes):
                super().__init__()
                self.first, self.second = WeightedGATConv(features, 4, heads=2), WeightedGATConv(8, classes)

            def forward(self, x, edge_index, edge_weight):
                return self.second(self.first(x, edge_index, edge_weight).relu(), edge_index, edge_weight)

        data = blocks()
        learner = StructureLearner(
            model=Backbone.factory(GAT), edges=CandidatePairs, inner_steps=10, max_epochs=1, outer_lr=10.0
        )
        assert learner.fit(data).structure.expected_edges != data.edge_index.shape[1] // 2


class Twin(torch.nn.Module):
    """The same network on a dense graph, where that is what comes."""

    def __init__(self, features, classes):
        super().__init__()
        self.backbone = Backbone(gnn.GCN(features, 5, 2, classes, dropout=0.0))

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
        return torch.nn.functional.cross_entropy(logits[nodes], y[nodes])

    params = {name: p.detach().clone() for name, p in module.named_parameters()}
    problem = Problem(
        lambda params, outer: loss(params, outer, slice(0, 10)),
        lambda params, outer: loss(params, outer, slice(10, 20)),
        params,
        {"structure": structure_of()},
    )
    check(problem, Adam(0.05), steps=3)


class Attention(torch.nn.Module):
    """Takes edge weights, as attributes of edges: those of weight 0 count."""

    def __init__(self, features, classes):
        super().__init__()
        self.layer = gnn.GATConv(features, classes, edge_dim=1)

    def forward(self, x, edge_index, edge_weight):
        return self.layer(x, edge_index, edge_weight[:, None])


@pytest.mark.parametrize(
    "model",
    [lambda f, c: gnn.GraphConv(f, c, aggr="mean"), lambda f, c: gnn.GraphConv(f, c, aggr="max"), Attention],
    ids=["mean", "max", "attention"],
)
def test_edges_of_weight_zero_must_not_count(model):
    data = blocks()
    candidates = partial(CandidatePairs, candidates=random_pairs(data.num_nodes, 200, seed=0))
    learner = StructureLearner(model=Backbone.factory(model), edges=candidates, max_epochs=1)
    before = torch.get_rng_state()
    with pytest.raises(InputError, match=r"must take an edge of weight 0 for no edge, .*WeightedGATConv"):
        learner.fit(data)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("layer", [gnn.GATConv, gnn.GATv2Conv, gnn.SAGEConv, gnn.TransformerConv])
def test_layers_without_edge_weights(layer):
    with pytest.raises(
        InputError, match=rf"{layer.__name__} takes no edge_weight; take lds.nn.SAGE, .*WeightedGATConv"
    ):
        Backbone(layer(4, 2))


def test_modules_that_are_no_factory_or_have_no_sizes():
    with pytest.raises(InputError, match=r"Backbone.factory needs a function, .* but GCN came; write lambda features"):
        Backbone.factory(gnn.GCN(4, 8, 2, 2))
    with pytest.raises(InputError, match=r"a backbone is made of a torch\.nn.Module, but int came"):
        Backbone(3)
    learner = StructureLearner(model=Backbone.factory(lambda f, c: gnn.GCN(-1, 8, 2, c)), edges=CandidatePairs)
    with pytest.raises(InputError, match=r"must know its sizes when it is made, but .* waits for the first input"):
        learner.fit(blocks())
