"""Text files of two public collections: geom-gcn, and the citation networks of LINQS."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch

from lds._read import load_arrays, reason
from lds.data.own._text import lines
from lds.data.splits import MASKS
from lds.errors import DataError, InputError

GEOM_GCN = "out1_node_feature_label.txt"
_GEOM_EDGES = "out1_graph_edges.txt"
_SPLIT = re.compile(r".*_split_0\.6_0\.2_(\d+)\.npz")


def read_geom_gcn(path: Path, split: int | None) -> dict[str, Any]:
    """Return the parts of a data set of geom-gcn: nodes, and the edges and splits that lie beside them.

    A line is a node's number, its features, and its label, separated by tabs. The features are 0 and 1, or, where the
    name of their column says feature_amount, the numbers of those that are 1.

    Args:
        path: the file of nodes.
        split: which of the splits beside it to take; none where None, so that one is made.

    Raises:
        DataError: a file is malformed or missing.
        InputError: there is no such split.
        OSError: a file cannot be read.
    """
    with closing(lines(path, "\t")) as rows:
        _, header = next(rows, (0, []))
        if len(header) != 3:
            raise DataError(
                f"{path} must have three columns, node_id, feature and label, but has {len(header)}; mend it"
            )
        held = [(number, row) for number, row in rows]
    names = [row[0].strip() for _, row in held]
    number_of = {name: place for place, name in enumerate(names)}
    parts: dict[str, Any] = {
        "x": _features(path, held, "feature_amount" in header[1]),
        "y": [row[2] for _, row in held],
        "node_names": names,
        "edge_index": _edges(path.parent / _GEOM_EDGES, number_of, "\t", header=True)[0],
    }
    there = {int(match[1]): file for file in sorted(path.parent.iterdir()) if (match := _SPLIT.fullmatch(file.name))}
    if split is not None:
        if split not in there:
            raise InputError(f"split must be one of {sorted(there)}, the splits beside {path}, got {split!r}")
        parts |= _masks(there[split], names)
    return parts


def read_content(path: Path) -> dict[str, Any]:
    """Return the parts of a citation network of LINQS: papers in .content, and citations in .cites beside it.

    A line of .content is a paper's name, its words as 0 and 1, and its class. Citations of papers without a line are
    left out.

    Raises:
        DataError: a file is malformed or missing.
        OSError: a file cannot be read.
    """
    with closing(lines(path, "\t")) as rows:
        held = list(rows)
    if not held or len(held[0][1]) < 3:
        raise DataError(
            f"{path} must have lines of a name, words and a class, separated by tabs, but has none; mend it"
        )
    names = [row[0].strip() for _, row in held]
    edges, left_out = _edges(path.with_suffix(".cites"), {n: i for i, n in enumerate(names)}, None, header=False)
    x = np.array([[_number(path, number, cell) for cell in row[1:-1]] for number, row in held], dtype=np.float64)
    parts: dict[str, Any] = {
        "x": scipy.sparse.csr_array(x),
        "y": [row[-1] for _, row in held],
        "node_names": names,
        "edge_index": edges,
    }
    if left_out:
        parts["others"] = [f"{left_out} citations of papers without a line"]
    return parts


def _features(path: Path, rows: list[tuple[int, list[str]]], listed: bool) -> Any:
    cells = [
        np.array([_number(path, number, cell) for cell in row[1].split(",") if cell.strip()], dtype=np.float64)
        for number, row in rows
    ]
    if listed:
        width = 1 + int(max((cell.max() for cell in cells if cell.size), default=0))
        if any(cell.size and (cell.min() < 0 or (cell != np.floor(cell)).any()) for cell in cells) or width > 1 << 31:
            raise DataError(f"{path} must list the numbers of features from 0, but others came; mend it")
        starts = np.concatenate([[0], np.cumsum([cell.size for cell in cells])]).astype(np.int64)
        columns = np.concatenate(cells).astype(np.int64)
        found: Any = scipy.sparse.csr_array((np.ones(len(columns)), columns, starts), shape=(len(cells), width))
        return found
    if len({cell.size for cell in cells}) != 1:
        raise DataError(f"{path} must have as many features a node, but has {cells[0].size} and others; mend it")
    return scipy.sparse.csr_array(np.stack(cells))


def _edges(path: Path, names: dict[str, int], sep: str | None, *, header: bool) -> tuple[torch.Tensor, int]:
    """Return the edges between named nodes, and the number of those left out."""
    try:
        with closing(lines(path, sep, spaces=not header)) as rows:
            held = list(rows)[int(header) :]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; put it beside the file of nodes") from error
    if held and len(held[0][1]) != 2:
        raise DataError(f"{path} must have two nodes a line, but has {len(held[0][1])} cells; mend it")
    pairs = []
    for number, row in held:
        found = [names.get(cell.strip()) for cell in row]
        if None in found and header:
            raise DataError(f"{path}, line {number}: {row} must be two of the {len(names)} nodes; correct it")
        if None not in found:
            pairs.append(found)
    return torch.tensor(pairs, dtype=torch.int64).view(-1, 2).T.contiguous(), len(held) - len(pairs)


def _masks(path: Path, names: list[str]) -> dict[str, Any]:
    """Return the masks of a split, whose rows are the numbers of the nodes and not the lines of their file."""
    try:
        arrays: Any = load_arrays(path, links=True)
        order = np.array([int(name) for name in names])
        if sorted(order.tolist()) != list(range(len(order))):
            raise DataError("the nodes are not numbered from 0")
        return {name: arrays[name].ravel()[order] for name in MASKS if name in arrays}
    except (DataError, ValueError, IndexError) as error:
        raise DataError(f"{path} must hold masks of {len(names)} nodes, but {reason(error)}; get it again") from error


def _number(path: Path, line: int, cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise DataError(f"{path}, line {line}: a feature must be a number, but {cell!r:.80} came; mend it") from None
