"""Features that stay on disk: a .npy file, mapped into memory, of which the rows that are needed are read."""

from __future__ import annotations

import mmap
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lds.errors import DataError

# Numbers looked at, and rows gathered, before the pages that they lie in are given back.
_NUMBERS, _ROWS = 1 << 24, 1 << 12
# Mapped arrays by where they lie.
_MAPPED: weakref.WeakValueDictionary[int, np.memmap] = weakref.WeakValueDictionary()


def map_features(path: str | Path) -> Tensor:
    """Return the features of a .npy file as a tensor that stays on disk, shape [N, F].

    A learner on candidate pairs reads the rows of the active nodes, and all rows once to check that they are finite
    and for each graph of a prediction of all nodes. Writing to the tensor does not change the file.

    Args:
        path: a file as `numpy.save` writes it, of float32 or float64, row after row.

    Raises:
        DataError: the file cannot be read, or holds something else.

    Example:
        >>> import numpy as np, tempfile
        >>> path = f"{tempfile.mkdtemp()}/x.npy"
        >>> np.save(path, np.ones((4, 3), dtype=np.float32))
        >>> map_features(path).shape
        torch.Size([4, 3])
    """
    try:
        array = np.load(path, mmap_mode="c")
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} must be an array as numpy.save writes it, but {error}; check the file") from error
    if not isinstance(array, np.memmap) or array.dtype not in (np.float32, np.float64) or array.ndim != 2:
        found = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise DataError(f"{path} must hold float32 or float64 of shape [N, F], but {found} came; convert it")
    if not array.flags.c_contiguous or not array.size:
        raise DataError(f"{path} must hold numbers, row after row, but is empty or column after column; save it anew")
    x = torch.from_numpy(array)
    # The tensor keeps the array alive.
    _MAPPED[x.untyped_storage().data_ptr()] = array
    return x


def is_mapped(x: Tensor) -> bool:
    """Tell whether a tensor is one that `map_features` returned, or a view of one."""
    return x.layout == torch.strided and x.is_cpu and x.untyped_storage().data_ptr() in _MAPPED


def pieces(x: Tensor) -> Iterator[Tensor]:
    """Return the rows of a tensor, some at a time; of a mapped one, they are given back after that."""
    for part in torch.split(x, max(1, _NUMBERS // max(1, x[:1].numel()))):
        yield part
        _give_back(x)


def mapped_rows(x: Tensor, rows: Tensor) -> Tensor:
    """Return some rows of a mapped tensor, in memory."""
    result = x.new_empty(rows.numel(), x.shape[1])
    for numbers, part in zip(torch.split(rows, _ROWS), torch.split(result, _ROWS), strict=True):
        torch.index_select(x, 0, numbers, out=part)
        _give_back(x)
    return result


def _give_back(x: Tensor) -> None:
    """Let the system have the memory of a mapped tensor; it is read again where it is needed."""
    # What was written to it is in memory alone.
    if is_mapped(x) and not x._version and hasattr(mmap, "MADV_DONTNEED"):
        array = _MAPPED[x.untyped_storage().data_ptr()]
        array._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]
