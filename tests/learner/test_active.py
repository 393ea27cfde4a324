"""The active part of a graph of candidate pairs: the same hypergradient, θ and logits as from the whole graph."""

import os
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch_geometric.data import Data

from lds.errors import InputError
from lds.graph import CandidateGraph, CandidatePairs, _candidate_graph, random_pairs
from lds.graph._candidate_graph import ActiveGraph
from lds.hypergrad import KeepStates, Reverse
from lds.learner import Callback, StructureLearner, _task
from lds.learner._task import Task
from lds.nn import GCN, SAGE
from tests.learner.problems import MASKS
from tests.oracles import DOUBLE, same_bits

WHOLE, ALWAYS = 0.0, 2.0


@pytest.fixture
def part(monkeypatch):
    """Have the active part used wherever it is no larger than a share of the nodes."""
    return lambda share: monkeypatch.setattr(_candidate_graph, "ACTIVE_SHARE", share)


def problem(n=80, edges=60, *, labelled=2, seed=0, dtype=DOUBLE, sparse=False):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 5, generator=generator, dtype=DOUBLE)
    if sparse:
        x = (x * (torch.rand(x.shape, generator=generator) < 0.5)).to_sparse_csr()
    order = torch.randperm(n, generator=generator)
    y = torch.randint(3, (n,), generator=generator)
    y[order[0]], y[order[1]] = 0, 1
    data = Data(x=x.to(dtype), y=y, edge_index=torch.randint(n, (2, edges), generator=generator), num_classes=3)
    for index, name in enumerate(MASKS):
        data[name] = torch.zeros(n, dtype=torch.bool).index_fill(0, order[index * labelled : (index + 1) * labelled], 1)
    return data


class Messages(nn.Module):
    """Messages along the edge index, divided by degrees from the weights: those are one more edge away."""

    def __init__(self, features, classes, layers=2):
        super().__init__()
        widths = [features, *[4] * (layers - 1), classes]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))
        self.hops = layers + 1

    def forward(self, x, graph):
        source, target = graph.edge_index
        weight = graph.edge_weight[:, None]
        degree = weight.new_ones(x.shape[0], 1).index_add(0, target, weight)
        for layer in self.layers:
            h = layer(x) / degree.sqrt()
            x = torch.tanh(h + torch.zeros_like(h).index_add(0, target, weight * h[source])) / degree.sqrt()
        return x


class Mixed(nn.Module):
    """Both kinds of product, one after the other, and a residual connection."""

    hops = 3

    def __init__(self, features, classes):
        super().__init__()
        self.first, self.second = nn.Linear(features, 4), nn.Linear(4, classes)

    def forward(self, x, graph):
        h = torch.tanh(graph.propagate(self.first(x)))
        h = h + torch.sigmoid(graph.matmul(h))
        return graph.propagate(self.second(h)) + self.second(h)


MODELS = {
    "gcn": lambda layers: partial(GCN, num_layers=layers, hidden_channels=4),
    "sage": lambda layers: partial(SAGE, num_layers=layers, hidden_channels=4),
    "messages": lambda layers: partial(Messages, layers=layers),
    "mixed": lambda layers: Mixed,
}


def started(n, data, further, seed, probability):
    """A factory of structures with probabilities 0, 1 and in between, or those of the edges."""

    def make(num_nodes, pairs, *, dtype):
        generator = torch.Generator().manual_seed(seed)
        share = torch.rand(pairs.shape[1], generator=generator, dtype=DOUBLE) if probability else None
        structure = CandidatePairs(num_nodes, pairs, candidates=further, probability=share, dtype=dtype)
        if not probability:
            theta = torch.rand(structure.state().shape, generator=generator, dtype=DOUBLE)
            theta[::4], theta[1::4] = 0, 1
            structure.restore_(theta.to(dtype))
        return structure

    return make


def solved(learner, data, share, *, steps, memory=None, monkeypatch):
    monkeypatch.setattr(_candidate_graph, "ACTIVE_SHARE", share)
    asked = learner.problem(data, steps=steps, seed=2)
    structure = asked.outer["structure"]
    result = Reverse(steps, memory=memory).solve(asked)
    gradient = result.grad["structure"]
    places, _ = gradient.entries()
    dense = gradient.at(*structure.pairs)
    structure.project_(gradient, 3.0)
    expected = structure.expected_edges
    structure.restore_(structure.state())
    assert structure.expected_edges == expected  # Incrementally, and from all of θ.
    return (dense, result.grad["inner_lr"], structure.state(), result.outer_loss), places


