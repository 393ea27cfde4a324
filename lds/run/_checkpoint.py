"""Where a run stands, on disk."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lds._callbacks import Callback
from lds._files import write_atomically
from lds._read import load_tensors
from lds._signals import Interrupted, StopRequest
from lds._version import __version__
from lds.errors import DataError, InputError
from lds.run._folder import PROGRESS

if TYPE_CHECKING:
    from torch import Tensor
    from torch_geometric.data import Data

# Saving takes at most this share of the time, by the cost of the last one.
_SHARE = 0.02
_FORMAT = 1


class Checkpointer(Callback):
    """Saves where a run stands as often as a small share of its time allows, and when it is asked to stop.

    Args:
        folder: the run folder.
        data: the data set; another one is refused when the run is resumed.
        spent: seconds that earlier processes spent on the run.
        request: whether to stop.
    """

    def __init__(self, folder: Path, data: Data, spent: float, request: StopRequest) -> None:
        self._path = folder / PROGRESS
        self._fingerprint = fingerprint(data)
        self._spent = spent
        self._request = request
        self._began = self._due = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds spent on the run, by all its processes."""
        return self._spent + time.perf_counter() - self._began

    def on_resumable(self, dump: Callable[[], dict[str, Any]]) -> None:
        """Save if it is time; raise `Interrupted` after that if a stop was asked for.

        Raises:
            Interrupted: a stop was asked for.
            StorageError: the file cannot be written.
        """
        began = time.perf_counter()
        if began >= self._due or self._request.number is not None:
            self._save(dump())
            ended = time.perf_counter()
            self._due = ended + (ended - began) / _SHARE
        if self._request.number is not None:
            raise Interrupted(self._request.number, f"lds train --resume {self._path.parent} goes on from here")

    def _save(self, progress: Mapping[str, Any]) -> None:
        write_atomically(self._path, pack(self._fingerprint, self.seconds, progress))


def pack(data_fingerprint: str, seconds: float, progress: Mapping[str, Any]) -> bytes:
    """Return the content of a file that `read_progress` reads."""
    import torch

    buffer = io.BytesIO()
    head = {"format": _FORMAT, "version": __version__, "data": data_fingerprint, "seconds": seconds}
    torch.save(head | {"progress": progress}, buffer)
    return buffer.getvalue()


def read_progress(folder: Path, data: Data, name: str = PROGRESS) -> tuple[dict[str, Any] | None, float]:
    """Return what was saved last and the seconds spent until then; None and 0 where nothing was.

    Only numbers, texts and tensors are read: a file that holds anything else runs no code.

    Raises:
        DataError: the file is damaged.
        InputError: it is that of another version of the package, or of other data.
    """
    path = folder / name
    again = "and the run starts anew" if name == PROGRESS else f"and lds train --resume {folder} runs into it again"
    if not path.exists():
        return None, 0.0
    try:
        saved = load_tensors(path)
        head = {name: saved[name] for name in ("format", "version", "data", "seconds", "progress")}
        head["seconds"] = float(head["seconds"])
    except (DataError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{path} must be what a run saved, but is damaged; remove it, {again}") from error
    if (head["format"], head["version"]) != (_FORMAT, __version__):
        raise InputError(
            f"{path} was saved by lds {head['version']!s:.80}, but this is lds {__version__}, whose numbers may "
            f"differ; resume with that version, or remove the file, {again}"
        )
    if head["data"] != fingerprint(data):
        raise InputError(
            f"{path} was saved for other data than {folder} is resumed with; bring that data back to its place, or "
            f"remove the file, {again}"
        )
    if not isinstance(head["progress"], dict):
        raise DataError(f"{path} must say where a run stands, but does not; remove it, {again}")
    return head["progress"], head["seconds"]


def fingerprint(data: Data) -> str:
    """Return a text that tells data sets apart: SHA-256 over features, labels, edges and masks."""
    from lds.data import MASKS

    digest = hashlib.sha256()
    for name in ("x", "y", "edge_index", *MASKS):
        if (value := data[name]) is not None:
            digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            for part in _parts(name, value):
                digest.update(part.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _parts(name: str, value: Tensor) -> tuple[Tensor, ...]:
    """Return dense tensors that are the same for dense and sparse features, and no larger than these."""
    if name != "x":
        return (value,)
    entries: Tensor = value.to_sparse_coo().coalesce()  # type: ignore[no-untyped-call]
    there = entries.values() != 0  # A sparse tensor may store zeros.
    return entries.indices()[:, there], entries.values()[there]
