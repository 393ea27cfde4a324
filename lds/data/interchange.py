"""Graphs of networkx and DGL as parts that `prepare` takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lds.data.masks import INDICES
from lds.data.own._cells import Impute
from lds.data.own._networkx import nodes_of
from lds.data.own._table import Columns
from lds.data.splits import MASKS
from lds.errors import DataError

if TYPE_CHECKING:
    from torch_geometric.data import Data


def from_networkx(
    graph: Any,
    *,
    label: str = "label",
    drop: tuple[str, ...] = (),
    one_hot: tuple[str, ...] = (),
    impute: Impute = "none",
) -> Data:
    """Return features, labels, masks and edges of a networkx graph, for `prepare`.

    Attributes of nodes are columns, as those of a table: the label, features that are numbers, and masks. The keys of
    the nodes are their names; `weight` of an edge is its weight.

    Args:
        graph: the graph.
        label: attribute of the labels.
        drop: attributes to leave out.
        one_hot: attributes that are categories, see `lds.data.read`; ("all",) for those that are texts.
        impute: "mean" puts the mean of an attribute where a node lacks it.

    Raises:
        DataError: this is no such graph, or an attribute is missing on a node, or not what it must be.

    Example:
        >>> import networkx
        >>> from lds.data import from_networkx, prepare
        >>> club = from_networkx(networkx.karate_club_graph(), label="club")
        >>> data = prepare(club, features="identity", weights="drop")
        >>> data.num_nodes
        34
    """
    from torch_geometric.data import Data

    if not hasattr(graph, "nodes") or not hasattr(graph, "edges"):
        raise DataError(f"from_networkx needs a graph of networkx, but {type(graph).__name__} came")
    nodes, edges = nodes_of(graph, Path("the graph"), Columns(label, None, drop, one_hot, impute))
    return Data(**{name: part for name, part in (nodes.parts | edges).items() if part is not None})


def from_dgl(graph: Any, *, x: str = "feat", y: str = "label") -> Data:
    """Return features, labels, masks and edges of a DGL graph with nodes of one kind, for `prepare`.

    Args:
        graph: the graph.
        x: its node data with the features.
        y: its node data with the labels.

    Raises:
        DataError: this is no such graph.

    Example:
        >>> from lds.data import from_dgl, prepare
        >>> data = prepare(from_dgl(graph, x="feat", y="label"))  # doctest: +SKIP
    """
    import torch
    from torch_geometric.data import Data

    if not hasattr(graph, "ndata") or not callable(getattr(graph, "edges", None)):
        raise DataError(f"from_dgl needs a graph of DGL with nodes of one kind, but {type(graph).__name__} came")
    source, target = graph.edges()
    held = {name: graph.ndata[name] for name in (*MASKS, *INDICES) if name in graph.ndata}
    held |= {part: graph.ndata[name] for part, name in (("x", x), ("y", y)) if name in graph.ndata}
    return Data(edge_index=torch.stack([source, target]).long(), num_nodes=int(graph.num_nodes()), **held)
