"""From a configuration to the learner it names."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from lds.graph import GivenGraph, KNNGraph
from lds.learner import FixedGraphLearner, StructureLearner
from lds.nn import GCN
from lds.run._config import TrainConfig

if TYPE_CHECKING:
    from torch_geometric.data import Data


def make_learner(config: TrainConfig, data: Data) -> StructureLearner | FixedGraphLearner:
    """Return the learner that the method names."""
    knn = config.method.startswith("knn-") or (config.method == "frozen" and data.edge_index.numel() == 0)
    graph = KNNGraph(config.k, config.metric) if knn else GivenGraph()
    model = partial(GCN, hidden_channels=config.hidden, dropout=config.dropout)
    if config.method in ("gcn", "knn-gcn"):
        return FixedGraphLearner(graph=graph, model=model, lr=config.inner_lr, weight_decay=config.weight_decay)
    return StructureLearner(
        tau=config.tau,
        horizon=config.horizon,
        outer_lr=config.outer_lr,
        learn_structure=config.method != "frozen",
        graph=graph,
        model=model,
        inner_lr=config.inner_lr,
        learn_inner_lr=config.learn_inner_lr,
        weight_decay=config.weight_decay,
        patience=config.patience,
        max_epochs=config.max_epochs,
        samples=config.samples,
        noise=config.noise,
    )
