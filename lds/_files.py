"""Files that are whole or not there, and that one process writes at a time."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from lds.errors import InputError, StorageError

if sys.platform != "win32":
    import fcntl

# A process that is being killed, with the one that started it, lets go of its folder within moments.
PATIENCE_SECONDS = 10.0


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a crash leaves the whole new file or what was there before.

    Raises:
        StorageError: the file cannot be written: the disk is full, or the folder read-only or gone.
    """
    temporary = temporary_of(path)
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


def temporary_of(path: Path) -> Path:
    """Return where `write_atomically` writes first, and what a process that was killed meanwhile leaves behind."""
    return path.with_name(f".{path.name}.tmp")


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


def release(descriptor: int) -> None:
    """Give back the lock of an open file and close it: a child that was forked meanwhile may have it open still."""
    if sys.platform != "win32":
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


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
