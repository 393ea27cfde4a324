"""Graph convolutional networks on a sampled graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lds.graph import SampledGraph, SparseMatrix
from lds.nn._layers import check_dropout, drop, layer_shapes


class GCN(nn.Module):
    r"""The graph convolutional network of Kipf and Welling, `Semi-Supervised Classification with Graph Convolutional
    Networks <https://arxiv.org/abs/1609.02907>`_ (ICLR 2017), as LDS uses it: no bias, dropout on hidden layers.

    .. math:: H_0 = X, \quad H_{l+1} = \mathrm{dropout}(\mathrm{ReLU}(\hat A H_l W_l)), \quad
        \text{logits} = \hat A H_{L-1} W_{L-1}

    Args:
        in_channels: number of features F.
        out_channels: number of classes C.
        hidden_channels: width of the hidden layers.
        num_layers: number of layers L ≥ 1.
        dropout: probability of dropping a hidden activation, in [0, 1).

    Raises:
        InputError: num_layers, hidden_channels or dropout out of range.
    """  # noqa: D205

    accepts_sparse = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        hidden_channels: int = 16,
        num_layers: int = 2,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        shapes = layer_shapes(in_channels, hidden_channels, out_channels, num_layers)
        self.weights = nn.ParameterList(torch.empty(shape) for shape in shapes)
        self.dropout = check_dropout(dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew (Glorot uniform)."""
        for weight in self.weights:
            nn.init.xavier_uniform_(weight)

    def forward(self, x: Tensor | SparseMatrix, graph: SampledGraph) -> Tensor:
        """Return the logits, shape [N, C].

        Args:
            x: features, shape [N, F].
            graph: graph of N nodes.
        """
        *hidden, last = self.weights
        h: Tensor | SparseMatrix = x
        for weight in hidden:
            h = graph.propagate(h @ weight).relu()
            if self.training and self.dropout:
                h = drop(h, self.dropout)
        return graph.propagate(h @ last)
