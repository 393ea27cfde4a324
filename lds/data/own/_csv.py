"""A table with one line per node."""

from __future__ import annotations

import csv
import math
import os
from array import array
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lds._files import open_file
from lds.data.own._parts import name_fault, numbered
from lds.data.splits import MASKS
from lds.errors import DataError

if TYPE_CHECKING:
    from torch_geometric.data import Data

_BITS = {"0": 0, "1": 1, "false": 0, "true": 1}


def read_csv(path: Path, label: str | None, id: str | None, edges: str | os.PathLike[str] | None) -> Data:
    """Return features, labels, edges and masks; arguments as for `lds.data.read`.

    Raises:
        DataError: a file is malformed.
        OSError: the file cannot be read.
    """
    with closing(_lines(path)) as lines:
        data, names = _nodes(path, lines, label, id)
    if edges is not None:
        data.edge_index = _edges(Path(edges), names)
    return data


def _nodes(
    path: Path, lines: Iterator[tuple[int, list[str]]], label: str | None, id: str | None
) -> tuple[Data, dict[str, int]]:
    """Return features, labels and masks, and the numbers of the nodes by their names."""
    from torch_geometric.data import Data

    columns = _header(path, lines)
    target = _place(path, columns, "label" if label is None else label, "labels", "label")
    name = _place(path, columns, id, "names", "id") if id is not None else None
    if id is None and "id" in columns:
        name = columns.index("id")
    masks = {mask: columns.index(mask) for mask in MASKS if mask in columns}
    apart = {target, name, *masks.values()}
    features = [place for place in range(len(columns)) if place not in apart]
    if not features:
        raise DataError(f"{path} must have columns of features, but has only {', '.join(columns):.80}; add some")
    labels: list[str] = []
    names: dict[str, int] = {}
    # 8 bytes a number, as against 32 for one of a list.
    values, selected = array("d"), {mask: array("b") for mask in masks}
    for number, row in lines:
        labels.append(row[target])
        key = str(len(names)) if name is None else row[name].strip()
        if (what := f"{key!r:.80} came before" if key in names else name_fault(key)) is not None:
            raise DataError(f"{path}, line {number}: the name of a node must be its own, but {what}; rename it")
        names[key] = len(names)
        for mask, place in masks.items():
            selected[mask].append(_bit(path, number, mask, row[place]))
        values.extend(_number(path, number, columns[place], row[place]) for place in features)
    if not labels:
        raise DataError(f"{path} must have a line a node, but has only the names of columns; add some")
    y, classes = numbered(labels)
    data = Data(x=torch.tensor(values, dtype=torch.float64).view(len(labels), -1), y=y, class_names=classes)
    for mask, bits in selected.items():
        data[mask] = torch.tensor(bits, dtype=torch.bool)
    if name is not None:
        data.node_names = list(names)
    return data, names


def _edges(path: Path, names: dict[str, int]) -> torch.Tensor:
    try:
        with closing(_lines(path)) as lines:
            found = _pairs(path, lines, names)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check the path and its rights") from error
    return torch.tensor(found, dtype=torch.int64).view(-1, 2).T.contiguous()


def _pairs(path: Path, lines: Iterator[tuple[int, list[str]]], names: dict[str, int]) -> array[int]:
    columns = _header(path, lines)
    if len(columns) < 2 or columns[2:] not in ([], ["weight"]):
        raise DataError(
            f"{path} must have two columns, the nodes of an edge, and may have a third, weight, "
            f"but has {', '.join(columns):.80}; drop all else"
        )
    if all(column in names for column in columns[:2]):
        raise DataError(f"{path} must begin with two column names, such as source,target, but begins with an edge")
    found = array("q")
    for number, (source, target, *weight) in lines:
        if weight and not _is_one(weight[0]):
            raise DataError(
                f"{path}, line {number}: weight must be 1, since every edge starts with probability 1, but "
                f"{weight[0]!r:.80} came; keep the edges that count and drop the column, or export with --sample"
            )
        for node in (source, target):
            if node.strip() not in names:
                first, last = next(iter(names)), next(reversed(names))
                raise DataError(
                    f"{path}, line {number}: {node!r:.80} must be one of the {len(names)} nodes, {first:.80} … "
                    f"{last:.80}; correct it, or name the column of the nodes' names with id"
                )
            found.append(names[node.strip()])
    return found


def _is_one(cell: str) -> bool:
    try:
        return float(cell) == 1
    except ValueError:
        return False


def _lines(path: Path) -> Generator[tuple[int, list[str]], None, None]:
    """Yield line numbers and cells, without empty lines; every line has as many cells as the first."""
    width = None
    # utf-8-sig: spreadsheets put a byte order mark in front.
    with os.fdopen(open_file(path, os.O_RDONLY, links=True), encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            for row in reader:
                if not row:
                    continue
                width = len(row) if width is None else width
                if len(row) != width:
                    raise DataError(
                        f"{path}, line {reader.line_num}: a line must have {width} cells, as the first has, "
                        f"but {len(row)} came; mend it"
                    )
                yield reader.line_num, row
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(
                f"{path}, after line {reader.line_num}: must be text in UTF-8 with commas between cells, but {error}; "
                "save it again as such"
            ) from error


def _header(path: Path, lines: Iterator[tuple[int, list[str]]]) -> list[str]:
    _, columns = next(lines, (0, []))
    columns = [column.strip() for column in columns]
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
            f"name the right one with {option}, and put commas between cells"
        )
    return columns.index(wanted)


def _number(path: Path, line: int, column: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(
            f"{path}, line {line}: {column:.80} must be a finite number, but {cell!r:.80} came; "
            "encode texts as numbers, fill what is missing, or drop the column"
        )
    return value


def _bit(path: Path, line: int, column: str, cell: str) -> int:
    if (bit := _BITS.get(cell.strip().lower())) is None:
        raise DataError(
            f"{path}, line {line}: {column} must be 0 or 1, or False or True, but {cell!r:.80} came; correct it"
        )
    return bit
