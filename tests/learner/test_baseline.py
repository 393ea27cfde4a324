"""The baseline on a fixed graph."""

import pytest
import torch

from lds.errors import DataError, InputError
from lds.graph import AllPairs, KNNGraph
from lds.learner import FixedGraphLearner
from lds.learner._fixed_graph_learner import _with_random_edges
from lds.learner._task import Task
from lds.nn import GCN
from lds.updaters import Adam
from tests.learner.problems import Recorder, blocks
from tests.oracles import same_bits


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *[
            ({name: value}, f"{name} must be an integer >= 1, got {value!r}")
            for name in ("steps", "patience")
            for value in (0, -3, 2.5, True)
        ],
        *[
            ({name: value}, f"{name} must be finite and >= 0, got {value!r}")
            for name in ("lr", "weight_decay", "random_edges")
            for value in (-1.0, float("nan"), float("inf"), "0.1")
        ],
    ],
)
def test_arguments_out_of_range(options, message):
    with pytest.raises(InputError) as error:
        FixedGraphLearner(**options)
    assert str(error.value) == message


def test_the_graph_stays():
    data = blocks()
    fit = FixedGraphLearner(steps=20).fit(data)
    for found, expected in zip(fit.structure.edges(), AllPairs(48, data.edge_index).edges(), strict=True):
        assert torch.equal(found, expected)
    assert (fit.outer_epochs, fit.outer_steps) == (1, 0)


