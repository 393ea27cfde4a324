"""What a run shows of itself while it trains: a bar on a terminal, and elsewhere a line per epoch through `logging`."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from lds._callbacks import Callback, EpochRecord, FoldRecord, StepRecord

_log = logging.getLogger("lds.run")
# A bar is no wider, also where the terminal is.
_COLUMNS = 80
_LONGEST_LABEL = 24


def _bar(description: str, total: int | None) -> Any:
    return tqdm(
        desc=description,
        total=total,
        ncols=min(_COLUMNS, shutil.get_terminal_size().columns) - 1,
        bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}",
    )


class ComparisonBar(Callback):
    """Shows how far a comparison of learners is, and the learner that was judged last.

    Where stderr is no terminal, each fold is a line of the logger `lds.run`.

    Args:
        learners: number of learners.
        hide: show nothing.
    """

    def __init__(self, learners: int, *, hide: bool = False) -> None:
        self._learners = learners
        self._hide = hide
        self._bar: Any = None
        self._fold = 0

    def on_fold(self, record: FoldRecord) -> None:
        """Show what was judged."""
        if self._hide:
            return
        begins, self._fold = record.fold != self._fold, record.fold
        if not sys.stderr.isatty():
            if begins:
                _log.info("comparing on held-out fold %d of %d", record.fold, record.folds)
            return
        if self._bar is None:
            self._bar = _bar("comparing", self._learners * record.folds)
        if begins:  # Some may have been left out of the fold before.
            self._bar.n = self._learners * (record.fold - 1)
        self._bar.set_postfix_str(f"fold {record.fold}, {record.learner}", refresh=False)
        self._bar.update()

    def close(self) -> None:
        """Leave the line as it is."""
        if self._bar is not None:
            self._bar.close()


class ProgressBar(Callback):
    """Shows how far the inner steps of an outer epoch are, the loss, and the accuracy so far.

    Where stderr is no terminal, each outer epoch is a line of the logger `lds.run`, at the level INFO.

    Args:
        label: what to write before it.
        inner_steps: inner steps of an epoch, at most; None for a learner that tells of none.
        interval: inner steps of an outer step.
        max_epochs: outer epochs, at most; None for no bound.
        hide: show nothing.
    """

    def __init__(
        self,
        label: str,
        inner_steps: int | None = None,
        interval: int = 1,
        max_epochs: int | None = None,
        *,
        hide: bool = False,
    ) -> None:
        self._label = label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 1]}…"
        self._total = None if inner_steps is None else -(-inner_steps // interval) * interval
        self._interval = interval
        self._of = "" if max_epochs is None else f"/{max_epochs}"
        self._hide = hide
        self._bar: Any = None
        self._epoch = 0
        self._best: EpochRecord | None = None

    def on_start(self, history: Sequence[EpochRecord], outer_step: int) -> None:
        """Note the best of the outer epochs that ended before."""
        self._best = next((record for record in reversed(history) if record.improved), None)

    def on_step(self, record: StepRecord) -> None:
        """Show an outer step."""
        # Even a hidden tqdm makes a semaphore, which a process that is killed leaves behind.
        if self._hide or not sys.stderr.isatty():
            return
        # Opened by the first record: a run that fails on its input leaves its message alone on the terminal.
        description = f"{self._label}, epoch {record.epoch}{self._of}"
        if self._bar is None:
            self._bar = _bar(description, self._total)
        elif record.epoch != self._epoch:
            self._bar.set_description_str(description, refresh=False)
            self._bar.reset()
        self._epoch = record.epoch
        best = "" if self._best is None else f", es {self._best.es_accuracy:.3f}"
        self._bar.set_postfix_str(f"loss {record.inner_loss:.3f}{best}", refresh=False)
        self._bar.update(self._interval)

    def on_epoch(self, record: EpochRecord) -> None:
        """Note whether it is the best, and write its line where there is no bar."""
        if record.improved:
            self._best = record
        if not self._hide and self._bar is None:
            _log.info(
                "epoch %d%s: inner loss %.4f, early-stopping accuracy %.4f%s, %s edges expected",
                record.epoch,
                self._of,
                record.inner_loss,
                record.es_accuracy,
                ", the best so far" if record.improved else "",
                f"{record.expected_edges:,.0f}",
            )

    def on_end(self) -> None:
        """Leave the line as it is."""
        if self._bar is not None:
            self._bar.close()
