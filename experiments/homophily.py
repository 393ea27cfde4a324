"""What a structure says about the classes of the nodes that it connects."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lds.graph import Structure

# Upper ends of the bins of probabilities in (0, 1]; pairs with probability 0 are counted apart.
BINS = (1e-4, 1e-3, 1e-2, 0.1, 0.5, 1.0)


@dataclass(frozen=True)
class Portrait:
    r"""A structure θ against the classes y.

    Attributes:
        expected_edges: Σ_{i<j} θ_ij.
        within: mean of θ_ij over all pairs of one class.
        between: mean of θ_ij over all other pairs.
        edge_homophily: share of the expected edges that lie within a class.
        node_within: mean of θ_ij over the other nodes j of the class of i, shape [N]; NaN where there is none.
        node_between: mean of θ_ij over the nodes j of other classes, shape [N]; NaN where there is none.
        node_homophily: h_i = Σ_j θ_ij [y_i = y_j] / Σ_j θ_ij, shape [N]; NaN without an edge.
        histogram: for (within, between), pairs with θ = 0, then pairs in each bin.
    """

    expected_edges: float
    within: float
    between: float
    edge_homophily: float
    node_within: Tensor
    node_between: Tensor
    node_homophily: Tensor
    histogram: tuple[list[int], list[int]]


def mean_over(values: Tensor, nodes: Tensor) -> float:
    """Return the mean over the nodes of a mask, NaNs left out; NaN where nothing is left."""
    return float(values[nodes].nanmean())


def portrait(structure: Structure, y: Tensor) -> Portrait:
    """Return how a structure connects the classes; memory is that of its non-zero probabilities."""
    (row, col), theta = structure.edges(0.0)
    theta = theta.double()
    same = y[row] == y[col]
    n = structure.num_nodes
    counts = torch.bincount(y)
    pairs_within = int((counts * (counts - 1) // 2).sum())
    pairs = {True: pairs_within, False: n * (n - 1) // 2 - pairs_within}
    mass = {part: float(theta[same == part].sum()) for part in pairs}
    total, kind = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
    for end in (row, col):
        total.index_add_(0, end, theta)
        kind.index_add_(0, end, theta * same)
    mates = counts[y] - 1.0
    return Portrait(
        expected_edges=mass[True] + mass[False],
        within=mass[True] / pairs[True] if pairs[True] else math.nan,
        between=mass[False] / pairs[False] if pairs[False] else math.nan,
        edge_homophily=mass[True] / (mass[True] + mass[False]) if theta.numel() else math.nan,
        node_within=kind / mates,
        node_between=(total - kind) / (n - 1 - mates),
        node_homophily=kind / total,
        histogram=(_histogram(theta[same], pairs[True]), _histogram(theta[~same], pairs[False])),
    )


def _histogram(theta: Tensor, pairs: int) -> list[int]:
    found = torch.bucketize(theta, torch.tensor(BINS, dtype=theta.dtype)).clamp(max=len(BINS) - 1)
    return [pairs - theta.numel(), *torch.bincount(found, minlength=len(BINS)).tolist()]