def test_the_seed_decides_alone():
    data = blocks()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = FixedGraphLearner(steps=20).fit(data, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    again = FixedGraphLearner(steps=20).fit(data, seed=1)
    assert torch.equal(first.logits, again.logits)
    assert same_bits(first.params, again.params)
    assert not torch.equal(first.logits, FixedGraphLearner(steps=20).fit(data, seed=2).logits)


def test_logits_are_those_of_the_weights_on_the_graph():
    data = blocks()
    fit = FixedGraphLearner(steps=30).fit(data)
    task = Task(data, GCN, 5e-4)
    graph = AllPairs(48, data.edge_index).draw()
    torch.testing.assert_close(task.mean_logits(fit.params, lambda: graph, 1), fit.logits)


@pytest.fixture
def count_steps(monkeypatch):
    taken = []
    step = Adam.step
    monkeypatch.setattr(Adam, "step", lambda *args: taken.append(1) or step(*args))
    return taken


@pytest.mark.parametrize("steps", [1, 5, 10, 25])
def test_steps_at_most(count_steps, steps):
    FixedGraphLearner(steps=steps).fit(blocks())
    assert len(count_steps) == steps


def test_patience(count_steps):
    """Nothing improves with a step size of zero; the first look is accepted."""
    FixedGraphLearner(lr=0.0, patience=25).fit(blocks())
    assert len(count_steps) == 40


def test_the_best_step_is_kept(monkeypatch):
    """Scripted accuracies on the selection nodes: the second of three windows is the best."""
    script, seen = iter([0.5, 0.75, 0.25]), []
    accuracy, mean_logits = Task.accuracy, Task.mean_logits
    monkeypatch.setattr(
        Task, "accuracy", lambda self, *args: next(script) if args[1] == "selection" else accuracy(self, *args)
    )
    monkeypatch.setattr(Task, "mean_logits", lambda *args: seen.append(mean_logits(*args)) or seen[-1])
    fit = FixedGraphLearner(steps=30).fit(blocks())
    assert torch.equal(fit.logits, seen[1])
    assert not torch.equal(fit.logits, seen[2])


def test_selects_on_validation_and_early_stopping_nodes(monkeypatch):
    data = blocks()
    nodes = []
    accuracy = Task.accuracy
    monkeypatch.setattr(
        Task, "accuracy", lambda self, *args: nodes.append(self.nodes[args[1]]) or accuracy(self, *args)
    )
    FixedGraphLearner(steps=10).fit(data)
    assert set(nodes[0].tolist()) == set((data.val_mask | data.es_mask).nonzero().flatten().tolist())


def test_learns_and_reports():
    recorder = Recorder()
    fit = FixedGraphLearner(graph=KNNGraph(5)).fit(blocks(noise=0.3), callbacks=[recorder])
    assert fit.accuracy("train") > 0.9
    assert recorder.events == list(fit.history)
    (epoch,) = fit.history
    assert (epoch.epoch, epoch.outer_step, epoch.improved) == (1, 0, True)
    assert epoch.es_accuracy == fit.accuracy("es")
    assert epoch.inner_loss > 0
    assert epoch.expected_edges == fit.structure.expected_edges


def test_bad_data():
    data = blocks()
    del data.edge_index
    with pytest.raises(InputError, match="use a kNN graph"):
        FixedGraphLearner().fit(data)
    data.y = None
    with pytest.raises(DataError, match="labels"):
        FixedGraphLearner(graph=KNNGraph(3)).fit(data)


class TestWithoutAGraph:
    def test_is_the_same_network_on_isolated_nodes(self):
        data = blocks(noise=0.3)
        fit = FixedGraphLearner(graph=None, steps=30).fit(data)
        assert fit.expected_edges == 0
        first, second = fit.params.values()
        torch.testing.assert_close((data.x @ first).relu() @ second, fit.logits)

    def test_needs_no_edges(self):
        data = blocks(noise=0.3)
        fit = FixedGraphLearner(graph=None, steps=30).fit(data)
        data.edge_index = None
        assert torch.equal(FixedGraphLearner(graph=None, steps=30).fit(data).logits, fit.logits)


class TestRandomEdges:
    def test_each_other_pair_is_drawn_with_the_same_probability(self):
        data = blocks(n=12, isolated=0)
        graph = AllPairs(12, data.edge_index).draw()
        learner = FixedGraphLearner(random_edges=0.5)
        rate, rounds = learner._rate(graph), 4000
        found = torch.zeros(12, 12)
        torch.manual_seed(0)
        for _ in range(rounds):
            drawn = _with_random_edges(graph, rate)
            found[drawn.row, drawn.col] += 1
        given = torch.zeros(12, 12, dtype=torch.bool)
        given[graph.row, graph.col] = True
        others = ~given & torch.ones(12, 12).triu(1).bool()
        assert (found[given] == rounds).all()
        assert not found.tril().any()
        p = 0.5 * graph.num_edges / int(others.sum())
        # Five standard deviations of a binomial share.
        assert (found[others] / rounds - p).abs().max() < 5 * (p * (1 - p) / rounds) ** 0.5

    def test_every_step_has_its_own_and_predictions_have_none(self, monkeypatch):
        seen = []
        inner_loss = Task.inner_loss
        monkeypatch.setattr(Task, "inner_loss", lambda *args: seen.append(args[2]) or inner_loss(*args))
        data = blocks()
        fit = FixedGraphLearner(random_edges=0.5, steps=20).fit(data)
        drawn = [frozenset(zip(g.row.tolist(), g.col.tolist(), strict=True)) for g in seen]
        assert len(set(drawn)) == 20
        graph = AllPairs(48, data.edge_index).draw()
        given = set(zip(graph.row.tolist(), graph.col.tolist(), strict=True))
        assert all(given < edges for edges in drawn)
        logits = Task(data, GCN, 5e-4).mean_logits(fit.params, lambda: graph, 1)
        torch.testing.assert_close(logits, fit.logits)
        assert fit.expected_edges == graph.num_edges
        again = FixedGraphLearner(random_edges=0.5, steps=20).fit(data)
        assert torch.equal(again.logits, fit.logits)

    def test_more_than_there_are_pairs(self):
        with pytest.raises(InputError, match=r"random_edges needs pairs without an edge, more than .*; lower it"):
            FixedGraphLearner(random_edges=50.0).fit(blocks())
