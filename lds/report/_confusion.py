"""What a run says of the test nodes, class by class: a confusion matrix and a table."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from lds._read import read_text
from lds.errors import DataError
from lds.report._numbers import NONE, count, percent
from lds.report._page import Block, Picture, Pictures, Table, Text
from lds.report._svg import INK, PAPER, SERIES, canvas, picture, short
from lds.run._reader import PREDICTIONS_TABLE

# More classes than these have no room for numbers, or names.
_NUMBERED, _NAMED = 12, 30
# And more than these are no classes.
_MOST = 300
_NEEDED = ("split", "label", "predicted")


def confusion(folder: Path, name: str, names: Sequence[str] | None) -> list[Block]:
    """Return the confusion matrix of the test nodes and the accuracy of each class.

    Args:
        folder: of the run.
        name: prefix of the ids.
        names: the names of the classes, in their order; by their numbers when None.

    Raises:
        DataError: predictions.csv is malformed.
    """
    path = folder / PREDICTIONS_TABLE
    if not path.exists():
        return [Text("The folder holds no predictions.csv, so there is nothing to say class by class.")]
    pairs = _read(path)
    if not pairs:
        return [Text("No test node has a label, so there is nothing to say class by class.")]
    found = {label for pair in pairs for label in pair}
    if len(found) > _MOST:
        return [Text(f"The test nodes have {len(found)} classes, too many to be shown one by one.")]
    classes = [label for label in names or [] if label in found]
    classes += sorted(found - set(classes), key=lambda label: (not label.isdecimal(), label.zfill(9)))
    place = {label: number for number, label in enumerate(classes)}
    table = np.zeros((len(classes), len(classes)), dtype=np.int64)
    for pair, times in Counter(pairs).items():
        table[place[pair[0]], place[pair[1]]] = times
    right, true, said = table.diagonal(), table.sum(1), table.sum(0)
    rows = [
        [label, count(int(true[c])), count(int(right[c])), _share(right[c], true[c]), _share(right[c], said[c])]
        for c, label in enumerate(classes)
    ]
    rows.append(["all", count(len(pairs)), count(int(right.sum())), _share(right.sum(), len(pairs)), ""])
    note = (
        "Accuracy of a class, its recall: the share of its test nodes that are given this class. Precision: the share "
        "of the test nodes given this class that are of it."
    )
    header = ("class", "test nodes", "right", "accuracy", "precision")
    return [Pictures([_matrix(table, classes, name)]), Table("Accuracy by class", header, rows, note)]


def _read(path: Path) -> list[tuple[str, str]]:
    """Return label and prediction of the test nodes that have a label."""
    lines = csv.reader(read_text(path).splitlines())
    try:
        header = next(lines, [])
        if missing := [name for name in _NEEDED if name not in header]:
            raise DataError(
                f"{path}:1 needs the columns {', '.join(_NEEDED)}, but lacks {', '.join(missing)}; run again"
            )
        split, label, predicted = (header.index(name) for name in _NEEDED)
        pairs = []
        for line in lines:
            if len(line) != len(header):
                raise DataError(
                    f"{path}:{lines.line_num} needs {len(header)} cells, as the header has, but holds {len(line)}; "
                    "run again"
                )
            if line[split] == "test" and line[label] != "":
                pairs.append((line[label], line[predicted]))
    except csv.Error as error:
        raise DataError(f"{path}:{lines.line_num} must be CSV, but {error}; run again") from error
    return pairs


def _share(part: int, whole: int) -> str:
    return percent(float(part) / float(whole)) if whole else NONE


def _matrix(table: NDArray[np.int64], classes: Sequence[str], name: str) -> Picture:
    size = len(classes)
    # By the share of a class, so that a small one shows as well.
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    points = []
    with canvas("predicted class", "class", (4.6, 4.6)) as (figure, axes):
        axes.grid(visible=False)
        axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal")
        for row, column in np.argwhere(table):
            share, times = float(shares[row, column]), int(table[row, column])
            colour = SERIES[0] if row == column else SERIES[1]
            # Squares, and no image, which would have the colours of one scheme.
            corner = (column - 0.5, row - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, facecolor=colour, alpha=0.12 + 0.88 * share, linewidth=0))
            if size <= _NUMBERED:
                ink = PAPER if share > 0.5 else INK
                axes.text(column, row, str(times), ha="center", va="center", color=ink, fontsize=8)
            said = f"class {classes[row]}, predicted {classes[column]}: {times} ({percent(share)} of the class)"
            points.append((float(column), float(row), said))
        ticks = range(size) if size <= _NAMED else []
        labels = [short(classes[tick], 12) for tick in ticks]
        turned = any(len(label) > 3 for label in labels) or size > _NUMBERED
        axes.set_xticks(ticks, labels, rotation=45 if turned else 0, ha="right" if turned else "center")
        axes.set_yticks(ticks, labels)
        text = (
            "Rows are the classes of the test nodes, columns what the model says. Colour tells the share of the class."
        )
        return picture(figure, name, "Confusion matrix", "Confusion matrix of the test nodes", text, points=points)
