"""Pairs of nodes i < j: their canonical form, and those that structure learning starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from scipy.sparse import csr_matrix, issparse
from torch import Tensor

from lds._checks import check_integers
from lds._sparse import of_safe_size, to_scipy
from lds.errors import InputError

if TYPE_CHECKING:
    from torch_geometric.data import Data

# From here on neighbours by cosine are found by the Euclidean distance on the sphere.
_MANY = 20_000


def canonical_pairs(edge_index: Tensor, num_nodes: int) -> tuple[Tensor, Tensor]:
    """Return the distinct pairs i < j among the columns of an edge index, sorted; self loops are dropped.

    Raises:
        InputError: not an integer tensor of shape [2, E], or an index out of range.
    """
    if edge_index.ndim != 2 or edge_index.shape[0] != 2 or edge_index.is_floating_point():
        raise InputError(
            f"edge_index must be int64 of shape [2, E], got {edge_index.dtype} of shape {tuple(edge_index.shape)}"
        )
    if edge_index.numel() and not (int(edge_index.min()) >= 0 and int(edge_index.max()) < num_nodes):
        found = f"{int(edge_index.min())} to {int(edge_index.max())}"
        raise InputError(f"edge_index must hold node numbers in 0..{num_nodes - 1}, got {found}")
    edge_index = edge_index.long()  # row·N + col overflows a narrower type.
    row, col = edge_index.min(0).values, edge_index.max(0).values
    key = torch.unique((row * num_nodes + col)[row != col])
    return key // num_nodes, key % num_nodes


def weighted_pairs(
    edge_index: Tensor, num_nodes: int, probability: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the pairs of `canonical_pairs`, and the probabilities that they start from: 1, or the largest of theirs.

    Raises:
        InputError: as for `canonical_pairs`, or a probability is none, or there are not as many as edges.
    """
    row, col = canonical_pairs(edge_index, num_nodes)
    if probability is None:
        return row, col, torch.ones(row.shape, dtype=dtype, device=row.device)
    low, high = (float(probability.min()), float(probability.max())) if probability.numel() else (0.0, 0.0)
    if probability.shape != edge_index.shape[1:] or not 0 <= low <= high <= 1:
        raise InputError(
            f"probability must be {edge_index.shape[1]} numbers in [0, 1], one an edge, but shape "
            f"{list(probability.shape)} from {low:g} to {high:g} came; scale it"
        )
    one, other = edge_index.min(0).values, edge_index.max(0).values
    there = one != other
    places = torch.searchsorted(row * num_nodes + col, (one * num_nodes + other)[there])
    start = torch.zeros(row.shape, dtype=dtype, device=row.device)
    return row, col, start.scatter_reduce(0, places, probability.to(start)[there], "amax")


class WeightedPairs(NamedTuple):
    """Pairs i < j with the probabilities that they start from.

    Attributes:
        pairs: int64 of shape [2, E].
        probability: in [0, 1], of shape [E].

    Example:
        >>> import torch
        >>> from lds.graph import WeightedPairs
        >>> start = WeightedPairs(torch.tensor([[0], [1]]), torch.tensor([0.7]))  # what `graph=` may return
        >>> start.probability
        tensor([0.7000])
    """

    pairs: Tensor
    probability: Tensor


@dataclass(frozen=True)
class GivenGraph:
    """The edges that the data set brings.

    Args:
        weights: "initial" starts from the weights of the edges, in [0, 1], as probabilities, so that a learned graph
            can be continued; "refuse" has learners refuse data with weights other than 1; "drop" takes the edges
            alone.

    Raises:
        InputError: `weights` is none of these.

    Example:
        >>> import torch
        >>> from torch_geometric.data import Data
        >>> from lds.graph import GivenGraph
        >>> GivenGraph()(Data(edge_index=torch.tensor([[0, 1], [1, 0]]), num_nodes=2))
        tensor([[0],
                [1]])
    """

    weights: Literal["refuse", "initial", "drop"] = "refuse"

    def __post_init__(self) -> None:
        if self.weights not in ("refuse", "initial", "drop"):
            raise InputError(f'weights must be "refuse", "initial" or "drop", got {self.weights!r}')

    def __call__(self, data: Data) -> Tensor | WeightedPairs:
        """Return the pairs i < j of the data's edges, int64 of shape [2, E]; with their weights where there are any.

        Of two weights for a pair the larger counts.

        Raises:
            InputError: the data has no edges between different nodes.
        """
        advice = "use a kNN graph, e.g. graph=KNNGraph(k=10), or on the command line --method knn-lds"
        if data.edge_index is None or data.edge_index.numel() == 0:
            raise InputError(f"the data brings no edges to start from; {advice}")
        pairs = torch.stack(canonical_pairs(data.edge_index, data.num_nodes))
        if pairs.numel() == 0:
            raise InputError(f"the data brings no edges to start from, only self loops; {advice}")
        if self.weights != "initial" or (weight := data.get("edge_weight")) is None:
            return pairs
        *_, probability = weighted_pairs(data.edge_index, data.num_nodes, weight, weight.dtype)
        return WeightedPairs(pairs, probability)


