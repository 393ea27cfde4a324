"""From the arrays of a classifier to data that a learner takes: classes, who is trained on, features and edges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse
import torch
from sklearn.utils import check_array
from torch import Tensor

from lds._sparse import from_scipy
from lds.data import MASKS
from lds.data.labels import encode
from lds.errors import DataError, InputError

if TYPE_CHECKING:
    from torch_geometric.data import Data

Indices = npt.NDArray[np.int64]


def classes_of(y: Any) -> tuple[npt.NDArray[Any], Indices]:
    """Return the classes as they came in y, and the class number of every row, -1 where unlabelled.

    Raises:
        DataError: the labels are none, see `lds.data.labels.encode`, or of fewer than 2 classes.
    """
    numbers = encode(y).numbers.numpy()
    present, first = np.unique(numbers, return_index=True)
    present, first = present[present >= 0], first[present >= 0]
    if not len(present):
        raise DataError("y must have labels of at least 2 classes, but every row is -1, unlabelled; label some rows")
    values = _values(y)
    classes = values[first]
    if classes.dtype == object and all(isinstance(name, str) for name in classes):
        classes = np.array([name.strip() for name in classes], dtype=object)
    if len(classes) < 2:
        raise DataError(
            f"y must have labels of at least 2 classes, but 1 class came, {classes[0]!r} (-1 marks unlabelled rows); "
            "label rows of another class"
        )
    target = np.full(len(numbers), -1, np.int64)
    target[numbers >= 0] = np.searchsorted(present, numbers[numbers >= 0])
    return classes, target


def _values(y: Any) -> npt.NDArray[Any]:
    """Return labels in an array of numpy, texts and what may be missing as objects."""
    if isinstance(y, torch.Tensor):
        y = y.detach().cpu().numpy()
    array = y if isinstance(y, np.ndarray) else np.asarray(y)
    if array.dtype.kind not in "biufUO":
        array = np.asarray(y, dtype=object)
    if array.ndim == 2:
        return array[:, 0] if array.shape[1] == 1 else array.argmax(1)
    return array


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
            f"y must have at least {needed} labels more than needed for one per class, to validate and to stop early, "
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


def make_data(X: Any, target: Indices, split: Split, classes: int) -> Data:
    """Return data without edges; X is dense or CSR, of shape [N, F]."""
    from torch_geometric.data import Data

    # Masks may select labelled nodes only. Where these rows are unlabelled nothing looks at their label.
    labels = torch.from_numpy(target.clip(min=0))
    return Data(x=_tensor(X), y=labels, num_nodes=len(target), num_classes=classes, **masks(split, len(target)))


def masks(split: Split, rows: int) -> dict[str, Tensor]:
    """Return the parts of a split as masks, bool of shape [N]."""
    made = {}
    for name, part in zip(MASKS, split, strict=True):
        made[name] = torch.zeros(rows, dtype=torch.bool)
        made[name][torch.from_numpy(part)] = True
    return made


def edge_index(graph: Any, rows: int) -> Tensor:
    """Return the edges of an adjacency, int64 of shape [2, E].

    Raises:
        InputError: it has another shape, a negative entry, or no edges.
    """
    graph = check_array(graph, accept_sparse="csr", input_name="graph", ensure_min_samples=0, ensure_min_features=0)
    if graph.shape != (rows, rows):
        raise InputError(
            f"graph must be an adjacency of shape {(rows, rows)}, one row per row of X, but {graph.shape} came; "
            "take the part of it that belongs to these rows"
        )
    graph = scipy.sparse.coo_array(graph)
    off = (graph.row != graph.col) & (graph.data != 0)
    if (graph.data < 0).any():
        raise InputError(
            f"graph must have no negative entries, but {graph.data.min()} came; drop or shift these weights"
        )
    if not off.any():
        raise InputError("graph must join two rows at least, but it has no edges; leave it out for a kNN graph")
    return torch.from_numpy(np.stack([graph.row[off], graph.col[off]]).astype(np.int64))


def _tensor(X: Any) -> Tensor:
    # A copy: the caller's memory may be read-only.
    if isinstance(X, np.ndarray):
        return torch.tensor(X)
    X = X.copy()
    X.sum_duplicates()
    return from_scipy(X)