@settings(max_examples=int(os.environ.get("LDS_EXAMPLES", "60")), deadline=None, derandomize=True)
@given(
    n=st.integers(10, 90),
    density=st.floats(0.05, 1.5),
    further=st.floats(0, 1),
    layers=st.integers(1, 3),
    model=st.sampled_from(sorted(MODELS)),
    labelled=st.integers(1, 2),
    steps=st.integers(1, 3),
    probability=st.booleans(),
    sparse=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_equals_the_whole_graph(n, density, further, layers, model, labelled, steps, probability, sparse, seed):
    """Isolated nodes and nodes without candidates are among them, for there are fewer pairs than nodes."""
    data = problem(n, max(1, int(density * n)), labelled=max(labelled, 2), seed=seed, sparse=sparse)
    pairs = random_pairs(n, min(int(further * n), n * (n - 1) // 4), seed=seed)
    if bool((data.edge_index[0] == data.edge_index[1]).all()):
        return
    learner = StructureLearner(
        tau=3,
        edges=started(n, data, pairs, seed, probability),
        model=MODELS[model](layers),
        learn_inner_lr=True,
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        expected, _ = solved(learner, data, WHOLE, steps=steps, monkeypatch=monkeypatch)
        found, places = solved(learner, data, ALWAYS, steps=steps, monkeypatch=monkeypatch)
    assert places is not None
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(
            torch.as_tensor(one),
            torch.as_tensor(other),
            rtol=1e-10,
            atol=1e-10 * float(torch.as_tensor(other).abs().max()),
        )


def test_states_alone_give_the_same(monkeypatch):
    learner = StructureLearner(tau=3, edges=CandidatePairs, learn_inner_lr=True)
    found = [
        solved(learner, problem(), ALWAYS, steps=3, memory=memory, monkeypatch=monkeypatch)[0]
        for memory in (None, KeepStates())
    ]
    assert same_bits(found[0][:3], found[1][:3])


def test_the_gradient_reaches_candidates_that_were_not_drawn(part):
    part(ALWAYS)
    data = problem()
    further = random_pairs(80, 200, seed=1)
    learner = StructureLearner(edges=partial(CandidatePairs, candidates=further))
    asked = learner.problem(data, steps=2)
    structure = asked.outer["structure"]
    gradient = Reverse(2).solve(asked).grad["structure"].at(*structure.pairs)
    assert bool((gradient[structure.state() == 0] != 0).any())


SHORT = {"tau": 2, "inner_steps": 6, "max_epochs": 2, "samples": 3, "outer_lr": 5.0}


class TestLearning:
    def fit(self, data, **options):
        further = random_pairs(data.num_nodes, 60, seed=1)
        settings = {**SHORT, "edges": partial(CandidatePairs, candidates=further)} | options
        return StructureLearner(**settings).fit(data, seed=3)

    @pytest.mark.parametrize("model", [GCN, SAGE])
    def test_the_same_theta_and_logits(self, part, model):
        fits = []
        for share in (WHOLE, ALWAYS):
            part(share)
            fits.append(self.fit(problem(), model=model))
        one, other = fits
        assert bool((one.structure.state() != other.structure.state().round()).any())
        torch.testing.assert_close(one.structure.state(), other.structure.state(), rtol=0, atol=1e-10)
        torch.testing.assert_close(one.logits, other.logits, rtol=1e-10, atol=1e-10)
        for first, second in zip(one.history, other.history, strict=True):
            assert first.es_accuracy == second.es_accuracy
            assert first.es_loss == pytest.approx(second.es_loss, rel=1e-10)
            assert first.expected_edges == pytest.approx(second.expected_edges, abs=1e-7)

    def test_the_same_bits_again(self, part):
        part(ALWAYS)
        one, other = (self.fit(problem(dtype=torch.float32)) for _ in range(2))
        assert same_bits((one.structure.state(), one.logits), (other.structure.state(), other.logits))

    @pytest.mark.parametrize("block", [1, 7, 79])
    def test_predictions_in_blocks(self, part, monkeypatch, block):
        part(ALWAYS)
        expected = self.fit(problem()).logits
        monkeypatch.setattr(_task, "BLOCK", block)
        torch.testing.assert_close(self.fit(problem()).logits, expected, rtol=1e-10, atol=1e-10)

    def test_a_longer_horizon_goes_over_earlier_graphs(self, part):
        """They were drawn at an earlier θ."""
        fits = []
        for share in (WHOLE, ALWAYS):
            part(share)
            fits.append(self.fit(problem(), horizon=4))
        torch.testing.assert_close(fits[0].structure.state(), fits[1].structure.state(), rtol=0, atol=1e-10)

    def test_resumes_to_the_same_bits(self, part):
        part(ALWAYS)
        saved = []

        class Keep(Callback):
            def on_resumable(self, dump):
                saved.append(dump())

        data = problem(dtype=torch.float32)
        learner = StructureLearner(**SHORT, edges=CandidatePairs)
        fit = learner.fit(data, seed=1, callbacks=[Keep()])
        for state in (saved[1], saved[3], saved[-1]):
            again = learner.fit(data, seed=1, resume=state)
            assert same_bits((fit.structure.state(), fit.logits), (again.structure.state(), again.logits))
            assert fit.history == again.history


class TestParts:
    """A part of a drawn graph against the whole of the same draw."""

    def graphs(self, *, hops, gradient=True):
        structure = CandidatePairs(80, problem().edge_index, candidates=random_pairs(80, 160, seed=1), dtype=DOUBLE)
        structure.restore_(torch.linspace(0, 1, structure.state().numel(), dtype=DOUBLE))
        graph = structure.draw()
        nodes = torch.tensor([3, 40])
        return graph, graph.around(nodes, hops, gradient=gradient), nodes

    @pytest.mark.parametrize("hops", [1, 2, 3])
    @pytest.mark.parametrize("gradient", [True, False])
    def test_rows_and_degrees(self, part, hops, gradient):
        part(ALWAYS)
        graph, found, nodes = self.graphs(hops=hops, gradient=gradient)
        assert isinstance(found, ActiveGraph)
        assert torch.equal(found.degree, graph.degree[found.nodes])
        assert torch.equal(found.nodes[found.rows_of(nodes)], nodes)
        edges = set(zip(graph.row.tolist(), graph.col.tolist(), strict=True))
        ends = torch.stack([found.nodes[found.row], found.nodes[found.col]])
        local = [tuple(sorted(pair)) for pair in ends.T.tolist()]
        assert set(local) <= edges
        assert len(local) == len(set(local))
        # Without a gradient, the rows are the nodes that can be reached.
        reached = set(nodes.tolist())
        for _ in range(hops):
            reached |= {b for a, b in edges if a in reached} | {a for a, b in edges if b in reached}
        assert reached <= set(found.nodes.tolist())
        assert gradient or reached == set(found.nodes.tolist())

    def test_masks_of_dropout(self, part):
        part(ALWAYS)
        graph, found, _ = self.graphs(hops=1)
        torch.manual_seed(5)
        every = graph.dropout_mask(torch.zeros(80, 3, dtype=torch.float32), 0.5)
        torch.manual_seed(5)
        assert torch.equal(found.dropout_mask(torch.zeros(found.num_nodes, 3), 0.5), every[found.nodes])
        assert not torch.equal(graph.dropout_mask(torch.zeros(80, 3), 0.5), every)
        for some in (graph, found):
            values = some.dropout_mask(torch.zeros(some.num_nodes, 3), 0.3).unique().tolist()
            assert values == pytest.approx([0, some.dropout_scale(0.3)], rel=1e-6)

    def test_is_the_whole_graph_where_most_is_active(self):
        graph, found, _ = self.graphs(hops=3)
        assert found is graph

    def test_is_kept_for_the_sweep(self, part):
        part(ALWAYS)
        graph, found, nodes = self.graphs(hops=2)
        assert graph.around(nodes, 2) is found
        traced = graph.traced()
        assert traced.around(nodes, 2) is traced.around(nodes, 2) is not found
        assert traced.around(nodes, 2).degree is found.degree
        assert len(traced.parts()) == 2
        assert len(graph.traced().parts()) == 1

    def test_theta_must_be_that_of_the_draw(self, part):
        part(ALWAYS)
        structure = CandidatePairs(80, problem().edge_index, dtype=DOUBLE)
        seen, unseen = structure.draw(), structure.draw()
        edges = seen.num_edges
        structure.restore_(torch.zeros_like(structure.state()))
        assert seen.row.numel() == edges
        for look in (lambda: unseen.row, lambda: unseen.degree, lambda: unseen.around(torch.tensor([0]), 1)):
            with pytest.raises(InputError, match=r"θ has changed; use the graph before the step of θ, .* draw another"):
                look()


class TestHops:
    def task(self, model):
        data = problem(200, 120)
        task = Task(data, model, 0.0)
        further = random_pairs(200, 200, seed=1)
        return task, CandidatePairs(200, data.edge_index, candidates=further, dtype=DOUBLE)

    def test_of_our_models(self):
        assert Task(problem(), partial(GCN, num_layers=3), 0.0).hops == 3
        assert Task(problem(), partial(SAGE, num_layers=1), 0.0).hops == 1

    def test_a_subclass_with_another_forward_says_none(self):
        class Normed(GCN):
            def forward(self, x, graph):
                logits = super().forward(x, graph)
                return logits - logits.mean(0)

        class Renamed(GCN):
            pass

        class Deeper(Normed):
            hops = 3

        assert Task(problem(), Normed, 0.0).hops is None
        assert Task(problem(), Renamed, 0.0).hops == 2
        assert Task(problem(), Deeper, 0.0).hops == 3

    @pytest.mark.parametrize("hops", [0, -1, True, 2.0, "2"])
    def test_no_number_of_hops(self, hops):
        with pytest.raises(InputError, match=r"hops of a model must be a positive integer, or None for all nodes, got"):
            Task(problem(), type("Model", (GCN,), {"hops": hops}), 0.0)

    def test_too_few(self, part):
        part(ALWAYS)
        task, structure = self.task(type("Model", (GCN,), {"hops": 1}))
        with pytest.raises(
            InputError, match=r"at most hops = 1 edges away, but change by .* correct hops, or set it to"
        ):
            task.check_structure(structure)

    def test_a_norm_over_all_nodes(self, part):
        part(ALWAYS)

        class Normed(GCN):
            hops = 2

            def forward(self, x, graph):
                logits = super().forward(x, graph)
                return logits - logits.mean(0)

        task, structure = self.task(Normed)
        with pytest.raises(InputError, match="as with a norm over all nodes"):
            task.check_structure(structure)

    @pytest.mark.parametrize("model", [GCN, SAGE, Messages, Mixed])
    def test_right_ones_pass(self, part, model):
        part(ALWAYS)
        task, structure = self.task(model)
        task.check_structure(structure)

    def test_a_model_that_counts_candidates_is_refused_on_a_part_too(self, part):
        part(ALWAYS)

        class Counts(Messages):
            hops = 2

            def __init__(self, features, classes):
                super().__init__(features, classes)
                self.hops = 3

            def forward(self, x, graph):
                drawn = graph.edge_index.shape[1]
                return super().forward(x, graph) * (1 + drawn)

        task, structure = self.task(Counts)
        with pytest.raises(InputError, match=r"model must take an edge of weight 0 for no edge|hops = 3"):
            task.check_structure(structure)


def test_few_nodes_are_touched():
    """A step on a large graph looks at a small part of it."""
    data = problem(20_000, 20_000)
    learner = StructureLearner(edges=partial(CandidatePairs, candidates=random_pairs(20_000, 40_000, seed=1)))
    asked = learner.problem(data, steps=2)
    structure = asked.outer["structure"]
    seen = []
    around = _candidate_graph.DrawnGraph.around

    def spy(self, *args, **options):
        seen.append(around(self, *args, **options))
        return seen[-1]

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(_candidate_graph.DrawnGraph, "around", spy)
        gradient = Reverse(2).solve(asked).grad["structure"]
    places, _ = gradient.entries()
    assert 0 < places.numel() < structure.state().numel() // 50
    assert seen
    assert all(isinstance(graph, CandidateGraph) and graph.num_nodes < 2000 for graph in seen)
