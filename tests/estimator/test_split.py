"""Sharing out labelled rows."""

import numpy as np
import pytest

from lds.errors import DataError
from lds.estimator._arrays import split_for_refit, split_labels


def target(*counts, unlabelled=4):
    classes = [-1] * unlabelled + [label for label, count in enumerate(counts) for _ in range(count)]
    return np.random.RandomState(0).permutation(classes)


def per_class(y, rows, classes):
    return [int((y[rows] == label).sum()) for label in range(classes)]


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.5, 0.67, 0.99])
@pytest.mark.parametrize("counts", [(2, 2), (1, 3), (4, 2, 1), (10, 20, 30), (5, 5, 5)])
@pytest.mark.parametrize("unlabelled", [0, 1, 2, 9])
def test_parts_are_disjoint_and_complete(counts, fraction, unlabelled):
    y = target(*counts, unlabelled=unlabelled)
    try:
        split = split_labels(y, fraction, 0)
    except DataError:
        assert sum(counts) - len(counts) < 3 or (fraction < 0.4 and not unlabelled)
        return
    refit = split_for_refit(split, y)
    for parts in (split, refit):
        assert all(len(part) for part in parts)
        used = np.concatenate(parts)
        assert len(np.unique(used)) == len(used)
        assert set(range(len(counts))) <= set(y[parts.train]), "every class is trained on"
        assert (y[parts.train] >= 0).all()
    labels = np.concatenate([split.train, split.val, split.es])
    assert len(labels) == sum(counts) - (unlabelled == 0)
    assert (y[labels] >= 0).all()
    assert len(refit.train) == sum(counts) - max(0, 3 - unlabelled)
    for part in (refit.val, refit.es, refit.test)[:unlabelled]:
        assert (y[part] == -1).all()


def test_it_is_stratified():
    y = target(8, 16, 4)
    split = split_labels(y, 0.5, 0)
    assert per_class(y, split.train, 3) == [4, 8, 2]
    assert per_class(y, split.val, 3) == per_class(y, split.es, 3) == [2, 4, 1]
    np.testing.assert_array_equal(split.test, np.flatnonzero(y == -1))


def test_the_spare_row_comes_from_the_largest_class():
    y = target(4, 16, 4, unlabelled=0)
    split = split_labels(y, 0.5, 0)
    assert y[split.test].tolist() == [1]
    assert per_class(y, split.train, 3) == [2, 8, 2]


def test_the_only_label_of_a_class_is_trained_on():
    y = target(1, 6)
    split = split_labels(y, 0.9, 0)
    assert per_class(y, split.train, 2) == [1, 1]


def test_the_seed_decides():
    y = target(10, 10)
    one, same, other = (split_labels(y, 0.5, seed) for seed in (0, 0, 1))
    for a, b in zip(one, same, strict=True):
        np.testing.assert_array_equal(a, b)
    assert set(one.train) != set(other.train)


@pytest.mark.parametrize(("counts", "unlabelled"), [((1, 1, 1), 9), ((2, 1, 1), 9), ((2, 2), 0)])
def test_too_few_labels(counts, unlabelled):
    found = f"{sum(counts)} labels of {len(counts)} classes came; label more rows"
    with pytest.raises(DataError, match=found):
        split_labels(target(*counts, unlabelled=unlabelled), 0.5, 0)
