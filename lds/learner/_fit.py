"""What a learner returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from lds._callbacks import EpochRecord
from lds.errors import InputError
from lds.graph import Structure
from lds.learner._extract import extract

if TYPE_CHECKING:
    from torch_geometric.data import Data

    from lds.learner._task import Params, Task


@dataclass(frozen=True)
class Best:
    """The best epoch so far: weights, mean logits, a copy of θ, and the figures it was chosen by."""

    params: Params
    logits: Tensor
    theta: Tensor
    es_accuracy: float
    es_loss: float


@dataclass(frozen=True)
class Fit:
    """A fitted model and its structure, at the best early-stopping accuracy.

    Attributes:
        structure: the learned edge probabilities θ.
        params: weights of the model.
        logits: mean logits over sampled graphs, shape [N, C].
        history: one record an outer epoch.
        outer_steps: number of outer steps run, over all epochs.
    """

    structure: Structure
    params: Params
    logits: Tensor
    history: tuple[EpochRecord, ...]
    outer_steps: int
    _task: Task

    @property
    def outer_epochs(self) -> int:
        """Number of outer epochs run."""
        return len(self.history)

    @property
    def expected_edges(self) -> float:
        """Expected number of undirected edges of the learned structure."""
        return self.structure.expected_edges

    def accuracy(self, split: str) -> float:
        """Return the accuracy on "train", "val", "es" or "test", in [0, 1].

        Raises:
            InputError: there is no such split.
        """
        self._check(split)
        return self._task.accuracy(self.logits, split)

    def loss(self, split: str) -> float:
        """Return the cross-entropy on "train", "val", "es" or "test".

        Raises:
            InputError: there is no such split.
        """
        self._check(split)
        return self._task.loss(self.logits, split).item()

    def predict_proba(self) -> Tensor:
        """Return the class probabilities of all nodes, shape [N, C]."""
        return self.logits.softmax(1)

    def predict(self) -> Tensor:
        """Return the most probable class of all nodes, int64 of shape [N]."""
        return self.logits.argmax(1)

    def graph(self, threshold: float | None = None, *, top_k: int | None = None, sample: int | None = None) -> Data:
        """Return the learned structure as a graph: edges by threshold, the strongest ones of each node, or a sample.

        `edge_index` is int64 of shape [2, E], both directions; `edge_weight` the probabilities θ, shape [E], and 1 in a
        sample.

        Args:
            threshold: keep edges with a probability above it; 0.5 where no argument is given.
            top_k: keep the k most probable edges of each node; so a node has more where it is among those of others.
            sample: draw A ~ Bernoulli(θ) with this seed.

        Raises:
            InputError: more than one argument came, or one is out of range.
        """
        return extract(self.structure, threshold, top_k=top_k, sample=sample)

    def _check(self, split: str) -> None:
        if split not in self._task.nodes:
            raise InputError(f"split must be one of {', '.join(self._task.nodes)}, got {split!r}")
