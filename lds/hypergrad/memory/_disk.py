"""Keep every iterate on disk, and the sweep's progress with them."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import struct
import weakref
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lds._files import cannot_write, lock, open_file, read_file, release, temporary_of, write_atomically
from lds._read import load_tensors, parse_json
from lds.errors import DataError, InputError
from lds.hypergrad._dynamics import Dynamics, Step, StepResult
from lds.hypergrad._guards import check_count
from lds.hypergrad._outer import SteadyVariable
from lds.hypergrad.memory._states import dense_strides
from lds.hypergrad.memory._tape import ResumableTape, Resumed

# Leaves of a state that are no tensors take 8 bytes each.
NUMBERS = {int: "<q", bool: "<q", float: "<d"}
# At the end of a row: whether the step computed a loss, the loss, and CRC-32 of all before it.
LOSS, CHECKSUM = struct.Struct("<?d"), struct.Struct("<I")


@dataclass(frozen=True)
class Disk:
    """Keep every iterate in a file, and save the sweep's progress there, so that an interrupted call can go on.

    Call again with the same arguments after an interruption: the recorder goes on after the last iterate that was
    written, and the sweep from where it last saved; the result has the same bits. `Reverse` removes its files when it
    has its result; after `record` and `sweep` they are the caller's to remove.

    Memory: one state. On disk: horizon × (size of the state), and one costate with its accumulators.

    Args:
        folder: where the files go; one trajectory a folder, one process at a time.
        save_every: number of steps between two saves of the sweep's progress.

    Raises:
        InputError: `save_every` is no integer ≥ 1; or, when recording, the folder holds another trajectory or is in
            use, the state has leaves other than tensors, ints, floats and bools, or an outer variable draws anew in
            every step.
        DataError: a file in the folder is damaged.
        StorageError: a file in the folder cannot be written.

    Example:
        >>> import torch
        >>> from lds.hypergrad import Disk, Reverse, hypergradient
        >>> from lds.updaters import SGD
        >>> problem = (lambda w, c: (w - c) ** 2, lambda w, c: w**2, torch.tensor(1.0), torch.tensor(0.5))
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     hypergradient(*problem, updater=SGD(0.25), steps=2, method=Reverse(memory=Disk(folder))).grad
        tensor(0.9375)
    """

    folder: str | os.PathLike[str]
    save_every: int = 100

    def __post_init__(self) -> None:
        check_count("save_every", self.save_every, least=1)

    def tape(self, dynamics: Dynamics, leaves: Sequence[Any], first: int, last: int) -> DiskTape:
        """Return a tape that goes on from what the folder holds of the same trajectory."""
        return DiskTape(dynamics, leaves, first, last, Path(self.folder), self.save_every)


class DiskTape(ResumableTape):
    """`states.bin` holds a row of bytes a state, `trajectory.json` says whose, `sweep.pt` is the sweep's progress."""

    def __init__(
        self, dynamics: Dynamics, leaves: Sequence[Any], first: int, last: int, folder: Path, save_every: int
    ) -> None:
        _check_storable(dynamics, leaves)
        self.save_every = save_every
        self._dynamics, self._first, self._last = dynamics, first, last
        self._like = list(leaves)
        self._row_size = sum(_size(x) for x in leaves) + LOSS.size + CHECKSUM.size
        self._states, self._header, self._progress = (
            folder / name for name in ("states.bin", "trajectory.json", "sweep.pt")
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = open_file(self._states, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise InputError(f"{folder} cannot be written ({error.strerror}); choose another folder") from error
        self._close = weakref.finalize(self, release, self._file)  # Once, however often it is called.
        try:
            if not lock(self._file):
                raise InputError(f"{folder} is in use by another process; give each trajectory a folder of its own")
            self._claim(folder, {"first": first, "last": last, **_identity(dynamics, leaves)})
        except BaseException:
            self.close()
            raise
        # A row that was being written when the process ended does not count.
        self._rows = os.fstat(self._file).st_size // self._row_size
        self._resumable = self._progress.exists()

    def resume(self) -> Resumed | None:
        """Return the last state on file, and the losses of the steps that led to it."""
        if not self._rows:
            return None
        losses = [LOSS.unpack(self._content(row)[-LOSS.size :]) for row in range(1, self._rows)]
        last = self._row(self._rows - 1)
        return Resumed(self._first + self._rows - 1, last, [loss for there, loss in losses if there])

    def advance(self, t: int, leaves: list[Any]) -> StepResult:
        """Take the step, append the next state."""
        if not self._rows:
            self._append(leaves, None)
        result = self._dynamics.advance(t, leaves)
        self._append(result.leaves, result.loss)
        return result

    def load(self, t: int) -> Step:
        """Read the state."""
        return Step(self._row(t - self._first), self._dynamics.draws(t))

    def save(self, progress: Mapping[str, Any]) -> None:
        """Write the sweep's progress in place of what was saved before."""
        buffer = io.BytesIO()
        torch.save(dict(progress), buffer)
        write_atomically(self._progress, buffer.getvalue())

    def progress(self) -> dict[str, Any] | None:
        """Return what an earlier process saved, once: a second sweep in this one starts anew."""
        if not self._resumable:
            return None
        self._resumable = False
        try:
            progress = load_tensors(self._progress)
        except OSError as error:
            raise DataError(
                f"{self._progress} cannot be read: {error.strerror}; check the file and its rights, and try again"
            ) from error
        except DataError as error:
            raise self.damaged_progress() from error
        if not isinstance(progress, dict):
            raise self.damaged_progress()
        return progress

    def damaged_progress(self) -> DataError:
        """Return what to raise where the saved progress is not what it must be."""
        return DataError(f"{self._progress} is damaged; remove it, and the sweep starts anew")

    def remove(self) -> None:
        """Remove the files, and the folder if it is empty then; what is gone already, or held by others, stays so."""
        for path in (self._progress, self._header, self._states):
            for file in (path, temporary_of(path)):
                with suppress(OSError):
                    file.unlink()
        with suppress(OSError):
            self._states.parent.rmdir()

    def close(self) -> None:
        """Close the file of states, which also unlocks the folder."""
        self._close()

    def _claim(self, folder: Path, header: dict[str, Any]) -> None:
        """Write whose trajectory this is, or check that it is the one on file."""
        if self._header.exists():
            damaged = DataError(f"{self._header} is damaged; remove {folder} and start anew")
            try:
                found = parse_json(read_file(self._header))
            except (OSError, DataError) as error:
                raise damaged from error
            if not isinstance(found, dict) or not header.keys() <= found.keys():
                raise damaged
            if differing := [key for key, value in header.items() if found[key] != value]:
                raise InputError(
                    f"{folder} holds another trajectory: it differs in {', '.join(differing)}; call with the same "
                    "arguments to go on with that one, or choose another folder"
                )
        elif os.fstat(self._file).st_size:
            raise DataError(f"{self._header} is missing; remove {folder} and start anew")
        else:
            write_atomically(self._header, json.dumps(header, indent=2).encode())

    def _append(self, leaves: Sequence[Any], loss: Tensor | None) -> None:
        row = b"".join(map(_encode, leaves)) + LOSS.pack(loss is not None, 0.0 if loss is None else loss.item())
        row += CHECKSUM.pack(zlib.crc32(row))
        try:
            written = os.pwrite(self._file, row, self._rows * self._row_size)
            if written < len(row):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise cannot_write(self._states, error) from error
        self._rows += 1

    def _row(self, row: int) -> list[Any]:
        content = memoryview(self._content(row))
        leaves, position = [], 0
        for like in self._like:
            leaves.append(_decode(content[position : position + _size(like)], like))
            position += _size(like)
        return leaves

    def _content(self, row: int) -> bytes:
        """Return a row without its checksum."""
        content = os.pread(self._file, self._row_size, row * self._row_size)
        if len(content) < self._row_size:
            raise DataError(f"{self._states} is shorter than it was; remove {self._states.parent} and start anew")
        content, checksum = content[: -CHECKSUM.size], content[-CHECKSUM.size :]
        if CHECKSUM.pack(zlib.crc32(content)) != checksum:
            raise DataError(f"{self._states} is damaged; remove {self._states.parent} and start anew")
        return content


def _check_storable(dynamics: Dynamics, leaves: Sequence[Any]) -> None:
    for path, leaf in zip(dynamics.spec.paths, leaves, strict=True):
        if not isinstance(leaf, Tensor) and type(leaf) not in NUMBERS:
            raise InputError(
                f"Disk stores tensors, ints, floats and bools, but {path} is a {type(leaf).__name__}; keep it out of "
                "the state, or choose another memory policy"
            )
    for path, variable in zip(dynamics.outer.paths, dynamics.outer.variables, strict=True):
        if not isinstance(variable, SteadyVariable):
            raise InputError(
                f"Disk needs outer variables that are tensors or Derived, but {path} is a {type(variable).__name__}; "
                "choose another memory policy, e.g. Checkpoint()"
            )


def _identity(dynamics: Dynamics, leaves: Sequence[Any]) -> dict[str, Any]:
    """What two calls must share for one to go on with the other's files; functions cannot be compared."""
    updater = dynamics.updater
    kind = f"{type(updater).__module__}.{type(updater).__qualname__}"
    # Of a data class only: attributes of other objects may be counters.
    constants = {name: repr(getattr(updater, name)) for name in getattr(updater, "__dataclass_fields__", ())}
    constants = {name: value for name, value in constants.items() if " at 0x" not in value}
    kinds = [(list(x.shape), str(x.dtype)) if isinstance(x, Tensor) else type(x).__name__ for x in leaves]
    theta = [leaf for variable in dynamics.outer.steady for leaf in variable.derived.leaves]
    # Through JSON, so that it equals what is read back.
    identity: dict[str, Any] = json.loads(
        json.dumps(
            {
                "seed": dynamics.seed,
                "start": dynamics.start,
                "updater": [kind, constants],
                "state": [dynamics.spec.paths, kinds, _hash(leaves)],
                "outer": [dynamics.outer.paths, _hash(theta)],
            }
        )
    )
    return identity


def _hash(leaves: Sequence[Any]) -> str:
    digest = hashlib.sha256()
    for leaf in leaves:
        digest.update(_encode(leaf))
    return digest.hexdigest()


def _size(leaf: Any) -> int:
    return leaf.nbytes + 8 * leaf.ndim if isinstance(leaf, Tensor) else 8


def _encode(leaf: Any) -> bytes:
    """Return the bytes of a leaf; those of a tensor are its strides (see `dense_strides`) and its memory."""
    if isinstance(leaf, Tensor):
        strides = dense_strides(leaf)
        memory = leaf.new_empty(leaf.numel(), device="cpu")
        memory.as_strided(leaf.shape, strides).copy_(leaf.detach())
        content: bytes = memory.view(torch.uint8).numpy().tobytes() if leaf.numel() else b""
        return struct.pack(f"<{leaf.ndim}q", *strides) + content
    return struct.pack(NUMBERS[type(leaf)], leaf)


def _decode(content: memoryview, like: Any) -> Any:
    if isinstance(like, Tensor):
        strides = struct.unpack_from(f"<{like.ndim}q", content)
        if not like.numel():
            return like.new_empty(like.shape)
        memory = torch.from_numpy(np.frombuffer(bytearray(content[8 * like.ndim :]), dtype=np.uint8)).view(like.dtype)
        return memory.as_strided(like.shape, strides).to(like.device)
    return type(like)(struct.unpack(NUMBERS[type(like)], content)[0])
