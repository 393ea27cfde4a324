"""Networks on a structure that is held: their mean, and self-training behind its guard."""

import pytest
import torch

from lds.errors import InputError
from lds.learner import FixedGraphLearner, StructureLearner
from lds.learner._networks import Networks, Trained, pseudo_labels
from lds.learner._task import Task
from lds.nn import GCN
from lds.updaters import Adam
from tests.learner.problems import blocks

SHORT = {"tau": 2, "inner_steps": 10, "max_epochs": 2, "samples": 2}


def test_the_mean_of_networks_is_that_of_each_alone():
    one, two, three = (FixedGraphLearner(steps=20, networks=n).fit(blocks(), seed=4).logits for n in (1, 2, 3))
    second, third = 2 * two - one, 3 * three - 2 * two
    assert not torch.allclose(one, second)
    assert not torch.allclose(second, third)
    torch.testing.assert_close((one + second + third) / 3, three)


def test_pseudo_labels_are_the_most_confident_of_each_predicted_class():
    task = Task(blocks(classes=3), GCN, 0.0)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(task.num_nodes, 3, generator=generator)
    nodes, labels = pseudo_labels(task, logits, 0.5)
    known = torch.cat([task.nodes[split] for split in ("train", "val", "es")]).tolist()
    assert not set(nodes.tolist()) & set(known)
    free = [node for node in range(task.num_nodes) if node not in set(known)]
    confidence, predicted = logits.softmax(1).max(1)
    for label in range(3):
        of_class = sorted((node for node in free if predicted[node] == label), key=lambda n: -confidence[n])
        chosen = [node for node in nodes.tolist() if predicted[node] == label]
        assert set(chosen) == set(of_class[: -(-len(of_class) // 2)])
        assert all(labels[node] == label for node in chosen)
    # What is known stays as it is, and the data's own labels do too.
    assert torch.equal(labels[known], task.known.y[known])
    assert torch.equal(task.known.y, blocks(classes=3).y)


def test_no_label_of_a_test_node_is_looked_at():
    """Other labels there leave every bit of the logits."""
    data, other = blocks(), blocks()
    other.y[other.test_mask] = 1 - other.y[other.test_mask]
    learner = FixedGraphLearner(steps=20, networks=2, self_training=0.7, train_on="train+val")
    assert torch.equal(learner.fit(data, seed=2).logits, learner.fit(other, seed=2).logits)


@pytest.mark.parametrize("better", [True, False])
def test_the_guard_keeps_what_is_better(monkeypatch, better):
    """By the nodes that stop, whatever the training loss says."""
    data = blocks()
    task = Task(data, GCN, 0.0)
    first, again = (
        Trained({}, torch.full((task.num_nodes, task.num_classes), float(n)), accuracy, 0.5, 0.0)
        for n, accuracy in ((1, 0.6), (2, 0.7 if better else 0.5))
    )
    seen = []

    def mean(self, seeds):
        seen.append((self.task.nodes["train"].numel(), self.task._labels is self.task.known.y))
        return (first, again)[len(seen) - 1]

    monkeypatch.setattr(Networks, "_mean", mean)
    networks = Networks(task, (), lambda *_: None, Adam(0.1), lambda: None, "es", 1, 1, 1)
    found = networks.train([0], self_training=1.0)
    assert found is (again if better else first)
    labelled = sum(task.nodes[split].numel() for split in ("train", "val", "es"))
    train = task.nodes["train"].numel()
    assert seen == [(train, True), (train + task.num_nodes - labelled, False)]
    assert task._labels is task.known.y


@pytest.mark.parametrize("better", [True, False])
def test_a_rival_stays_where_it_is_better_and_gives_the_pseudo_labels(monkeypatch, better):
    task = Task(blocks(), GCN, 0.0)
    mean, rival = (
        Trained({}, torch.randn(task.num_nodes, 2), accuracy, 0.5, 0.0) for accuracy in (0.5, 0.6 if better else 0.4)
    )
    seen = []
    monkeypatch.setattr(Networks, "_mean", lambda *_: mean)
    monkeypatch.setattr(
        "lds.learner._networks.pseudo_labels",
        lambda task, logits, share: seen.append(logits) or pseudo_labels(task, logits, share),
    )
    networks = Networks(task, (), lambda *_: None, Adam(0.1), lambda: None, "es", 1, 1, 1)
    expected = rival if better else mean
    assert networks.train([0], self_training=1.0, rival=rival) is expected
    assert seen == [expected.logits]


def test_pseudo_labels_change_what_is_trained_and_the_fit_is_never_worse_on_the_nodes_that_stop():
    plain = StructureLearner(**SHORT, refit=2).fit(blocks(noise=2.0), seed=1)
    fit = StructureLearner(**SHORT, refit=2, self_training=0.7).fit(blocks(noise=2.0), seed=1)
    assert torch.equal(plain.structure.state(), fit.structure.state())
    assert (fit.accuracy("es"), -fit.loss("es")) >= (plain.accuracy("es"), -plain.loss("es"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"networks": 0}, "networks must be an integer >= 1, got 0"),
        ({"self_training": -0.1}, r"self_training must be in \[0, 1\], got -0.1"),
        ({"self_training": True}, r"self_training must be in \[0, 1\], got True"),
    ],
)
def test_refused(options, message):
    with pytest.raises(InputError, match=message):
        FixedGraphLearner(**options)
