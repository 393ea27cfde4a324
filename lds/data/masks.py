"""The masks that a user's own data lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lds.data.splits import MASKS, halve
from lds.data.validation import check_mask
from lds.errors import DataError

if TYPE_CHECKING:
    from torch_geometric.data import Data

Integers = npt.NDArray[np.int64]


def complete_masks(
    data: Data,
    *,
    train_size: int | None = None,
    val_size: int | None = None,
    es_size: int | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Return the four masks of `data`, with those that it lacks made.

    Four masks stay as they are. Where only `es_mask` is missing, `val_mask` is halved into the two, as for the citation
    networks. Without any mask the labelled nodes are split at random: `train_size`, `val_size` and `es_size` of them in
    the proportions of the classes, at least one of each class to train on, and the rest is test. A size that is not
    given is 10 % of the labelled nodes, and at least the number of classes.

    Args:
        data: with labels `y`, -1 where unlabelled.
        train_size: nodes to train on.
        val_size: nodes for the outer objective.
        es_size: nodes to stop early on.
        seed: seed of the split.

    Raises:
        DataError: another set of masks came, a size came along with masks, or the labelled nodes are too few.
    """
    sizes = {"train_size": train_size, "val_size": val_size, "es_size": es_size}
    there = {name: data[name] for name in MASKS if data.get(name) is not None}
    if not there:
        return _split(data.y.cpu().numpy(), sizes, seed)
    if given := [name for name, size in sizes.items() if size is not None]:
        raise DataError(f"the data brings {', '.join(there)}, so its split is made, but {given[0]} came; drop one")
    missing = [name for name in MASKS if name not in there]
    if missing == ["es_mask"]:
        val = check_mask(there["val_mask"], "val_mask", data.y.numel())
        if int(val.sum()) < 2:
            raise DataError("val_mask must select at least 2 nodes to be halved into val_mask and es_mask, got 1")
        there["val_mask"], there["es_mask"] = halve(val, seed)
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
