"""A table with one line per node: which column is what."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lds.data.masks import INDICES
from lds.data.own._cells import ALL, Cells, Impute
from lds.data.prepare import name_fault
from lds.data.splits import MASKS
from lds.errors import DataError

_BITS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are what.

    Attributes:
        label: column of the labels.
        id: column of the nodes' names; None for "id" where there is such a column, "" for none.
        drop: columns to leave out.
        one_hot: columns of categories, which become columns of 0 and 1; ("all",) for those that hold texts.
        impute: "mean" puts the mean of a column into its gaps.
    """

    label: str = "label"
    id: str | None = None
    drop: tuple[str, ...] = ()
    one_hot: tuple[str, ...] = ()
    impute: Impute = "none"


@dataclass
class Nodes:
    """The nodes of a table.

    Attributes:
        parts: x, y, masks and node_names.
        names: number of every node by its name.
        matched: how nodes are told apart, in words.
        numbers: columns of features by their names, to find one that holds names of nodes.
    """

    parts: dict[str, Any]
    names: dict[str, int]
    matched: str
    numbers: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)


def read_table(path: Path, header: Sequence[str], rows: Iterable[tuple[int, Sequence[Any]]], wanted: Columns) -> Nodes:
    """Return the nodes of a table.

    Args:
        path: its file, for messages.
        header: names of the columns.
        rows: line numbers, and cells: texts, or values of Python.
        wanted: which column is what.

    Raises:
        DataError: a column or a cell is not what it must be.
    """
    columns = _header(path, header)
    target = _place(path, columns, wanted.label, "labels", "label")
    name = _place(path, columns, wanted.id, "names", "id") if wanted.id else None
    if wanted.id is None and "id" in columns and "id" not in wanted.drop:
        name = columns.index("id")
    masks = {mask: columns.index(mask) for mask in MASKS if mask in columns and mask not in wanted.drop}
    if wrong := [column for column in columns if column in INDICES and column not in wanted.drop]:
        raise DataError(
            f"{path} must say who is in which split with {', '.join(MASKS)}, but {wrong[0]} came; rename it"
        )
    dropped = {_place(path, columns, column, "values to leave out", "drop") for column in wanted.drop}
    apart = {target, name, *masks.values(), *dropped}
    features = [place for place in range(len(columns)) if place not in apart]
    labels: list[Any] = []
    names: dict[str, int] = {}
    selected = {mask: array("b") for mask in masks}
    if wanted.one_hot != (ALL,):
        for column in wanted.one_hot:
            if _place(path, columns, column, "categories", "one_hot") not in features:
                raise DataError(f"{path}: one_hot must name columns of features, but {column:.80} came; drop it")
    cells = Cells(path, [columns[place] for place in features], wanted.one_hot, wanted.impute)
    for number, row in rows:
        labels.append(row[target])
        key = str(len(names)) if name is None else str(row[name]).strip()
        if (what := f"{key!r:.80} came before" if key in names else name_fault(key)) is not None:
            raise DataError(f"{path}, line {number}: the name of a node must be its own, but {what}; rename it")
        names[key] = len(names)
        for mask, place in masks.items():
            selected[mask].append(_bit(path, number, mask, row[place]))
        cells.add(number, [row[place] for place in features])
    if not labels:
        raise DataError(f"{path} must have a line per node, but has only the names of columns; add some")
    found_x = cells.matrix(len(labels))
    x = None if found_x is None else torch.from_numpy(found_x)
    parts: dict[str, Any] = {"x": x, "y": labels, "num_nodes": len(labels)}
    for mask, bits in selected.items():
        parts[mask] = torch.tensor(bits, dtype=torch.bool)
    if name is None:
        found = {}
        if x is not None and x.shape[1] == len(features):  # No column became several.
            found = {columns[place]: x[:, at].numpy() for at, place in enumerate(features)}
        return Nodes(parts, names, "numbered from 0 by their lines", found if wanted.id is None else {})
    parts["node_names"] = list(names)
    return Nodes(parts, names, f"named by the column {columns[name]}")


def check_has_features(path: Path, parts: dict[str, Any], features: str) -> None:
    """Check that there are features, or others are made.

    Raises:
        DataError: there are none.
    """
    if parts.get("x") is None and features not in ("identity", "degree"):
        raise DataError(
            f"{path} must have columns of features, but has none; add some, or make them with features=identity or "
            "degree"
        )


def refuse_names_as_features(path: Path, nodes: Nodes, ends: Iterable[str], edges: Path) -> None:
    """Refuse nodes that are numbered by lines where a column of features holds names that the edges fit.

    Raises:
        DataError: there is such a column.
    """
    seen = set(ends)
    for column, values in nodes.numbers.items():
        if not (values == np.floor(values)).all() or len(np.unique(values)) < len(values):
            continue
        if seen <= {str(int(value)) for value in values.tolist()}:
            raise DataError(
                f"{path} must say which column names the nodes, since {column:.80} holds distinct integers that the "
                f"edges of {edges} fit; give id={column:.80} (--id {column:.80}), or id='' (--id '') to number "
                "the nodes by their lines"
            )


def _header(path: Path, header: Sequence[str]) -> list[str]:
    columns = [str(column).strip() for column in header]
    if not columns:
        raise DataError(f"{path} must begin with a line of column names, but is empty; write it again")
    if "" in columns:
        raise DataError(
            f"{path} must name every column, but column {columns.index('') + 1} has no name; name it, or, where it is "
            "the index of a pandas table, write the file again with to_csv(…, index=False)"
        )
    if repeated := [column for column, count in Counter(columns).items() if count > 1]:
        raise DataError(f"{path} must name every column once, but {repeated[0]!r:.80} came; rename it")
    return columns


def _place(path: Path, columns: Sequence[str], wanted: str, what: str, option: str) -> int:
    if wanted not in columns:
        found = ", ".join(f"{column:.80}" for column in columns[:20]) + (", …" if len(columns) > 20 else "")
        raise DataError(
            f"{path} must have a column {wanted!r} with the {what}, but has {found}; "
            f"name the right one with {option}, or what separates cells with sep"
        )
    return columns.index(wanted)


def _bit(path: Path, line: int, column: str, cell: Any) -> int:
    if (bit := _BITS.get(str(cell).strip().lower())) is None:
        raise DataError(
            f"{path}, line {line}: {column} must be 0 or 1, or False or True, but {cell!r:.80} came; correct it"
        )
    return bit
