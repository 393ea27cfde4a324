"""Arrays saved by numpy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from lds._read import load_arrays, reason
from lds._sparse import from_scipy
from lds.data.own._parts import numbered, refuse_weights
from lds.data.splits import MASKS
from lds.errors import DataError

if TYPE_CHECKING:
    from torch_geometric.data import Data

_CSR = ("x_data", "x_indices", "x_indptr", "x_shape")
_KNOWN = ("x", *_CSR, "y", "edge_index", *MASKS, "num_classes")


def read_npz(path: Path) -> Data:
    """Return what the file holds; only the CSR matrix is checked.

    Raises:
        DataError: the file is damaged, holds other arrays or Python objects, or no features or labels.
        OSError: the file cannot be read.
    """
    from torch_geometric.data import Data

    try:
        arrays = load_arrays(path, links=True)
    except DataError as error:
        raise DataError(
            f"{path} must be a file of numpy.savez with plain arrays, but {error}; "
            "save it again, with numbers or texts and no Python objects"
        ) from error
    refuse_weights(path, arrays)
    if unknown := [name for name in arrays if name not in _KNOWN]:
        raise DataError(f"{path} must hold some of {', '.join(_KNOWN)}, but {unknown[0]:.80} came; rename or drop it")
    sparse = [name for name in _CSR if name in arrays]
    if ("x" in arrays) == bool(sparse) or (sparse and len(sparse) < len(_CSR)):
        found = ", ".join(name for name in arrays if name.startswith("x")) or "none of these"
        raise DataError(f"{path} must hold x, or else all of {', '.join(_CSR)}, but {found} came; save one of the two")
    if "y" not in arrays:
        raise DataError(f"{path} must hold the labels y, with -1 on unlabelled nodes, but has none; save them")
    parts: dict[str, Any] = {"x": _sparse(path, arrays) if sparse else _tensor(path, "x", arrays["x"])}
    labels = arrays["y"]
    if labels.dtype.kind == "U" and labels.ndim == 1:
        parts["y"], parts["class_names"] = numbered(_texts(path, labels))
    else:
        parts["y"] = _tensor(path, "y", labels)
    for name in ("edge_index", *MASKS):
        if name in arrays:
            parts[name] = _tensor(path, name, arrays[name])
    if isinstance(parts.get("edge_index"), Tensor) and parts["edge_index"].dtype == torch.int32:
        parts["edge_index"] = parts["edge_index"].long()
    if "num_classes" in arrays:
        if arrays["num_classes"].shape != ():
            raise DataError(f"{path}: num_classes must be one number, got shape {arrays['num_classes'].shape}")
        parts["num_classes"] = _tensor(path, "num_classes", arrays["num_classes"]).item()
    return Data(**parts)


def _texts(path: Path, labels: Any) -> list[str]:
    try:
        texts: list[str] = labels.tolist()
    except (ValueError, SystemError) as error:
        raise DataError(f"{path}: y must hold texts, but {reason(error)}; save the labels again") from error
    return texts


def _sparse(path: Path, arrays: dict[str, Any]) -> Tensor:
    values, indices, starts, shape = (arrays[name] for name in _CSR)
    _tensor(path, "x_data", values[:0])  # Refuses what is no number.
    size = tuple(shape.ravel().tolist())
    try:
        matrix: Any = scipy.sparse.csr_matrix((values, indices, starts), shape=size)
        matrix.check_format(full_check=True)
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        raise DataError(
            f"{path} must hold a CSR matrix as {', '.join(_CSR)}, but {reason(error)}; "
            "save data, indices, indptr and shape of one scipy.sparse.csr_matrix"
        ) from error
    matrix = matrix.astype(np.float32)
    matrix.sum_duplicates()
    return from_scipy(matrix)


def _tensor(path: Path, name: str, array: Any) -> Tensor:
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise DataError(f"{path}: {name} must hold numbers, but {array.dtype} came; convert it")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:  # torch has little arithmetic for these.
        array = array.astype(np.int64)
    # Always in the byte order and the layout that torch takes.
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
