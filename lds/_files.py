"""Files that are whole or not there, and that one process writes at a time."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if sys.platform != "win32":
    import fcntl


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a crash leaves the whole new file or what was there before."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def lock(descriptor: int) -> bool:
    """Take the lock of an open file until it is closed, however the process ends; tell whether it was free."""
    # Windows keeps a file that is open for writing to its process by itself.
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
