"""Models that propagate predictions: many steps over a sampled graph, few weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lds._checks import check, check_integer
from lds.graph import SampledGraph, SparseMatrix
from lds.nn._networks import check_dropout, drop, layer_shapes


class SGC(nn.Module):
    r"""Simple graph convolution, Wu et al., `Simplifying Graph Convolutional Networks
    <https://arxiv.org/abs/1902.07153>`_ (ICML 2019): a linear model of propagated features.

    .. math:: \text{logits} = \hat A^K X W

    The products are with X W, which is thin, never with X.

    Args:
        in_channels: number of features F.
        out_channels: number of classes C.
        steps: K ≥ 1.

    Raises:
        InputError: steps is out of range.

    Example:
        >>> import torch
        >>> from lds.graph import AllPairs
        >>> graph = AllPairs(3, torch.tensor([[0], [1]])).draw()
        >>> SGC(4, 2)(torch.randn(3, 4), graph).shape
        torch.Size([3, 2])
    """  # noqa: D205

    accepts_sparse = True

    def __init__(self, in_channels: int, out_channels: int, *, steps: int = 2) -> None:
        super().__init__()
        check_integer("steps", steps)
        ((rows, columns),) = layer_shapes(in_channels, 1, out_channels, 1)
        self.weight = nn.Parameter(torch.empty(rows, columns))
        nn.init.xavier_uniform_(self.weight)
        self.steps = steps

    @property
    def hops(self) -> int:
        """How many products with the graph follow one another: a logit depends on nodes at most so many edges away."""
        return self.steps

    def forward(self, x: Tensor | SparseMatrix, graph: SampledGraph) -> Tensor:
        """Return the logits, shape [N, C], for features of shape [N, F]."""
        h: Tensor = x @ self.weight
        for _ in range(self.steps):
            h = graph.propagate(h)
        return h


class APPNP(nn.Module):
    r"""Personalised propagation of neural predictions, Gasteiger et al., `Predict then Propagate
    <https://arxiv.org/abs/1810.05997>`_ (ICLR 2019): a feed-forward network, whose predictions wander over the graph.

    .. math:: H = \mathrm{dropout}(\mathrm{ReLU}(X W_0)) W_1, \quad Z_0 = H, \quad
        Z_{k+1} = (1 - \alpha) \hat A Z_k + \alpha H, \quad \text{logits} = Z_K

    Args:
        in_channels: number of features F.
        out_channels: number of classes C.
        hidden_channels: width of the hidden layer.
        steps: K ≥ 1.
        alpha: share α of the own prediction in every step, in [0, 1].
        dropout: probability of dropping a hidden activation, in [0, 1).

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> import torch
        >>> from lds.graph import AllPairs
        >>> graph = AllPairs(3, torch.tensor([[0], [1]])).draw()
        >>> APPNP(4, 2, steps=3)(torch.randn(3, 4), graph).shape
        torch.Size([3, 2])
    """  # noqa: D205

    accepts_sparse = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        hidden_channels: int = 16,
        steps: int = 10,
        alpha: float = 0.1,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        check_integer("steps", steps)
        check("alpha", alpha, "a number in [0, 1]", lambda value: 0 <= value <= 1)
        shapes = layer_shapes(in_channels, hidden_channels, out_channels, 2)
        self.weights = nn.ParameterList(torch.empty(shape) for shape in shapes)
        for weight in self.weights:
            nn.init.xavier_uniform_(weight)
        self.steps, self.alpha, self.dropout = steps, alpha, check_dropout(dropout)

    @property
    def hops(self) -> int:
        """How many products with the graph follow one another: a logit depends on nodes at most so many edges away."""
        return self.steps

    def forward(self, x: Tensor | SparseMatrix, graph: SampledGraph) -> Tensor:
        """Return the logits, shape [N, C], for features of shape [N, F]."""
        first, second = self.weights
        h: Tensor = (x @ first).relu()
        if self.training and self.dropout:
            h = drop(h, self.dropout, graph)
        h = h @ second
        z = h
        for _ in range(self.steps):
            z = (1 - self.alpha) * graph.propagate(z) + self.alpha * h
        return z
