"""Checks on any ``Data``, a user's own included, before a learner takes it."""

from __future__ import annotations

from itertools import combinations
from numbers import Integral
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lds.data.splits import MASKS
from lds.errors import DataError

if TYPE_CHECKING:
    from torch_geometric.data import Data

_LAYOUTS = (torch.strided, torch.sparse_coo, torch.sparse_csr)
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def validate(data: Data, *, masks: bool = True) -> None:
    """Check that a learner can work with `data`.

    N nodes, F features, C classes. ``x`` floating [N, F], dense or sparse (COO, CSR), finite; ``y`` integer [N] in
    0 … C−1, or −1 on nodes in no mask; ``train_mask``, ``val_mask``, ``es_mask``, ``test_mask`` bool [N], disjoint and
    not empty; ``edge_index``, where there is one, int64 [2, E] in 0 … N−1.

    Args:
        data: what to check.
        masks: False leaves the masks out, for data that gets them later.

    Raises:
        DataError: any of this does not hold; the message names the first fault.
    """
    nodes = _check_features(getattr(data, "x", None))
    _check_num_nodes(data.num_nodes, nodes)
    y = _check_labels(getattr(data, "y", None), nodes)
    selected = {name: check_mask(getattr(data, name, None), name, nodes) for name in MASKS if masks}
    _check_disjoint(selected)
    _check_range(y, num_classes(data))
    for name, mask in selected.items():
        _check_labelled(y, mask, name)
    _check_edges(getattr(data, "edge_index", None), nodes)


def num_classes(data: Data) -> int:
    """Return the number of classes C: ``data.num_classes`` where it is set, else the largest label plus one.

    Raises:
        DataError: ``data.num_classes`` is no positive integer.
    """
    count = getattr(data, "num_classes", None)
    if count is None:
        count = int(data.y.max()) + 1
    if not isinstance(count, Integral) or not 1 <= int(count) < 1 << 31:
        raise DataError(f"num_classes must be a positive integer, but {count!r:.80} came; label some nodes or set it")
    return int(count)


def _check_features(x: Tensor | None) -> int:
    if x is None:
        raise DataError("data.x must hold the features [N, F], but it is missing; set it")
    if not isinstance(x, Tensor) or x.layout not in _LAYOUTS:
        kind = x.layout if isinstance(x, Tensor) else type(x).__name__
        raise DataError(f"x must be a dense, COO or CSR tensor, but {kind} came; convert it")
    if x.dim() != 2 or not x.is_floating_point():
        raise DataError(f"x must be floating [N, F], but {_describe(x)} came; reshape or convert it")
    if x.numel() == 0:
        raise DataError(f"x must have nodes and features, but {_describe(x)} came; check how it was read")
    bad = _rows_not_finite(x)
    if bad.numel():
        raise DataError(
            f"x must be finite, but NaN or infinity came in {_rows(bad)}, the first at node {int(bad[0])}; "
            "impute or drop them"
        )
    return x.size(0)


def _check_num_nodes(num_nodes: int | None, rows: int) -> None:
    if num_nodes != rows:
        raise DataError(f"num_nodes must be the number of rows of x, {rows}, but {num_nodes} came; drop or correct it")


def _rows_not_finite(x: Tensor) -> Tensor:
    if x.layout == torch.strided:
        return (~x.isfinite()).any(dim=1).nonzero().flatten()
    entries: Tensor = (x.to_sparse(layout=torch.sparse_coo) if x.layout == torch.sparse_csr else x).coalesce()
    # A hybrid COO tensor holds a vector per entry, any other a number.
    bad = (~entries.values().isfinite()).unsqueeze(-1).flatten(1).any(dim=1)
    rows: Tensor = torch.unique_consecutive(entries.indices()[0, bad])  # coalesced, hence sorted
    return rows


def _check_labels(y: Tensor | None, nodes: int) -> Tensor:
    if y is None:
        raise DataError("data.y must hold the labels [N], but it is missing; set it, with -1 on unlabelled nodes")
    if not isinstance(y, Tensor) or y.dtype not in _INTEGERS or y.shape != (nodes,):
        raise DataError(f"y must be integer [{nodes}], one label a row of x, but {_describe(y)} came; convert it")
    return y.long()  # uint8 has no -1 to compare with


def _check_range(y: Tensor, classes: int) -> None:
    bad = ((y < -1) | (y >= classes)).nonzero().flatten()
    if bad.numel():
        raise DataError(
            f"y must lie in 0 … {classes - 1}, or be -1 where unlabelled, but other values came in {_rows(bad)}, "
            f"the first at node {int(bad[0])} with {int(y[bad[0]])}; renumber the labels or set data.num_classes"
        )


def check_mask(mask: Tensor | None, name: str, nodes: int) -> Tensor:
    """Return the mask if it is bool [N] and selects a node.

    Raises:
        DataError: it is not, or does not.
    """
    if mask is None:
        raise DataError(
            f"data.{name} must select nodes, but it is missing; set {', '.join(MASKS)}, "
            "or have them made by data.update(lds.data.complete_masks(data))"
        )
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != (nodes,):
        raise DataError(f"{name} must be bool [{nodes}], one entry a row of x, but {_describe(mask)} came; convert it")
    if not mask.any():
        raise DataError(f"{name} must select at least one node, but it is empty; move some nodes into it")
    return mask


def _check_disjoint(masks: dict[str, Tensor]) -> None:
    for (one, first), (other, second) in combinations(masks.items(), 2):
        shared = int((first & second).sum())
        if shared:
            raise DataError(
                f"masks must be disjoint, but {one} and {other} share {shared} node{'s' * (shared > 1)}; "
                "keep each node in one of them"
            )


def _check_labelled(y: Tensor, mask: Tensor, name: str) -> None:
    bad = (mask & (y == -1)).nonzero().flatten()
    if bad.numel():
        raise DataError(
            f"{name} must select labelled nodes, but y = -1 came in {_rows(bad)}, the first at node {int(bad[0])}; "
            "take them out of the mask"
        )


def _check_edges(edge_index: Tensor | None, nodes: int) -> None:
    if edge_index is None:
        return
    if not isinstance(edge_index, Tensor) or edge_index.dtype != torch.int64:
        raise DataError(f"edge_index must be int64 [2, E], but {_describe(edge_index)} came; convert it")
    if edge_index.dim() != 2 or edge_index.size(0) != 2:
        raise DataError(f"edge_index must be int64 [2, E], but {_describe(edge_index)} came; transpose or reshape it")
    outside = ((edge_index < 0) | (edge_index >= nodes)).any(dim=0).nonzero().flatten()
    if outside.numel():
        raise DataError(
            f"edge_index must lie in 0 … {nodes - 1}, but {outside.numel()} of {edge_index.size(1)} edges do not, the "
            f"first is {tuple(edge_index[:, outside[0]].tolist())}; renumber the nodes from 0"
        )


def _rows(index: Tensor) -> str:
    return f"{index.numel()} row{'s' * (index.numel() > 1)}"


def _describe(value: object) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
