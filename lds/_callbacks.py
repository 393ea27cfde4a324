"""What a learner reports while it trains, and the callbacks that it reports to.

Imports nothing heavy: run folders and progress bars are callbacks too, and the command line must answer without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from lds.errors import InputError


@dataclass(frozen=True)
class StepRecord:
    """One outer step: a window of inner steps and, where the structure is learned, one update of θ.

    Attributes:
        epoch: outer epoch, from 1.
        outer_step: outer step, from 1, over all epochs.
        inner_loss: inner objective, averaged over the window.
        outer_loss: outer objective at the end of the window; None where it is not evaluated.
        expected_edges: expected number of undirected edges after the update.

    Example:
        >>> import lds
        >>> from lds.data import load
        >>> from lds.graph import KNNGraph
        >>> from lds.learner import Callback
        >>> class Steps(Callback):
        ...     def on_step(self, record):
        ...         if record.outer_step == 1:
        ...             print(record.epoch, record.outer_step)
        >>> learner = lds.StructureLearner(graph=KNNGraph(10), inner_steps=10, max_epochs=1, samples=2)
        >>> fit = learner.fit(load("wine"), callbacks=[Steps()])
        1 1
    """

    epoch: int
    outer_step: int
    inner_loss: float
    outer_loss: float | None
    expected_edges: float


@dataclass(frozen=True)
class EpochRecord:
    """One outer epoch: the weights trained from scratch, then evaluated.

    Attributes:
        epoch: outer epoch, from 1.
        outer_step: outer steps so far.
        inner_loss: inner objective, averaged over the last window.
        es_accuracy: accuracy on the early-stopping nodes, in [0, 1].
        es_loss: cross-entropy on the early-stopping nodes.
        expected_edges: expected number of undirected edges.
        improved: whether this is the best epoch so far.

    Example:
        >>> import lds
        >>> from lds.data import load
        >>> from lds.graph import KNNGraph
        >>> learner = lds.StructureLearner(graph=KNNGraph(10), inner_steps=10, max_epochs=1, samples=2)
        >>> fit = learner.fit(load("wine"), seed=0)
        >>> fit.history[0].epoch, fit.history[0].improved
        (1, True)
    """

    epoch: int
    outer_step: int
    inner_loss: float
    es_accuracy: float
    es_loss: float
    expected_edges: float
    improved: bool


@dataclass(frozen=True)
class FoldRecord:
    """A learner of a comparison was trained without one fold of the labelled nodes, and judged on it.

    Attributes:
        learner: its name.
        fold: number of the fold, from 1, over all repeats.
        folds: how many there are.
        nodes: the nodes of the fold.
        losses: cross-entropy of each.
        right: whether each was classified correctly.

    Example:
        >>> from lds.data import load
        >>> from lds.learner import Callback, FixedGraphLearner, choose
        >>> class Folds(Callback):
        ...     def on_fold(self, record):
        ...         print(record.learner, record.fold, record.folds, len(record.nodes))
        >>> choice = choose(
        ...     load("wine"), {"no graph": FixedGraphLearner(None, steps=20)}, folds=2, callbacks=[Folds()]
        ... )
        no graph 1 2 15
        no graph 2 2 15
    """

    learner: str
    fold: int
    folds: int
    nodes: tuple[int, ...]
    losses: tuple[float, ...]
    right: tuple[bool, ...]


class Callback:
    """A learner reports to it while it trains; derive from it and override what you need.

    An exception ends learning without a result and reaches the caller of `fit`.

    Example:
        >>> import lds
        >>> from lds.data import load
        >>> from lds.graph import KNNGraph
        >>> from lds.learner import Callback
        >>> class Steps(Callback):
        ...     def on_step(self, record):
        ...         if record.outer_step == 1:
        ...             print(record.epoch, record.outer_step)
        >>> learner = lds.StructureLearner(graph=KNNGraph(10), inner_steps=10, max_epochs=1, samples=2)
        >>> fit = learner.fit(load("wine"), callbacks=[Steps()])
        1 1
    """

    def on_start(self, history: Sequence[EpochRecord], outer_step: int) -> None:
        """Learning begins, or goes on where it was cut off.

        Args:
            history: the outer epochs that ended before; none in a new training.
            outer_step: outer steps before; records of later ones that were reported then are reported again.
        """

    def on_step(self, record: StepRecord) -> bool | None:
        """An outer step was taken; True ends the epoch, which is evaluated like any other, and learning with it."""

    def on_epoch(self, record: EpochRecord) -> bool | None:
        """An outer epoch was evaluated; True ends learning, and `fit` returns the best epoch so far."""

    def on_fold(self, record: FoldRecord) -> None:
        """A learner was judged on a fold, in `choose`, which tells of nothing else."""

    def on_resumable(self, dump: Callable[[], dict[str, Any]]) -> None:
        """An outer step or an outer epoch has ended, and learning can be resumed later from what `dump` returns.

        It then goes on from here, or, where sweeps go back over more than one outer step, from the start of the epoch.

        Args:
            dump: returns what to hand to `fit` as `resume`: numbers, texts, tensors.
        """

    def on_end(self) -> None:
        """Learning has ended, in whatever way."""


class Callbacks(Callback):
    """Several callbacks as one: all are told, in their order, and each may end learning.

    Raises:
        InputError: they are no list, or one of them is no callback.
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        if not isinstance(callbacks, Iterable):
            raise InputError(f"callbacks must be a list of callbacks, got {callbacks!r:.80}; put it into a list")
        for callback in callbacks:
            if not isinstance(callback, Callback):
                raise InputError(
                    f"callbacks must be objects of classes derived from lds.learner.Callback, got {callback!r:.80}"
                )
        self._callbacks = tuple(callbacks)

    @contextmanager
    def running(self, history: Sequence[EpochRecord] = (), outer_step: int = 0) -> Iterator[None]:
        """Tell of the beginning and, however it ends, of the end."""
        try:
            self.on_start(history, outer_step)
            yield
        finally:
            self.on_end()

    def on_start(self, history: Sequence[EpochRecord], outer_step: int) -> None:
        """Tell all."""
        for callback in self._callbacks:
            callback.on_start(history, outer_step)

    def on_step(self, record: StepRecord) -> bool:
        """Tell all; return whether one of them ends learning."""
        answers = [callback.on_step(record) for callback in self._callbacks]
        return any(answers)

    def on_epoch(self, record: EpochRecord) -> bool:
        """Tell all; return whether one of them ends learning."""
        answers = [callback.on_epoch(record) for callback in self._callbacks]
        return any(answers)

    def on_fold(self, record: FoldRecord) -> None:
        """Tell all."""
        for callback in self._callbacks:
            callback.on_fold(record)

    def on_resumable(self, dump: Callable[[], dict[str, Any]]) -> None:
        """Tell all."""
        for callback in self._callbacks:
            callback.on_resumable(dump)

    def on_end(self) -> None:
        """Tell all, whatever one of them raises."""
        with ExitStack() as stack:
            for callback in reversed(self._callbacks):
                stack.callback(callback.on_end)
