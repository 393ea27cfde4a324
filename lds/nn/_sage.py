"""GraphSAGE on a sampled graph."""

from __future__ import annotations

from torch import Tensor, nn

from lds.graph import SampledGraph
from lds.nn._layers import check_dropout, drop, layer_shapes


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

    def forward(self, x: Tensor, graph: SampledGraph) -> Tensor:
        """Return the logits, shape [N, C], for features of shape [N, F]."""
        degree = graph.matmul(x.new_ones(x.shape[0], 1)).clamp(min=1)
        last = len(self.own) - 1
        for number, (own, neighbours) in enumerate(zip(self.own, self.neighbours, strict=True)):
            x = own(x) + graph.matmul(neighbours(x)) / degree
            if number < last:
                x = x.relu()
                if self.training and self.dropout:
                    x = drop(x, self.dropout)
        return x
