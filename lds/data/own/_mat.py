"""Files of MATLAB, as LINKX has them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from lds._files import open_file
from lds._read import reason
from lds.data.own._npz import _PART, parts_of
from lds.errors import DataError

# Columns of `local_info` in the facebook100 files: one of them is the label.
_GENDER = 1


def read_mat(path: Path) -> dict[str, Any]:
    """Return the parts that a .mat file holds: arrays by name, or a facebook100 graph with A and local_info.

    Raises:
        DataError: the file is damaged, of MATLAB 7.3, or holds no features or labels.
        OSError: the file cannot be read.
    """
    import scipy.io

    try:
        with os.fdopen(open_file(path, os.O_RDONLY, links=True), "rb") as file:
            held: dict[str, Any] = scipy.io.loadmat(file)  # type: ignore[arg-type]  # Its stub knows no files.
    except OSError:
        raise
    except NotImplementedError as error:
        raise DataError(
            f"{path} must be a .mat file before MATLAB 7.3, but is one of HDF5; save it with -v7"
        ) from error
    # scipy's documentation names few exceptions of a damaged file.
    except Exception as error:
        raise DataError(f"{path} must be a .mat file, but {reason(error)}; save it again") from error
    arrays = {name: _as_array(value) for name, value in held.items() if not name.startswith("__")}
    if "A" in arrays and "local_info" in arrays:
        return _facebook100(path, arrays["A"], arrays["local_info"])
    flat = {name: _column(name, value) for name, value in arrays.items() if name in _PART}
    return parts_of(path, flat, [name for name in arrays if name not in _PART])


def _as_array(value: Any) -> Any:
    """Return a sparse matrix as an array, as scipy does from 1.15 on where it is asked to."""
    import scipy.sparse

    sparse: bool = scipy.sparse.issparse(value)
    return scipy.sparse.csc_array(value) if sparse else value


def _column(name: str, value: Any) -> Any:
    """Return an array without the dimension that MATLAB puts around every list and number."""
    if (
        isinstance(value, np.ndarray)
        and _PART[name] != "x"
        and 1 in value.shape
        and _PART[name] not in ("edge_index", "adj")
    ):
        return value.ravel()
    return value


def _facebook100(path: Path, adjacency: Any, info: Any) -> dict[str, Any]:
    """Return gender as label, 0 where it is missing, and a column for each value of the other facts, as LINKX does."""
    from sklearn.preprocessing import OneHotEncoder

    if getattr(info, "ndim", 0) != 2 or info.shape[1] < 3 or info.dtype.kind not in "iuf":
        raise DataError(f"{path} must hold local_info, facts in columns, but {type(info).__name__} came; save it again")
    facts = np.delete(info.astype(np.int64), _GENDER, axis=1)
    return {
        "adj": adjacency,
        "y": info[:, _GENDER].astype(np.int64) - 1,
        "x": OneHotEncoder(dtype=np.float32).fit_transform(facts),
    }
