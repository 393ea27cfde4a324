"""A copy of the edge probabilities that takes no memory where they are many: it lies in a file without a name."""

from __future__ import annotations

import io
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from lds.errors import StorageError
from lds.graph import AllPairs, Structure

# Bytes up to which a copy stays in memory.
_IN_MEMORY = 1 << 26
# Numbers that are read and written at once.
_PART = 1 << 20


class Kept:
    """A copy of a structure's state, in parts; beyond 64 MiB in a temporary file, which goes with the process.

    Args:
        numel: numbers of the state.
        dtype: their type.
        device: where they come from.
        parts: the numbers, as tensors of one dimension, in their order.

    Raises:
        StorageError: there is no room for the file.
    """

    def __init__(self, numel: int, dtype: torch.dtype, device: torch.device, parts: Iterable[Tensor]) -> None:
        self.numel, self.dtype, self.device = numel, dtype, device
        try:
            # Without a name: it goes with the process, however that ends.
            self._file: Any = tempfile.TemporaryFile() if self.is_large else io.BytesIO()  # noqa: SIM115
            weakref.finalize(self, self._file.close)
            for part in parts:
                self._file.write(part.cpu().contiguous().numpy().data)
            self._file.flush()
        except OSError as error:
            raise StorageError(
                f"the best θ cannot be kept in {tempfile.gettempdir()}: {error.strerror}; make room there, or have "
                "TMPDIR name another folder"
            ) from error

    @classmethod
    def of(cls, structure: Structure) -> Kept:
        """Return a copy of θ of a structure."""
        flat = stored(structure).flatten()
        return cls(flat.numel(), flat.dtype, flat.device, torch.split(flat, _PART))

    @property
    def nbytes(self) -> int:
        """Its bytes."""
        return self.numel * self.dtype.itemsize

    @property
    def is_large(self) -> bool:
        """Tell whether it lies in a file."""
        return self.nbytes > _IN_MEMORY

    def parts(self) -> Iterator[Tensor]:
        """Return its numbers in their order, as tensors of one dimension."""
        size = _PART * self.dtype.itemsize
        for start in range(0, self.nbytes, size):
            self._file.seek(start)
            part = bytearray(self._file.read(min(size, self.nbytes - start)))
            yield torch.frombuffer(part, dtype=self.dtype).to(self.device)

    def tensor(self) -> Tensor:
        """Return the whole as a tensor."""
        return torch.cat([*self.parts(), torch.empty(0, dtype=self.dtype, device=self.device)])

    def restore_(self, structure: Structure) -> None:
        """Set θ of a structure to it."""
        if self.is_large and isinstance(structure, AllPairs):
            structure.restore_parts_(self.parts())
        else:
            structure.restore_(self.tensor())


def stored(structure: Structure) -> Tensor:
    """Return what `state` of a structure returns, to be read at once; where θ may be many, that is no copy."""
    return structure.flat if isinstance(structure, AllPairs) else structure.state()
