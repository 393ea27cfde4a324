"""One process at a time in a run folder."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lds._files import lock
from lds.errors import InputError

# A process that is being killed, with the sweep that started it, lets go of its folder within moments.
PATIENCE_SECONDS = 10.0


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder, by a lock on a file beside it that goes with the last of them.

    Raises:
        InputError: another process is at work in the folder, or the file cannot be written.
    """
    folder = folder.resolve()
    path = folder.with_name(f".{folder.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(path)
    except OSError as error:
        raise InputError(f"{folder} cannot be locked: {error.strerror}; choose another folder") from error
    if descriptor is None:
        raise InputError(f"{folder} must be a folder that no other process works in, but one does; wait for its end")
    try:
        yield
    finally:
        # While the lock is held: who opened the file before sees that it is gone, and opens a new one. One that cannot
        # be removed is no hindrance.
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _acquire(path: Path) -> int | None:
    """Return the descriptor of the locked file, or None where another process kept it to the end of our patience."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if lock(descriptor):
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
            os.close(descriptor)
            continue
        os.close(descriptor)
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.05)
