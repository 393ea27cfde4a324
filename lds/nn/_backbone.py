"""Any torch_geometric model as the model of a learner."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from torch import Tensor, nn

from lds.errors import InputError
from lds.graph import CandidateGraph


class Backbone(nn.Module):
    """A message-passing model called with (x, edge_index, edge_weight=…), on a graph of candidate pairs.

    The edge index lists every candidate, and the weights of those that were not drawn are 0. So the model must use the
    weights, and use its edges through them only: a plain mean over neighbours or a plain attention counts edges of
    weight 0 too. `lds.nn.SAGE` and `lds.nn.gat.WeightedGATConv` are the versions that do not. Learners compare logits
    with and without such edges once, on a first draw, and refuse a model that counts them.

    Use it as `model=Backbone.factory(lambda in_channels, out_channels: …)` together with `edges=CandidatePairs`.

    Args:
        model: the module, such as `torch_geometric.nn.GCN(in_channels, 16, 2, out_channels)`.

    Raises:
        InputError: a part of the model ignores edge weights, or keeps the first graph that it sees.

    Example:
        >>> import torch
        >>> from torch_geometric.nn import GraphConv
        >>> from lds.nn import Backbone
        >>> model = Backbone.factory(GraphConv)  # for StructureLearner(model=model, edges=…)
        >>> model(4, 2)
        Backbone(
          (model): GraphConv(4, 2)
        )
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise InputError(f"a backbone is made of a torch.nn.Module, but {type(model).__name__} came; give a module")
        self.model = model
        for part in self.modules():
            _check(part)
        _check_call(model)

    @classmethod
    def factory(cls, model: Callable[[int, int], nn.Module]) -> Callable[[int, int], Backbone]:
        """Return a factory for `StructureLearner(model=…)` from one of the module alone.

        Raises:
            InputError: a module came, or nothing that can be called.
        """
        if isinstance(model, nn.Module) or not callable(model):
            raise InputError(
                "Backbone.factory needs a function, (number of features, number of classes) -> module, since "
                f"every epoch starts from new weights, but {type(model).__name__} came; write lambda features, "
                f"classes: {type(model).__name__}(…)"
            )
        return lambda in_channels, out_channels: cls(model(in_channels, out_channels))

    def forward(self, x: Tensor, graph: CandidateGraph) -> Tensor:
        """Return the logits, shape [N, C].

        Raises:
            InputError: the graph was not drawn from candidate pairs.
        """
        if not isinstance(graph, CandidateGraph):
            raise InputError("a backbone needs edge weights, which only edges=CandidatePairs has; set it")
        try:
            logits: Tensor = self.model(x, graph.edge_index, edge_weight=graph.edge_weight)
        except TypeError as error:
            if "edge_weight" in str(error):
                raise _no_weights(type(self.model).__name__) from error
            raise
        return logits


def _check_call(model: nn.Module) -> None:
    """Refuse a model that cannot be called with edge weights."""
    try:
        options = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return
    if not any(option.kind is option.VAR_KEYWORD or option.name == "edge_weight" for option in options):
        raise _no_weights(type(model).__name__)


def _no_weights(name: str) -> InputError:
    return InputError(
        f"a backbone is called with (x, edge_index, edge_weight=…), but {name} takes no edge_weight; take lds.nn.SAGE, "
        "layers of lds.nn.gat.WeightedGATConv, or a layer that has edge weights, such as GCNConv"
    )


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
