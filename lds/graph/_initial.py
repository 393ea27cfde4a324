"""The graph that structure learning starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from lds.errors import InputError
from lds.graph._all_pairs import canonical_pairs

if TYPE_CHECKING:
    from torch_geometric.data import Data


@dataclass(frozen=True)
class GivenGraph:
    """The edges that the data set brings."""

    def __call__(self, data: Data) -> Tensor:
        """Return the pairs i < j of the data's edges, int64 of shape [2, E].

        Raises:
            InputError: the data has no edges between different nodes.
        """
        advice = "use a kNN graph, e.g. graph=KNNGraph(k=10), or on the command line --method knn-lds"
        if data.edge_index is None or data.edge_index.numel() == 0:
            raise InputError(f"the data brings no edges to start from; {advice}")
        pairs = torch.stack(canonical_pairs(data.edge_index, data.num_nodes))
        if pairs.numel() == 0:
            raise InputError(f"the data brings no edges to start from, only self loops; {advice}")
        return pairs


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
    """

    k: int = 10
    metric: Literal["cosine", "minkowski", "tfidf"] = "cosine"

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or isinstance(self.k, bool) or self.k < 1:
            raise InputError(f"k must be an integer >= 1, got {self.k!r}")
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
        x, metric = _to_scipy(data.x), self.metric
        if metric == "tfidf":
            x, metric = _rare_words_weighted(x), "cosine"
        graph = kneighbors_graph(x, self.k, metric=metric, include_self=False).tocoo()
        edge_index = torch.stack([torch.from_numpy(graph.row), torch.from_numpy(graph.col)]).long()
        return torch.stack(canonical_pairs(edge_index.to(data.x.device), data.num_nodes))


def _rare_words_weighted(x: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfTransformer

    if (least := x.min()) < 0:
        raise InputError(
            f'metric "tfidf" needs counts or shares of words, none of them negative, but a feature is {least:g}; '
            'choose "cosine" or "minkowski"'
        )
    return TfidfTransformer().fit_transform(x)


def _to_scipy(x: Tensor) -> Any:
    from scipy.sparse import csr_matrix

    if x.layout == torch.strided:
        x = x.cpu()
        # A bag of words is searched an order of magnitude faster as a sparse matrix.
        return csr_matrix(x.numpy()) if x.count_nonzero() < 0.1 * x.numel() else x.numpy()
    x = x.cpu().to_sparse_csr()
    return csr_matrix((x.values().numpy(), x.col_indices().numpy(), x.crow_indices().numpy()), (x.shape[0], x.shape[1]))
