"""The adjacency matrix of a graph, its nodes in the order of their classes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from numpy.typing import NDArray

from lds.report._learned_graph import Floats, Integers, Known
from lds.report._neighbourhood import Names
from lds.report._page import Picture
from lds.report._svg import INK, SERIES, canvas, picture, short
from lds.run._reader import SavedGraph

# Squares a side, and shades: enough to see blocks, and few enough for a page.
_SIDE, _SHADES = 60, 6
# More classes than these have no room for names.
_NAMED = 20


def adjacency_figures(learned: SavedGraph, known: Known, name: str, names: Names) -> list[Picture]:
    """Return the matrices of the initial and of the learned graph, on one scale of shades."""
    before = _binned(known, known.initial, np.ones(known.initial.shape[1]))
    after = _binned(known, learned.pairs, learned.probability)
    most = max(before.max(), after.max())
    note = "Nodes in the order of their classes, lines between classes; the darker, the more edges between two groups."
    shares = [
        _between(known, pairs, weights)
        for pairs, weights in ((known.initial, np.ones(known.initial.shape[1])), (learned.pairs, learned.probability))
    ]
    return [
        _matrix(before, shares[0], most, known, f"{name}-adjacency-initial", "Initial graph by class", names, ""),
        _matrix(after, shares[1], most, known, f"{name}-adjacency-learned", "Learned graph by class", names, note),
    ]


def _binned(known: Known, pairs: Integers, weights: Floats) -> Floats:
    """Return the expected number of edges a pair of nodes, between groups of nodes in the order of their classes."""
    count = known.labels.size
    side = min(_SIDE, count)
    rank = np.empty(count, dtype=np.int64)
    rank[np.argsort(known.labels, kind="stable")] = np.arange(count)
    group = rank * side // count
    sums = np.zeros((side, side))
    i, j = group[pairs]
    np.add.at(sums, (i, j), weights)
    np.add.at(sums, (j, i), weights)
    size = np.bincount(group, minlength=side).astype(np.float64)
    return np.asarray(sums / np.outer(size, size), dtype=np.float64)


def _between(known: Known, pairs: Integers, weights: Floats) -> Floats:
    """Return the share of the pairs of nodes of two classes that are edges, expected, for each two classes."""
    labels, group, size = np.unique(known.labels, return_inverse=True, return_counts=True)
    sums = np.zeros((labels.size, labels.size))
    i, j = group[pairs]
    np.add.at(sums, (i, j), weights)
    sums = sums + sums.T  # Each edge within a class is counted twice now, as each pair of its nodes is.
    count = np.outer(size, size) - np.diag(size)
    return np.asarray(sums / np.maximum(count, 1), dtype=np.float64)


def _matrix(
    cells: Floats, shares: Floats, most: float, known: Known, name: str, title: str, names: Names, note: str
) -> Picture:
    side = len(cells)
    # By the root, or the blocks of a sparse graph would be all that shows.
    shade = np.ceil(np.sqrt(cells / most) * _SHADES).astype(np.int64) if most > 0 else np.zeros(cells.shape, np.int64)
    labels, ends = np.unique(np.sort(known.labels), return_index=True)
    bounds = [*(ends * side / known.labels.size), float(side)]
    with canvas("", "", (4.6, 4.6)) as (figure, axes):
        axes.grid(visible=False)
        axes.set(xlim=(0, side), ylim=(side, 0), aspect="equal")
        for level in range(1, _SHADES + 1):
            path = _squares(shade == level)
            if path is not None:
                axes.add_patch(PathPatch(path, facecolor=SERIES[0], alpha=level / _SHADES, linewidth=0))
        for bound in bounds[1:-1]:
            axes.axhline(bound, color=INK, linewidth=0.5, alpha=0.6)
            axes.axvline(bound, color=INK, linewidth=0.5, alpha=0.6)
        middles = [(low + high) / 2 for low, high in pairwise(bounds)]
        texts = [short(names.label(int(label)), 12) for label in labels] if len(labels) <= _NAMED else []
        shown = middles[: len(texts)]
        turned = any(len(text) > 3 for text in texts)
        axes.set_xticks(shown, texts, rotation=45 if turned else 0, ha="right" if turned else "center")
        axes.set_yticks(shown, texts)
        axes.tick_params(length=0)
        called = [names.label(int(label)) for label in labels]
        places = enumerate(middles) if len(labels) <= _NAMED else ()
        points = [
            (x, y, f"classes {called[row]} and {called[column]}: {shares[row, column]:.2%} of the pairs are edges")
            for row, y in places
            for column, x in enumerate(middles)
        ]
        return picture(figure, name, title, f"{title}: adjacency matrix", note, points=points)


def _squares(where: NDArray[np.bool_]) -> Path | None:
    """Return squares as one path; those side by side in a row are one rectangle, for the sake of the size of a page."""
    corners = []
    for y, row in enumerate(where):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], row, [False]]).astype(np.int8)))
        for left, right in edges.reshape(-1, 2):
            corners += [(left, y), (right, y), (right, y + 1), (left, y + 1), (left, y)]
    if not corners:
        return None
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * (len(corners) // 5)
    return Path(np.array(corners, dtype=np.float64), codes)