@dataclass(frozen=True)
class KNNGraph:
    r"""The union of the k nearest neighbours of every node, by features.

    "tfidf" is the cosine distance of bags of words in which rare words weigh more: with n_f nodes that have word f,

    .. math:: x_{if} \Big(1 + \ln \frac{1 + N}{1 + n_f}\Big).

    Args:
        k: number of neighbours, 1 ≤ k < N.
        metric: "cosine", "minkowski" (Euclidean) or "tfidf" distance.

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> import torch
        >>> from torch_geometric.data import Data
        >>> from lds.graph import KNNGraph
        >>> KNNGraph(k=1, metric="minkowski")(Data(x=torch.tensor([[0.0], [1.0], [5.0]])))
        tensor([[0, 1],
                [1, 2]])
    """

    k: int = 10
    metric: Literal["cosine", "minkowski", "tfidf"] = "cosine"

    def __post_init__(self) -> None:
        check_integers(self, "k")
        if self.metric not in ("cosine", "minkowski", "tfidf"):
            raise InputError(f'metric must be "cosine", "minkowski" or "tfidf", got {self.metric!r}')

    def __call__(self, data: Data) -> Tensor:
        """Return the pairs i < j of which one is among the k nearest of the other, int64 of shape [2, E].

        Raises:
            InputError: k is not smaller than the number of nodes, or a feature is negative where words are counted.
        """
        from sklearn.neighbors import kneighbors_graph

        if self.k >= data.num_nodes:
            raise InputError(f"k must be smaller than the number of nodes, {data.num_nodes}, got {self.k}")
        x, metric = _features(data.x), self.metric
        if metric != "minkowski":
            x = of_safe_size(x)
        if metric == "tfidf":
            x, metric = _rare_words_weighted(x), "cosine"
        if metric == "cosine" and data.num_nodes > _MANY and (unit := _on_the_sphere(x)) is not None:
            x, metric = unit, "minkowski"
        graph = kneighbors_graph(x, self.k, metric=metric, include_self=False).tocoo()
        edge_index = torch.stack([torch.from_numpy(graph.row), torch.from_numpy(graph.col)]).long()
        return torch.stack(canonical_pairs(edge_index.to(data.x.device), data.num_nodes))


def initial_weights(graph: object) -> Literal["refuse", "initial", "drop"]:
    """Return what becomes of weights of edges under this graph; your own function of the data sees them all.

    Example:
        >>> from lds.graph import GivenGraph, initial_weights
        >>> initial_weights(GivenGraph(weights="drop"))
        'drop'
    """
    if isinstance(graph, GivenGraph):
        return graph.weights
    return "refuse" if graph is None or isinstance(graph, KNNGraph) else "initial"


def random_pairs(num_nodes: int, count: int, *, seed: int) -> Tensor:
    """Return about `count` distinct random pairs i < j, int64 of shape [2, ·], as candidates.

    Raises:
        InputError: count is negative, or more than half of all pairs.

    Example:
        >>> from lds.graph import random_pairs
        >>> random_pairs(100, 7, seed=0).shape
        torch.Size([2, 7])
    """
    if not 0 <= count <= num_nodes * (num_nodes - 1) // 4:
        raise InputError(
            f"count must lie between 0 and half of all pairs, {num_nodes * (num_nodes - 1) // 4}, got {count}"
        )
    generator = torch.Generator().manual_seed(seed)
    return torch.stack(canonical_pairs(torch.randint(num_nodes, (2, count), generator=generator), num_nodes))


def _rare_words_weighted(x: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfTransformer

    if (least := x.min()) < 0:
        raise InputError(
            f'metric "tfidf" needs counts or shares of words, none of them negative, but a feature is {least:g}; '
            'choose "cosine" or "minkowski"'
        )
    return TfidfTransformer().fit_transform(x)


def _on_the_sphere(x: Any) -> Any:
    """Return rows of length 1, between which the Euclidean distance orders as the cosine does; None for rows of zeros.

    scikit-learn has trees and blocked products for the one, and sorts whole rows of distances for the other.
    """
    from sklearn.preprocessing import normalize

    if issparse(x) or not x.any(1).all():
        return None
    return normalize(x)


def _features(x: Tensor) -> Any:
    x = x.cpu()
    if x.layout != torch.strided:
        return to_scipy(x.to_sparse_csr())
    # A bag of words is searched an order of magnitude faster as a sparse matrix.
    return csr_matrix(x.numpy()) if x.count_nonzero() < 0.1 * x.numel() else x.numpy()
