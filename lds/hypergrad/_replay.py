"""Is a recomputed step the recorded one?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lds.errors import ReplayError
from lds.hypergrad._leaves import is_differentiable

# A recomputed step may differ from the recorded one by rounding (kernels that add in any order), not by more.
REPLAY_TOLERANCE = 100


def replay_error(paths: Sequence[str], t: int, results: Sequence[Any], recorded: Sequence[Any]) -> float:
    """Return the largest relative difference between the leaves of step t's result, computed again and recorded.

    Raises:
        ReplayError: a leaf differs by more than rounding.
    """
    largest = 0.0
    for path, new, old in zip(paths, results, recorded, strict=True):
        if not isinstance(new, Tensor):
            error = 0.0 if new == old else float("inf")
        elif torch.equal(new, old):
            continue
        else:
            error = _relative_error(new.detach(), old)
        largest = max(largest, error)
        eps = torch.finfo(new.dtype).eps if is_differentiable(new) else 0.0
        if error > REPLAY_TOLERANCE * eps:
            raise ReplayError(
                f"replaying step {t} gave another {path} than was recorded (relative difference {error:.2g}): "
                "Φ or the inner objective reads something besides its arguments and the torch, numpy and random "
                "generators, such as an iterator that moved on; make it a function of its arguments, or use "
                'noise="resample"'
            )
    return largest


def _relative_error(new: Tensor, old: Tensor) -> float:
    if not is_differentiable(new):
        return float("inf")
    both_nan = new.isnan() & old.isnan()
    difference = torch.where(both_nan | (new == old), 0.0, (new - old).abs())
    error = float(difference.max() / old.abs().nan_to_num().max().clamp(min=torch.finfo(old.dtype).tiny))
    return float("inf") if error != error else error
