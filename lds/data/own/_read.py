"""From a user's file to data that a learner takes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from lds._sparse import from_scipy, to_scipy
from lds.data.edges import retain_edges
from lds.data.masks import complete_masks
from lds.data.own._csv import read_csv
from lds.data.own._npz import read_npz
from lds.data.own._pt import read_pt
from lds.data.splits import check_seed
from lds.data.validation import num_classes, validate
from lds.errors import DataError, InputError

if TYPE_CHECKING:
    from torch_geometric.data import Data

Scale = Literal["none", "standard", "row"]
_SUFFIXES = (".pt", ".npz", ".csv")


def read(
    path: str | os.PathLike[str],
    *,
    label: str | None = None,
    id: str | None = None,
    edges: str | os.PathLike[str] | None = None,
    scale: Scale = "none",
    train_size: int | None = None,
    val_size: int | None = None,
    es_size: int | None = None,
    retain: float = 1.0,
    seed: int = 0,
) -> Data:
    """Read a user's own data set, with the masks that it lacks made; the result is as that of `lds.data.load`.

    No code in a file is ever run: pickled objects other than tensors and a PyTorch Geometric `Data` are refused.

    * .pt: `torch.save` of a `Data`, or of a dict, with x, y and, if there are any, edge_index and masks.
    * .npz: x [N, F], or x_data, x_indices, x_indptr and x_shape, the parts of a scipy CSR matrix; y [N], integers, or
      texts that name the classes; edge_index [2, E], train_mask, val_mask, es_mask, test_mask and num_classes if there
      are any.
    * .csv: a line of column names, then one line per node: the label, features that are numbers, and masks (0 or 1,
      False or True) under their names, if there are any. A label that is empty, nan or -1 (or -1.0) leaves a node
      unlabelled; 2.0 is the class 2. Names of nodes become `data.node_names`.

    x becomes float32, sparse where it was sparse; edges lose direction, duplicates and self loops. Edges have no
    weights: an `edge_weight` is refused. Texts that name classes become `data.class_names`.

    Args:
        path: the file.
        label: .csv: column of the labels, "label" when None.
        id: .csv: column of the nodes' names, for `edges`; "id" where there is such a column when None. Without one the
            nodes are numbered from 0, in the order of their lines.
        edges: .csv: file of edges, a line of column names, then two nodes a line; no edges when None. A third column,
            weight, may hold nothing but 1.
        scale: "standard" brings columns to mean 0 and deviation 1, "row" the absolute values of a row to sum 1.
        train_size: see `lds.data.complete_masks`, as for `val_size` and `es_size`.
        val_size: nodes for the outer objective.
        es_size: nodes to stop early on.
        retain: share of the edges to keep, in [0, 1].
        seed: seed of the split and of the edges kept.

    Raises:
        DataError: a file is missing, malformed or inconsistent; the message names it.
        InputError: an argument is out of range, or belongs to another format.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise InputError(f"data must be a .pt, .npz or .csv file, got {path}; convert or rename it")
    if scale not in ("none", "standard", "row"):
        raise InputError(f'scale must be "none", "standard" or "row", got {scale!r}')
    seed = check_seed(seed)
    for name, value in (("label", label), ("id", id), ("edges", edges)):
        if value is not None and suffix != ".csv":
            raise InputError(f"{name} belongs to a .csv file, but {path} came with {name}={str(value)!r}; drop it")
    try:
        if suffix == ".csv":
            data = read_csv(path, label, id, edges)
        else:
            data = read_pt(path) if suffix == ".pt" else read_npz(path)
        _complete(data, scale, {"train_size": train_size, "val_size": val_size, "es_size": es_size}, seed)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; check the path and its rights") from error
    except DataError as error:
        if str(path) in str(error) or (edges is not None and str(edges) in str(error)):
            raise
        raise DataError(f"{path}: {error}") from error
    if retain != 1.0 and data.edge_index.numel() == 0:
        raise InputError(f"{path} has no edges to delete, but retain={retain} came; leave it at 1.0")
    data.edge_index = retain_edges(data.edge_index, data.num_nodes, retain, seed)
    return data


def _complete(data: Data, scale: Scale, sizes: dict[str, int | None], seed: int) -> None:
    """Bring x, y and edges to their types, and make the masks.

    Raises:
        DataError: the data is inconsistent.
    """
    if isinstance(data.x, Tensor) and not data.x.is_complex():
        data.x = data.x.float()
        if data.x.layout == torch.sparse_coo:
            data.x = data.x.coalesce()
    if isinstance(data.y, Tensor):
        data.y = data.y.flatten() if data.y.dim() == 2 and data.y.size(1) == 1 else data.y
        data.y = data.y.long() if data.y.dtype == torch.bool else data.y
    if data.get("edge_index") is None:
        data.edge_index = torch.empty(2, 0, dtype=torch.long)
    # The masks are made from labels that passed the checks; then all is checked again, with the masks.
    validate(data, masks=False)
    data.y = data.y.long()
    if (classes := data.y[data.y >= 0].unique()).numel() < 2:
        raise DataError(
            f"labels must be of at least 2 classes, but {classes.numel()} came (-1 marks unlabelled nodes); label nodes"
        )
    data.num_nodes, data.num_classes = data.x.size(0), num_classes(data)
    data.update(complete_masks(data, **sizes, seed=seed))
    validate(data)
    data.x = _scaled(data.x, scale)


def _scaled(x: Tensor, scale: Scale) -> Tensor:
    from sklearn.preprocessing import StandardScaler, normalize

    if scale == "none":
        return x
    if x.layout == torch.strided:
        values = x.numpy()
        # Transductive: the features of every node are known in training, so all rows set the scale.
        scaled = StandardScaler().fit_transform(values) if scale == "standard" else normalize(values, norm="l1")
        return torch.from_numpy(scaled)
    if scale == "standard":
        raise DataError('scale="standard" would make sparse features dense; take scale="row", or make them dense')
    return from_scipy(normalize(to_scipy(x.to_sparse_csr()), norm="l1"))
