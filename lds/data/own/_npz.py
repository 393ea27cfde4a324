"""Arrays by name: of numpy, and of MATLAB, under the names that public data sets give them."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from lds._files import open_file
from lds._read import load_arrays, reason
from lds.data.masks import INDICES
from lds.data.splits import MASKS
from lds.errors import DataError

_CSR = ("data", "indices", "indptr", "shape")
# Ours first; then Shchur's gnn-benchmark and nettack, Yandex's heterophilous graphs, OGB, LINKX, and others.
_NAMES: Mapping[str, tuple[str, ...]] = {
    "x": ("x", "X", "attr", "features", "feature", "node_features", "node_feat", "feat"),
    "y": ("y", "Y", "labels", "label", "node_labels", "node_label"),
    "edge_index": ("edge_index", "edges"),
    "adj": ("adj", "adjacency", "A", "W"),
    "edge_weight": ("edge_weight",),
    "train_mask": ("train_mask", "train_masks"),
    "val_mask": ("val_mask", "val_masks", "valid_mask"),
    "es_mask": ("es_mask", "es_masks"),
    "test_mask": ("test_mask", "test_masks"),
    "node_names": ("node_names",),
    "class_names": ("class_names",),
    "num_classes": ("num_classes",),
    "num_nodes": ("num_nodes",),
    **{name: (name,) for name in INDICES},
}
_SPARSE = ("x", "adj")
_PART = {alias: part for part, aliases in _NAMES.items() for alias in aliases}
_PART |= {f"{alias}_{end}": part for part in _SPARSE for alias in _NAMES[part] for end in _CSR}
# What files of our own kind may hold: in these an unknown name is a slip.
_OURS = {"x", "y", "x_data"}


def read_npz(path: Path) -> dict[str, Any]:
    """Return the parts that a file of numpy holds.

    Raises:
        DataError: the file is damaged, or holds Python objects, other arrays, or no features or labels.
        OSError: the file cannot be read.
    """
    try:
        arrays: dict[str, Any] = dict(load_arrays(path, _is_known, links=True))
        others = [name for name in _members(path) if not _is_known(name)]
    except DataError as error:
        raise DataError(
            f"{path} must be a file of numpy.savez with plain arrays, but {error}; "
            "save it again, with numbers or texts and no Python objects"
        ) from error
    return parts_of(path, arrays, others)


def parts_of(path: Path, arrays: Mapping[str, Any], others: Iterable[str]) -> dict[str, Any]:
    """Return the parts that arrays are by their names.

    Args:
        path: their file, for messages.
        arrays: arrays of numpy, or matrices of scipy.
        others: names of further arrays in the file, which are none of these parts.

    Raises:
        DataError: a name is unknown in a file of our own kind, or a part came twice, or not whole.
    """
    others = list(others)
    if others and _OURS & arrays.keys():
        known = (
            "x, x_data, x_indices, x_indptr, x_shape, y, edge_index, edge_weight, num_classes, node_names, class_names"
        )
        raise DataError(
            f"{path} must hold some of {known}, {', '.join((*MASKS, *INDICES))}, but {others[0]:.80} came; rename "
            "or drop it"
        )
    parts: dict[str, Any] = {}
    for part, aliases in _NAMES.items():
        there = [alias for alias in aliases if alias in arrays]
        csr = [name for alias in aliases for name in _csr_names(alias) if part in _SPARSE and name in arrays]
        if len(there) + bool(csr) > 1 or (csr and len(csr) != len(_CSR)):
            found = ", ".join([*there, *csr])
            needed = (
                f"{aliases[0]}, or else all of {', '.join(_csr_names(aliases[0]))}" if part in _SPARSE else aliases[0]
            )
            raise DataError(f"{path} must hold {needed}, but {found} came; save one of the two")
        if csr:
            parts[part] = _sparse(path, [arrays[name] for name in csr], csr)
        elif there:
            parts[part] = _transposed(arrays[there[0]]) if there[0] == "edges" else _plain(path, part, arrays[there[0]])
    if others:
        parts["others"] = others
    for name in ("num_classes", "num_nodes"):
        if name in parts:
            if parts[name].size != 1 or parts[name].dtype.kind not in "iu":
                raise DataError(f"{path}: {name} must be one number, got {parts[name].dtype} {list(parts[name].shape)}")
            parts[name] = int(parts[name].item())
    if "y" not in parts:
        lacking = "features x and labels y" if parts.get("x") is None else "labels y"
        none = "no x and no y" if parts.get("x") is None else "none"
        hint = ", like a graph of lds export" if "edge_weight" in parts else ""
        raise DataError(
            f"{path} must hold the {lacking}, with -1 on unlabelled nodes, but has {none}{hint}; save them with "
            "the edges"
        )
    return parts


def _is_known(name: str) -> bool:
    return name in _PART


def _members(path: Path) -> list[str]:
    with os.fdopen(open_file(path, os.O_RDONLY, links=True), "rb") as file, zipfile.ZipFile(file) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def _csr_names(alias: str) -> list[str]:
    return [f"{alias}_{end}" for end in _CSR]


def _transposed(edges: Any) -> Any:
    """Return edges [2, E]; under this name they come as [E, 2]."""
    return edges.T if getattr(edges, "ndim", 0) == 2 and edges.shape[1] == 2 else edges


def _plain(path: Path, part: str, array: Any) -> Any:
    if scipy.sparse.issparse(array):
        return array
    if part in ("node_names", "class_names"):
        if array.dtype.kind != "U" or array.ndim != 1:
            raise DataError(f"{path}: {part} must be texts [·], but {array.dtype} {list(array.shape)} came; save texts")
        return _texts(path, part, array)
    if part == "y" and array.dtype.kind in "US":
        return _texts(path, part, array) if array.ndim == 1 else array
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise DataError(f"{path}: {part} must hold numbers, but {array.dtype} came; convert it")
    # Always in the byte order that torch takes.
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def _texts(path: Path, part: str, array: Any) -> list[Any]:
    try:
        texts: list[Any] = array.tolist()
    except (ValueError, SystemError) as error:
        raise DataError(f"{path}: {part} must hold texts, but {reason(error)}; save them again") from error
    return texts


def _sparse(path: Path, parts: list[Any], names: list[str]) -> Any:
    values, indices, starts, shape = parts
    if values.dtype.kind not in "biuf" or values.dtype.itemsize > 8:
        raise DataError(f"{path}: {names[0]} must hold numbers, but {values.dtype} came; convert it")
    try:
        size = tuple(shape.ravel().tolist())
        matrix: Any = scipy.sparse.csr_matrix((values, indices, starts), shape=size)
        matrix.check_format(full_check=True)
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        raise DataError(
            f"{path} must hold a CSR matrix as {', '.join(names)}, but {reason(error)}; "
            "save data, indices, indptr and shape of one scipy.sparse.csr_matrix"
        ) from error
    return matrix
