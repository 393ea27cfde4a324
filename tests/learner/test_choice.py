"""Learners compared on held-out folds: what they see, what is chosen, and why."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lds.errors import DataError, InputError
from lds.learner import FixedGraphLearner, choose
from lds.learner._choice import _chosen, _folds
from tests.learner.problems import blocks

MASKS = ("train_mask", "val_mask", "es_mask", "test_mask")
QUICK = {"steps": 30, "train_on": "train+val"}


def test_every_labelled_node_is_held_out_once():
    data = blocks(n=96)
    labelled = data.train_mask | data.val_mask | data.es_mask
    found = _folds(data, 4, seed=1)
    assert torch.equal(sum(masks["test_mask"].long() for masks in found), labelled.long())
    for masks in found:
        assert torch.equal(sum(masks[name].long() for name in MASKS), labelled.long())
        held = data.y[masks["test_mask"]].bincount()
        assert int(held.max() - held.min()) <= 2  # Class by class.
        sizes = [int(masks[name].sum()) for name in MASKS[:3]]
        wanted = [0.75 * int(data[name].sum()) for name in MASKS[:3]]
        assert all(abs(size - want) <= 2 for size, want in zip(sizes, wanted, strict=True))
    assert not torch.equal(found[0]["test_mask"], _folds(data, 4, seed=2)[0]["test_mask"])


def test_test_labels_play_no_part():
    data, other = blocks(n=96), blocks(n=96)
    other.y = torch.where(other.test_mask, 1 - other.y, other.y)
    learners = {"none": FixedGraphLearner(None, **QUICK), "graph": FixedGraphLearner(**QUICK)}
    assert choose(data, learners, folds=3, seed=1) == choose(other, learners, folds=3, seed=1)


def test_a_graph_is_chosen_where_it_helps_and_none_where_it_does_not():
    learners = {
        "none": FixedGraphLearner(None, steps=100, train_on="train+val"),
        "graph": FixedGraphLearner(steps=100, train_on="train+val"),
    }
    good = choose(blocks(n=96, wrong=0.0, noise=1.5), learners)
    assert good.name == "graph"
    assert good.nodes == int((~blocks(n=96).test_mask).sum())
    assert good.reason.startswith("graph is chosen: it has the lowest loss on")
    bad = choose(blocks(n=96, wrong=1.0, noise=0.3), learners)
    assert bad.name == "none"


class Constant:
    """Gives the logits of a table, whatever the folds; every fit may add noise of its own."""

    def __init__(self, logits, noise=0.0):
        self.logits, self.noise = logits, noise

    def fit(self, data, *, seed=0):
        drawn = torch.randn(self.logits.shape, generator=torch.Generator().manual_seed(seed))
        return SimpleNamespace(logits=self.logits + self.noise * drawn)


def test_repeats_of_the_same_nodes_are_not_more_nodes():
    data = blocks(n=96)
    first, second = torch.randn(2, 96, 2, generator=torch.Generator().manual_seed(0))
    learners = {"one": Constant(first), "other": Constant(second)}
    once, often = (choose(data, learners, folds=3, repeats=repeats) for repeats in (1, 4))
    assert often.nodes == once.nodes == int((~data.test_mask).sum())
    for name in learners:
        # What does not change from repeat to repeat is known no better after four.
        assert vars(often.scores[name]) == pytest.approx(vars(once.scores[name]))
    # What does is averaged away.
    noisy = {"one": Constant(first), "other": Constant(first, noise=0.1)}
    errors = [max(s.error for s in choose(data, noisy, folds=3, repeats=r).scores.values()) for r in (1, 16)]
    assert errors[1] < 0.5 * errors[0]


def test_the_simplest_of_those_that_cannot_be_told_apart():
    losses = {"simple": np.array([1.0, 2.0, 3.0, 2.1]), "better": np.array([1.2, 1.7, 3.1, 1.8])}
    right = {name: np.array([True, True, False, True]) for name in losses}
    found = _chosen(losses, right)
    assert found.name == "simple"
    difference = losses["simple"] - losses["better"]
    assert found.scores["simple"].excess == pytest.approx(difference.mean())
    assert found.scores["simple"].error == pytest.approx(difference.std(ddof=1) / 2)
    assert "within a standard error" in found.reason
    assert "of better, and it is simpler" in found.reason
    losses["better"] = losses["simple"] - 0.5
    found = _chosen(losses, right)
    assert found.name == "better"
    assert "lowest loss on 4 held-out nodes" in found.reason


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "folds must be an integer >= 2, got 1"),
        ({"repeats": 0}, "repeats must be an integer >= 1, got 0"),
    ],
)
def test_refused(options, message):
    with pytest.raises(InputError, match=message):
        choose(blocks(), {"none": FixedGraphLearner(None)}, **options)


def test_nothing_to_compare():
    with pytest.raises(InputError, match="name two or more"):
        choose(blocks(), {})
    data = blocks(n=8, isolated=0)
    with pytest.raises(DataError, match="label more nodes or take fewer folds"):
        choose(data, {"none": FixedGraphLearner(None)}, folds=7)
