"""From a configuration to the learner it names."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from lds.graph import GivenGraph, KNNGraph
from lds.learner import FixedGraphLearner, StructureLearner
from lds.nn import GCN
from lds.run._baseline_config import BaselineConfig
from lds.run._baselines import EstimatorLearner
from lds.run._config import TrainConfig

if TYPE_CHECKING:
    from torch_geometric.data import Data


def make_learner(
    config: TrainConfig | BaselineConfig, data: Data
) -> StructureLearner | FixedGraphLearner | EstimatorLearner:
    """Return the learner that the method names."""
    if isinstance(config, BaselineConfig):
        return EstimatorLearner(config)
    knn = config.method.startswith("knn-") or (config.method == "frozen" and data.edge_index.numel() == 0)
    graph = KNNGraph(config.k, config.metric) if knn else GivenGraph()
    model = partial(GCN, hidden_channels=config.hidden, dropout=config.dropout)
    if config.method in ("gcn", "gcn-rnd", "knn-gcn", "ffnn"):
        share = (0.5 if config.random_edges is None else config.random_edges) if config.method == "gcn-rnd" else 0.0
        return FixedGraphLearner(
            graph=None if config.method == "ffnn" else graph,
            random_edges=share,
            model=model,
            lr=config.inner_lr,
            weight_decay=config.weight_decay,
        )
    return StructureLearner(
        tau=config.tau,
        interval=config.interval,
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
