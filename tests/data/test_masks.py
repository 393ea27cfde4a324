"""Masks that a user's own data lacks."""

import pytest
import torch
from torch_geometric.data import Data

from lds.data import MASKS, complete_masks
from lds.errors import DataError

# Three classes of 60, 30 and 10 nodes, and 20 without a label.
Y = torch.cat([torch.full((60,), 0), torch.full((30,), 1), torch.full((10,), 2), torch.full((20,), -1)])


def counts(mask, y=Y):
    return [int((mask & (y == label)).sum()) for label in (0, 1, 2, -1)]


def test_ten_percent_each_in_the_proportions_of_the_classes():
    masks = complete_masks(Data(y=Y))
    assert tuple(masks) == MASKS
    assert [counts(masks[name]) for name in MASKS[:3]] == [[6, 3, 1, 0]] * 3
    assert counts(masks["test_mask"]) == [42, 21, 7, 0]
    assert int(sum(mask.int() for mask in masks.values()).max()) == 1


def test_sizes():
    masks = complete_masks(Data(y=Y), train_size=20, val_size=5, es_size=1)
    assert [int(masks[name].sum()) for name in MASKS] == [20, 5, 1, 74]
    assert counts(masks["train_mask"]) == [12, 6, 2, 0]


def test_the_seed_decides():
    first, again, other = (complete_masks(Data(y=Y), seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in MASKS)
    assert not torch.equal(first["train_mask"], other["train_mask"])


@pytest.mark.parametrize("sizes", [(200, 3, 1), (100, 1, 1), (1, 1, 100)])
def test_a_rare_class_is_trained_on(sizes):
    y = torch.cat([torch.full((count,), label) for label, count in enumerate(sizes)])
    for size in (3, 4, 10):
        masks = complete_masks(Data(y=y), train_size=size)
        assert set(y[masks["train_mask"]].tolist()) == {0, 1, 2}
        assert int(masks["train_mask"].sum()) == size


def test_every_node_may_be_used():
    y = torch.tensor([0, 0, 0, 0, 1, 1])
    masks = complete_masks(Data(y=y), train_size=2, val_size=2, es_size=1)
    assert [int(masks[name].sum()) for name in MASKS] == [2, 2, 1, 1]


def some(*names, at=0):
    masks = {}
    for place, name in enumerate(names):
        masks[name] = torch.zeros(len(Y), dtype=torch.bool)
        masks[name][at + 10 * place : at + 10 * place + 5] = True
    return masks


def test_four_masks_stay():
    masks = some(*MASKS)
    assert all(complete_masks(Data(y=Y, **masks))[name] is masks[name] for name in MASKS)


def test_es_is_half_of_val():
    masks = some("train_mask", "val_mask", "test_mask")
    found = complete_masks(Data(y=Y, **masks), seed=3)
    assert (int(found["val_mask"].sum()), int(found["es_mask"].sum())) == (2, 3)
    assert torch.equal(found["val_mask"] | found["es_mask"], masks["val_mask"])
    assert not (found["val_mask"] & found["es_mask"]).any()
    assert found["train_mask"] is masks["train_mask"]


@pytest.mark.parametrize(
    ("masks", "sizes", "message"),
    [
        (("train_mask",), {}, "val_mask and es_mask and test_mask are missing; add or drop masks"),
        (("train_mask", "val_mask", "es_mask"), {}, "but test_mask is missing"),
        (MASKS, {"val_size": 3}, "the data brings train_mask, .*, so its split is made, but val_size came; drop one"),
        ((), {"train_size": 2}, "train_size must be at least 3 for 3 classes, got 2"),
        ((), {"es_size": 0}, "es_size must be at least 1 for 3 classes, got 0"),
        ((), {"val_size": -1}, "val_size must be at least 1"),
        ((), {"val_size": 80}, "needs 101 labelled nodes, but 100 came; label more nodes, or lower the sizes"),
    ],
)
def test_refused(masks, sizes, message):
    with pytest.raises(DataError, match=message):
        complete_masks(Data(y=Y, **some(*masks)), **sizes)


@pytest.mark.parametrize("mask", [torch.arange(120) == 3, torch.zeros(120, 10, dtype=torch.bool), torch.arange(120)])
def test_a_val_mask_that_cannot_be_halved(mask):
    masks = some("train_mask", "test_mask") | {"val_mask": mask}
    with pytest.raises(DataError, match="val_mask must"):
        complete_masks(Data(y=Y, **masks))


def test_too_few_labels():
    with pytest.raises(DataError, match="needs 7 labelled nodes, but 5 came"):
        complete_masks(Data(y=torch.tensor([0, 0, 0, 1, 1, -1])))
