"""Edges in any form that people have, in one canonical form, and their seeded thinning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, overload

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from lds.errors import DataError, InputError

Weights = Literal["refuse", "initial", "drop"]


@overload
def canonical_edges(edge_index: Tensor, num_nodes: int) -> Tensor: ...


@overload
def canonical_edges(edge_index: Tensor, num_nodes: int, weight: Tensor) -> tuple[Tensor, Tensor]: ...


def canonical_edges(edge_index: Tensor, num_nodes: int, weight: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
    """Return the edges in both directions, sorted, each once and without self loops.

    With weights, an edge keeps the largest one that came for it.

    Shapes: ``edge_index`` int64 [2, E] → int64 [2, 2·E'], E' the number of undirected edges; ``weight`` [E] → [2·E'].

    Example:
        >>> import torch
        >>> from lds.data import canonical_edges
        >>> canonical_edges(torch.tensor([[0, 1, 2, 2], [1, 0, 2, 0]]), num_nodes=3)  # both directions, no loops
        tensor([[0, 0, 1, 2],
                [1, 2, 0, 0]])
    """
    from torch_geometric.utils import remove_self_loops, to_undirected

    loopless, kept = remove_self_loops(edge_index, weight)
    if kept is not None:
        pair: tuple[Tensor, Tensor] = to_undirected(loopless, kept, num_nodes=num_nodes, reduce="max")
        return pair
    undirected: Tensor = to_undirected(loopless, num_nodes=num_nodes)
    return undirected


def retain_edges(edge_index: Tensor, num_nodes: int, retain: float, seed: int) -> Tensor:
    """Keep round(retain · E) of the E undirected edges, drawn uniformly with `seed`.

    The sets are nested: with one seed, what a smaller share keeps, a larger share keeps too.

    Shapes: ``edge_index`` int64 [2, ·] → int64 [2, 2·round(retain · E)], canonical.

    Raises:
        InputError: `retain` lies outside of [0, 1] or is NaN.

    Example:
        >>> import torch
        >>> from lds.data import retain_edges
        >>> retain_edges(torch.tensor([[0, 0, 1, 2], [1, 2, 3, 3]]), num_nodes=4, retain=0.5, seed=0).shape  # 2 of 4
        torch.Size([2, 4])
    """
    check_retain(retain)
    edges = canonical_edges(edge_index, num_nodes)
    half = edges[:, edges[0] < edges[1]]
    order = torch.randperm(half.size(1), generator=torch.Generator().manual_seed(seed))
    kept = order[: round(retain * half.size(1))].to(half.device)
    return canonical_edges(half[:, kept], num_nodes)


def retain_weights(edge_index: Tensor, weight: Tensor, kept: Tensor, num_nodes: int) -> Tensor:
    """Return the weights of edges that were kept, of shape [E'], where `kept` is canonical, int64 [2, E']."""
    edges, values = canonical_edges(edge_index, num_nodes, weight)
    return values[torch.searchsorted(edges[0] * num_nodes + edges[1], kept[0] * num_nodes + kept[1])]


def check_retain(retain: float) -> None:
    """Raise InputError unless `retain` is a share in [0, 1]."""
    if not 0.0 <= retain <= 1.0:  # NaN fails this comparison too
        raise InputError(f"retain must be a share of edges in [0, 1], but {retain} came; pass e.g. retain=0.5")


def as_edges(parts: Mapping[str, Any], num_nodes: int, weights: Weights = "refuse") -> tuple[Tensor, Tensor | None]:
    """Return edges int64 [2, E], and their weights [E] where these are not all 1.

    Args:
        parts: `edge_index` [2, E], and `edge_weight` [E] if there is one; or, without it, `adj_t` or `adj`, an
            adjacency [N, N], dense or sparse, whose entries are the weights.
        num_nodes: number of nodes N.
        weights: "initial" takes weights in [0, 1], as probabilities to start from; "drop" takes the edges alone,
            without those of weight 0; "refuse" takes no weights but 1.

    Raises:
        DataError: an index is out of range, a shape or type is another, or weights came that are not taken.
    """
    if weights not in ("refuse", "initial", "drop"):
        raise InputError(f'weights must be "refuse", "initial" or "drop", got {weights!r}')
    edge_index, weight, name = parts.get("edge_index"), parts.get("edge_weight"), "edge_weight"
    if edge_index is None:
        name = "adj_t" if parts.get("adj_t") is not None else "adj"
        if parts.get(name) is not None:
            edge_index, weight = _of_adjacency(parts[name], name, num_nodes)
        elif weight is not None:
            raise DataError("edge_weight must come with edge_index, but there is none; set it, or drop the weights")
        else:
            return torch.empty(2, 0, dtype=torch.int64), None
    edge_index = _checked(edge_index, num_nodes)
    found = None if weight is None else _weights(weight, name, edge_index, weights)
    if found is not None and weights == "drop":
        return edge_index[:, found != 0], None
    return edge_index, found


def _checked(given: Any, nodes: int) -> Tensor:
    edge_index = given
    if isinstance(given, np.ndarray) and given.dtype.kind in "iu":
        edge_index = torch.from_numpy(given.astype(np.int64))
    if (
        not isinstance(edge_index, Tensor)
        or edge_index.layout != torch.strided
        or edge_index.is_meta
        or edge_index.is_floating_point()
        or edge_index.is_complex()
        or edge_index.dtype == torch.bool
    ):
        raise DataError(f"edge_index must be int64 [2, E], but {_describe(edge_index)} came; convert it")
    if edge_index.dim() != 2 or edge_index.size(0) != 2:
        raise DataError(f"edge_index must be int64 [2, E], but {_describe(edge_index)} came; transpose or reshape it")
    found: Tensor = edge_index.long()
    outside = ((found < 0) | (found >= nodes)).any(dim=0).nonzero().flatten()
    if outside.numel():
        raise DataError(
            f"edge_index must lie in 0 … {nodes - 1}, but {outside.numel()} of {found.size(1)} edges do not, the "
            f"first is {tuple(found[:, outside[0]].tolist())}; renumber the nodes from 0"
        )
    return found


def _weights(given: Any, name: str, edge_index: Tensor, weights: Weights) -> Tensor | None:
    """Return the weights of edges, as float32 or float64; None where all are 1."""
    found, edges = given, edge_index.size(1)
    if isinstance(given, np.ndarray) and given.dtype.kind in "biuf":
        found = torch.from_numpy(given.astype(np.float64))
    if not isinstance(found, Tensor) or found.layout != torch.strided or found.is_complex() or found.is_meta:
        raise DataError(f"{name} must be numbers [{edges}], one an edge, but {_describe(given)} came; convert it")
    weight: Tensor = found.detach()
    weight = weight if weight.dtype in (torch.float32, torch.float64) else weight.float()
    if weight.dim() == 2 and weight.size(1) == 1:
        weight = weight.flatten()
    if weight.shape != (edges,):
        raise DataError(f"{name} must be numbers [{edges}], one an edge, but {_describe(weight)} came; reshape it")
    if bool((weight == 1).all()):
        return None
    if weights == "refuse":
        raise DataError(
            f"{name} must be 1 on every edge, since every edge starts with probability 1, but "
            f"{float(weight[weight != 1][0]):g} came; keep the edges that count, and drop it, or start from it as "
            'probabilities with weights="initial", or take the edges alone with weights="drop"'
        )
    if weights == "drop" and bool(weight.isfinite().all()):
        return weight
    bad = (~((weight >= 0) & (weight <= 1))).nonzero().flatten()
    if bad.numel():
        raise DataError(
            f"{name} must be probabilities in [0, 1] to start from, but {float(weight[bad[0]]):g} came at edge "
            f"{int(bad[0])}; scale or drop the weights"
        )
    return weight


def _of_adjacency(matrix: Any, name: str, nodes: int) -> tuple[Tensor, Tensor]:
    """Return the entries of an adjacency that are not zero."""
    if hasattr(matrix, "to_torch_sparse_coo_tensor"):  # A SparseTensor of torch_sparse.
        matrix = matrix.to_torch_sparse_coo_tensor()
    if isinstance(matrix, Tensor) and not matrix.is_meta and not matrix.is_quantized and matrix.dim() == 2:
        found = matrix.detach().cpu()
        found = (found if found.layout == torch.sparse_coo else found.to_sparse(layout=torch.sparse_coo)).coalesce()
        (row, col), value = found.indices(), found.values()
    elif _is_matrix(matrix):
        if matrix.dtype.kind not in "biuf":
            raise DataError(f"{name} must be numbers [{nodes}, {nodes}], but {matrix.dtype} came; convert it")
        entries = scipy.sparse.coo_array(matrix)
        entries.sum_duplicates()
        row, col = (torch.from_numpy(part.astype(np.int64)) for part in (entries.row, entries.col))
        value = torch.from_numpy(entries.data.astype(np.float64))
    else:
        raise DataError(f"{name} must be an adjacency [{nodes}, {nodes}], but {_describe(matrix)} came; convert it")
    if tuple(matrix.shape) != (nodes, nodes):
        raise DataError(
            f"{name} must be an adjacency [{nodes}, {nodes}], a row and a column a row of x, but {list(matrix.shape)} "
            "came; take the part of it that belongs to these nodes"
        )
    there = value != 0
    return torch.stack([row[there], col[there]]), value[there]


def _is_matrix(value: Any) -> bool:
    return scipy.sparse.issparse(value) or (isinstance(value, np.ndarray) and value.ndim == 2)


def _describe(value: object) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
