"""How the labelled rows are shared out between training, validation and early stopping."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lds.errors import DataError

Indices = npt.NDArray[np.int64]


class Split(NamedTuple):
    """Row numbers of the four parts, disjoint and not empty: `test` is what the learner makes no use of."""

    train: Indices
    val: Indices
    es: Indices
    test: Indices


def split_labels(target: npt.NDArray[Any], fraction: float, seed: int) -> Split:
    """Share out the labelled rows, class by class and at random.

    Of m labels of a class, `fraction`·m are held out, rounded half up, at least one and at most m − 1; so the only
    label of a class is trained on. Held-out rows go to validation and early stopping in turn, one class after the
    other. `test` is the unlabelled rows; where there are none, one held-out row of the class with most of them.

    Args:
        target: class numbers, -1 where unlabelled, shape [N].
        fraction: share of the labelled rows that is held out.
        seed: seed of the order in which the rows of a class are taken.

    Raises:
        DataError: too few labels to hold out one row for each purpose.
    """
    generator = np.random.default_rng(seed)
    train, held = [], []
    for label in range(int(target.max()) + 1):
        rows = generator.permutation(np.flatnonzero(target == label))
        count = min(max(int(fraction * len(rows) + 0.5), 1), len(rows) - 1)
        held.append(rows[:count])
        train.append(rows[count:])
    test = np.flatnonzero(target == -1)
    needed, found = 2 + (len(test) == 0), sum(map(len, held))
    if found < needed:
        raise DataError(
            f"y must have at least {needed} labels more than needed for one a class, to validate and to stop early, "
            f"but {len(np.concatenate(train)) + found} labels of {len(held)} classes came; label more rows"
        )
    if not len(test):
        largest = int(np.argmax([len(rows) for rows in held]))
        test, held[largest] = held[largest][:1], held[largest][1:]
    order = np.concatenate(held)
    return Split(np.concatenate(train), order[::2], order[1::2], test)


def split_for_refit(split: Split, target: npt.NDArray[Any]) -> Split:
    """Return a split that trains on every labelled row, but for those that must stand in for unlabelled ones.

    The learner asks for a row in each part; without three unlabelled rows, held-out rows take these places.
    """
    held = np.concatenate([split.test, split.es, split.val])
    spare = np.concatenate([np.flatnonzero(target == -1), held[target[held] >= 0]])[:3]
    train = np.setdiff1d(np.flatnonzero(target >= 0), spare)
    return Split(train, spare[:1], spare[1:2], spare[2:])
