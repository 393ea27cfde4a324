"""The folder of a run: every file is complete or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from lds._callbacks import Callback, EpochRecord, FoldRecord, StepRecord
from lds._files import alone, append, lock_of, make_folder, write_atomically
from lds._sums import with_sum, yaml_with_sum
from lds.errors import InputError
from lds.run._export import EXPORT_FORMATS
from lds.run._reader import (
    CHECKPOINT,
    CONFIG,
    FAILURE,
    GRAPH,
    METRICS,
    NODE_NAMES,
    PLACES,
    PREDICTIONS,
    PROGRESS,
    RESULT,
    tie,
)

if TYPE_CHECKING:
    from lds.learner import Fit
    from lds.run._learner import EstimatorFit

# Edges below this probability are left out of the saved graph; a step of θ makes millions of negligible ones.
GRAPH_THRESHOLD = 0.01


class RunFolder(Callback):
    """Writes one run: config.yaml, metrics.jsonl, checkpoint.pt, graph.npz, predictions.csv and, last, result.json.

    A baseline of scikit-learn has no epochs and no graph: its predictions.npy stands instead of these. Where the data
    names its nodes, node_names.json says who is who, and class_names.json does so for classes.

    Nothing is written before the first outer step or epoch, so a run that fails on its input leaves nothing behind. Use
    it in a `with` statement: from the first file on, it keeps other processes out of the folder.

    Args:
        path: the folder; must not exist, or be empty, unless it is resumed.
        config: what to write to config.yaml.
        resumed: the folder holds a run of this configuration that has begun.

    Raises:
        InputError: the folder holds something already, or cannot be made, or another process is at work in it.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], *, resumed: bool = False) -> None:
        self.path = path
        self.config = config
        self._open = resumed
        self._held = ExitStack()
        if resumed:
            self._held.enter_context(alone(path))
        else:
            self._refuse_taken()

    def _refuse_taken(self) -> None:
        path = self.path
        try:
            # A first file that was cut off is named like this.
            taken = path.is_dir() and any(file.name != f".{CONFIG}.tmp" for file in path.iterdir())
            lock_of(path).exists()  # Where a name is too long for its lock, it is so before the training, too.
            existing = next(p for p in (path, *path.absolute().parents) if p.exists())
        except OSError as error:
            raise InputError(f"{path} cannot be made: {error.strerror}; choose another --out") from error
        if taken:
            raise InputError(f"{path} must be a new or empty folder, but holds files; choose another --out")
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            raise InputError(f"{path} cannot be made: {existing} is no writable folder; choose another --out")

    def __enter__(self) -> RunFolder:
        """Return the folder."""
        return self

    def __exit__(self, *error: object) -> None:
        """Let other processes in."""
        self._held.close()

    def on_start(self, history: Sequence[EpochRecord], outer_step: int) -> None:
        """Have metrics.jsonl hold the epochs of this history, and no line of one that is run again."""
        if (self.path / METRICS).exists():
            self._write_metrics(history)

    def on_fold(self, record: FoldRecord) -> None:
        """Make the folder, if it is not there yet."""
        self._begin()

    def on_step(self, record: StepRecord) -> None:
        """Make the folder, if it is not there yet."""
        self._begin()

    def on_epoch(self, record: EpochRecord) -> None:
        """Append a line to metrics.jsonl."""
        self._begin()
        append(self.path / METRICS, _line(record))

    def finish(
        self,
        fit: Fit | EstimatorFit,
        result: Mapping[str, Any],
        node_names: Sequence[str] | None = None,
        tables: Mapping[str, bytes] | None = None,
    ) -> dict[str, Any]:
        """Write what was fitted (checkpoint and learned graph, or predictions) and on which nodes, then the result.

        The configuration and the metrics are written again: whatever became of them since, they are those of the fit.
        `tables` are further files for people and other programs, by their names.
        Returns the result with what ties the files to it, as it was written.
        """
        from lds.learner import Fit

        self._begin()
        self._write_config()
        if isinstance(fit, Fit):
            self._write_fit(fit)
        else:
            write_atomically(self.path / PREDICTIONS, fit.predictions())
        if node_names is not None:
            content = json.dumps(list(node_names), ensure_ascii=False)
            write_atomically(self.path / NODE_NAMES, (content + "\n").encode())
        for name, table in (tables or {}).items():
            write_atomically(self.path / name, table)
        tied = tie(self.path, self.config, result)
        write_atomically(self.path / RESULT, (json.dumps(tied, indent=2) + "\n").encode())
        for name in (PROGRESS, f".{PROGRESS}.tmp", FAILURE, f".{FAILURE}.tmp"):
            with suppress(OSError):  # The run has ended: nobody reads them any more.
                (self.path / name).unlink()
        return tied

    def fail(self, content: Callable[[BinaryIO], object]) -> None:
        """Have failure.pt written."""
        self._begin()
        write_atomically(self.path / FAILURE, content)

    def _write_config(self) -> None:
        write_atomically(self.path / CONFIG, yaml_with_sum(self.config, PLACES))

    def _write_metrics(self, history: Sequence[EpochRecord]) -> None:
        lines = "".join(_line(record) + "\n" for record in history)
        write_atomically(self.path / METRICS, lines.encode())

    def _write_fit(self, fit: Fit) -> None:
        import torch

        from lds.graph import CandidatePairs
        from lds.learner._kept import stored

        self._write_metrics(fit.history)
        # Which pairs θ is of, where it is not of all.
        pairs = {"pairs": fit.structure.pairs} if isinstance(fit.structure, CandidatePairs) else {}
        theta = stored(fit.structure)
        saved = {"theta": theta, **pairs, "params": fit.params, "logits": fit.logits}
        write_atomically(self.path / CHECKPOINT, partial(torch.save, saved))
        write_atomically(self.path / GRAPH, EXPORT_FORMATS["npz"](fit.graph(GRAPH_THRESHOLD)))

    def _begin(self) -> None:
        if not self._open:
            self._held.enter_context(alone(self.path))
            self._refuse_taken()  # By a process that began after this one looked.
            make_folder(self.path)
            self._write_config()
            self._open = True


def _line(record: EpochRecord) -> str:
    return json.dumps(with_sum(asdict(record)))
