"""Graph attention with edge weights; imports torch_geometric, so ask for it by its module's name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.nn import GATConv
from torch_geometric.utils import scatter


class WeightedGATConv(GATConv):  # type: ignore[misc]
    r"""`torch_geometric.nn.GATConv` whose attention takes edge weights, for a structure on candidate pairs.

    Veličković et al., `Graph Attention Networks <https://arxiv.org/abs/1710.10903>`_ (ICLR 2018), with

    .. math:: \alpha_{ij} = \frac{w_{ij} \exp(e_{ij})}{\sum_{k \in N(i) \cup \{i\}} w_{ik} \exp(e_{ik})}

    where w is 1 for edges that were drawn and for the self loop, and 0 for others: those leave the result as if they
    were not there, and have a gradient in their weight.

    Args:
        in_channels: number of input features.
        out_channels: number of output features a head.
        **options: further arguments of `GATConv`, such as `heads` and `concat`.

    Example:
        >>> import torch
        >>> from lds.nn.gat import WeightedGATConv
        >>> edges, weight = torch.tensor([[0, 1], [1, 0]]), torch.ones(2)
        >>> WeightedGATConv(4, 2)(torch.randn(3, 4), edges, weight).shape
        torch.Size([3, 2])
    """

    def __init__(self, in_channels: int, out_channels: int, **options: Any) -> None:
        super().__init__(in_channels, out_channels, fill_value=1.0, **options)

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
        """Return the new features, for x of shape [N, F], edge_index [2, E] and edge_weight [E]."""
        result: Tensor = super().forward(x, edge_index, edge_attr=edge_weight[:, None])
        return result

    def edge_update(
        self,
        alpha_j: Tensor,
        alpha_i: Tensor,
        edge_attr: Tensor,
        index: Tensor,
        ptr: Tensor | None,
        dim_size: int | None,
    ) -> Tensor:
        """Return the attention coefficients, shape [E, heads]."""
        e = torch.nn.functional.leaky_relu(alpha_j + alpha_i, self.negative_slope)
        # The largest exponent is taken over all edges, drawn or not: it cancels, and only keeps exp in range.
        largest = scatter(e.detach(), index, dim=0, dim_size=dim_size, reduce="max")
        weighted = edge_attr * (e - largest[index]).exp()
        total = scatter(weighted, index, dim=0, dim_size=dim_size, reduce="sum")
        alpha: Tensor = weighted / total[index]
        return torch.nn.functional.dropout(alpha, p=self.dropout, training=self.training)
