"""The folder of a run: every file is complete or not there."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lds._files import write_atomically
from lds.errors import InputError

if TYPE_CHECKING:
    from lds.learner import EpochRecord, Fit, StepRecord

# Edges below this probability are left out of the saved graph; a step of θ makes millions of negligible ones.
GRAPH_THRESHOLD = 0.01


class RunFolder:
    """Writes one run: config.yaml, metrics.jsonl, checkpoint.pt, graph.npz and, last, result.json.

    Nothing is written before the first outer step or epoch, so a run that fails on its input leaves nothing behind.

    Args:
        path: the folder; must not exist, or be empty.
        config: what to write to config.yaml.

    Raises:
        InputError: the folder holds something already, or cannot be made.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self.path = path
        self._config = config
        self._open = False
        try:
            taken = path.is_dir() and any(path.iterdir())
            existing = next(p for p in (path, *path.absolute().parents) if p.exists())
        except OSError as error:
            raise InputError(f"{path} cannot be made: {error.strerror}; choose another --out") from error
        if taken:
            raise InputError(f"{path} must be a new or empty folder, but holds files; choose another --out")
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            raise InputError(f"{path} cannot be made: {existing} is no writable folder; choose another --out")

    def on_step(self, record: StepRecord) -> None:
        """Make the folder, if it is not there yet."""
        self._begin()

    def on_epoch(self, record: EpochRecord) -> None:
        """Append a line to metrics.jsonl."""
        self._begin()
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(asdict(record)) + "\n")

    def finish(self, fit: Fit, result: Mapping[str, Any]) -> None:
        """Write the checkpoint, the learned graph and the result."""
        import numpy as np
        import torch

        buffer = io.BytesIO()
        torch.save({"theta": fit.structure.state(), "params": fit.params, "logits": fit.logits}, buffer)
        write_atomically(self.path / "checkpoint.pt", buffer.getvalue())
        graph = fit.graph(GRAPH_THRESHOLD)
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            edge_index=graph.edge_index.cpu().numpy(),
            edge_weight=graph.edge_weight.cpu().numpy(),
            num_nodes=graph.num_nodes,
        )
        write_atomically(self.path / "graph.npz", buffer.getvalue())
        write_atomically(self.path / "result.json", (json.dumps(result, indent=2) + "\n").encode())

    def _begin(self) -> None:
        if not self._open:
            self.path.mkdir(parents=True, exist_ok=True)
            config = yaml.safe_dump(dict(self._config), sort_keys=False)
            write_atomically(self.path / "config.yaml", config.encode())
            self._open = True
