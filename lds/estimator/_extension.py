"""What a trained graph network says of rows that it was not trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse
from sklearn.neighbors import NearestNeighbors
from sklearn.utils.extmath import safe_sparse_dot

from lds._random import EVALUATE, cuda_devices, forked, reseed
from lds._sparse import of_safe_size
from lds.graph import Structure

Array = npt.NDArray[np.float64]


class Extension:
    r"""A trained two-layer GCN, extended to new rows: each gets edges from its k nearest training rows.

    With the training rows x_j, their degrees d_j = 1 + Σ_i A_ij and hidden layers h_j on a graph A ~ Bernoulli(θ), a
    new row x with the k nearest training rows N(x) has d = 1 + k and

    .. math::
        h = \mathrm{ReLU}\Big(\frac{x W_0}{d} + \sum_{j \in N(x)} \frac{x_j W_0}{\sqrt{d\, d_j}}\Big), \qquad
        \text{logits} = \frac{h W_1}{d} + \sum_{j \in N(x)} \frac{h_j W_1}{\sqrt{d\, d_j}},

    the propagation of the GCN along edges that lead from training rows to new rows and not back: so a new row changes
    neither the training rows nor another new one. The logits are averaged over sampled graphs, as for the training
    rows.

    Args:
        X: training rows, dense or CSR, shape [N, F].
        weights: W_0 of shape [F, H] and W_1 of shape [H, C].
        structure: the learned structure.
        samples: number of graphs.
        seed: seed of the graphs.
        n_neighbors: k; 0 for a network that uses no graph.
        metric: distance that the nearest rows are found by.
    """

    def __init__(
        self,
        X: Any,
        weights: tuple[Array, Array],
        structure: Structure,
        *,
        samples: int,
        seed: int,
        n_neighbors: int,
        metric: str,
    ) -> None:
        self.weights = weights
        self.metric = metric
        self.nearest: NearestNeighbors | None = None
        if n_neighbors:
            self.nearest = NearestNeighbors(n_neighbors=n_neighbors, metric=metric).fit(self._of_safe_size(X))
        self.first: Array = safe_sparse_dot(X, weights[0])  # x_j W_0, shape [N, H]
        self.graphs: list[tuple[Array, Array]] = []  # d_j^{-1/2} of shape [N], and h_j W_1 of shape [N, C]
        cuda = cuda_devices()
        with forked(cuda):
            reseed(seed, EVALUATE, cuda=cuda)
            for _ in range(samples):
                graph = structure.draw()
                scale = graph.scale.cpu().numpy().astype(np.float64)
                row, col, weight = (x.cpu().numpy() for x in (graph.row, graph.col, graph.weight))
                a: Any = scipy.sparse.csr_array((weight, (row, col)), shape=(len(scale), len(scale)))
                inner = scale[:, None] * self.first
                hidden = np.maximum(scale[:, None] * (a @ inner + a.T @ inner + inner), 0)
                self.graphs.append((scale, hidden @ weights[1]))

    def _of_safe_size(self, X: Any) -> Any:
        return of_safe_size(X) if self.metric == "cosine" else X

    def logits(self, X: Any) -> Array:
        """Return the logits of new rows, shape [M, C]."""
        if self.nearest is None:
            without: Array = np.maximum(safe_sparse_dot(X, self.weights[0]), 0) @ self.weights[1]
            return without
        nearest = self.nearest.kneighbors(self._of_safe_size(X), return_distance=False)
        rows, k = nearest.shape
        starts = np.arange(0, rows * k + 1, k)
        own = safe_sparse_dot(X, self.weights[0]) / (1 + k)
        total = np.zeros((rows, self.weights[1].shape[1]))
        for scale, second in self.graphs:
            values = scale[nearest].ravel() / np.sqrt(1 + k)
            attach: Any = scipy.sparse.csr_array((values, nearest.ravel(), starts), shape=(rows, len(scale)))
            hidden = np.maximum(own + attach @ self.first, 0)
            total += hidden @ self.weights[1] / (1 + k) + attach @ second
        return total / len(self.graphs)
