"""Networks trained from scratch at a structure that stays as it is, stopped by nodes that train nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lds._random import EVALUATE, INIT, forked, mix, reseed
from lds.graph import SampledGraph
from lds.hypergrad import record
from lds.learner._task import Params, Task
from lds.updaters import Objective, State, Updater

# Inner steps between two looks at the nodes that stop.
_WINDOW = 10
# Tells the draws of networks trained on pseudo-labels from those of the first ones.
_AGAIN = 1 << 29


@dataclass(frozen=True)
class Trained:
    """A network at its best step, or the mean of several.

    Attributes:
        params: weights, of the best network where there are several.
        logits: its logits averaged over graphs, shape [N, C].
        accuracy: on the nodes that stop.
        loss: cross-entropy on them.
        inner_loss: of the step that led there.
    """

    params: Params
    logits: Tensor
    accuracy: float
    loss: float
    inner_loss: float

    @property
    def score(self) -> tuple[float, float]:
        """What is to be high: the accuracy, and of equals a low loss."""
        return self.accuracy, -self.loss


@dataclass(frozen=True)
class Networks:
    """What trains networks; each is taken at the step with the best accuracy, of equals at the lowest loss.

    Args:
        task: model and data, with the training nodes that are to be.
        outer: the outer variables, held.
        inner: the inner objective.
        updater: the inner updater.
        draw: returns a graph to predict on.
        selection: the split that stops.
        steps: inner steps of a network, at most.
        patience: steps without improvement before its training ends.
        samples: graphs averaged for a prediction.
    """

    task: Task
    outer: Any
    inner: Objective
    updater: Updater
    draw: Callable[[], SampledGraph]
    selection: str
    steps: int
    patience: int
    samples: int

    def train(self, seeds: Sequence[int], *, self_training: float = 0.0, rival: Trained | None = None) -> Trained:
        """Return the mean of networks, one a seed, trained once more on pseudo-labels where that is better.

        Self-training, Li, Han, Wu, `Deeper Insights into Graph Convolutional Networks
        <https://arxiv.org/abs/1801.07606>`_ (AAAI 2018): nodes without a label that is known get the predicted one. It
        is guarded: the nodes that stop decide which of both means is returned.

        Args:
            seeds: a seed for each network.
            self_training: share of the nodes predicted to be of a class that take part, the most confident first; 0
                trains no second time.
            rival: what was trained before, returned and self-trained on where it is better than the mean.
        """
        first = self._mean(seeds)
        if rival is not None:
            first = max(rival, first, key=lambda trained: trained.score)
        if not self_training:
            return first
        nodes, labels = pseudo_labels(self.task, first.logits, self_training)
        with self.task.nodes_as(train=torch.cat([self.task.nodes["train"], nodes])), self.task.labels_as(labels):
            again = self._mean([mix(seed, _AGAIN) for seed in seeds])
        return max(first, again, key=lambda trained: trained.score)

    def _mean(self, seeds: Sequence[int]) -> Trained:
        found = [self._one(seed) for seed in seeds]
        best = max(found, key=lambda trained: trained.score)
        if len(found) == 1:
            return best
        logits = torch.stack([trained.logits for trained in found]).mean(0)
        accuracy, loss = self._judge(logits)
        return replace(best, logits=logits, accuracy=accuracy, loss=loss)

    def _one(self, seed: int) -> Trained:
        task = self.task
        with forked(task.cuda):
            reseed(seed, INIT, cuda=task.cuda)
            params = task.initial_params()
        state: State | None = None
        best: Trained | None = None
        step = stale = 0
        while step < self.steps and stale < self.patience:
            steps = min(_WINDOW, self.steps - step)
            trajectory = record(
                self.inner, params, self.outer, updater=self.updater, steps=steps, horizon=0, seed=seed, state=state
            )
            state, step, stale = trajectory.final_state, step + steps, stale + steps
            with forked(task.cuda):
                reseed(seed, EVALUATE, cuda=task.cuda)
                logits = task.mean_logits(state.params, self.draw, self.samples)
            found = Trained(state.params, logits, *self._judge(logits), float(trajectory.inner_losses[-1]))
            if best is None or found.score > best.score:
                best, stale = found, 0
        assert best is not None
        return best

    def _judge(self, logits: Tensor) -> tuple[float, float]:
        return self.task.judged(logits, self.selection)


def pseudo_labels(task: Task, logits: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Return nodes without a known label, and labels of all nodes in which they have the predicted ones.

    Args:
        task: its training, validation and early-stopping nodes have known labels.
        logits: shape [N, C].
        share: of the nodes predicted to be of a class; the most confident ones, rounded up.
    """
    confidence, labels = logits.softmax(1).max(1)
    free = torch.ones(task.num_nodes, dtype=torch.bool, device=logits.device)
    for split in ("train", "val", "es"):
        free[task.nodes[split]] = False
    found = []
    for label in range(task.num_classes):
        nodes = (free & (labels == label)).nonzero().flatten()
        order = torch.sort(confidence[nodes], descending=True, stable=True).indices
        found.append(nodes[order[: math.ceil(share * nodes.numel())]])
    chosen = torch.cat(found).sort().values
    known = task.known.y.clone()
    known[chosen] = labels[chosen]
    return chosen, known
