"""The baseline: a graph network on a fixed graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lds._random import INIT, forked, mix, reseed
from lds.graph import CandidatePairs, GivenGraph
from lds.hypergrad import record
from lds.learner._arguments import check_integers, check_sizes
from lds.learner._fit import Callback, EpochRecord, Fit
from lds.learner._task import ModelFactory, Params, Task
from lds.nn import GCN
from lds.updaters import Adam, State

if TYPE_CHECKING:
    from torch_geometric.data import Data

# Inner steps between two looks at the selection nodes.
_WINDOW = 10


@dataclass(frozen=True)
class FixedGraphLearner:
    """Train a graph network once on a fixed graph, as a plain GCN is trained.

    The same model, inner objective and updater as `StructureLearner`. The nodes that structure learning spends on
    validation and early stopping both go into choosing when to stop here.

    Args:
        graph: the graph, a function of the data: `GivenGraph()`, `KNNGraph(k, metric)`, or your own.
        model: factory of the graph network, (number of features, number of classes) -> module called with (x, graph).
        lr: learning rate of Adam.
        weight_decay: λ of the inner penalty λ/2 ‖W_0‖².
        steps: steps of training, at most.
        patience: steps without improvement on the selection nodes before training ends.

    Raises:
        InputError: an argument is out of range.
    """

    graph: Callable[[Data], Tensor] = field(default_factory=GivenGraph)
    model: ModelFactory = GCN
    lr: float = 0.02
    weight_decay: float = 5e-4
    steps: int = 400
    patience: int = 100

    def __post_init__(self) -> None:
        check_integers(self, "steps", "patience")
        check_sizes(self, "lr", "weight_decay")

    def fit(self, data: Data, *, seed: int = 0, callbacks: Sequence[Callback] = ()) -> Fit:
        """Train on one data set; arguments and errors as for `StructureLearner.fit`."""
        task = Task(data, self.model, self.weight_decay)
        task.nodes["selection"] = torch.cat([task.nodes["val"], task.nodes["es"]])
        structure = CandidatePairs(task.num_nodes, self.graph(data), dtype=task.dtype)
        seed = mix(seed, 1)
        with forked(task.cuda):
            reseed(seed, INIT, cuda=task.cuda)
            params = task.initial_params()
            graph = structure.draw()  # All probabilities are 0 or 1.

        def inner(params: Params, outer: Any) -> Tensor:
            return task.inner_loss(params, graph)

        state: State | None = None
        best: tuple[Params, Tensor, float] | None = None
        score = (-math.inf, -math.inf)
        step = stale = 0
        while step < self.steps and stale < self.patience:
            steps = min(_WINDOW, self.steps - step)
            trajectory = record(
                inner, params, (), updater=Adam(self.lr, eps=1e-5), steps=steps, horizon=0, seed=seed, state=state
            )
            state, step, stale = trajectory.final_state, step + steps, stale + steps
            logits = task.mean_logits(state.params, lambda: graph, 1)
            found = (task.accuracy(logits, "selection"), -task.loss(logits, "selection").item())
            if found > score:
                score, stale = found, 0
                best = (state.params, logits, float(trajectory.inner_losses[-1]))
        assert best is not None
        params, logits, inner_loss = best
        accuracy, loss = task.accuracy(logits, "es"), task.loss(logits, "es").item()
        epoch = EpochRecord(1, 0, inner_loss, accuracy, loss, structure.expected_edges, improved=True)
        for callback in callbacks:
            callback.on_epoch(epoch)
        return Fit(structure, params, logits, (epoch,), 0, task)
