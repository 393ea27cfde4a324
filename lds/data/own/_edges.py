"""Files of edges: texts of two names per line, graphs of networkx, and adjacency matrices."""

from __future__ import annotations

import os
from array import array
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lds._files import open_file
from lds._read import load_arrays, reason
from lds.data.own._networkx import read_networkx
from lds.data.own._table import Nodes, refuse_names_as_features
from lds.data.own._text import lines
from lds.errors import DataError

_GRAPHS = (".gml", ".graphml", ".edgelist")
_MATRICES = (".mtx", ".npz")
_WEIGHT = "weight"


@dataclass
class Edges:
    """Edges by the names of their ends.

    Attributes:
        where: line numbers.
        ends: the two names of every edge, one after the other.
        weights: what was in the third cell.
    """

    where: list[int]
    ends: list[str]
    weights: list[Any]


def read_edges(path: Path, nodes: Nodes, sep: str | None, table: Path) -> dict[str, Any]:
    """Return edge_index and edge_weight, or an adjacency adj, between the nodes of a table.

    Args:
        path: the file of edges.
        nodes: the nodes.
        sep: what separates cells; found out when None.
        table: the file of the nodes, for messages.

    Raises:
        DataError: the file cannot be read, an edge joins no two nodes, or the nodes seem to have names that were not
            given.
    """
    try:
        if path.suffix.lower() in _MATRICES:
            return {"adj": _matrix(path)}
        if path.suffix.lower() in _GRAPHS:
            edges = _of_networkx(path)
        else:
            with closing(lines(path, sep, spaces=True)) as rows:
                edges = _of_text(path, list(rows), nodes)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; check the path and its rights") from error
    if nodes.numbers:
        refuse_names_as_features(table, nodes, edges.ends, path)
    return _joined(path, edges, nodes)


def _of_text(path: Path, rows: list[tuple[int, list[str]]], nodes: Nodes) -> Edges:
    if not rows:
        raise DataError(f"{path} must hold edges, two nodes per line, but is empty; write it again")
    columns = [cell.strip() for cell in rows[0][1]]
    if len(columns) not in (2, 3):
        raise DataError(
            f"{path} must have two columns, the nodes of an edge, and may have a third, weight, "
            f"but has {', '.join(columns):.80}; drop all else"
        )
    if _is_header(columns, nodes):
        if columns[2:] not in ([], [_WEIGHT]):
            raise DataError(
                f"{path} must have two columns, the nodes of an edge, and may have a third, weight, "
                f"but has {', '.join(columns):.80}; drop all else"
            )
        rows = rows[1:]
    where = [number for number, _ in rows]
    ends = [cell.strip() for _, row in rows for cell in row[:2]]
    return Edges(where, ends, [row[2] for _, row in rows] if len(columns) == 3 else [])


def _is_header(cells: list[str], nodes: Nodes) -> bool:
    """Tell names of columns from an edge: neither of two is a node, nor are both numbers, as those of nodes may be."""
    return not any(cell in nodes.names for cell in cells[:2]) and not all(map(_is_number, cells[:2]))


def _of_networkx(path: Path) -> Edges:
    graph = read_networkx(path)
    found = [
        (str(a).strip(), str(b).strip(), attributes.get(_WEIGHT, 1)) for a, b, attributes in graph.edges(data=True)
    ]
    ends = [end for a, b, _ in found for end in (a, b)]
    return Edges(list(range(1, len(found) + 1)), ends, [weight for *_, weight in found])


def _matrix(path: Path) -> Any:
    """Return an adjacency: a Matrix Market file, or one of scipy.sparse.save_npz."""
    import scipy.io
    import scipy.sparse

    if path.suffix.lower() == ".npz":
        try:
            parts = load_arrays(path, links=True)
            if not {"data", "indices", "indptr", "shape"} <= parts.keys():
                raise DataError(f"it holds {', '.join(parts):.80}")
            made: Any = scipy.sparse.csr_array(
                (parts["data"], parts["indices"], parts["indptr"]), shape=tuple(parts["shape"].tolist())
            )
            made.check_format(full_check=True)
        except (DataError, ValueError, TypeError, IndexError, OverflowError, AttributeError) as error:
            raise DataError(
                f"{path} must hold an adjacency, as scipy.sparse.save_npz writes a CSR matrix, but {reason(error)}; "
                "save it again"
            ) from error
        return made
    try:
        os.close(open_file(path, os.O_RDONLY, links=True))
        # By its path: damage in an open file ends the process.
        return scipy.sparse.coo_array(scipy.io.mmread(path))
    except OSError:
        raise
    # scipy's documentation names no exceptions.
    except Exception as error:
        raise DataError(f"{path} must be a Matrix Market file, but {reason(error)}; write it again") from error


def _joined(path: Path, edges: Edges, nodes: Nodes) -> dict[str, Any]:
    found = array("q")
    for place, end in enumerate(edges.ends):
        number = nodes.names.get(end)
        if number is None and end.endswith(".0"):  # As pandas writes integers once a cell of their column is empty.
            number = nodes.names.get(end[:-2])
        if number is None:
            first, last = next(iter(nodes.names)), next(reversed(nodes.names))
            raise DataError(
                f"{path}, line {edges.where[place // 2]}: {end!r:.80} must be one of the {len(nodes.names)} nodes, "
                f"{first:.80} … {last:.80}, {nodes.matched}; correct it, or name the column of the nodes' names with id"
            )
        found.append(number)
    parts: dict[str, Any] = {"edge_index": torch.tensor(found, dtype=torch.int64).view(-1, 2).T.contiguous()}
    if edges.weights:
        parts["edge_weight"] = np.array(
            [_weight(path, line, cell) for line, cell in zip(edges.where, edges.weights, strict=True)]
        )
    return parts


def _weight(path: Path, line: int, cell: Any) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError):
        raise DataError(
            f"{path}, line {line}: weight must be 1, since every edge starts with probability 1, but {cell!r:.80} "
            "came; keep the edges that count and drop the column, or export with --sample"
        ) from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
