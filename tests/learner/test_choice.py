"""Learners compared on held-out folds: what they see, what is chosen, and why."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lds.errors import DataError, InputError, NumericalError
from lds.graph import GivenGraph, KNNGraph
from lds.learner import Callback, FixedGraphLearner, StructureLearner, alternatives, choose
from lds.learner._choice import _chosen, _folds, _Means
from lds.updaters import SGD
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
    right, nodes = np.array([1.0, 1.0, 0.0, 1.0]), np.ones(4, bool)

    def chosen():
        return _chosen({name: _Means(loss, right) for name, loss in losses.items()}, nodes)

    found = chosen()
    assert found.name == "simple"
    difference = losses["simple"] - losses["better"]
    assert found.scores["simple"].excess == pytest.approx(difference.mean())
    assert found.scores["simple"].error == pytest.approx(difference.std(ddof=1) / 2)
    assert "within a standard error" in found.reason
    assert "of better, and it comes first of the two" in found.reason
    losses["better"] = losses["simple"] - 0.5
    found = chosen()
    assert found.name == "better"
    assert "lowest loss on 4 held-out nodes" in found.reason


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "folds must be an integer >= 2, got 1"),
        ({"repeats": 0}, "repeats must be an integer >= 1, got 0"),
        ({"costly": ["lds"]}, "costly must name some of the learners, got 'lds'"),
        ({"costly": ["none"]}, "costly must leave a learner to compare with, but names all"),
        ({"callbacks": [print]}, "callbacks must be objects of classes derived from"),
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


class Folds(Callback):
    """Keeps what it is told, and interrupts after so many."""

    def __init__(self, stop_after=None):
        self.records, self.stop_after = [], stop_after

    def on_fold(self, record):
        self.records.append(record)
        if len(self.records) == self.stop_after:
            raise KeyboardInterrupt


class Counting(Constant):
    """Counts its fits."""

    fits = 0

    def fit(self, data, *, seed=0):
        self.fits += 1
        return super().fit(data, seed=seed)


def tables(count, n=96):
    return torch.randn(count, n, 2, generator=torch.Generator().manual_seed(0))


def test_callbacks_are_told_of_every_learner_and_fold():
    data, told = blocks(n=96), Folds()
    choice = choose(data, {"one": Constant(tables(1)[0]), "other": Constant(tables(2)[1])}, folds=3, callbacks=[told])
    assert [(r.learner, r.fold, r.folds) for r in told.records] == [
        (n, f, 3) for f in (1, 2, 3) for n in ("one", "other")
    ]
    for name, score in choice.scores.items():
        losses = [loss for record in told.records if record.learner == name for loss in record.losses]
        right = [hit for record in told.records if record.learner == name for hit in record.right]
        assert (len(losses), np.mean(losses), np.mean(right)) == pytest.approx(
            (score.nodes, score.loss, score.accuracy)
        )


@pytest.mark.parametrize("stop_after", [1, 5, 8])
def test_a_comparison_goes_on(stop_after):
    data, logits, options = blocks(n=96), tables(2), {"folds": 2, "repeats": 2, "seed": 3}
    whole = choose(data, {"one": Constant(logits[0], 0.1), "other": Constant(logits[1], 0.1)}, **options)
    told = Folds(stop_after)
    with pytest.raises(KeyboardInterrupt):
        choose(data, {"one": Constant(logits[0], 0.1), "other": Constant(logits[1], 0.1)}, callbacks=[told], **options)
    learners = {"one": Counting(logits[0], 0.1), "other": Counting(logits[1], 0.1)}
    rest = Folds()
    assert choose(data, learners, resume=told.records, callbacks=[rest], **options) == whole
    assert sum(learner.fits for learner in learners.values()) == len(rest.records) == 8 - stop_after


def test_it_goes_on_with_the_same_folds_alone():
    data, learners, told = blocks(n=96), {"one": Constant(tables(1)[0])}, Folds()
    choose(data, learners, folds=3, callbacks=[told])
    for options in ({"folds": 4}, {"folds": 3, "seed": 1}):
        with pytest.raises(InputError, match="of the same folds, but fold 1 of one has other nodes; compare anew"):
            choose(data, learners, resume=told.records, **options)


def test_a_costly_learner_goes_on_only_while_it_leads():
    data = blocks(n=96)
    good, bad = (sign * 3 * torch.nn.functional.one_hot(data.y).double() for sign in (1, -1))
    for logits, fits in ((good, 4), (bad, 2)):
        learners = {"cheap": Counting(0 * good), "costly": Counting(logits)}
        choice = choose(data, learners, folds=4, repeats=2, costly=["costly"])
        assert (learners["cheap"].fits, learners["costly"].fits) == (8, fits)
        assert choice.name == ("costly" if logits is good else "cheap")
        seen = choice.scores["costly"].nodes
        assert seen == choice.nodes if logits is good else seen < 0.6 * choice.nodes
    # Best on what it has seen is not enough: its folds must be all.
    assert choice.scores["cheap"].nodes == choice.nodes == int((~data.test_mask).sum())


def test_what_is_not_finite_is_no_loss():
    learners = {"broken": Constant(torch.full((96, 2), torch.nan))}
    with pytest.raises(NumericalError, match="broken must give finite logits, but gave NaN or infinity on fold 1"):
        choose(blocks(n=96), learners, folds=3)


def test_alternatives():
    learner = StructureLearner(inner_lr=0.1, weight_decay=0.2, decay="all", inner_steps=7, updater=SGD(0.3), tau=3)
    knn, given = KNNGraph(4), GivenGraph()
    found = alternatives(learner, {"knn": knn, "given": given})
    plain = {"lr": 0.1, "weight_decay": 0.2, "decay": "all", "steps": 7, "updater": learner.updater}
    for name, graph in (("ffnn", None), ("knn-gcn", knn), ("gcn", given)):
        assert found.pop(name) == FixedGraphLearner(graph, **plain)
        assert found.pop(f"{name} (train+val)") == FixedGraphLearner(graph, train_on="train+val", **plain)
    assert found == {"lds": replace(learner, graph=given)}
    for graphs in ({}, {"tree": knn}):
        with pytest.raises(InputError, match='graphs must be some of "knn" and "given"'):
            alternatives(learner, graphs)
