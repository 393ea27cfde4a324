"""Rotating folds, and new networks on the learned structure."""

import pytest
import torch

from lds.errors import InputError
from lds.graph import CandidatePairs
from lds.learner import Callback, StructureLearner
from lds.learner._task import Task
from lds.nn import GCN
from tests.learner.problems import blocks
from tests.oracles import same_bits

SHORT = {"tau": 2, "inner_steps": 10, "max_epochs": 3, "samples": 2}


def test_folds_share_out_the_same_nodes_class_by_class():
    data = blocks(classes=3)
    task = Task(data, GCN, 0.0)
    union = torch.cat([task.nodes["train"], task.nodes["val"]]).sort().values
    found = [task.folds(seed) for seed in range(5)]
    for folds in found:
        assert torch.equal(torch.cat([folds["train"], folds["val"]]).sort().values, union)
        for part in ("train", "val"):
            assert torch.equal(data.y[folds[part]].bincount(), data.y[task.nodes[part]].bincount())
    assert same_bits(found[0], task.folds(0))
    assert len({tuple(folds["train"].tolist()) for folds in found}) > 1


def test_the_first_epoch_is_one_with_these_masks(monkeypatch):
    """An epoch with rotated folds has the bits of one on data that is split so."""
    seen = []
    folds = Task.folds
    monkeypatch.setattr(Task, "folds", lambda *a: seen.append(folds(*a)) or seen[-1])
    fit = StructureLearner(**SHORT | {"max_epochs": 1}, folds="rotating").fit(blocks(), seed=3)
    data = blocks()
    for part, nodes in seen[0].items():
        data[f"{part}_mask"] = torch.zeros(48, dtype=torch.bool)
        data[f"{part}_mask"][nodes] = True
    expected = StructureLearner(**SHORT | {"max_epochs": 1}).fit(data, seed=3)
    assert torch.equal(fit.structure.state(), expected.structure.state())
    assert torch.equal(fit.logits, expected.logits)
    # The splits of the fit are those of the data again.
    nodes = blocks().val_mask
    assert fit.accuracy("val") == float((fit.predict() == blocks().y)[nodes].double().mean())


class Keep(Callback):
    """Keeps what to resume from in the middle of an epoch."""

    def __init__(self, step):
        self.step, self.count, self.values = step, 0, None

    def on_resumable(self, dump):
        self.count += 1
        if self.count == self.step:
            self.values = dump()


@pytest.mark.parametrize("step", [1, 3, 7])
def test_resumed_to_the_same_bits(step):
    learner = StructureLearner(**SHORT, folds="rotating", refit=2)
    keep = Keep(step)
    whole = learner.fit(blocks(), seed=1, callbacks=[keep])
    again = learner.fit(blocks(), seed=1, resume=keep.values)
    assert torch.equal(whole.structure.state(), again.structure.state())
    assert torch.equal(whole.logits, again.logits)
    assert same_bits(whole.params, again.params)


@pytest.mark.parametrize(("seed", "better"), [(0, True), (3, True), (2, False)])
def test_refit_leaves_the_structure_and_is_kept_where_the_early_stopping_nodes_say_so(seed, better):
    options = SHORT | {"inner_steps": 60}
    plain, fit = (StructureLearner(**options, refit=n).fit(blocks(), seed=seed) for n in (0, 3))
    assert torch.equal(plain.structure.state(), fit.structure.state())
    assert plain.history == fit.history
    ours, before = ((x.accuracy("es"), -x.loss("es")) for x in (fit, plain))
    assert ours > before if better else torch.equal(plain.logits, fit.logits)


def test_refit_is_a_mean_over_networks():
    one, two = (StructureLearner(**SHORT, refit=n).fit(blocks(), seed=1) for n in (1, 2))
    # The second network alone: what the mean of two has more than half of the first.
    second = 2 * two.logits - one.logits
    assert not torch.allclose(second, one.logits)
    edges = {"edges": CandidatePairs}
    fixed = StructureLearner(**SHORT, **edges, refit=1, outer_lr=0.0).fit(blocks(), seed=1)
    task = Task(blocks(), GCN, 5e-4)
    torch.testing.assert_close(task.mean_logits(fixed.params, fixed.structure.draw, 2), fixed.logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": "five"}, 'folds must be "fixed" or "rotating", got \'five\''),
        ({"refit": -1}, "refit must be an integer >= 0, got -1"),
        ({"refit": True}, "refit must be an integer >= 0, got True"),
        ({"self_training": 0.5}, "self_training needs refit, networks to train on pseudo-labels, but refit is 0"),
        ({"self_training": 1.5, "refit": 1}, r"self_training must be in \[0, 1\], got 1.5"),
        ({"folds": "rotating", "learn_structure": False}, "needs learn_structure=True"),
    ],
)
def test_refused(options, message):
    with pytest.raises(InputError, match=message):
        StructureLearner(**options)
