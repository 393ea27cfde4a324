"""Files that are whole or not there, that one process writes at a time, and that are what they seem to be.

A folder may come from elsewhere: what it holds is neither read nor written through links, and a FIFO or a device in the
place of a file is refused, not waited for. Windows has no flag for that: there, a link is looked for before a file is
opened, and a link that is made in the moment between is followed.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from lds.errors import InputError, StorageError

try:
    import fcntl
except ImportError:  # Windows has none.
    fcntl = None  # type: ignore[assignment]

# A process that is being killed, with the one that started it, lets go of its folder within moments.
PATIENCE_SECONDS = 10.0
# A FIFO is opened at once, and refused; Windows opens files as texts unless it is told not to.
_FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)
_LINK = "it is a link, and what it leads to is left alone"


def open_file(path: Path, flags: int, *, links: bool = False) -> int:
    """Return the descriptor of an ordinary file.

    Args:
        path: the file.
        flags: those of `os.open`; where they create, the file may be missing.
        links: follow links: for files that a user names, not for those that a folder holds.

    Raises:
        OSError: it cannot be opened, or is a link, or no ordinary file; `strerror` says so.
    """
    if not links and path.is_symlink():
        raise OSError(errno.ELOOP, _LINK)
    with suppress(FileNotFoundError):
        _check_kind(os.stat(path))  # Some devices act when they are opened.
    try:
        descriptor = os.open(path, flags | _FLAGS | (0 if links else _NO_LINKS), 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP and not links:
            raise OSError(errno.ELOOP, _LINK) from error
        raise
    try:
        _check_kind(os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def read_file(path: Path, *, links: bool = False) -> bytes:
    """Return what an ordinary file holds.

    Args:
        path: the file.
        links: as for `open_file`.

    Raises:
        OSError: as for `open_file`, or it cannot be read.
    """
    with os.fdopen(open_file(path, os.O_RDONLY, links=links), "rb") as file:
        return file.read()


def _check_kind(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is a FIFO, a socket or a device, and no ordinary file")


def refuse_links(folder: Path, *parts: str) -> Path:
    """Return a folder in a folder, unless it is a link: what a folder from elsewhere links to is left alone.

    Raises:
        InputError: the folder, or one between the two, is a link.
    """
    for part in parts:
        folder = folder / part
        if folder.is_symlink():
            raise InputError(f"{folder} must be a folder, but is a link, which is not followed; put the folder there")
    return folder


def write_atomically(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write a file so that a crash leaves the whole new file or what was there before; links are not followed.

    Args:
        path: the file.
        content: what it is to hold, or a function that writes it to a file that it may also read.

    Raises:
        StorageError: the file cannot be written: the disk is full, or the folder read-only or gone.
    """
    temporary = temporary_of(path)
    try:
        if not path.is_symlink():  # A link is replaced, and not followed.
            with suppress(FileNotFoundError):
                _check_kind(os.stat(path))
        if os.path.lexists(temporary):  # What a process that was killed left, or a link that somebody put there.
            temporary.unlink()
        with os.fdopen(open_file(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL), "w+b") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
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
    """Append a line to a file; a crash may leave a part of it, without its end. Links are not followed.

    Raises:
        StorageError: the file cannot be written.
    """
    try:
        with os.fdopen(open_file(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "a", encoding="utf-8") as file:
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
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def release(descriptor: int) -> None:
    """Give back the lock of an open file and close it: a child that was forked meanwhile may have it open still."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def lock_of(folder: Path) -> Path:
    """Return the file beside a folder that keeps other processes out of it."""
    folder = folder.resolve()
    return folder.with_name(f".{folder.name}.lock")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder, by a lock on a file beside it that goes with the last of them.

    Raises:
        InputError: another process is at work in the folder, or the file cannot be written.
    """
    folder = folder.resolve()
    path = lock_of(folder)
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
        descriptor = open_file(path, os.O_RDWR | os.O_CREAT)
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
