"""Where a run stands, on disk."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lds._callbacks import Callback
from lds._files import write_atomically
from lds._read import load_tensors, reason
from lds._signals import Interrupted, StopRequest
from lds._version import __version__
from lds.errors import DataError, InputError
from lds.run._data import fingerprint
from lds.run._environment import difference, threads, versions
from lds.run._reader import CONFIG, PROGRESS

if TYPE_CHECKING:
    from torch_geometric.data import Data

# Saving takes at most this share of the time, by the cost of the last one.
_SHARE = 0.02
_FORMAT = 2
_HEAD = {"versions": dict, "threads": int, "config": dict, "data": str, "seconds": float, "progress": dict}
_PLAIN = bool | int | float | str | None
# Of a configuration: where the data lies, which may change. What it holds may not.
_PLACES = ("data_root", "data", "edges")


class Checkpointer(Callback):
    """Saves where a run stands as often as a small share of its time allows, and when it is asked to stop.

    Args:
        folder: the run folder.
        config: that of the run; another one is refused when it is resumed.
        data: the data set; another one is refused, too.
        spent: seconds that earlier processes spent on the run.
        request: whether to stop.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], data: Data, spent: float, request: StopRequest) -> None:
        self._path = folder / PROGRESS
        self._config = config
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
        write_atomically(self._path, pack(self._config, self._fingerprint, self.seconds, progress))


def pack(config: Mapping[str, Any], data_fingerprint: str, seconds: float, progress: Mapping[str, Any]) -> bytes:
    """Return the content of a file that `read_progress` reads."""
    import torch

    saved = {
        "format": _FORMAT,
        "versions": versions(),
        "threads": threads(),
        "config": dict(config),
        "data": data_fingerprint,
        "seconds": seconds,
        "progress": progress,
    }
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    return buffer.getvalue()


def read_progress(
    folder: Path, config: Mapping[str, Any], data: Data, name: str = PROGRESS
) -> tuple[dict[str, Any] | None, float]:
    """Return what was saved last and the seconds spent until then; None and 0 where nothing was.

    Only numbers, texts and tensors are read: a file that holds anything else runs no code.

    Raises:
        DataError: the file cannot be read, or is damaged.
        InputError: it is that of another version of a package, another number of threads, another configuration, or
            other data: the numbers that follow would be others.
    """
    path = folder / name
    again = "and the run starts anew" if name == PROGRESS else f"and lds train --resume {folder} runs into it again"
    try:
        saved = load_tensors(path)
    except FileNotFoundError:
        return None, 0.0
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}; check the file and its rights, and try again"
        ) from error
    except DataError as error:
        raise _damaged(path, error, again) from error
    try:
        # First: files of another format hold other things.
        known = bool(saved["format"] == _FORMAT)
        for part, kind in _HEAD.items() if known else ():
            if type(saved[part]) is not kind:
                raise TypeError(f"{part} is no {kind.__name__}")
            if part in ("versions", "config") and not all(isinstance(x, _PLAIN) for x in saved[part].values()):
                raise TypeError(f"{part} holds more than numbers and texts")
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise _damaged(path, error, again) from error
    differs = _difference(saved, config) if known else f"by another version of lds than this one, {__version__}"
    if differs is None and saved["data"] != fingerprint(data):
        differs = f"for other data than {folder} is resumed with; bring that data back, or give its --data-root"
    if differs is not None:
        raise InputError(f"{path} was saved {differs}, or remove the file, {again}")
    return saved["progress"], saved["seconds"]


def _difference(saved: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """Return how a file was saved, in what the numbers of a run depend on, where not as this run goes on."""
    if (otherwise := difference(saved["versions"], saved["threads"])) is not None:
        return otherwise
    for field in {**config, **saved["config"]}:
        now, then = config.get(field), saved["config"].get(field)
        if field not in _PLACES and now != then:
            return f"with {field!s:.80} {then!r:.80}, but {CONFIG} says {now!r:.80}; put it back"
    return None


def _damaged(path: Path, error: Exception, again: str) -> DataError:
    return DataError(f"{path} must be what a run saved, but is damaged: {reason(error)}; remove it, {again}")
