"""Leaves of a state, as the engine passes them around."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def is_differentiable(leaf: Any) -> bool:
    """Tell whether a leaf can carry a cotangent."""
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())


def differentiable(leaves: Sequence[Any]) -> list[Any]:
    """Return the leaves as leaves of a new graph."""
    return [x.detach().requires_grad_() if is_differentiable(x) else x for x in leaves]


def detached(leaves: Sequence[Any]) -> list[Any]:
    """Return the leaves cut off from any graph."""
    return [x.detach() if isinstance(x, Tensor) else x for x in leaves]


def copied(leaves: Sequence[Any]) -> list[Any]:
    """Return the leaves in memory of their own."""
    return [x.detach().clone() if isinstance(x, Tensor) else x for x in leaves]


def norm(tensors: Sequence[Tensor], like: Tensor) -> Tensor:
    """Return the 2-norm over all tensors, of the dtype and on the device of the real scalar `like`."""
    if not tensors:
        return torch.zeros_like(like)
    norms = [x.to(like) for x in torch._foreach_norm(list(tensors))]
    result: Tensor = torch.linalg.vector_norm(torch.stack(norms)) if len(norms) > 1 else norms[0]
    return result
