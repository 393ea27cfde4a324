"""Masks in any form that people have, and those that their data lacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lds.data.labels import encode
from lds.data.splits import MASKS, check_seed, halve
from lds.errors import DataError, InputError

if TYPE_CHECKING:
    from torch_geometric.data import Data

Integers = npt.NDArray[np.int64]

# Node numbers in place of a mask, under the names that data sets give them.
INDICES: Mapping[str, str] = {
    name: mask
    for mask, names in {
        "train_mask": ("train_idx", "idx_train"),
        "val_mask": ("val_idx", "valid_idx", "idx_val"),
        "es_mask": ("es_idx", "idx_es"),
        "test_mask": ("test_idx", "idx_test"),
    }.items()
    for name in names
}


def as_masks(parts: Any, nodes: int, split: int | None = None) -> dict[str, Tensor]:
    """Return the masks among the parts of a data set, bool of shape [N].

    Args:
        parts: masks under the names `MASKS`, true or false, 0 or 1, of shape [N], or [N, S] or [S, N] for S splits; or
            node numbers under the names `INDICES`.
        nodes: number of nodes N.
        split: which of several splits to take; the first, 0, when None.

    Raises:
        DataError: a mask is no such thing, empty, or there twice.
        InputError: there is no such split.
    """
    found: dict[str, Tensor] = {}
    several = False
    for name in MASKS:
        if parts.get(name) is not None:
            columns = _columns(parts[name], name, nodes)
            several |= columns.dim() == 2
            found[name] = _column(columns, name, split)
    for name, mask in INDICES.items():
        if parts.get(name) is not None:
            if mask in found:
                raise DataError(f"the data must bring {mask} once, but {name} came too; drop one")
            found[mask] = _of_indices(parts[name], name, nodes)
    if split is not None and not several and (split != 0 or not found):
        has = "one split" if found else "no masks"
        raise InputError(
            f"split chooses one of several splits, but the data has {has}, and split={split!r} came; drop it"
        )
    for name, selected in found.items():
        if not selected.any():
            raise DataError(f"{name} must select at least one node, but it is empty; move some nodes into it")
    return found


def num_splits(parts: Any, nodes: int) -> int:
    """Return how many splits the masks hold; 1 where each is of shape [N]."""
    return max((c.shape[1] if c.dim() == 2 else 1 for c in (
        _columns(parts[name], name, nodes) for name in MASKS if parts.get(name) is not None)), default=1)  # fmt: skip


def _columns(mask: Any, name: str, nodes: int) -> Tensor:
    """Return a mask of shape [N], or masks of shape [N, S]."""
    found = torch.from_numpy(mask.copy()) if isinstance(mask, np.ndarray) and mask.dtype.kind in "biuf" else mask
    plain = isinstance(found, Tensor) and found.layout == torch.strided and not found.is_meta
    if plain and found.dim() == 2 and nodes not in (found.shape[0],) and nodes == found.shape[1]:
        found = found.T
    if not plain or found.shape[:1] != (nodes,) or found.dim() > 2 or (found.dim() == 2 and not found.shape[1]):
        raise DataError(f"{name} must be bool [{nodes}], one entry a row of x, but {_describe(mask)} came; convert it")
    if found.dtype != torch.bool:
        if found.is_complex() or not bool(((found == 0) | (found == 1)).all()):
            raise DataError(
                f"{name} must be bool [{nodes}], or 0 and 1, but {_describe(mask)} with other numbers came; "
                f"convert it, or call node numbers {name.removesuffix('mask')}idx"
            )
        found = found.bool()
    return found[:, 0] if found.dim() == 2 and found.shape[1] == 1 else found


def _column(columns: Tensor, name: str, split: int | None) -> Tensor:
    if columns.dim() == 1:
        return columns
    splits = columns.shape[1]
    if split is not None and (isinstance(split, bool) or not isinstance(split, int) or not 0 <= split < splits):
        raise InputError(f"split must be one of 0 … {splits - 1}, the splits of {name}, got {split!r}")
    return columns[:, split or 0].contiguous()


def _of_indices(index: Any, name: str, nodes: int) -> Tensor:
    found = (
        torch.from_numpy(index.astype(np.int64))
        if isinstance(index, np.ndarray) and index.dtype.kind in "iu"
        else index
    )
    if isinstance(found, list | tuple) and all(isinstance(node, int) for node in found):
        found = torch.tensor(found, dtype=torch.int64)
    if (
        not isinstance(found, Tensor)
        or found.layout != torch.strided
        or found.is_floating_point()
        or found.is_complex()
        or found.dtype == torch.bool
        or found.is_meta
    ):
        raise DataError(f"{name} must be node numbers, int64, but {_describe(index)} came; convert it")
    found = found.flatten().long()
    if found.numel() and not (int(found.min()) >= 0 and int(found.max()) < nodes):
        raise DataError(
            f"{name} must be node numbers in 0 … {nodes - 1}, but {int(found.min())} to {int(found.max())} came; "
            "renumber the nodes from 0"
        )
    mask = torch.zeros(nodes, dtype=torch.bool)
    mask[found.cpu()] = True
    return mask


def complete_masks(
    data: Data,
    *,
    train_size: int | None = None,
    val_size: int | None = None,
    es_size: int | None = None,
    split: int | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Return the four masks of `data`, with those that it lacks made.

    Four masks stay as they are. Where only `es_mask` is missing, `val_mask` is halved into the two, as for the citation
    networks. Without any mask the labelled nodes are split at random: `train_size`, `val_size` and `es_size` of them in
    the proportions of the classes, at least one of each class to train on, and the rest is test. A size that is not
    given is 10 % of the labelled nodes, and at least the number of classes.

    Args:
        data: with labels `y` in any form that `lds.data.prepare` takes.
        train_size: nodes to train on.
        val_size: nodes for the outer objective.
        es_size: nodes to stop early on.
        split: which of several splits to take, where masks have a column for each; the first when None.
        seed: seed of the split.

    Raises:
        DataError: another set of masks came, a size came along with masks, the labels are none, or the labelled nodes
            are too few.

    Example:
        >>> import torch
        >>> from torch_geometric.data import Data
        >>> from lds.data import complete_masks
        >>> data = Data(x=torch.randn(60, 2), y=torch.arange(60) % 2)
        >>> data = data.update(complete_masks(data, train_size=10, val_size=10, es_size=10))
        >>> int(data.test_mask.sum())
        30
    """
    names, classes = data.get("class_names"), data.get("num_classes")
    y = encode(data.get("y"), names=names, num_classes=classes if isinstance(classes, int) else None).numbers
    sizes = {"train_size": train_size, "val_size": val_size, "es_size": es_size}
    return masks_for(data, y, sizes, split, check_seed(seed))


