"""Graphs of networkx, and the files that it reads."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from lds._files import open_file
from lds._read import reason
from lds.data.own._table import Columns, Nodes, read_table
from lds.data.own._text import whole_text
from lds.errors import DataError

_BARE = re.compile(r"^([ \t]*\w+)[ \t]+((?!NAN\b|INF\b)[A-Za-z][\w.-]*)[ \t]*$", re.MULTILINE)


def read_networkx(path: Path) -> Any:
    """Return the networkx graph of a .gml, .graphml or .edgelist file, with names of nodes as texts.

    Raises:
        DataError: the file is damaged.
        OSError: it cannot be read.
    """
    import networkx  # type: ignore[import-untyped]  # torch needs it, so it is there.

    try:
        if path.suffix.lower() == ".graphml":
            with os.fdopen(open_file(path, os.O_RDONLY, links=True), "rb") as file:
                graph = networkx.read_graphml(file)
            names = networkx.get_node_attributes(graph, "name")
            if len(set(names.values())) == len(graph) == len(names):  # As lds export writes names.
                graph = networkx.relabel_nodes(graph, names)
            return graph
        if path.suffix.lower() == ".gml":
            return _read_gml(path)
        return _parse_edgelist(whole_text(path).splitlines())
    except OSError:
        raise
    # networkx names few of the exceptions of its parsers.
    except Exception as error:
        kind = path.suffix.lower().removeprefix(".")
        raise DataError(f"{path} must be a {kind} file, but {reason(error)}; write it again") from error


def nodes_of(graph: Any, source: Path, wanted: Columns) -> tuple[Nodes, dict[str, Any]]:
    """Return the nodes of a networkx graph, and its edges as edge_index and edge_weight.

    Attributes of nodes are the columns of a table; the keys of the nodes are their names.

    Raises:
        DataError: a node lacks an attribute, or one is not what it must be.
    """
    import numpy as np
    import torch

    keys = list(graph)
    columns = list(dict.fromkeys(str(name) for _, attributes in graph.nodes(data=True) for name in attributes))
    if "id" in columns:  # The keys name the nodes.
        columns.remove("id")
    rows = ((place, [str(key), *(graph.nodes[key].get(name) for name in columns)]) for place, key in enumerate(keys, 1))
    nodes = read_table(source, ["id", *columns], rows, wanted)
    number = {key: place for place, key in enumerate(keys)}
    ends = [(number[a], number[b]) for a, b in graph.edges()]
    parts: dict[str, Any] = {"edge_index": torch.tensor(ends, dtype=torch.int64).view(-1, 2).T.contiguous()}
    weights = [weight for *_, weight in graph.edges(data="weight", default=1)]
    if weights:
        try:
            parts["edge_weight"] = np.array([float(weight) for weight in weights])
        except (TypeError, ValueError) as error:
            raise DataError(f"{source}: weight must be a number on every edge, but {reason(error)}; drop it") from error
    return nodes, parts


def _read_gml(path: Path) -> Any:
    import networkx

    # Newman's files have words without quotes, which the format, and networkx, do not.
    text = _BARE.sub(r'\1 "\2"', whole_text(path))
    try:
        return networkx.parse_gml(text)  # Named by their labels.
    except networkx.NetworkXError as error:
        if "label" not in str(error):
            raise
        return networkx.parse_gml(text, label="id")


def _parse_edgelist(rows: list[str]) -> Any:
    import networkx

    first = next((row.split() for row in rows if row.strip() and row.lstrip()[0] not in "#%"), [])
    options: Any = [("weight", float)] if len(first) == 3 and not first[2].startswith("{") else True
    plain = [row for row in rows if not row.lstrip().startswith("%")]
    return networkx.parse_edgelist(plain, nodetype=str, data=options, create_using=networkx.MultiGraph)
