"""A run as TensorBoard shows it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lds._callbacks import Callback, EpochRecord, StepRecord
from lds._files import refuse_links
from lds.errors import InputError, StorageError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

# What a record counts by, and what is no curve.
_NOT_SCALARS = ("epoch", "outer_step", "improved")


class TensorBoard(Callback):
    """Writes the numbers of every outer step and epoch as scalars.

    Steps and epochs are two runs of TensorBoard, each with its own abscissa. When learning goes on where it was cut
    off, each hides what is reported again: TensorBoard drops the older values from `purge_step` on.

    Args:
        folder: where event files go; made at the first record.

    Raises:
        InputError: TensorBoard is not installed.

    Example:
        >>> from lds.run import TensorBoard  # doctest: +SKIP
        >>> log = TensorBoard(Path("events"))  # doctest: +SKIP
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InputError(
                "logging to TensorBoard needs tensorboard, which is not here; pip install 'lds-gnn[tensorboard]'"
            ) from error
        self._make = SummaryWriter
        self._folder = folder
        self._first: dict[str, int] = {}
        self._writers: dict[str, SummaryWriter] = {}

    def on_start(self, history: Sequence[EpochRecord], outer_step: int) -> None:
        """Note which step and which epoch come next."""
        self._first = {"steps": outer_step + 1, "epochs": len(history) + 1}

    def on_step(self, record: StepRecord) -> None:
        """Write an outer step."""
        self._write("steps", "step", vars(record), record.outer_step)

    def on_epoch(self, record: EpochRecord) -> None:
        """Write an outer epoch."""
        self._write("epochs", "epoch", vars(record), record.epoch)

    def on_resumable(self, dump: Callable[[], dict[str, Any]]) -> None:
        """Have nothing left in memory: a run that goes on from here does not report it again."""
        with _storage(self._folder):
            self._check()
            for writer in self._writers.values():
                writer.flush()

    def on_end(self) -> None:
        """Close the files."""
        with _storage(self._folder):
            self._check()
            while self._writers:
                self._writers.popitem()[1].close()

    def _write(self, run: str, group: str, values: dict[str, Any], index: int) -> None:
        with _storage(self._folder):
            self._check()
            refuse_links(self._folder.parent, self._folder.name, run)
            if run not in self._writers:
                self._writers[run] = self._make(str(self._folder / run), purge_step=self._first[run])
            for name, value in values.items():
                if name not in _NOT_SCALARS and value is not None:
                    self._writers[run].add_scalar(f"{group}/{name}", value, index)

    def _check(self) -> None:
        """Raise where the files are gone: a writer would find out in a thread of its own, and print its traceback."""
        if not all((self._folder / run).is_dir() for run in self._writers):
            self._writers.clear()  # Nor at the end.
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


@contextmanager
def _storage(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be written: {error.strerror}; make room or give the rights, and go on from there"
        ) from error
