"""Graph networks that use a sampled graph through products only."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from lds._memory import ROOM, too_large
from lds.errors import InputError
from lds.graph import SampledGraph, SparseMatrix


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

    Example:
        >>> import torch
        >>> from lds.graph import SampledGraph
        >>> from lds.nn import GCN
        >>> graph = SampledGraph(3, torch.tensor([0]), torch.tensor([1]), torch.ones(1))
        >>> GCN(4, 2)(torch.randn(3, 4), graph).shape
        torch.Size([3, 2])
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

    @property
    def hops(self) -> int:
        """How many products with the graph follow one another: a logit depends on nodes at most so many edges away."""
        return len(self.weights)

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
                h = drop(h, self.dropout, graph)
        return graph.propagate(h @ last)


class SAGE(nn.Module):
    r"""GraphSAGE with mean aggregation, Hamilton et al., `Inductive Representation Learning on Large Graphs
    <https://arxiv.org/abs/1706.02216>`_ (NeurIPS 2017), on any structure.

    .. math:: H_{l+1} = \sigma(H_l W_l + \max(d, 1)^{-1} \odot A H_l V_l), \qquad d = A 1

    The degrees are a product with A too, so the structure's gradient goes through the mean.

    Args:
        in_channels: number of features F.
        out_channels: number of classes C.
        hidden_channels: width of the hidden layers.
        num_layers: number of layers L ≥ 1.
        dropout: probability of dropping a hidden activation, in [0, 1).

    Raises:
        InputError: num_layers, hidden_channels or dropout out of range.

    Example:
        >>> import torch
        >>> from lds.graph import SampledGraph
        >>> from lds.nn import SAGE
        >>> graph = SampledGraph(3, torch.tensor([0]), torch.tensor([1]), torch.ones(1))
        >>> SAGE(4, 2)(torch.randn(3, 4), graph).shape
        torch.Size([3, 2])
    """  # noqa: D205

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
        self.own = nn.ModuleList(nn.Linear(*shape) for shape in shapes)
        self.neighbours = nn.ModuleList(nn.Linear(*shape, bias=False) for shape in shapes)
        self.dropout = check_dropout(dropout)

    @property
    def hops(self) -> int:
        """How many products with the graph follow one another; the degrees are taken of the same nodes as the means."""
        return len(self.own)

    def forward(self, x: Tensor, graph: SampledGraph) -> Tensor:
        """Return the logits, shape [N, C], for features of shape [N, F]."""
        degree = graph.matmul(x.new_ones(x.shape[0], 1)).clamp(min=1)
        last = len(self.own) - 1
        for number, (own, neighbours) in enumerate(zip(self.own, self.neighbours, strict=True)):
            x = own(x) + graph.matmul(neighbours(x)) / degree
            if number < last:
                x = x.relu()
                if self.training and self.dropout:
                    x = drop(x, self.dropout, graph)
        return x


def layer_shapes(in_channels: int, hidden_channels: int, out_channels: int, num_layers: int) -> list[tuple[int, int]]:
    """Return the (input, output) widths of every layer.

    Raises:
        InputError: num_layers or hidden_channels is not positive, or the weights do not fit into memory.
    """
    for name, value in (("num_layers", num_layers), ("hidden_channels", hidden_channels)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    shapes = list(pairwise([in_channels, *[hidden_channels] * (num_layers - 1), out_channels]))
    # In single precision, with their gradients.
    weights = sum(rows * columns for rows, columns in shapes)
    if 8 * weights > ROOM:
        raise too_large(
            f"{weights} weights of 4 bytes, from {in_channels} features over {hidden_channels} hidden units to "
            f"{out_channels} classes, and their gradients",
            8 * weights,
            "take fewer hidden units, features or classes",
        )
    return shapes


def check_dropout(p: float) -> float:
    """Return a probability of dropout.

    Raises:
        InputError: it is not in [0, 1).
    """
    if not 0 <= p < 1:
        raise InputError(f"dropout must lie in [0, 1), got {p}")
    return p


def drop(x: Tensor, p: float, graph: SampledGraph) -> Tensor:
    """Return x with entries zeroed with probability p and the others divided by 1 − p.

    The graph has the random numbers, so that a node has the same mask in the whole graph and in a part of it.
    `torch.nn.functional.dropout` draws its mask one double at a time on the CPU, several times as slow.
    """
    return x * graph.dropout_mask(x, p)
