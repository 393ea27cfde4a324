"""The progress bar over the runs of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from lds.sweep._ledger import Outcome


class SweepBar:
    """Shows on a terminal line how many runs have ended and failed, and the time left.

    Args:
        label: what to write before it.
        total: number of runs.
        ended: the outcomes of earlier times; they do not count in the time that a run takes.
        hide: show nothing.
    """

    def __init__(self, label: str, total: int, ended: Sequence[Outcome], *, hide: bool) -> None:
        self._failed = sum(outcome.status == "failed" for outcome in ended)
        self._bar: Any = tqdm(
            desc=label,
            total=total,
            initial=len(ended),
            unit="run",
            disable=True if hide else None,  # None: hidden where stderr is no terminal.
            dynamic_ncols=True,
            smoothing=0,  # The time left by the mean of all runs: those of a grid take turns in being long.
            postfix=self._postfix(),
        )

    def add(self, outcome: Outcome) -> None:
        """Count a run."""
        self._failed += outcome.status == "failed"
        self._bar.set_postfix(self._postfix(), refresh=False)
        self._bar.update()

    def __enter__(self) -> SweepBar:
        """Return the bar."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the line as it is."""
        self._bar.close()

    def _postfix(self) -> dict[str, int]:
        return {"failed": self._failed}