def masks_for(parts: Any, y: Tensor, sizes: dict[str, int | None], split: int | None, seed: int) -> dict[str, Tensor]:
    """Return four masks for class numbers y, int64 of shape [N]; see `complete_masks`."""
    there = as_masks(parts, y.numel(), split)
    if not there:
        if int(y.max()) < 0:
            raise DataError("labels must be of at least 2 classes, but every node is unlabelled, -1; label some nodes")
        return _split(y.cpu().numpy(), sizes, seed)
    if given := [name for name, size in sizes.items() if size is not None]:
        raise DataError(f"the data brings {', '.join(there)}, so its split is made, but {given[0]} came; drop one")
    missing = [name for name in MASKS if name not in there]
    if missing == ["es_mask"]:
        if int(there["val_mask"].sum()) < 2:
            raise DataError("val_mask must select at least 2 nodes to be halved into val_mask and es_mask, got 1")
        there["val_mask"], there["es_mask"] = halve(there["val_mask"], seed)
    elif missing:
        raise DataError(
            f"the data must bring {', '.join(MASKS)}, or all of these but es_mask, or none, "
            f"but {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing; add or drop masks"
        )
    return {name: there[name] for name in MASKS}


def _split(y: Integers, sizes: dict[str, int | None], seed: int) -> dict[str, Tensor]:
    random = np.random.default_rng(seed)
    classes = np.unique(y[y >= 0])
    rest = [random.permutation(np.flatnonzero(y == label)) for label in classes]
    labelled = sum(map(len, rest))
    default = max(len(classes), round(0.1 * labelled))
    counts = {name: default if size is None else size for name, size in sizes.items()}
    _check_sizes(counts, labelled, len(classes))
    masks = {name: torch.zeros(len(y), dtype=torch.bool) for name in MASKS}
    for name, count in zip(MASKS, counts.values(), strict=False):
        shares = _shares(np.array([len(nodes) for nodes in rest]), count, least=int(name == "train_mask"))
        for place, share in enumerate(shares):
            masks[name][torch.from_numpy(rest[place][:share])] = True
            rest[place] = rest[place][share:]
    masks["test_mask"][torch.from_numpy(np.concatenate(rest))] = True
    return masks


def _check_sizes(counts: dict[str, int], labelled: int, classes: int) -> None:
    for name, count in counts.items():
        least = classes if name == "train_size" else 1
        if count < least:
            raise DataError(f"{name} must be at least {least} for {classes} classes, got {count}; raise it")
    needed = sum(counts.values()) + 1
    if labelled < needed:
        parts = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise DataError(
            f"a split into {parts} and at least 1 test node needs {needed} labelled nodes, but {labelled} came; "
            "label more nodes, or lower the sizes"
        )


def _shares(available: Integers, count: int, *, least: int) -> Integers:
    """Share out `count` nodes in proportion to what is available, at least `least` of each, by largest remainder."""
    exact = count * available / available.sum()
    shares: Integers = np.maximum(np.floor(exact), least).astype(np.int64)
    while shares.sum() > count:
        shares[np.where(shares > least, shares - exact, -np.inf).argmax()] -= 1
    while shares.sum() < count:
        shares[np.where(shares < available, exact - shares, -np.inf).argmax()] += 1
    return shares


def _describe(value: object) -> str:
    if not isinstance(value, Tensor | np.ndarray):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
