"""Graphs in the formats of other programs."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lds._files import write_atomically
from lds.errors import InputError
from lds.run._reader import (
    CHECKPOINT,
    CLASS_NAMES,
    CONFIG,
    EPOCHS_TABLE,
    FAILURE,
    GRAPH,
    METRICS,
    MLFLOW,
    NODE_NAMES,
    PREDICTIONS,
    PREDICTIONS_TABLE,
    PROGRESS,
    RESULT,
    STEPS_TABLE,
    WANDB,
)

# What runs consist of, and sweeps and ablations.
_OWN_OF_OTHERS = (
    "results.jsonl", "results.csv", "sweep.yaml", "ablation.yaml", "ablation.csv", "fidelity.csv", "recommendation.json"
)  # fmt: skip
_OWN = {
    CONFIG, METRICS, RESULT, CHECKPOINT, GRAPH, PREDICTIONS, NODE_NAMES, CLASS_NAMES, PREDICTIONS_TABLE,
    PROGRESS, FAILURE, STEPS_TABLE, EPOCHS_TABLE, MLFLOW, WANDB, *_OWN_OF_OTHERS,
}  # fmt: skip

if TYPE_CHECKING:
    from torch_geometric.data import Data


def export_graph(graph: Data, path: Path, format: str, *, force: bool = False) -> None:
    """Write a graph, as `Fit.graph` returns it, to a file.

    * pt: a torch_geometric `Data` with edge_index, edge_weight and num_nodes; `torch.load(path, weights_only=False)`.
    * npz: edge_index [2, E], both directions, edge_weight [E] and num_nodes.
    * graphml: undirected, nodes 0 … N−1, `weight` on the edges.
    * csv: source,target,weight, a line per edge; the source is the node with the lower number.

    Nodes are numbered from 0. Where the graph has `node_names`, pt and npz hold them too, graphml as `name` of a node,
    and csv has them in place of the numbers.

    Args:
        graph: the graph.
        path: the file.
        format: one of `EXPORT_FORMATS`.
        force: replace a file that is there.

    Raises:
        InputError: the format is unknown, or the file is there, or is one that a run, a sweep or an ablation wrote.
        StorageError: the file cannot be written.

    Example:
        >>> import torch
        >>> from torch_geometric.data import Data
        >>> pairs = torch.tensor([[0, 1], [1, 0]])
        >>> graph = Data(edge_index=pairs, edge_weight=torch.tensor([0.75, 0.75]), num_nodes=2)
        >>> export_graph(graph, Path("graph.csv"), "csv")
        >>> print(Path("graph.csv").read_text(), end="")
        source,target,weight
        0,1,0.75
    """
    if format not in EXPORT_FORMATS:
        raise InputError(f"format must be one of {', '.join(EXPORT_FORMATS)}, got {format!r}")
    refuse_taken(path, force=force)
    write_atomically(path, EXPORT_FORMATS[format](graph))


def refuse_taken(path: Path, *, force: bool) -> None:
    """Refuse a file to be written that is there; by force it may be replaced, unless it is a folder's own.

    Raises:
        InputError: it is there, or one that a run, a sweep or an ablation wrote into its folder.
    """
    if not os.path.lexists(path):
        return
    # Some file systems tell no capitals apart.
    if path.name.lower() in _OWN and any((path.parent / name).exists() for name in (CONFIG, *_OWN_OF_OTHERS)):
        raise InputError(
            f"{path} must be no file that the folder itself consists of, but is, and is left as it is even by force; "
            "choose another file"
        )
    if not force:
        raise InputError(f"{path} must not be there yet, but is; choose another file, or force to replace it")


def _pt(graph: Data) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(graph.cpu(), buffer)
    return buffer.getvalue()


def _npz(graph: Data) -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    names = graph.get("node_names")
    named: dict[str, Any] = {} if names is None else {"node_names": np.array(names)}
    np.savez_compressed(
        buffer,
        edge_index=graph.edge_index.cpu().numpy(),
        edge_weight=graph.edge_weight.cpu().numpy(),
        num_nodes=graph.num_nodes,
        **named,
    )
    return buffer.getvalue()


def _graphml(graph: Data) -> bytes:
    import networkx  # type: ignore[import-untyped]  # torch needs it, so it is there.

    result = networkx.Graph()
    result.add_nodes_from(range(graph.num_nodes))
    networkx.set_node_attributes(result, dict(enumerate(graph.get("node_names") or [])), "name")
    result.add_weighted_edges_from(_edges(graph))
    buffer = io.BytesIO()
    networkx.write_graphml_xml(result, buffer)
    return buffer.getvalue()


def _csv(graph: Data) -> bytes:
    names = graph.get("node_names") or range(graph.num_nodes)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("source", "target", "weight"))
    writer.writerows((names[source], names[target], weight) for source, target, weight in _edges(graph))
    return buffer.getvalue().encode()


def _edges(graph: Data) -> list[tuple[int, int, float]]:
    """Return each edge once."""
    once = graph.edge_index[0] < graph.edge_index[1]
    source, target = graph.edge_index[:, once].tolist()
    # As few digits as tell the number apart from its neighbours in its own precision.
    weights = [float(str(weight)) for weight in graph.edge_weight[once].cpu().numpy()]
    return list(zip(source, target, weights, strict=True))


EXPORT_FORMATS: dict[str, Callable[[Data], bytes]] = {"pt": _pt, "npz": _npz, "graphml": _graphml, "csv": _csv}
