"""Files that are whole or not there, and that one process writes at a time."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from io import FileIO
from pathlib import Path

from lds.errors import InputError, StorageError

if sys.platform != "win32":
    import fcntl


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a crash leaves the whole new file or what was there before.

    Raises:
        StorageError: the file cannot be written: the disk is full, or the folder read-only or gone.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):  # The first error says what is wrong.
            temporary.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, where there is none.

    Raises:
        InputError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be made: {error.strerror}; choose another --out") from error


def append(path: Path, line: str) -> None:
    """Append a line to a file; a crash may leave a part of it, without its end.

    Raises:
        StorageError: the file cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise cannot_write(path, error) from error


def extend(file: FileIO, path: Path, content: bytes) -> None:
    """Write at the end of an open file of this path; on return it is on the disk.

    Raises:
        StorageError: it cannot be written; the file is as long as before.
    """
    end = file.seek(0, os.SEEK_END)
    try:
        rest = memoryview(content)
        while rest:
            # A disk that fills up takes a part and says nothing; the next write fails.
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
    except OSError as error:
        with suppress(OSError):  # The first error says what is wrong.
            file.truncate(end)
        raise cannot_write(path, error) from error


def lock(descriptor: int) -> bool:
    """Take the lock of an open file until it is closed, however the process ends; tell whether it was free."""
    # Windows keeps a file that is open for writing to its process by itself.
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def cannot_write(path: Path, error: OSError) -> StorageError:
    """Return what to raise where a file cannot be written, and what was there before is whole."""
    return StorageError(
        f"{path} cannot be written: {error.strerror}; what was saved before is whole: make room or give the rights, "
        "and go on from there"
    )


def _sync_folder(folder: Path) -> None:
    """Have the new name of a file survive a power cut too."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
