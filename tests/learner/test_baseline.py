"""The baseline on a fixed graph."""

import pytest
import torch

from lds.errors import DataError, InputError
from lds.graph import AllPairs, KNNGraph
from lds.learner import FixedGraphLearner
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
            for name in ("lr", "weight_decay")
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
