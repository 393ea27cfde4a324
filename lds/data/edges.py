"""Undirected edge lists in one canonical form, and their seeded thinning."""

import torch
from torch import Tensor

from lds.errors import InputError


def canonical_edges(edge_index: Tensor, num_nodes: int) -> Tensor:
    """Return the edges in both directions, sorted, each once and without self loops.

    Shapes: ``edge_index`` int64 [2, E] → int64 [2, 2·E'], E' the number of undirected edges.
    """
    from torch_geometric.utils import remove_self_loops, to_undirected

    loopless, _ = remove_self_loops(edge_index)
    undirected: Tensor = to_undirected(loopless, num_nodes=num_nodes)
    return undirected


def retain_edges(edge_index: Tensor, num_nodes: int, retain: float, seed: int) -> Tensor:
    """Keep round(retain · E) of the E undirected edges, drawn uniformly with `seed`.

    The sets are nested: with one seed, what a smaller share keeps, a larger share keeps too.

    Shapes: ``edge_index`` int64 [2, ·] → int64 [2, 2·round(retain · E)], canonical.

    Raises:
        InputError: `retain` lies outside of [0, 1] or is NaN.
    """
    check_retain(retain)
    edges = canonical_edges(edge_index, num_nodes)
    half = edges[:, edges[0] < edges[1]]
    order = torch.randperm(half.size(1), generator=torch.Generator().manual_seed(seed))
    kept = order[: round(retain * half.size(1))].to(half.device)
    return canonical_edges(half[:, kept], num_nodes)


def check_retain(retain: float) -> None:
    """Raise InputError unless `retain` is a share in [0, 1]."""
    if not 0.0 <= retain <= 1.0:  # NaN fails this comparison too
        raise InputError(f"retain must be a share of edges in [0, 1], but {retain} came; pass e.g. retain=0.5")
