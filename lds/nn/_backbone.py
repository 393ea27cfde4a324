"""Any torch_geometric model as the model of a learner."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from lds.errors import InputError
from lds.graph import CandidateGraph


class Backbone(nn.Module):
    """A message-passing model called with (x, edge_index, edge_weight=…), on a graph of candidate pairs.

    The edge index lists every candidate, and the weights of those that were not drawn are 0. So the model must use the
    weights, and use its edges through them only: a plain mean over neighbours or a plain attention counts edges of
    weight 0 too. `lds.nn.SAGE` and `lds.nn.gat.WeightedGATConv` are the versions that do not.

    Use it as `model=Backbone.factory(lambda in_channels, out_channels: …)` together with `edges=CandidatePairs`.

    Args:
        model: the module, such as `torch_geometric.nn.GCN(in_channels, 16, 2, out_channels)`.

    Raises:
        InputError: a part of the model ignores edge weights, or keeps the first graph that it sees.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        for part in self.modules():
            _check(part)

    @classmethod
    def factory(cls, model: Callable[[int, int], nn.Module]) -> Callable[[int, int], Backbone]:
        """Return a factory for `StructureLearner(model=…)` from one of the module alone."""
        return lambda in_channels, out_channels: cls(model(in_channels, out_channels))

    def forward(self, x: Tensor, graph: CandidateGraph) -> Tensor:
        """Return the logits, shape [N, C].

        Raises:
            InputError: the graph was not drawn from candidate pairs.
        """
        if not isinstance(graph, CandidateGraph):
            raise InputError("a backbone needs edge weights, which only edges=CandidatePairs has; set it")
        logits: Tensor = self.model(x, graph.edge_index, edge_weight=graph.edge_weight)
        return logits


def _check(part: nn.Module) -> None:
    name = type(part).__name__
    # torch_geometric's models take edge weights and drop them where this attribute is False.
    if getattr(part, "supports_edge_weight", None) is False:
        raise InputError(
            f"a backbone must use edge weights, but {name} ignores them, and would learn nothing; take lds.nn.SAGE, "
            "layers of lds.nn.gat.WeightedGATConv, or a model that supports edge weights"
        )
    if getattr(part, "cached", None) is True:
        raise InputError(f"a backbone sees another graph in every step, but {name} keeps the first; set cached=False")
