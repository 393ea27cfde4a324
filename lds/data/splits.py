"""Seeded splits of nodes into train, validation, early-stopping and test masks."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lds.errors import InputError

MASKS = ("train_mask", "val_mask", "es_mask", "test_mask")


def check_seed(seed: object) -> int:
    """Return the seed of a split.

    Raises:
        InputError: it is no integer in the range of scikit-learn.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**32:
        raise InputError(f"seed must be an integer from 0 to 2**32 - 1, but {seed!r} came; pass e.g. seed=0")
    return int(seed)


def halve(mask: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Split the nodes of a mask at random into two halves; of an odd count the second gets one more.

    Shapes: ``mask`` bool [N] → two bool [N].
    """
    nodes = mask.nonzero().flatten()
    order = torch.randperm(nodes.numel(), generator=torch.Generator().manual_seed(seed))
    first = torch.zeros_like(mask)
    first[nodes[order[: nodes.numel() // 2]]] = True
    return first, mask & ~first


def stratified(y: npt.NDArray[Any], size: int, seed: int) -> dict[str, Tensor]:
    """Draw `size` nodes each for train, val and es, in the proportions of the classes; the rest is test.

    Shapes: ``y`` integer [N] → for each of `MASKS` a bool [N].
    """
    from sklearn.model_selection import train_test_split

    # One stream for the three draws; scikit-learn takes no numpy Generator here.
    random_state = np.random.RandomState(seed)
    masks = {name: torch.zeros(len(y), dtype=torch.bool) for name in MASKS}
    rest = np.arange(len(y))
    for name in MASKS[:-1]:
        part, rest = train_test_split(rest, train_size=size, stratify=y[rest], random_state=random_state)
        masks[name][torch.from_numpy(part)] = True
    masks[MASKS[-1]][torch.from_numpy(rest)] = True
    return masks
