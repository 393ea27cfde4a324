"""Features in any form that people have, as a tensor that a model takes; their scales, and features made of a graph."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from lds._sparse import from_scipy, of_safe_size, to_scipy
from lds.errors import DataError, InputError

Scale = Literal["none", "unit", "standard", "row"]
Features = Literal["given", "tfidf", "identity", "degree"]

_LAYOUTS = (torch.strided, torch.sparse_coo, torch.sparse_csr)
_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}


def as_features(x: Any, *, others: torch.dtype = torch.float32) -> Tensor:
    """Return features as a finite tensor [N, F] without gradient; what is sparse stays sparse, COO or CSR.

    Single and double precision stay; integers, truth values and half precision become `others`.

    Args:
        x: a tensor, an array, a sparse matrix of scipy, or a table of pandas, of shape [N, F].
        others: type of what is not in single or double precision.

    Raises:
        DataError: it is no such thing, empty, or not finite.
    """
    if x is None:
        raise DataError("data.x must hold the features [N, F], but it is missing; set it")
    if scipy.sparse.issparse(x):
        x = _of_scipy(x, others)
    elif not isinstance(x, Tensor):
        x = _of_array(x, others)
    if x.layout not in _LAYOUTS:
        raise DataError(f"x must be a dense, COO or CSR tensor, but {x.layout} came; convert it")
    if x.is_meta or x.is_quantized or x.is_nested:
        raise DataError("x must be a plain tensor with a place in memory for each number, but another came; convert it")
    if x.dim() != 2 or x.is_complex():
        raise DataError(f"x must be numbers [N, F], but {_describe(x)} came; reshape or convert it")
    if x.numel() == 0:
        raise DataError(f"x must have nodes and features, but {_describe(x)} came; check how it was read")
    found: Tensor = x.detach()
    if found.dtype not in (torch.float32, torch.float64):
        found = found.to(others)
    if found.layout == torch.sparse_coo:
        found = found.coalesce()
    check_finite(found)
    return found


def check_finite(x: Tensor) -> None:
    """Check that all features are finite.

    Raises:
        DataError: some are not; the message names the first node.
    """
    bad = _rows_not_finite(x)
    if bad.numel():
        raise DataError(
            f"x must be finite, but NaN or infinity came in {bad.numel()} row{'s' * (bad.numel() > 1)}, the first at "
            f"node {int(bad[0])}; impute or drop them"
        )


def scaled(x: Tensor, scale: Scale) -> Tensor:
    """Return features in double precision, scaled.

    Args:
        x: features, as `as_features` returns them.
        scale: "standard" brings columns to mean 0 and deviation 1, "row" the absolute values of a row to sum 1, "unit"
            the squares of a row to sum 1; rows of zeros stay.

    Raises:
        InputError: there is no such scale.
        DataError: the scale would make sparse features dense.
    """
    from sklearn.preprocessing import StandardScaler, normalize

    if scale not in ("none", "unit", "standard", "row"):
        raise InputError(f'scale must be "none", "unit", "standard" or "row", got {scale!r}')
    x = x.double()
    if scale == "none":
        return x
    sparse = x.layout != torch.strided
    if scale == "standard":
        if sparse:
            raise DataError('scale="standard" would make sparse features dense; take scale="row", or make them dense')
        # Transductive: the features of every node are known in training, so all rows set the scale.
        return torch.from_numpy(StandardScaler().fit_transform(x.numpy()))
    rows = normalize(
        of_safe_size(to_scipy(x.to_sparse_csr()) if sparse else x.numpy()), "l1" if scale == "row" else "l2"
    )
    return from_scipy(rows) if sparse else torch.from_numpy(rows)


def check_features(kind: object) -> None:
    """Check which features are asked for.

    Raises:
        InputError: there are no such features.
    """
    if kind not in ("given", "tfidf", "identity", "degree"):
        raise InputError(f'features must be "given", "tfidf", "identity" or "degree", got {kind!r}')


def made_features(kind: Features, x: Tensor | None, edge_index: Tensor, num_nodes: int) -> Tensor:
    """Return other features than the given ones, sparse of shape [N, F].

    Args:
        kind: "identity", a column per node; "degree", a column for each number of neighbours that a node has; "tfidf",
            the given ones with rare words weighted more, rows of length 1.
        x: the given features.
        edge_index: edges in both directions, each once.
        num_nodes: number of nodes N.

    Raises:
        DataError: there are no words to weight, or a feature is negative.
    """
    if kind == "tfidf":
        return _tfidf(as_features(x))
    if kind == "identity":
        return from_scipy(scipy.sparse.csr_matrix(scipy.sparse.eye(num_nodes)))
    degree = torch.bincount(edge_index[0], minlength=num_nodes)
    found, column = np.unique(degree.numpy(), return_inverse=True)
    ones, starts = np.ones(num_nodes), np.arange(num_nodes + 1)
    return from_scipy(scipy.sparse.csr_matrix((ones, column, starts), shape=(num_nodes, len(found))))


def _tfidf(x: Tensor) -> Tensor:
    from sklearn.feature_extraction.text import TfidfTransformer

    words = to_scipy(x.double().to_sparse_csr())
    if words.nnz and words.data.min() < 0:
        raise DataError('features="tfidf" needs counts or shares of words, but a negative number came; drop it')
    return from_scipy(TfidfTransformer().fit_transform(of_safe_size(words)).tocsr())


def _of_scipy(matrix: Any, others: torch.dtype) -> Tensor:
    matrix = matrix.tocsr().copy()
    if matrix.dtype.kind not in "biuf":
        raise DataError(f"x must be numbers [N, F], but {matrix.dtype} came; convert it")
    if matrix.dtype not in (np.float32, np.float64):
        matrix = matrix.astype(_NUMPY[others])
    matrix.sum_duplicates()
    return from_scipy(matrix)


def _of_array(x: Any, others: torch.dtype) -> Tensor:
    if not hasattr(x, "__array__"):
        raise DataError(f"x must be a dense, COO or CSR tensor, but {type(x).__name__} came; convert it")
    array = np.asarray(x)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise DataError(f"x must be numbers [N, F], but {array.dtype} came; encode texts as numbers, or drop them")
    if array.dtype.kind in "iu":  # torch has little arithmetic for most of these.
        array = array.astype(_NUMPY[others])
    # Always in the byte order and the layout that torch takes, and in memory that may be written.
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def _rows_not_finite(x: Tensor) -> Tensor:
    if x.layout == torch.strided:
        return (~x.isfinite()).any(dim=1).nonzero().flatten()
    entries: Tensor = (x.to_sparse(layout=torch.sparse_coo) if x.layout == torch.sparse_csr else x).coalesce()
    # A hybrid COO tensor holds a vector per entry, any other a number.
    bad = (~entries.values().isfinite()).unsqueeze(-1).flatten(1).any(dim=1)
    rows: Tensor = torch.unique_consecutive(entries.indices()[0, bad])  # coalesced, hence sorted
    return rows


def _describe(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}"
